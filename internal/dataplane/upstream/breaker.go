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
	b := c.Breaker()
	if p.grant == b { // counted already
		p.grant = nil
		return true
	}
	took := b.Connections.TryAcquire()
	if idle := p.idleOf(b); !took && idle != nil {
		idle.Close()
		took = b.Connections.TryAcquire()
	}
	if took {
		p.hold(b, 1)
	}
	return took
}

// HasRoom says whether an attempt would find a place, or an idle connection.
func (p *Pools) HasRoom(c *cluster.Cluster) bool {
	b := c.Breaker()
	return p.grant == b || b.Connections.Active() < int64(b.Connections.Max()) || p.idleOf(b) != nil
}

// idleOf gives an idle connection that holds one of the breaker's places, or nil.
func (p *Pools) idleOf(b *cluster.Breaker) *Conn {
	for _, hp := range p.hosts {
		for _, idle := range hp.idle {
			if idle.counted && idle.Cluster.Breaker() == b {
				return idle
			}
		}
	}
	return nil
}

// release gives a place back, or to another worker.
func (p *Pools) release(c *cluster.Cluster) {
	b := c.Breaker()
	p.hold(b, -1)
	if !p.handOver(b) {
		b.Connections.Release()
		p.wake(c)
	}
}

// Wait queues a request until it leaves. Room is called when a connection of the cluster may have become free on this
// worker and nobody has waited longer. The caller looks again by itself now and then, since another worker may free one, and
// asks for it (Ask) where it finds none.
func (p *Pools) Wait(c *cluster.Cluster, q Queued) {
	if p.queued == nil {
		p.queued = map[*cluster.Breaker][]Queued{}
	}
	p.queued[c.Breaker()] = append(p.queued[c.Breaker()], q)
	if p.HasRoom(c) {
		p.wake(c)
	} else {
		p.Ask(c, q)
	}
}

// Waiting says whether requests wait for a connection of the cluster, so that another has to stand behind them.
func (p *Pools) Waiting(c *cluster.Cluster) bool {
	return len(p.queued) > 0 && len(p.queued[c.Breaker()]) > 0
}

// First tells whether q has waited longest here for a connection of the cluster.
func (p *Pools) First(c *cluster.Cluster, q Queued) bool {
	list := p.queued[c.Breaker()]
	return len(list) > 0 && list[0] == q
}

// Leave takes a request out of the queue.
func (p *Pools) Leave(c *cluster.Cluster, q Queued) {
	b := c.Breaker()
	if i := slices.Index(p.queued[b], q); i >= 0 {
		p.queued[b] = slices.Delete(p.queued[b], i, i+1)
	}
	if len(p.queued[b]) == 0 {
		delete(p.queued, b)
		p.unwish(b)
	}
}

// wake lets the request try again that has waited longest by then.
func (p *Pools) wake(c *cluster.Cluster) {
	b := c.Breaker()
	if len(p.queued[b]) == 0 {
		return
	}
	p.D.Post(func() {
		if list := p.queued[b]; len(list) > 0 {
			list[0].Room()
		}
	})
}
