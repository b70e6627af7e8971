package chaintext

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// ErrQuestion is wrapped when the chain says too little about itself for a default, and the question names nothing.
var ErrQuestion = errors.New("not enough to ask the verifier")

// Keys finds the grant keys of authorities.
type Keys interface {
	GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool)
}

// Question is what a verifier is asked about a chain.
type Question struct {
	// Self is who received the chain; zero is the delegate of its last statement.
	Self identity.AgentID
	// Presenter is who presented it; zero is the issuer of its last statement.
	Presenter identity.AgentID
	// Cert is the presenter's certificate, for a last hop that refers to it; it may be nil.
	Cert *x509.Certificate
	// At is the verifier's clock, AtWhy says in a few words why it stands there; it may be empty.
	At    time.Time
	AtWhy string
	// Intent is held against the chain when it is not nil.
	Intent  *delegation.Intent
	Keys    Keys
	Bundles x509bundle.Source
}

// Failure is one refusal of the verifier.
type Failure struct {
	Reason v1.Reason
	// Depth is the position of the statement: 0 is the grant, -1 the chain as a whole.
	Depth int
	Cause string
	// Step is the step of the verifier that refused.
	Step int
}

// Verdict is what the verifier says.
type Verdict struct {
	// Failures are empty when the chain is allowed. The first is where the verifier stops; each further one is what it says when what
	// was asked about the one before (who presents, who receives, when) is put right.
	Failures []Failure
	// Question is what was asked, with its defaults filled in.
	Question Question
	// Reference and ChainID are of the verified chain.
	Reference [32]byte
	ChainID   [16]byte
	// Principal and Expires are of the verified chain.
	Principal *v1.Principal
	Expires   time.Time
	// Signatures is how many signatures were about to be verified, 0 when the chain was refused before.
	Signatures int

	own bool
	// fromChain and toChain say that presenter and recipient are those that the chain names, since the question named none.
	fromChain, toChain bool
}

// Allowed reports whether the verifier accepts the chain as it was asked about.
func (v Verdict) Allowed() bool { return len(v.Failures) == 0 }

// Verify asks the verifier of package delegation. A grant without hops is verified as the authority of its delegate. Revocation,
// replay, the state of agents and the capability table are no part of it. Errors wrap ErrQuestion.
func Verify(f Found, q Question) (Verdict, error) {
	v := Verdict{Question: q, own: f.IsGrant() && q.Presenter.IsZero(), fromChain: q.Presenter.IsZero(), toChain: q.Self.IsZero()}
	if err := v.Question.complete(f); err != nil {
		return Verdict{}, err
	}
	asked := v.Question
	for range maxCorrections {
		fail, err := v.ask(f, asked)
		if err != nil {
			return Verdict{}, err
		}
		if fail == nil {
			break
		}
		v.Failures = append(v.Failures, *fail)
		if !asked.correct(f, *fail) {
			break
		}
	}
	return v, nil
}

// maxCorrections bounds the questions about one chain: presenter, recipient and time can each be put right once.
const maxCorrections = 4

// complete fills the defaults in. Who presents and who receives is what the chain claims, which the verifier then checks.
func (q *Question) complete(f Found) error {
	issuer, delegate := claimed(f)
	if q.Self.IsZero() {
		q.Self = delegate
	}
	if q.Presenter.IsZero() {
		q.Presenter = issuer
	}
	if q.Self.IsZero() {
		return fmt.Errorf("%w: the last statement names no delegate that could be the recipient", ErrQuestion)
	}
	return nil
}

// claimed is who the last statement says that it is by and for.
func claimed(f Found) (issuer, delegate identity.AgentID) {
	name := func(s string) identity.AgentID {
		id, _ := identity.ParseAgent(s) // nobody, when it is no name
		return id
	}
	if n := len(f.Chain.GetHops()); n > 0 {
		h := new(v1.HopPayload)
		if proto.Unmarshal(f.Chain.GetHops()[n-1].GetPayload(), h) == nil {
			return name(h.GetIssuer()), name(h.GetDelegate())
		}
		return issuer, delegate
	}
	g := new(v1.GrantPayload)
	if proto.Unmarshal(f.Chain.GetGrant().GetPayload(), g) == nil {
		return name(g.GetIssuer()), name(g.GetDelegate())
	}
	return issuer, delegate
}

// correct puts right what was asked, where a refusal is about that and not about the chain. It reports whether it changed anything.
func (q *Question) correct(f Found, fail Failure) bool {
	issuer, delegate := claimed(f)
	switch fail.Reason {
	case v1.Reason_REASON_CHAIN_PRESENTER:
		if issuer.IsZero() || issuer == q.Presenter {
			return false
		}
		q.Presenter, q.Cert = issuer, nil
	case v1.Reason_REASON_CHAIN_AUDIENCE:
		if delegate.IsZero() || delegate == q.Self {
			return false
		}
		q.Self = delegate
	case v1.Reason_REASON_CHAIN_TIME:
		at, ok := inside(f)
		if !ok || at.Equal(q.At) {
			return false
		}
		q.At = at
	default:
		return false
	}
	return true
}

// inside is a moment at which the last statement lives.
func inside(f Found) (time.Time, bool) {
	v := Describe(f, Options{})
	if len(v.Statements) == 0 {
		return time.Time{}, false
	}
	last := v.Statements[len(v.Statements)-1]
	if !last.NotBefore.valid() || !last.Expires.valid() || last.Expires.Ms <= last.NotBefore.Ms {
		return time.Time{}, false
	}
	return time.UnixMilli(last.NotBefore.Ms + (last.Expires.Ms-last.NotBefore.Ms)/2), true
}

// ask runs the verifier once, from the bytes where they are at hand.
func (v *Verdict) ask(f Found, q Question) (*Failure, error) {
	signing := false
	verifier, err := delegation.NewVerifier(delegation.Config{
		Self: q.Self, Keys: keyView{q.Keys}, Bundles: q.Bundles, BundleGeneration: func() uint64 { return 1 }, Now: func() time.Time { return q.At },
		Limits: delegation.Limits{Allow: func(_ identity.AgentID, n int) bool {
			signing, v.Signatures = true, n
			return true
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrQuestion, err)
	}
	peer := identity.Peer{ID: q.Presenter.ID(), Agent: q.Presenter, Tenant: q.Presenter.Tenant(), Leaf: q.Cert}
	chain := f.Chain
	if f.Raw != nil {
		if chain, err = delegation.ParseChain(f.Raw); err != nil {
			return failure(f, err, phaseFrame, false)
		}
	}
	var leaf *delegation.Leaf
	if v.own {
		leaf, err = verifier.VerifyGrant(chain.GetGrant())
	} else {
		leaf, err = verifier.Verify(chain, peer)
	}
	if err != nil {
		return failure(f, err, phaseChain, signing)
	}
	v.Reference, v.ChainID, v.Principal, v.Expires = leaf.Link(), leaf.ChainID(), leaf.Principal(), leaf.Expires()
	if q.Intent == nil {
		return nil, nil //nolint:nilnil // no failure and no error: the chain is allowed
	}
	if err := verifier.Recheck(leaf, peer, *q.Intent); err != nil {
		return failure(f, err, phaseMessage, true)
	}
	return nil, nil //nolint:nilnil // as above
}

// keyView never changes.
type keyView struct{ Keys }

func (keyView) Generation() uint64 { return 1 }

func failure(f Found, err error, in phase, signing bool) (*Failure, error) {
	var e *delegation.Error
	if !errors.As(err, &e) {
		return nil, err
	}
	out := &Failure{Reason: e.Reason, Depth: e.Depth}
	if cause := e.Unwrap(); cause != nil {
		out.Cause = cause.Error()
	}
	out.Step = stepOf(f, *out, in, signing)
	return out, nil
}
