package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/outlier"
)

// overflowEvery is how often one cluster says that max_ejection_percent keeps an endpoint from being ejected.
const overflowEvery = 10 * time.Minute

// faultEvery is how often the manager says that the fault is probably here.
const faultEvery = time.Minute

// line is one log line; lines are made under the lock and written without it.
type line struct {
	level slog.Level
	msg   string
	args  []any
}

// describe makes log lines of events, with the host set already as they left it. l.mu is held; o is what was judged, nil
// in a sweep.
func (l *live) describe(events []outlier.Event, o *lb.Outcome) (lines []line) {
	for _, ev := range events {
		e := ev.Endpoint
		args := []any{"cluster", l.name, "endpoint", e.String(), "name", e.Name, "locality", lb.LocalityName(e.Locality)}
		switch ev.Kind {
		case outlier.Ejected:
			if ev.Again {
				continue
			}
			to, crosses := l.destination(e)
			lines = append(lines, line{slog.LevelWarn, "endpoint ejected",
				append(args, "reason", ev.Why, "for", ev.For, "traffic", to, "crosses_region", crosses)})
		case outlier.Returned:
			if ev.Why == "" {
				lines = append(lines, line{slog.LevelInfo, "endpoint is back", append(args, "after", ev.For.Round(time.Millisecond))})
			}
		case outlier.Overflow:
			if o.Now.Sub(l.overflowed) < overflowEvery {
				continue
			}
			l.overflowed = o.Now
			lines = append(lines, line{slog.LevelWarn, "endpoint fails and is not ejected: max_ejection_percent allows no more",
				append(args, "reason", ev.Why, "max_ejection_percent", l.current.cfg.outlier.MaxEjectionPct)})
		}
	}
	return lines
}

// destination says where the requests go that the endpoint would have had: the nearest priority that takes load, and
// whether that lies in another region.
func (l *live) destination(from *lb.Endpoint) (to string, crosses bool) {
	if l.current.cfg.Type == DynamicDNS && !l.m.opt.CompatEnvoy {
		return "still there: nobody else serves the name", false
	}
	set := l.current.set.Load()
	for p, load := range set.Loads() {
		tier := &set.Tiers()[p]
		if load.Load == 0 || len(tier.Healthy) == 0 {
			continue
		}
		e := tier.Healthy[0]
		to = fmt.Sprintf("priority %d: %s", p, e.Name)
		if n := len(tier.Healthy) - 1; n > 0 {
			to += fmt.Sprintf(" and %d more", n)
		}
		if loc := lb.LocalityName(e.Locality); loc != "" {
			to += " (" + loc + ")"
		}
		return to, e.Locality.GetRegion() != from.Locality.GetRegion()
	}
	return "nowhere: no healthy endpoint is left", false
}

// tell writes the lines and informs the pools. No lock is held.
func (l *live) tell(events []outlier.Event, lines []line) {
	for _, ln := range lines {
		l.m.opt.Log.Log(context.Background(), ln.level, ln.msg, ln.args...)
	}
	for _, ev := range events {
		switch ev.Kind {
		case outlier.Ejected:
			for _, fn := range l.m.onEject {
				fn(ev.Endpoint.Host)
			}
		case outlier.Fault:
			l.m.fault(ev.At, l.name, ev.Endpoint.Host, "every endpoint fails, this one with "+ev.Why)
		}
	}
}

// fault says, at most once a minute, that requests fail because of this machine or its network (E4).
func (m *Manager) fault(now time.Time, cluster string, h *lb.Host, reason string) {
	m.opt.Stats.Detour().LocalFaults.Inc()
	last := m.faultAt.Load()
	if last != 0 && now.UnixNano()-last < int64(faultEvery) || !m.faultAt.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	m.opt.Log.Warn("the fault is probably on this side: no endpoint is judged by it", "cluster", cluster,
		"endpoint", h.String(), "name", h.Name, "reason", reason)
}
