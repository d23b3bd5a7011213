package route

import (
	"fmt"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
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
type RetryOn uint16

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
}

// Words of gRPC and HTTP/3 that can't apply to an HTTP/1.1 exchange: accepted, without effect.
var inert = []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable", "http3-post-connect-failure",
	"retriable-headers", "envoy-ratelimited"}

// Retry is a route's retry policy.
type Retry struct {
	Mode         RetryMode
	On           RetryOn
	NumRetries   int
	Codes        []uint32
	BaseInterval time.Duration
	MaxInterval  time.Duration
}

func compileRetry(p *routev3.RetryPolicy, marked, foreign bool) (Retry, error) {
	if p == nil {
		if marked {
			return Retry{Mode: RetryDefault}, nil
		}
		return Retry{}, nil
	}
	r := Retry{Mode: RetryExplicit, NumRetries: 1, Codes: p.GetRetriableStatusCodes(),
		BaseInterval: 25 * time.Millisecond}
	if marked || foreign && isIstioDefault(p) {
		r.Mode = RetryDefault
	}
	if n := p.GetNumRetries(); n != nil {
		r.NumRetries = int(n.GetValue())
	}
	if b := p.GetRetryBackOff(); b != nil {
		r.BaseInterval = max(b.GetBaseInterval().AsDuration(), time.Millisecond)
		r.MaxInterval = b.GetMaxInterval().AsDuration()
	}
	if r.MaxInterval == 0 {
		r.MaxInterval = 10 * r.BaseInterval
	}
	for _, w := range strings.Split(p.GetRetryOn(), ",") {
		w = strings.TrimSpace(w)
		on, ok := words[w]
		if !ok && w != "" && !slices.Contains(inert, w) {
			return r, fmt.Errorf("retry_policy.retry_on: unknown condition %q", w)
		}
		r.On |= on
	}
	return r, nil
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

// WantsStatus says whether the policy asks for another attempt after that response status.
func (r *Retry) WantsStatus(status int) bool {
	switch {
	case r.On&On5xx != 0 && status >= 500,
		r.On&OnGatewayError != 0 && status >= 502 && status <= 504,
		r.On&OnRetriable4xx != 0 && status == 409:
		return true
	}
	return r.On&OnRetriableStatusCodes != 0 && slices.Contains(r.Codes, uint32(status))
}
