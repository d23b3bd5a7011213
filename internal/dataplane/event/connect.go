//go:build unix

package event

import (
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Connect begins a connection to a TCP address or, where path is set, a Unix socket. The handler's first event with
// writable true says that it was decided: ask Connected. An error here means that nothing was sent.
func (d *Dispatcher) Connect(addr netip.AddrPort, path string, h Handler) (*Socket, error) {
	sa, family := sockaddr(addr, path)
	fd, err := newSocket(family)
	if err != nil {
		return nil, err
	}
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return nil, err
	}
	return d.NewSocket(fd, h)
}

// Connected gives the outcome of Connect after the first event.
func (s *Socket) Connected() error { return s.Error() }

func sockaddr(addr netip.AddrPort, path string) (unix.Sockaddr, int) {
	if path != "" {
		return &unix.SockaddrUnix{Name: path}, unix.AF_UNIX
	}
	ip := addr.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16(), ZoneId: zoneID(ip.Zone())}, unix.AF_INET6
}

func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}

func zoneName(id uint32) string { return strconv.FormatUint(uint64(id), 10) }
