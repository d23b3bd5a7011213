//go:build linux

package main

import (
	"context"

	"detour.dev/detour/bench/load"
)

// Rows that hold a contender against itself: the same work in two settings, in turns.

func init() {
	keepalive := load.Config{Path: "/1k", Conns: 32}
	register(row{
		Name: "access-log", Title: "access log to a file, against none: 32 connections, 1 kB",
		Metrics: []metric{{"ratio", "CPU per request, ratio", ""}, {"one", "without", "µs"}, {"two", "with", "µs"}},
		Goals:   []goal{{"ratio", nil, 1.10}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			return h.pair(ctx, s, setting{work{}, keepalive, ""}, setting{work{Access: true}, keepalive, ""})
		},
	})
	register(row{
		Name: "threads", Title: "2 threads against 1, on both CPUs beside load and upstream, a quarter of HAProxy's maximum, 1 kB",
		Metrics: []metric{{"ratio", "CPU per request, ratio", ""}, {"one", "with 1 thread", "µs"}, {"two", "with 2 threads", "µs"}},
		Goals:   []goal{{"ratio", nil, 1.15}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			rate, err := h.halfLoad(ctx)
			if err != nil {
				return nil, err
			}
			both, c := h.proxyCPU+","+h.loadCPU, keepalive
			c.Rate = rate / 2
			return h.pair(ctx, s, setting{work{CPUs: both}, c, both}, setting{work{CPUs: both, Threads: 2}, c, both})
		},
	})
}

// setting is one side of a pair.
type setting struct {
	work work
	load load.Config
	cpus string // the load's; empty: its own CPU
}

// pair gives a session that divides the CPU per request in setting b by that in setting a.
func (h *harness) pair(ctx context.Context, s subject, a, b setting) (session, error) {
	out := &pairSession{}
	for i, side := range []setting{a, b} {
		x, err := closedLoop(side.work, side.load, nil)(ctx, h, subject{Contender: s.Contender, Log: side.work.Access})
		if err != nil {
			out.Close()
			return nil, err
		}
		out.sides[i] = x.(*closedSession)
		out.sides[i].cpus = side.cpus
	}
	return out, nil
}

type pairSession struct{ sides [2]*closedSession }

func (s *pairSession) Round(ctx context.Context) (map[string]float64, error) {
	var cpu [2]float64
	for i, x := range s.sides {
		m, err := x.Round(ctx)
		if err != nil {
			return nil, err
		}
		cpu[i] = m["cpu"]
	}
	return map[string]float64{"ratio": cpu[1] / cpu[0], "one": cpu[0], "two": cpu[1]}, nil
}

func (s *pairSession) Close() {
	for _, x := range s.sides {
		if x != nil {
			x.Close()
		}
	}
}
