//go:build linux

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files")

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		in             []float64
		median, spread float64
	}{
		{[]float64{5}, 5, 0}, {[]float64{3, 1, 2}, 2, 1}, {[]float64{4, 1, 2, 3}, 2.5, 1.2}, {[]float64{0, 0, 0}, 0, 0},
		{[]float64{100, 95, 105, 100, 100}, 100, 0.1},
	} {
		if m, s := median(c.in), spread(c.in); m != c.median || math.Abs(s-c.spread) > 1e-12 {
			t.Errorf("%v: median %g, spread %g", c.in, m, s)
		}
	}
	if !math.IsNaN(median(nil)) || spread(nil) != 0 {
		t.Error("nothing has a median or a spread")
	}
}

func TestRatios(t *testing.T) {
	mine, a, b := []float64{1, 2, 3}, []float64{2, 2, 2}, []float64{4, 1, 2}
	if got := ratios(mine, a); !slices.Equal(got, []float64{0.5, 1, 1.5}) {
		t.Errorf("by one peer: %v", got)
	}
	if got := ratios(mine, a, b); !slices.Equal(got, []float64{0.5, 2, 1.5}) {
		t.Errorf("by the best of two in each round: %v", got)
	}
	if got := ratios(mine, a[:2]); got != nil {
		t.Errorf("rounds that the peer does not have: %v", got)
	}
}

func TestJudge(t *testing.T) {
	f := figures{
		detour:  {"cpu": {10, 11, 9}, "lost": {0, 0, 0}},
		haproxy: {"cpu": {10, 10, 10}}, nginx: {"cpu": {20, 5, 20}}, envoy: {"cpu": {30, 30}},
	}
	for _, c := range []struct {
		g    goal
		want string
	}{
		{goal{"cpu", []string{haproxy}, 1}, "1.00, met (spread 20 %)"},
		{goal{"cpu", []string{haproxy}, 0.99}, "1.00, **missed** (spread 20 %)"},
		{goal{"cpu", []string{haproxy, nginx}, 0.9}, "1.00, **missed** (spread 130 %)"},
		{goal{"cpu", []string{envoy}, 0.5}, "Envoy not measured"},
		{goal{"cpu", nil, 10}, "10.0, met (spread 20 %)"},
		{goal{"lost", nil, 0}, "0, met"},
		{goal{"none", nil, 0}, "not measured"},
	} {
		if got := judge(c.g, f).String(); got != c.want {
			t.Errorf("%v: %q, not %q", c.g, got, c.want)
		}
	}
}

func TestDigits(t *testing.T) {
	for in, want := range map[float64]string{
		0: "0", 0.0123: "0.012", 0.5: "0.50", 0.999: "1.00", 9.99: "9.99", 9.996: "10.0", 16.44: "16.4", 99.96: "100", 113441.3: "113441",
	} {
		if got := digits(in); got != want {
			t.Errorf("%g: %s, not %s", in, got, want)
		}
	}
}

func TestGoalText(t *testing.T) {
	for _, c := range []struct {
		g    goal
		want string
	}{
		{goal{"x", []string{haproxy}, 1}, "≤ 1 × HAProxy"},
		{goal{"x", []string{haproxy, nginx}, 0.9}, "≤ 0.9 × the best of HAProxy, nginx"},
		{goal{"x", nil, 1.15}, "≤ 1.15"}, {goal{"x", nil, 500}, "≤ 500"}, {goal{"x", nil, 0}, "≤ 0"},
	} {
		if got := c.g.String(); got != c.want {
			t.Errorf("%q, not %q", got, c.want)
		}
	}
}

// fixture has all that a table can show: two conditions, noise, a contender that failed, a row never measured.
func fixture(t *testing.T) ([]row, results) {
	t.Helper()
	b, err := os.ReadFile("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	var all results
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return []row{
		{Name: "keepalive-1k", Title: "keep-alive, 1 kB", Metrics: []metric{cpuPerRequest, throughput},
			Goals: []goal{{"cpu", []string{haproxy}, 1}, {"cpu", []string{envoy}, 0.55}}},
		{Name: "never", Title: "never measured", Metrics: []metric{cpuPerRequest}},
		{Name: "latency", Title: "latency", Metrics: []metric{{"p99", "p99", "µs"}}, Goals: []goal{{"p99", []string{haproxy}, 1}}},
		{Name: "idle", Title: "idle", Metrics: []metric{{"kb", "memory", "kB"}, {"connections", "connections", ""}},
			Goals: []goal{{"kb", nil, 8}, {"kb", []string{envoy}, 0.5}}},
	}, all
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("%s (%v): got\n%s", file, err, got)
	}
}

func TestTable(t *testing.T) {
	rows, all := fixture(t)
	golden(t, "testdata/table.md", markdown(rows, all))
	golden(t, "testdata/row.txt", text(rows[0], all.Rows["keepalive-1k"]))
}

func TestBetween(t *testing.T) {
	got, err := between("a\n"+beginMark+"\nold\n"+endMark+"\nb\n", "new")
	if want := "a\n" + beginMark + "\n\nnew\n" + endMark + "\nb\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, page := range []string{"", beginMark, endMark + beginMark} {
		if _, err := between(page, "new"); err == nil {
			t.Errorf("%q: no error", page)
		}
	}
}

// TestPublish: results that are written are read back the same, and table and plots come from them.
func TestPublish(t *testing.T) {
	_, all := fixture(t)
	root := t.TempDir()
	for _, dir := range []string{"bench", "docs"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	page := filepath.Join(root, "docs", "performance.md")
	if err := os.WriteFile(page, []byte("# Title\n"+beginMark+"\n"+endMark+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "bench", "results.json")
	if err := all.write(file); err != nil {
		t.Fatal(err)
	}
	back, err := readResults(file)
	if err != nil || !reflect.DeepEqual(back, all) {
		t.Fatalf("read back: %v, %+v", err, back)
	}
	if err := run([]string{"--publish", "--out", root}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(b), "0.90, met") {
		t.Errorf("%v: %s", err, b)
	}
	for _, name := range []string{"cpu", "latency", "idle"} {
		f, err := os.Open(filepath.Join(root, "docs", "performance", name+".svg"))
		if err != nil {
			t.Error(err)
			continue
		}
		defer f.Close()
		d, elements := xml.NewDecoder(f), 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, ok := token.(xml.StartElement); ok {
				elements++
			}
		}
		if elements < 10 {
			t.Errorf("%s.svg has %d elements", name, elements)
		}
	}
}

// TestRows: the rows are there, each once, in the table's order.
func TestRows(t *testing.T) {
	sortRows()
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		if !slices.Contains(order, r.Name) {
			t.Errorf("%s has no place in the order", r.Name)
		}
	}
	sorted := slices.SortedFunc(slices.Values(names), func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	if !slices.Equal(names, sorted) || len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names) || len(names) < 18 {
		t.Errorf("%q", names)
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args   string
		ok     bool
		writes bool
	}{
		{"", true, true}, {"--rows tcp", true, true}, {"--quick", true, false}, {"--contenders detour", true, false},
		{"--contenders detour --out x", true, true}, {"--detour2 x", true, false}, {"--log off", true, false}, {"--log on --wrk", true, false},
		{"--log maybe", false, false}, {"--rounds 0", false, false}, {"--duration 0s", false, false}, {"word", false, false},
	} {
		o, err := flags(strings.Fields(c.args))
		if (err == nil) != c.ok || err == nil && o.writes() != c.writes {
			t.Errorf("%q: %v, writes %t", c.args, err, o.writes())
		}
	}
	if _, err := (options{rows: "tcp,nonsense"}).pick(); err == nil {
		t.Error("an unknown row is taken")
	}
	if got := commandLine([]string{"--rows", "tcp", "--detour", "/a/b/detour", "--out=/c/d"}); got != "go run ./bench --rows tcp --detour detour --out=d" {
		t.Error(got)
	}
}

// TestStaticEnvoy: endpoints go into their clusters, and ports can be filled in.
func TestStaticEnvoy(t *testing.T) {
	b, err := staticEnvoy([]byte(`{"clusters": [{"name": "a", "type": "EDS", "eds_cluster_config": {}}, {"name": "b", "type": "STATIC"}],
		"endpoints": [{"cluster_name": "a", "endpoints": [1]}], "routes": [{"name": "80", "virtual_hosts": [2]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"load_assignment":{"cluster_name":"a","endpoints":[1]}`, `"route_config":{"name":"80","virtual_hosts":[2]}`,
		`"port_value":"PORT"`, `"port_value":"ADMIN"`, `{"name":"b","type":"STATIC"}`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
	if strings.Contains(string(b), "eds_cluster_config") {
		t.Errorf("EDS is still there: %s", b)
	}
	for _, bad := range []string{"", "{}", `{"routes": [{"name": "81"}]}`} {
		if _, err := staticEnvoy([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
