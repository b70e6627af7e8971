package chaintext_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

// stride thins out what every byte of a chain would be tried with; the fuzz target does the rest.
const stride = 13

// maxPage bounds what may be written about any input: everything in it is bounded by the input.
const maxPage = 2 << 20

func (w *world) keyNow(issuer, keyID string) (ed25519.PublicKey, bool) {
	return w.GrantKey(issuer, keyID, noon)
}

// checkPage: lines of at most Width columns that cannot act on a terminal.
func checkPage(tb testing.TB, page []byte) {
	tb.Helper()
	if len(page) > maxPage {
		tb.Fatalf("a page of %d bytes", len(page))
	}
	column := 0
	for _, r := range string(page) {
		if r == '\n' {
			column = 0
			continue
		}
		column++
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) || unicode.In(r, unicode.M, unicode.C) || r != ' ' && unicode.IsSpace(r) {
			tb.Fatalf("%q on a page", r)
		}
		if column > chaintext.Width {
			tb.Fatalf("a line of more than %d columns: %s", chaintext.Width, page)
		}
	}
}

// pages writes everything there is about raw.
func (w *world) pages(tb testing.TB, raw []byte) {
	tb.Helper()
	f, err := chaintext.Read(raw)
	if err != nil {
		checkPage(tb, []byte(audit.Visible(err.Error())[:min(len(err.Error()), chaintext.Width)]))
		return
	}
	given := purpose
	var page bytes.Buffer
	view := chaintext.Describe(f, chaintext.Options{At: noon, Purpose: &given, GrantKey: w.keyNow})
	if _, err := json.Marshal(view); err != nil {
		tb.Fatal(err)
	}
	if err := view.Text(&page); err != nil {
		tb.Fatal(err)
	}
	checkPage(tb, page.Bytes())
	if !bytes.HasPrefix(page.Bytes(), []byte(chaintext.Unverified)) {
		tb.Fatal("the page does not say that it is unverified")
	}
	v, err := chaintext.Verify(f, w.question())
	if err != nil {
		if !errors.Is(err, chaintext.ErrQuestion) {
			tb.Fatal(err)
		}
		return
	}
	page.Reset()
	if err := errors.Join(chaintext.WriteChecklist(&page, f, v, chaintext.ReasonName), chaintext.WriteVerdict(&page, f, v, chaintext.ReasonName)); err != nil {
		tb.Fatal(err)
	}
	checkPage(tb, page.Bytes())
}

func FuzzPages(f *testing.F) {
	w := newWorld(f)
	for _, b := range []*builder{w.good(), w.grant(), wider(w), hostile(w)} {
		raw := marshal(f, b.c)
		f.Add(raw)
		f.Add([]byte(base64.StdEncoding.EncodeToString(raw)))
		f.Add(marshal(f, &v1.Envelope{Chain: b.c}))
		if text, err := protojson.Marshal(b.c); err == nil {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		w.tb = t
		w.pages(t, raw)
	})
}

// A chain with one byte changed is never allowed, wherever the byte is, and never breaks a page.
func TestMutatedBytes(t *testing.T) {
	w := newWorld(t)
	raw := marshal(t, w.good().c)
	intact, err := chaintext.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := chaintext.Verify(intact, w.question()); err != nil || !v.Allowed() {
		t.Fatalf("the intact chain: %v, %v", v.Failures, err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x04
		if i%stride == 0 {
			w.pages(t, bad)
		}
		f, err := chaintext.Read(bad)
		if err != nil {
			continue
		}
		if v, err := chaintext.Verify(f, w.question()); err == nil && v.Allowed() {
			t.Errorf("byte %d changed, and allowed", i)
		}
	}
}

func TestTruncated(t *testing.T) {
	w := newWorld(t)
	raw := marshal(t, w.good().c)
	for n := 0; n < len(raw); n += stride {
		w.pages(t, raw[:n])
	}
}

// Counts far over the bounds cost neither time nor paper.
func TestHugeCounts(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		name  string
		chain *v1.DelegationChain
	}{
		{"hops", func() *v1.DelegationChain {
			c := w.good().c
			for len(c.GetHops()) < 8000 {
				c.Hops = append(c.Hops, &v1.SignedStatement{})
			}
			return c
		}()},
		{"certificates", func() *v1.DelegationChain {
			c := w.good().c
			for len(c.GetCerts()) < 8000 {
				c.Certs = append(c.Certs, &v1.CertChain{})
			}
			return c
		}()},
		{"capabilities, delegates, conditions and history", w.grant(func(g *v1.GrantPayload) {
			for range 1000 {
				g.Capabilities = append(g.Capabilities, &v1.Capability{Action: "a"})
				g.Delegates = append(g.Delegates, "x")
				g.Capabilities[0].Constraints = append(g.Capabilities[0].GetConstraints(), &v1.Constraint{Key: "k"})
				g.Capabilities[0].Resource = append(g.Capabilities[0].GetResource(), "r")
				g.History = append(g.History, &v1.PastActor{Actor: "y"})
			}
			g.DepthUsed = 1 << 30
		}).hop(analyst).c},
		{"one field", w.grant(func(g *v1.GrantPayload) { g.Principal.Subject = strings.Repeat("\u202e", 8000) }).c},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := marshal(t, tt.chain)
			w.pages(t, raw)
			f, err := chaintext.Read(raw)
			if err != nil {
				t.Fatal(err)
			}
			var page bytes.Buffer
			if err := chaintext.Describe(f, chaintext.Options{At: noon}).Text(&page); err != nil {
				t.Fatal(err)
			}
			if page.Len() > 24<<10 {
				t.Errorf("a page of %d bytes", page.Len())
			}
		})
	}
}

func TestLinks(t *testing.T) {
	links := []*v1.ChainLink{
		{Delegator: authority, Delegate: planner, StatementId: digest("a"), ExpiresAtMs: noon.UnixMilli(), Capabilities: []*v1.Capability{subtree("memory.read", 4, "notes")}},
		{
			Delegator: planner, Delegate: "\x1b[31m" + memory, StatementId: digest("b"), Depth: 1, ExpiresAtMs: noon.UnixMilli(),
			Capabilities: []*v1.Capability{exact("memory.read", 2, "notes", "today")},
		},
	}
	var page bytes.Buffer
	if err := chaintext.WriteLinks(&page, digest("ref"), links); err != nil {
		t.Fatal(err)
	}
	golden(t, "links", page.Bytes())
}
