//go:build linux

package main

import (
	"context"
	"net/http"

	"detour.dev/detour/bench/load"
)

var (
	cpuPerRequest = metric{"cpu", "CPU per request", "µs"}
	cpuPerGB      = metric{"cpu", "CPU per GB", "s"}
	throughput    = metric{"throughput", "throughput", "requests/s"}
	gigabytes     = metric{"throughput", "throughput", "GB/s"}
)

func init() {
	register(row{
		Name: "keepalive-1k", Title: "HTTP/1.1 keep-alive, 32 connections, 1 kB", Log: true, Quick: true,
		Metrics: []metric{cpuPerRequest, throughput},
		Goals:   []goal{{"cpu", []string{haproxy}, 1}, {"cpu", []string{envoy}, 0.55}},
		Start:   closedLoop(work{}, load.Config{Path: "/1k", Conns: 32}, nil),
	})
	register(row{
		Name: "keepalive-16k", Title: "256 connections, 16 kB", Log: true, Quick: true,
		Metrics: []metric{cpuPerRequest, throughput},
		Goals:   []goal{{"cpu", []string{haproxy}, 0.95}, {"cpu", []string{envoy}, 0.42}},
		Start:   closedLoop(work{}, load.Config{Path: "/16k", Conns: 256}, nil),
	})
	register(row{
		Name: "keepalive-1m", Title: "8 connections, 1 MB bodies", Log: true, Quick: true,
		Metrics: []metric{cpuPerGB, gigabytes},
		Goals:   []goal{{"cpu", []string{haproxy, nginx}, 0.9}},
		Start:   closedLoop(work{}, load.Config{Path: "/1m", Conns: 8}, nil),
	})
	atMost := []goal{{"cpu", []string{haproxy}, 1.05}}
	register(row{
		Name: "post-4k", Title: "POST 4 kB bodies, 32 connections", Log: true,
		Metrics: []metric{cpuPerRequest, throughput}, Goals: atMost,
		Start: closedLoop(work{}, load.Config{Method: "POST", Path: "/1k", Body: 4096, Conns: 32}, nil),
	})
	register(row{
		Name: "one-connection", Title: "1 connection, 1 kB", Log: true,
		Metrics: []metric{cpuPerRequest, throughput}, Goals: atMost,
		Start: closedLoop(work{}, load.Config{Path: "/1k", Conns: 1}, nil),
	})
	register(row{
		Name: "1000-connections", Title: "1,000 connections, 1 kB", Log: true,
		Metrics: []metric{cpuPerRequest, throughput}, Goals: atMost,
		Start: closedLoop(work{}, load.Config{Path: "/1k", Conns: 1000}, nil),
	})
	register(row{
		Name: "new-connections", Title: "new connection for each request, 32 at a time, 1 kB", Log: true, Quick: true,
		Metrics: []metric{cpuPerRequest, throughput},
		Goals:   []goal{{"cpu", []string{haproxy}, 1.2}},
		Start:   closedLoop(work{}, load.Config{Path: "/1k", Conns: 32, Close: true}, nil),
	})
	register(row{
		Name: "tcp", Title: "TCP proxying, 8 connections, 16 MB answers", Quick: true,
		Metrics: []metric{cpuPerGB, gigabytes},
		Goals:   []goal{{"cpu", []string{haproxy, nginx, envoy}, 0.6}},
		Start:   closedLoop(work{TCP: true}, load.Config{Path: "/16m", Conns: 8}, nil),
	})
}

// closedLoop gives a row's Start: one proxy with one thread, connections that are always busy.
func closedLoop(w work, c load.Config, header http.Header) func(context.Context, *harness, subject) (session, error) {
	return func(ctx context.Context, h *harness, s subject) (session, error) {
		w, c := w, c
		h.endpoints(&w)
		w.Access = s.Log
		p, err := h.startProxy(ctx, s.Contender, w)
		if err != nil {
			return nil, err
		}
		if c.Method == "" {
			c.Method = "GET"
		}
		if header == nil {
			header = http.Header{"X-Endpoint": {"primary"}}
		}
		// Several times: a resumed session needs one before it.
		for range 3 {
			if err := h.check(ctx, p, c.Method, c.Path, host, nil); err != nil {
				p.stop()
				return nil, err
			}
		}
		if err := h.check(ctx, p, c.Method, c.Path, host, header); err != nil {
			p.stop()
			return nil, err
		}
		c, err = h.fill(p, c)
		if err != nil {
			p.stop()
			return nil, err
		}
		return &closedSession{h: h, p: p, c: c}, nil
	}
}

// endpoints sets a work's endpoints unless it has some.
func (h *harness) endpoints(w *work) {
	switch {
	case w.Primary != 0:
	case w.TLS:
		w.Primary, w.Backup = h.up.TLSPrimary, h.up.TLSBackup
	default:
		w.Primary, w.Backup = h.up.Primary, h.up.Backup
	}
}

// fill completes a load's configuration for a proxy.
func (h *harness) fill(p *proxy, c load.Config) (load.Config, error) {
	pids, err := p.pids()
	c.Addr, c.Host, c.Tunnel, c.PIDs = p.addr, host, p.tunnel, pids
	c.Status, c.Length = 200, h.answers[c.Path].length
	c.Warmup, c.Duration = h.opts.warmup, h.opts.duration
	return c, err
}

type closedSession struct {
	h    *harness
	p    *proxy
	c    load.Config
	cpus string // the load's; empty: its own CPU
}

func (s *closedSession) Round(ctx context.Context) (map[string]float64, error) {
	make := s.h.load
	if s.h.opts.wrk && s.c.Method == "GET" && s.c.Tunnel == "" {
		make = func(ctx context.Context, _ string, c load.Config) (load.Result, error) { return s.h.wrk(ctx, c) }
	}
	r, err := make(ctx, s.cpus, s.c)
	if err != nil {
		return nil, err
	}
	m := map[string]float64{
		"cpu":        float64(r.CPU.Nanoseconds()) / 1e3 / float64(r.Requests),
		"throughput": float64(r.Requests) / r.Elapsed.Seconds(),
	}
	if s.c.Length >= 1<<20 {
		m["cpu"] = r.CPU.Seconds() / (float64(r.Bytes) / 1e9)
		m["throughput"] = float64(r.Bytes) / 1e9 / r.Elapsed.Seconds()
	}
	return m, nil
}

func (s *closedSession) Close() { s.p.stop() }
