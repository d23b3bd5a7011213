package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The collector's pace. What the data plane allocates for each TLS handshake is soon garbage, and with Go's default of one
// live heap between two collections a proxy whose live heap is small collects all the time: 11 % of a resumed handshake's
// cost. So the heap may grow by at least collectorRoom; a heap larger than that keeps the default, and so its memory.
const (
	collectorRoom  = 16 << 20 // bytes
	collectorMost  = 800      // percent
	collectorTick  = 2 * time.Second
	defaultPercent = 100
)

// paceCollector sets the collector's pace while it runs. An operator's GOGC is left alone.
func paceCollector() func(context.Context) error {
	return func(ctx context.Context) error {
		if os.Getenv("GOGC") != "" {
			return nil
		}
		now := defaultPercent
		defer debug.SetGCPercent(now)
		tick := time.NewTicker(collectorTick)
		defer tick.Stop()
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for {
			metrics.Read(live)
			if p := collectorPercent(live[0].Value.Uint64()); p != now {
				now = p
				debug.SetGCPercent(p)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// collectorPercent is how much a live heap may grow before the next collection, in steps, so that it is seldom set.
func collectorPercent(live uint64) int {
	p := int(collectorRoom * 100 / max(live, 1<<20))
	return min(max(p/50*50, defaultPercent), collectorMost)
}
