package translate

import (
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

const defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"

// defaultRetryPolicy is Istio's since its 1.24 (T9): 503 is not among the reasons.
func defaultRetryPolicy() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:                       defaultRetryOn,
		NumRetries:                    wrapperspb.UInt32(2),
		RetryHostPredicate:            otherHosts(),
		HostSelectionRetryMaxAttempts: 5,
	}
}

// otherHosts makes a retry prefer endpoints that were not tried before.
func otherHosts() []*routev3.RetryPolicy_RetryHostPredicate {
	return []*routev3.RetryPolicy_RetryHostPredicate{{
		Name: "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
			TypedConfig: mustAny(&previousv3.PreviousHostsPredicate{}),
		},
	}}
}

// retryPolicy writes VirtualService.http.retries: nil takes the default, attempts 0 or less turn retries off, a number in
// retryOn is a status code (istiod: core/route/retry/retry.go).
func (c *compiler) retryPolicy(r *networking.HTTPRetry) *routev3.RetryPolicy {
	if r == nil {
		return defaultRetryPolicy()
	}
	if r.Attempts <= 0 {
		return nil
	}
	p := defaultRetryPolicy()
	p.NumRetries = wrapperspb.UInt32(uint32(r.Attempts))
	p.PerTryTimeout = r.PerTryTimeout
	if r.RetryOn != "" {
		p.RetryOn, p.RetriableStatusCodes = parseRetryOn(r.RetryOn)
	}
	if r.RetryIgnorePreviousHosts != nil && !r.RetryIgnorePreviousHosts.Value {
		p.RetryHostPredicate = nil
		p.HostSelectionRetryMaxAttempts = 0
	}
	if r.Backoff != nil {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: r.Backoff}
	}
	if r.RetryRemoteLocalities.GetValue() {
		p.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: mustAny(&prioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: c.updateFrequency()}),
			},
		}
	}
	return p
}

// parseRetryOn parts the words of retryOn from the status codes in it.
func parseRetryOn(s string) (on string, codes []uint32) {
	var words []string
	coded := false
	for _, w := range strings.Split(s, ",") {
		w = strings.TrimSpace(w)
		if n, err := strconv.ParseUint(w, 10, 32); err == nil {
			if n >= 100 && n < 600 {
				codes = append(codes, uint32(n))
			}
			continue
		}
		coded = coded || w == "retriable-status-codes"
		if w != "" {
			words = append(words, w)
		}
	}
	if len(codes) > 0 && !coded {
		words = append(words, "retriable-status-codes")
	}
	return strings.Join(words, ","), codes
}
