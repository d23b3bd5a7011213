package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// runs makes the output of ten runs of one benchmark, whose times are spread by 2 %.
func runs(name string, ns float64, allocs int) string {
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "goos: linux\npkg: detour.dev/detour/internal/x\n%s-2 \t 1000\t %.3f ns/op\t 16 B/op\t %d allocs/op\nPASS\n",
			name, ns*(1+float64(i%5-2)/200), allocs)
	}
	return b.String()
}

func parse(t *testing.T, pkg, text string) samples {
	t.Helper()
	s := samples{}
	if err := s.read(pkg, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after string
		same, quick   bool
		want          []string // "UNIT TEXT", the beginning of each verdict
		lost          bool
	}{
		{name: "the same", before: runs("BenchmarkA/n=1", 100, 0), after: runs("BenchmarkA/n=1", 100, 0),
			want: []string{"allocs/op ", "sec/op p="}},
		{name: "5 % slower", before: runs("BenchmarkA", 100, 0), after: runs("BenchmarkA", 105, 0),
			want: []string{"allocs/op ", "sec/op +5.00% p=0.000"}},
		{name: "15 % slower", before: runs("BenchmarkA", 100, 0), after: runs("BenchmarkA", 115, 0), lost: true,
			want: []string{"allocs/op ", "sec/op LOST: slower +15.00% p=0.000"}},
		{name: "15 % slower, quick", before: runs("BenchmarkA", 100, 0), after: runs("BenchmarkA", 115, 0), quick: true,
			want: []string{"allocs/op "}},
		{name: "15 % faster", before: runs("BenchmarkA", 115, 0), after: runs("BenchmarkA", 100, 0),
			want: []string{"allocs/op ", "sec/op -13.04% p=0.000"}},
		{name: "30 % slower, not significant", after: "BenchmarkA 1 130 ns/op 0 allocs/op\n", before: "BenchmarkA 1 100 ns/op 0 allocs/op\n",
			want: []string{"allocs/op ", "sec/op p=1.000"}},
		{name: "allocates", before: runs("BenchmarkA", 100, 0), after: runs("BenchmarkA", 100, 1), lost: true,
			want: []string{"allocs/op LOST: a hot path allocates", "sec/op p="}},
		{name: "allocates, quick", before: runs("BenchmarkA", 100, 0), after: runs("BenchmarkA", 100, 1), quick: true, lost: true,
			want: []string{"allocs/op LOST: a hot path allocates"}},
		{name: "allocates, without a base", after: runs("BenchmarkA", 100, 1), lost: true,
			want: []string{"allocs/op LOST: a hot path allocates", "sec/op new"}},
		{name: "allocated before too", before: runs("BenchmarkA", 100, 1), after: runs("BenchmarkA", 100, 1), lost: true,
			want: []string{"allocs/op LOST: a hot path allocates", "sec/op p="}},
		{name: "a failure may allocate", before: runs("BenchmarkDone/500", 100, 3), after: runs("BenchmarkDone/500", 100, 3),
			want: []string{"allocs/op ", "sec/op p="}},
		{name: "but no more than before", before: runs("BenchmarkDone/500", 100, 3), after: runs("BenchmarkDone/500", 100, 4), lost: true,
			want: []string{"allocs/op LOST: more allocations", "sec/op p="}},
		{name: "more in one of the runs, quick", before: "BenchmarkDone/500 1 3 allocs/op\n", quick: true,
			after: "BenchmarkDone/500 1 3 allocs/op\nBenchmarkDone/500 1 4 allocs/op\n", want: []string{"allocs/op "}},
		{name: "new", after: runs("BenchmarkA", 100, 0), want: []string{"allocs/op new", "sec/op new"}},
		{name: "not measured again", after: runs("BenchmarkA", 100, 0), same: true, want: []string{"allocs/op same files", "sec/op same files"}},
		{name: "gone", before: runs("BenchmarkA", 100, 0), want: []string{"allocs/op gone"}},
		{name: "CPU time", before: "BenchmarkA 1 5 cpu-ns/op\n" + runs("BenchmarkA", 100, 0), after: "BenchmarkA 1 9 cpu-ns/op\n" + runs("BenchmarkA", 100, 0),
			want: []string{"allocs/op ", "cpu-sec/op p=1", "sec/op p="}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(parse(t, "x", c.before), parse(t, "x", c.after), map[string]bool{"x": c.same}, c.quick)
			var texts []string
			for i, v := range got {
				texts = append(texts, v.unit+" "+v.text)
				if i < len(c.want) && strings.Contains(c.want[i], "p=") && strings.HasPrefix(texts[i], c.want[i]) {
					texts[i] = c.want[i]
				}
			}
			if !slices.Equal(texts, c.want) {
				t.Errorf("got %q, want %q", texts, c.want)
			}
			var out bytes.Buffer
			if lost := report(&out, got); lost != c.lost {
				t.Errorf("lost: %v, want %v:\n%s", lost, c.lost, out.String())
			}
		})
	}
}

func TestRead(t *testing.T) {
	s := parse(t, "lb", "BenchmarkPick/RoundRobin/hosts=4-2  100  21.3 ns/op  0 B/op  0 allocs/op\n"+
		"BenchmarkPick/RoundRobin/hosts=4-2  100  25.3 ns/op  0 B/op  2 allocs/op\n")
	got := s[key{"lb", "Pick/RoundRobin/hosts=4", "allocs/op"}]
	if !slices.Equal(got, []float64{0, 2}) {
		t.Errorf("%v of %v", got, slices.Collect(maps.Keys(s)))
	}
	if err := (samples{}).read("x", strings.NewReader("BenchmarkA 1 two ns/op\n")); err == nil {
		t.Error("a broken line was accepted")
	}
}
