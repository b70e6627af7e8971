package hammer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
)

// ownSource is the identity that the authority gives this process.
func ownSource(ctx context.Context) (identity.Source, error) {
	return runtime.WorkloadAPI(ctx, os.Getenv(runtime.EnvWorkloadAPI), "")
}

// oneKey is a KeyView of the one grant key that a mandate names.
type oneKey struct {
	id  string
	key ed25519.PublicKey
}

// GrantKey implements delegation.KeyView.
func (k oneKey) GrantKey(_, id string, _ time.Time) (ed25519.PublicKey, bool) {
	return k.key, id == k.id
}

// Generation implements delegation.KeyView.
func (oneKey) Generation() uint64 { return 1 }

// leaf verifies what the client acts under, as its own enforcement core would when an agent presents it.
func (m *mandate) leaf(src identity.Source) (*delegation.Leaf, error) {
	self, _, err := signerOf(src)
	if err != nil {
		return nil, err
	}
	v, err := newVerifier(self, oneKey{m.KeyID, m.Key}, src)
	if err != nil {
		return nil, err
	}
	if m.Grant != nil {
		var g v1.SignedStatement
		if err := proto.Unmarshal(m.Grant, &g); err != nil {
			return nil, fmt.Errorf("reading a grant: %w", err)
		}
		return v.VerifyGrant(&g)
	}
	var chain v1.DelegationChain
	if err := proto.Unmarshal(m.Chain, &chain); err != nil {
		return nil, fmt.Errorf("reading a chain: %w", err)
	}
	cert, err := x509.ParseCertificate(m.Presenter)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the presenter: %w", err)
	}
	peer, err := identity.PeerFromLeaf(cert)
	if err != nil {
		return nil, err
	}
	return v.Verify(&chain, peer)
}

func newVerifier(self identity.AgentID, keys delegation.KeyView, bundles identity.Source) (*delegation.Verifier, error) {
	return delegation.NewVerifier(delegation.Config{
		Self: self, Keys: keys, Bundles: bundles, BundleGeneration: func() uint64 { return 1 }, Now: time.Now,
	})
}

func signerOf(src identity.Source) (identity.AgentID, delegation.Signer, error) {
	svid, err := src.GetX509SVID()
	if err != nil {
		return identity.AgentID{}, nil, err
	}
	k, err := delegation.NewSigner(svid)
	if err != nil {
		return identity.AgentID{}, nil, err
	}
	return k.ID(), k, nil
}

// extend adds the hop of src's identity to the next agent.
func extend(leaf *delegation.Leaf, src identity.Source, next identity.AgentID) (*v1.DelegationChain, error) {
	_, k, err := signerOf(src)
	if err != nil {
		return nil, err
	}
	return delegation.Append(leaf, delegation.HopSpec{Delegate: next}, k, time.Now())
}

// references are the two context references that the profile of an envelope has, with a label each; nobody resolves them.
func references() []*v1.ContextRef {
	out := make([]*v1.ContextRef, 2)
	for i := range out {
		sum := sha256.Sum256([]byte{byte(i)})
		out[i] = &v1.ContextRef{
			Store: "spiffe://" + trustDomain + "/service/memory", Tenant: tenant, Commitment: sum[:], Size: 4 << 10, MediaType: "text/plain",
			Ref: &v1.KeyRef{Ns: &v1.Path{Labels: []string{"shared", "bench"}}, Key: sum[:8], Version: 1}, Label: internalLabel(),
		}
	}
	return out
}

func internalLabel() *v1.Label {
	return &v1.Label{
		Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true,
	}
}

// enveloper builds by hand what runtime.Conn builds, for the variant in which nobody looks at it.
type enveloper struct {
	self, peer identity.AgentID
	chain      *v1.DelegationChain // or ref
	ref        []byte
	refs       []*v1.ContextRef
	purpose    string
	body       string
}

func (e *enveloper) envelope() (*v1.Envelope, error) {
	req := &meshpb.ForeignRequest{Text: e.body}
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	ids := make([]byte, 32)
	_, _ = rand.Read(ids) // never fails: crypto/rand ends the process instead
	sum := sha256.Sum256(payload)
	env := &v1.Envelope{
		Kind: v1.FrameKind_FRAME_KIND_OPEN, HalfClose: true, Id: ids[:16], Conversation: ids[16:], Method: meshpb.MeshService_Foreign_FullMethodName,
		Tenant: e.self.Tenant().Name(), Recipient: e.peer.String(), Payload: payload, PayloadType: string(req.ProtoReflect().Descriptor().FullName()),
		Intent: &v1.Intent{Action: foreignAction, Resource: []string{"agent", e.peer.Name()}, Purpose: e.purpose, ArgumentsDigest: sum[:]},
		Chain:  e.chain, ChainRef: e.ref, Control: internalLabel(), Context: e.refs, DeadlineUnixMs: time.Now().Add(30 * time.Second).UnixMilli(),
	}
	for i, r := range e.refs {
		env.Data = append(env.Data, &v1.DataLabel{Ref: uint32(i), Label: r.GetLabel()})
	}
	return env, nil
}

func (e *enveloper) send(ctx context.Context, c rpcv1.ExchangeServiceClient) error {
	env, err := e.envelope()
	if err != nil {
		return err
	}
	res, err := c.Deliver(ctx, env)
	if err != nil {
		return err
	}
	var resp meshpb.ForeignResponse
	if err := proto.Unmarshal(res.GetPayload(), &resp); err != nil {
		return err
	}
	if len(resp.GetText()) != len(e.body) {
		return errOther
	}
	return nil
}
