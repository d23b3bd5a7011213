//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// row is one line of the table: one kind of work, measured for every contender.
type row struct {
	Name  string // as --rows has it
	Title string
	// Metrics are what a round gives, the first is the one that the row is about.
	Metrics []metric
	Goals   []goal
	// Contenders that can do this work; empty: all.
	Contenders []string
	// Log says that the row is measured a second time with every contender's access log written to a file.
	Log bool
	// Quick says that --quick has this row.
	Quick bool
	// MinRounds, where the row needs more than --rounds says; MaxRounds where it needs fewer. 0: no such limit.
	MinRounds, MaxRounds int
	// Start prepares the row for one contender. Sessions of all contenders exist at the same time; rounds alternate.
	Start func(ctx context.Context, h *harness, s subject) (session, error)
}

// subject is what a session measures.
type subject struct {
	Contender string
	Log       bool // the access log goes to a file
}

// session measures one contender in one row.
type session interface {
	// Round measures once and gives a figure for each of the row's metrics (one may be missing). It must fail if any
	// answer was wrong.
	Round(ctx context.Context) (map[string]float64, error)
	// Close ends what the session started.
	Close()
}

// metric is one figure of a round. Smaller is better, unless there is no goal on it.
type metric struct {
	Name  string // key in Round's result
	Title string // after the row's title where the row has several
	Unit  string
}

// goal is what detour must reach in one metric.
type goal struct {
	Metric string
	// Of are the peers that it is measured against: the best of them in each round counts. None: Max is absolute.
	Of  []string
	Max float64 // factor on the peer's figure, or a value in the metric's unit
}

// The contenders' names, as --contenders has them.
const (
	detour  = "detour"
	base    = "detour-base" // a second detour binary, to compare two versions
	haproxy = "haproxy"
	nginx   = "nginx"
	envoy   = "envoy"
)

var titles = map[string]string{detour: "detour", base: "detour (base)", haproxy: "HAProxy", nginx: "nginx", envoy: "Envoy"}

func (g goal) String() string {
	if len(g.Of) == 0 {
		return fmt.Sprintf("≤ %s", trim(g.Max))
	}
	names := make([]string, len(g.Of))
	for i, o := range g.Of {
		names[i] = titles[o]
	}
	if len(names) == 1 {
		return fmt.Sprintf("≤ %s × %s", trim(g.Max), names[0])
	}
	return fmt.Sprintf("≤ %s × the best of %s", trim(g.Max), strings.Join(names, ", "))
}

// trim prints a figure without needless zeros.
func trim(f float64) string {
	s := fmt.Sprintf("%.2f", f)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

var rows []row

// register adds a row. Rows are shown in the order of Order, then of registration.
func register(r row) {
	if r.Name == "" || len(r.Metrics) == 0 || r.Start == nil {
		panic("bench: a row lacks its name, metrics or Start: " + r.Name)
	}
	for _, g := range r.Goals {
		if !slices.ContainsFunc(r.Metrics, func(m metric) bool { return m.Name == g.Metric }) {
			panic("bench: row " + r.Name + " has a goal on " + g.Metric + ", which it does not measure")
		}
	}
	rows = append(rows, r)
}

// order is that of the table.
var order = []string{
	"keepalive-1k", "keepalive-16k", "keepalive-1m", "post-4k", "one-connection", "1000-connections", "new-connections",
	"tls-1k", "tls-16k", "tls-full", "tls-resumed", "tcp", "latency", "idle", "clusters", "killed", "dropped", "access-log",
	"allocations", "threads",
}

func sortRows() {
	place := func(r row) int {
		if i := slices.Index(order, r.Name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return place(a) - place(b) })
}
