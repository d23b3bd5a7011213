package router

import (
	"errors"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
)

// Guarantee E3, on a connection that stands: silence of the network is told from slowness of the application by what the
// peer's kernel acknowledged. A request of which bytes stay unacknowledged for as long as a connection attempt may take
// goes elsewhere if it may be sent twice; one that was acknowledged only when a fresh SYN to the endpoint stays
// unanswered too.
const (
	firstLook = 150 * time.Millisecond // leaves 300 ms for a SYN within half a second
	lookAgain = 20 * time.Millisecond  // so that the limits of half a second are kept, not passed by a look
	lookLater = 250 * time.Millisecond
	anxious   = time.Second // how long to look often
)

// watch arms the timer for an attempt that has a connection.
func (r *Router) watch() {
	r.sentAt = r.now()
	r.attached, r.perTry = r.sentAt, time.Time{}
	if r.s.Complete() {
		r.perTry = r.attached
	}
	if t := r.tryTimeout(); t > 0 && (r.p.Compat || t < firstLook) {
		r.timer.Schedule(t)
		return
	}
	r.timer.Schedule(firstLook)
}

// tryTimeout is how long the attempt may go without an answer, once the request is here: until then nothing comes back, so
// that per_try_idle_timeout and per_try_timeout are the same.
func (r *Router) tryTimeout() time.Duration {
	t, idle := r.route.Retry.PerTryTimeout, r.route.Retry.PerTryIdle
	if t == 0 || idle > 0 && idle < t {
		return idle
	}
	return t
}

func (r *Router) onTimer() {
	switch r.phase {
	case backingOff:
		err := r.retryAfter
		r.retryAfter, r.phase = nil, idle
		r.next(err)
	case queued:
		r.Room() // another worker may have made it
	case sending, waiting:
		r.look()
	}
}

// look asks whether the request is getting anywhere.
func (r *Router) look() {
	now := r.now()
	if t := r.tryTimeout(); t > 0 && !r.perTry.IsZero() && now.Sub(r.perTry) >= t {
		r.cluster.Stats().UpstreamRqPerTryTime.Inc()
		r.failed(timeoutError())
		return
	}
	if r.p.Compat {
		if t := r.tryTimeout(); t > 0 && !r.perTry.IsZero() {
			r.timer.Schedule(max(t-now.Sub(r.perTry), time.Millisecond))
		}
		return
	}
	c := r.conn
	silent := now.Sub(r.sentAt)
	well := r.cluster.AnotherWell(c.Host, r.crossPriority(), r.pick.Tried...)
	if well && silent >= firstLook && r.moveFrom(c, silent) {
		return
	}
	next := lookLater
	if well && silent < anxious {
		next = lookAgain
	}
	if t := r.tryTimeout(); t > 0 && !r.perTry.IsZero() {
		next = min(next, t-now.Sub(r.perTry))
	}
	r.timer.Schedule(max(next, time.Millisecond))
}

// moveFrom takes the request off a connection that gives no sign of life, where that is proved and allowed. It says
// whether it did.
func (r *Router) moveFrom(c *upstream.Conn, silent time.Duration) bool {
	acked := c.Acked()
	unacked := acked == upstream.AckNone || acked == upstream.AckSome
	r.p.Probe(r.cluster, r.res.Endpoint)
	switch {
	case r.p.DeadSince(c.Host, r.attached) && (unacked || c.Host.Suspect() || c.Host.Ejected()):
		// The endpoint has been judged. What may not be sent twice ends here.
		err := &proxyerr.Error{Flags: sf.UpstreamConnectionTermination | sf.UpstreamRequestTimeout, Kind: lb.Timeout,
			Detail: proxyerr.ConnectionTimeout, Cause: errSilent}
		if r.mayMove() {
			r.move(c)
		} else {
			r.failed(err)
		}
		return true
	case !r.mayMove():
		return false
	case unacked && silent >= upstream.HedgeDelay(c.Host):
		c.Host.SetSuspect(true)
		r.p.Probe(r.cluster, r.res.Endpoint)
		r.move(c)
		return true
	case !unacked && c.Host.Suspect():
		r.move(c)
		return true
	}
	return false
}

var errSilent = errors.New("the endpoint stopped answering")

// mayMove says whether a request whose bytes were written may be sent to another endpoint because this one is silent.
func (r *Router) mayMove() bool {
	if !r.s.Request().Idempotent() || !r.s.Body().Replayable() {
		return false
	}
	switch r.route.Retry.Mode {
	case route.RetryDefault:
		return true
	case route.RetryExplicit:
		return r.route.Retry.Wants(route.OnReset)
	}
	return false
}

// move sends the request elsewhere. The endpoint is not judged by that: the SYN that was sent to it does.
func (r *Router) move(c *upstream.Conn) {
	r.timer.Stop()
	r.cluster.Stats().Detour.HedgeTotal.Inc()
	r.release(lb.Outcome{Now: r.now(), Kind: lb.Cancelled}, true)
	r.s.Body().Rewind()
	r.next(&proxyerr.Error{Flags: sf.UpstreamRequestTimeout, Kind: lb.Timeout, Detail: proxyerr.ConnectionTimeout, Cause: errSilent})
}

func (r *Router) crossPriority() bool { return r.cluster.Config().HasOutlierDetection }
