package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// WatchNetwork calls fn, one call at a time, when the addresses or default routes in the calling thread's network
// namespace have changed, 500 ms after the last event of a burst, and when the machine has woken from a sleep of at
// least 5 s. It returns nil when ctx ends, an error when it can't watch.
func WatchNetwork(ctx context.Context, fn func()) error {
	before := networkState()
	events, err := subscribe(ctx)
	if err != nil {
		return fmt.Errorf("watching the network for changes: %w", err)
	}
	watchNetwork(ctx, events, before, networkState, asleep, fn)
	for range events { // until the reader is gone
	}
	return nil
}

// subscribe makes an event of whatever comes on a routing socket. What the messages say is not read, and that some were
// lost (ENOBUFS) is an event too, which is why it is a socket of its own: the library ends a subscription then.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	f := os.NewFile(uintptr(fd), "netlink") // non-blocking, so Close ends a Read
	stop := context.AfterFunc(ctx, func() { f.Close() })
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		defer f.Close()
		defer stop()
		buf := make([]byte, 4096) // a longer message is cut, which does not matter
		for {
			if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, nil
}

// networkState describes what connections depend on: this machine's addresses beyond the link, and by which way and
// source address it reaches the world.
func networkState() string {
	var parts []string
	addrs, _ := net.InterfaceAddrs() // none, as far as can be told
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && !ip.IsLinkLocalUnicast() {
			parts = append(parts, a.String())
		}
	}
	slices.Sort(parts)
	for _, ip := range []net.IP{net.IPv4(198, 41, 0, 4), net.ParseIP("2001:503:ba3e::2:30")} { // see dns.HostFamilies
		routes, err := netlink.RouteGet(ip)
		if err != nil || len(routes) == 0 {
			parts = append(parts, "-")
			continue
		}
		r := routes[0]
		parts = append(parts, fmt.Sprintf("via %v dev %d src %v", r.Gw, r.LinkIndex, r.Src))
	}
	return strings.Join(parts, " ")
}

// asleep is the time this machine has spent in suspend since it booted: the clock that counts it less the one that does
// not (clock_gettime(2)).
func asleep() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}
