package router

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/upstream"
)

type firstEvent chan struct{}

func (f firstEvent) OnEvent(bool, bool) {
	select {
	case f <- struct{}{}:
	default:
	}
}

// TestNothingArrivedBySecondWrite: the first part of a request was written to a connection that the endpoint had closed, and
// the reset that answers it fails the write of the second. Without a FIN before it, the reset proves nothing.
func TestNothingArrivedBySecondWrite(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*net.TCPConn)
		late bool // it ends only after the first part
		err  error
		want bool
	}{
		{"FIN, then a reset", func(c *net.TCPConn) { c.Close() }, false, unix.EPIPE, true},
		{"reset only", func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }, true, unix.ECONNRESET, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d, err := event.New()
			if err != nil {
				t.Fatal(err)
			}
			go d.Run()
			defer func() { d.Stop(); <-d.Done() }()
			on := func(fn func()) {
				done := make(chan struct{})
				d.Post(func() { defer close(done); fn() })
				<-done
			}
			var sock *event.Socket
			stands := make(firstEvent, 1)
			on(func() { sock, err = d.Connect(l.Addr().(*net.TCPAddr).AddrPort(), "", stands) })
			if err != nil {
				t.Fatal(err)
			}
			peer, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			<-stands
			until := func(events int16) {
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(sock.FD()), Events: events}}, 10_000)
			}
			if !c.late {
				c.end(peer)
				until(unix.POLLRDHUP)
			}
			on(func() { _, err = sock.Write([]byte("first")) })
			if err != nil {
				t.Fatal(err)
			}
			if c.late {
				c.end(peer)
			}
			until(0) // POLLHUP: the reset is here
			on(func() {
				conn := &upstream.Conn{Sock: sock, Stream: sock}
				_, err := sock.Write([]byte("second"))
				if got := (*Router)(nil).nothingArrived(conn, err); err != c.err || got != c.want {
					t.Errorf("%v proves it: %v; want %v, %v", err, got, c.err, c.want)
				}
			})
		})
	}
}
