package vectors

import (
	"bytes"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// The codes of refusals that vectors expect.
const (
	tooLarge       = "TOO_LARGE"
	malformed      = "MALFORMED"
	nonCanonical   = "NON_CANONICAL"
	badVersion     = "VERSION"
	parentMismatch = "PARENT_MISMATCH"
	loop           = "LOOP"
	tooDeep        = "DEPTH"
	badSignature   = "BAD_SIGNATURE"
	badSigner      = "BAD_SIGNER"
	badSVID        = "SVID"
	noBundle       = "TRUST_DOMAIN"
	badKey         = "KEY"
	untrusted      = "UNTRUSTED_ROOT"
	amplified      = "SCOPE_AMPLIFIED"
	loosened       = "CONSTRAINT_LOOSENED"
	unknownRule    = "UNKNOWN_CONSTRAINT"
	notDelegable   = "NOT_DELEGABLE"
	badLife        = "LIFETIME"
	badTime        = "TIME"
	notPresenter   = "PRESENTER_MISMATCH"
	notAudience    = "AUDIENCE"
	badTenant      = "TENANT"
	badPurpose     = "PURPOSE"
	unmet          = "CONSTRAINT_UNMET"
	intersection   = "INTERSECTION"
	revoked        = "REVOKED"
	unknownChain   = "CHAIN_UNKNOWN"
	replayed       = "REPLAY"
	notBound       = "BINDING"
)

// show is one chain before a verifier.
type show struct {
	chain  *v1.DelegationChain
	bytes  []byte // instead of the encoded chain
	by     *party
	self   *party
	nowMs  int64 // 0 is the start
	trust  string
	intent *Intent
}

// group makes one file.
type group struct {
	*scene

	f *File
}

func newGroup(w *world, name, alg string) *group {
	return &group{&scene{w, alg}, &File{
		Format: Format, Group: name, Trust: map[string]*Trust{"base": w.baseTrust()}, Presenters: map[string]*Presenter{}, Chains: map[string]Pieces{},
		Blobs: map[string]Hex{}, Envelopes: map[string]*Digested{},
	}}
}

// with goes on in the same file with agents of another algorithm.
func (g *group) with(alg string) *group { return &group{&scene{g.world, alg}, g.f} }

// allow adds a vector that passes and returns its id.
func (g *group) allow(row int, name, title string, sh show) string {
	return g.add(row, name, title, "", g.step(sh, Allow), sh)
}

// deny adds a vector that differs from control in one thing.
func (g *group) deny(row int, name, title, control, code string, sh show) {
	g.add(row, name, title, control, g.step(sh, code), sh)
}

func (g *group) add(row int, name, title, control string, step *Step, sh show) string {
	trust := sh.trust
	if trust == "" {
		trust = "base"
	}
	return g.sequence(row, name, title, control, trust, sh.self, step)
}

// sequence adds a vector of several steps.
func (g *group) sequence(row int, name, title, control, trust string, self *party, steps ...*Step) string {
	v := &Vector{
		ID: g.f.Group + "/" + name, Row: row, Title: title, Control: control, Trust: trust, Self: self.id, Steps: steps,
	}
	g.f.Vectors = append(g.f.Vectors, v)
	return v.ID
}

// step presents a chain.
func (g *group) step(sh show, code string) *Step {
	st := &Step{Op: OpPresent, NowMs: sh.nowMs, Presenter: g.presenter(sh.by), Intent: sh.intent, Expect: code}
	if st.NowMs == 0 {
		st.NowMs = startMs
	}
	chain := sh.bytes
	if chain == nil {
		chain = g.marshal(sh.chain)
	}
	st.Chain = hex.EncodeToString(digest(chain)[:6])
	g.f.Chains[st.Chain] = g.pieces(chain)
	if code == Allow && slices.Contains([]string{"structure", "lifetime", "signature", "certificate", "tenant", "reference"}, g.f.Group) {
		st.Leaf = g.leaf(sh.chain, sh.by)
	}
	return st
}

// pieces takes the certificates out of a chain. Most chains have one or two of the same few.
func (g *group) pieces(chain []byte) Pieces {
	out := Pieces{}
	for _, label := range slices.Sorted(maps.Keys(g.parties)) {
		leaf := g.parties[label].leaf
		before, after, found := bytes.Cut(chain, leaf)
		if found {
			g.f.Blobs[label] = leaf
			return append(append(append(out, g.pieces(before)...), "@"+label), g.pieces(after)...)
		}
	}
	return append(out, runs(chain)...)
}

// A run is one or two bytes that repeat over at least minRun bytes.
const (
	maxUnit = 2
	minRun  = 128
)

// runs is bytes as hex, with its runs written as what repeats and how often.
func runs(b []byte) Pieces {
	var out Pieces
	from := 0
	for at := 0; at < len(b); at++ {
		for unit := 1; unit <= maxUnit && at+unit <= len(b); unit++ {
			n := 1
			for bytes.HasPrefix(b[at+n*unit:], b[at:at+unit]) {
				n++
			}
			if n*unit < minRun {
				continue
			}
			if from < at {
				out = append(out, hex.EncodeToString(b[from:at]))
			}
			out = append(out, hex.EncodeToString(b[at:at+unit])+"*"+strconv.Itoa(n))
			from = at + n*unit
			at = from - 1
			break
		}
	}
	if from < len(b) {
		out = append(out, hex.EncodeToString(b[from:]))
	}
	return out
}

// presenter puts a party into the file's table.
func (g *group) presenter(p *party) string {
	g.f.Presenters[p.label] = &Presenter{ID: p.id, Tenant: p.tenant, Leaf: p.leaf}
	return p.label
}

// hop1 is a chain with one hop that change has touched; hop2 adds an honest hop before it.
func (s *scene) hop1(change ...func(*v1.HopPayload)) show {
	return show{chain: s.chain(s.agent("a")).to(s.agent("b"), change...).c, by: s.agent("a"), self: s.agent("b")}
}

func (s *scene) hop2(change ...func(*v1.HopPayload)) show {
	return show{
		chain: s.chain(s.agent("a")).to(s.agent("b")).to(s.agent("c"), change...).c, by: s.agent("b"), self: s.agent("c"),
	}
}

// grant1 is a chain with one honest hop under a grant that change has touched.
func (s *scene) grant1(change ...func(*v1.GrantPayload)) show {
	return show{chain: s.chain(s.agent("a"), change...).to(s.agent("b")).c, by: s.agent("a"), self: s.agent("b")}
}

// hops is an honest chain of n hops.
func (s *scene) hops(n int) show {
	line := s.line(n)
	b := s.chain(line[0], func(p *v1.GrantPayload) {
		p.MaxDepth = max(4, uint32(n)) //nolint:gosec // G115: at most 8.
		for _, c := range p.GetCapabilities() {
			c.Reach = p.GetMaxDepth()
		}
	})
	for _, next := range line[1:] {
		b.to(next)
	}
	return show{chain: b.c, by: line[n-1], self: line[n]}
}
