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
// cost. So the heap may grow by at least collectorRoom. A large one, which holds a large configuration, may grow by that or
// a few percent as long as little garbage is made, since otherwise nobody would ever use half of its memory; it gets the
// default when there is more to collect.
const (
	collectorRoom  = 16 << 20 // bytes
	collectorMost  = 800      // percent
	collectorLeast = 15       // percent
	collectorTick  = 2 * time.Second
	// There is much garbage where each of collectorTicks ticks saw collectorBusy collections, and little again after
	// collectorCalm ticks that did not. A few changes of the configuration are not much.
	collectorBusy  = 4
	collectorTicks = 2
	collectorCalm  = 5
	defaultPercent = 100
	// loadPercent is the pace while the first configuration is read: what it leaves behind should not be most of what the
	// process will ever have taken.
	loadPercent = 40
)

// ownPace tells whether the collector's pace is left to detour: an operator's GOGC is left alone.
func ownPace() bool { return os.Getenv("GOGC") == "" }

// paceCollector sets the collector's pace while it runs.
func paceCollector() func(context.Context) error {
	return func(ctx context.Context) error {
		if !ownPace() {
			return nil
		}
		now := 0
		defer debug.SetGCPercent(defaultPercent)
		tick := time.NewTicker(collectorTick)
		defer tick.Stop()
		read := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
		var p pace
		for {
			metrics.Read(read)
			if next := p.percent(read[0].Value.Uint64(), read[1].Value.Uint64()); next != now {
				now = next
				debug.SetGCPercent(next)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// pace remembers how busy the collector was.
type pace struct {
	cycles uint64 // so far
	ticks  int    // that were busy, one after the other
	busy   int    // ticks until the garbage counts as little again
}

// percent is how much a live heap of so many bytes may grow before the next collection, in steps, so that it is seldom
// set. cycles counts the collections so far; it is called once a tick.
func (p *pace) percent(live, cycles uint64) int {
	p.busy = max(p.busy-1, 0)
	if p.cycles > 0 && cycles-p.cycles >= collectorBusy {
		p.ticks++
	} else {
		p.ticks = 0
	}
	if p.ticks >= collectorTicks || p.ticks > 0 && p.busy > 0 {
		p.busy = collectorCalm
	}
	p.cycles = cycles
	room := int(collectorRoom * 100 / max(live, 1<<20))
	switch {
	case room >= defaultPercent:
		return min(room/50*50, collectorMost)
	case p.busy > 0:
		return defaultPercent
	}
	return max(room/5*5, collectorLeast)
}
