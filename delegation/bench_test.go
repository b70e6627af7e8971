package delegation_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/delegation"
)

// three is a chain of three hops, all signed with Ed25519.
func three(b *testing.B) (*scene, presented) {
	b.Helper()
	s := newScene(b)
	s.b, s.d = s.agent("b"), s.agent("d")
	return s, presented{s.chain(s.a).to(s.b).to(s.c).to(s.d).c, s.c, s.d}
}

func BenchmarkVerifyWarm3(b *testing.B) {
	s, p := three(b)
	v := s.verifier(s.d)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(p.chain, p.by.peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCold3(b *testing.B) {
	s, p := three(b)
	v := s.verifier(s.d)
	b.ReportAllocs()
	for b.Loop() {
		s.keys.generation.Add(1) // certificates stay cached, signatures do not
		if _, err := v.Verify(p.chain, p.by.peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCold3WithCertificates(b *testing.B) {
	s, p := three(b)
	v := s.verifier(s.d)
	b.ReportAllocs()
	for b.Loop() {
		s.bundle.Add(1)
		if _, err := v.Verify(p.chain, p.by.peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	s, p := three(b)
	v := s.verifier(s.d)
	x, err := v.Verify(p.chain, p.by.peer)
	if err != nil {
		b.Fatal(err)
	}
	table, link := delegation.NewConnTable(), x.Link()
	table.Remember(x)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Resolve(table, link[:], p.by.peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecheck(b *testing.B) {
	s, p := three(b)
	v := s.verifier(s.d, func(c *delegation.Config) { c.Revoked = new(revoked) })
	x, err := v.Verify(p.chain, p.by.peer)
	if err != nil {
		b.Fatal(err)
	}
	in := readIntent()
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Recheck(x, p.by.peer, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	s := newScene(b)
	for name, a := range map[string]*agent{"Ed25519": s.a, "P256": s.b} {
		b.Run(name, func(b *testing.B) {
			root, spec := s.root(a), delegation.HopSpec{Delegate: s.c.id}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := delegation.Append(root, spec, a.signer, s.now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	s := newScene(b)
	payload, table := s.hop1().chain.GetHops()[0].GetPayload(), delegation.Tables()["HopPayload"]
	b.ReportAllocs()
	for b.Loop() {
		if table.Scan(payload) != 0 {
			b.Fatal("refused")
		}
	}
}
