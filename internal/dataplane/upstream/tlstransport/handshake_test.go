package tlstransport

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/testcert"
)

func plainHTTP(c net.Conn) {
	_, _ = c.Read(make([]byte, 1024))
	_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
}

// Peers that don't do what they should, during the handshake.
func TestHandshakeFails(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	readHello := func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }
	for name, c := range map[string]struct {
		serve func(net.Conn)
		kind  Kind
		text  string
	}{
		"closes at once":     {func(net.Conn) {}, KindEOF, "closed by peer"}, // or a reset, see below
		"closes after hello": {readHello, KindEOF, "closed by peer"},
		"resets": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 10))
			_ = c.(*net.TCPConn).SetLinger(0)
		}, KindIO, "connection reset"},
		"speaks HTTP":   {plainHTTP, KindProtocol, "does not look like a TLS handshake"},
		"sends garbage": {func(c net.Conn) { readHello(c); _, _ = c.Write(bytes.Repeat([]byte{0xee}, 9000)) }, KindProtocol, ""},
		"sends an endless handshake message": {func(c net.Conn) {
			record := append([]byte{22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff}, make([]byte, 0x4000-4)...)
			for {
				if _, err := c.Write(record); err != nil {
					return
				}
			}
		}, KindProtocol, "exceeds maximum"},
		"sends an alert": {func(c net.Conn) {
			readHello(c)
			_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 40})
		}, KindAlert, "handshake failure"},
		"stops in a record": {func(c net.Conn) { readHello(c); _, _ = c.Write([]byte{22, 3, 3, 1, 0, 2}) }, KindEOF, "closed by peer"},
		"an old version": {func(c net.Conn) {
			old := serverConfig(t, must(ca.Server("a.test"))(t))
			old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
			_ = tls.Server(c, old).Handshake()
		}, KindAlert, "protocol version"},
	} {
		t.Run(name, func(t *testing.T) {
			d := loop(t)
			r := dial(t, d, server(t, c.serve), must(New(upstream(ca), Options{}))(t), Params{Hostname: "a.test"})
			if r.err == nil {
				t.Fatal("no error")
			}
			if errors.Is(r.err, syscall.ECONNRESET) && strings.HasPrefix(name, "closes") {
				return // the ClientHello met a closed socket
			}
			if kindOf(r.err) != c.kind || !strings.Contains(r.err.Error(), c.text) {
				t.Errorf("%v (%s), want …%s… (%s)", r.err, kindOf(r.err), c.text, c.kind)
			}
		})
	}
}

// A server that says nothing: Cancel ends it, closes the connection, and done is never called.
func TestCancel(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	ctx := must(New(upstream(ca), Options{}))(t)
	d := loop(t)
	got, gone := make(chan struct{}), make(chan error, 1)
	addr := server(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		close(got)
		_, err := c.Read(make([]byte, 1))
		gone <- err
	})
	before := goleak.IgnoreCurrent()
	c := start(t, d, addr, ctx, Params{Hostname: "a.test"})
	<-got
	on(d, func() { c.h.Cancel(); c.h.Cancel() })
	if err := <-gone; err == nil {
		t.Error("the connection is still open")
	}
	goleak.VerifyNone(t, before) // while the dispatcher runs on
	on(d, func() {
		if !c.sock.Closed() {
			t.Error("the socket is still open")
		}
	})
	select {
	case r := <-c.out:
		t.Errorf("done was called: %v", r.err)
	default:
	}
}

// Cancel at any moment of a handshake that goes well leaves nothing behind (goleak, -race) and never calls done after.
func TestCancelRaces(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	ctx := must(New(upstream(ca), Options{}))(t)
	d := loop(t)
	addr := tlsServer(t, serverConfig(t, must(ca.Server("a.test"))(t)), nil)
	for i := range 60 {
		c := start(t, d, addr, ctx, Params{Hostname: "a.test"})
		for range i % 20 {
			on(d, func() {})
		}
		cancelled := false
		on(d, func() {
			if c.h != nil {
				cancelled = !c.h.over
				c.h.Cancel()
			} else {
				c.sock.Close()
			}
		})
		on(d, func() {})
		select {
		case r := <-c.out:
			if cancelled {
				t.Fatal("done was called after Cancel")
			}
			if r.s != nil {
				on(d, r.s.Close)
			}
		default:
		}
	}
}

// The dispatcher's end ends the goroutine too.
func TestDispatcherEnds(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	ctx := must(New(upstream(ca), Options{}))(t)
	d := loop(t)
	got := make(chan struct{})
	addr := server(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		close(got)
		_, _ = c.Read(make([]byte, 1))
	})
	start(t, d, addr, ctx, Params{Hostname: "a.test"})
	<-got
}

// drip writes byte by byte, each a segment of its own.
type drip struct{ net.Conn }

func (c drip) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestSingleBytes(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			d := loop(t)
			config := serverConfig(t, must(ca.Server("a.test"))(t))
			config.MaxVersion = version
			text := strings.Repeat("drop by drop ", 300)
			addr := server(t, func(raw net.Conn) {
				c := tls.Server(drip{raw}, config)
				_, _ = io.WriteString(c, text)
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			})
			r := dial(t, d, addr, must(New(upstream(ca), Options{}))(t), Params{Hostname: "a.test"})
			if r.err != nil {
				t.Fatal(r.err)
			}
			got, err := (&pump{}).run(t, d, r.s)
			if string(got) != text || err != io.EOF {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			on(d, r.s.Close)
		})
	}
}

// A chain far larger than the buffers between loop and goroutine.
func TestHugeChain(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	pair := must(ca.Server("a.test"))(t)
	cert := must(pair.TLS())(t)
	for range 200 {
		cert.Certificate = append(cert.Certificate, ca.Cert.Raw)
	}
	d := loop(t)
	addr := tlsServer(t, &tls.Config{Certificates: []tls.Certificate{cert}}, nil)
	r := dial(t, d, addr, must(New(upstream(ca), Options{}))(t), Params{Hostname: "a.test"})
	if r.err != nil {
		t.Fatal(r.err)
	}
	if n := len(r.state.PeerCertificates); n != 201 {
		t.Errorf("%d certificates", n)
	}
	on(d, r.s.Close)
}

func TestClientCertificate(t *testing.T) {
	ca, clients := must(testcert.NewCA("test"))(t), must(testcert.NewCA("clients"))(t)
	client := must(clients.Issue(testcert.Template{Names: []string{"spiffe://mesh/client"}, Client: true}))(t)
	stranger := must(ca.Issue(testcert.Template{Client: true}))(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, c := range map[string]struct {
			pair *testcert.Pair
			good bool
		}{
			"good": {client, true}, "none": {nil, false}, "of another authority": {stranger, false},
		} {
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), name), func(t *testing.T) {
				d := loop(t)
				config := serverConfig(t, must(ca.Server("a.test"))(t))
				config.MaxVersion, config.ClientAuth, config.ClientCAs = version, tls.RequireAndVerifyClientCert, clients.Pool()
				addr := tlsServer(t, config, func(c *tls.Conn) {
					_, _ = io.WriteString(c, c.ConnectionState().PeerCertificates[0].URIs[0].String())
				})
				up := upstream(ca)
				if c.pair != nil {
					up.CommonTlsContext.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: inline(c.pair.ChainPEM), PrivateKey: inline(c.pair.KeyPEM)}}
				}
				r := dial(t, d, addr, must(New(up, Options{}))(t), Params{Hostname: "a.test"})
				got, err := []byte(nil), r.err
				if err == nil { // in TLS 1.3 the server's refusal comes after the client's handshake
					got, err = (&pump{}).run(t, d, r.s)
					on(d, r.s.Close)
				}
				if c.good {
					if string(got) != "spiffe://mesh/client" || err != io.EOF {
						t.Errorf("read %q, %v", got, err)
					}
				} else if kindOf(err) != KindAlert {
					t.Errorf("error %v, want an alert", err)
				}
			})
		}
	}
}

func TestALPN(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	config := serverConfig(t, must(ca.Server("a.test"))(t))
	config.NextProtos = []string{"h2", "http/1.1"}
	addr := tlsServer(t, config, nil)
	up := upstream(ca)
	up.CommonTlsContext.AlpnProtocols = []string{"http/1.1"}
	d := loop(t)
	ctx := must(New(up, Options{}))(t)
	for want, p := range map[string]Params{
		"http/1.1": {Hostname: "a.test"},
		"h2":       {Hostname: "a.test", ALPN: []string{"h2"}},
	} {
		r := dial(t, d, addr, ctx, p)
		if r.err != nil || r.state.NegotiatedProtocol != want {
			t.Errorf("%q, %v; want %q", r.state.NegotiatedProtocol, r.err, want)
		}
		if r.s != nil {
			on(d, r.s.Close)
		}
	}
}

// Sessions are resumed by the same name at the same endpoint, and by no other.
func TestResumption(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			d := loop(t)
			config := serverConfig(t, must(ca.Server("a.test", "b.test"))(t))
			config.MaxVersion = version
			addr := tlsServer(t, config, nil)
			now := time.Now()
			ctx := must(New(upstream(ca), Options{Now: func() time.Time { return now }}))(t)
			try := func(name, key string) bool {
				t.Helper()
				r := dial(t, d, addr, ctx, Params{Hostname: name, EndpointKey: key})
				if r.err != nil {
					t.Fatal(r.err)
				}
				p := &pump{out: []byte("x"), want: 1} // TLS 1.3's tickets come after the handshake
				if _, err := p.run(t, d, r.s); err != nil {
					t.Fatal(err)
				}
				on(d, r.s.Close)
				return r.state.DidResume
			}
			for i, c := range []struct {
				name, key string
				want      bool
			}{
				{"a.test", "1", false}, {"a.test", "1", true}, {"a.test", "2", false}, {"b.test", "1", false},
				{"a.test", "2", true}, {"a.test", "1", true}, {"b.test", "1", true},
			} {
				if got := try(c.name, c.key); got != c.want {
					t.Errorf("%d: %s at %s resumed: %v, want %v", i, c.name, c.key, got, c.want)
				}
			}
		})
	}
}

// A resumed session's certificate is still looked at: it may have expired since, and the name must fit.
func TestResumedIsVerified(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	leaf := must(ca.Server("a.test"))(t).Leaf
	now := time.Now()
	v := &verifier{material: &material{roots: ca.Pool()}, name: "a.test", now: func() time.Time { return now }}
	state := tls.ConnectionState{DidResume: true}
	state.PeerCertificates = append(state.PeerCertificates, leaf)
	if err := v.check(state); err != nil {
		t.Fatal(err)
	}
	v.name = "b.test"
	if err := v.check(state); kindOf(err) != KindCertificate {
		t.Errorf("another name: %v", err)
	}
	v.name, now = "a.test", leaf.NotAfter.Add(time.Second)
	if err := v.check(state); kindOf(err) != KindCertificate {
		t.Errorf("expired: %v", err)
	}
	if err := v.check(tls.ConnectionState{}); kindOf(err) != KindCertificate {
		t.Errorf("no certificate: %v", err)
	}
}

// The configuration's own bounds on version, curve and suite hold.
func TestParams(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	addr := tlsServer(t, serverConfig(t, must(ca.Server("a.test"))(t)), nil)
	d := loop(t)
	for name, c := range map[string]struct {
		params  *tlsv3.TlsParameters
		version uint16
		curve   tls.CurveID
		suite   uint16
	}{
		"default": {nil, tls.VersionTLS13, tls.X25519, 0},
		"at most 1.2": {&tlsv3.TlsParameters{TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, EcdhCurves: []string{"P-256"},
			CipherSuites: []string{"[ECDHE-ECDSA-AES256-GCM-SHA384|ECDHE-RSA-AES256-GCM-SHA384]"}},
			tls.VersionTLS12, tls.CurveP256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
		"post-quantum": {&tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, EcdhCurves: []string{"X25519MLKEM768"}},
			tls.VersionTLS13, tls.X25519MLKEM768, 0},
	} {
		up := upstream(ca)
		up.CommonTlsContext.TlsParams = c.params
		r := dial(t, d, addr, must(New(up, Options{}))(t), Params{Hostname: "a.test"})
		if r.err != nil {
			t.Errorf("%s: %v", name, r.err)
			continue
		}
		if s := r.state; s.Version != c.version || s.CurveID != c.curve || c.suite != 0 && s.CipherSuite != c.suite {
			t.Errorf("%s: %s, %s, %s", name, tls.VersionName(s.Version), s.CurveID, tls.CipherSuiteName(s.CipherSuite))
		}
		on(d, r.s.Close)
	}
}
