package analyze

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/internal/config"
)

// noon is when the tests' certificates are valid.
var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// authority signs the tests' certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, file}
}

// issue makes a certificate for names that ends after a time.
func (a *authority) issue(t *testing.T, life time.Duration, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve answers handshakes on a loopback port with one certificate and gives the port.
func serve(t *testing.T, cert tls.Certificate) int {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).HandshakeContext(context.Background())
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// closedPort gives a loopback port that nobody listens on.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// loopback resolves every name under example.net to 127.0.0.1 and nothing else.
func loopback() Network {
	return Network{
		LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			if strings.HasSuffix(host, ".example.net") {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
		Now: func() time.Time { return noon },
	}
}

const long = 90 * 24 * time.Hour

// entryYAML is a ServiceEntry for a.example.com at one.example.net:p1 and two.example.net:p2.
func entryYAML(protocol string, p1, p2 int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 8443, name: p, protocol: %s}]
  resolution: DNS
  endpoints:
  - {address: one.example.net, ports: {p: %d}}
  - {address: two.example.net, ports: {p: %d}}
`, protocol, p1, p2)
}

func ruleYAML(tls string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a.example.com\n  trafficPolicy: {tls: " + tls + "}\n"
}

// found gives the findings as "severity code field", but for what certificates say.
func found(r Result) (out []string) {
	for _, i := range r.Issues {
		if i.Code != CodeCertificate {
			out = append(out, i.Severity.String()+" "+i.Code+" "+i.Field)
		}
	}
	return out
}

func TestConnect(t *testing.T) {
	ca := newAuthority(t)
	host := serve(t, ca.issue(t, long, "a.example.com"))
	wild := serve(t, ca.issue(t, long, "*.example.com"))
	own := serve(t, ca.issue(t, long, "two.example.net"))
	ownOne := serve(t, ca.issue(t, long, "one.example.net"))
	soon := serve(t, ca.issue(t, 48*time.Hour, "a.example.com"))
	closed := closedPort(t)
	trust := "caCertificates: " + ca.file
	for name, tc := range map[string]struct {
		yaml string
		want []string
	}{
		"pass-through, both carry the name": {entryYAML("TLS", host, wild),
			[]string{"note DTR0133 spec.endpoints[0].address", "note DTR0133 spec.endpoints[1].address"}},
		"pass-through, one carries its own name only": {entryYAML("HTTPS", host, own),
			[]string{"note DTR0133 spec.endpoints[0].address", "warning DTR0131 spec.endpoints[1].address", "note DTR0133 spec.endpoints[1].address"}},
		"pass-through, none does": {entryYAML("TLS", own, ownOne),
			[]string{"error DTR0132 spec.hosts", "warning DTR0131 spec.endpoints[0].address", "note DTR0133 spec.endpoints[0].address",
				"warning DTR0131 spec.endpoints[1].address", "note DTR0133 spec.endpoints[1].address"}},
		"pass-through, one is closed and the other ends soon": {entryYAML("TLS", closed, soon),
			[]string{"warning DTR0130 spec.endpoints[0].address", "warning DTR0134 spec.endpoints[1].address", "note DTR0133 spec.endpoints[1].address"}},
		"originated, each carries its own name": {entryYAML("HTTP", ownOne, own) + ruleYAML("{mode: SIMPLE, "+trust+"}"), nil},
		"originated, one does not":              {entryYAML("HTTP", host, own) + ruleYAML("{mode: SIMPLE, "+trust+"}"), []string{"warning DTR0131 spec.endpoints[0].address"}},
		"originated, not trusted": {entryYAML("HTTP", ownOne, own) + ruleYAML("{mode: SIMPLE}"),
			[]string{"warning DTR0133 spec.endpoints[0].address", "warning DTR0133 spec.endpoints[1].address"}},
		"originated with sni": {entryYAML("HTTP", host, wild) + ruleYAML("{mode: SIMPLE, sni: a.example.com, "+trust+"}"), nil},
		"originated, none fits": {entryYAML("HTTP", host, wild) + ruleYAML("{mode: SIMPLE, subjectAltNames: [x.example.org], "+trust+"}"), []string{
			"warning DTR0131 spec.endpoints[0].address", "warning DTR0131 spec.endpoints[1].address", "error DTR0132 spec.trafficPolicy.tls"}},
		"originated, not verified": {entryYAML("HTTP", host, own) + ruleYAML("{mode: SIMPLE, insecureSkipVerify: true}"),
			[]string{"warning DTR0501 spec.trafficPolicy.tls.insecureSkipVerify"}},
		"plain HTTP, one is closed": {entryYAML("HTTP", closed, host), []string{"warning DTR0130 spec.endpoints[0].address"}},
		"plain TCP, twice the same": {strings.Replace(entryYAML("TCP", closed, host), "one.example.net", "127.0.0.1", 1), []string{"warning DTR0130 spec.endpoints[0].address"}},
		"a name that does not resolve": {strings.Replace(entryYAML("HTTP", host, host), "one.example.net", "one.example.invalid", 1),
			[]string{"warning DTR0130 spec.endpoints[0].address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt := Options{Group: caller(""), Connect: true, Network: loopback()}
			got := found(analyse(t, tc.yaml, opt))
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("got\n %s\nwant\n %s", strings.Join(got, "\n "), strings.Join(tc.want, "\n "))
			}
		})
	}
}

// TestConnectSays: the words name the endpoint, the names it carries and the name it lacks.
func TestConnectSays(t *testing.T) {
	ca := newAuthority(t)
	host, own := serve(t, ca.issue(t, long, "a.example.com")), serve(t, ca.issue(t, long, "two.example.net"))
	r := analyse(t, entryYAML("TLS", host, own), Options{Group: caller(""), Connect: true, Network: loopback()})
	if r.Count(config.Error) != 0 || r.Count(config.Warning) != 1 {
		t.Fatalf("%v", r.Issues)
	}
	for _, i := range r.Issues {
		if i.Code == CodeWrongNames {
			for _, word := range []string{fmt.Sprintf("two.example.net:%d", own), "a.example.com", "two.example.net only", "the application verifies"} {
				if !strings.Contains(i.Message, word) {
					t.Errorf("%q does not say %q", i.Message, word)
				}
			}
		}
	}
}

func TestConnectStopsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(context.Background())
	opt := Options{Group: caller(""), Connect: true, Network: loopback()}
	opt.Network.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		defer cancel()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	set, issues := load(t, entryYAML("TLS", port, port))
	if r := Run(ctx, set, issues, opt); r.Count(config.Warning) != 2 {
		t.Errorf("%v", r.Issues)
	}
}

func TestResolve(t *testing.T) {
	yaml := strings.ReplaceAll(entryYAML("HTTP", 80, 80), "two.example.net", "two.example.invalid")
	got := found(analyse(t, yaml, Options{Group: caller(""), Resolve: true, Network: loopback()}))
	if want := "warning DTR0120 spec.endpoints[1].address"; strings.Join(got, "\n") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	noEndpoints := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a.example.com]\n  ports: [{number: 80, name: p, protocol: HTTP}]\n  resolution: DNS\n"
	got = found(analyse(t, noEndpoints, Options{Group: caller(""), Resolve: true, Network: loopback()}))
	if want := "warning DTR0120 spec.hosts"; strings.Join(got, "\n") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestResolveCounts: what may be ejected is a share of the addresses that names have, not of the names.
func TestResolveCounts(t *testing.T) {
	network := loopback()
	network.LookupNetIP = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")}
		if host == "two.example.net" {
			addrs = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		}
		return addrs, nil
	}
	yaml := strings.Replace(entryYAML("HTTP", 80, 80), "address: one.example.net,", "address: one.example.net, locality: east,", 1)
	yaml = strings.Replace(yaml, "address: two.example.net,", "address: two.example.net, locality: west,", 1) +
		strings.Replace(ruleYAML("{mode: DISABLE}"), "{tls:", "{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 1, maxEjectionPercent: 50}, tls:", 1)
	for resolve, want := range map[bool]string{
		false: "", // 50 % of two names is one
		true:  "warning DTR0102 spec.trafficPolicy.outlierDetection.maxEjectionPercent",
	} {
		r := analyse(t, yaml, Options{Group: caller("east"), Resolve: resolve, Network: network})
		if got := strings.Join(found(r), "\n"); got != want {
			t.Errorf("resolve %v: %q, want %q", resolve, got, want)
		}
		if resolve && !strings.Contains(r.Issues[0].Message, "write 80 or more") {
			t.Errorf("%v", r.Issues[0])
		}
	}
}
