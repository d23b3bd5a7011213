// Package nft owns what a captured network namespace does to packets: the nftables rules that lead TCP and DNS to
// detour's listeners and refuse all other traffic that would have left the host, and the queue in which connections
// to loopback wait for a decision. It knows nothing about processes or namespaces: it works on the one it is called in.
package nft

import "net/netip"

// The ports of detour's own listeners inside a captured namespace, on 127.0.0.1 and ::1. IANA has assigned none of
// them, and no program without privileges can bind one, so that COMMAND never finds its own port taken.
const (
	CapturePort  = 4 // TCP to anywhere that is not loopback
	LoopbackPort = 6 // TCP to loopback that goes on to the host's loopback
	DNSPort      = 8 // DNS over UDP and TCP, whatever server was asked
)

// Packet marks, which a program without CAP_NET_ADMIN can't set.
const (
	// MarkOwn is on sockets of detour's own inside the namespace: no rule touches them.
	MarkOwn = 0xde700001
	// MarkHost is put on a queued connection that goes to the host's loopback.
	MarkHost = 0xde700002
)

// The namespace's own addresses beside loopback. Every connection out of it has one of these as its source; traffic
// to them stays inside. The first is the "IPv4 dummy address" of RFC 7600 section 5.6; the second is from a prefix of
// RFC 4193 section 3.
var (
	OwnIPv4 = netip.MustParseAddr("192.0.0.8")
	OwnIPv6 = netip.MustParseAddr("fd64:6574:6f75:72::1")
)
