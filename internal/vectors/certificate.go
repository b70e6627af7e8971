package vectors

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"slices"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// certificates is rows 13, 28, 51 and 53.
func certificates(w *world) *File {
	g := newGroup(w, "certificate", algEd25519)
	for _, alg := range []string{algEd25519, algP256} {
		g := g.with(alg)
		control := g.allow(53, "control-"+alg, "one hop", g.hop1())
		g.leaves(control)
		g.outlived()
		g.validity(control)
		g.foreignRoots(control)
	}
	g.kinds("certificate/control-" + g.alg)
	g.paths()
	g.certificatePaths()
	g.unread()
	g.bundles()
	return g.f
}

// certified is hop1, signed and certified by another certificate of agent a.
func (s *scene) certified(label string, opts ...certOption) show {
	p := s.party("a."+label, agentID("a"), s.alg, opts...)
	sh := s.hop1()
	h := sh.chain.GetHops()[0]
	h.Signature = s.sign(p.key, encoding(typeHop, h.GetPayload()))
	sh.chain.Certs[0] = certsOf(p)
	sh.by = s.agent("a")
	return sh
}

func uri(host, path string) *url.URL { return &url.URL{Scheme: "spiffe", Host: host, Path: path} }

// leaves is row 28: certificates that no agent or service can have.
func (g *group) leaves(control string) {
	named := func(uris ...*url.URL) func(*x509.Certificate) { return func(c *x509.Certificate) { c.URIs = uris } }
	own, path := uri(domain, "/tenant/blue/agent/a"), "/tenant/blue/agent/a"
	for _, tc := range []struct {
		name, title string
		do          func(*x509.Certificate)
	}{
		{"two-uris", "two URI SANs", named(own, uri(domain, "/tenant/blue/agent/x"))},
		{"same-uri-twice", "the same URI SAN twice", named(own, own)},
		{"no-uri", "no URI SAN", named()},
		{"common-name", "the SPIFFE ID as common name only", func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, agentID("a") }},
		{"dns-name", "a DNS name only", func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"a.blue.acme.test"} }},
		{"https", "an https URI", named(&url.URL{Scheme: "https", Host: domain, Path: path})},
		{"other-domain", "another trust domain", named(uri(foreign, path))},
		{"other-tenant", "another tenant", named(uri(domain, "/tenant/red/agent/a"))},
		{"other-agent", "another agent", named(uri(domain, "/tenant/blue/agent/x"))},
		{"no-path", "no path", named(uri(domain, ""))},
		{"short-path", "a path of no known shape", named(uri(domain, "/tenant/blue"))},
		{"long-path", "a longer path", named(uri(domain, path+"/x"))},
		{"upper-case", "a name in upper case", named(uri(domain, "/tenant/blue/agent/A"))},
		{"ca", "a CA", func(c *x509.Certificate) { c.IsCA = true }},
		{"signs-certs", "a leaf that may sign certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{"signs-crls", "a leaf that may sign revocation lists", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }},
		{"no-signatures", "a leaf that may only agree on keys", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }},
		{"no-key-usage", "a leaf without key usage", func(c *x509.Certificate) { c.KeyUsage = 0 }},
		{"no-client", "a leaf for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }},
		{"no-server", "a leaf for clients only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{"no-extended-usage", "a leaf without extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
	} {
		g.deny(28, tc.name+"-"+g.alg, tc.title, control, badSigner, g.certified(tc.name, template(tc.do)))
	}
}

// kinds is row 28 for keys that sign no statements, and for what is no certificate.
func (g *group) kinds(control string) {
	wide := g.curveKey(elliptic.P384(), "a")
	g.deny(28, "p384", "a P-384 key", control, badSigner, g.certified("p384", keyed(wide)))
	var n []byte
	for i := range 8 {
		n = append(n, seed("rsa "+string(rune('0'+i)))...)
	}
	n[0], n[len(n)-1] = n[0]|0x80, n[len(n)-1]|1
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	g.deny(28, "rsa", "an RSA key", control, badSigner, g.certified("rsa", publicKey(crypto.PublicKey(public))))
	raw := func(f func(c *v1.CertChain)) show {
		sh := g.hop1()
		f(sh.chain.GetCerts()[0])
		return sh
	}
	g.deny(28, "no-certificate", "bytes that are no certificate", control, badSigner, raw(func(c *v1.CertChain) { c.Leaf = []byte("certificate") }))
	g.deny(28, "truncated", "a certificate without its last byte", control, badSigner, raw(func(c *v1.CertChain) {
		c.Leaf = c.GetLeaf()[:len(c.GetLeaf())-1]
	}))
	g.deny(28, "trailing", "a certificate with a byte behind it", control, badSigner, raw(func(c *v1.CertChain) {
		c.Leaf = append(slices.Clone(c.GetLeaf()), 0)
	}))
	g.deny(28, "root", "the root's own certificate", control, badSigner, raw(func(c *v1.CertChain) { c.Leaf = g.root.cert.Raw }))
}

// outlived is row 13.
func (g *group) outlived() {
	ends := func(ms int64) show {
		p := g.party("a.short", agentID("a"), g.alg, lives(startMs-minuteMs, startMs+5*minuteMs))
		sh := show{chain: g.chain(p).to(g.agent("b"), func(h *v1.HopPayload) { h.ExpiresAtMs = ms }).c, by: p, self: g.agent("b")}
		return sh
	}
	end := int64(startMs + 5*minuteMs)
	control := g.allow(13, "ends-with-certificate-"+g.alg, "a hop ends with its signer's certificate", ends(end))
	g.deny(13, "outlives-certificate-"+g.alg, "a hop ends a millisecond after its signer's certificate", control, badLife, ends(end+1))
	g.deny(13, "outlives-certificate-by-minutes-"+g.alg, "a hop ends with the grant, after its signer's certificate", control, badLife,
		ends(startMs+grantLifeMs))
}

// validity is row 53 for the life of one certificate. The end of a life is inclusive.
func (g *group) validity(control string) {
	g.deny(53, "expired-"+g.alg, "an expired certificate", control, badSVID, g.certified("expired", lives(startMs-hourMs, startMs-minuteMs)))
	g.deny(53, "expired-1s-"+g.alg, "a certificate that expired a second ago", control, badSVID,
		g.certified("expired1", lives(startMs-hourMs, startMs-1000)))
	g.deny(53, "not-yet-"+g.alg, "a certificate that begins in a second", control, badSVID,
		g.certified("ahead", lives(startMs+1000, startMs+hourMs)))
	g.allow(53, "begins-now-"+g.alg, "a certificate that begins now", g.certified("now", lives(startMs, startMs+hourMs)))
	sh := g.hop1()
	sh.by = g.rotated("a")
	g.allow(53, "rotated-"+g.alg, "the signer's certificate rotated between signing and use", sh)
	g.deny(53, "self-signed-"+g.alg, "a certificate of the right name that its own key has signed", control, badSVID, g.selfSigned())
	other := g.newCA("other root", g.curveKey(elliptic.P256(), "other root"), nil)
	g.deny(53, "unknown-root-"+g.alg, "a certificate under a root that nobody trusts", control, badSVID, g.certified("unknown", issuedBy(other)))
	namesake := g.newCA("root", g.curveKey(elliptic.P256(), "namesake"), nil)
	g.deny(53, "namesake-root-"+g.alg, "a certificate under a root of the same name with another key", control, badSVID,
		g.certified("namesake", issuedBy(namesake)))
}

func (g *group) selfSigned() show {
	key := g.agent("a").key
	own := &ca{key: key, cert: &x509.Certificate{Subject: pkix.Name{CommonName: "self"}}}
	return g.certified("self", keyed(key), issuedBy(own))
}

// foreignRoots is row 51.
func (g *group) foreignRoots(control string) {
	evil := g.newCA(foreign+" root", g.curveKey(elliptic.P256(), foreign+" root"), nil)
	trust := g.baseTrust()
	trust.Bundles = append(trust.Bundles, &Bundle{TrustDomain: foreign, Roots: []Hex{evil.cert.Raw}})
	g.f.Trust["two-domains"] = trust
	g.f.Trust["foreign-only"] = &Trust{Bundles: trust.Bundles[1:], GrantKeys: trust.GrantKeys}
	local := g.certified("evil", issuedBy(evil))
	local.trust = "two-domains"
	g.deny(51, "foreign-root-"+g.alg, "a root of another trusted domain signs an identity of this one", control, badSVID, local)
	honest := g.hop1()
	honest.trust = "two-domains"
	g.allow(51, "two-domains-"+g.alg, "the control before a verifier that trusts another domain as well", honest)
	absent := g.hop1()
	absent.trust = "foreign-only"
	g.deny(51, "no-bundle-"+g.alg, "the control before a verifier that trusts another domain only", "certificate/two-domains-"+g.alg, noBundle, absent)
}

// paths is row 53 for intermediates.
func (g *group) paths() {
	key := func(label string) crypto.Signer { return g.curveKey(elliptic.P256(), label) }
	inter := g.newCA("intermediate", ed25519Key("intermediate"), g.root)
	second := g.newCA("second intermediate", key("second intermediate"), inter)
	one := g.allow(53, "intermediate", "a certificate under an intermediate", g.certified("inter", issuedBy(inter, inter)))
	two := g.allow(53, "intermediates", "a certificate under two intermediates", g.certified("inter2", issuedBy(second, second, inter)))
	g.allow(53, "intermediates-reversed", "the intermediates in the other order", g.certified("inter2r", issuedBy(second, inter, second)))
	g.deny(53, "intermediate-missing", "the intermediate is missing", one, badSVID, g.certified("inter-none", issuedBy(inter)))
	g.deny(53, "second-intermediate-missing", "one of two intermediates is missing", two, badSVID, g.certified("inter-half", issuedBy(second, second)))
	unreadable := g.certified("inter", issuedBy(inter, inter))
	unreadable.chain.Certs[0].Intermediates = [][]byte{[]byte("ca")}
	g.deny(53, "intermediate-unreadable", "an intermediate that is no certificate", one, badSVID, unreadable)
	direct := g.certified("direct")
	direct.chain.Certs[0].Intermediates = [][]byte{[]byte("ca")}
	g.deny(53, "needless-unreadable", "an intermediate that is no certificate and that nothing needs", "certificate/control-"+g.alg, badSVID, direct)
	needless := g.certified("direct")
	needless.chain.Certs[0].Intermediates = [][]byte{inter.cert.Raw}
	g.allow(53, "needless", "an intermediate that nothing needs", needless)
	leafCA := &ca{key: g.agent("c").key, cert: g.parse(g.agent("c").leaf)}
	g.deny(53, "agent-as-ca", "an agent's certificate as intermediate", one, badSVID, g.certified("agent-ca", issuedBy(leafCA, leafCA)))
	plain := g.newCA("no signing", key("no signing"), g.root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	g.deny(53, "ca-may-not-sign", "an intermediate without the right to sign certificates", one, badSVID, g.certified("plain", issuedBy(plain, plain)))
	flat := g.newCA("flat", key("flat"), g.root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := g.newCA("below flat", key("below flat"), flat)
	g.allow(53, "path-length", "an intermediate of path length 0 over a leaf", g.certified("flat", issuedBy(flat, flat)))
	g.deny(53, "path-length-over", "an intermediate of path length 0 over another intermediate", two, badSVID,
		g.certified("below", issuedBy(below, below, flat)))
	odd := g.newCA("odd", key("odd"), g.root, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Critical: true, Value: []byte{5, 0}}}
	})
	g.deny(53, "critical-extension", "an intermediate with a critical extension that nobody knows", one, badSVID, g.certified("odd", issuedBy(odd, odd)))
	life := func(label string, from, to int64) *ca {
		return g.newCA(label, key(label), g.root, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = at(from), at(to) })
	}
	ended := life("ended", startMs-hourMs, startMs-1000)
	g.deny(53, "intermediate-expired", "an intermediate that expired a second ago", one, badSVID, g.certified("ended", issuedBy(ended, ended)))
	last := life("last", startMs-hourMs, startMs)
	sh := g.certified("last", issuedBy(last, last))
	control := g.allow(53, "intermediate-last-ms", "an intermediate in the last millisecond of its life", sh)
	sh.nowMs = startMs + 1
	g.deny(53, "intermediate-over", "the same a millisecond later", control, badSVID, sh)
}

func (g *group) parse(der []byte) *x509.Certificate {
	c, err := x509.ParseCertificate(der)
	g.fail(err)
	return c
}

// bundles is row 53 for roots that change.
func (g *group) bundles() {
	next := g.newCA("next root", ed25519Key("next root"), nil)
	old := g.root
	trust := func(name string, roots ...*ca) string {
		t := g.baseTrust()
		t.Bundles[0].Roots = []Hex{}
		for _, r := range roots {
			t.Bundles[0].Roots = append(t.Bundles[0].Roots, r.cert.Raw)
		}
		g.f.Trust[name] = t
		return name
	}
	both, after, empty := trust("overlap", old, next), trust("next-only", next), trust("emptied")
	none := g.baseTrust()
	none.Bundles = []*Bundle{}
	g.f.Trust["removed"] = none
	under := func(name string, sh show) show { sh.trust = name; return sh }
	fresh := g.certified("next", issuedBy(next))
	control := "certificate/control-" + g.alg
	overlap := g.allow(53, "overlap-old", "an old certificate while both roots are trusted", under(both, g.hop1()))
	g.allow(53, "overlap-new", "a new certificate while both roots are trusted", under(both, fresh))
	g.deny(53, "old-after-overlap", "an old certificate when only the new root is trusted", overlap, badSVID, under(after, g.hop1()))
	g.allow(53, "new-after-overlap", "a new certificate when only the new root is trusted", under(after, fresh))
	g.deny(53, "new-before-overlap", "a new certificate when only the old root is trusted", "certificate/overlap-new", badSVID, fresh)
	g.deny(53, "bundle-empty", "an empty bundle", control, badSVID, under(empty, g.hop1()))
	g.deny(53, "bundle-removed", "no bundle", control, noBundle, under("removed", g.hop1()))
	steps := func(names ...string) []*Step {
		var out []*Step
		for _, name := range names {
			code := Allow
			switch name {
			case after, empty:
				code = badSVID
			case "removed":
				code = noBundle
			}
			st := g.step(g.hop1(), code)
			st.Trust = name
			out = append(out, st)
		}
		return out
	}
	self := g.agent("b")
	g.sequence(53, "rotation", "the roots rotate under a chain that was accepted", "", "base", self, steps("base", both, after)...)
	g.sequence(53, "emptied", "the bundle is emptied under a chain that was accepted, and filled again", "", "base", self, steps("base", empty, "base")...)
	g.sequence(53, "removed", "the bundle is removed under a chain that was accepted", "", "base", self, steps("base", "removed")...)
	noKeys := g.baseTrust()
	noKeys.GrantKeys = []*GrantKey{}
	g.f.Trust["no-keys"] = noKeys
	withdrawn := g.step(g.hop1(), badKey)
	withdrawn.Trust = "no-keys"
	g.sequence(53, "key-withdrawn", "the grant key is withdrawn under a chain that was accepted", "", "base", self, g.step(g.hop1(), Allow), withdrawn)
}
