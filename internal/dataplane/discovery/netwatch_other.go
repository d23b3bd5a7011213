//go:build !linux

package discovery

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

// WatchNetwork calls fn, one call at a time, when this machine's addresses have changed (looked at every 2 s, there being
// no portable way to be told), and when it has woken from a sleep of at least 5 s. It returns nil when ctx ends.
func WatchNetwork(ctx context.Context, fn func()) error {
	events := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(sleepCheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return
			case events <- struct{}{}:
			}
		}
	}()
	start := time.Now()
	// The monotonic clock stands still in sleep on darwin, the wall clock does not. A clock that is set looks the same;
	// then a few names are looked up for nothing.
	asleep := func() time.Duration { return time.Now().Round(0).Sub(start.Round(0)) - time.Since(start) }
	watchNetwork(ctx, events, networkState(), networkState, asleep, fn)
	<-done
	return nil
}

func networkState() string {
	addrs, _ := net.InterfaceAddrs() // none, as far as can be told
	var parts []string
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && !ip.IsLinkLocalUnicast() {
			parts = append(parts, a.String())
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}
