package cluster

import (
	"net/netip"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
)

// maxOriginalDst bounds the remembered addresses of an ORIGINAL_DST cluster.
const maxOriginalDst = 4096

type origHost struct {
	ep   *lb.Endpoint
	used time.Time
}

// originalDst gives the endpoint at the address the application wanted. It takes the cluster's lock, once for each
// connection.
func (l *live) originalDst(cfg *Config, in *lb.PickInfo) (lb.Result, error) {
	addr := in.OriginalDst
	if !addr.IsValid() || in.Own {
		return lb.Result{}, lb.ErrNoOriginalDst
	}
	if cfg.PortOverride != 0 {
		addr = netip.AddrPortFrom(addr.Addr(), cfg.PortOverride)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.orig[addr]
	if h == nil {
		h = &origHost{ep: &lb.Endpoint{Weight: 1, Host: &lb.Host{Address: addr, Name: addr.String(), Cluster: l.name}}}
		l.sweepOriginalDst(cfg, in.Now)
		if len(l.orig) < maxOriginalDst { // else it serves this connection only, and is not seen in /clusters
			if l.orig == nil {
				l.orig = map[netip.AddrPort]*origHost{}
			}
			l.orig[addr] = h
		}
	}
	h.used = in.Now
	for _, t := range in.Tried {
		if t == h.ep.Host {
			return lb.Result{}, lb.ErrAllTried
		}
	}
	return lb.Result{Endpoint: h.ep}, nil
}

// sweepOriginalDst forgets addresses without a connection for cleanup_interval; it looks once in that time, so that many new
// addresses don't each pay for all. l.mu is held.
func (l *live) sweepOriginalDst(cfg *Config, now time.Time) {
	if now.Sub(l.origSwept) < cfg.CleanupInterval {
		return
	}
	l.origSwept = now
	for a, h := range l.orig {
		if h.ep.Stats.RqActive.Value() <= 0 && now.Sub(h.used) > cfg.CleanupInterval {
			delete(l.orig, a)
			h.ep.SetRemoved(true)
		}
	}
}
