//go:build linux

package main

import (
	"fmt"
	"strings"
)

// columns of the table, in their order.
var columns = []string{detour, base, haproxy, nginx, envoy}

// text shows one row on a terminal.
func text(r row, res *rowResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%d rounds of %s)\n", r.Name, r.Title, res.Rounds, res.Duration)
	for i, figures := range []map[string]map[string][]float64{res.Off, res.On} {
		if figures == nil {
			continue
		}
		if i == 1 {
			b.WriteString("  with the access log:\n")
		}
		for _, m := range r.Metrics {
			fmt.Fprintf(&b, "  %-28s", strings.TrimSpace(m.Title+" ["+m.Unit+"]"))
			for _, c := range columns {
				if v := figures[c][m.Name]; len(v) > 0 {
					fmt.Fprintf(&b, "  %s %s ±%.0f%%", c, trim3(median(v)), 100*spread(v))
				}
			}
			b.WriteByte('\n')
		}
		for _, g := range r.Goals {
			fmt.Fprintf(&b, "    %s %s: %s\n", g.Metric, g, judge(g, figures))
		}
		if v, w := figures[detour][r.Metrics[0].Name], figures[base][r.Metrics[0].Name]; len(v) > 0 && len(w) == len(v) {
			fmt.Fprintf(&b, "    %s × detour-base: %s ±%.0f%%\n", r.Metrics[0].Name, trim3(median(ratios(v, w))), 100*spread(ratios(v, w)))
		}
	}
	for _, n := range append(append([]string{}, res.Notes...), res.Errors...) {
		fmt.Fprintf(&b, "  ! %s\n", n)
	}
	return b.String()
}

func publish(string) error { return nil }
