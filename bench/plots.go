//go:build linux

package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colors of the contenders, told apart in print and by the colour-blind.
var colors = map[string]color.Color{
	detour:  color.RGBA{0x00, 0x72, 0xb2, 0xff},
	haproxy: color.RGBA{0xe6, 0x9f, 0x00, 0xff},
	nginx:   color.RGBA{0x00, 0x9e, 0x73, 0xff},
	envoy:   color.RGBA{0xcc, 0x79, 0xa7, 0xff},
}

var drawn = []string{detour, haproxy, nginx, envoy}

// plots draws what there are results for.
func plots(dir string, all results) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, draw := range []func(string, results) error{plotCPU, plotLatency, plotIdle} {
		if err := draw(dir, all); err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	return nil
}

// short are the rows of the CPU plot and what it calls them.
var short = []struct{ row, label string }{
	{"keepalive-1k", "1 kB"}, {"keepalive-16k", "16 kB"}, {"keepalive-1m", "1 MB"}, {"post-4k", "POST"},
	{"one-connection", "1 conn."}, {"1000-connections", "1,000 conn."}, {"new-connections", "new conn."}, {"tls-1k", "TLS 1 kB"},
	{"tls-16k", "TLS 16 kB"}, {"tls-full", "handshake"}, {"tls-resumed", "resumed"}, {"tcp", "TCP"},
}

// plotCPU draws CPU time for the same work, HAProxy's being 1.
func plotCPU(dir string, all results) error {
	var labels []string
	values := map[string]plotter.Values{}
	for _, s := range short {
		res := all.Rows[s.row]
		if res == nil || len(res.Off[haproxy]["cpu"]) == 0 {
			continue
		}
		labels = append(labels, s.label)
		for _, c := range drawn {
			v := 0.0
			if len(res.Off[c]["cpu"]) == len(res.Off[haproxy]["cpu"]) {
				v = median(ratios(res.Off[c]["cpu"], res.Off[haproxy]["cpu"]))
			}
			values[c] = append(values[c], v)
		}
	}
	if len(labels) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text = "CPU time for the same work (HAProxy = 1, less is better)"
	p.Y.Min = 0
	if err := bars(p, values, 9); err != nil {
		return err
	}
	p.NominalX(labels...)
	p.X.Min, p.X.Max = -0.6, float64(len(labels))+0.4 // room for the legend
	p.Add(horizontal(1))
	p.Y.Max *= 1.05
	return p.Save(28*vg.Centimeter, 10*vg.Centimeter, filepath.Join(dir, "cpu.svg"))
}

// bars adds a group of bars for each contender.
func bars(p *plot.Plot, values map[string]plotter.Values, width float64) error {
	for i, c := range drawn {
		if values[c] == nil {
			continue
		}
		b, err := plotter.NewBarChart(values[c], vg.Points(width))
		if err != nil {
			return err
		}
		b.Color, b.LineStyle.Width = colors[c], 0
		b.Offset = vg.Points(width * (float64(i) - float64(len(drawn)-1)/2))
		p.Add(b)
		p.Legend.Add(titles[c], b)
	}
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	return nil
}

func horizontal(y float64) *plotter.Function {
	f := plotter.NewFunction(func(float64) float64 { return y })
	f.Color, f.Dashes = color.Gray{0x60}, []vg.Length{vg.Points(3), vg.Points(3)}
	return f
}

// plotLatency draws percentiles of the latency at the fixed rate.
func plotLatency(dir string, all results) error {
	res := all.Rows["latency"]
	if res == nil {
		return nil
	}
	steps := []struct{ metric, label string }{{"p50", "50 %"}, {"p99", "99 %"}, {"p999", "99.9 %"}, {"max", "all"}}
	p := plot.New()
	p.Title.Text = "Latency at half of HAProxy's maximum: so many of the answers came within (median round)"
	p.Y.Label.Text = "ms"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	low, high := math.Inf(1), 0.0
	for _, c := range drawn {
		var xys plotter.XYs
		for i, s := range steps {
			if v := res.Off[c][s.metric]; len(v) > 0 {
				xys = append(xys, plotter.XY{X: float64(i), Y: median(v) / 1e3})
				low, high = min(low, median(v)/1e3), max(high, median(v)/1e3)
			}
		}
		if len(xys) == 0 {
			continue
		}
		l, points, err := plotter.NewLinePoints(xys)
		if err != nil {
			return err
		}
		l.Color, points.Color, l.Width = colors[c], colors[c], vg.Points(2)
		p.Add(l, points)
		p.Legend.Add(titles[c], l)
	}
	if high == 0 {
		return nil
	}
	p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(3)
	p.NominalX(steps[0].label, steps[1].label, steps[2].label, steps[3].label)
	p.X.Min, p.X.Max = -0.3, float64(len(steps))-0.7
	return p.Save(18*vg.Centimeter, 10*vg.Centimeter, filepath.Join(dir, "latency.svg"))
}

// plotIdle draws the memory of an idle connection.
func plotIdle(dir string, all results) error {
	res := all.Rows["idle"]
	if res == nil {
		return nil
	}
	p := plot.New()
	p.Title.Text = "Memory of an idle connection, kB (dashed: the goal)"
	p.Y.Min = 0
	var labels []string
	for _, c := range drawn {
		v := res.Off[c]["kb"]
		if len(v) == 0 {
			continue
		}
		b, err := plotter.NewBarChart(plotter.Values{median(v)}, vg.Points(40))
		if err != nil {
			return err
		}
		b.Color, b.LineStyle.Width, b.XMin = colors[c], 0, float64(len(labels))
		p.Add(b)
		labels = append(labels, titles[c])
	}
	if len(labels) == 0 {
		return nil
	}
	p.NominalX(labels...)
	p.X.Min, p.X.Max = -0.6, float64(len(labels))-0.4
	p.Add(horizontal(8))
	p.Y.Max *= 1.05
	return p.Save(14*vg.Centimeter, 9*vg.Centimeter, filepath.Join(dir, "idle.svg"))
}
