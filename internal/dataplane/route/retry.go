package route

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// RetryMode says whose rules decide about a second attempt (guarantee E2).
type RetryMode uint8

const (
	// RetryNone: no policy, `attempts: 0`: the client sees the first failure.
	RetryNone RetryMode = iota
	// RetryDefault: the route says nothing of its own; the engine's guarantees hold.
	RetryDefault
	// RetryExplicit: the route's policy decides about requests that were sent.
	RetryExplicit
)

// RetryOn is a set of the words of retry_on.
type RetryOn uint32

// The words (docs/root/configuration/http/http_filters/router_filter, x-envoy-retry-on). OnTimeout stands for what
// "5xx" and "gateway-error" match when no answer came in time.
const (
	OnConnectFailure RetryOn = 1 << iota
	OnRefusedStream
	OnReset
	OnResetBeforeRequest
	OnGatewayError
	On5xx
	OnRetriable4xx
	OnRetriableStatusCodes
	OnTimeout
	OnRetriableHeaders
	OnRateLimited
	onCancelled
	onDeadlineExceeded
	onInternal
	onResourceExhausted
	onUnavailable

	onGRPC = onCancelled | onDeadlineExceeded | onInternal | onResourceExhausted | onUnavailable
)

var words = map[string]RetryOn{
	"connect-failure":        OnConnectFailure,
	"refused-stream":         OnRefusedStream,
	"reset":                  OnReset | OnResetBeforeRequest | OnConnectFailure | OnTimeout,
	"reset-before-request":   OnResetBeforeRequest,
	"gateway-error":          OnGatewayError | OnReset | OnResetBeforeRequest | OnConnectFailure | OnTimeout,
	"5xx":                    On5xx | OnReset | OnResetBeforeRequest | OnConnectFailure | OnTimeout,
	"retriable-4xx":          OnRetriable4xx,
	"retriable-status-codes": OnRetriableStatusCodes,
	"retriable-headers":      OnRetriableHeaders,
	"envoy-ratelimited":      OnRateLimited,
	"cancelled":              onCancelled,
	"deadline-exceeded":      onDeadlineExceeded,
	"internal":               onInternal,
	"resource-exhausted":     onResourceExhausted,
	"unavailable":            onUnavailable,

	"http3-post-connect-failure": 0, // there is no HTTP/3 here
}

// grpcStatus are the numbers of the gRPC words, which count where an answer has grpc-status in its head.
var grpcStatus = map[string]RetryOn{"1": onCancelled, "4": onDeadlineExceeded, "13": onInternal, "8": onResourceExhausted, "14": onUnavailable}

// Retry is a route's retry policy.
type Retry struct {
	Mode       RetryMode
	On         RetryOn
	NumRetries int
	Codes      []uint32
	// BelowError: an answer below 500 may be retried too.
	BelowError     bool
	PerTryTimeout  time.Duration // 0: none
	PerTryIdle     time.Duration // per_try_idle_timeout; 0: none
	BaseInterval   time.Duration
	MaxInterval    time.Duration
	OtherHosts     bool // the previous_hosts predicate
	PriorityUpdate int  // previous_priorities' update_frequency; 0: no such retry_priority

	headers        []headerMatcher // retriable_headers, of answers
	requestHeaders []headerMatcher // retriable_request_headers
	resets         []resetHeader   // rate_limited_retry_back_off
	maxReset       time.Duration
}

// resetHeader says when an endpoint wants to be asked again.
type resetHeader struct {
	name string // lower case
	unix bool   // a time in seconds since 1970, instead of seconds from now
}

// defaultMaxReset is rate_limited_retry_back_off.max_interval's default.
const defaultMaxReset = 300 * time.Second

const retryFields = "retry_on num_retries per_try_timeout per_try_idle_timeout retry_priority retry_host_predicate host_selection_retry_max_attempts" +
	" retriable_status_codes retry_back_off rate_limited_retry_back_off retriable_headers retriable_request_headers"

func compileRetry(p *routev3.RetryPolicy, marked, foreign bool) (r Retry, err error) {
	if p == nil {
		if marked {
			return Retry{Mode: RetryDefault}, nil
		}
		return Retry{}, nil
	}
	r = Retry{Mode: RetryExplicit, NumRetries: 1, Codes: p.GetRetriableStatusCodes(),
		PerTryTimeout: p.GetPerTryTimeout().AsDuration(), PerTryIdle: p.GetPerTryIdleTimeout().AsDuration()}
	if err := refuseFields(p, "retry_policy", retryFields); err != nil {
		return r, err
	}
	if marked || foreign && isIstioDefault(p) {
		r.Mode = RetryDefault
	}
	if n := p.GetNumRetries(); n != nil {
		r.NumRetries = int(n.GetValue())
	}
	for _, w := range strings.Split(p.GetRetryOn(), ",") {
		w = strings.TrimSpace(w)
		on, ok := words[w]
		if !ok && w != "" {
			return r, fmt.Errorf("retry_policy.retry_on: unknown condition %q", w)
		}
		r.On |= on
	}
	r.BelowError = r.On&(OnRetriable4xx|OnRetriableStatusCodes|OnRetriableHeaders|OnRateLimited|onGRPC) != 0
	if r.headers, err = compileHeaders(p.GetRetriableHeaders()); err != nil {
		return r, fmt.Errorf("retry_policy.retriable_headers%w", err)
	}
	if r.requestHeaders, err = compileHeaders(p.GetRetriableRequestHeaders()); err != nil {
		return r, fmt.Errorf("retry_policy.retriable_request_headers%w", err)
	}
	r.compileBackOff(p)
	return r, r.compileHosts(p)
}

func (r *Retry) compileBackOff(p *routev3.RetryPolicy) {
	r.BaseInterval = max(positive(p.GetRetryBackOff().GetBaseInterval(), 25*time.Millisecond), time.Millisecond)
	r.MaxInterval = positive(p.GetRetryBackOff().GetMaxInterval(), 10*r.BaseInterval)
	limited := p.GetRateLimitedRetryBackOff()
	r.maxReset = positive(limited.GetMaxInterval(), defaultMaxReset)
	for _, h := range limited.GetResetHeaders() {
		r.resets = append(r.resets, resetHeader{strings.ToLower(h.GetName()), h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP})
	}
}

// compileHosts reads which endpoints a retry goes to.
func (r *Retry) compileHosts(p *routev3.RetryPolicy) error {
	for _, h := range p.GetRetryHostPredicate() {
		if !strings.HasSuffix(h.GetName(), "previous_hosts") {
			return fmt.Errorf("retry_policy.retry_host_predicate: %s is not supported yet", h.GetName())
		}
		r.OtherHosts = true
	}
	if rp := p.GetRetryPriority(); rp != nil {
		m := &prioritiesv3.PreviousPrioritiesConfig{}
		if err := rp.GetTypedConfig().UnmarshalTo(m); err != nil || m.GetUpdateFrequency() <= 0 {
			return fmt.Errorf("retry_policy.retry_priority: %s is not supported yet", rp.GetName())
		}
		r.PriorityUpdate = int(m.GetUpdateFrequency())
	}
	return nil
}

// isIstioDefault says whether the policy is the one that istiod puts on every route without retries, so that a snapshot
// of a foreign control plane gets the guarantees too (DESIGN.md, E2).
func isIstioDefault(p *routev3.RetryPolicy) bool {
	return p.GetRetryOn() == "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes" &&
		p.GetNumRetries().GetValue() == 2 && len(p.GetRetriableStatusCodes()) == 0 && p.GetPerTryTimeout() == nil &&
		p.GetHostSelectionRetryMaxAttempts() == 5
}

// Wants says whether the policy asks for another attempt after that failure.
func (r *Retry) Wants(why RetryOn) bool { return r.On&why != 0 }

// Concerns says whether a request may be retried by the policy at all (retriable_request_headers).
func (r *Retry) Concerns(req *http1.Head) bool {
	if len(r.requestHeaders) == 0 {
		return true
	}
	return anyMatches(r.requestHeaders, req)
}

func anyMatches(list []headerMatcher, h *http1.Head) bool {
	q := Query{Head: h, Authority: h.Authority, Path: h.Path}
	for i := range list {
		if list[i].name == ":status" {
			q.Head = &http1.Head{Fields: []http1.Field{{Name: []byte(":status"), Value: strconv.AppendInt(nil, int64(h.Status), 10)}}}
		}
		if list[i].matches(&q) {
			return true
		}
		q.Head = h
	}
	return false
}

// WantsAnswer says whether the policy asks for another attempt after that answer. One that is marked as limited by Envoy's
// rate limiting is retried only where the policy names it.
func (r *Retry) WantsAnswer(h *http1.Head) bool {
	status := h.Status
	if h.Find("x-envoy-ratelimited") >= 0 {
		return r.On&OnRateLimited != 0
	}
	switch {
	case r.On&On5xx != 0 && status >= 500,
		r.On&OnGatewayError != 0 && status >= 502 && status <= 504,
		r.On&OnRetriable4xx != 0 && status == 409,
		r.On&OnRetriableStatusCodes != 0 && slices.Contains(r.Codes, uint32(status)),
		r.On&OnRetriableHeaders != 0 && anyMatches(r.headers, h):
		return true
	}
	if r.On&onGRPC == 0 {
		return false
	}
	i := h.Find("grpc-status")
	return i >= 0 && r.On&grpcStatus[string(h.Fields[i].Value)] != 0
}

// ResetAfter is how long the endpoint that gave an answer wants to be left alone, as far as the policy cares
// (rate_limited_retry_back_off).
func (r *Retry) ResetAfter(h *http1.Head, now time.Time) (time.Duration, bool) {
	for _, reset := range r.resets {
		i := h.Find(reset.name)
		if i < 0 {
			continue
		}
		n, err := strconv.ParseInt(string(h.Fields[i].Value), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt32*1000 {
			continue
		}
		after := time.Duration(min(n, math.MaxInt32)) * time.Second
		if reset.unix {
			after = time.Unix(n, 0).Sub(now)
		}
		if after > 0 && after <= r.maxReset {
			return after, true
		}
	}
	return 0, false
}
