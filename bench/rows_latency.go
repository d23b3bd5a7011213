//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"detour.dev/detour/bench/load"
)

// latencyConns is how many connections the open loop has: more than are ever busy at half load, unless the proxy stalls.
const latencyConns = 64

func init() {
	register(row{
		Name: "latency", Title: "latency at half of HAProxy's maximum, open loop, 64 connections, 1 kB", Log: true, MinRounds: 9,
		Metrics: []metric{{"p99", "p99", "µs"}, {"p50", "p50", "µs"}, {"p999", "p99.9", "µs"}, {"max", "maximum", "µs"}, {"rate", "rate", "requests/s"}},
		Goals:   []goal{{"p99", []string{haproxy}, 1}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			rate, err := h.halfLoad(ctx)
			if err != nil {
				return nil, err
			}
			start := closedLoop(work{}, load.Config{Path: "/1k", Conns: latencyConns, Rate: rate}, nil)
			x, err := start(ctx, h, s)
			if err != nil {
				return nil, err
			}
			return &latencySession{x.(*closedSession)}, nil
		},
	})
}

// errOverload: a contender can't do the rate that the row asks for, which is a result and not a failure.
var errOverload = errors.New("can't keep up")

// halfLoad gives half of what HAProxy can do, in requests/s; measured once for a run.
func (h *harness) halfLoad(ctx context.Context) (float64, error) {
	if h.haproxyMax == 0 {
		x, err := closedLoop(work{}, load.Config{Path: "/1k", Conns: 32}, nil)(ctx, h, subject{Contender: haproxy})
		if err != nil {
			return 0, fmt.Errorf("HAProxy's maximum: %w", err)
		}
		defer x.Close()
		var seen []float64
		for range 3 {
			m, err := x.Round(ctx)
			if err != nil {
				return 0, fmt.Errorf("HAProxy's maximum: %w", err)
			}
			seen = append(seen, m["throughput"])
		}
		h.haproxyMax = median(seen)
	}
	return h.haproxyMax / 2, nil
}

type latencySession struct{ *closedSession }

func (s *latencySession) Round(ctx context.Context) (map[string]float64, error) {
	r, err := s.h.load(ctx, "", s.c)
	if err != nil {
		return nil, err
	}
	if n := float64(r.Requests) / r.Elapsed.Seconds(); n < 0.98*s.c.Rate {
		return nil, fmt.Errorf("%w: %.0f of %.0f requests a second", errOverload, n, s.c.Rate)
	}
	us := func(d interface{ Nanoseconds() int64 }) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return map[string]float64{"p50": us(r.P50), "p99": us(r.P99), "p999": us(r.P999), "max": us(r.Max), "rate": s.c.Rate}, nil
}
