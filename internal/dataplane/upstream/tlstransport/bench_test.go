package tlstransport

import (
	"crypto/tls"
	"io"
	"testing"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/testcert"
)

// pingPong sends a message and waits for as many bytes back, b.N times, all on the loop.
type pingPong struct {
	s    event.Stream
	msg  []byte
	buf  []byte
	got  int
	left int
	done chan error
}

func (p *pingPong) OnEvent(readable, _ bool) {
	for readable {
		n, err := p.s.Read(p.buf)
		if err == event.ErrAgain {
			return
		}
		if err != nil {
			p.done <- err
			return
		}
		p.got += n
		if p.got == len(p.msg) {
			p.got = 0
			if p.left--; p.left == 0 {
				p.done <- nil
				return
			}
			_, _ = p.s.Write(p.msg)
		}
		readable = n == len(p.buf)
	}
}

// The client's side of 1 kB there and back, the server's cost included (it is in the same process); the server does
// not allocate.
func BenchmarkRoundTrip1k(b *testing.B) {
	d := loop(b)
	s := established(b, d, func(c *tls.Conn) {
		buf := make([]byte, 1024)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	p := &pingPong{s: s, msg: make([]byte, 1024), buf: make([]byte, 16<<10), left: b.N, done: make(chan error, 1)}
	b.ReportAllocs()
	b.SetBytes(2048)
	b.ResetTimer()
	d.Post(func() {
		s.SetHandler(p)
		_, _ = s.Write(p.msg)
	})
	if err := <-p.done; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	on(d, s.Close)
}

// sink reads and forgets.
type sink struct {
	s    event.Stream
	buf  []byte
	left int
	done chan error
}

func (k *sink) OnEvent(readable, _ bool) {
	for readable && k.left > 0 {
		n, err := k.s.Read(k.buf)
		if err == event.ErrAgain {
			return
		}
		if k.left -= n; err != nil || k.left <= 0 {
			k.left = 0
			k.done <- err
			return
		}
		readable = n == len(k.buf)
	}
}

func BenchmarkReceive(b *testing.B) {
	d := loop(b)
	const chunk = 64 << 10
	s := established(b, d, func(c *tls.Conn) {
		buf := make([]byte, chunk)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	k := &sink{s: s, buf: make([]byte, chunk), left: b.N * chunk, done: make(chan error, 1)}
	b.ReportAllocs()
	b.SetBytes(chunk)
	b.ResetTimer()
	d.Post(func() { s.SetHandler(k); s.Again() })
	if err := <-k.done; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	on(d, s.Abort)
}

func BenchmarkSend(b *testing.B) {
	d := loop(b)
	const chunk = 64 << 10
	s := established(b, d, func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) })
	data := make([]byte, chunk)
	left, done := b.N*chunk, make(chan error, 1)
	b.ReportAllocs()
	b.SetBytes(chunk)
	b.ResetTimer()
	d.Post(func() {
		s.SetHandler(handlerFunc(func(_, writable bool) {
			for writable && left > 0 {
				n, err := s.Write(data[:min(left, chunk)])
				if err == event.ErrAgain {
					return
				}
				if left -= n; err != nil || left == 0 {
					left = 0
					done <- err
					return
				}
			}
		}))
		s.Again()
	})
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	on(d, s.Close)
}

func benchmarkHandshake(b *testing.B, resumed bool) {
	ca := must(testcert.NewCA("test"))(b)
	d := loop(b)
	up := upstream(ca)
	if !resumed {
		up.MaxSessionKeys = uint32Value(0)
	}
	ctx := must(New(up, Options{}))(b)
	addr := tlsServer(b, serverConfig(b, must(ca.Server("a.test"))(b)), nil)
	first := true
	once := func() {
		r := dial(b, d, addr, ctx, Params{Hostname: "a.test"})
		if r.err != nil {
			b.Fatal(r.err)
		}
		if _, err := (&pump{out: []byte("x"), want: 1}).run(b, d, r.s); err != nil {
			b.Fatal(err)
		}
		on(d, r.s.Abort)
		if r.state.DidResume != (resumed && !first) {
			b.Fatal("resumed:", r.state.DidResume)
		}
		first = false
	}
	once()
	for b.Loop() {
		once()
	}
}

// Client and server together, connection and one byte of echo included.
func BenchmarkHandshakeFull(b *testing.B)    { benchmarkHandshake(b, false) }
func BenchmarkHandshakeResumed(b *testing.B) { benchmarkHandshake(b, true) }
