package tlstransport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/testcert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// loop runs a dispatcher until the test ends.
func loop(t testing.TB) *event.Dispatcher {
	d := must(event.New())(t)
	go d.Run()
	t.Cleanup(func() {
		d.Stop()
		<-d.Done()
	})
	return d
}

// on runs fn on the loop and waits for it.
func on(d *event.Dispatcher, fn func()) {
	done := make(chan struct{})
	d.Post(func() { fn(); close(done) })
	<-done
}

// server accepts on loopback and gives each connection to serve.
func server(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// tlsServer serves TLS; serve nil echoes.
func tlsServer(t testing.TB, config *tls.Config, serve func(*tls.Conn)) netip.AddrPort {
	if serve == nil {
		serve = func(c *tls.Conn) { _, _ = io.Copy(c, c) }
	}
	return server(t, func(raw net.Conn) {
		c := tls.Server(raw, config)
		if c.Handshake() == nil {
			serve(c)
		}
		c.Close()
	})
}

func serverConfig(t testing.TB, pair *testcert.Pair) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{must(pair.TLS())(t)}}
}

// result is what done was called with.
type result struct {
	s     *Stream
	state tls.ConnectionState
	err   error
}

// connector waits for the connection, then starts the handshake.
type connector struct {
	d    *event.Dispatcher
	sock *event.Socket
	ctx  *Context
	p    Params
	h    *Handshake
	out  chan result
}

func (c *connector) OnEvent(_, writable bool) {
	if !writable {
		return
	}
	if err := c.sock.Connected(); err != nil {
		c.sock.Close()
		c.out <- result{err: err}
		return
	}
	c.h = Start(c.d, c.sock, c.ctx, c.p, func(s event.Stream, state tls.ConnectionState, err error) {
		r := result{state: state, err: err}
		if err == nil {
			r.s = s.(*Stream)
		}
		c.out <- r
	})
}

func start(t testing.TB, d *event.Dispatcher, addr netip.AddrPort, ctx *Context, p Params) *connector {
	c := &connector{d: d, ctx: ctx, p: p, out: make(chan result, 1)}
	on(d, func() {
		var err error
		if c.sock, err = d.Connect(addr, "", c); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *connector) wait(t testing.TB) result {
	t.Helper()
	select {
	case r := <-c.out:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no end of the handshake")
		return result{}
	}
}

func dial(t testing.TB, d *event.Dispatcher, addr netip.AddrPort, ctx *Context, p Params) result {
	t.Helper()
	return start(t, d, addr, ctx, p).wait(t)
}

// pump is a handler that reads everything and writes what it is given. Its fields belong to the loop.
type pump struct {
	s      event.Stream
	chunk  []byte
	out    []byte
	got    []byte
	want   int // got's length that ends it
	finish bool
	err    error
	ended  chan struct{}
	fired  bool
	calls  atomic.Int64
}

func (p *pump) OnEvent(readable, writable bool) {
	p.calls.Add(1)
	for writable && len(p.out) > 0 {
		n, err := p.s.Write(p.out)
		if err == event.ErrAgain {
			break
		}
		if err != nil {
			p.end(err)
			return
		}
		p.out = p.out[n:]
		if len(p.out) == 0 && p.finish {
			if err := p.s.CloseWrite(); err != nil {
				p.end(err)
				return
			}
		}
	}
	for readable {
		n, err := p.s.Read(p.chunk)
		if err == event.ErrAgain {
			break
		}
		p.got = append(p.got, p.chunk[:n]...)
		if err != nil {
			p.end(err)
			return
		}
		if n < len(p.chunk) {
			break // the contract: all there is has been taken
		}
	}
	if p.want > 0 && len(p.got) >= p.want {
		p.end(nil)
	}
}

func (p *pump) end(err error) {
	if !p.fired {
		p.fired = true
		p.err = err
		close(p.ended)
	}
}

// run drives the stream until want bytes came (or, with want 0, its end) and gives what came.
func (p *pump) run(t testing.TB, d *event.Dispatcher, s event.Stream) ([]byte, error) {
	t.Helper()
	p.s, p.ended = s, make(chan struct{})
	if p.chunk == nil {
		p.chunk = make([]byte, 10000)
	}
	p.fired = false
	d.Post(func() { s.SetHandler(p); s.Again() })
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the stream hangs")
	}
	var got []byte
	on(d, func() { got = p.got; s.SetHandler(nil) })
	return got, p.err
}

func kindOf(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return 255
	}
	return e.Kind
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// upstream is a context that trusts the CA and verifies the endpoint's own name, as translate makes it.
func upstream(ca *testcert.CA) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{AutoHostSni: true, AutoSniSanValidation: true,
		CommonTlsContext: &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(ca.PEM)}}}}
}

func uint32Value(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }
