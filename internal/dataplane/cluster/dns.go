package cluster

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
)

// warm starts the watches that a version will need and gives those that a serving cluster should wait for: until its new
// names are known, the version in force serves on (Envoy's cluster warming).
func (l *live) warm(cfg *Config, a *assignment) (wait []Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	serving := l.current != nil && len(l.current.set.Load().Endpoints()) > 0
	for i := range a.targets {
		name := a.targets[i].name
		if name == "" {
			continue
		}
		if w := l.watches[name]; w == nil || w.opt != cfg.dns {
			w = l.watch(name, cfg.dns)
			if serving && len(w.addrs) == 0 {
				wait = append(wait, w.Watch)
			}
		}
	}
	return wait
}

// watch starts watching a name, with what is known of it already. l.mu is held.
func (l *live) watch(name string, opt discovery.Options) *watch {
	w := &watch{opt: opt}
	if old := l.watches[name]; old != nil { // other settings: the addresses stay until it has its own
		w.addrs = old.addrs
		old.Close()
	}
	if l.watches == nil {
		l.watches = map[string]*watch{}
	}
	l.watches[name] = w
	w.Watch = l.m.opt.Discovery.Watch(name, opt, func(addrs []netip.Addr) { l.resolved(name, w, addrs) })
	if known, ok := w.Watch.(interface {
		Last() ([]netip.Addr, time.Time, error)
	}); ok && len(w.addrs) == 0 {
		addrs, _, _ := known.Last()
		w.addrs = slices.Clone(addrs)
	}
	return w
}

// unwatch ends the watches of names that are gone. l.mu is held.
func (l *live) unwatch() {
	if len(l.watches) == 0 {
		return
	}
	wanted := map[string]bool{}
	for i := range l.targets {
		wanted[l.targets[i].name] = true
	}
	for name, w := range l.watches {
		if !wanted[name] {
			delete(l.watches, name)
			w.Close()
		}
	}
}

func (l *live) resolved(name string, w *watch, addrs []netip.Addr) {
	l.mu.Lock()
	if l.closed || l.watches[name] != w || slices.Equal(w.addrs, addrs) {
		l.mu.Unlock()
		return
	}
	w.addrs = slices.Clone(addrs)
	l.stats.UpdateSuccess.Inc()
	if l.current == nil { // Update is about to make the first version
		l.mu.Unlock()
		return
	}
	removed := l.rebuild()
	l.arm(time.Now())
	l.mu.Unlock()
	l.m.removed(removed)
}

// names gives the watches of all names, or of the lowest priority number only.
func (l *live) names(nearest bool) (out []Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lowest := uint32(math.MaxUint32)
	for i := range l.targets {
		lowest = min(lowest, l.targets[i].priority)
	}
	for i := range l.targets {
		if t := &l.targets[i]; t.name != "" && (!nearest || t.priority == lowest) {
			out = append(out, l.watches[t.name].Watch)
		}
	}
	return out
}

// refresh asks for another look-up of the host's name.
func (l *live) refresh(h *lb.Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.targets {
		if t := &l.targets[i]; t.name != "" && t.key == h.Name {
			if w := l.watches[t.name]; w != nil {
				w.Refresh()
			}
			return
		}
	}
}
