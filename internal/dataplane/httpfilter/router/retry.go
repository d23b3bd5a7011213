package router

import (
	"errors"
	"math/rand/v2"
	"time"

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
	giveUp    decision = iota
	elsewhere          // nothing of it was sent: another endpoint at once, against no limit
	again              // it was sent: once more, counted
)

// retryState is what one request has used of its chances.
type retryState struct {
	policy  route.Retry
	resends int
}

// decide says what guarantee E2 allows after an attempt that ended before a response. It changes nothing but the count.
func (s *retryState) decide(r *Router, err *proxyerr.Error) decision {
	if s.policy.Mode == route.RetryNone || !r.s.Body().Replayable() {
		return giveUp
	}
	if r.p.Compat {
		return s.explicit(r, s.policy.Wants(reason(err)))
	}
	if err.Unsent {
		return elsewhere
	}
	if s.policy.Mode == route.RetryExplicit {
		return s.explicit(r, s.policy.Wants(reason(err)))
	}
	if !r.s.Request().Idempotent() || err.Kind != lb.Reset || s.resends >= maxResends {
		return giveUp
	}
	return s.budgeted(r)
}

// budgeted counts a resend against the cluster's budget.
func (s *retryState) budgeted(r *Router) decision {
	if !r.cluster.Retry().TryAcquire(r.now()) {
		r.cluster.Stats().Detour.RetryBudget.Inc()
		return giveUp
	}
	r.budget = true
	s.resends++
	r.cluster.Stats().Detour.RetrySent.Inc()
	return again
}

// explicit applies a route's own retry policy, as Envoy does.
func (s *retryState) explicit(r *Router, wanted bool) decision {
	if !wanted {
		return giveUp
	}
	st := r.cluster.Stats()
	if s.resends >= s.policy.NumRetries {
		st.UpstreamRqRetryLimitExceeded.Inc()
		r.s.Info().Flags |= sf.UpstreamRetryLimitExceeded
		return giveUp
	}
	s.resends++
	st.UpstreamRqRetry.Inc()
	return again
}

func (s *retryState) succeeded(r *Router) {
	if s.resends > 0 && r.resp.Status < 500 {
		r.cluster.Stats().UpstreamRqRetrySuccess.Inc()
	}
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
	r.after(r.retry.decide(r, err), err)
}

func (r *Router) after(d decision, err *proxyerr.Error) {
	switch d {
	case elsewhere:
		r.cluster.Stats().Detour.RetryUnsent.Inc()
		r.next(err)
	case again:
		r.resending = true
		if r.retry.policy.Mode == route.RetryExplicit {
			r.backOff(err)
			return
		}
		r.next(err)
	default:
		r.fail(err)
	}
}

// backOff waits as Envoy does: a random time below base × (2^n − 1), at most the maximum interval.
func (r *Router) backOff(err *proxyerr.Error) {
	base, limit := r.retry.policy.BaseInterval, r.retry.policy.MaxInterval
	ceiling := min(base<<min(r.retry.resends, 16)-base, limit)
	r.phase = backingOff
	r.retryAfter = err
	r.cluster.Stats().UpstreamRqRetryBackoffExp.Inc()
	r.timer.Schedule(time.Duration(rand.Int64N(int64(max(ceiling, 1)))))
}

// retryStatus sends the request elsewhere when its policy does not want the answer that just came. The next endpoint is
// found first: where there is none, the client gets the answer.
func (r *Router) retryStatus() bool {
	if !r.wantsOther() {
		return false
	}
	r.pick.Now = r.now()
	res, err := r.cluster.Pick(&r.pick)
	if err != nil {
		return false
	}
	if res.LastResort || !r.mayResend() {
		res.Done(lb.Outcome{Now: r.pick.Now, Kind: lb.Cancelled})
		return false
	}
	held := r.budget // the place just taken belongs to the coming attempt
	r.budget = false
	r.timer.Stop()
	r.drain()
	r.budget = held
	if r.retry.policy.Mode == route.RetryExplicit {
		res.Done(lb.Outcome{Now: r.pick.Now, Kind: lb.Cancelled})
		r.backOff(statusError(r.resp.Status))
		return true
	}
	if err := r.use(res); err != nil {
		r.after(r.retry.decide(r, err), err)
	}
	return true
}

// wantsOther says whether the answer's status is one that the policy would rather not pass on.
func (r *Router) wantsOther() bool {
	if !r.s.Body().Replayable() || !r.s.Complete() {
		return false
	}
	switch r.retry.policy.Mode {
	case route.RetryExplicit:
		return r.retry.policy.WantsStatus(r.resp.Status)
	case route.RetryDefault:
		if r.p.Compat {
			return r.retry.policy.WantsStatus(r.resp.Status)
		}
	default:
		return false
	}
	if !r.cluster.Config().HasOutlierDetection || r.retry.resends >= maxResends {
		return false
	}
	switch r.s.Request().MethodID {
	case http1.GET, http1.HEAD, http1.OPTIONS:
	default:
		return false
	}
	return r.resp.Status == 502 || r.resp.Status == 503 || r.resp.Status == 504
}

func (r *Router) mayResend() bool {
	if r.retry.policy.Mode == route.RetryExplicit || r.p.Compat {
		return r.retry.explicit(r, true) == again
	}
	return r.retry.budgeted(r) == again
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
