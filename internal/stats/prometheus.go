package stats

import (
	"bufio"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// promBuckets are the upper bounds of Envoy's Prometheus histograms in milliseconds (config.metrics.v3.StatsConfig
// histogram_bucket_settings' default).
var promBuckets = []float64{
	0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
}

// WritePrometheus writes the Prometheus text format under Envoy's names: envoy_cluster_upstream_rq_total with the label
// envoy_cluster_name, and so on. It holds one metric family at a time in memory.
func (r *Registry) WritePrometheus(w io.Writer, q Query) error {
	b := bufio.NewWriter(w)
	for _, g := range r.groups() {
		for _, f := range g.plan {
			for _, family := range g.families(f, q) {
				if _, err := expfmt.MetricFamilyToText(b, family); err != nil {
					return err
				}
			}
		}
	}
	return b.Flush()
}

// families makes the metric families of one field: one, or several for codes.
func (g *group) families(f field, q Query) []*dto.MetricFamily {
	set := familySet{group: g, byName: map[string]*dto.MetricFamily{}}
	for i := range g.scopes {
		s := &g.scopes[i]
		full := f.name
		if q.Filter != nil {
			full = s.prefix + f.name
		}
		switch m := s.v.FieldByIndex(f.index).Addr().Interface().(type) {
		case *Counter:
			if n := m.Value(); q.wants(full, n == 0) {
				set.add(f.name, dto.MetricType_COUNTER, s, counterMetric(n))
			}
		case *Gauge:
			if n := gauge(m); q.wants(full, n == 0) {
				set.add(f.name, dto.MetricType_GAUGE, s, &dto.Metric{Gauge: &dto.Gauge{Value: float(n)}})
			}
		case *Histogram:
			if sum := m.Summary(); q.wants(full, sum == nil) {
				set.add(f.name, dto.MetricType_HISTOGRAM, s, histogramMetric(sum))
			}
		default:
			set.addCodes(f.name, s, q, m)
		}
	}
	return set.sorted()
}

var promName = strings.NewReplacer(".", "_", "-", "_")

// familySet gathers metrics by family.
type familySet struct {
	group  *group
	byName map[string]*dto.MetricFamily
}

func (set *familySet) add(name string, t dto.MetricType, s *scope, m *dto.Metric, labels ...*dto.LabelPair) {
	f := set.byName[name]
	if f == nil {
		full := set.group.prom + promName.Replace(name)
		f = &dto.MetricFamily{Name: &full, Type: &t, Metric: make([]*dto.Metric, 0, len(set.group.scopes))}
		set.byName[name] = f
	}
	m.Label = labels
	if set.group.label != "" {
		m.Label = append(m.Label, &dto.LabelPair{Name: &set.group.label, Value: &s.label})
	}
	f.Metric = append(f.Metric, m)
}

// addCodes takes Codes and Classes apart: upstream_rq_completed, upstream_rq_xx{envoy_response_code_class="2"} and
// upstream_rq{envoy_response_code="200"}.
func (set *familySet) addCodes(name string, s *scope, q Query, codes any) {
	var numbers []number
	switch c := codes.(type) {
	case *Codes:
		numbers = c.numbers(nil, name)
	case *Classes:
		numbers = append(numbers, number{name + "_completed", c.Completed()})
		for class := 1; class <= 5; class++ {
			numbers = append(numbers, number{name + "_" + strconv.Itoa(class) + "xx", c.Class(class)})
		}
	}
	for _, n := range numbers {
		if !q.wants(s.prefix+n.name, n.value == 0) {
			continue
		}
		suffix := n.name[len(name)+1:]
		switch {
		case strings.HasSuffix(suffix, "xx"):
			set.add(name+"_xx", dto.MetricType_COUNTER, s, counterMetric(n.value), pair("envoy_response_code_class", suffix[:1]))
		case suffix[0] >= '1' && suffix[0] <= '5':
			set.add(name, dto.MetricType_COUNTER, s, counterMetric(n.value), pair("envoy_response_code", suffix))
		default:
			set.add(n.name, dto.MetricType_COUNTER, s, counterMetric(n.value))
		}
	}
}

func (set *familySet) sorted() []*dto.MetricFamily {
	all := make([]*dto.MetricFamily, 0, len(set.byName))
	for _, f := range set.byName {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].GetName() < all[j].GetName() })
	return all
}

func counterMetric(n uint64) *dto.Metric { return &dto.Metric{Counter: &dto.Counter{Value: float(n)}} }

func float(n uint64) *float64 {
	f := float64(n)
	return &f
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// histogramMetric renders a histogram in milliseconds; nil has no records.
func histogramMetric(s *Summary) *dto.Metric {
	if s == nil {
		s = &Summary{}
	}
	sum := millis(s.Sum)
	h := &dto.Histogram{SampleCount: &s.Count, SampleSum: &sum}
	for i := range promBuckets {
		n := s.AtMost(time.Duration(promBuckets[i] * float64(time.Millisecond)))
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &promBuckets[i], CumulativeCount: &n})
	}
	return &dto.Metric{Histogram: h}
}
