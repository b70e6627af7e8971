package hammer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/plane"
)

// Who takes part, and what they may do.
const (
	trustDomain   = "hammer.safeconduct"
	tenant        = "bench"
	className     = "caller"
	foreignAction = "mesh.foreign"
	unaryAction   = "mesh.call"
	meshResource  = "mesh"
	purpose       = "measure what a call costs"
	// chainDepth lets the longest chain end at the server.
	chainDepth = 8
	// tableRows is the size of the capability table, and keyRows how many of them stand under the key of the measured action.
	tableRows = 500
	keyRows   = 16
)

// world is the control plane of a sweep and what it hands to the children.
type world struct {
	plane  *plane.Plane
	dir    string
	run    string            // the sockets: their paths must be short
	relays []identity.Source // the agents of the first hops, in this process
}

// openWorld starts the plane in a new folder below dir and registers the agents of every variant.
func openWorld(ctx context.Context, dir string, variants []Variant) (_ *world, err error) {
	dir, err = os.MkdirTemp(dir, "hammer-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir}
	defer func() { // what was opened is closed whether or not ctx has ended.
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.run, err = os.MkdirTemp("", "sc-"); err != nil {
		return nil, err
	}
	w.plane, err = plane.Start(ctx, plane.Config{Dir: filepath.Join(dir, "plane"), SocketDir: w.run, TrustDomain: trustDomain})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range chainDepth - 1 {
		names = append(names, "relay-"+strconv.Itoa(i))
	}
	for _, v := range variants {
		names = append(names, v.agent(roleServer), v.agent(roleClient))
	}
	for _, n := range names {
		_, err := w.plane.Authority.RegisterAgent(ctx, &v1.Agent{
			SpiffeId: agentID(n), AgentClass: className, Owner: "bench@hammer.example", Purpose: "takes part in a measurement",
			IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
		})
		if err != nil {
			return nil, err
		}
	}
	if _, err := w.plane.Authority.EditTable(ctx, table(), nil); err != nil {
		return nil, err
	}
	for _, n := range names[:chainDepth-1] {
		id, err := identity.ParseAgent(agentID(n))
		if err != nil {
			return nil, err
		}
		src, err := w.plane.Authority.Source(id)
		if err != nil {
			return nil, err
		}
		w.relays = append(w.relays, src)
	}
	return w, nil
}

func agentID(name string) string {
	return "spiffe://" + trustDomain + "/tenant/" + tenant + "/agent/" + name
}

// agent is the name of the process that plays a role in v.
func (v Variant) agent(role string) string { return v.Name + "-" + role }

// table permits the two actions at every server, among rows that match nothing here.
func table() []*v1.CapabilityRow {
	rows := []*v1.CapabilityRow{
		row("foreign", className, foreignAction, true, "agent"), row("unary", className, unaryAction, false, meshResource),
	}
	for i := len(rows); i < tableRows; i++ {
		n := strconv.Itoa(i)
		class, resource := "other-"+strconv.Itoa(i%40), []string{"agent", "other-" + n}
		if i < keyRows {
			class = className
		}
		rows = append(rows, row("row-"+n, class, foreignAction, false, resource...))
	}
	return rows
}

func row(id, class, action string, subtree bool, resource ...string) *v1.CapabilityRow {
	return &v1.CapabilityRow{
		Id: id, Tenant: tenant, AgentClass: class, Peers: []string{agentID("*")},
		Capability: &v1.Capability{Action: action, Resource: resource, Subtree: subtree},
	}
}

// mandate makes what the client of v acts under: its own hop to the server is the last of v.hops. Nothing of it has been seen
// before, so the first call of a spell is verified in full.
func (w *world) mandate(ctx context.Context, v Variant) (*mandate, error) {
	if v.hops == 0 {
		return nil, nil
	}
	client, err := identity.ParseAgent(agentID(v.agent(roleClient)))
	if err != nil {
		return nil, err
	}
	path := []identity.AgentID{client}
	for _, src := range w.relays[:v.hops-1] {
		id, _, err := signerOf(src)
		if err != nil {
			return nil, err
		}
		path = append([]identity.AgentID{id}, path...)
	}
	grant, err := w.grant(ctx, path[0], v)
	if err != nil {
		return nil, err
	}
	m := &mandate{Purpose: purpose}
	if err := w.nameKey(m, grant); err != nil {
		return nil, err
	}
	if len(path) == 1 {
		m.Grant, err = proto.Marshal(grant)
		return m, err
	}
	return m, w.walk(m, grant, path)
}

func (w *world) grant(ctx context.Context, first identity.AgentID, v Variant) (*v1.SignedStatement, error) {
	resp, err := w.plane.Authority.IssueGrant(ctx, &rpcv1.IssueGrantRequest{
		Principal: "alice@hammer.example", Delegate: first.String(), Purpose: purpose, MaxDepth: chainDepth,
		Capabilities: []*v1.Capability{
			{Action: foreignAction, Resource: []string{"agent", v.agent(roleServer)}, Reach: chainDepth},
			{Action: unaryAction, Resource: []string{meshResource}, Reach: chainDepth},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("granting to %s: %w", first, err)
	}
	return resp.GetGrant(), nil
}

// nameKey notes the key that signed the grant.
func (w *world) nameKey(m *mandate, grant *v1.SignedStatement) error {
	var p v1.GrantPayload
	if err := proto.Unmarshal(grant.GetPayload(), &p); err != nil {
		return err
	}
	key, ok := w.plane.Authority.Keys().GrantKey(p.GetIssuer(), p.GetKeyId(), time.Now())
	if !ok {
		return errors.New("the grant key is not known")
	}
	m.Key, m.KeyID = key, p.GetKeyId()
	return nil
}

// walk takes the grant along path, each agent but the last verifying what it was handed and appending its own hop.
func (w *world) walk(m *mandate, grant *v1.SignedStatement, path []identity.AgentID) error {
	sources := map[identity.AgentID]identity.Source{}
	for _, src := range w.relays {
		id, _, err := signerOf(src)
		if err != nil {
			return err
		}
		sources[id] = src
	}
	raw, err := proto.Marshal(grant)
	if err != nil {
		return err
	}
	held := &mandate{Key: m.Key, KeyID: m.KeyID, Grant: raw}
	for i, id := range path[:len(path)-1] {
		src := sources[id]
		leaf, err := held.leaf(src)
		if err != nil {
			return fmt.Errorf("hop %d: %w", i+1, err)
		}
		chain, err := extend(leaf, src, path[i+1])
		if err != nil {
			return fmt.Errorf("hop %d: %w", i+1, err)
		}
		svid, err := src.GetX509SVID()
		if err != nil {
			return err
		}
		held = &mandate{Key: m.Key, KeyID: m.KeyID, Presenter: svid.Certificates[0].Raw}
		if held.Chain, err = proto.Marshal(chain); err != nil {
			return err
		}
	}
	m.Chain, m.Presenter = held.Chain, held.Presenter
	return nil
}

// digest says which program was measured.
func digest(path string) string {
	raw, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))[:16]
}

func (w *world) close() error {
	var err error
	for _, src := range w.relays {
		err = errors.Join(err, src.Close())
	}
	if w.plane != nil {
		err = errors.Join(err, w.plane.Close())
	}
	if w.run != "" {
		err = errors.Join(err, os.RemoveAll(w.run))
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}
