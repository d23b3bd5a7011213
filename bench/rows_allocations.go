//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"detour.dev/detour/bench/load"
)

const allocationRequests = 1_000_000

func init() {
	register(row{
		Name: "allocations", Title: "allocations of the running proxy over 1,000,000 requests, 32 connections, 1 kB", MaxRounds: 1, Log: true,
		Contenders: []string{detour},
		Metrics:    []metric{{"allocations", "allocations a request", ""}, {"requests", "requests", ""}},
		Goals:      []goal{{"allocations", nil, 0.01}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			x, err := closedLoop(work{}, load.Config{Path: "/1k", Conns: 32}, nil)(ctx, h, s)
			if err != nil {
				return nil, err
			}
			return &allocationSession{x.(*closedSession)}, nil
		},
	})
}

type allocationSession struct{ *closedSession }

// Round counts from when the first requests have made what is kept. What the asking itself allocates is taken off.
func (s *allocationSession) Round(ctx context.Context) (map[string]float64, error) {
	c := s.c
	c.Warmup, c.Duration = 0, 2*time.Second
	if _, err := s.h.load(ctx, "", c); err != nil {
		return nil, err
	}
	var counts [2]float64
	for i := range counts {
		var err error
		if counts[i], err = s.count(ctx); err != nil {
			return nil, err
		}
	}
	asking, requests := counts[1]-counts[0], 0.0
	for requests < allocationRequests {
		r, err := s.h.load(ctx, "", c)
		if err != nil {
			return nil, err
		}
		requests += float64(r.Requests)
	}
	end, err := s.count(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"allocations": max(0, end-counts[1]-asking) / requests, "requests": requests}, nil
}

// count asks the proxy how many objects it has allocated since its start.
func (s *allocationSession) count(ctx context.Context) (float64, error) {
	const name = "server.memory_allocations"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.p.admin+"/stats?filter=^"+name+"$", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	v, ok := strings.CutPrefix(strings.TrimSpace(string(b)), name+": ")
	if !ok {
		return 0, fmt.Errorf("the proxy's statistics have no %s: %.100q", name, b)
	}
	return strconv.ParseFloat(v, 64)
}
