package testcert

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"testing"
	"time"
)

func TestIssue(t *testing.T) {
	ca, err := NewCA("root")
	if err != nil {
		t.Fatal(err)
	}
	inter, err := ca.Intermediate("between")
	if err != nil {
		t.Fatal(err)
	}
	for _, rsa := range []bool{false, true} {
		p, err := inter.Issue(Template{Names: []string{"a.test", "127.0.0.1", "spiffe://x/y"}, RSA: rsa})
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := p.WriteFiles(t.TempDir(), "a")
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(loaded.Certificate); n != 2 {
			t.Errorf("a chain of %d, want leaf and intermediate, without the root", n)
		}
		between := x509.NewCertPool()
		between.AddCert(inter.Cert)
		for _, name := range []string{"a.test", "127.0.0.1"} {
			if _, err := p.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), Intermediates: between, DNSName: name}); err != nil {
				t.Error(err)
			}
		}
		if len(p.Leaf.URIs) != 1 || time.Until(p.Leaf.NotAfter) < Validity-time.Hour {
			t.Errorf("URIs %v, until %s", p.Leaf.URIs, p.Leaf.NotAfter)
		}
		if fi, _ := os.Stat(key); fi.Mode().Perm() != 0o600 {
			t.Errorf("the key's mode is %s", fi.Mode())
		}
	}
	path, err := ca.WriteFile(t.TempDir(), "ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); !x509.NewCertPool().AppendCertsFromPEM(data) {
		t.Error("the trust file holds no certificate")
	}
}

func TestCRL(t *testing.T) {
	ca, err := NewCA("root")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Server("a.test")
	if err != nil {
		t.Fatal(err)
	}
	data, err := ca.CRL(p)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil || list.CheckSignatureFrom(ca.Cert) != nil {
		t.Fatal(err, list.CheckSignatureFrom(ca.Cert))
	}
	if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(p.Leaf.SerialNumber) != 0 {
		t.Errorf("revoked %v", list.RevokedCertificateEntries)
	}
}
