package upstream

import (
	"time"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
)

// Racer is what a connection is wanted for: a request, or a connection that is relayed.
type Racer interface {
	// Trying is told of each endpoint that is tried.
	Trying(ep *lb.Endpoint)
	// Won hands over a connection and the bookkeeping of its pick.
	Won(c *Conn, res lb.Result)
	// Lost says that no attempt is left, and how the last one failed. The endpoints have been judged.
	Lost(err *proxyerr.Error)
}

const (
	// maxRacing bounds the attempts that run beside each other for one request.
	maxRacing = 4
	// nextStart is the pause before the next attempt beside those that are silent: three fit into the half second that
	// a request may wait.
	nextStart = 75 * time.Millisecond
)

// Race gets a connection for one request: by one attempt and, while that one stays silent and another endpoint is well, by
// others beside it (guarantee E3). Whichever stands first wins; the rest run on and are judged by their own answers. A
// Race is used for one request after another.
type Race struct {
	p     *Pools
	c     *cluster.Cluster
	pick  *lb.PickInfo // its Tried grows with each attempt
	sni   string
	hedge bool
	// pooled says that idle connections are used, and those nobody needs any more kept: requests do, relayed
	// connections don't.
	pooled bool
	racer  Racer

	dials [maxRacing]*Dial
	n     int
	timer event.Timer
}

// Begin prepares for a request. pick is the caller's and stays in use; sni is the server name for TLS where the cluster takes
// it from the request; pooled requests use idle connections, and leave theirs to others; hedge allows attempts beside a silent one.
func (q *Race) Begin(p *Pools, c *cluster.Cluster, pick *lb.PickInfo, sni string, pooled, hedge bool, r Racer) {
	if q.p == nil {
		q.timer.Init(p.D, q.next)
	}
	q.p, q.c, q.pick, q.sni, q.pooled, q.racer = p, c, pick, sni, pooled, r
	q.hedge = hedge && !p.Compat
}

// Try begins an attempt with a picked endpoint, on an idle connection unless fresh asks for a new one. An error means that it
// failed at once; the endpoint has been judged.
func (q *Race) Try(res lb.Result, fresh bool) *proxyerr.Error {
	h := res.Endpoint.Host
	q.pick.Tried = append(q.pick.Tried, h)
	var who client
	if q.c.Config().ProxyProtocol != 0 {
		who = client{q.pick.Source, q.pick.OriginalDst}
	}
	if q.pooled && !fresh {
		if c := q.p.Idle(q.c, h, q.sni, who); c != nil {
			q.racer.Trying(res.Endpoint)
			q.Abandon()
			q.racer.Won(c, res)
			return nil
		}
	}
	d, err := q.p.Dial(q.c, res, q.sni, q.pooled && who == client{}, q)
	if err != NoRoom {
		q.racer.Trying(res.Endpoint)
	}
	if err != nil {
		q.passed(d)
		return err
	}
	d.client = who
	q.dials[q.n] = d
	q.n++
	return nil
}

// passed notes the addresses of a logical host that a failed attempt has tried beside the last.
func (q *Race) passed(d *Dial) {
	for n := 0; d != nil && n < d.passed; n++ {
		q.pick.Tried = append(q.pick.Tried, d.Host())
	}
}

// Abandon lets the attempts under way run on without the request.
func (q *Race) Abandon() {
	q.timer.Stop()
	for i := range q.n {
		q.dials[i].Abandon()
		q.dials[i] = nil
	}
	q.n = 0
}

// remove forgets one attempt and says whether it was in the race.
func (q *Race) remove(d *Dial) bool {
	for i := range q.n {
		if q.dials[i] == d {
			q.n--
			q.dials[i], q.dials[q.n] = q.dials[q.n], nil
			return true
		}
	}
	return false
}

// Alone implements Waiter.
func (q *Race) Alone() bool { return q.n == 1 }

// Connected implements Waiter.
func (q *Race) Connected(d *Dial, c *Conn, res lb.Result) {
	if q.n > 1 && q.dials[0] != d {
		q.c.Stats().Detour.HedgeWon.Inc()
	}
	q.remove(d)
	for i := q.n - 1; i >= 0; i-- {
		if o := q.dials[i]; o.Host() == d.Host() { // another address of a logical host: the host has answered
			q.remove(o)
			o.cancel()
		}
	}
	q.Abandon()
	q.racer.Won(c, res)
}

// ConnectFailed implements Waiter.
func (q *Race) ConnectFailed(d *Dial, err *proxyerr.Error) {
	q.remove(d)
	q.passed(d)
	if q.n == 0 {
		q.timer.Stop()
		q.racer.Lost(err)
		return
	}
	q.beside() // the others are silent
}

// ConnectSlow implements Waiter: the attempt is raced with another while the budget lasts; without it the request waits a
// little longer before it does the same.
func (q *Race) ConnectSlow(d *Dial) {
	if !q.hedge || q.timer.Armed() || !q.anotherWell(d.Host()) {
		return
	}
	now := q.p.D.Now()
	if !q.c.Hedge().TryAcquire(now) {
		q.c.Stats().Detour.HedgeBudget.Inc()
		q.timer.Schedule(LastMove - HedgeDelay(d.Host()))
		return
	}
	q.c.Hedge().Release() // it bounds how many begin, not how many run
	d.Host().MoveOnFrom(d.addr)
	q.beside()
}

// anotherWell says whether another endpoint could serve at once, or might at another address.
func (q *Race) anotherWell(than *lb.Host) bool {
	return !q.pick.Exhausted(than) || q.c.AnotherWell(than, q.c.Config().HasOutlierDetection, q.pick.Tried...)
}

// next runs when it is time for another attempt.
func (q *Race) next() {
	if q.n > 0 && q.anotherWell(q.dials[q.n-1].Host()) {
		q.dials[q.n-1].Host().MoveOnFrom(q.dials[q.n-1].addr)
		q.beside()
	}
}

// beside begins another attempt beside those under way, and sees to the one after it.
func (q *Race) beside() {
	if !q.hedge || q.n == maxRacing {
		return
	}
	q.pick.Now = q.p.D.Now()
	res, err := q.c.Pick(q.pick)
	if err != nil {
		return
	}
	if res.LastResort {
		res.Done(lb.Outcome{Now: q.pick.Now, Kind: lb.Cancelled})
		return
	}
	stats := q.c.Stats() // with a connection at hand, Try ends the race
	q.timer.Schedule(nextStart)
	switch failed := q.Try(res, false); {
	case failed == NoRoom: // the endpoint was not asked
		q.pick.Tried = q.pick.Tried[:len(q.pick.Tried)-1]
		return
	case failed != nil && q.n > 0:
		q.timer.Schedule(0) // refused at once: the next one now
	}
	stats.Detour.HedgeTotal.Inc()
}
