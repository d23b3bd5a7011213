package stats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// filled is a registry with the scopes that the golden files of a real Envoy 1.40 have.
func filled() *Registry {
	r := NewRegistry()
	c := r.Cluster("mydb")
	for range 5 {
		count(c)
	}
	c.UpstreamRq.Inc(503)
	c.OutlierDetection.EjectionsActive.Set(1)
	c.UpstreamCxActive.Set(-1) // never shown as such
	h := r.HTTP("egress")
	h.DownstreamRq.Inc(200)
	h.DownstreamRqTime.Record(time.Millisecond)
	l := r.Listener("127.0.0.1:29080")
	l.DownstreamCxActive.Set(2)
	r.TCP("tcpdb").DownstreamCxTotal.Inc()
	r.Server().Live.Set(1)
	return r
}

func text(t testing.TB, r *Registry, q Query) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b, q); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func names(text string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		name, _, _ := strings.Cut(line, ": ")
		all[name] = true
	}
	return all
}

// ours are the names that an Envoy has not, or has only in other circumstances (TLS, a 503).
var ours = regexp.MustCompile(`^detour\.|\.detour\.|\.ssl\.|^server\.(goroutines|memory_allocations)$|upstream_rq_(503|5xx)$`)

// Every name is one of Envoy's, spelled as it spells it.
func TestNamesAreEnvoys(t *testing.T) {
	b, err := os.ReadFile("testdata/envoy/stats.txt")
	if err != nil {
		t.Fatal(err)
	}
	envoys := names(string(b))
	checked := 0
	for name := range names(text(t, filled(), Query{})) {
		if ours.MatchString(name) {
			continue
		}
		checked++
		if !envoys[name] {
			t.Errorf("%s is no name of Envoy's", name)
		}
	}
	if checked < 150 {
		t.Errorf("only %d names were compared", checked)
	}
}

func TestText(t *testing.T) {
	r := filled()
	got := text(t, r, Query{Filter: regexp.MustCompile(`upstream_rq_(total|active|2..|5.*|completed|time)|cx_active`)})
	want := `cluster.mydb.upstream_cx_active: 0
cluster.mydb.upstream_rq_200: 5
cluster.mydb.upstream_rq_2xx: 5
cluster.mydb.upstream_rq_503: 1
cluster.mydb.upstream_rq_5xx: 1
cluster.mydb.upstream_rq_active: 0
cluster.mydb.upstream_rq_active_overflow: 0
cluster.mydb.upstream_rq_completed: 6
cluster.mydb.upstream_rq_timeout: 0
cluster.mydb.upstream_rq_total: 5
http.egress.downstream_cx_active: 0
listener.127.0.0.1_29080.downstream_cx_active: 2
listener.127.0.0.1_29080.downstream_pre_cx_active: 0
cluster.mydb.upstream_rq_time: P0(nan,2.816) P25(nan,2.88) P50(nan,2.944) P75(nan,3.008) P90(nan,3.0464) P95(nan,3.0592) P99(nan,3.06944) P99.5(nan,3.07072) P99.9(nan,3.071744) P100(nan,3.072)
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	all := text(t, r, Query{})
	lines := strings.Split(strings.TrimSpace(all), "\n")
	first := slices.IndexFunc(lines, func(s string) bool { return strings.Contains(s, " P0(") || strings.Contains(s, "No recorded") })
	if !slices.IsSorted(lines[:first]) {
		t.Error("the numbers are not sorted")
	}
	if !strings.Contains(all, "cluster.mydb.upstream_cx_connect_ms: No recorded values\n") || !strings.Contains(all, "server.total_connections: 2\n") {
		t.Errorf("an empty histogram, or what the registry computes, is missing:\n%s", all)
	}
	used := text(t, r, Query{UsedOnly: true})
	if strings.Contains(used, ": 0\n") || strings.Contains(used, "No recorded") || !strings.Contains(used, "upstream_rq_total: 5") {
		t.Errorf("usedonly:\n%s", used)
	}
}

// The JSON has the shape of Envoy's: the same keys, quantiles, and kinds of values.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := filled().WriteJSON(&b, Query{}); err != nil {
		t.Fatal(err)
	}
	type doc struct {
		Stats []struct {
			Name       string
			Value      *uint64
			Histograms *struct {
				Supported []float64 `json:"supported_quantiles"`
				Computed  []struct {
					Name   string
					Values []map[string]*float64
				} `json:"computed_quantiles"`
			}
		}
	}
	read := func(raw []byte) (d doc) {
		t.Helper()
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&d); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		return d
	}
	golden, err := os.ReadFile("testdata/envoy/stats.json")
	if err != nil {
		t.Fatal(err)
	}
	want, got := read(golden), read(b.Bytes())
	hw, hg := want.Stats[len(want.Stats)-1].Histograms, got.Stats[len(got.Stats)-1].Histograms
	if hg == nil || !slices.Equal(hw.Supported, hg.Supported) {
		t.Fatalf("histograms: %+v, want %+v", hg, hw)
	}
	for _, s := range got.Stats[:len(got.Stats)-1] {
		if s.Name == "" || s.Value == nil {
			t.Fatalf("a statistic without name or value: %+v", s)
		}
	}
	for _, h := range hg.Computed {
		if len(h.Values) != len(hw.Supported) {
			t.Errorf("%s has %d quantiles", h.Name, len(h.Values))
		}
		for k := range h.Values[0] {
			if _, ok := hw.Computed[0].Values[0][k]; !ok {
				t.Errorf("%s: key %s is not Envoy's", h.Name, k)
			}
		}
	}
	r := NewRegistry()
	r.Cluster("odd\"\\\n\u00e9").UpstreamRqTotal.Inc()
	var odd bytes.Buffer
	if err := r.WriteJSON(&odd, Query{UsedOnly: true, Filter: regexp.MustCompile("odd")}); err != nil || read(odd.Bytes()).Stats[0].Name != "cluster.odd\"\\\n\u00e9.upstream_rq_total" {
		t.Errorf("a name that needs escapes: %v %s", err, odd.String())
	}
	var empty bytes.Buffer
	if err := filled().WriteJSON(&empty, Query{Filter: regexp.MustCompile("nothing")}); err != nil || len(read(empty.Bytes()).Stats) != 1 {
		t.Errorf("with a filter that matches nothing: %v %s", err, empty.String())
	}
}

// What Prometheus' own parser reads has Envoy's families, types and labels.
func TestPrometheus(t *testing.T) {
	parse := func(r io.Reader) map[string]string {
		t.Helper()
		p := expfmt.NewTextParser(model.UTF8Validation)
		families, err := p.TextToMetricFamilies(r)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for name, f := range families {
			var labels []string
			for _, l := range f.Metric[0].Label {
				labels = append(labels, l.GetName())
			}
			slices.Sort(labels)
			out[name] = fmt.Sprint(f.GetType(), labels)
			for _, m := range f.Metric {
				if h := m.Histogram; h != nil {
					out[name] += fmt.Sprint(" ", len(h.Bucket))
				}
			}
		}
		return out
	}
	golden, err := os.Open("testdata/envoy/prometheus.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	var b bytes.Buffer
	if err := filled().WritePrometheus(&b, Query{}); err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`^detour_|_detour_|_ssl_|^envoy_server_(goroutines|memory_allocations)$`)
	want, got := parse(golden), parse(bytes.NewReader(b.Bytes()))
	checked := 0
	for name, kind := range got {
		if ours.MatchString(name) {
			continue
		}
		checked++
		if want[name] != kind {
			t.Errorf("%s is %s, Envoy's %q", name, kind, want[name])
		}
	}
	if checked < 130 {
		t.Errorf("only %d families were compared", checked)
	}
	for _, line := range []string{
		`envoy_cluster_upstream_rq_total{envoy_cluster_name="mydb"} 5`,
		`envoy_cluster_upstream_rq{envoy_response_code="503",envoy_cluster_name="mydb"} 1`,
		`envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="mydb"} 5`,
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="mydb",le="5"} 5`,
		`envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="mydb"} 15`,
		`envoy_listener_downstream_cx_active{envoy_listener_address="127.0.0.1_29080"} 2`,
		`envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="egress"} 1`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
}

func TestScopes(t *testing.T) {
	r := NewRegistry()
	c := r.Cluster("a|b")
	c.UpstreamRqTotal.Inc()
	if r.Cluster("a|b") != c {
		t.Error("the scope is another one at the second time")
	}
	calls := 0
	r.OnCollect(func() { calls++; c.MembershipTotal.Set(7) })
	if !strings.Contains(text(t, r, Query{}), "cluster.a|b.membership_total: 7\n") || calls == 0 {
		t.Error("OnCollect was not called before rendering")
	}
	r.RemoveCluster("a|b")
	if s := text(t, r, Query{}); strings.Contains(s, "cluster.") {
		t.Error("a removed scope is rendered")
	}
	c.UpstreamRqTotal.Inc()
	if n := r.Cluster("a|b").UpstreamRqTotal.Value(); n != 0 {
		t.Errorf("a new scope of the old name begins at %d", n)
	}
	r.Listener("[::1]:80")
	r.RemoveListener("[::1]:80")
	r.HTTP("x")
	r.RemoveHTTP("x")
	r.TCP("x")
	r.RemoveTCP("x")
	for name := range names(text(t, r, Query{})) {
		if strings.HasPrefix(name, "listener.") || strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "tcp.") {
			t.Errorf("%s stayed", name)
		}
	}
}

// Istio's stat names end in ";", which no label should carry.
func TestIstioStatName(t *testing.T) {
	r := NewRegistry()
	r.Cluster("outbound|80||mydb.com;").UpstreamRqTotal.Inc()
	var b bytes.Buffer
	if err := r.WritePrometheus(&b, Query{UsedOnly: true, Filter: regexp.MustCompile("mydb")}); err != nil {
		t.Fatal(err)
	}
	want := "# TYPE envoy_cluster_upstream_rq_total counter\nenvoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||mydb.com\"} 1\n"
	if b.String() != want {
		t.Errorf("%s", b.String())
	}
}

func BenchmarkRender(b *testing.B) {
	r := NewRegistry()
	for i := range 5000 {
		r.Cluster(fmt.Sprintf("outbound|80||host-%d.example.com", i)).UpstreamRqTotal.Inc()
	}
	for name, f := range map[string]func(io.Writer, Query) error{"text": r.WriteText, "json": r.WriteJSON, "prometheus": r.WritePrometheus} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(io.Discard, Query{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
