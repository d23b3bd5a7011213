//go:build linux

package load

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// servedBase is where the epoll numbers of accepted connections begin; listenerID is the listener's.
const (
	servedBase = 1 << 24
	listenerID = servedBase - 1
)

// upstream answers requests in the generator's own loop, so that load and upstream need not take turns on their CPU.
type upstream struct {
	listener int
	fds      []int
	heads    [][]byte // what came of a request that is not complete
	answer   []byte
}

// listen listens on cfg.Serve. Requests must have no body; each gets cfg.Length bytes.
func (g *generator) listen() error {
	a, err := netip.ParseAddrPort(g.cfg.Serve)
	if err != nil || !a.Addr().Is4() {
		return fmt.Errorf("address %q: not an IPv4 address and port", g.cfg.Serve)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	g.up = &upstream{listener: fd}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	g.up.answer = append([]byte("HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: "+
		strconv.FormatInt(g.cfg.Length, 10)+"\r\n\r\n"), bytes.Repeat([]byte("x"), int(g.cfg.Length))...)
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: listenerID})
}

// accept takes one connection; the listener is level-triggered.
func (g *generator) accept() error {
	fd, _, err := unix.Accept4(g.up.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return nil // gone again
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	g.up.fds, g.up.heads = append(g.up.fds, fd), append(g.up.heads, nil)
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(servedBase + len(g.up.fds) - 1)})
}

// reply answers what came on an accepted connection, level-triggered too.
func (g *generator) reply(i int) error {
	u := g.up
	n, err := unix.Read(u.fds[i], g.buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if n <= 0 {
		_ = unix.Close(u.fds[i])
		u.fds[i], u.heads[i] = -1, nil
		return nil
	}
	b := g.buf[:n]
	if len(u.heads[i]) > 0 {
		u.heads[i] = append(u.heads[i], b...)
		b = u.heads[i]
	}
	for {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			u.heads[i] = append(u.heads[i][:0], b...)
			return nil
		}
		b = b[end+4:]
		// A proxy has at most one request under way on a connection, so the socket's buffer holds the answer.
		if n, err := unix.Write(u.fds[i], u.answer); err == nil && n < len(u.answer) {
			return fmt.Errorf("upstream: %d of %d bytes written", n, len(u.answer))
		}
	}
}

func (u *upstream) close() {
	_ = unix.Close(u.listener)
	for _, fd := range u.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
