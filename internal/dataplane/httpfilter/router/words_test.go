package router_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// answers is an endpoint that gives each of the heads once, one for each request, and then 200.
func answers(heads ...string) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		for c.Request() != nil {
			n := c.Served()
			if n > len(heads) {
				c.Send(planetest.Response(200, "at last"))
				continue
			}
			c.Send("HTTP/1.1 " + heads[n-1] + "\r\nContent-Length: 2\r\n\r\nno")
		}
	}
}

// TestRetriedAnswers: the words of retry_on that look at an answer, on one endpoint, which may be asked again.
func TestRetriedAnswers(t *testing.T) {
	for _, c := range []struct {
		on       string
		head     string
		headers  string // of the request
		status   int
		attempts int
	}{
		{"5xx", "500 No", "", 200, 2},
		{"5xx", "404 No", "", 404, 1},
		{"gateway-error", "502 No", "", 200, 2},
		{"gateway-error", "500 No", "", 500, 1},
		{"retriable-4xx", "409 No", "", 200, 2},
		{"retriable-4xx", "404 No", "", 404, 1},
		{"retriable-status-codes", "429 No", "", 200, 2},
		{"retriable-status-codes", "430 No", "", 430, 1},
		{"retriable-headers", "200 OK\r\nX-Try: yes", "", 200, 2},
		{"retriable-headers", "200 OK\r\nX-Try: no", "", 200, 1},
		{"envoy-ratelimited", "429 No\r\nX-Envoy-Ratelimited: true", "", 200, 2},
		{"5xx", "503 No\r\nX-Envoy-Ratelimited: true", "", 503, 1},
		{"unavailable", "200 OK\r\ngrpc-status: 14", "", 200, 2},
		{"reset,connect-failure,refused-stream", "503 No", "", 503, 1},
		{"5xx", "500 No", "X-Never: 1\r\n", 500, 1},
	} {
		t.Run(c.on+" "+c.head, func(t *testing.T) {
			u := planetest.NewUpstream(t, answers(c.head))
			s := planetest.One(u.Addr)
			s.Retry = explicit(c.on, 2, 429)
			s.Retry.RetriableHeaders = []*routev3.HeaderMatcher{header("x-try", "yes")}
			s.Retry.RetriableRequestHeaders = []*routev3.HeaderMatcher{{Name: "x-never", InvertMatch: true,
				HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}}
			p := planetest.Start(t, dataplane.Options{}, s)
			client := p.Dial(s.Address())
			client.Send("POST / HTTP/1.1\r\nHost: svc.test\r\n" + c.headers + "Content-Length: 1\r\n\r\nx")
			a := client.Read("POST")
			if i := p.Ended(); a.StatusCode != c.status || i.Attempts != c.attempts || (a.Text == "at last") != (c.attempts == 2) {
				t.Errorf("%d %q after %d attempts", a.StatusCode, a.Text, i.Attempts)
			}
		})
	}
}

func header(name, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}}}}
}

// TestResetHeader: a retry waits as long as the endpoint says, where its policy reads that header.
func TestResetHeader(t *testing.T) {
	u := planetest.NewUpstream(t, answers("503 No\r\nRetry-After: 1"))
	s := planetest.One(u.Addr)
	s.Retry = explicit("5xx", 1)
	s.Retry.RateLimitedRetryBackOff = &routev3.RetryPolicy_RateLimitedRetryBackOff{MaxInterval: durationpb.New(2 * time.Second),
		ResetHeaders: []*routev3.RetryPolicy_ResetHeader{{Name: "Retry-After"}}}
	p := planetest.Start(t, dataplane.Options{}, s)
	began := time.Now()
	a := p.Dial(s.Address()).Do("GET", "")
	if took := time.Since(began); a.Text != "at last" || took < time.Second || took > 4*time.Second {
		t.Errorf("%d %q after %v", a.StatusCode, a.Text, took)
	}
	if n := p.Cluster(s).Stats().UpstreamRqRetryBackoffRate.Value(); n != 1 {
		t.Errorf("upstream_rq_retry_backoff_ratelimited is %d", n)
	}
}

// TestPreviousPriorities: with the retry priority the second attempt goes to the next priority though the first has another
// endpoint, and without it that other endpoint gets it.
func TestPreviousPriorities(t *testing.T) {
	for _, every := range []int32{0, 1, 2} {
		up := func(name string) *planetest.Upstream {
			return planetest.NewUpstream(t, func(c *planetest.Conn) {
				for c.Request() != nil {
					c.Send("HTTP/1.1 503 No\r\nX-Who: " + name + "\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
		a, b, far := up("near"), up("near"), planetest.NewUpstream(t, planetest.Serve("far"))
		s := planetest.One()
		s.Endpoints = [][]netip.AddrPort{{a.Addr, b.Addr}, {far.Addr}}
		s.Retry = explicit("5xx", 3)
		if every > 0 {
			m, err := anypb.New(&prioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: every})
			if err != nil {
				t.Fatal(err)
			}
			s.Retry.RetryPriority = &routev3.RetryPolicy_RetryPriority{Name: "envoy.retry_priorities.previous_priorities",
				ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: m}}
		}
		p := planetest.Start(t, dataplane.Options{}, s)
		got := p.Dial(s.Address()).Do("GET", "")
		near := len(a.Got()) + len(b.Got())
		if want := map[int32]int{0: 2, 1: 1, 2: 2}[every]; got.Text != "far" || near != want {
			t.Errorf("every %d: %q after %d attempts near by, want %d", every, got.Text, near, want)
		}
	}
}

// TestSameHost: without the previous_hosts predicate a retry goes wherever the balancer leads.
func TestSameHost(t *testing.T) {
	bad := planetest.NewUpstream(t, status(503))
	far := planetest.NewUpstream(t, planetest.Serve("far"))
	s := planetest.One(bad.Addr, far.Addr) // the far one is the next priority's
	s.Retry = explicit("5xx", 3)
	s.Retry.RetryHostPredicate = nil
	p := planetest.Start(t, dataplane.Options{}, s)
	if a := p.Dial(s.Address()).Do("GET", ""); a.StatusCode != 503 || len(bad.Got()) != 4 || len(far.Got()) != 0 {
		t.Errorf("%d; %v %v", a.StatusCode, bad.Got(), far.Got())
	}
}

// TestRetriedEdits: a retried request has what its route changes once, and the answer too.
func TestRetriedEdits(t *testing.T) {
	var seen []string
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for r := c.Request(); r != nil; r = c.Request() {
			seen = append(seen, strings.Join(r.Header["X-Added"], "|")+" "+strings.Join(r.Header["X-Envoy-Attempt-Count"], "|"))
			c.Send("HTTP/1.1 " + map[bool]string{true: "503", false: "200"}[c.Served() < 3] + " X\r\nX-Own: 1\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := planetest.One(u.Addr)
	s.Retry = explicit("5xx", 3)
	p := planetest.Start(t, dataplane.Options{}, s)
	snap := planetest.Snapshot(s)
	vh := snap.Routes[0].VirtualHosts[0]
	vh.IncludeRequestAttemptCount = true
	add := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "x-added", Value: "1"}}
	vh.Routes[0].RequestHeadersToAdd, vh.Routes[0].ResponseHeadersToAdd = []*corev3.HeaderValueOption{add}, []*corev3.HeaderValueOption{add}
	vh.Routes[0].GetRoute().RetryPolicy.NumRetries = wrapperspb.UInt32(3)
	p.Set(snap)
	a := p.Dial(s.Address()).Do("GET", "")
	if got := a.Header["X-Added"]; a.StatusCode != 200 || !slices.Equal(got, []string{"1"}) || a.Header.Get("X-Own") != "1" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	if want := []string{"1 1", "1 2", "1 3"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

// TestDefaultPolicyBacksOff: where only Envoy's rules hold, istiod's default policy waits before each of its retries, as a
// policy of the route's own does.
func TestDefaultPolicyBacksOff(t *testing.T) {
	const unavailable = "200 OK\r\ngrpc-status: 14"
	for name, addr := range map[string]netip.AddrPort{
		"refused":     planetest.Refused(t),
		"unavailable": planetest.NewUpstream(t, answers(unavailable, unavailable, unavailable)).Addr,
	} {
		t.Run(name, func(t *testing.T) {
			s := planetest.One(addr)
			s.Retry = explicit("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", 2)
			s.Retry.HostSelectionRetryMaxAttempts, s.Retry.RetryBackOff = 5, nil
			p := planetest.Start(t, dataplane.Options{Compat: true}, s)
			foreign := planetest.Snapshot(s)
			foreign.Foreign = true
			if r := p.Set(foreign); len(r.Rejected) > 0 {
				t.Fatal(r.Rejected)
			}
			p.Dial(s.Address()).Do("GET", "")
			st := p.Cluster(s).Stats()
			if n, waits := st.UpstreamRqRetry.Value(), st.UpstreamRqRetryBackoffExp.Value(); n != 2 || waits != 2 {
				t.Errorf("%d retries after %d waits, want 2 after 2", n, waits)
			}
		})
	}
}
