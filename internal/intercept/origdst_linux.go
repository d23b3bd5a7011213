package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST for IPv4 (linux/netfilter_ipv4.h) and IP6T_SO_ORIGINAL_DST for IPv6
// (linux/netfilter_ipv6/ip6_tables.h): the same number on both levels.
const soOriginalDst = 80

// OriginalDst gives the address that a redirected TCP connection was made to, before nat rewrote it. fd is an accepted
// socket of any network namespace. The error is ENOENT when the kernel tracks no such connection.
func OriginalDst(fd int) (netip.AddrPort, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	level := unix.SOL_IP
	if family == unix.AF_INET6 && !carriesIPv4(fd) {
		level = unix.SOL_IPV6
	}
	var raw [unix.SizeofSockaddrInet6]byte
	size := uint32(len(raw))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soOriginalDst,
		uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", errno)
	}
	port := binary.BigEndian.Uint16(raw[2:])
	if level == unix.SOL_IP {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port), nil
}

// carriesIPv4 tells whether an IPv6 socket that listens for both families has an IPv4 connection, which the kernel tracks
// as such.
func carriesIPv4(fd int) bool {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	a, ok := sa.(*unix.SockaddrInet6)
	return ok && netip.AddrFrom16(a.Addr).Is4In6()
}
