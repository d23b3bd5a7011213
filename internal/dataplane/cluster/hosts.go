package cluster

import (
	"net/netip"
	"slices"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/outlier"
)

// rebuild makes hosts and host set anew from targets and addresses; hosts that stay are kept with all that hangs on them, those
// that left are returned. l.mu is held.
func (l *live) rebuild() (removed []*lb.Host) {
	old, now := indexHosts(l.hosts), indexHosts(nil)
	eps := make([]*lb.Endpoint, 0, len(l.targets))
	var fresh []*lb.Endpoint
	for i := range l.targets {
		t := &l.targets[i]
		for _, key := range l.keys(t) {
			if now.find(key) != nil {
				continue
			}
			e := &lb.Endpoint{Host: old.find(key), Locality: t.locality, LocalityWeight: t.localityWeight,
				Priority: t.priority, Weight: t.weight, Status: t.status, Metadata: t.metadata}
			if e.Host == nil {
				e.Host = l.newHost(key)
				fresh = append(fresh, e)
			}
			if t.logical {
				e.SetTargets(l.addresses(t))
			}
			now.add(e.Host)
			eps = append(eps, e)
		}
	}
	l.hosts = slices.Clip(now.list)
	removed = l.park(old.list, now)
	if d := l.detector.Load(); d != nil {
		l.inherit(d, fresh, eps, old.list)
		d.SetEndpoints(slices.Concat(eps, l.dynamicHosts()))
		if !l.m.opt.CompatEnvoy && len(fresh)+len(removed) > 0 {
			d.Spare()
		}
	}
	if len(fresh) > 0 || len(removed) > 0 {
		l.stats.MembershipChange.Inc()
	}
	l.publish(eps)
	return removed
}

// keyOf gives the key that a host was made by.
func keyOf(h *lb.Host) hostKey {
	return hostKey{addr: h.Address, path: h.Path, name: h.Name, hostname: h.Hostname}
}

// hostIndex finds hosts by their keys. It has a map only where there are many: most clusters have a handful of hosts.
type hostIndex struct {
	list  []*lb.Host
	byKey map[hostKey]*lb.Host // nil: list is short
}

// manyHosts is from how many on a map is faster than looking at all.
const manyHosts = 12

func indexHosts(list []*lb.Host) hostIndex {
	x := hostIndex{list: list}
	x.index()
	return x
}

func (x *hostIndex) index() {
	if len(x.list) < manyHosts || x.byKey != nil {
		return
	}
	x.byKey = make(map[hostKey]*lb.Host, len(x.list))
	for _, h := range x.list {
		x.byKey[keyOf(h)] = h
	}
}

func (x *hostIndex) find(key hostKey) *lb.Host {
	if x.byKey != nil {
		return x.byKey[key]
	}
	for _, h := range x.list {
		if h.Address == key.addr && keyOf(h) == key {
			return h
		}
	}
	return nil
}

func (x *hostIndex) add(h *lb.Host) {
	x.list = append(x.list, h)
	if x.index(); x.byKey != nil {
		x.byKey[keyOf(h)] = h
	}
}

// keys lists the addresses that a target stands for now.
func (l *live) keys(t *target) []hostKey {
	key := hostKey{path: t.path, name: t.key, hostname: t.hostname}
	if t.path != "" {
		return []hostKey{key}
	}
	addrs := l.addresses(t)
	if t.logical { // one host for all of them
		return slices.Repeat([]hostKey{key}, min(1, len(addrs)))
	}
	keys := make([]hostKey, len(addrs))
	for i, a := range addrs {
		keys[i] = key
		keys[i].addr = a
	}
	return keys
}

// addresses lists what a target's name resolves to, or its address.
func (l *live) addresses(t *target) []netip.AddrPort {
	addrs := []netip.Addr{t.addr}
	if t.name != "" {
		addrs = l.watches[t.name].addrs
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a, t.port)
	}
	return out
}

// newHost makes a host, or takes back one that left while it was ejected.
func (l *live) newHost(key hostKey) *lb.Host {
	h := l.parked[key]
	if h != nil {
		delete(l.parked, key)
		h.SetRemoved(false)
	} else {
		h = &lb.Host{Address: key.addr, Path: key.path, Hostname: key.hostname, Name: key.name, Cluster: l.name}
	}
	h.SetAddedAt(time.Now())
	return h
}

// park marks the hosts that left and keeps the ejected ones for the rest of their ejection.
func (l *live) park(old []*lb.Host, now hostIndex) (removed []*lb.Host) {
	for _, h := range old {
		key := keyOf(h)
		if now.find(key) != nil {
			continue
		}
		h.SetRemoved(true)
		removed = append(removed, h)
		if !h.Ejected() {
			continue
		}
		for k := range l.parked {
			if len(l.parked) < maxParked {
				break
			}
			delete(l.parked, k)
		}
		if l.parked == nil {
			l.parked = map[hostKey]*lb.Host{}
		}
		l.parked[key] = h
	}
	return removed
}

// inherit ejects new addresses of names all of whose known addresses are ejected (E5), as long as that leaves another
// endpoint to go to.
func (l *live) inherit(d *outlier.Detector, fresh, eps []*lb.Endpoint, old []*lb.Host) {
	if l.m.opt.CompatEnvoy || len(fresh) == 0 {
		return
	}
	ejected, well := map[string]*lb.Host{}, map[string]bool{}
	note := func(h *lb.Host) {
		if !h.Ejected() {
			well[h.Name] = true
		} else if last := ejected[h.Name]; last == nil || last.Health.At.Before(h.Health.At) {
			ejected[h.Name] = h
		}
	}
	for _, h := range old {
		note(h)
	}
	for _, h := range l.parked {
		note(h)
	}
	var heirs []*lb.Endpoint
	for _, e := range fresh {
		if ejected[e.Name] != nil && !well[e.Name] && !e.Ejected() {
			heirs = append(heirs, e)
		}
	}
	usable := 0
	for _, e := range eps {
		if e.Usable() {
			usable++
		}
	}
	if usable <= len(heirs) {
		return
	}
	for _, e := range heirs {
		d.Inherit(e.Host, ejected[e.Name])
	}
}

// refill makes the host set anew after health changed. l.mu is held.
func (l *live) refill() { l.publish(l.current.set.Load().Endpoints()) }

// publish makes the host set that Pick sees. l.mu is held.
func (l *live) publish(eps []*lb.Endpoint) {
	set := l.current.set.Load().Next(l.policy, eps)
	l.current.set.Store(set)
	if !set.Complete() && !l.finishing && !l.closed {
		l.finishing = true
		l.waits.Add(1)
		go l.finish()
	}
	st := l.stats
	st.MembershipTotal.Set(int64(len(eps)))
	st.MembershipHealthy.Set(int64(set.Healthy()))
	weight := uint32(0)
	for _, e := range eps {
		weight = max(weight, e.Weight)
	}
	st.MaxHostWeight.Set(int64(weight))
}

// finish makes the large tables of the host set in force, and of the next ones that come meanwhile, so that neither a worker
// nor l.mu waits for them.
func (l *live) finish() {
	defer l.waits.Done()
	for {
		l.mu.Lock()
		set := l.current.set.Load()
		if l.finishing = !set.Complete() && !l.closed; !l.finishing {
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		set.Finish()
	}
}
