package outlier

import (
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/stats"
)

// DoubtFor is how long a local-origin failure, without any success in the cluster since, keeps an endpoint from counting
// as one that might serve (rule of everyoneFails).
const DoubtFor = 10 * time.Second

// Detector judges the hosts of one cluster. Count and Succeeded run on the workers without a lock; all other methods need
// the cluster's lock, which also guards what Host.Health keeps. It does no I/O and reads no clock: what came of a step is
// returned as events.
type Detector struct {
	cfg    atomic.Pointer[Config]
	stats  *stats.OutlierDetection
	compat bool
	rand   func(n uint32) uint32

	// A spell is a time without any success in the cluster. It begins with a local-origin failure (inSpell) and ends with
	// the next success; failures of different spells have nothing to do with each other.
	inSpell atomic.Bool
	spell   atomic.Uint64

	eps []*lb.Endpoint
}

// New makes a detector. compat leaves out E4.
func New(cfg *Config, st *stats.OutlierDetection, compat bool) *Detector {
	d := &Detector{stats: st, compat: compat, rand: rand.Uint32N}
	d.cfg.Store(cfg)
	return d
}

// Config gives the settings in force.
func (d *Detector) Config() *Config { return d.cfg.Load() }

// Configure replaces the settings; counters and ejections stay.
func (d *Detector) Configure(c *Config) { d.cfg.Store(c) }

// Trigger says what Count found; 0: nothing to judge.
type Trigger uint8

const (
	hit5xx Trigger = 1 << iota
	hitGateway
	hitLocal
	localFailure // any failure seen here, whether or not a threshold was reached
)

// Count adds an outcome to the host's counters. A Trigger other than 0 must be given to Judge, under the lock.
func (d *Detector) Count(h *lb.Host, o *lb.Outcome) Trigger {
	c := d.cfg.Load()
	switch {
	case o.Kind == lb.Response:
		d.endSpell()
		return d.external(c, h, c.status(o.Status))
	case o.Kind == lb.Success:
		d.Succeeded(h, true)
		return 0
	case !o.Kind.LocalOrigin():
		return 0
	case c.Split:
		n := h.Health.ConsecutiveLocal.Add(1)
		if c.ConsecutiveLocal > 0 && n >= c.ConsecutiveLocal {
			return localFailure | hitLocal
		}
		return localFailure
	case o.Kind == lb.Timeout, o.Kind == lb.ConnectTimeout:
		return localFailure | d.external(c, h, http.StatusGatewayTimeout)
	}
	return localFailure | d.external(c, h, http.StatusServiceUnavailable)
}

// external counts a response's status, or what stands for it.
func (d *Detector) external(c *Config, h *lb.Host, status int) (t Trigger) {
	if status < 500 {
		clear(&h.Health.ConsecutiveGateway)
		clear(&h.Health.Consecutive5xx)
		return 0
	}
	if status >= 502 && status <= 504 {
		n := h.Health.ConsecutiveGateway.Add(1)
		if c.ConsecutiveGateway > 0 && n >= c.ConsecutiveGateway {
			t |= hitGateway
		}
	} else {
		clear(&h.Health.ConsecutiveGateway)
	}
	n := h.Health.Consecutive5xx.Add(1)
	if c.Consecutive5xx > 0 && n >= c.Consecutive5xx {
		t |= hit5xx
	}
	return t
}

// Succeeded counts a connection that stands (Envoy's LocalOriginConnectSuccess), final where no response will follow.
func (d *Detector) Succeeded(h *lb.Host, final bool) {
	c := d.cfg.Load()
	if c.Split {
		clear(&h.Health.ConsecutiveLocal)
	}
	if !final {
		return // TLS and the response are still to come: it proves little
	}
	d.endSpell()
	if !c.Split {
		d.external(c, h, http.StatusOK)
	}
}

func (d *Detector) endSpell() {
	if d.inSpell.Load() && d.inSpell.CompareAndSwap(true, false) {
		d.spell.Add(1)
	}
}

// clear spares the write where there is nothing to clear: the cache line is shared by all workers.
func clear(n *atomic.Uint32) {
	if n.Load() != 0 {
		n.Store(0)
	}
}

// EventKind says what happened to an endpoint.
type EventKind uint8

const (
	// Ejected: for at least For, because of Why.
	Ejected EventKind = iota
	// Returned: a sweep ended its ejection; or, with a Why, something else did.
	Returned
	// Overflow: it should have been ejected, but max_ejection_percent forbids one more.
	Overflow
	// Fault: every endpoint fails (E4), so that none stays ejected for it. Endpoint is the one that failed last.
	Fault
)

// Event is what a step of the detector did.
type Event struct {
	Kind     EventKind
	Endpoint *lb.Endpoint
	Why      string
	At       time.Time
	For      time.Duration
	// Again: the endpoint was ejected before and that was taken back (E4), with no success anywhere since: no news.
	Again bool
}

// SetEndpoints tells which endpoints the cluster has now, each host once.
func (d *Detector) SetEndpoints(eps []*lb.Endpoint) {
	d.eps = eps
	d.stats.EjectionsActive.Set(int64(d.Active()))
}

// Active counts the ejected endpoints.
func (d *Detector) Active() (n int) {
	for _, e := range d.eps {
		if e.Ejected() {
			n++
		}
	}
	return n
}

// Busy tells whether a sweep would have anything to do.
func (d *Detector) Busy() bool {
	for _, e := range d.eps {
		if e.Ejected() || e.Health.Backoff > 0 {
			return true
		}
	}
	return false
}

// Judge decides what a Trigger means for the endpoint, and ejects it.
func (d *Detector) Judge(h *lb.Host, o *lb.Outcome, t Trigger) (events []Event) {
	e := d.find(h)
	if e == nil {
		return nil // it left the cluster meanwhile
	}
	if t&localFailure != 0 && !d.compat {
		spell := d.spell.Load() // before inSpell: a success between the two makes this failure one of the past
		d.inSpell.Store(true)
		h.Health.FailedAt, h.Health.Episode = o.Now, spell
		if d.everyoneFails(o.Now) {
			h.Health.ResetCounters()
			if len(d.eps) == 1 { // it may as well be the endpoint
				return nil
			}
			return append(d.amnesty(), Event{Kind: Fault, Endpoint: e, Why: o.Reason(), At: o.Now})
		}
	}
	for _, hit := range []Trigger{hitLocal, hitGateway, hit5xx} { // Envoy's order
		if t&hit != 0 && !h.Ejected() {
			events = d.consecutive(events, e, o, hit, t&localFailure != 0)
		}
	}
	return events
}

// everyoneFails is E4's "all hosts failing at once": every endpoint has failed by local origin within DoubtFor, and none
// in the cluster succeeded since the first of these failures. An endpoint that was not tried lately is not in doubt, so that
// of two, one that dies is ejected; when the other one fails as well, before anything succeeded, neither is.
// An endpoint that EDS calls unhealthy can't speak for the others.
func (d *Detector) everyoneFails(now time.Time) bool {
	spell := d.spell.Load()
	for _, e := range d.eps {
		h := &e.Health
		inDoubt := !h.FailedAt.IsZero() && h.Episode == spell && now.Sub(h.FailedAt) <= DoubtFor
		if !inDoubt && e.EDSHealthy() {
			return false
		}
	}
	return true
}

// amnesty ends the ejections that were made for local-origin failures.
func (d *Detector) amnesty() (events []Event) {
	for _, e := range d.eps {
		if e.Ejected() && e.Health.LocalCause {
			d.uneject(e.Host)
			e.Health.Backoff-- // it counts as if it had not been
			e.Health.Forgiven = d.spell.Load() + 1
			events = append(events, Event{Kind: Returned, Endpoint: e, Why: "every endpoint fails"})
		}
	}
	return events
}

// consecutive follows DetectorImpl::onConsecutiveErrorWorker and ejectHost: the counter starts anew whether or not the
// endpoint is ejected, and the limit is looked at before whether the kind is enforced.
func (d *Detector) consecutive(events []Event, e *lb.Endpoint, o *lb.Outcome, hit Trigger, local bool) []Event {
	c := d.cfg.Load()
	var enforce uint32
	var enforced *stats.Counter
	switch hit {
	case hit5xx:
		d.stats.EjectionsDetectedConsecutive5xx.Inc()
		e.Health.Consecutive5xx.Store(0)
		enforce, enforced = c.Enforce5xx, &d.stats.EjectionsEnforcedConsecutive5xx
	case hitGateway:
		d.stats.EjectionsDetectedConsecutiveGatewayFailure.Inc()
		e.Health.ConsecutiveGateway.Store(0)
		enforce, enforced = c.EnforceGateway, &d.stats.EjectionsEnforcedConsecutiveGatewayFailure
	case hitLocal:
		d.stats.EjectionsDetectedConsecutiveLocalOriginFailure.Inc()
		e.Health.ConsecutiveLocal.Store(0)
		enforce, enforced = c.EnforceLocal, &d.stats.EjectionsEnforcedConsecutiveLocalOriginFailure
	}
	if !d.mayEject(c) {
		d.stats.EjectionsOverflow.Inc()
		if enforce > 0 {
			events = append(events, Event{Kind: Overflow, Endpoint: e, Why: o.Reason()})
		}
		return events
	}
	if enforce < 100 && d.rand(100) >= enforce {
		return events
	}
	d.stats.EjectionsEnforcedTotal.Inc()
	enforced.Inc()
	return append(events, Event{Kind: Ejected, Endpoint: e, Why: o.Reason(), For: d.eject(c, e.Host, o.Now, local),
		Again: e.Health.Forgiven == d.spell.Load()+1})
}

// mayEject is Envoy's rule since 1.28: the share of ejected hosts, this one included, must not exceed the limit; one is
// always allowed where always_eject_one_host is set.
func (d *Detector) mayEject(c *Config) bool {
	active := d.Active()
	return 100*float64(active+1)/float64(len(d.eps)) <= float64(c.MaxEjectionPct) || c.AlwaysEjectOne && active == 0
}

func (d *Detector) eject(c *Config, h *lb.Host, now time.Time, local bool) time.Duration {
	hh := &h.Health
	if time.Duration(hh.Backoff)*c.BaseEjectionTime < c.MaxEjectionTime+c.BaseEjectionTime {
		hh.Backoff++
	}
	hh.Ejections.Add(1)
	hh.At, hh.LocalCause = now, local
	hh.Jitter = 0
	if ms := c.MaxJitter.Milliseconds(); ms > 0 {
		hh.Jitter = time.Duration(d.rand(uint32(min(ms, 1<<31))+1)) * time.Millisecond
	}
	length := sentence(c, hh)
	hh.EjectedAt.Store(now.UnixNano())
	hh.EjectedUntil.Store(now.Add(length).UnixNano())
	h.SetEjected(true)
	h.SetSuspect(false)
	d.stats.EjectionsActive.Set(int64(d.Active()))
	return length
}

// sentence is how long an ejection lasts at least.
func sentence(c *Config, h *lb.Health) time.Duration {
	return min(time.Duration(h.Backoff)*c.BaseEjectionTime, c.MaxEjectionTime) + h.Jitter
}

func (d *Detector) uneject(h *lb.Host) {
	h.SetEjected(false)
	h.SetSuspect(false)
	h.Health.ResetCounters()
	d.stats.EjectionsActive.Set(int64(d.Active()))
}

// Sweep is Envoy's interval timer: it ends ejections that have lasted long enough, and lets the multiplier of endpoints
// that are not ejected decay by one.
func (d *Detector) Sweep(now time.Time) (events []Event) {
	c := d.cfg.Load()
	for _, e := range d.eps {
		h := &e.Health
		switch {
		case e.Ejected() && now.Sub(h.At) >= sentence(c, h):
			d.uneject(e.Host)
			events = append(events, Event{Kind: Returned, Endpoint: e, For: now.Sub(h.At)})
		case !e.Ejected() && h.Backoff > 0:
			h.Backoff--
		}
	}
	return events
}

// Inherit ejects a new address of a name as its last known address is (E5).
func (d *Detector) Inherit(h, from *lb.Host) {
	to, was := &h.Health, &from.Health
	to.Backoff, to.At, to.LocalCause, to.Jitter = was.Backoff, was.At, was.LocalCause, was.Jitter
	to.Ejections.Store(was.Ejections.Load())
	to.EjectedAt.Store(was.EjectedAt.Load())
	to.EjectedUntil.Store(was.EjectedUntil.Load())
	h.SetEjected(true)
	if text, at := from.LastError(); text != "" {
		h.SetLastError(text, at)
	}
}

// Spare ends the longest ejection if a change of the endpoints has left only ejected ones: nobody decided that.
func (d *Detector) Spare() {
	var longest *lb.Endpoint
	for _, e := range d.eps {
		if !e.Ejected() {
			return
		}
		if longest == nil || e.Health.At.Before(longest.Health.At) {
			longest = e
		}
	}
	if longest != nil {
		d.uneject(longest.Host)
	}
}

// Release ends all ejections: outlier detection is no longer configured.
func (d *Detector) Release() {
	for _, e := range d.eps {
		if e.Ejected() {
			d.uneject(e.Host)
		}
		e.Health.Backoff = 0
	}
}

func (d *Detector) find(h *lb.Host) *lb.Endpoint {
	for _, e := range d.eps {
		if e.Host == h {
			return e
		}
	}
	return nil
}
