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

// codesOnly is the word by which retriable_status_codes come into force.
const codesOnly = "retriable-status-codes"

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

// retryPolicy writes VirtualService.http.retries: nil takes MeshConfig's or Istio's default, attempts 0 or less turn
// retries off, a number in retryOn is a status code (istiod: core/route/retry/retry.go). hashed: the route's only
// destination is chosen by a hash.
func (c *compiler) retryPolicy(r *networking.HTTPRetry, hashed bool) *routev3.RetryPolicy {
	if r == nil {
		r = c.mesh.retries
	}
	p := defaultRetryPolicy()
	if hashed {
		// A hash leads to one host again and again; a retry that must avoid it would never find another.
		p.RetryHostPredicate = nil
	}
	if r == nil {
		return p
	}
	if r.Attempts <= 0 {
		return nil
	}
	p.NumRetries = wrapperspb.UInt32(uint32(r.Attempts))
	p.PerTryTimeout = r.PerTryTimeout
	if r.RetryOn != "" {
		p.RetryOn, p.RetriableStatusCodes = c.parseRetryOn(r.RetryOn)
	}
	if r.RetryIgnorePreviousHosts != nil {
		p.RetryHostPredicate = nil
		if r.RetryIgnorePreviousHosts.Value {
			p.RetryHostPredicate = otherHosts()
		}
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

// parseRetryOn parts the words of retryOn from the status codes in it. A number that is no status stays a word, as
// istiod has it. Codes need a word of their own to count.
func (c *compiler) parseRetryOn(s string) (on string, codes []uint32) {
	var words []string
	for _, w := range strings.Split(s, ",") {
		w = strings.TrimSpace(w)
		if n, err := strconv.ParseUint(w, 10, 16); err == nil && isStatus(int(n)) {
			codes = append(codes, uint32(n))
		} else if w != "" {
			words = append(words, w)
		}
	}
	on = strings.Join(words, ",")
	if len(codes) > 0 && !strings.Contains(on, codesOnly) {
		on = c.appendWord(on, codesOnly)
	}
	return on, codes
}

// isStatus tells whether a code is registered with IANA, as Go's net/http knows them.
func isStatus(n int) bool {
	for _, r := range [][2]int{{100, 103}, {200, 208}, {226, 226}, {300, 305}, {307, 308}, {400, 418}, {421, 426}, {428, 429}, {431, 431}, {451, 451}, {500, 508}, {510, 511}} {
		if r[0] <= n && n <= r[1] {
			return true
		}
	}
	return false
}
