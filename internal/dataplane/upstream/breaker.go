package upstream

import (
	"slices"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
)

// NoRoom is Dial's error when the cluster has as many connections as it may have (max_connections). It says nothing about
// any endpoint; a request may wait for room (Wait).
var NoRoom = &proxyerr.Error{Flags: sf.UpstreamOverflow, Source: proxyerr.Config, Kind: lb.Cancelled, Unsent: true, Detail: "overflow"}

// Queued is a request that waits for a connection to become free.
type Queued interface{ Room() }

// roomFor takes a place among the cluster's connections. Where there is none, an idle connection to another endpoint makes
// room.
func (p *Pools) roomFor(c *cluster.Cluster) bool {
	limit := &c.Breaker().Connections
	if limit.TryAcquire() {
		return true
	}
	for _, hp := range p.hosts {
		for _, idle := range hp.idle {
			if idle.counted && idle.Cluster.Breaker() == c.Breaker() {
				idle.Close()
				return limit.TryAcquire()
			}
		}
	}
	return false
}

// release gives a place back.
func (p *Pools) release(c *cluster.Cluster) {
	c.Breaker().Connections.Release()
	p.wake(c)
}

// Wait queues a request until a connection of the cluster has become free on this worker; Room is called then. The caller
// looks again by itself now and then, since another worker may free one.
func (p *Pools) Wait(c *cluster.Cluster, q Queued) {
	if p.queued == nil {
		p.queued = map[*cluster.Breaker][]Queued{}
	}
	p.queued[c.Breaker()] = append(p.queued[c.Breaker()], q)
}

// Leave takes a request out of the queue.
func (p *Pools) Leave(c *cluster.Cluster, q Queued) {
	b := c.Breaker()
	if i := slices.Index(p.queued[b], q); i >= 0 {
		p.queued[b] = slices.Delete(p.queued[b], i, i+1)
	}
	if len(p.queued[b]) == 0 {
		delete(p.queued, b)
	}
}

// wake lets the request that has waited longest try again.
func (p *Pools) wake(c *cluster.Cluster) {
	if list := p.queued[c.Breaker()]; len(list) > 0 {
		first := list[0]
		p.Leave(c, first)
		p.D.Post(first.Room)
	}
}
