//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
)

// noisy is the spread above which a figure says so.
const noisy = 0.10

// median of figures; NaN for none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// spread is (max-min)/median; 0 where all are equal, zeros included.
func spread(v []float64) float64 {
	if len(v) == 0 || slices.Max(v) == slices.Min(v) {
		return 0
	}
	return (slices.Max(v) - slices.Min(v)) / median(v)
}

// ratios divides, round by round, by the best of the peers in that round. Rounds alternate, so this takes out what the
// machine did to all of them.
func ratios(mine []float64, peers ...[]float64) []float64 {
	var out []float64
	for i, m := range mine {
		best := math.Inf(1)
		for _, p := range peers {
			if i >= len(p) {
				return nil
			}
			best = min(best, p[i])
		}
		out = append(out, m/best)
	}
	return out
}

// verdict is what became of one goal.
type verdict struct {
	Goal   string
	Value  float64 // the median ratio, or the median figure of an absolute goal
	Spread float64
	Met    bool
	Absent string // not empty: not judged, and why
}

// judge holds the figures of one variant of a row (contender → metric → a figure for each round) against a goal.
func judge(g goal, f figures) verdict {
	v := verdict{Goal: g.String()}
	mine := f[detour][g.Metric]
	if len(mine) == 0 {
		v.Absent = "not measured"
		return v
	}
	values := mine
	if len(g.Of) > 0 {
		var peers [][]float64
		for _, o := range g.Of {
			if len(f[o][g.Metric]) != len(mine) {
				v.Absent = titles[o] + " not measured"
				return v
			}
			peers = append(peers, f[o][g.Metric])
		}
		values = ratios(mine, peers...)
	}
	v.Value, v.Spread = median(values), spread(values)
	v.Met = v.Value <= g.Max
	return v
}

func (v verdict) String() string {
	if v.Absent != "" {
		return v.Absent
	}
	s := fmt.Sprintf("%s, **missed**", digits(v.Value))
	if v.Met {
		s = digits(v.Value) + ", met"
	}
	return s + noise(v.Spread)
}

// noise tells a spread that is too large to be passed over.
func noise(s float64) string {
	if s <= noisy {
		return ""
	}
	return fmt.Sprintf(" (spread %.0f %%)", s*100)
}

// digits prints three significant digits, more only before the point.
func digits(f float64) string {
	switch a := math.Abs(f); {
	case f == 0:
		return "0"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", f)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", f)
	case a >= 0.0995:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.2g", f)
}
