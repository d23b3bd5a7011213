package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

const (
	// maxLoss is the factor on the base's median time that is still fine.
	maxLoss = 1.10
	allocs  = "allocs/op"
)

// mayAllocate are benchmarks of failures, which keep a text of what went wrong.
var mayAllocate = regexp.MustCompile(`^Done/500$`)

// key is one figure of one benchmark.
type key struct{ pkg, bench, unit string }

// samples are the figures of all runs.
type samples map[key][]float64

// read takes the output of one run. The package's name becomes part of the benchmark's.
func (s samples) read(pkg string, r io.Reader) error {
	in := benchfmt.NewReader(r, pkg)
	for in.Scan() {
		switch rec := in.Result().(type) {
		case *benchfmt.SyntaxError:
			return rec
		case *benchfmt.Result:
			for _, v := range rec.Values {
				k := key{pkg, name(rec.Name), v.Unit}
				s[k] = append(s[k], v.Value)
			}
		}
	}
	return in.Err()
}

// name is a benchmark's name without the number of CPUs.
func name(n benchfmt.Name) string {
	base, parts := n.Parts()
	if l := len(parts); l > 0 && parts[l-1][0] == '-' {
		parts = parts[:l-1]
	}
	out := string(base)
	for _, p := range parts {
		out += string(p)
	}
	return out
}

// verdict is what is said of one figure.
type verdict struct {
	key
	old, new float64 // medians
	text     string
	lost     bool
}

// judge compares what was measured. Figures that are neither allocations nor times are left out, and times where quick is
// set. Of packages in same the base was not measured, since it has the same files.
func judge(before, after samples, same map[string]bool, quick bool) (out []verdict) {
	for k, values := range after {
		isTime := strings.HasSuffix(k.unit, "sec/op")
		if k.unit != allocs && (!isTime || quick) {
			continue
		}
		v := verdict{key: k, new: median(values)}
		old := before[k]
		switch {
		case k.unit == allocs && slices.Min(values) > 0 && !mayAllocate.MatchString(k.bench):
			v.text, v.lost = "LOST: a hot path allocates", true
		case old == nil && same[k.pkg]:
			v.text = "same files"
		case old == nil:
			v.text = "new"
		case k.unit == allocs:
			v.old = median(old)
			v.compareAllocs(old, values, quick)
		default:
			v.old = median(old)
			v.compareTimes(old, values)
		}
		out = append(out, v)
	}
	for k := range before {
		if _, there := after[k]; !there && k.unit == allocs {
			out = append(out, verdict{key: k, old: median(before[k]), text: "gone"})
		}
	}
	slices.SortFunc(out, func(a, b verdict) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.bench, b.bench), strings.Compare(a.unit, b.unit))
	})
	return out
}

// compareAllocs: any more is a loss. In the few runs of the quick form, every one of them must show it.
func (v *verdict) compareAllocs(old, values []float64, quick bool) {
	v.lost = v.new > v.old
	if quick {
		v.lost = slices.Min(values) > slices.Max(old)
	}
	if v.lost {
		v.text = "LOST: more allocations"
	}
}

func (v *verdict) compareTimes(old, values []float64) {
	c := benchmath.AssumeNothing.Compare(sample(old), sample(values))
	significant := c.P < c.Alpha
	v.text = fmt.Sprintf("p=%.3f", c.P)
	if significant {
		v.text = c.FormatDelta(v.old, v.new) + " " + v.text
	}
	if v.lost = significant && v.new > maxLoss*v.old; v.lost {
		v.text = "LOST: slower " + v.text
	}
}

func sample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
}

func median(values []float64) float64 {
	return benchmath.AssumeNothing.Summary(sample(values), 0.95).Center
}

// report prints what was found and says whether anything was lost.
func report(w io.Writer, all []verdict) (lost bool) {
	for _, v := range all {
		lost = lost || v.lost
		before, after := figure(v.old, v.unit), figure(v.new, v.unit)
		switch v.text {
		case "new", "same files":
			before = ""
		case "gone":
			after = ""
		}
		fmt.Fprintf(w, "%-22s %-34s %10s → %-10s %s\n", v.pkg, v.bench, before, after, v.text)
	}
	return lost
}

func figure(f float64, unit string) string {
	switch {
	case unit == allocs:
		return fmt.Sprintf("%.0f allocs", f)
	case f < 1e-6:
		return fmt.Sprintf("%.2f ns", f*1e9)
	}
	return fmt.Sprintf("%.2f µs", f*1e6)
}
