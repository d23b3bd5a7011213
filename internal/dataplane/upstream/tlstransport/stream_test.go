package tlstransport

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"testing"

	"detour.dev/detour/internal/testcert"
)

// A few megabytes through an echo server, both ways at once, in every version and key type.
func TestEcho(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, useRSA := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/rsa=%v", tls.VersionName(version), useRSA), func(t *testing.T) {
				d := loop(t)
				pair := must(ca.Issue(testcert.Template{Names: []string{"a.test"}, RSA: useRSA}))(t)
				config := serverConfig(t, pair)
				config.MaxVersion = version
				r := dial(t, d, tlsServer(t, config, nil), must(New(upstream(ca), Options{}))(t), Params{Hostname: "a.test"})
				if r.err != nil {
					t.Fatal(r.err)
				}
				if r.state.Version != version || r.state.ServerName != "a.test" {
					t.Errorf("state: version %x, SNI %q", r.state.Version, r.state.ServerName)
				}
				p := &pump{out: data, want: len(data)}
				got, err := p.run(t, d, r.s)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("echo: %d bytes of %d, error %v", len(got), len(data), err)
				}
				on(d, r.s.Close)
			})
		}
	}
}
