package meshtest_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/vectors"
)

// vectorDomain is the trust domain of the conformance vectors.
const vectorDomain = "acme.test"

// codesOf are the codes of the vectors that are not named like the reason in the audit log.
var codesOf = map[string]v1.Reason{
	"PRESENTER_MISMATCH": v1.Reason_REASON_CHAIN_PRESENTER,
	"REVOKED":            v1.Reason_REASON_CHAIN_HANDLE_REVOKED,
}

// matrixCase is one vector that travels: what is presented, and what must come of it.
type matrixCase struct {
	name string
	step *vectors.Step
	// trust, presenter and self are the vector's.
	trust           *vectors.Trust
	presenter, self identity.AgentID
	chain           *v1.DelegationChain
	want            v1.Reason // in the audit log
}

// matrixCases picks, of the vectors that present one chain, the first of each row and code. A vector does not travel when its
// presenter cannot hold a connection as an agent of the trust domain, or when what it is about is lost on the way: how the outermost
// message is encoded is read by whoever decodes the request, and certificate reference 0 needs the presenter's own key.
func matrixCases(t *testing.T) (cases []matrixCase) {
	t.Helper()
	files, err := vectors.All()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		for _, v := range f.Vectors {
			step := v.Steps[0]
			key := fmt.Sprintf("row %d %s", v.Row, step.Expect)
			if len(v.Steps) != 1 || step.Op != vectors.OpPresent || step.Sweep != nil || step.Proof != nil || len(step.Revoked) > 0 || seen[key] {
				continue
			}
			presenter, err1 := identity.ParseAgent(f.Presenters[step.Presenter].ID)
			self, err2 := identity.ParseAgent(v.Self)
			raw, err3 := f.Chains[step.Chain].Join(f.Blobs)
			chain, whole := decoded(raw)
			if err1 != nil || err2 != nil || err3 != nil || !whole || presenter.TrustDomain().Name() != vectorDomain || self.TrustDomain().Name() != vectorDomain {
				continue
			}
			seen[key] = true
			cases = append(cases, matrixCase{
				name: key + ": " + v.Title, step: step, trust: f.Trust[v.Trust], presenter: presenter, self: self, chain: chain,
				want: wantOf(t, step),
			})
		}
	}
	return cases
}

// decoded returns the chain when a message that carries it carries all of it.
func decoded(raw []byte) (*v1.DelegationChain, bool) {
	c := new(v1.DelegationChain)
	if proto.Unmarshal(raw, c) != nil {
		return nil, false
	}
	again, err := proto.Marshal(c)
	if err != nil || string(again) != string(raw) {
		return nil, false
	}
	for _, h := range c.GetHops() {
		if h.GetCertRef() == 0 {
			return nil, false
		}
	}
	return c, true
}

// wantOf is the reason of a step at an endpoint whose capability table is empty: a chain that is good ends there, or one check before
// when the vector names no intent that it could cover.
func wantOf(t *testing.T, s *vectors.Step) v1.Reason {
	t.Helper()
	switch {
	case s.Expect == vectors.Allow && s.Intent != nil:
		return v1.Reason_REASON_POLICY_NO_ROW
	case s.Expect == vectors.Allow:
		return v1.Reason_REASON_CHAIN_INTERSECTION
	}
	if r, ok := codesOf[s.Expect]; ok {
		return r
	}
	n, ok := v1.Reason_value["REASON_CHAIN_"+s.Expect]
	if !ok {
		t.Fatalf("no reason is called %s", s.Expect)
	}
	return v1.Reason(n)
}

// endpoint returns the enforcer of a case: its verifier trusts what the vector says and its clock stands at the vector's time.
func (c *matrixCase) endpoint(t *testing.T, w *meshtest.World) *meshtest.Endpoint {
	t.Helper()
	now := func() time.Time { return time.UnixMilli(c.step.NowMs) }
	v, err := delegation.NewVerifier(delegation.Config{
		Self: c.self, Keys: vectorKeys{c.trust}, Bundles: bundlesOf(t, c.trust), BundleGeneration: func() uint64 { return 1 }, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &interceptors.Method{
		Procedure: service + "Unary", Input: (&meshpb.UnaryRequest{}).ProtoReflect().Descriptor(),
		Intent: &v1.MethodIntent{
			Action: c.action(), ResourceField: "resource", MinIntegrity: v1.Integrity_INTEGRITY_UNTRUSTED, MaxDepth: 8,
			Audit: v1.AuditClass_AUDIT_CLASS_BUFFERED, Facts: c.facts(),
		},
	}
	var methods interceptors.Methods
	if err := methods.Add(m); err != nil {
		t.Fatal(err)
	}
	return w.Enforcer(t, c.self, &methods, func(cfg *interceptors.Config) { cfg.Verifier, cfg.Now = v, now })
}

// members are all who must be active for the chain to be looked at.
func (c *matrixCase) members() []identity.AgentID {
	ids := []identity.AgentID{c.presenter, c.self}
	for _, s := range append([]*v1.SignedStatement{c.chain.GetGrant()}, c.chain.GetHops()...) {
		var p v1.HopPayload // whose delegate has another number than a grant's
		var g v1.GrantPayload
		for _, err := range []error{proto.Unmarshal(s.GetPayload(), &p), proto.Unmarshal(s.GetPayload(), &g)} {
			_ = err // what cannot be read names nobody
		}
		names := []string{p.GetDelegate(), g.GetDelegate()}
		for _, past := range g.GetHistory() {
			names = append(names, past.GetActor())
		}
		for _, name := range names {
			if id, err := identity.ParseAgent(name); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (c *matrixCase) action() string {
	if c.step.Intent != nil {
		return c.step.Intent.Action
	}
	return "nothing.granted"
}

// facts declares the request's amount under the key of the intent's fact, when that is what the vector has.
func (c *matrixCase) facts() []*v1.Fact {
	if c.step.Intent == nil || len(c.step.Intent.Facts) != 1 || c.step.Intent.Facts[0].Value.Number == nil {
		return nil
	}
	return []*v1.Fact{{Key: c.step.Intent.Facts[0].Key, Field: "amount"}}
}

func (c *matrixCase) request(t *testing.T, w *meshtest.World) *meshpb.UnaryRequest {
	t.Helper()
	e := w.Envelope(c.presenter, service+"Unary", c.action())
	e.DeadlineUnixMs = c.step.NowMs + 1000
	e.Chain = c.chain
	if e.Tenant == "" {
		e.Tenant = c.self.Tenant().Name()
	}
	req := &meshpb.UnaryRequest{Resource: []string{"ns"}, Envelope: e}
	if in := c.step.Intent; in != nil {
		e.Intent.Purpose, req.Resource = in.Purpose, in.Resource
		if c.facts() != nil {
			n, err := strconv.ParseInt(*in.Facts[0].Value.Number, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			req.Amount = n
		}
	}
	return req
}

type vectorKeys struct{ trust *vectors.Trust }

func (k vectorKeys) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	for _, g := range k.trust.GrantKeys {
		if g.Issuer == issuer && g.KeyID == keyID && at.UnixMilli() >= g.NotBeforeMs && at.UnixMilli() < g.NotAfterMs {
			return ed25519.PublicKey(g.PublicKey), true
		}
	}
	return nil, false
}

func (vectorKeys) Generation() uint64 { return 1 }

func bundlesOf(t *testing.T, trust *vectors.Trust) *x509bundle.Set {
	t.Helper()
	set := x509bundle.NewSet()
	for _, b := range trust.Bundles {
		bundle := x509bundle.New(spiffeid.RequireTrustDomainFromString(b.TrustDomain))
		for _, der := range b.Roots {
			root, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			bundle.AddX509Authority(root)
		}
		set.Add(bundle)
	}
	return set
}

// TestChainMatrixOnEveryRoute sends the rows of the conformance matrix that can be said in one message over every transport: each is
// answered with the same code and coarse reason, its precise reason stands in the log, and no handler runs.
func TestChainMatrixOnEveryRoute(t *testing.T) {
	cases := matrixCases(t)
	if len(cases) < 60 {
		t.Fatalf("only %d cases travel", len(cases))
	}
	w := meshtest.In(t, vectorDomain)
	for _, c := range cases {
		for _, id := range c.members() {
			w.Registry.Put(identity.Record{ID: id, Class: meshtest.DefaultClass, State: identity.StateActive, IntegrityCap: int32(v1.Integrity_INTEGRITY_TRUSTED)})
		}
	}
	for _, rt := range routes {
		server := "connect"
		if rt.serverGRPC {
			server = "grpc"
		}
		t.Run(string(rt.client)+" to "+server, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					end := c.endpoint(t, w)
					addr := ""
					if rt.serverGRPC {
						addr = w.ServeGRPC(t, end)
					} else {
						addr = w.ServeConnect(t, end, meshtest.ConnectParts{})
					}
					client := w.Dial(t, rt.client, w.Identity(c.presenter), c.self, addr)
					_, err := client.Call(t.Context(), meshtest.Unary, service+"Unary", c.request(t, w))
					c.check(t, end, err)
				})
			}
		})
	}
	t.Run("deliver", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				end := c.endpoint(t, w)
				c.check(t, end, failureOf(c.deliver(t, w, end)))
			})
		}
	})
}

// deliver admits the case as the body of an Envelope, which runtime does with what comes by Deliver.
func (c *matrixCase) deliver(t *testing.T, w *meshtest.World, end *meshtest.Endpoint) (err error) {
	t.Helper()
	req := c.request(t, w)
	env := req.GetEnvelope()
	req.Envelope = nil
	payload, merr := proto.Marshal(req)
	if merr != nil {
		t.Fatal(merr)
	}
	carry(env, payload, string(req.ProtoReflect().Descriptor().FullName()), c.self)
	ctx, in, err := end.Open(t.Context(), &interceptors.Call{
		Session: w.Session(t, end, c.presenter), Procedure: env.GetMethod(), Transport: interceptors.TransportDeliver,
	}, nil)
	defer in.Close(&err)
	if err == nil {
		err = in.CheckCarried(env)
	}
	if err == nil {
		_, err = in.AdmitCarried(ctx, env, req)
	}
	return err
}

// failureOf is what a client would see of a refusal.
func failureOf(err error) error {
	var d *interceptors.Denial
	if !errors.As(err, &d) {
		return err
	}
	return &meshtest.Failure{Code: d.Code, Reason: d.WireName(), Decision: d.DecisionHex(), Raw: err.Error()}
}

func (c *matrixCase) check(t *testing.T, end *meshtest.Endpoint, err error) {
	t.Helper()
	want := interceptors.Refuse(c.want, nil)
	var f *meshtest.Failure
	if !errors.As(err, &f) {
		t.Fatalf("answered with %v, want %s", err, want.WireName())
	}
	end.Log.Await(t, func(events []*v1.AuditEvent) bool {
		return len(events) >= 2 && events[len(events)-1].GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME
	})
	var logged *v1.AuditEvent
	for _, ev := range end.Log.Events() {
		if ev.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME {
			logged = ev
		}
	}
	if f.Code != want.Code || f.Reason != want.WireName() || logged.GetReason() != c.want {
		t.Errorf("answered with code %d, %s; logged %s: %s; want code %d, %s and %s", f.Code, f.Reason, logged.GetReason(), logged.GetCause(),
			want.Code, want.WireName(), c.want)
	}
	if f.Decision != hex.EncodeToString(logged.GetDecisionId()) {
		t.Errorf("the peer was told decision %s, the log says %x", f.Decision, logged.GetDecisionId())
	}
	if end.Handled.Load() != 0 {
		t.Error("the handler ran")
	}
}

// carry makes env the body of a message to self.
func carry(env *v1.Envelope, payload []byte, payloadType string, self identity.AgentID) {
	sum := sha256.Sum256(payload)
	env.Kind, env.HalfClose, env.Recipient = v1.FrameKind_FRAME_KIND_OPEN, true, self.String()
	env.Payload, env.PayloadType, env.Intent.ArgumentsDigest = payload, payloadType, sum[:]
}
