//go:build unix

package event

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eachPoller runs the test with the system's poller and with the portable one. The dispatcher is not running: the
// test itself turns it, so that everything happens on one goroutine, in a known order.
func eachPoller(t *testing.T, test func(t *testing.T, d *Dispatcher)) {
	for name, open := range map[string]func() (poller, error){
		"default": newPoller,
		"poll":    func() (poller, error) { return newPoll() },
	} {
		t.Run(name, func(t *testing.T) {
			d := with(t, open)
			test(t, d)
		})
	}
}

func with(t *testing.T, open func() (poller, error)) *Dispatcher {
	p, err := open()
	if err != nil {
		t.Fatal(err)
	}
	d := &Dispatcher{poll: p, now: time.Now(), done: make(chan struct{})}
	d.wheel.init(d.now)
	t.Cleanup(func() {
		if !d.ended {
			d.Stop()
			d.Run()
		}
	})
	return d
}

// until turns the loop until cond holds.
func until(t *testing.T, d *Dispatcher, what string, cond func() bool) {
	t.Helper()
	late := false
	var guard Timer
	guard.Init(d, func() { late = true })
	guard.Schedule(10 * time.Second)
	defer guard.Stop()
	for !cond() {
		if late {
			t.Fatalf("not within 10 s: %s", what)
		}
		d.turn()
	}
}

// handler is a Handler from a function.
type handler func(readable, writable bool)

func (h handler) OnEvent(readable, writable bool) { h(readable, writable) }

// ignore is a handler that does nothing.
var ignore = handler(func(bool, bool) {})

// socketpair gives a socket of d and the plain descriptor of its peer, both non-blocking.
func socketpair(t *testing.T, d *Dispatcher, h Handler) (*Socket, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	s, err := d.NewSocket(fds[0], h)
	if err != nil {
		t.Fatal(err)
	}
	return s, fds[1]
}

// tcpPair connects a socket of d to a TCP connection of the net package.
func tcpPair(t *testing.T, d *Dispatcher) (*Socket, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	decided := false
	s, err := d.Connect(netip.MustParseAddrPort(l.Addr().String()), "", handler(func(_, w bool) { decided = decided || w }))
	if err != nil {
		t.Fatal(err)
	}
	until(t, d, "connected", func() bool { return decided })
	if err := s.Connected(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s, c.(*net.TCPConn)
}
