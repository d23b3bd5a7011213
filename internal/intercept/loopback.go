package intercept

import (
	"net"
	"net/netip"
)

// LoopbackConfig is what Loopback needs of a session.
type LoopbackConfig struct {
	// Queue is a socket of nft.OpenQueue; Loopback owns it.
	Queue int
	// Listeners get the connections that go on to the host. Loopback closes them.
	Listeners []net.Listener
	// Listening gives the ports that COMMAND and its children listen on.
	Listening func() (map[uint16]bool, error)
	// FellThrough is told once for each port, before its first connection to the host's loopback.
	FellThrough func(to netip.AddrPort)
}
