//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"detour.dev/detour/bench/load"
)

const idleConns = 10000

func init() {
	register(row{
		Name: "idle", Title: "10,000 idle connections, each after one request", MaxRounds: 5,
		Metrics: []metric{{"kb", "memory per connection", "kB"}, {"connections", "connections", ""}},
		Goals:   []goal{{"kb", nil, 8}, {"kb", []string{envoy}, 0.5}},
		Start: func(_ context.Context, h *harness, s subject) (session, error) {
			return &idleSession{h, s.Contender}, nil
		},
	})
}

// idleSession starts a new proxy in each round: memory that was once used would hide what the next round needs.
type idleSession struct {
	h         *harness
	contender string
}

func (s *idleSession) Round(ctx context.Context) (map[string]float64, error) {
	w := work{}
	s.h.endpoints(&w)
	p, err := s.h.startProxy(ctx, s.contender, w)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := s.h.check(ctx, p, "GET", "/1k", host, nil); err != nil {
		return nil, err
	}
	// What the first requests make it allocate is not a matter of idle connections.
	c, err := s.h.fill(p, load.Config{Path: "/1k", Conns: 32})
	if err != nil {
		return nil, err
	}
	c.Warmup, c.Duration = 0, 500*time.Millisecond
	if _, err := s.h.load(ctx, "", c); err != nil {
		return nil, err
	}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	before, err := p.rss()
	if err != nil {
		return nil, err
	}
	// The load needs a file for each connection, and a little beside.
	c.Hold, c.Conns = true, min(idleConns, s.h.files-100)
	l, err := s.h.startLoad(ctx, "", c)
	if err != nil {
		return nil, err
	}
	defer l.stop()
	if _, err := l.result(60 * time.Second); err != nil {
		return nil, err
	}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	after, err := p.rss()
	if err != nil {
		return nil, err
	}
	return map[string]float64{"kb": float64(after-before) / 1e3 / float64(c.Conns), "connections": float64(c.Conns)}, nil
}

func (s *idleSession) Close() {}

// settle gives a proxy the time to let go of what it does not need while idle.
func settle(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting: %w", ctx.Err())
	case <-time.After(1500 * time.Millisecond):
		return nil
	}
}
