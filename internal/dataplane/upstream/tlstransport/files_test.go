package tlstransport

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"detour.dev/detour/internal/testcert"
)

// clock is injected time.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Now().UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// put replaces a file's contents by rename, with a modification time of the clock.
func (c *clock) put(t *testing.T, path string, data []byte) {
	t.Helper()
	tmp := path + ".tmp"
	for _, err := range []error{os.WriteFile(tmp, data, 0o600), os.Chtimes(tmp, c.now(), c.now()), os.Rename(tmp, path)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fileContext is Istio's form: secrets that name files.
func fileContext(ca, cert, key string) *tlsv3.UpstreamTlsContext {
	c := &tlsv3.UpstreamTlsContext{AutoHostSni: true, AutoSniSanValidation: true, CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "file-root:" + ca}}}}
	if cert != "" {
		c.CommonTlsContext.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: "file-cert:" + cert + "~" + key}}
	}
	return c
}

// leafOf is the client certificate that a handshake would use now.
func leafOf(t *testing.T, c *Context) []byte {
	t.Helper()
	m, err := c.files.get(c.now())
	if err != nil {
		t.Fatal(err)
	}
	return m.certs[0].Certificate[0]
}

func TestPairReload(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	one := must(ca.Issue(testcert.Template{Client: true}))(t)
	two := must(ca.Issue(testcert.Template{Client: true}))(t)
	dir := t.TempDir()
	caPath := must(ca.WriteFile(dir, "ca.pem"))(t)
	cert, key := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key")
	clk := newClock()
	clk.put(t, cert, one.ChainPEM)
	clk.put(t, key, one.KeyPEM)
	var log bytes.Buffer
	lines := func() int { defer log.Reset(); return bytes.Count(log.Bytes(), []byte("\n")) }
	ctx := must(New(fileContext(caPath, cert, key), Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Now: clk.now}))(t)
	check := func(step string, want *testcert.Pair, wantLines, problems int) {
		t.Helper()
		clk.advance(1100 * time.Millisecond)
		if !bytes.Equal(leafOf(t, ctx), want.Leaf.Raw) {
			t.Errorf("%s: the wrong certificate is in use", step)
		}
		if got := ctx.Problems(); len(got) != problems {
			t.Errorf("%s: problems %q", step, got)
		}
		text := log.String()
		if got := lines(); got != wantLines {
			t.Errorf("%s: %d log lines, want %d: %s", step, got, wantLines, text)
		}
	}
	check("first", one, 0, 0)
	check("unchanged", one, 0, 0)
	clk.put(t, cert, two.ChainPEM)
	check("certificate without its key", one, 1, 1)
	check("still", one, 0, 1)
	clk.put(t, key, two.KeyPEM[:len(two.KeyPEM)/2])
	check("half a key", one, 1, 1)
	clk.put(t, key, two.KeyPEM)
	check("whole", two, 1, 0)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	check("gone", two, 1, 1)
	check("still gone", two, 0, 1)
	clk.put(t, key, two.KeyPEM)
	check("back", two, 1, 0)
	clk.put(t, key, one.KeyPEM)
	clk.put(t, cert, one.ChainPEM)
	check("both", one, 1, 0)
	// Within a second nothing is looked at.
	clk.put(t, cert, two.ChainPEM)
	clk.put(t, key, two.KeyPEM)
	clk.advance(-600 * time.Millisecond)
	clk.advance(700 * time.Millisecond)
	if !bytes.Equal(leafOf(t, ctx), one.Leaf.Raw) {
		t.Error("files were looked at twice within a second")
	}
	check("a second later", two, 1, 0)
}

// A file in place of which nothing is, at first: handshakes fail, naming it, nothing is sent, and then it appears.
func TestMissingFile(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	path := filepath.Join(t.TempDir(), "ca.pem")
	clk := newClock()
	ctx := must(New(fileContext(path, "", ""), Options{Now: clk.now}))(t)
	if p := ctx.Problems(); len(p) != 1 || !strings.Contains(p[0], path) {
		t.Fatalf("problems %q", p)
	}
	d := loop(t)
	addr := tlsServer(t, serverConfig(t, must(ca.Server("a.test"))(t)), nil)
	r := dial(t, d, addr, ctx, Params{Hostname: "a.test"})
	if kindOf(r.err) != KindConfig || !strings.Contains(r.err.Error(), path) {
		t.Errorf("error %v", r.err)
	}
	clk.put(t, path, ca.PEM)
	clk.advance(2 * time.Second)
	if r = dial(t, d, addr, ctx, Params{Hostname: "a.test"}); r.err != nil {
		t.Errorf("after it appeared: %v", r.err)
	} else {
		on(d, r.s.Close)
	}
	if p := ctx.Problems(); len(p) != 0 {
		t.Errorf("problems %q", p)
	}
}

// Trust that changes takes the sessions with it; a trust file cut off between two certificates is not taken.
func TestTrustReload(t *testing.T) {
	ca, other := must(testcert.NewCA("test"))(t), must(testcert.NewCA("other"))(t)
	path := filepath.Join(t.TempDir(), "ca.pem")
	clk := newClock()
	clk.put(t, path, append(append([]byte(nil), other.PEM...), ca.PEM...))
	ctx := must(New(fileContext(path, "", ""), Options{Now: clk.now}))(t)
	d := loop(t)
	addr := tlsServer(t, serverConfig(t, must(ca.Server("a.test"))(t)), nil)
	try := func() (bool, error) {
		r := dial(t, d, addr, ctx, Params{Hostname: "a.test"})
		if r.err == nil {
			if _, err := (&pump{out: []byte("x"), want: 1}).run(t, d, r.s); err != nil {
				t.Fatal(err)
			}
			on(d, r.s.Close)
		}
		return r.state.DidResume, r.err
	}
	_, _ = try()
	if resumed, err := try(); !resumed || err != nil {
		t.Fatalf("resumed %v, %v", resumed, err)
	}
	clk.advance(2 * time.Second)
	clk.put(t, path, other.PEM) // being written: its second half is to come
	clk.advance(20 * time.Millisecond)
	if resumed, err := try(); !resumed || err != nil {
		t.Errorf("a file 20 ms old was taken: resumed %v, %v", resumed, err)
	}
	clk.advance(1100 * time.Millisecond)
	if _, err := try(); kindOf(err) != KindCertificate {
		t.Errorf("the authority is no longer trusted: %v", err)
	}
	clk.put(t, path, ca.PEM)
	clk.advance(2 * time.Second)
	if resumed, err := try(); resumed || err != nil {
		t.Errorf("trust is new: resumed %v, %v", resumed, err)
	}
	clk.put(t, path, []byte("no certificate\n"))
	clk.advance(2 * time.Second)
	if resumed, err := try(); !resumed || err != nil {
		t.Errorf("an empty trust file: resumed %v, %v", resumed, err)
	}
}

// What isn't a plain file must neither block nor fill memory.
func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, big := filepath.Join(dir, "fifo"), filepath.Join(dir, "big")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, maxFile+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{fifo: "is not a file", dir: "is not a file", big: "larger than", filepath.Join(dir, "no"): "no such file"} {
		ctx := must(New(fileContext(path, "", ""), Options{}))(t)
		if p := ctx.Problems(); len(p) != 1 || !strings.Contains(p[0], want) {
			t.Errorf("%s: %q, want …%s…", path, p, want)
		}
	}
}

// No session cache at all with max_session_keys 0.
func TestNoResumption(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	up := upstream(ca)
	up.MaxSessionKeys = uint32Value(0)
	ctx := must(New(up, Options{}))(t)
	config := must(ctx.config(Params{Hostname: "a.test"}))(t)
	if config.ClientSessionCache != nil {
		t.Error("sessions are kept")
	}
	if config.Renegotiation != tls.RenegotiateNever {
		t.Error("renegotiation is on")
	}
}

// Revocation lists from a file: what one names is refused from then on, resumed sessions too.
func TestRevocationReload(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	pair, other := must(ca.Server("a.test"))(t), must(ca.Server("b.test"))(t)
	path := filepath.Join(t.TempDir(), "crl.pem")
	clk := newClock()
	clk.put(t, path, must(ca.CRL(other))(t))
	up := upstream(ca)
	up.CommonTlsContext.GetValidationContext().Crl = file(path)
	ctx := must(New(up, Options{Now: clk.now}))(t)
	d := loop(t)
	addr := tlsServer(t, serverConfig(t, pair), nil)
	try := func() (bool, error) {
		r := dial(t, d, addr, ctx, Params{Hostname: "a.test"})
		if r.err == nil {
			if _, err := (&pump{out: []byte("x"), want: 1}).run(t, d, r.s); err != nil {
				t.Fatal(err)
			}
			on(d, r.s.Close)
		}
		return r.state.DidResume, r.err
	}
	if resumed, err := try(); resumed || err != nil {
		t.Fatalf("resumed %v, %v", resumed, err)
	}
	if resumed, err := try(); !resumed || err != nil {
		t.Fatalf("resumed %v, %v", resumed, err)
	}
	clk.put(t, path, must(ca.CRL(other, pair))(t))
	clk.advance(2 * time.Second)
	if _, err := try(); kindOf(err) != KindCertificate || !strings.Contains(err.Error(), "is revoked") {
		t.Errorf("revoked: %v", err)
	}
	clk.put(t, path, must(ca.CRL(other))(t))
	clk.advance(2 * time.Second)
	if resumed, err := try(); resumed || err != nil {
		t.Errorf("no longer revoked: resumed %v, %v", resumed, err)
	}
}
