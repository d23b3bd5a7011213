package router

import (
	"errors"
	"math/rand/v2"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
)

// maxResends bounds how often one request whose bytes went out is sent again by default: Istio's default num_retries.
const maxResends = 2

// decision is what becomes of a request after a failed attempt.
type decision uint8

const (
	giveUp       decision = iota
	limitReached          // as giveUp; the route's policy would have gone on
	elsewhere             // nothing of it was sent: another endpoint at once, against no limit
	again                 // once more, against the budget or the route's own limit
)

// situation is all that a decision depends on.
type situation struct {
	policy     *route.Retry
	compat     bool // as an Envoy would
	concerned  bool // the policy is for requests like this (retriable_request_headers)
	responded  bool // the final head has gone to the client
	replayable bool // the request is still here, as far as it had come
	idempotent bool
	resends    int
	exhausted  bool // every endpoint has been tried
	err        *proxyerr.Error
}

// decide says what guarantee E2 allows after an attempt that ended before a response.
func decide(s situation) decision {
	p := s.policy
	switch {
	case p.Mode == route.RetryNone || s.responded || !s.replayable:
		return giveUp
	case s.err.Unsent && !s.exhausted && !s.compat:
		return elsewhere
	case p.Mode == route.RetryExplicit || s.compat:
		return explicit(p, s.concerned && p.Wants(reason(s.err)), s.resends)
	case s.idempotent && s.err.Kind == lb.Reset && s.resends < maxResends:
		return again
	}
	return giveUp
}

// explicit applies a route's own retry policy, as Envoy does.
func explicit(p *route.Retry, wanted bool, resends int) decision {
	switch {
	case !wanted:
		return giveUp
	case resends >= p.NumRetries:
		return limitReached
	}
	return again
}

// answer is what a decision about a response with an unwelcome status depends on, beside the situation.
type answer struct {
	status     int
	head       *http1.Head
	complete   bool // the whole request has arrived
	safe       bool // GET, HEAD, OPTIONS
	outlier    bool // the cluster has outlier detection
	retryAfter bool // the endpoint says itself when to come back
}

// decideAnswer says whether the request goes to another endpoint instead of the answer to the client.
func decideAnswer(s situation, a answer) decision {
	p := s.policy
	switch {
	case p.Mode == route.RetryNone || !s.replayable || !a.complete:
		return giveUp
	case p.Mode == route.RetryExplicit || s.compat:
		return explicit(p, s.concerned && p.WantsAnswer(a.head), s.resends)
	case !a.outlier || !a.safe || a.retryAfter || s.resends >= maxResends:
		return giveUp
	case a.status == 502 || a.status == 503 || a.status == 504:
		return again
	}
	return giveUp
}

func (r *Router) situation(err *proxyerr.Error) situation {
	return situation{policy: &r.route.Retry, compat: r.p.Compat, concerned: r.route.Retry.Concerns(r.s.Request()), responded: r.phase == responding,
		replayable: r.s.Body().Replayable(), idempotent: r.s.Request().Idempotent(), resends: r.resends, err: err}
}

// decide asks what may be done about a failure and takes from the budget what that needs.
func (r *Router) decide(err *proxyerr.Error, exhausted bool) decision {
	s := r.situation(err)
	s.exhausted = exhausted
	return r.spend(decide(s))
}

// ownPolicy says that the route's policy alone decides about requests that were sent, as in an Envoy.
func (r *Router) ownPolicy() bool {
	return r.route.Retry.Mode == route.RetryExplicit || r.p.Compat
}

// spend counts a second attempt, and turns it down where the budget is used up.
func (r *Router) spend(d decision) decision {
	st := r.cluster.Stats()
	switch {
	case d == limitReached:
		st.UpstreamRqRetryLimitExceeded.Inc()
		r.s.Info().Flags |= sf.UpstreamRetryLimitExceeded
		return giveUp
	case d != again:
		return d
	}
	own := r.ownPolicy()
	if !own && !r.cluster.Retry().TryAcquire(r.now()) {
		st.Detour.RetryBudget.Inc()
		return giveUp
	}
	if !r.cluster.Breaker().Retries.TryAcquire() {
		st.UpstreamRqRetryOverflow.Inc()
		if !own {
			r.cluster.Retry().Release()
		}
		return giveUp
	}
	r.retrying, r.budget = true, !own
	if own {
		st.UpstreamRqRetry.Inc()
	} else {
		st.Detour.RetrySent.Inc()
	}
	r.resends++
	return again
}

// reason names a failure in the words of retry_on (Envoy's router filter, x-envoy-retry-on).
func reason(err *proxyerr.Error) route.RetryOn {
	switch {
	case err.Flags.Has(sf.UpstreamConnectionFailure):
		return route.OnConnectFailure
	case err.Flags.Has(sf.UpstreamRequestTimeout):
		return route.OnTimeout
	case err.Unsent:
		return route.OnResetBeforeRequest
	}
	return route.OnReset
}

// failed ends an attempt that had no response and decides what follows.
func (r *Router) failed(err *proxyerr.Error) {
	r.timer.Stop()
	r.release(lb.Outcome{Now: r.now(), Kind: err.Kind, Err: err.Cause}, true)
	r.after(r.decide(err, false), err)
}

func (r *Router) after(d decision, err *proxyerr.Error) {
	switch d {
	case elsewhere:
		r.s.Body().Rewind()
		r.cluster.Stats().Detour.RetryUnsent.Inc()
		r.next(err)
	case again:
		r.s.Body().Rewind()
		r.resending = true
		if r.ownPolicy() {
			r.backOff(err)
			return
		}
		r.next(err)
	default:
		r.fail(err)
	}
}

// backOff waits as Envoy does: a random time below base × 2^(n − 1) and the maximum interval, or, where the endpoint asked
// for one, from that time to half as much again.
func (r *Router) backOff(err *proxyerr.Error) {
	base, limit := r.route.Retry.BaseInterval, r.route.Retry.MaxInterval
	r.phase = backingOff
	r.retryAfter = err
	if wait := r.wait; wait > 0 {
		r.wait = 0
		r.cluster.Stats().UpstreamRqRetryBackoffRate.Inc()
		r.timer.Schedule(wait + rand.N(wait/2+1))
		return
	}
	ceiling := min(base<<min(max(r.resends-1, 0), 16), limit)
	r.cluster.Stats().UpstreamRqRetryBackoffExp.Inc()
	r.timer.Schedule(rand.N(max(ceiling, 1)))
}

// retryStatus sends the request elsewhere when its policy does not want the answer that just came. The next endpoint is
// found first: where there is none, the client gets the answer.
func (r *Router) retryStatus() bool {
	d := decideAnswer(r.situation(nil), r.answer())
	if d != again {
		return r.spend(d) == again
	}
	if r.ownPolicy() {
		return r.retryByPolicy()
	}
	res, err := r.choose()
	if err != nil {
		return false
	}
	if res.LastResort || !r.leave() {
		res.Done(lb.Outcome{Now: r.pick.Now, Kind: lb.Cancelled})
		return false
	}
	if err := r.use(res); err != nil {
		r.after(r.decide(err, false), err)
	}
	return true
}

// retryByPolicy is retryStatus by the route's own policy, which may want the same endpoint once more, and waits first. An
// Envoy looks for an endpoint after that only.
func (r *Router) retryByPolicy() bool {
	wait, _ := r.route.Retry.ResetAfter(&r.resp, r.now())
	if !r.p.Compat {
		r.resending = true
		res, err := r.choose()
		if err != nil {
			return false
		}
		res.Done(lb.Outcome{Now: r.pick.Now, Kind: lb.Cancelled})
	}
	if !r.leave() {
		return false
	}
	r.wait, r.resending = wait, true
	r.backOff(statusError(r.resp.Status))
	return true
}

// leave ends the attempt whose answer is not wanted, if there may be another.
func (r *Router) leave() bool {
	ending := r.places // of the attempt that ends here
	r.places = places{}
	if r.spend(again) != again {
		r.places = ending
		return false
	}
	r.timer.Stop()
	coming := r.places
	r.places = ending
	r.drain()
	r.places = coming
	r.s.Body().Rewind()
	return true
}

func (r *Router) answer() answer {
	a := answer{status: r.resp.Status, head: &r.resp, complete: r.s.Complete(), outlier: r.cluster.Config().HasOutlierDetection}
	switch r.s.Request().MethodID {
	case http1.GET, http1.HEAD, http1.OPTIONS:
		a.safe = true
	}
	for i := range r.resp.Fields {
		a.retryAfter = a.retryAfter || r.resp.Fields[i].ID == http1.FieldRetryAfter
	}
	return a
}

// drain ends an attempt whose answer nobody wants. The connection stays where the whole answer is here already.
func (r *Router) drain() {
	win := &r.conn.In
	r.respBody.Start(r.resp.Framing, r.resp.Length)
	n, done, err := r.respBody.Forward(win.B[win.Head:win.Fill])
	whole := err == nil && (done || r.respBody.Done()) && r.resp.KeepAlive && win.Head+n == win.Fill
	r.release(lb.Outcome{Now: r.now(), Kind: lb.Response, Status: r.resp.Status}, !whole)
}

func statusError(status int) *proxyerr.Error {
	return &proxyerr.Error{Kind: lb.Response, Reply: &proxyerr.Reply{Status: status}, Detail: "upstream status"}
}

func timeoutError() *proxyerr.Error {
	return &proxyerr.Error{Flags: sf.UpstreamRequestTimeout, Kind: lb.Timeout, Detail: "upstream request timeout"}
}

// pickError says why there is no endpoint to try.
func pickError(err error) *proxyerr.Error {
	e := &proxyerr.Error{Flags: sf.NoHealthyUpstream, Detail: "no healthy upstream", Cause: err}
	if errors.Is(err, lb.ErrOverflow) {
		e.Flags, e.Detail = sf.UpstreamOverflow, "overflow"
	}
	return e
}
