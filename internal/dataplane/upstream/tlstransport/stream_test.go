package tlstransport

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/event"
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

// established gives a stream to a server that runs serve.
func established(t testing.TB, d *event.Dispatcher, serve func(*tls.Conn)) *Stream {
	t.Helper()
	ca := must(testcert.NewCA("test"))(t)
	config := serverConfig(t, must(ca.Server("a.test"))(t))
	r := dial(t, d, tlsServer(t, config, serve), must(New(upstream(ca), Options{}))(t), Params{Hostname: "a.test"})
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.s
}

// How the peer ends the stream, and what Read makes of it. The bytes before the end are always delivered.
func TestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*tls.Conn)
		check func(error) bool
	}{
		"close_notify":         {func(c *tls.Conn) { _ = c.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		"close_notify and FIN": {func(c *tls.Conn) { c.Close() }, func(err error) bool { return err == io.EOF }},
		"bare FIN":             {func(c *tls.Conn) { c.NetConn().Close() }, func(err error) bool { return IsTruncated(err) && kindOf(err) == KindEOF }},
		"FIN in a record": {func(c *tls.Conn) { _, _ = c.NetConn().Write([]byte{23, 3, 3, 0, 40, 1, 2}); c.NetConn().Close() },
			func(err error) bool { return IsTruncated(err) && kindOf(err) == KindEOF }},
		"reset": {func(c *tls.Conn) {
			// Not before the client has the data: a reset throws away what it hasn't read.
			_, _ = c.Read(make([]byte, 1))
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			c.NetConn().Close()
		}, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) && kindOf(err) == KindIO }},
		"garbage": {func(c *tls.Conn) { _, _ = c.NetConn().Write(bytes.Repeat([]byte{23, 3, 3, 0, 40}, 20)) },
			func(err error) bool { return kindOf(err) == KindProtocol }},
	} {
		for _, size := range []int{3, 4096} { // the data, and so its end, fit the reader's buffer exactly, or don't
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				d := loop(t)
				s := established(t, d, func(conn *tls.Conn) {
					_, _ = io.WriteString(conn, "abcdef")
					c.end(conn)
					_, _ = io.Copy(io.Discard, conn.NetConn())
				})
				p := &pump{chunk: make([]byte, size), want: 6}
				got, err := p.run(t, d, s)
				if string(got) != "abcdef" {
					t.Fatalf("read %q, %v", got, err)
				}
				if err == nil {
					p.want, p.out = 0, []byte("x")
					_, err = p.run(t, d, s)
				}
				if !c.check(err) {
					t.Errorf("the end is %v (%s)", err, kindOf(err))
				}
				on(d, func() {
					if _, again := s.Read(make([]byte, 1)); again == nil || again.Error() != err.Error() {
						t.Errorf("the next Read gives %v", again)
					}
					s.Close()
				})
			})
		}
	}
}

// CloseWrite ends one direction, after everything that was written, however slowly the peer takes it.
func TestCloseWrite(t *testing.T) {
	d := loop(t)
	data := bytes.Repeat([]byte("payload "), 1<<18)
	s := established(t, d, func(c *tls.Conn) {
		all, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(all, data) {
			t.Errorf("the server read %d bytes of %d, %v", len(all), len(data), err)
		}
		if _, err := c.NetConn().Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after close_notify: %v, want a FIN", err)
		}
		_, _ = io.WriteString(c, "answer")
	})
	p := &pump{out: data, finish: true}
	got, err := p.run(t, d, s)
	if string(got) != "answer" || err != io.EOF {
		t.Errorf("read %q, %v", got, err)
	}
	on(d, func() {
		if _, err := s.Write([]byte("more")); err == nil || err == event.ErrAgain {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		s.Close()
	})
}

// Close says close_notify; Abort resets, so that the peer can't take what it got for complete.
func TestCloseAndAbort(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*Stream)
		want error
	}{"close": {(*Stream).Close, nil}, "abort": {(*Stream).Abort, syscall.ECONNRESET}} {
		t.Run(name, func(t *testing.T) {
			d := loop(t)
			seen := make(chan error, 1)
			s := established(t, d, func(c *tls.Conn) {
				_, err := io.ReadAll(c)
				seen <- err
			})
			on(d, func() {
				if n, err := s.Writev([]byte("head"), []byte("body")); n != 8 || err != nil {
					t.Errorf("Writev: %d, %v", n, err)
				}
				c.end(s)
				c.end(s)
				s.Close()
				s.Abort()
				if _, err := s.Read(make([]byte, 1)); err != event.ErrAgain {
					t.Errorf("Read after the end: %v", err)
				}
				if _, err := s.Write([]byte("x")); err != event.ErrAgain {
					t.Errorf("Write after the end: %v", err)
				}
			})
			if err := <-seen; !errors.Is(err, c.want) {
				t.Errorf("the server saw %v, want %v", err, c.want)
			}
		})
	}
}

// A peer that doesn't read: writes stop, with little kept, and go on by themselves when it reads again.
func TestBackPressure(t *testing.T) {
	d := loop(t)
	release := make(chan struct{})
	sum := make(chan int, 1)
	s := established(t, d, func(c *tls.Conn) {
		<-release
		n, _ := io.Copy(io.Discard, c)
		sum <- int(n)
	})
	data := make([]byte, 8<<20)
	p := &pump{out: data, finish: true, s: s, chunk: make([]byte, 100), ended: make(chan struct{})}
	on(d, func() { s.SetHandler(p); s.Again() })
	on(d, func() {}) // the Again's turn is over
	on(d, func() {
		if len(p.out) == 0 {
			t.Error("8 MB were taken for a peer that doesn't read")
		}
		if n, err := s.Write([]byte("x")); n != 0 || err != event.ErrAgain {
			t.Errorf("Write while bytes wait: %d, %v", n, err)
		}
		if s.c.pending() > maxOut {
			t.Errorf("%d bytes are kept", s.c.pending())
		}
	})
	close(release)
	if got := <-sum; got != len(data) {
		t.Errorf("the server got %d bytes of %d", got, len(data))
	}
	on(d, func() {
		if s.c.out != nil {
			t.Error("the buffer was not given back")
		}
		s.Close()
	})
}

// What Write took goes out without the handler's help.
func TestWaitingBytesGoOut(t *testing.T) {
	d := loop(t)
	release, sum := make(chan int, 1), make(chan error, 1)
	s := established(t, d, func(c *tls.Conn) {
		_, err := io.ReadFull(c, make([]byte, <-release))
		sum <- err
	})
	taken := 0
	d.Post(func() {
		s.SetHandler(handlerFunc(func(_, writable bool) {
			for data := make([]byte, 1<<20); writable; {
				n, err := s.Write(data)
				if taken += n; err != nil {
					s.SetHandler(nil)
					release <- taken
					return
				}
			}
		}))
		s.Again()
	})
	if err := <-sum; err != nil {
		t.Error(err)
	}
	on(d, s.Close)
}

// Two buffers go out as one record when they fit in one, and arrive in order when they don't.
func TestWritev(t *testing.T) {
	d := loop(t)
	type read struct {
		first int
		all   []byte
	}
	seen := make(chan read, 1)
	for _, c := range []struct{ a, b, first int }{{4, 6, 10}, {4, maxRecord - 4, maxRecord}, {4, maxRecord, 4}, {5, 300000, 5}, {0, 10, 10}, {10, 0, 10}} {
		s := established(t, d, func(c *tls.Conn) {
			buf := make([]byte, 20000)
			n, _ := c.Read(buf) // one record at most
			rest, _ := io.ReadAll(c)
			seen <- read{n, append(buf[:n:n], rest...)}
		})
		all := make([]byte, c.a+c.b)
		_, _ = rand.Read(all)
		n := 0
		on(d, func() {
			var err error
			if n, err = s.Writev(all[:c.a], all[c.a:]); err != nil {
				t.Error(err)
			}
		})
		p := &pump{out: all[n:], finish: true}
		if n == len(all) {
			on(d, func() { _ = s.CloseWrite() })
		}
		_, _ = p.run(t, d, s)
		got := <-seen
		if got.first != c.first || !bytes.Equal(got.all, all) {
			t.Errorf("%d+%d: first record %d bytes, want %d; %d bytes in all", c.a, c.b, got.first, c.first, len(got.all))
		}
		on(d, s.Close)
	}
}

// The end of the handshake goes out with the stream's first bytes, and without them where there are none.
func TestFinishedGoesWithTheFirstBytes(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	ctx := must(New(upstream(ca), Options{}))(t)
	for _, write := range []bool{true, false} {
		d := loop(t)
		config := serverConfig(t, must(ca.Server("a.test"))(t))
		config.SessionTicketsDisabled = true // nothing comes between
		finished := make(chan struct{})
		addr := tlsServer(t, config, func(c *tls.Conn) {
			close(finished)
			_, _ = io.Copy(io.Discard, c)
		})
		c := &connector{d: d, ctx: ctx, p: Params{Hostname: "a.test"}, out: make(chan result, 1)}
		on(d, func() {
			c.sock = must(d.Connect(addr, "", handlerFunc(func(_, writable bool) {
				if !writable || c.h != nil {
					return
				}
				c.h = Start(d, c.sock, ctx, c.p, func(s event.Stream, state tls.ConnectionState, err error) {
					if err != nil {
						c.out <- result{err: err}
						return
					}
					hello, held := c.sock.BytesWritten, c.h.c.pending()
					if held == 0 {
						t.Error("the handshake's end went alone")
					}
					if write {
						_, _ = s.Writev([]byte("a"), []byte("b"))
						if n := int(c.sock.BytesWritten - hello); n <= held || c.h.c.pending() != 0 {
							t.Errorf("%d bytes went out, %d wait; the handshake's end has %d", n, c.h.c.pending(), held)
						}
					}
					c.out <- result{s: s.(*Stream)}
				})
			})))(t)
		})
		r := c.wait(t)
		if r.err != nil {
			t.Fatal(r.err)
		}
		<-finished
		on(d, r.s.Close)
	}
}

// The handler is not called for nothing: an idle stream is quiet.
func TestIdleIsQuiet(t *testing.T) {
	d := loop(t)
	s := established(t, d, nil)
	p := &pump{out: []byte("ping"), want: 4}
	if _, err := p.run(t, d, s); err != nil {
		t.Fatal(err)
	}
	on(d, func() { s.SetHandler(p); p.want = 0 })
	before := p.calls.Load()
	for range 50 {
		on(d, func() {})
	}
	if n := p.calls.Load() - before; n != 0 {
		t.Errorf("%d calls of an idle stream's handler", n)
	}
	on(d, s.Close)
}

func smallBuffer(t *testing.T, fd int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096); err != nil {
		t.Error(err)
	}
}
