//go:build unix && !linux

package upstream

import (
	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/cluster"
)

// setKeepalive turns TCP keepalive on, with the system's times.
func setKeepalive(fd int, _ *cluster.TCPKeepalive) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}
