//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"detour.dev/detour/bench/load"
)

// latencyConns is how many connections the open loop has: more than are ever busy at half load, unless the proxy stalls.
const latencyConns = 64

func init() {
	register(row{
		Name: "latency", Title: "latency at half of HAProxy's maximum, open loop, 64 connections, 1 kB", Log: true, MinRounds: 15,
		Metrics: []metric{{"p99", "p99", "µs"}, {"p50", "p50", "µs"}, {"p999", "p99.9", "µs"}, {"max", "maximum", "µs"}, {"rate", "rate", "requests/s"}},
		Goals:   []goal{{"p99", []string{haproxy}, 1}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			rate, err := h.halfLoad(ctx)
			if err != nil {
				return nil, err
			}
			// The answers' content is checked here, with the usual upstream. Under load the generator is the upstream.
			x, err := closedLoop(work{}, load.Config{Path: "/1k", Conns: latencyConns}, nil)(ctx, h, s)
			if err != nil {
				return nil, err
			}
			x.Close()
			return &latencySession{h, s, rate}, nil
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

// latencySession starts a new proxy in each round, since the generator is its primary endpoint only while it runs.
type latencySession struct {
	h    *harness
	s    subject
	rate float64
}

func (s *latencySession) Round(ctx context.Context) (map[string]float64, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	p, err := s.h.startProxy(ctx, s.s.Contender, work{Primary: ports[0], Backup: s.h.up.Backup, Access: s.s.Log})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	c, err := s.h.fill(p, load.Config{Path: "/1k", Conns: latencyConns, Rate: s.rate, Serve: addr(ports[0])})
	if err != nil {
		return nil, err
	}
	c.Warmup = max(c.Warmup, 500*time.Millisecond) // a new process
	r, err := s.h.load(ctx, "", c)
	if err != nil {
		return nil, err
	}
	if n := float64(r.Requests) / r.Elapsed.Seconds(); n < 0.98*s.rate {
		return nil, fmt.Errorf("%w: %.0f of %.0f requests a second", errOverload, n, s.rate)
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return map[string]float64{"p50": us(r.P50), "p99": us(r.P99), "p999": us(r.P999), "max": us(r.Max), "rate": s.rate}, nil
}

func (s *latencySession) Close() {}
