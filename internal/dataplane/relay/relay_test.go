package relay

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a relay between two connections, whose far ends are a and b.
type rig struct {
	d     *event.Dispatcher
	pool  buffer.Pool
	a, b  *net.TCPConn
	relay *Relay
	done  chan error
}

func start(t *testing.T, o Options) *rig {
	t.Helper()
	r, sa, sb := prepare(t)
	r.start(sa, sb, o)
	return r
}

// prepare makes the connections, and start relays between them.
func prepare(t *testing.T) (r *rig, sa, sb *event.Socket) {
	t.Helper()
	d, err := event.New()
	if err != nil {
		t.Fatal(err)
	}
	r = &rig{d: d, done: make(chan error, 2)}
	go d.Run()
	t.Cleanup(func() {
		d.Stop()
		<-d.Done()
	})
	r.a, sa = r.pair(t)
	r.b, sb = r.pair(t)
	return r, sa, sb
}

func (r *rig) start(sa, sb *event.Socket, o Options) {
	o.Dispatcher, o.Pool = r.d, &r.pool
	o.Done = func(err error) { r.done <- err }
	r.on(func() { r.relay = Start(sa, sb, o) })
}

// on runs fn on the loop and waits for it.
func (r *rig) on(fn func()) {
	done := make(chan struct{})
	r.d.Post(func() { defer close(done); fn() })
	<-done
}

type ignore struct{}

func (ignore) OnEvent(bool, bool) {}

func (r *rig) pair(t *testing.T) (far *net.TCPConn, near *event.Socket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.on(func() { near, err = r.d.Connect(l.Addr().(*net.TCPAddr).AddrPort(), "", ignore{}) })
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), near
}

func write(t *testing.T, c *net.TCPConn, text string, fin bool) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
	if fin {
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
}

func read(t *testing.T, c *net.TCPConn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestBothWays: what was there at the start goes first; each direction ends by itself; nothing stays allocated.
func TestBothWays(t *testing.T) {
	r := start(t, Options{ToA: []byte("greeting "), ToB: []byte("early ")})
	write(t, r.a, "up", true)
	if got := read(t, r.b); got != "early up" {
		t.Errorf("b got %q", got)
	}
	write(t, r.b, "down", true) // long after the other direction has ended
	if got := read(t, r.a); got != "greeting down" {
		t.Errorf("a got %q", got)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.on(func() {
		up, down := r.relay.Up, r.relay.Down
		if up.Bytes != 8 || up.After != 2 || down.Bytes != 13 || down.After != 4 || up.buf != nil || down.buf != nil {
			t.Errorf("up %d (%d), down %d (%d), buffers %v %v", up.Bytes, up.After, down.Bytes, down.After, up.buf != nil, down.buf != nil)
		}
	})
}

// TestReset: a reset on either side is one on both.
func TestReset(t *testing.T) {
	for _, side := range []string{"a", "b"} {
		r := start(t, Options{})
		from, to := r.a, r.b
		if side == "b" {
			from, to = r.b, r.a
		}
		_ = from.SetLinger(0)
		_ = from.Close()
		if _, err := io.ReadAll(to); err == nil {
			t.Errorf("%s: the reset came as an end in order", side)
		}
		if err := <-r.done; err == nil {
			t.Errorf("%s: ended without an error", side)
		}
	}
}

// TestIdle: a relay on which nothing moves ends; one on which something moves does not.
func TestIdle(t *testing.T) {
	r := start(t, Options{Idle: 100 * time.Millisecond})
	began := time.Now()
	for time.Since(began) < 250*time.Millisecond {
		write(t, r.a, "x", false)
		if _, err := io.ReadFull(r.b, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.done) > 0 {
		t.Fatal("ended while bytes moved")
	}
	if err := <-r.done; !errors.Is(err, ErrIdle) {
		t.Error(err)
	}
}

// TestClose ends it once, whatever follows.
func TestClose(t *testing.T) {
	r := start(t, Options{ToB: make([]byte, 100<<10)}) // more than a pooled buffer
	r.on(func() {
		r.relay.Close()
		r.relay.Close()
	})
	if <-r.done == nil || len(r.done) != 0 {
		t.Error("Done was not called once, with an error")
	}
}

// TestSlowReader: nothing is lost and little is held while one side reads slowly.
func TestSlowReader(t *testing.T) {
	const n = 5 << 20
	r := start(t, Options{})
	go func() {
		_, _ = io.CopyN(r.a, pattern{}, n)
		_ = r.a.CloseWrite()
	}()
	got, buf := 0, make([]byte, 3001)
	for {
		k, err := r.b.Read(buf)
		got += k
		if err != nil {
			break
		}
	}
	if got != n {
		t.Errorf("%d bytes came of %d", got, n)
	}
	_ = r.b.CloseWrite()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

type pattern struct{}

func (pattern) Read(p []byte) (int, error) { return len(p), nil }
