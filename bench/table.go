//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// columns of the table, in their order.
var columns = []string{detour, base, haproxy, nginx, envoy}

// figures are those of one variant of a row: contender → metric → a figure for each round.
type figures = map[string]map[string][]float64

// text shows one row on a terminal.
func text(r row, res *rowResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%d rounds of %s)\n", r.Name, r.Title, res.Rounds, res.Duration)
	for i, f := range []figures{res.Off, res.On} {
		if f == nil {
			continue
		}
		if i == 1 {
			b.WriteString("  with the access log:\n")
		}
		textVariant(&b, r, f)
	}
	for _, n := range append(slices.Clone(res.Notes), res.Errors...) {
		fmt.Fprintf(&b, "  ! %s\n", n)
	}
	return b.String()
}

func textVariant(b *strings.Builder, r row, f figures) {
	for _, m := range r.Metrics {
		fmt.Fprintf(b, "  %-34s", withUnit(m))
		for _, c := range columns {
			if v := f[c][m.Name]; len(v) > 0 {
				fmt.Fprintf(b, "  %s %s ±%.0f%%", c, digits(median(v)), 100*spread(v))
			}
		}
		b.WriteByte('\n')
	}
	for _, g := range r.Goals {
		fmt.Fprintf(b, "    %s %s: %s\n", g.Metric, g, judge(g, f))
	}
	first := r.Metrics[0].Name
	if v, w := f[detour][first], f[base][first]; len(v) > 0 && len(w) == len(v) {
		fmt.Fprintf(b, "    %s × detour-base: %s ±%.0f%%\n", first, digits(median(ratios(v, w))), 100*spread(ratios(v, w)))
	}
}

func withUnit(m metric) string {
	if m.Unit == "" {
		return m.Title
	}
	return m.Title + ", " + m.Unit
}

// markdown gives the table of all rows that were measured, and under which conditions.
func markdown(rows []row, all results) string {
	var b strings.Builder
	b.WriteString("| work | detour | HAProxy | nginx | Envoy | goal for detour | reached | reached with the access log |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		res := all.Rows[r.Name]
		if res == nil {
			continue
		}
		for i, m := range r.Metrics {
			if goals := goalsOf(r, m); i == 0 || len(goals) > 0 {
				line(&b, r, m, goals, res)
			}
		}
	}
	b.WriteString("\nFigures are medians with their spread, (max − min) / median; bold where it is above 10 %. " +
		"What is reached is the median of the rounds' ratios, of the same run.\n")
	for _, r := range rows {
		if res := all.Rows[r.Name]; res != nil {
			notes := append(slices.Clone(res.Notes), res.Errors...)
			if r.MaxRounds == 0 && res.Rounds < 5 {
				notes = append(notes, fmt.Sprintf("%d rounds only", res.Rounds))
			}
			for _, n := range notes {
				fmt.Fprintf(&b, "\n- %s: %s", r.Title, n)
			}
		}
	}
	b.WriteString(conditions(rows, all))
	return b.String()
}

func goalsOf(r row, m metric) (out []goal) {
	for _, g := range r.Goals {
		if g.Metric == m.Name {
			out = append(out, g)
		}
	}
	return out
}

// line writes one line of the table: one metric of a row.
func line(b *strings.Builder, r row, m metric, goals []goal, res *rowResult) {
	title := r.Title + ": " + withUnit(m)
	cells := []string{title}
	for _, c := range []string{detour, haproxy, nginx, envoy} {
		cells = append(cells, figure(res.Off[c][m.Name]))
	}
	var want, off, on []string
	for _, g := range goals {
		s := g.String()
		if len(g.Of) == 0 && m.Unit != "" {
			s += " " + m.Unit
		}
		want, off = append(want, s), append(off, judge(g, res.Off).String())
		if res.On != nil {
			on = append(on, judge(g, res.On).String())
		}
	}
	for _, c := range [][]string{want, off, on} {
		cells = append(cells, strings.Join(c, "<br>"))
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

func figure(v []float64) string {
	switch s := spread(v); {
	case len(v) == 0:
		return ""
	case len(v) == 1:
		return digits(v[0])
	case s > noisy:
		return fmt.Sprintf("%s **±%.0f %%**", digits(median(v)), 100*s)
	default:
		return fmt.Sprintf("%s ±%.0f %%", digits(median(v)), 100*s)
	}
}

// conditions says, for each set of rows that were measured under the same ones, what they were.
func conditions(rows []row, all results) string {
	var keys []string
	names := map[string][]string{}
	for _, r := range rows {
		res := all.Rows[r.Name]
		if res == nil {
			continue
		}
		var versions []string
		for _, c := range columns {
			if v := res.Versions[c]; v != "" {
				versions = append(versions, v)
			}
		}
		day, _, _ := strings.Cut(res.Date, "T")
		k := fmt.Sprintf("on %s, with %s; %s", day, res.Machine, strings.Join(versions, "; "))
		if names[k] == nil {
			keys = append(keys, k)
		}
		names[k] = append(names[k], r.Name)
	}
	var b strings.Builder
	for _, k := range keys {
		what := "All rows"
		if len(keys) > 1 {
			what = strings.Join(names[k], ", ")
		}
		fmt.Fprintf(&b, "\n\n%s: measured %s.", what, k)
	}
	return b.String() + "\n"
}

// The table stands between these lines of docs/performance.md.
const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// between replaces what stands between the two marks.
func between(page, table string) (string, error) {
	head, rest, ok := strings.Cut(page, beginMark)
	_, tail, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return "", fmt.Errorf("no %s and %s", beginMark, endMark)
	}
	return head + beginMark + "\n\n" + table + "\n" + endMark + tail, nil
}

// publish writes the table and the plots from all results that there are.
func publish(root string, all results) error {
	sortRows()
	table := markdown(rows, all)
	if err := os.WriteFile(filepath.Join(root, "bench", "results.md"), []byte(table), 0o644); err != nil {
		return err
	}
	file := filepath.Join(root, "docs", "performance.md")
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := between(string(page), table)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	return plots(filepath.Join(root, "docs", "performance"), all)
}
