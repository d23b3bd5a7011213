package upstream

import (
	"time"

	"detour.dev/detour/internal/dataplane/cluster"
)

// The limit of a cluster's connections holds for all workers together, and a connection belongs to one. A worker whose
// requests wait makes that known (cluster.Wishes); another gives up a connection and hands its place over, so that the
// limit is never exceeded and nobody else takes the place on the way.

// patience is how long a worker without any place waits for one while others have work for theirs: long against the time
// that a new connection takes.
const patience = 20 * time.Millisecond

// Ask makes known that requests wait here for a connection of the cluster. It is repeated by the one that has waited longest.
func (p *Pools) Ask(c *cluster.Cluster, q Queued) {
	b := c.Breaker()
	if len(p.Peers) < 2 || !p.First(c, q) {
		return
	}
	if p.wishes[b] == nil {
		w := &cluster.Wish{Since: p.D.Now()}
		w.Grant = func() { p.D.Post(func() { p.granted(c, w) }) }
		w.Held.Store(int64(p.places[b]))
		if p.wishes == nil {
			p.wishes = map[*cluster.Breaker]*cluster.Wish{}
		}
		p.wishes[b] = w
		b.Wishes.Add(w)
	}
	for _, o := range p.Peers {
		if o != p {
			o.D.Post(func() { o.spare(b) })
		}
	}
}

// granted receives the place that was wished for. Where no request takes it, it goes on. A wish that was made since, because
// this one was taken back too late, stands.
func (p *Pools) granted(c *cluster.Cluster, w *cluster.Wish) {
	b := c.Breaker()
	if p.wishes[b] == w {
		delete(p.wishes, b)
	}
	p.hold(b, 1)
	p.grant = b
	if list := p.queued[b]; len(list) > 0 {
		list[0].Room()
	}
	if p.grant == b {
		p.grant = nil
		p.release(c)
	}
	if list := p.queued[b]; len(list) > 0 {
		p.Ask(c, list[0])
	}
}

// hold counts this worker's places.
func (p *Pools) hold(b *cluster.Breaker, n int) {
	if p.places == nil {
		p.places = map[*cluster.Breaker]int{}
	}
	if p.places[b] += n; p.places[b] == 0 {
		delete(p.places, b)
	}
	if w := p.wishes[b]; w != nil {
		w.Held.Store(int64(p.places[b]))
	}
}

// due says whether a place of this worker should go to the one that wishes. While requests wait here too, only a worker
// that has none and was patient gets one.
func (p *Pools) due(b *cluster.Breaker) func(*cluster.Wish) bool {
	own, busy, now := p.wishes[b], len(p.queued[b]) > 0, p.D.Now()
	return func(w *cluster.Wish) bool {
		return w != own && (!busy || w.Held.Load() == 0 && now.Sub(w.Since) >= patience)
	}
}

// wished says whether another worker should have one of this worker's places.
func (p *Pools) wished(b *cluster.Breaker) bool { return b.Wishes.Any() && b.Wishes.Has(p.due(b)) }

// spare closes an idle connection that another worker should have the place of.
func (p *Pools) spare(b *cluster.Breaker) {
	if !p.wished(b) {
		return
	}
	if idle := p.idleOf(b); idle != nil {
		idle.Close()
	}
}

// handOver gives a place that this worker no longer counts to the one that wishes, if any.
func (p *Pools) handOver(b *cluster.Breaker) bool {
	if !b.Wishes.Any() {
		return false
	}
	w := b.Wishes.Take(p.due(b))
	if w == nil {
		return false
	}
	w.Grant()
	return true
}

// unwish takes this worker's wish back: nothing waits here any more.
func (p *Pools) unwish(b *cluster.Breaker) {
	if w := p.wishes[b]; w != nil {
		delete(p.wishes, b)
		b.Wishes.Remove(w)
	}
}
