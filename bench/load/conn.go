//go:build linux

package load

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// open connects connection i. On loopback the handshake is usually over when connect returns, so the first write is tried
// at once.
func (g *generator) open(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("connection %d: %w", i, err)
	}
	c := &g.conns[i]
	*c = conn{fd: fd, state: sending, head: c.head[:0]}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&g.addr)), unsafe.Sizeof(g.addr))
	if errno != 0 && errno != unix.EINPROGRESS {
		return fmt.Errorf("connection %d: %w", i, errno)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(i)}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	switch {
	case g.cfg.Tunnel != "":
		c.state = tunnel
		g.write(i)
	case g.cfg.Rate > 0:
		g.ready(i)
	default:
		g.send(i)
	}
	return nil
}

// ready gives an idle connection its next request.
func (g *generator) ready(i int) {
	if g.cfg.Rate == 0 {
		g.send(i)
		return
	}
	g.conns[i].state = idle
	if len(g.queue) == 0 {
		g.free = append(g.free, int32(i))
		return
	}
	g.conns[i].due = g.queue[0]
	g.queue = g.queue[1:]
	g.send(i)
}

func (g *generator) send(i int) {
	g.conns[i].state, g.conns[i].sent = sending, 0
	g.write(i)
}

// write writes what is left of the request, or of CONNECT.
func (g *generator) write(i int) {
	c := &g.conns[i]
	out := g.request
	if c.state == tunnel {
		out = g.connect
	}
	for c.sent < len(out) {
		b := out[c.sent:]
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			unix.MSG_NOSIGNAL, 0, 0)
		if errno != 0 {
			return // EAGAIN: told when it can go on; else reading says what is wrong
		}
		c.sent += int(n)
	}
	if c.state == sending {
		c.state = waiting
	}
}

// serve goes on with connection i after the kernel said that something changed: edge-triggered, so all is read.
// over: the other side closed, which is read behind the last byte.
func (g *generator) serve(i int, over bool) error {
	c := &g.conns[i]
	if c.state == sending || c.state == tunnel {
		g.write(i)
	}
	for c.state != closed {
		n, _, errno := g.receive(c)
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno != 0:
			return g.broken(i, errno.Error())
		case n == 0:
			return g.end(i)
		}
		g.res.Bytes += int64(n)
		if c.state == body {
			if c.left -= int64(n); c.left < 0 {
				return g.broken(i, "bytes behind an answer")
			}
			if c.left > 0 {
				continue
			}
			if err := g.answered(i); err != nil {
				return err
			}
		} else if err := g.feed(i, g.buf[:n]); err != nil {
			return err
		}
		if n < bufSize && c.state != ending && !over {
			return nil // all that there was
		}
	}
	return nil
}

// receive reads. The bytes of a body stay in the kernel.
func (g *generator) receive(c *conn) (n, r2 uintptr, errno syscall.Errno) {
	flags := uintptr(0)
	if c.state == body {
		flags = unix.MSG_TRUNC
	}
	return syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(&g.buf[0])), bufSize, flags, 0, 0)
}

// feed takes bytes that begin with, or go on with, a head.
func (g *generator) feed(i int, b []byte) error {
	c := &g.conns[i]
	if c.state != waiting && c.state != tunnel {
		return g.broken(i, "bytes that nobody asked for")
	}
	if len(c.head) > 0 {
		c.head = append(c.head, b...)
		b = c.head
	}
	h, ok := parseHead(b)
	if !ok {
		if len(c.head) == 0 {
			c.head = append(c.head, b...)
		}
		return nil
	}
	c.head = c.head[:0]
	rest := int64(len(b) - h.size)
	if c.state == tunnel {
		if h.status != 200 || rest != 0 {
			return g.broken(i, fmt.Sprintf("CONNECT: status %d", h.status))
		}
		g.ready(i)
		return nil
	}
	switch {
	case h.status != g.cfg.Status:
		return g.broken(i, fmt.Sprintf("status %d, not %d", h.status, g.cfg.Status))
	case h.length != g.cfg.Length:
		return g.broken(i, fmt.Sprintf("content-length %d, not %d", h.length, g.cfg.Length))
	case rest > h.length:
		return g.broken(i, "bytes behind an answer")
	case rest == h.length:
		return g.answered(i)
	}
	c.state, c.left = body, h.length-rest
	return nil
}

// answered: the answer is complete and as expected.
func (g *generator) answered(i int) error {
	c := &g.conns[i]
	g.res.Requests++
	switch {
	case g.cfg.Close:
		c.state = ending
		return nil
	case g.cfg.Hold:
		c.state = idle
		g.held++
		if g.opened < len(g.conns) {
			g.opened++
			return g.open(g.opened - 1)
		}
		return nil
	}
	if g.cfg.Rate > 0 && g.measured(c.due) {
		g.pending--
		g.res.Latencies = append(g.res.Latencies, g.now()-c.due)
	}
	g.ready(i)
	return nil
}

// end: the other side closed.
func (g *generator) end(i int) error {
	if g.conns[i].state != ending {
		return g.broken(i, "closed in the middle of an answer")
	}
	return g.reopen(i)
}

// broken counts a failed request and begins anew.
func (g *generator) broken(i int, why string) error {
	c := &g.conns[i]
	g.res.Failed++
	g.res.Failure = why
	if g.cfg.Rate > 0 && c.state == idle {
		for k, f := range g.free {
			if int(f) == i {
				g.free = append(g.free[:k], g.free[k+1:]...)
				break
			}
		}
	} else if g.cfg.Rate > 0 && g.measured(c.due) {
		g.pending--
	}
	if g.res.Failed >= tooMany || g.cfg.Hold {
		return nil // the run ends
	}
	return g.reopen(i)
}

func (g *generator) reopen(i int) error {
	_ = unix.Close(g.conns[i].fd)
	g.conns[i].state = closed
	return g.open(i)
}
