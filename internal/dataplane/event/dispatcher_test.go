//go:build unix

package event

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Two sockets are ready in one turn. The first handler closes the other, whose descriptor number a new socket then
// gets: the event still in the batch is not the new socket's.
func TestStaleGeneration(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		var a, b *Socket
		fresh, freshReads := (*Socket)(nil), 0
		var freshPeer int
		react := func(self, other **Socket) handler {
			return func(readable, _ bool) {
				if !readable || fresh != nil {
					return
				}
				fd := (*other).FD()
				(*other).Close()
				fresh, freshPeer = socketpair(t, d, handler(func(readable, _ bool) {
					if readable {
						freshReads++
					}
				}))
				if fresh.FD() != fd {
					t.Fatalf("descriptor %d was not used again (%d was)", fd, fresh.FD())
				}
				_, _ = (*self).Read(make([]byte, 8))
			}
		}
		a, peerA := socketpair(t, d, ignore)
		b, peerB := socketpair(t, d, ignore)
		d.turn() // writable, once
		a.SetHandler(react(&a, &b))
		b.SetHandler(react(&b, &a))
		_, _ = unix.Write(peerA, []byte("x"))
		_, _ = unix.Write(peerB, []byte("x"))
		d.turn()
		if fresh == nil {
			t.Fatal("no event came")
		}
		if freshReads > 0 {
			t.Error("the new socket got the closed one's event")
		}
		for _, fd := range []int{peerA, peerB, freshPeer} {
			unix.Close(fd)
		}
	})
}

func TestListen(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		l, fd := listening(t)
		var fds []int
		var peers []netip.AddrPort
		listener, err := d.Listen(fd, func(fd int, peer netip.AddrPort) { fds, peers = append(fds, fd), append(peers, peer) },
			func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		// More than one turn takes: the listener must come back for the rest by itself.
		const n = acceptsPerTurn + 5
		want := map[string]bool{}
		for range n {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want[c.LocalAddr().String()] = true
		}
		until(t, d, "all accepted", func() bool { return len(fds) == n })
		for i, fd := range fds {
			if !want[peers[i].String()] {
				t.Errorf("peer %s never connected", peers[i])
			}
			if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
				t.Errorf("descriptor %d blocks", fd)
			}
			if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d survives exec", fd)
			}
			unix.Close(fd)
		}
		listener.Close()
	})
}

// listening gives a listener of the net package and a duplicate of its descriptor.
func listening(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	return l, fd
}

// The listening socket lives on in its duplicates: a dispatcher that closed its own must not be woken any more.
func TestClosedListenerIsNotWoken(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		l, fd := listening(t)
		listener, err := d.Listen(fd, func(fd int, _ netip.AddrPort) { unix.Close(fd) }, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		listener.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n := d.poll.wait(d, 0); n > 0 && runtime.GOOS == "linux" {
			if p, ok := d.poll.(*poll); ok && len(p.fds) == 1 {
				return // the pipe alone, which always counts
			}
			t.Errorf("%d events for a closed listener", n)
		}
	})
}

// Out of descriptors, accepting pauses instead of spinning, and goes on when there are some again.
func TestAcceptPause(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		l, fd := listening(t)
		var failures []error
		accepted := 0
		listener, err := d.Listen(fd, func(fd int, _ netip.AddrPort) { accepted++; unix.Close(fd) },
			func(err error) { failures = append(failures, err) })
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		low := old
		low.Cur = 3
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Skip(err)
		}
		began := d.Now()
		if _, ok := d.poll.(*poll); ok {
			// poll(2) itself fails beyond the limit; the event is what matters here.
			listener.sock.readable = true
			listener.OnEvent(true, false)
		} else {
			d.turn()
		}
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		if len(failures) != 1 || failures[0] != unix.EMFILE || accepted != 0 {
			t.Fatalf("failures %v, accepted %d", failures, accepted)
		}
		until(t, d, "accepted after the pause", func() bool { return accepted == 1 })
		if waited := d.Now().Sub(began); waited < acceptPause {
			t.Errorf("it went on after %s, want at least %s", waited, acceptPause)
		}
	})
}

// Post from many goroutines: everything runs, in each one's order, while the loop falls asleep in between.
func TestPost(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		go d.Run()
		const posters, each = 4, 5000
		last := [posters]int{}
		var wg sync.WaitGroup
		for p := range posters {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range each {
					seen := make(chan struct{})
					d.Post(func() {
						if last[p] != i {
							t.Errorf("poster %d: call %d came after %d", p, i, last[p])
						}
						last[p] = i + 1
						close(seen)
					})
					if i%16 == 0 || i == each-1 {
						<-seen // let the loop go to sleep
					}
				}
			}()
		}
		wg.Wait()
		d.Stop()
		<-d.Done()
		for p, n := range last {
			if n != each {
				t.Errorf("poster %d: %d of %d calls ran", p, n, each)
			}
		}
	})
}

// The poller's descriptors may belong to somebody else once the loop has ended, and nothing will run what is posted.
func TestPostAfterEnd(t *testing.T) {
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s, peer := socketpair(t, d, ignore)
	d.Stop()
	d.Run()
	if !s.Closed() {
		t.Error("Run left a socket open")
	}
	if n, err := unix.Read(peer, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the peer of a socket that Run should have closed: %d, %v", n, err)
	}
	unix.Close(peer)
	d.asleep.Store(true) // as if a Post had been between its two halves
	d.Post(func() {})
	if !d.asleep.Load() || len(d.posted) != 0 {
		t.Error("Post reached for the closed poller, or kept what will never run")
	}
}

// A post made while the loop runs posted functions waits for the next turn, and doesn't sleep through it.
func TestPostFromPosted(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		n := 0
		var again func()
		again = func() {
			if n++; n < 5 {
				d.Post(again)
			}
		}
		d.Post(again)
		for range 5 {
			d.turn() // would sleep for ever if a post were missed: there is no timer
		}
		if n != 5 {
			t.Errorf("ran %d times", n)
		}
	})
}

// With one processor, a goroutine that the loop has woken runs before the loop waits. The scheduler looks elsewhere
// first every 61st time, so once in a while it doesn't.
func TestYield(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	d := with(t, newPoller)
	atOnce := 0
	for range 100 {
		var ran atomic.Bool
		go ran.Store(true)
		d.Yield()
		d.Post(func() {}) // the turn doesn't sleep
		d.turn()
		if ran.Load() {
			atOnce++
		}
		until(t, d, "the goroutine", func() bool { d.Post(func() {}); runtime.Gosched(); return ran.Load() })
	}
	if atOnce < 80 {
		t.Errorf("the goroutine ran within the turn %d times of 100", atOnce)
	}
}
