package tlstransport

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"detour.dev/detour/internal/testcert"
)

// remembering is a verifier that has verified the chain once and whose authorities are gone since, so that a chain
// passes only where the verdict is remembered.
func remembering(t *testing.T, trust *x509.CertPool, crl []byte, chain ...*x509.Certificate) (v *verifier, now *time.Time) {
	t.Helper()
	clock := time.Now()
	v = &verifier{material: &material{roots: trust}, name: "a.test", leafOnly: true, now: func() time.Time { return clock }}
	if crl != nil {
		apply, err := parseCRLs([][]byte{crl})
		if err != nil {
			t.Fatal(err)
		}
		apply(v.material)
	}
	if err := v.check(tls.ConnectionState{PeerCertificates: chain}); err != nil {
		t.Fatal(err)
	}
	v.roots = x509.NewCertPool()
	return v, &clock
}

func TestChainIsRemembered(t *testing.T) {
	root := must(testcert.NewCA("root"))(t)
	inter := must(root.Intermediate("between"))(t)
	pair, other := must(inter.Server("a.test", "b.test"))(t), must(inter.Server("a.test"))(t)
	chain := []*x509.Certificate{pair.Leaf, inter.Cert}
	v, now := remembering(t, root.Pool(), nil, chain...)
	verified := *now
	for _, c := range []struct {
		what  string
		name  string
		after time.Duration
		chain []*x509.Certificate
		want  bool
	}{
		{"the same chain", "a.test", 0, chain, true},
		{"a resumed session's", "a.test", chainFor - time.Second, chain, true},
		{"another name that it carries", "b.test", 0, chain, true},
		{"a name that it does not carry", "c.test", 0, chain, false},
		{"another leaf", "a.test", 0, []*x509.Certificate{other.Leaf, inter.Cert}, false},
		{"without the intermediate", "a.test", 0, chain[:1], false},
		{"in another order", "a.test", 0, []*x509.Certificate{inter.Cert, pair.Leaf}, false},
		{"after its time", "a.test", chainFor, chain, false},
		{"before its time", "a.test", -time.Second, chain, false},
	} {
		v.name, *now = c.name, verified.Add(c.after)
		err := v.check(tls.ConnectionState{PeerCertificates: c.chain, DidResume: c.after > 0})
		if (err == nil) != c.want || err != nil && kindOf(err) != KindCertificate {
			t.Errorf("%s: %v, want success %v", c.what, err, c.want)
		}
	}
}

// A verdict ends with the first thing it depends on.
func TestChainExpires(t *testing.T) {
	soon := time.Now().Add(time.Minute).Truncate(time.Second)
	root := must(testcert.NewCA("root"))(t)
	short := must(root.Issue(testcert.Template{Names: []string{"a.test"}, NotAfter: soon}))(t)
	long := must(root.Server("a.test"))(t)

	v, now := remembering(t, root.Pool(), nil, short.Leaf, root.Cert)
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{short.Leaf, root.Cert}}
	*now = soon.Add(-time.Second)
	if err := v.check(state); err != nil {
		t.Errorf("before the leaf expires: %v", err)
	}
	*now = soon.Add(time.Second)
	if err := v.check(state); kindOf(err) != KindCertificate {
		t.Errorf("after the leaf expired: %v", err)
	}

	v, now = remembering(t, root.Pool(), must(root.CRL(short))(t), long.Leaf)
	v.crls[0].NextUpdate = soon
	v.chains = chainCache{}
	v.roots = root.Pool()
	state.PeerCertificates = []*x509.Certificate{long.Leaf}
	if err := v.check(state); err != nil {
		t.Fatal(err)
	}
	*now = soon.Add(time.Second)
	if err := v.check(state); kindOf(err) != KindCertificate {
		t.Errorf("after the revocation list expired: %v", err)
	}
}

// Only success is remembered, and only so much of it.
func TestChainCacheBounds(t *testing.T) {
	root, other := must(testcert.NewCA("root"))(t), must(testcert.NewCA("other"))(t)
	leaf := must(other.Server("a.test"))(t).Leaf
	v := &verifier{material: &material{roots: root.Pool()}, name: "a.test", now: time.Now}
	if err := v.check(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); kindOf(err) != KindCertificate {
		t.Fatal(err)
	}
	if len(v.chains.trusted) != 0 {
		t.Error("a chain that is not trusted is remembered")
	}
	now := time.Now()
	for i := range 3 * maxChains {
		key := chainKey{byte(i), byte(i >> 8)}
		v.chains.put(key, now, now.Add(time.Hour))
		if !v.chains.has(key, now) {
			t.Fatalf("%d is not remembered", i)
		}
		if n := len(v.chains.trusted); n > maxChains {
			t.Fatalf("%d chains are remembered", n)
		}
	}
}
