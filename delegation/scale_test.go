package delegation_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// heap is the memory that lives now, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// perChain is what verifying one more chain of three hops, with a grant of its own, adds to a verifier that keeps few leaves.
func perChain(tb testing.TB, n int) int64 {
	tb.Helper()
	s := newScene(tb)
	s.b, s.d = s.agent("b"), s.agent("d")
	v := s.verifier(s.d, func(c *delegation.Config) { c.Limits.CachedLinks, c.Revoked = 1, new(revoked) })
	verify := func() {
		if _, err := v.Verify(s.chain(s.a).to(s.b).to(s.c).to(s.d).c, s.c.peer); err != nil {
			tb.Fatal(err)
		}
	}
	for range 200 {
		verify() // until the leaves that are kept are many enough to be evicted
	}
	before := heap()
	for range n {
		verify()
	}
	used := heap() - before
	runtime.KeepAlive(v)
	return used / int64(n)
}

// TestManyChainsFitIntoTheirBound: 100,000 chains of three hops, no two with a statement in common, are remembered in 64 MiB, of which the
// leaves that are kept whole may take a quarter.
func TestManyChainsFitIntoTheirBound(t *testing.T) {
	const bound = 48 << 20 / 100_000
	if got := perChain(t, 1500); got > bound {
		t.Errorf("%d bytes for each chain, want at most %d", got, bound)
	}
}

// chainOfHops is a chain of n hops to the last of n+1 agents; its presenter is the last but one.
func chainOfHops(s *scene, agents []*agent, n int) presented {
	b := s.chain(agents[0], func(g *v1.GrantPayload) {
		g.MaxDepth = 8
		for _, c := range g.GetCapabilities() {
			c.Reach = 8
		}
	})
	for _, a := range agents[1 : n+1] {
		b = b.to(a)
	}
	return presented{b.c, agents[n-1], agents[n]}
}

func crowd(s *scene, n int, opts ...svidOption) []*agent {
	agents := make([]*agent, n)
	for i := range agents {
		agents[i] = s.agent(fmt.Sprintf("n%d", i), opts...)
	}
	return agents
}

var hopCounts = []int{1, 3, 5, 8}

// BenchmarkHops is what a verifier costs by the number of hops: whole and warm, by reference, cold with its certificates known, and with
// a new last hop on a prefix that is known.
func BenchmarkHops(b *testing.B) {
	for _, n := range hopCounts {
		b.Run(fmt.Sprintf("%d/warm", n), func(b *testing.B) {
			s := newScene(b)
			p := chainOfHops(s, crowd(s, n+1), n)
			v := s.verifier(p.self)
			b.ReportAllocs()
			for b.Loop() {
				x, err := v.Verify(p.chain, p.by.peer)
				if err != nil || v.Recheck(x, p.by.peer, readIntent()) != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/reference", n), func(b *testing.B) {
			s := newScene(b)
			p := chainOfHops(s, crowd(s, n+1), n)
			v, table := s.verifier(p.self), delegation.NewConnTable()
			x, err := v.Verify(p.chain, p.by.peer)
			if err != nil {
				b.Fatal(err)
			}
			table.Remember(x)
			link := x.Link()
			b.ReportAllocs()
			for b.Loop() {
				x, err := v.Resolve(table, link[:], p.by.peer)
				if err != nil || v.Recheck(x, p.by.peer, readIntent()) != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/cold", n), func(b *testing.B) {
			s := newScene(b)
			p := chainOfHops(s, crowd(s, n+1), n)
			v := s.verifier(p.self)
			b.ReportAllocs()
			for b.Loop() {
				s.keys.generation.Add(1)
				if _, err := v.Verify(p.chain, p.by.peer); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/new-last-hop", n), func(b *testing.B) {
			s := newScene(b)
			p := chainOfHops(s, crowd(s, n+1), n)
			v := s.verifier(p.self)
			chains := lastHops(b, s, p, 512)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%len(chains) == 0 {
					b.StopTimer()
					s.keys.generation.Add(1)
					if _, err := v.Verify(p.chain, p.by.peer); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := v.Verify(chains[i%len(chains)], p.by.peer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// lastHops returns n chains that differ from p in the last hop only.
func lastHops(tb testing.TB, s *scene, p presented, n int) []*v1.DelegationChain {
	tb.Helper()
	hops := p.chain.GetHops()
	hop := new(v1.HopPayload)
	if err := proto.Unmarshal(hops[len(hops)-1].GetPayload(), hop); err != nil {
		tb.Fatal(err)
	}
	out := make([]*v1.DelegationChain, n)
	for i := range out {
		hop.StatementNonce = random(16)
		c := proto.CloneOf(p.chain)
		last := c.GetHops()[len(hops)-1]
		last.Payload = marshal(tb, hop)
		last.Signature = s.sign(p.by, delegation.TypeHop, last.GetPayload())
		out[i] = c
	}
	return out
}

// BenchmarkVerifyFloor is one signature of each kind, what a cold chain cannot be cheaper than.
func BenchmarkVerifyFloor(b *testing.B) {
	s := newScene(b)
	for name, a := range map[string]*agent{"Ed25519": s.a, "P256": s.b} {
		b.Run(name, func(b *testing.B) {
			payload := s.hop1().chain.GetHops()[0].GetPayload()
			sig := s.sign(a, delegation.TypeHop, payload)
			pae := delegation.PAE(delegation.TypeHop, payload)
			for b.Loop() {
				if !delegation.ValidSignature(a.key.Public(), pae, sig) {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkManyChains verifies one of many chains of three hops, picked at random: with 100,000, nearly none is kept whole and nearly all
// by their seals. B/chain is the memory of one more.
func BenchmarkManyChains(b *testing.B) {
	for _, n := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newScene(b)
			agents := crowd(s, 4)
			v := s.verifier(agents[3])
			by := agents[2].peer
			chains := make([]*v1.DelegationChain, 0, n)
			for len(chains) < n { // 100 grants with 1,000 last hops each would share too much; each 10 share a prefix here
				p := chainOfHops(s, agents, 3)
				chains = append(chains, lastHops(b, s, p, min(10, n-len(chains)))...)
			}
			before := heap()
			for _, c := range chains {
				if _, err := v.Verify(c, by); err != nil {
					b.Fatal(err)
				}
			}
			used := heap() - before
			r := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(chains[r.IntN(n)], by); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(used)/float64(n), "B/chain")
			b.ReportMetric(float64(used)/(1<<20), "MiB")
		})
	}
}
