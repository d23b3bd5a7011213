package outlier

import (
	"fmt"
	"math"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
	"detour.dev/detour/internal/stats"
)

// BenchmarkCount is what each attempt costs that ejects nobody: an answer, and an error below the threshold.
func BenchmarkCount(b *testing.B) {
	for _, status := range []int{200, 500} {
		b.Run(fmt.Sprint(status), func(b *testing.B) {
			c, err := Parse(&clusterv3.OutlierDetection{Consecutive_5Xx: u32(math.MaxUint32)})
			if err != nil {
				b.Fatal(err)
			}
			eps := lbtest.Endpoints(1, 1)
			d := New(c, &stats.OutlierDetection{}, false)
			d.SetEndpoints(eps)
			h, n := eps[0].Host, uint32(0)
			o := &lb.Outcome{Kind: lb.Response, Status: status, Now: time.Unix(1_800_000_000, 0)}
			b.ReportAllocs()
			for b.Loop() {
				if t := d.Count(h, o); t != 0 {
					b.Fatalf("trigger %d", t)
				}
				n++
			}
			if status < 500 {
				n = 0
			}
			if got := h.Health.Consecutive5xx.Load(); got != n {
				b.Errorf("%d consecutive errors counted, want %d", got, n)
			}
		})
	}
}
