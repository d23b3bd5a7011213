//go:build unix

package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sys/unix"
)

// Own is where a Listener that is bound to a port (bind_to_port) has its socket: an IP address and port, or a path.
type Own struct {
	Addr netip.AddrPort
	Path string // of a Unix socket; an abstract one's name begins with "@"; "": Addr
	Mode uint32 // of a Unix socket's file (Pipe.mode); 0: what the umask leaves
}

func ownAddress(a *corev3.Address) (Own, error) {
	if p := a.GetPipe(); p != nil {
		if p.GetPath() == "" {
			return Own{}, errors.New("address: pipe.path is empty")
		}
		return Own{Path: p.GetPath(), Mode: p.GetMode()}, nil
	}
	ip, err := netip.ParseAddr(a.GetSocketAddress().GetAddress())
	if err != nil {
		return Own{}, fmt.Errorf("address: %w", err)
	}
	return Own{Addr: netip.AddrPortFrom(ip.Unmap(), uint16(a.GetSocketAddress().GetPortValue()))}, nil
}

// String is the address as messages show it.
func (o Own) String() string {
	if o.Path != "" {
		return "unix://" + o.Path
	}
	return o.Addr.String()
}

// backlog is how many connections may wait to be accepted (net.core.somaxconn's usual value).
const backlog = 4096

// Socket listens at an Own address.
type Socket struct {
	FD  int // listening, non-blocking, close-on-exec; whoever takes it closes it
	own Own
	id  fileID
}

// fileID tells a path's file from another that comes after it, which may get the same inode.
type fileID struct {
	dev, ino uint64
	made     int64 // ns of Unix time
}

func identify(st *unix.Stat_t) fileID { return fileID{uint64(st.Dev), st.Ino, st.Mtim.Nano()} }

// Open makes a listening socket. newSocket makes a stream socket of an address family, non-blocking and close-on-exec; nil:
// in this process's network namespace. A path whose socket nobody listens on any more is taken over; any other that exists
// is left alone, and is an error.
func Open(own Own, newSocket func(family int) (int, error)) (*Socket, error) {
	if newSocket == nil {
		newSocket = streamSocket
	}
	sa, family := own.sockaddr()
	fd, err := newSocket(family)
	if err != nil {
		return nil, err
	}
	s := &Socket{FD: fd, own: own}
	if err := s.bind(sa, family); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func streamSocket(family int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (o Own) sockaddr() (unix.Sockaddr, int) {
	ip := o.Addr.Addr()
	switch {
	case o.Path != "":
		return &unix.SockaddrUnix{Name: o.Path}, unix.AF_UNIX
	case ip.Is4():
		return &unix.SockaddrInet4{Port: int(o.Addr.Port()), Addr: ip.As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(o.Addr.Port()), Addr: ip.As16()}, unix.AF_INET6
}

func (s *Socket) bind(sa unix.Sockaddr, family int) error {
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if family == unix.AF_INET6 {
		_ = unix.SetsockoptInt(s.FD, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1) // 0.0.0.0 is another listener's
	}
	err := unix.Bind(s.FD, sa)
	if err == unix.EADDRINUSE && s.onDisk() {
		if err = s.own.clear(); err == nil {
			err = unix.Bind(s.FD, sa)
		}
	}
	switch {
	case err == unix.EINVAL && s.own.Path != "":
		return errors.New("the path is longer than a socket's may be (107 bytes)")
	case err != nil:
		return err
	}
	if s.onDisk() {
		var st unix.Stat_t
		if err := unix.Lstat(s.own.Path, &st); err != nil {
			return err
		}
		s.id = identify(&st)
		if s.own.Mode != 0 {
			err = unix.Chmod(s.own.Path, s.own.Mode)
		}
	}
	if err == nil {
		err = unix.Listen(s.FD, backlog)
	}
	if err != nil {
		s.Remove()
	}
	return err
}

// onDisk tells whether the socket has a file.
func (s *Socket) onDisk() bool { return s.own.Path != "" && !strings.HasPrefix(s.own.Path, "@") }

// clear removes a socket that a process left behind.
func (o Own) clear() error {
	var st unix.Stat_t
	if err := unix.Lstat(o.Path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("there is a file that is no socket")
	}
	fd, err := streamSocket(unix.AF_UNIX)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: o.Path}) != unix.ECONNREFUSED {
		return unix.EADDRINUSE
	}
	return unix.Unlink(o.Path)
}

// Remove removes the socket's file, if it is still this socket's.
func (s *Socket) Remove() {
	if !s.onDisk() || s.id == (fileID{}) {
		return
	}
	var st unix.Stat_t
	if unix.Lstat(s.own.Path, &st) == nil && s.id == identify(&st) {
		_ = unix.Unlink(s.own.Path)
	}
}
