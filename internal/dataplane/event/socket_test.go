//go:build unix

package event

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadAndWrite(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		if got := s.RemoteAddr().String(); got != peer.LocalAddr().String() {
			t.Errorf("RemoteAddr is %s, want %s", got, peer.LocalAddr())
		}
		if got := s.LocalAddr().String(); got != peer.RemoteAddr().String() {
			t.Errorf("LocalAddr is %s, want %s", got, peer.RemoteAddr())
		}
		if n, err := s.Writev([]byte("head "), []byte("body")); n != 9 || err != nil {
			t.Fatalf("Writev: %d, %v", n, err)
		}
		if n, err := s.Writev(nil, []byte("!")); n != 1 || err != nil {
			t.Fatalf("Writev: %d, %v", n, err)
		}
		buf := make([]byte, 10)
		if _, err := io.ReadFull(peer, buf); err != nil || string(buf) != "head body!" {
			t.Fatalf("peer read %q, %v", buf, err)
		}
		if _, err := s.Read(buf); err != ErrAgain {
			t.Errorf("Read without data: %v, want ErrAgain", err)
		}
		events := 0
		s.SetHandler(handler(func(r, _ bool) {
			if r {
				events++
			}
		}))
		_, _ = peer.Write([]byte("abc"))
		until(t, d, "readable", func() bool { return events > 0 })
		if n, err := s.Read(nil); n != 0 || err != nil {
			t.Errorf("Read of nothing: %d, %v; only a FIN is io.EOF", n, err)
		}
		if n, err := s.Read(buf[:2]); n != 2 || err != nil {
			t.Errorf("Read: %d, %v", n, err)
		}
		if n, err := s.Read(buf); n != 1 || err != nil || buf[0] != 'c' {
			t.Errorf("Read: %d, %v", n, err)
		}
		if s.BytesRead != 3 || s.BytesWritten != 10 {
			t.Errorf("counted %d read, %d written", s.BytesRead, s.BytesWritten)
		}
	})
}

// A socket that is not drained is not forgotten: Again calls its handler in the same turn, without an event.
func TestAgain(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		var got []byte
		var s *Socket
		s, peer := socketpair(t, d, handler(func(readable, _ bool) {
			if !readable {
				return
			}
			var b [1]byte
			if n, err := s.Read(b[:]); err == nil {
				got = append(got, b[:n]...)
				s.Again()
				s.Again() // asking twice is asking once
			}
		}))
		defer unix.Close(peer)
		_, _ = unix.Write(peer, []byte("one at a time"))
		until(t, d, "all bytes", func() bool { return string(got) == "one at a time" })
	})
}

func TestHalfClose(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		_, _ = peer.Write([]byte("last"))
		_ = peer.CloseWrite()
		var got []byte
		var end error
		buf := make([]byte, 64)
		s.SetHandler(handler(func(readable, _ bool) {
			for readable {
				n, err := s.Read(buf)
				got = append(got, buf[:n]...)
				if err != nil {
					if err != ErrAgain {
						end = err
					}
					return
				}
			}
		}))
		s.Again()
		until(t, d, "the FIN", func() bool { return end != nil })
		if string(got) != "last" || end != io.EOF {
			t.Fatalf("read %q, then %v", got, end)
		}
		if _, err := s.Read(buf); err != io.EOF {
			t.Errorf("Read after the FIN: %v, want io.EOF again", err)
		}
		if n, err := s.Write([]byte("still open")); n != 10 || err != nil {
			t.Fatalf("Write after the peer's FIN: %d, %v", n, err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(peer); string(all) != "still open" || err != nil {
			t.Errorf("peer read %q, %v", all, err)
		}
	})
}

// A FIN behind data that fills the reader's buffer exactly must still be found, though no further edge comes.
func TestFINBehindFullRead(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		_, _ = peer.Write(make([]byte, 64))
		_ = peer.CloseWrite()
		total, end := 0, error(nil)
		s.SetHandler(handler(func(readable, _ bool) {
			buf := make([]byte, 16)
			for readable && end == nil {
				n, err := s.Read(buf)
				total += n
				if err == ErrAgain {
					return
				}
				end = err
			}
		}))
		s.Again()
		until(t, d, "the FIN", func() bool { return end != nil })
		if total != 64 || end != io.EOF {
			t.Errorf("read %d bytes, then %v", total, end)
		}
	})
}

// With a peer that doesn't read, writes get short, then say ErrAgain; each time it reads on, the handler hears.
func TestShortWrites(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
		rest, short, blocked := data, 0, 0
		write := func() {
			for len(rest) > 0 {
				n, err := s.Writev(rest[:min(7, len(rest))], rest[min(7, len(rest)):])
				if err == ErrAgain {
					blocked++
					return
				}
				if err != nil {
					t.Error(err)
					rest = nil
					return
				}
				if n < len(rest) {
					short++
				}
				rest = rest[n:]
			}
		}
		s.SetHandler(handler(func(_, writable bool) {
			if writable {
				write()
			}
		}))
		write()
		if short == 0 || blocked == 0 || len(rest) == 0 {
			t.Fatalf("%d short writes, %d blocked, %d bytes left: the socket took everything", short, blocked, len(rest))
		}
		sum := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(peer)
			sum <- all
		}()
		until(t, d, "all written", func() bool { return len(rest) == 0 })
		s.Close()
		if got := <-sum; !bytes.Equal(got, data) {
			t.Errorf("peer got %d bytes of %d", len(got), len(data))
		}
	})
}

func TestPeerResets(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		var end error
		s.SetHandler(handler(func(readable, _ bool) {
			if readable && end == nil {
				if _, err := s.Read(make([]byte, 8)); err != ErrAgain {
					end = err
				}
			}
		}))
		_ = peer.SetLinger(0)
		peer.Close()
		until(t, d, "the reset", func() bool { return end != nil })
		if !errors.Is(end, unix.ECONNRESET) {
			t.Errorf("Read: %v, want ECONNRESET", end)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
			t.Errorf("Write: %v, want EPIPE", err)
		}
		if _, err := s.Writev([]byte("x"), []byte("y")); !errors.Is(err, unix.EPIPE) {
			t.Errorf("Writev: %v, want EPIPE", err)
		}
		if !s.PeerClosed() {
			t.Error("PeerClosed is false")
		}
	})
}

func TestAbortResets(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		s, peer := tcpPair(t, d)
		_, _ = s.Write([]byte("part of it"))
		s.Abort()
		_, err := io.ReadAll(peer)
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("peer read: %v, want ECONNRESET", err)
		}
	})
}

// Once closed, a socket must not touch its old descriptor number, which belongs to another by then.
func TestClosedSocketIsInert(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		called := false
		s, peer := socketpair(t, d, handler(func(bool, bool) { called = true }))
		fd := s.FD()
		s.Again()
		s.Close()
		unix.Close(peer)
		other, otherPeer := socketpair(t, d, ignore)
		defer unix.Close(otherPeer)
		if other.FD() != fd && otherPeer != fd {
			t.Fatalf("descriptor %d was not used again", fd)
		}
		if err := s.CloseWrite(); err == nil {
			t.Error("CloseWrite on a closed socket worked on somebody's descriptor")
		}
		if _, err := s.Write([]byte("x")); err != ErrAgain {
			t.Errorf("Write: %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); err != ErrAgain {
			t.Errorf("Read: %v", err)
		}
		s.Abort()
		s.Close()
		until(t, d, "the other is writable", func() bool { return other.writable })
		if n, err := other.Write([]byte("x")); n != 1 || err != nil {
			t.Errorf("the other socket: %d, %v", n, err)
		}
		if called {
			t.Error("the handler of a closed socket was called")
		}
	})
}

func TestConnectRefused(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort(l.Addr().String())
		l.Close()
		var got error
		var s *Socket
		s, err = d.Connect(addr, "", handler(func(_, writable bool) {
			if writable && got == nil {
				got = s.Connected()
				s.Close()
			}
		}))
		if err != nil {
			t.Skipf("refused at once: %v", err) // allowed, and seen on some systems
		}
		until(t, d, "an answer", func() bool { return s.Closed() })
		if !errors.Is(got, unix.ECONNREFUSED) {
			t.Errorf("Connected: %v, want ECONNREFUSED", got)
		}
	})
}

func TestConnectUnix(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		up := false
		s, err := d.Connect(netip.AddrPort{}, path, handler(func(_, w bool) { up = up || w }))
		if err != nil {
			t.Fatal(err)
		}
		until(t, d, "connected", func() bool { return up })
		if err := s.Connected(); err != nil {
			t.Fatal(err)
		}
		if s.RemoteAddr().IsValid() {
			t.Errorf("RemoteAddr of a Unix socket is %s", s.RemoteAddr())
		}
		if _, ok := s.Acked(); ok {
			t.Error("Acked claims to know about a Unix socket")
		}
		if _, err := d.Connect(netip.AddrPort{}, path+"-no", ignore); !errors.Is(err, unix.ENOENT) {
			t.Errorf("no such socket: %v", err)
		}
	})
}

func TestConnectIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	defer l.Close()
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		up := false
		s, err := d.Connect(netip.MustParseAddrPort(l.Addr().String()), "", handler(func(_, w bool) { up = up || w }))
		if err != nil {
			t.Fatal(err)
		}
		until(t, d, "connected", func() bool { return up })
		if s.Connected() != nil || s.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("%v, %s", s.Connected(), s.RemoteAddr())
		}
	})
}

// What E2 stands on: the kernel says whether the peer has acknowledged anything of a request.
func TestAcked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("TCP_INFO with tcpi_bytes_acked is Linux's")
	}
	d := with(t, newPoller)
	s, peer := tcpPair(t, d)
	const syn = 1
	if n, ok := s.Acked(); n != syn || !ok {
		t.Fatalf("after connecting: %d, %v; want 1 (the SYN)", n, ok)
	}
	_, _ = s.Write(make([]byte, 100))
	if _, err := io.ReadFull(peer, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	// The acknowledgement may be delayed by 40 ms; the loop's timer is what looks again.
	var look Timer
	look.Init(d, func() { look.Schedule(tick) })
	look.Schedule(tick)
	defer look.Stop()
	until(t, d, "the acknowledgement", func() bool { n, _ := s.Acked(); return n == syn+100 })
	s.Close()
	if _, ok := s.Acked(); ok {
		t.Error("Acked claims to know about a closed socket")
	}
}
