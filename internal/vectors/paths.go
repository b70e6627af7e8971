package vectors

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
)

// The places of what follows in a TBSCertificate of version 3.
const (
	tbsSerial = 1
	tbsKey    = 6
)

// rebuilt makes a party's certificate of the fields that change leaves, which crypto/x509 would not issue.
func rebuilt(change func(fields [][]byte)) certOption {
	return func(s *certSpec) { s.rebuild = change }
}

// rebuild takes the TBSCertificate of a certificate apart, and signs what change makes of it. The issuer has a P-256 key.
func (w *world) rebuild(der []byte, by *ca, change func(fields [][]byte)) []byte {
	var cert struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	_, err := asn1.Unmarshal(der, &cert)
	w.failOn("reading a certificate", err)
	var fields [][]byte
	for rest := cert.TBS.Bytes; len(rest) > 0 && err == nil; {
		var f asn1.RawValue
		rest, err = asn1.Unmarshal(rest, &f)
		fields = append(fields, f.FullBytes)
	}
	w.failOn("reading a certificate", err)
	change(fields)
	cert.TBS = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(fields, nil)}
	tbs, err := asn1.Marshal(cert.TBS)
	w.failOn("encoding a certificate", err)
	sig, err := by.key.Sign(nil, digest(tbs), crypto.SHA256)
	w.failOn("signing a certificate", err)
	cert.TBS, cert.Signature = asn1.RawValue{FullBytes: tbs}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	out, err := asn1.Marshal(cert)
	w.failOn("encoding a certificate", err)
	return out
}

func (w *world) failOn(what string, err error) {
	if err != nil {
		w.fail(fmt.Errorf("%s: %w", what, err))
	}
}

// unread is certificates that some libraries read and a verifier does not.
func (g *group) unread() {
	control := "certificate/control-" + g.alg
	compress := func(fields [][]byte) {
		var info struct {
			Algorithm asn1.RawValue
			Key       asn1.BitString
		}
		_, err := asn1.Unmarshal(fields[tbsKey], &info)
		g.failOn("reading a key", err)
		point := info.Key.Bytes[:1+len(info.Key.Bytes)/2]
		point[0] = 2 | info.Key.Bytes[len(info.Key.Bytes)-1]&1
		info.Key = asn1.BitString{Bytes: point, BitLength: 8 * len(point)}
		fields[tbsKey], err = asn1.Marshal(info)
		g.failOn("encoding a key", err)
	}
	short := keyed(g.curveKey(elliptic.P256(), "compressed"))
	whole := g.party("a.point", agentID("a"), algP256, short)
	g.allow(28, "point", "a P-256 key as an uncompressed point", g.certified("point-whole", short))
	g.deny(28, "point-compressed", "the same key as a compressed point", "certificate/point", badSigner, g.certified("compressed", short, rebuilt(compress)))
	needless := g.certified("direct")
	needless.chain.Certs[0].Intermediates = [][]byte{g.rebuild(whole.leaf, g.root, compress)}
	g.deny(53, "point-compressed-needless", "a needless intermediate whose key is a compressed point", "certificate/needless", badSVID, needless)
	negative := func(fields [][]byte) {
		fields[tbsSerial] = slices.Clone(fields[tbsSerial])
		fields[tbsSerial][2] |= 0x80
	}
	g.deny(28, "serial-negative", "a negative serial number", control, badSigner, g.certified("negative", rebuilt(negative)))
}

// certificatePaths is row 53 for what may stand between a leaf and a root, and for roots.
func (g *group) certificatePaths() {
	one, control := "certificate/intermediate", "certificate/control-"+g.alg
	key := func(label string) crypto.Signer { return g.curveKey(elliptic.P256(), label) }
	under := func(label string, by *ca, change ...func(*x509.Certificate)) show {
		c := g.newCA(label, key(label), by, change...)
		return g.certified("under "+label, issuedBy(c, c))
	}
	noCA := func(c *x509.Certificate) { c.IsCA = false }
	absent := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }
	anyUse := func(c *x509.Certificate) { c.KeyUsage = 0 }
	g.deny(53, "ca-false", "an intermediate that is no CA, with the right to sign certificates", one, badSVID, under("ca false", g.root, noCA))
	g.deny(53, "ca-false-any-use", "an intermediate that is no CA, without key usage", one, badSVID, under("ca false any", g.root, noCA, anyUse))
	g.deny(53, "ca-absent", "an intermediate without basic constraints, with the right to sign certificates", one, badSVID, under("ca absent", g.root, absent))
	g.deny(53, "ca-absent-any-use", "an intermediate without basic constraints and without key usage", one, badSVID,
		under("ca absent any", g.root, absent, anyUse))
	g.allow(53, "ca-any-use", "an intermediate without key usage", under("ca any", g.root, anyUse))
	named := g.newCA("named", key("named"), g.root)
	renamed := g.newCA("renamed", named.key, g.root)
	g.deny(53, "ca-other-name", "an intermediate of the right key and another name", one, badSVID, g.certified("renamed", issuedBy(named, renamed)))
	g.allow(53, "ca-both-names", "the same beside the right one", g.certified("both names", issuedBy(named, renamed, named)))
	unknown := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Critical: true, Value: []byte{5, 0}}}
	critical := func(c *x509.Certificate) { c.ExtraExtensions = unknown }
	plain := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: unknown[0].Id, Value: unknown[0].Value}}
	}
	extended := g.allow(53, "leaf-extension", "a leaf with an extension that nobody knows", g.certified("extended", template(plain)))
	g.deny(53, "leaf-critical-extension", "a leaf with a critical extension that nobody knows", extended, badSVID, g.certified("critical", template(critical)))
	g.allow(53, "sha384", "a certificate signed with SHA-384", g.certified("sha384", template(func(c *x509.Certificate) {
		c.SignatureAlgorithm = x509.ECDSAWithSHA384
	})))
	g.deny(53, "sha1", "a certificate signed with SHA-1", control, badSVID, g.certified("sha1", template(func(c *x509.Certificate) {
		c.SignatureAlgorithm = x509.ECDSAWithSHA1
	})))
	within := func(permitted, excluded string) show {
		return under("within "+permitted+" "+excluded, g.root, func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical = true
			if permitted != "" {
				c.PermittedURIDomains = []string{permitted}
			}
			if excluded != "" {
				c.ExcludedURIDomains = []string{excluded}
			}
		})
	}
	inside := g.allow(53, "names-permitted", "an intermediate for the trust domain", within(domain, ""))
	g.allow(53, "names-permitted-above", "an intermediate for the domain above the trust domain", within("test", ""))
	g.allow(53, "names-excluded-other", "an intermediate for all but another trust domain", within("", foreign))
	g.deny(53, "names-permitted-other", "an intermediate for another trust domain", inside, badSVID, within(foreign, ""))
	g.deny(53, "names-permitted-below", "an intermediate for what is below the trust domain", inside, badSVID, within("."+domain, ""))
	g.deny(53, "names-permitted-suffix", "an intermediate for a domain that the trust domain ends in, in the middle of a name", inside, badSVID, within("me.test", ""))
	g.deny(53, "names-excluded", "an intermediate for all but the trust domain", inside, badSVID, within("", domain))
	g.deny(53, "names-both", "an intermediate for the trust domain, which it excludes", inside, badSVID, within("test", domain))
	g.rootPaths(critical, noCA)
}

// rootPaths is roots that differ in one thing.
func (g *group) rootPaths(critical, noCA func(*x509.Certificate)) {
	key := func(label string) crypto.Signer { return g.curveKey(elliptic.P256(), label) }
	control := "certificate/control-" + g.alg
	trust := func(name string, roots ...*ca) string {
		t := g.baseTrust()
		t.Bundles[0].Roots = []Hex{}
		for _, r := range roots {
			t.Bundles[0].Roots = append(t.Bundles[0].Roots, r.cert.Raw)
		}
		g.f.Trust[name] = t
		return name
	}
	of := func(label string, change func(*x509.Certificate)) (*ca, show) {
		root := g.newCA(label, key(label), nil, change)
		sh := g.certified("under "+label, issuedBy(root))
		sh.trust = trust(label, root)
		return root, sh
	}
	until := func(ms int64) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = at(startMs-hourMs), at(ms) }
	}
	_, sh := of("ended root", until(startMs-1000))
	g.deny(53, "root-expired", "a root that expired a second ago", control, badSVID, sh)
	_, sh = of("last root", until(startMs))
	last := g.allow(53, "root-last-ms", "a root in the last millisecond of its life", sh)
	sh.nowMs = startMs + 1
	g.deny(53, "root-over", "the same a millisecond later", last, badSVID, sh)
	_, sh = of("next day root", func(c *x509.Certificate) { c.NotBefore = at(startMs + 1000) })
	g.deny(53, "root-ahead", "a root that begins in a second", control, badSVID, sh)
	flat, sh := of("flat root", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	short := g.allow(53, "root-path-length", "a root of path length 0 over a leaf", sh)
	between := g.newCA("below flat root", key("below flat root"), flat)
	sh = g.certified("below flat root", issuedBy(between, between))
	sh.trust = "flat root"
	g.deny(53, "root-path-length-over", "a root of path length 0 over an intermediate", short, badSVID, sh)
	_, sh = of("odd root", critical)
	g.deny(53, "root-critical-extension", "a root with a critical extension that nobody knows", control, badSVID, sh)
	_, sh = of("root ca false", noCA)
	g.deny(53, "root-ca-false", "a root that is no CA", control, badSVID, sh)
	_, sh = of("root may not sign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	g.deny(53, "root-may-not-sign", "a root without the right to sign certificates", control, badSVID, sh)
	namesake := g.newCA("root", key("namesake of the root"), nil)
	for _, tc := range []struct {
		name  string
		roots []*ca
	}{{"namesake-first", []*ca{namesake, g.root}}, {"namesake-last", []*ca{g.root, namesake}}} {
		sh = g.hop1()
		sh.trust = trust(tc.name, tc.roots...)
		g.allow(53, "root-"+tc.name, "two roots of one name, of which one has the key", sh)
	}
	sh = g.hop1()
	sh.trust = trust("namesake", namesake)
	g.deny(53, "root-namesake", "a root of the right name and another key", "certificate/root-namesake-first", badSVID, sh)
	pinned := g.certified("pinned", issuedBy(g.newCA("unknown to all", key("unknown to all"), nil)))
	leaf := &ca{cert: g.parse(pinned.chain.GetCerts()[0].GetLeaf())}
	pinned.trust = trust("leaf", leaf)
	direct := g.allow(53, "leaf-in-bundle", "a leaf that is itself in the bundle, whoever issued it", pinned)
	pinned.trust = ""
	g.deny(53, "leaf-not-in-bundle", "the same when it is not", direct, badSVID, pinned)
	over := g.certified("pinned-over", lives(startMs-hourMs, startMs-1000))
	over.trust = trust("leaf over", &ca{cert: g.parse(over.chain.GetCerts()[0].GetLeaf())})
	g.deny(53, "leaf-in-bundle-expired", "a leaf that is itself in the bundle and expired", direct, badSVID, over)
}
