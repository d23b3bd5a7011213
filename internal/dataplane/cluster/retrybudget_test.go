package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/lb"
)

// A retry budget stands in for max_retries: so many at once, or a share of the requests that are active, or that began
// within its interval.
func TestRetryBudget(t *testing.T) {
	for _, tc := range []struct {
		name     string
		budget   *clusterv3.CircuitBreakers_Thresholds_RetryBudget
		requests int
		after    time.Duration
		done     bool
		want     int
	}{
		{"none", nil, 100, 0, false, 2},
		{"at least", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{}, 10, 0, false, 3},
		{"share", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{}, 100, 0, false, 20},
		{"share of nothing", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{MinRetryConcurrency: wrapperspb.UInt32(0)}, 100, 0, true, 0},
		{"own figures", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typev3.Percent{Value: 50},
			MinRetryConcurrency: wrapperspb.UInt32(7)}, 10, 0, false, 7},
		{"interval", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetInterval: durationpb.New(2 * time.Second)}, 100, time.Second, true, 20},
		{"interval passed", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetInterval: durationpb.New(2 * time.Second)}, 100, 3 * time.Second, true, 3},
		{"long interval", &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetInterval: durationpb.New(time.Minute)}, 100, 14 * time.Second, true, 80},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, map[string]string{east: "10.0.0.1"})
				defer r.m.Close()
				c := strictDNSCluster("a", nil, ep{east, 80, "", 0})
				c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
					MaxRetries: wrapperspb.UInt32(2), RetryBudget: tc.budget}}}
				r.update(c)
				synctest.Wait()
				results := make([]lb.Result, tc.requests)
				for i := range results {
					var err error
					if results[i], err = r.m.Get("a").Pick(&lb.PickInfo{Now: time.Now()}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(tc.after)
				if tc.done {
					for i := range results {
						results[i].Done(lb.Outcome{Now: time.Now(), Kind: lb.Response, Status: 200})
					}
				}
				n, limit := 0, &r.m.Get("a").Breaker().Retries
				for limit.TryAcquire() {
					n++
				}
				if n != tc.want {
					t.Errorf("%d retries at once, want %d", n, tc.want)
				}
			})
		})
	}
}
