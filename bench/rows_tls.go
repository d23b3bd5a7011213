//go:build linux

package main

import (
	"context"
	"net/http"

	"detour.dev/detour/bench/load"
)

func init() {
	goals := []goal{{"cpu", []string{haproxy}, 1}, {"cpu", []string{envoy}, 0.65}}
	register(row{
		Name: "tls-1k", Title: "TLS to the upstream, keep-alive, 32 connections, 1 kB", Log: true, Quick: true,
		Metrics: []metric{cpuPerRequest, throughput}, Goals: goals,
		Start: closedLoop(work{TLS: true}, load.Config{Path: "/1k", Conns: 32}, nil),
	})
	register(row{
		Name: "tls-16k", Title: "TLS to the upstream, keep-alive, 32 connections, 16 kB", Log: true,
		Metrics: []metric{cpuPerRequest, throughput}, Goals: goals,
		Start: closedLoop(work{TLS: true}, load.Config{Path: "/16k", Conns: 32}, nil),
	})
	register(row{
		Name: "tls-full", Title: "full TLS 1.3 handshake to the upstream for each request, ECDSA P-256, X25519", Log: true,
		Metrics: []metric{cpuPerRequest, throughput},
		Goals:   []goal{{"cpu", []string{envoy}, 1.2}},
		Start:   handshakes(func(u upstreamPorts) int { return u.TLSFull }, "."),
	})
	register(row{
		Name: "tls-resumed", Title: "resumed TLS 1.3 handshake to the upstream for each request", Log: true,
		Metrics: []metric{cpuPerRequest, throughput},
		Goals:   []goal{{"cpu", []string{envoy}, 0.75}},
		Start:   handshakes(func(u upstreamPorts) int { return u.TLSResumed }, "r"),
	})
}

// handshakes measures with an upstream that closes after each answer, and says in it whether the session was resumed.
func handshakes(port func(upstreamPorts) int, resumed string) func(context.Context, *harness, subject) (session, error) {
	return func(ctx context.Context, h *harness, s subject) (session, error) {
		w := work{TLS: true, Primary: port(h.up), Backup: h.up.TLSBackup}
		start := closedLoop(w, load.Config{Path: "/1k", Conns: 32}, http.Header{"X-Resumed": {resumed}})
		return start(ctx, h, s)
	}
}
