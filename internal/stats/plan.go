package stats

import (
	"reflect"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// field is one tagged field of a scope's type, nested structs being resolved.
type field struct {
	name  string // as in the tags, joined by dots
	index []int
}

// plans holds []field for each type of scope, made at its first rendering.
var plans sync.Map

// planOf gives the fields of the struct type t, sorted by name.
func planOf(t reflect.Type) []field {
	if p, ok := plans.Load(t); ok {
		return p.([]field)
	}
	p := appendFields(nil, t, "", nil)
	sort.Slice(p, func(i, j int) bool { return p[i].name < p[j].name })
	plans.Store(t, p)
	return p
}

func appendFields(p []field, t reflect.Type, prefix string, index []int) []field {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("stat")
		if tag == "" {
			continue
		}
		at := append(append([]int(nil), index...), i)
		switch f.Type {
		case typeCounter, typeGauge, typeHistogram, typeCodes, typeClasses:
			p = append(p, field{name: prefix + tag, index: at})
		default:
			p = appendFields(p, f.Type, prefix+tag+".", at)
		}
	}
	return p
}

var (
	typeCounter   = reflect.TypeFor[Counter]()
	typeGauge     = reflect.TypeFor[Gauge]()
	typeHistogram = reflect.TypeFor[Histogram]()
	typeCodes     = reflect.TypeFor[Codes]()
	typeClasses   = reflect.TypeFor[Classes]()
)

// scope is one struct of statistics with the words that its names begin with.
type scope struct {
	prefix string // "cluster.NAME."
	label  string // the Prometheus label's value; "" in groups without a label
	v      reflect.Value
}

// group is all scopes of one type.
type group struct {
	prom   string // Prometheus prefix, "envoy_cluster_"
	label  string // Prometheus label, "" for none
	plan   []field
	scopes []scope // sorted by prefix
}

// groups reads which scopes there are, in the order of their names.
func (r *Registry) groups() []group {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	return []group{
		groupOf("cluster.", "envoy_cluster_name", r.clusters),
		groupOf("detour.", "", map[string]*Detour{"": &r.detour}),
		groupOf("http.", "envoy_http_conn_manager_prefix", r.https),
		groupOf("listener.", "envoy_listener_address", r.listeners),
		groupOf("server.", "", map[string]*Server{"": &r.server}),
		groupOf("tcp.", "envoy_tcp_prefix", r.tcps),
	}
}

func groupOf[T any](kind, label string, m map[string]*T) group {
	g := group{prom: "envoy_" + strings.TrimSuffix(kind, ".") + "_", label: label, plan: planOf(reflect.TypeFor[T]())}
	if kind == "detour." {
		g.prom = "detour_"
	}
	for name, s := range m {
		prefix := kind
		if label != "" {
			prefix += name + "."
		}
		// Istio ends stat names with ";" so that its tag rules find their end; it is no part of the name.
		g.scopes = append(g.scopes, scope{prefix: prefix, label: strings.TrimSuffix(name, ";"), v: reflect.ValueOf(s).Elem()})
	}
	sort.Slice(g.scopes, func(i, j int) bool { return g.scopes[i].prefix < g.scopes[j].prefix })
	return g
}

// number is one counter or gauge of a scope, after Codes and Classes have been taken apart.
type number struct {
	name  string
	value uint64
}

// numbers appends a scope's counters and gauges, sorted by name.
func (s *scope) numbers(dst []number, plan []field) []number {
	for _, f := range plan {
		switch m := s.v.FieldByIndex(f.index).Addr().Interface().(type) {
		case *Counter:
			dst = append(dst, number{f.name, m.Value()})
		case *Gauge:
			dst = append(dst, number{f.name, gauge(m)})
		case *Codes:
			dst = m.numbers(dst, f.name)
		case *Classes:
			dst = append(dst, number{f.name + "_completed", m.Completed()})
			for class := 1; class <= 5; class++ {
				dst = append(dst, number{f.name + "_" + strconv.Itoa(class) + "xx", m.Class(class)})
			}
		}
	}
	sort.Slice(dst, func(i, j int) bool { return dst[i].name < dst[j].name })
	return dst
}

// numbers appends PREFIX_completed, and the classes and codes that were seen, as Envoy makes them at first use.
func (c *Codes) numbers(dst []number, prefix string) []number {
	dst = append(dst, number{prefix + "_completed", c.Completed()})
	if n := c.unknown.Value(); n > 0 {
		dst = append(dst, number{prefix + "_unknown", n})
	}
	for class := 1; class <= 5; class++ {
		n := c.Class(class)
		if n == 0 {
			continue
		}
		dst = append(dst, number{prefix + "_" + strconv.Itoa(class) + "xx", n})
		for code := class * 100; code < class*100+100; code++ {
			if n := c.Value(code); n > 0 {
				dst = append(dst, number{prefix + "_" + strconv.Itoa(code), n})
			}
		}
	}
	return dst
}

func gauge(g *Gauge) uint64 { return uint64(max(g.Value(), 0)) }

// Each calls f with every counter and gauge of a scope (*Cluster, *Host, …), sorted by name; the name has no prefix.
func Each(scopeOf any, f func(name string, value uint64, isGauge bool)) {
	v := reflect.ValueOf(scopeOf).Elem()
	for _, fd := range planOf(v.Type()) {
		switch m := v.FieldByIndex(fd.index).Addr().Interface().(type) {
		case *Counter:
			f(fd.name, m.Value(), false)
		case *Gauge:
			f(fd.name, gauge(m), true)
		}
	}
}
