package stats

import (
	"math"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCodes(t *testing.T) {
	var c Codes
	var classes Classes
	for code, n := range map[int]int{100: 1, 200: 5, 204: 2, 299: 1, 503: 3, 599: 1, 0: 1, 99: 1, 600: 2, -1: 1, 1 << 40: 1} {
		for range n {
			c.Inc(code)
			classes.Inc(code)
		}
	}
	for class, want := range map[int]uint64{0: 0, 1: 1, 2: 8, 3: 0, 5: 4, 6: 0} {
		if got := c.Class(class); got != want {
			t.Errorf("Codes %dxx: %d, want %d", class, got, want)
		}
		if got := classes.Class(class); got != want {
			t.Errorf("Classes %dxx: %d, want %d", class, got, want)
		}
	}
	if c.Completed() != 19 || classes.Completed() != 19 || c.Value(200) != 5 || c.Value(404) != 0 || c.Value(201) != 0 || c.Value(7) != 6 {
		t.Errorf("completed %d and %d, 200: %d, unknown: %d", c.Completed(), classes.Completed(), c.Value(200), c.Value(7))
	}
}

// The first uses of a page and of a histogram may race; nothing may be lost.
func TestConcurrentFirstUse(t *testing.T) {
	const workers, each = 8, 1000
	var c Codes
	var h Histogram
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				c.Inc(200)
				h.Record(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if c.Value(200) != workers*each || h.Summary().Count != workers*each {
		t.Errorf("%d answers, %d records, want %d of each", c.Value(200), h.Summary().Count, workers*each)
	}
}

func TestBuckets(t *testing.T) {
	for i := range nBuckets - 1 {
		low, high := bucketBounds(i)
		if bucketOf(low) != i || bucketOf(high-1) != i || bucketOf(high) != i+1 {
			t.Fatalf("bucket %d is [%d, %d), but %d, %d, %d are in %d, %d, %d",
				i, low, high, low, high-1, high, bucketOf(low), bucketOf(high-1), bucketOf(high))
		}
		if low >= subBuckets && float64(high-low) > 0.126*float64(low) {
			t.Errorf("bucket %d, [%d, %d), is too wide", i, low, high)
		}
	}
	if bucketOf(math.MaxUint64) != nBuckets-1 {
		t.Errorf("the greatest value is in %d", bucketOf(math.MaxUint64))
	}
}

// Quantiles are within a bucket's width of the truth.
func TestQuantiles(t *testing.T) {
	var h Histogram
	r := rand.New(rand.NewPCG(1, 2))
	values := make([]time.Duration, 20000)
	var sum time.Duration
	for i := range values {
		values[i] = time.Duration(math.Exp(r.NormFloat64()*2+8)) * time.Microsecond
		sum += values[i]
		h.Record(values[i])
	}
	sort.Slice(values, func(i, j int) bool { return values[i] < values[j] })
	s := h.Summary()
	for _, q := range []float64{0.01, 0.25, 0.5, 0.9, 0.99, 0.999} {
		want, got := values[int(q*float64(len(values)))], s.Quantile(q)
		if ratio := float64(got) / float64(want); ratio < 0.87 || ratio > 1.14 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	for _, limit := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		want := sort.Search(len(values), func(i int) bool { return values[i] > limit })
		if got := s.AtMost(limit); math.Abs(float64(got)-float64(want)) > 0.02*float64(len(values)) {
			t.Errorf("at most %v: %d, want %d", limit, got, want)
		}
	}
	if s.Sum != sum || s.AtMost(time.Hour) != s.Count {
		t.Errorf("sum %v, want %v; at most an hour: %d of %d", s.Sum, sum, s.AtMost(time.Hour), s.Count)
	}
}

func TestHistogramEdges(t *testing.T) {
	var h Histogram
	if h.Summary() != nil {
		t.Error("an empty histogram has a summary")
	}
	if (&Summary{}).Quantile(0.5) != 0 {
		t.Error("quantile of nothing")
	}
	h.Record(-time.Second)
	h.Record(0)
	if s := h.Summary(); s.Count != 2 || s.Sum != 0 || s.AtMost(0) != 2 || s.Quantile(1) > time.Microsecond {
		t.Errorf("%d records, sum %v, at most 0: %d, P100 %v", s.Count, s.Sum, s.AtMost(0), s.Quantile(1))
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	c := NewRegistry().Cluster("x")
	c.UpstreamRq.Inc(200)
	c.UpstreamRqTime.Record(1)
	if n := testing.AllocsPerRun(100, func() { count(c) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// count is what a request does at least.
func count(c *Cluster) {
	c.UpstreamRqTotal.Inc()
	c.UpstreamRqActive.Inc()
	c.UpstreamRq.Inc(200)
	c.UpstreamRqTime.Record(3 * time.Millisecond)
	c.UpstreamCxRxBytes.Add(1000)
	c.UpstreamCxTxBytes.Add(100)
	c.UpstreamRqActive.Dec()
}

func BenchmarkRequest(b *testing.B) {
	c, n := NewRegistry().Cluster("x"), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		count(c)
		n++
	}
	if c.UpstreamRqTotal.Value() != n || c.UpstreamRqActive.Value() != 0 || c.UpstreamRq.Value(200) != n {
		b.Errorf("%d requests counted, want %d", c.UpstreamRqTotal.Value(), n)
	}
}

func BenchmarkCounter(b *testing.B) {
	c, n := NewRegistry().Cluster("x"), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		c.UpstreamRqTotal.Inc()
		n++
	}
	if got := c.UpstreamRqTotal.Value(); got != n {
		b.Errorf("%d, want %d", got, n)
	}
}

func BenchmarkHistogram(b *testing.B) {
	c, n := NewRegistry().Cluster("x"), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		c.UpstreamRqTime.Record(time.Duration(n%1000) * 37 * time.Microsecond)
		n++
	}
	if got := c.UpstreamRqTime.Summary().AtMost(time.Hour); got != n {
		b.Errorf("%d values recorded, want %d", got, n)
	}
}

func BenchmarkRequestParallel(b *testing.B) {
	c := NewRegistry().Cluster("x")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			count(c)
		}
	})
}
