package stats

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram's buckets are log-linear over microseconds: values below 8 have a bucket each, every octave above is cut
// into 8, so that a bucket is at most 12.5 % wide. The last bucket takes everything from 2^36 µs (19 hours) up.
const (
	subBits    = 3
	subBuckets = 1 << subBits
	maxOctave  = 36
	nBuckets   = (maxOctave-subBits+1)*subBuckets + 1
)

// Histogram counts durations; Envoy's histograms of milliseconds are rendered from it. Recording takes two atomic
// additions and no lock. Its buckets (2 kB) come into being with the first record. The zero value is ready; it must not be
// copied.
type Histogram struct {
	b atomic.Pointer[buckets]
}

type buckets struct {
	sum atomic.Uint64 // µs
	n   [nBuckets]atomic.Uint64
}

// Record counts one duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	b := h.b.Load()
	if b == nil {
		b = h.first()
	}
	us := uint64(max(d, 0)) / uint64(time.Microsecond)
	b.n[bucketOf(us)].Add(1)
	b.sum.Add(us)
}

func (h *Histogram) first() *buckets {
	b := new(buckets)
	if h.b.CompareAndSwap(nil, b) {
		return b
	}
	return h.b.Load()
}

// bucketOf gives the bucket of a value in µs.
func bucketOf(us uint64) int {
	if us < subBuckets {
		return int(us)
	}
	e := bits.Len64(us) - 1 - subBits // us>>e is in [8, 16)
	if e > maxOctave-subBits-1 {
		return nBuckets - 1
	}
	return (e+1)*subBuckets + int(us>>e) - subBuckets
}

// bucketBounds gives the range [low, high) of a bucket in µs.
func bucketBounds(i int) (low, high uint64) {
	if i < subBuckets {
		return uint64(i), uint64(i) + 1
	}
	e := i/subBuckets - 1
	low = uint64(subBuckets+i%subBuckets) << e
	return low, low + 1<<e
}

// Summary is what a histogram held at one moment.
type Summary struct {
	Count  uint64
	Sum    time.Duration
	counts [nBuckets]uint64
}

// Summary reads the histogram; records that happen meanwhile may be missing from it. nil: nothing was ever recorded.
func (h *Histogram) Summary() *Summary {
	b := h.b.Load()
	if b == nil {
		return nil
	}
	s := &Summary{Sum: time.Duration(b.sum.Load()) * time.Microsecond}
	for i := range b.n {
		s.counts[i] = b.n[i].Load()
		s.Count += s.counts[i]
	}
	return s
}

// Quantile gives the duration below which a share q (0 to 1) of the records lies, interpolated inside a bucket.
func (s *Summary) Quantile(q float64) time.Duration {
	if s.Count == 0 {
		return 0
	}
	want := q * float64(s.Count)
	var seen float64
	last := 0
	for i, n := range s.counts {
		if n == 0 {
			continue
		}
		last = i
		if seen+float64(n) >= want {
			low, high := bucketBounds(i)
			part := (want - seen) / float64(n)
			return time.Duration((float64(low) + part*float64(high-low)) * float64(time.Microsecond))
		}
		seen += float64(n)
	}
	_, high := bucketBounds(last)
	return time.Duration(high) * time.Microsecond
}

// AtMost gives how many records were at most d, taking buckets that reach beyond d in proportion.
func (s *Summary) AtMost(d time.Duration) uint64 {
	limit := uint64(d / time.Microsecond)
	var n uint64
	for i, c := range s.counts {
		low, high := bucketBounds(i)
		switch {
		case c == 0:
		case high <= limit+1:
			n += c
		case low <= limit && i < nBuckets-1:
			n += uint64(float64(c) * float64(limit+1-low) / float64(high-low))
		}
	}
	return n
}
