package upstream

import (
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/cluster"
)

// setKeepalive turns TCP keepalive on; fields that are 0 stay the system's.
func setKeepalive(fd int, k *cluster.TCPKeepalive) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	if k.Probes > 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int(k.Probes))
	}
	if k.Time > 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(k.Time/time.Second))
	}
	if k.Interval > 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(k.Interval/time.Second))
	}
}
