package stats

import (
	"bufio"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"time"
)

// Query says which statistics are wanted.
type Query struct {
	// Filter, if not nil, must match somewhere in the full name (Envoy's ?filter=).
	Filter *regexp.Regexp
	// UsedOnly leaves out what is zero (Envoy's ?usedonly leaves out what was never written).
	UsedOnly bool
}

func (q Query) wants(name string, zero bool) bool {
	return !(zero && q.UsedOnly) && (q.Filter == nil || q.Filter.MatchString(name))
}

// quantiles are those of Envoy's admin, in percent.
var quantiles = []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100}

// eachNumber calls f with every wanted counter and gauge under its full name, sorted.
func (r *Registry) eachNumber(q Query, f func(name []byte, value uint64)) {
	var numbers []number
	var name []byte
	for _, g := range r.groups() {
		for i := range g.scopes {
			s := &g.scopes[i]
			numbers = s.numbers(numbers[:0], g.plan)
			for _, n := range numbers {
				name = append(append(name[:0], s.prefix...), n.name...)
				if q.UsedOnly && n.value == 0 || q.Filter != nil && !q.Filter.Match(name) {
					continue
				}
				f(name, n.value)
			}
		}
	}
}

// eachHistogram calls f with every wanted histogram; s is nil for one without records.
func (r *Registry) eachHistogram(q Query, f func(name string, s *Summary)) {
	for _, g := range r.groups() {
		for i := range g.scopes {
			sc := &g.scopes[i]
			for _, fd := range g.plan {
				h, ok := sc.v.FieldByIndex(fd.index).Addr().Interface().(*Histogram)
				if !ok {
					continue
				}
				name := sc.prefix + fd.name
				if s := h.Summary(); q.wants(name, s == nil) {
					f(name, s)
				}
			}
		}
	}
}

// WriteText writes Envoy's text form: "name: value", sorted, then the histograms. Of Envoy's two figures for a quantile,
// (interval, cumulative), the first is nan, as in an Envoy whose last interval saw nothing: detour keeps no intervals.
func (r *Registry) WriteText(w io.Writer, q Query) error {
	b := bufio.NewWriter(w)
	var num []byte
	r.eachNumber(q, func(name []byte, value uint64) {
		b.Write(name)
		b.WriteString(": ")
		num = strconv.AppendUint(num[:0], value, 10)
		b.Write(num)
		b.WriteByte('\n')
	})
	r.eachHistogram(q, func(name string, s *Summary) {
		b.WriteString(name)
		b.WriteString(":")
		if s == nil {
			b.WriteString(" No recorded values\n")
			return
		}
		for _, p := range quantiles {
			b.WriteString(" P" + strconv.FormatFloat(p, 'g', -1, 64) + "(nan,")
			b.WriteString(strconv.FormatFloat(millis(s.Quantile(p/100)), 'g', -1, 64) + ")")
		}
		b.WriteByte('\n')
	})
	return b.Flush()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

type jsonQuantile struct {
	Cumulative *float64 `json:"cumulative"`
	Interval   *float64 `json:"interval"`
}

type jsonHistogram struct {
	Name   string         `json:"name"`
	Values []jsonQuantile `json:"values"`
}

// writeQuoted writes a JSON string; nearly all names need no escapes.
func writeQuoted(b *bufio.Writer, name []byte) {
	for _, c := range name {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(string(name)) // a string can't fail
			b.Write(quoted)
			return
		}
	}
	b.WriteByte('"')
	b.Write(name)
	b.WriteByte('"')
}

// WriteJSON writes Envoy's JSON form: {"stats": [{"name", "value"}, …, {"histograms": {…}}]}.
func (r *Registry) WriteJSON(w io.Writer, q Query) error {
	b := bufio.NewWriter(w)
	b.WriteString(`{"stats":[`)
	sep := ""
	var num []byte
	r.eachNumber(q, func(name []byte, value uint64) {
		b.WriteString(sep)
		b.WriteString(`{"name":`)
		writeQuoted(b, name)
		b.WriteString(`,"value":`)
		num = strconv.AppendUint(num[:0], value, 10)
		b.Write(num)
		b.WriteByte('}')
		sep = ","
	})
	histograms := struct {
		Supported []float64       `json:"supported_quantiles"`
		Computed  []jsonHistogram `json:"computed_quantiles"`
	}{quantiles, []jsonHistogram{}}
	r.eachHistogram(q, func(name string, s *Summary) {
		h := jsonHistogram{Name: name, Values: make([]jsonQuantile, len(quantiles))}
		for i, p := range quantiles {
			if s != nil {
				ms := millis(s.Quantile(p / 100))
				h.Values[i].Cumulative = &ms
			}
		}
		histograms.Computed = append(histograms.Computed, h)
	})
	body, err := json.Marshal(histograms)
	if err != nil {
		return err
	}
	b.WriteString(sep + `{"histograms":`)
	b.Write(body)
	b.WriteString("}]}\n")
	return b.Flush()
}
