package outlier

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typematcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
	"detour.dev/detour/internal/stats"
)

// world is a detector with its endpoints and its own time.
type world struct {
	t   *testing.T
	d   *Detector
	st  *stats.OutlierDetection
	eps []*lb.Endpoint
	now time.Time
}

func newWorld(t *testing.T, hosts int, o *clusterv3.OutlierDetection) *world {
	t.Helper()
	c, err := Parse(o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: &stats.OutlierDetection{}, now: time.Unix(1_800_000_000, 0)}
	w.d = New(c, w.st, false)
	w.eps = lbtest.Endpoints(slices.Repeat([]uint32{1}, hosts)...)
	w.d.SetEndpoints(w.eps)
	return w
}

func (w *world) report(i int, o lb.Outcome) []Event {
	o.Now = w.now
	if t := w.d.Count(w.eps[i].Host, &o); t != 0 {
		return w.d.Judge(w.eps[i].Host, &o, t)
	}
	return nil
}

func (w *world) status(i, status int) []Event {
	return w.report(i, lb.Outcome{Kind: lb.Response, Status: status})
}

func (w *world) refused(i int) []Event {
	return w.report(i, lb.Outcome{Kind: lb.ConnectFailed, Err: fmt.Errorf("connection refused")})
}

// ejected checks which endpoints are ejected, and that the gauge agrees.
func (w *world) ejected(want ...int) {
	w.t.Helper()
	var got []int
	for i, e := range w.eps {
		if e.Ejected() {
			got = append(got, i)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("ejected %v, want %v", got, want)
	}
	if n := w.st.EjectionsActive.Value(); n != int64(len(want)) {
		w.t.Fatalf("ejections_active %d, want %d", n, len(want))
	}
}

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

// walkthrough is what its DestinationRule compiles to, with some max_ejection_percent.
func walkthrough(percent uint32) *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx: u32(1), EnforcingConsecutive_5Xx: u32(100), EnforcingSuccessRate: u32(0), MaxEjectionPercent: u32(percent),
		Interval: durationpb.New(15 * time.Second), BaseEjectionTime: durationpb.New(time.Minute),
	}
}

// T1 and T2 of SEMANTICS.md: how many of n endpoints max_ejection_percent lets go.
func TestMaxEjectionPercent(t *testing.T) {
	for _, tc := range []struct {
		hosts   int
		percent uint32
		one     bool
		want    int
	}{
		{2, 10, false, 0}, {2, 49, false, 0}, {2, 50, false, 1}, {2, 99, false, 1}, {2, 100, false, 2}, {2, 10, true, 1},
		{2, 0, true, 1}, {16, 10, false, 1}, {16, 6, false, 0}, {16, 7, false, 1}, {16, 13, false, 2}, {10, 10, false, 1},
		{11, 10, false, 1}, {3, 99, false, 2}, {100, 99, false, 99}, {101, 99, false, 99}, {1, 100, false, 1}, {1, 99, false, 0},
	} {
		t.Run(fmt.Sprintf("%d hosts %d %% %v", tc.hosts, tc.percent, tc.one), func(t *testing.T) {
			o := walkthrough(tc.percent)
			o.AlwaysEjectOneHost = wrapperspb.Bool(tc.one)
			w := newWorld(t, tc.hosts, o)
			for i := range w.eps {
				w.status(i, 500)
			}
			if got := w.d.Active(); got != tc.want {
				t.Errorf("%d ejected, want %d", got, tc.want)
			}
			if over := w.st.EjectionsOverflow.Value(); over != uint64(tc.hosts-tc.want) {
				t.Errorf("ejections_overflow %d, want %d", over, tc.hosts-tc.want)
			}
		})
	}
}

// What Envoy 1.40 counted (SEMANTICS.md §4): 20 requests of three attempts each on a dead endpoint that 10 % does not allow
// to eject give 72 overflows: 60 for the 5xx, 12 for every fifth gateway failure, though that is not enforced.
func TestOverflowCountsAsEnvoy(t *testing.T) {
	w := newWorld(t, 2, walkthrough(10))
	w.status(1, 200) // the other one is well
	for range 60 {
		w.refused(0)
		w.status(1, 200)
	}
	if n := w.st.EjectionsOverflow.Value(); n != 72 {
		t.Errorf("ejections_overflow %d, want 72", n)
	}
	w.ejected()
}

// A run of failures that did not eject starts anew, as in Envoy: an overflow for every fifth, not for each after the fourth.
func TestCounterStartsAnewOnOverflow(t *testing.T) {
	o := walkthrough(10)
	o.Consecutive_5Xx = u32(5)
	w := newWorld(t, 2, o)
	for range 20 {
		w.status(0, 500)
	}
	if n := w.st.EjectionsOverflow.Value(); n != 4 {
		t.Errorf("ejections_overflow %d, want 4", n)
	}
}

// The end of an ejection clears every counter, so that one more failure of another kind does not eject again.
func TestReturnClearsCounters(t *testing.T) {
	o := walkthrough(99)
	o.SplitExternalLocalOriginErrors, o.ConsecutiveLocalOriginFailure = true, u32(2)
	w := newWorld(t, 2, o)
	w.refused(0)
	w.status(0, 500)
	w.ejected(0)
	w.now = w.now.Add(time.Minute)
	w.d.Sweep(w.now)
	w.refused(0)
	w.ejected()
	w.refused(0)
	w.ejected(0)
}

// Ejection ends at the first sweep after base × count, the multiplier decays by one with each healthy sweep, and the time
// is capped.
func TestEjectionTime(t *testing.T) {
	w := newWorld(t, 2, walkthrough(99))
	start := w.now
	lasts := func() time.Duration { // sweeps until it is back, and tells how long that took
		t.Helper()
		if ev := w.status(0, 503); len(ev) != 1 || ev[0].Kind != Ejected || ev[0].Why != "status 503" {
			t.Fatalf("events %v", ev)
		}
		at := w.now
		for w.eps[0].Ejected() {
			w.now = w.now.Add(15*time.Second - w.now.Sub(start)%(15*time.Second))
			w.d.Sweep(w.now)
		}
		return w.now.Sub(at)
	}
	w.now = w.now.Add(7 * time.Second)
	if got := lasts(); got != 68*time.Second { // 60 s, then the sweep at 75
		t.Errorf("first ejection lasted %v", got)
	}
	w.ejected()
	for n, want := range []time.Duration{2, 3, 4, 5, 5, 5} { // max_ejection_time is 300 s
		if got := lasts(); got != want*time.Minute {
			t.Errorf("ejection %d lasted %v, want %v", n+2, got, want*time.Minute)
		}
	}
	if b := w.eps[0].Health.Backoff; b != 6 { // Envoy's rule: grows while backoff × base < max + base
		t.Errorf("multiplier %d, want 6", b)
	}
	for range 5 {
		w.now = w.now.Add(15 * time.Second)
		w.d.Sweep(w.now)
	}
	if got := lasts(); got != 2*time.Minute {
		t.Errorf("after five healthy sweeps: %v, want 2m", got)
	}
	if n := w.eps[0].Health.Ejections.Load(); n != 8 {
		t.Errorf("%d ejections in all, want 8", n)
	}
}

func TestConsecutiveCounters(t *testing.T) {
	o := walkthrough(99)
	o.Consecutive_5Xx, o.ConsecutiveGatewayFailure, o.EnforcingConsecutiveGatewayFailure = u32(5), u32(3), u32(100)
	for _, tc := range []struct {
		name     string
		statuses []int
		ejected  bool
	}{
		{"five", []int{500, 500, 500, 500, 500}, true},
		{"four", []int{500, 500, 500, 500}, false},
		{"a success between", []int{500, 500, 500, 500, 200, 500}, false},
		{"a client error is a success", []int{500, 500, 500, 500, 404, 500}, false},
		{"three gateway failures", []int{502, 503, 504}, true},
		{"a 500 ends the run of gateway failures", []int{502, 503, 500, 504}, false},
		{"but counts with them as 5xx", []int{502, 503, 500, 504, 500}, true},
		{"505 is not a gateway failure", []int{505, 505, 505}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 2, o)
			for _, s := range tc.statuses {
				w.status(0, s)
			}
			if got := w.eps[0].Ejected(); got != tc.ejected {
				t.Errorf("ejected %v", got)
			}
		})
	}
}

func TestLocalOriginKinds(t *testing.T) {
	for kind := lb.Cancelled; kind <= lb.OurFault; kind++ {
		w := newWorld(t, 2, walkthrough(99))
		w.report(0, lb.Outcome{Kind: kind, Status: 200})
		want := kind >= lb.ConnectFailed && kind <= lb.ProtocolError
		if got := w.eps[0].Ejected(); got != want {
			t.Errorf("%v: ejected %v, want %v", kind, got, want)
		}
	}
}

// split_external_local_origin_errors: failures seen here have a counter of their own, which a connection that stands clears
// and a response does not.
func TestSplit(t *testing.T) {
	o := walkthrough(99)
	o.SplitExternalLocalOriginErrors, o.ConsecutiveLocalOriginFailure = true, u32(3)
	w := newWorld(t, 2, o)
	w.refused(0)
	w.ejected() // consecutive_5xx is 1, and this was none
	w.refused(0)
	w.d.Succeeded(w.eps[0].Host, false)
	w.refused(0)
	w.status(0, 200)
	w.refused(0)
	w.ejected()
	w.refused(0)
	w.ejected(0)
	if n := w.st.EjectionsEnforcedConsecutiveLocalOriginFailure.Value(); n != 1 {
		t.Errorf("ejections_enforced_consecutive_local_origin_failure %d", n)
	}
}

func TestNotEnforced(t *testing.T) {
	o := walkthrough(99)
	o.EnforcingConsecutive_5Xx = u32(0)
	w := newWorld(t, 2, o)
	w.status(0, 500)
	w.ejected()
	if d, e := w.st.EjectionsDetectedConsecutive5xx.Value(), w.st.EjectionsEnforcedTotal.Value(); d != 1 || e != 0 {
		t.Errorf("detected %d enforced %d, want 1 and 0", d, e)
	}
	o.EnforcingConsecutive_5Xx = u32(30)
	w = newWorld(t, 100, o)
	draw := uint32(0)
	w.d.rand = func(uint32) uint32 { draw++; return draw - 1 }
	for i := range w.eps {
		w.status(i, 500)
	}
	if n := w.d.Active(); n != 30 {
		t.Errorf("%d of 100 ejected at 30 %%", n)
	}
}

// What sits in a connection that a relayed stream uses counts once, as a success, when it stands.
func TestFinalSuccessClearsFailures(t *testing.T) {
	o := walkthrough(99)
	o.Consecutive_5Xx = u32(2)
	w := newWorld(t, 2, o)
	w.refused(0)
	w.d.Succeeded(w.eps[0].Host, false)
	if w.eps[0].Health.Consecutive5xx.Load() != 1 {
		t.Error("a connection before its response cleared the counter")
	}
	w.d.Succeeded(w.eps[0].Host, true)
	w.refused(0)
	w.ejected()
}

func TestErrorMatcher(t *testing.T) {
	exact := func(code string) *matcherv3.MatchPredicate {
		return &matcherv3.MatchPredicate{Rule: &matcherv3.MatchPredicate_HttpResponseHeadersMatch{
			HttpResponseHeadersMatch: &matcherv3.HttpHeadersMatch{Headers: []*routev3.HeaderMatcher{{
				Name: ":status", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &typematcherv3.StringMatcher{
					MatchPattern: &typematcherv3.StringMatcher_Exact{Exact: code}}},
			}}}}}
	}
	or := &matcherv3.MatchPredicate{Rule: &matcherv3.MatchPredicate_OrMatch{
		OrMatch: &matcherv3.MatchPredicate_MatchSet{Rules: []*matcherv3.MatchPredicate{exact("429"), exact("503")}}}}
	w := newWorld(t, 4, walkthrough(99))
	c := *w.d.Config()
	if err := c.SetErrorMatcher(or); err != nil {
		t.Fatal(err)
	}
	w.d.Configure(&c)
	w.status(0, 500)
	w.status(1, 429)
	w.status(2, 503)
	w.ejected(1, 2)
	if err := c.SetErrorMatcher(exact("5xx")); err == nil {
		t.Error("a matcher that is not a status was taken")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, o := range map[string]*clusterv3.OutlierDetection{
		"interval":              {Interval: durationpb.New(0)},
		"base":                  {BaseEjectionTime: durationpb.New(-1)},
		"max shorter than base": {MaxEjectionTime: durationpb.New(time.Second)},
		"monitors":              {Monitors: []*corev3.TypedExtensionConfig{{}}},
	} {
		if _, err := Parse(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for field, o := range map[string]*clusterv3.OutlierDetection{
		"enforcing_success_rate":                    {EnforcingSuccessRate: u32(1)},
		"enforcing_local_origin_success_rate":       {EnforcingLocalOriginSuccessRate: u32(100)},
		"enforcing_failure_percentage":              {EnforcingFailurePercentage: u32(1)},
		"enforcing_failure_percentage_local_origin": {EnforcingFailurePercentageLocalOrigin: u32(1)},
		"success_rate_minimum_hosts":                {SuccessRateMinimumHosts: u32(5)},
		"success_rate_request_volume":               {SuccessRateRequestVolume: u32(5)},
		"success_rate_stdev_factor":                 {SuccessRateStdevFactor: u32(1900)},
	} {
		if _, err := Parse(o); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := Parse(&clusterv3.OutlierDetection{EnforcingSuccessRate: u32(0), SuccessRateMinimumHosts: u32(5), FailurePercentageThreshold: u32(1)}); err != nil {
		t.Errorf("nothing of it is enforced: %v", err)
	}
	c, err := Parse(&clusterv3.OutlierDetection{BaseEjectionTime: durationpb.New(time.Hour)})
	if err != nil || c.MaxEjectionTime != time.Hour {
		t.Errorf("a base of an hour: max %v, %v", c.MaxEjectionTime, err)
	}
}
