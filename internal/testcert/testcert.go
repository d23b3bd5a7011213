// Package testcert makes certificates for tests, for the feature tests' upstreams and for the stand-in servers of
// `detour demo`: an authority, and leaves that it signs. Keys are ECDSA P-256 unless asked otherwise. Nothing here
// may be used to serve anybody but oneself.
package testcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Validity is how long a certificate is good for when its Template doesn't say: from one hour ago, so that clocks
// may differ a little.
const Validity = 30 * 24 * time.Hour

// CA is an authority: it signs leaves, intermediate authorities and revocation lists.
type CA struct {
	Cert *x509.Certificate
	// PEM is the certificate, for a trust file.
	PEM []byte

	key   crypto.Signer
	above []*CA // the authorities between this one and the root, nearest first; none in a root
}

// NewCA makes a root authority.
func NewCA(commonName string) (*CA, error) {
	return newCA(commonName, nil)
}

// Intermediate makes an authority that ca has signed. The leaves it issues carry the chain up to the root.
func (ca *CA) Intermediate(commonName string) (*CA, error) {
	return newCA(commonName, ca)
}

func newCA(commonName string, parent *CA) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl, err := base(commonName, Template{})
	if err != nil {
		return nil, err
	}
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	ca := &CA{key: key}
	if parent == nil {
		parent = &CA{Cert: tmpl, key: key}
	} else {
		ca.above = append([]*CA{parent}, parent.above...)
	}
	ca.Cert, ca.PEM, err = sign(tmpl, parent, key.Public())
	return ca, err
}

// Template says what a leaf is like. The zero value of each field is a sensible default.
type Template struct {
	// Names are the subject alternative names: IP addresses, URIs (anything with "://") and DNS names.
	Names []string
	// NotBefore and NotAfter bound the certificate's life; zero: one hour ago, and Validity from now.
	NotBefore, NotAfter time.Time
	// RSA makes a 2048-bit RSA key instead of a P-256 one.
	RSA bool
	// Client makes a certificate for client authentication instead of a server's.
	Client bool
}

// Pair is a leaf certificate with its key and the chain to the root (the root itself left out).
type Pair struct {
	Leaf *x509.Certificate
	// ChainPEM is the leaf, then the authorities between it and the root. KeyPEM is its key in PKCS#8.
	ChainPEM, KeyPEM []byte
}

// Server issues a server certificate for the names.
func (ca *CA) Server(names ...string) (*Pair, error) { return ca.Issue(Template{Names: names}) }

// Issue makes and signs a leaf.
func (ca *CA) Issue(t Template) (*Pair, error) {
	key, err := newKey(t.RSA)
	if err != nil {
		return nil, err
	}
	cn := "client"
	if len(t.Names) > 0 {
		cn = t.Names[0]
	}
	tmpl, err := base(cn, t)
	if err != nil {
		return nil, err
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if t.Client {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	leaf, chain, err := sign(tmpl, ca, key.Public())
	if err != nil {
		return nil, err
	}
	for _, c := range append([]*CA{ca}, ca.above...) {
		if len(c.above) > 0 { // a root is not sent
			chain = append(chain, c.PEM...)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return &Pair{Leaf: leaf, ChainPEM: chain, KeyPEM: keyPEM}, nil
}

// CRL issues a revocation list, in PEM, that revokes the leaves.
func (ca *CA) CRL(revoked ...*Pair) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(Validity)}
	for _, p := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.Leaf.SerialNumber, RevocationTime: list.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

// Pool is a trust store with this authority alone.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.Cert)
	return p
}

// WriteFile writes the authority's certificate to dir/name and returns the path.
func (ca *CA) WriteFile(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, ca.PEM, 0o644)
}

// WriteFiles writes dir/name.crt (the chain) and dir/name.key (mode 0600) and returns their paths.
func (p *Pair) WriteFiles(dir, name string) (cert, key string, err error) {
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := os.WriteFile(cert, p.ChainPEM, 0o644); err != nil {
		return "", "", err
	}
	return cert, key, os.WriteFile(key, p.KeyPEM, 0o600)
}

// TLS is the pair as crypto/tls takes it.
func (p *Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.ChainPEM, p.KeyPEM) }

func newKey(useRSA bool) (crypto.Signer, error) {
	if useRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func base(commonName string, t Template) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = time.Now().Add(-time.Hour)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = time.Now().Add(Validity)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName},
		NotBefore: t.NotBefore, NotAfter: t.NotAfter,
	}
	for _, n := range t.Names {
		switch ip := net.ParseIP(n); {
		case ip != nil:
			c.IPAddresses = append(c.IPAddresses, ip)
		case strings.Contains(n, "://"):
			u, err := url.Parse(n)
			if err != nil {
				return nil, fmt.Errorf("name %q: %w", n, err)
			}
			c.URIs = append(c.URIs, u)
		default:
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return c, nil
}

func sign(tmpl *x509.Certificate, parent *CA, pub crypto.PublicKey) (*x509.Certificate, []byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent.Cert, pub, parent.key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
