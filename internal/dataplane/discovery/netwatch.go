package discovery

import (
	"context"
	"time"
)

const (
	// quietTime is how long no event must have come before the network is looked at: coming up is a dozen events.
	// maxWait bounds that where events never stop.
	quietTime = 500 * time.Millisecond
	maxWait   = 2 * time.Second
	// sleepCheck is how often it is looked whether the machine slept, sleepAtLeast how long a sleep counts.
	sleepCheck   = 2 * time.Second
	sleepAtLeast = 5 * time.Second
)

// watchNetwork calls fn when state differs after events, and when the time spent asleep has grown, until ctx ends. state is
// needed because most events mean nothing: router advertisements prolong addresses every few minutes, containers come
// and go. It is compared with last once at the beginning too, for what changed before events came. asleep gives the time
// slept since some fixed point.
func watchNetwork(ctx context.Context, events <-chan struct{}, last string, state func() string,
	asleep func() time.Duration, fn func()) {
	tick := time.NewTicker(sleepCheck)
	defer tick.Stop()
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	var first time.Time // of the events waited for; zero when there are none
	slept, woke := asleep(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if first.IsZero() {
				first = time.Now()
			}
			quiet.Reset(min(quietTime, max(0, maxWait-time.Since(first))))
		case <-tick.C:
			now := asleep()
			if now-slept >= sleepAtLeast {
				woke = true
				quiet.Reset(quietTime) // the network comes back a moment later
			}
			slept = now
		case <-quiet.C:
			first = time.Time{}
			if now := state(); woke || now != last {
				last, woke = now, false
				fn()
			}
		}
	}
}
