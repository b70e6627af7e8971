package chaintext_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

// Every reason that package delegation may give has a sentence of its own.
func TestEveryReasonHasASentence(t *testing.T) {
	said := map[string]v1.Reason{}
	n := 0
	for number := range v1.Reason_name {
		r := v1.Reason(number)
		if r != v1.Reason_REASON_CHAIN_UNKNOWN && (r < 100 || r >= 150) {
			if s := chaintext.Otherwise(r); s != "" {
				t.Errorf("%s is not about chains and has the sentence %q", r, s)
			}
			continue
		}
		n++
		s := chaintext.Otherwise(r)
		if s == "" || !strings.HasSuffix(s, ".") {
			t.Errorf("%s: the sentence is %q", r, s)
		}
		if other, twice := said[s]; twice {
			t.Errorf("%s and %s say the same", r, other)
		}
		said[s] = r
	}
	if n != 31 {
		t.Errorf("%d reasons", n)
	}
}

type refusal struct {
	name   string
	chain  func(*world) *builder
	damage func(*v1.DelegationChain)
	ask    func(*chaintext.Question)
	reason v1.Reason
	depth  int
	step   int
}

func hopped(change func(*v1.HopPayload)) func(*world) *builder {
	return func(w *world) *builder { return w.grant().hop(analyst).hop(memory, change) }
}

func granted(change func(*v1.GrantPayload)) func(*world) *builder {
	return func(w *world) *builder { return w.grant(change).hop(analyst).hop(memory) }
}

func valid(w *world) *builder { return w.grant().hop(analyst).hop(memory) }

func asked(action, purpose string, resource ...string) func(*chaintext.Question) {
	return func(q *chaintext.Question) {
		q.Intent = &delegation.Intent{Action: action, Resource: resource, Purpose: purpose}
	}
}

func refusals(t *testing.T) []refusal {
	t.Helper()
	elsewhere, thief := id(t, executor), id(t, "spiffe://acme.test/tenant/blue/agent/thief")
	return []refusal{
		{"too many hops", valid, func(c *v1.DelegationChain) {
			for range 7 {
				c.Hops = append(c.Hops, c.GetHops()[1])
			}
		}, nil, v1.Reason_REASON_CHAIN_TOO_LARGE, -1, 1},
		{"no grant", valid, func(c *v1.DelegationChain) { c.Grant = nil }, nil, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, 0, 1},
		{"short signature", valid, func(c *v1.DelegationChain) { c.GetHops()[0].Signature = c.GetHops()[0].GetSignature()[:63] }, nil, v1.Reason_REASON_CHAIN_MALFORMED, -1, 5},
		{"unknown fields", valid, func(c *v1.DelegationChain) {
			c.GetHops()[1].Payload = append(c.GetHops()[1].GetPayload(), 0xf8, 0x07, 1)
		}, nil, v1.Reason_REASON_CHAIN_NON_CANONICAL, 2, 5},
		{"no name", hopped(func(h *v1.HopPayload) { h.Issuer = "analyst" }), nil, nil, v1.Reason_REASON_CHAIN_MALFORMED, 2, 5},
		{"unknown rule", hopped(func(h *v1.HopPayload) {
			h.Capabilities[0].Constraints = []*v1.Constraint{{Key: "k"}}
		}), nil, nil, v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, 2, 5},
		{"version", hopped(func(h *v1.HopPayload) { h.Version = 2 }), nil, nil, v1.Reason_REASON_CHAIN_VERSION, 2, 6},
		{"removed hop", valid, func(c *v1.DelegationChain) {
			c.Hops, c.Certs = c.GetHops()[1:], c.GetCerts()[1:]
			c.GetHops()[0].CertRef = 1
		}, nil, v1.Reason_REASON_CHAIN_PARENT_MISMATCH, 1, 7},
		{"skipped depth", hopped(func(h *v1.HopPayload) { h.Depth = 3 }), nil, nil, v1.Reason_REASON_CHAIN_DEPTH, 2, 7},
		{"other tenant", hopped(func(h *v1.HopPayload) { h.Tenant = "red" }), nil, nil, v1.Reason_REASON_CHAIN_TENANT, 2, 7},
		{"other purpose", hopped(func(h *v1.HopPayload) { h.PurposeDigest = digest("mine") }), nil, nil, v1.Reason_REASON_CHAIN_PURPOSE, 2, 7},
		{"loop", func(w *world) *builder { return w.grant().hop(analyst).hop(planner) }, nil, nil, v1.Reason_REASON_CHAIN_LOOP, 2, 7},
		{"certificate missing", valid, func(c *v1.DelegationChain) { c.GetHops()[1].CertRef = 3 }, nil, v1.Reason_REASON_CHAIN_MALFORMED, 2, 7},
		{"certificate unused", valid, func(c *v1.DelegationChain) { c.Certs = append(c.Certs, c.GetCerts()[0]) }, nil, v1.Reason_REASON_CHAIN_MALFORMED, -1, 7},
		{"stolen", valid, nil, func(q *chaintext.Question) { q.Presenter = thief }, v1.Reason_REASON_CHAIN_PRESENTER, 2, 8},
		{"elsewhere", valid, nil, func(q *chaintext.Question) { q.Self = elsewhere }, v1.Reason_REASON_CHAIN_AUDIENCE, 2, 8},
		{"outlives", hopped(func(h *v1.HopPayload) { h.ExpiresAtMs++ }), nil, nil, v1.Reason_REASON_CHAIN_LIFETIME, 2, 9},
		{"long grant", granted(func(g *v1.GrantPayload) { g.ExpiresAtMs++ }), nil, nil, v1.Reason_REASON_CHAIN_LIFETIME, 0, 9},
		{"over", valid, nil, func(q *chaintext.Question) { q.At = start.Add(time.Hour) }, v1.Reason_REASON_CHAIN_TIME, 2, 9},
		{"not begun", valid, nil, func(q *chaintext.Question) { q.At = start.Add(-time.Minute) }, v1.Reason_REASON_CHAIN_TIME, 2, 9},
		{"raised depth", hopped(func(h *v1.HopPayload) { h.MaxDepth = 5 }), nil, nil, v1.Reason_REASON_CHAIN_DEPTH, 2, 10},
		{"wider", wider, nil, nil, v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, 2, 10},
		{"loosened", hopped(func(h *v1.HopPayload) { h.Capabilities[2].Constraints = nil }), nil, nil, v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED, 2, 10},
		{"not delegable", granted(func(g *v1.GrantPayload) { g.Delegates = g.GetDelegates()[:1] }), nil, nil, v1.Reason_REASON_CHAIN_NOT_DELEGABLE, 2, 10},
		{"other authority", granted(func(g *v1.GrantPayload) { g.Issuer = "spiffe://acme.test/service/memory" }), nil, nil, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, 0, 13},
		{"other key", granted(func(g *v1.GrantPayload) { g.KeyId = strings.Repeat("0", 32) }), nil, nil, v1.Reason_REASON_CHAIN_KEY, 0, 13},
		{"grant changed", valid, func(c *v1.DelegationChain) { c.GetGrant().Signature[0] ^= 1 }, nil, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, 0, 13},
		{"other signer", func(w *world) *builder {
			return w.grant().hop(analyst).hopUnder(w.svid(executor, time.Hour), memory)
		}, nil, nil, v1.Reason_REASON_CHAIN_BAD_SIGNER, 2, 14},
		{"expired certificate", func(w *world) *builder {
			return w.grant().hop(analyst).hopUnder(w.svid(analyst, time.Second), memory)
		}, nil, nil, v1.Reason_REASON_CHAIN_SVID, 2, 14},
		{"no roots", valid, nil, func(q *chaintext.Question) { q.Bundles = x509bundle.NewSet() }, v1.Reason_REASON_CHAIN_TRUST_DOMAIN, 1, 14},
		{"outlives its certificate", func(w *world) *builder {
			return w.grant().hop(analyst).hopUnder(w.svid(analyst, 14*time.Minute), memory)
		}, nil, nil, v1.Reason_REASON_CHAIN_LIFETIME, 2, 14},
		{"hop changed", valid, func(c *v1.DelegationChain) { c.GetHops()[1].Signature[0] ^= 1 }, nil, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, 2, 15},
		{"not covered", valid, nil, asked("memory.delete", purpose, "notes"), v1.Reason_REASON_CHAIN_INTERSECTION, 2, 17},
		{"unmet", valid, nil, asked("payments.transfer", purpose, "accounts", "7"), v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET, 2, 17},
		{"other task", valid, nil, asked("memory.read", "mine", "notes", "a"), v1.Reason_REASON_CHAIN_PURPOSE, 2, 17},
	}
}

// Each refusal of the verifier is told at its step, and the pages about it are printable.
func TestRefusals(t *testing.T) {
	for _, tt := range refusals(t) {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			b := tt.chain(w)
			if tt.damage != nil {
				tt.damage(b.c)
			}
			f, q := b.found(), w.question()
			if tt.ask != nil {
				tt.ask(&q)
			}
			v, err := chaintext.Verify(f, q)
			if err != nil {
				t.Fatal(err)
			}
			if v.Allowed() {
				t.Fatal("allowed")
			}
			x := v.Failures[0]
			if x.Reason != tt.reason || x.Depth != tt.depth || x.Step != tt.step || x.Cause == "" {
				t.Errorf("%s at depth %d, step %d (%s); want %s, %d, %d", x.Reason, x.Depth, x.Step, x.Cause, tt.reason, tt.depth, tt.step)
			}
			steps := chaintext.Checklist(f, v)
			for _, s := range steps {
				if (s.State == chaintext.Failed) != (s.Number == tt.step) || (s.State == chaintext.NotReached) != (s.Number > tt.step) {
					t.Errorf("step %d is %s", s.Number, s.State)
				}
			}
			var page bytes.Buffer
			if err := chaintext.WriteChecklist(&page, f, v, chaintext.ReasonName); err != nil {
				t.Fatal(err)
			}
			checkPage(t, page.Bytes())
			if !strings.Contains(strings.Join(strings.Fields(page.String()), " "), chaintext.Otherwise(tt.reason)) {
				t.Errorf("no word about what would have had to be different:\n%s", page.String())
			}
		})
	}
}

// What is asked wrongly does not hide what is wrong besides.
func TestFurtherFailures(t *testing.T) {
	w := newWorld(t)
	q := w.question()
	q.Presenter, q.Self, q.At = id(t, executor), id(t, planner), start.Add(time.Hour)
	v, err := chaintext.Verify(wider(w).found(), q)
	if err != nil {
		t.Fatal(err)
	}
	want := []v1.Reason{
		v1.Reason_REASON_CHAIN_PRESENTER, v1.Reason_REASON_CHAIN_AUDIENCE, v1.Reason_REASON_CHAIN_TIME, v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED,
	}
	if len(v.Failures) != len(want) {
		t.Fatalf("failures %v", v.Failures)
	}
	for i, x := range v.Failures {
		if x.Reason != want[i] {
			t.Errorf("failure %d is %s, want %s", i, x.Reason, want[i])
		}
	}
	if v.Question.Presenter != q.Presenter || v.Question.Self != q.Self || !v.Question.At.Equal(q.At) {
		t.Error("the verdict is about another question")
	}
}

// The presenter's own certificate stands for a reference of 0.
func TestPresenterCertificate(t *testing.T) {
	w := newWorld(t)
	b := valid(w)
	der := b.c.GetCerts()[1].GetLeaf()
	b.c.GetHops()[1].CertRef, b.c.Certs = 0, b.c.GetCerts()[:1]
	f, q := b.found(), w.question()
	if v, err := chaintext.Verify(f, q); err != nil || v.Allowed() || v.Failures[0].Step != 7 {
		t.Errorf("without it: %v, %v", v.Failures, err)
	}
	var err error
	if q.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if v, err := chaintext.Verify(f, q); err != nil || !v.Allowed() {
		t.Errorf("with it: %v, %v", v.Failures, err)
	}
}

// A chain whose last statement says nothing is no question for a verifier, until somebody says who received it.
func TestNothingToAsk(t *testing.T) {
	w := newWorld(t)
	b := w.grant().hop(analyst)
	b.c.GetHops()[0].Payload = []byte{0xff}
	f, q := b.found(), w.question()
	if _, err := chaintext.Verify(f, q); !errors.Is(err, chaintext.ErrQuestion) {
		t.Errorf("got %v", err)
	}
	q.Self = id(t, memory)
	v, err := chaintext.Verify(f, q)
	if err != nil || v.Allowed() || v.Failures[0].Step != 5 {
		t.Errorf("got %v, %v", v.Failures, err)
	}
}
