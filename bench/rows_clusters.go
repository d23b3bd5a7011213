//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"detour.dev/detour/bench/load"
)

const manyClusters = 5000

func init() {
	register(row{
		Name: "clusters", Title: "5,000 clusters × 4 endpoints", Contenders: []string{detour, envoy},
		Metrics: []metric{
			{"start", "start to the first good answer", "s"}, {"rss", "memory after it", "MB"},
			{"ratio", "CPU per request against one cluster, ratio", ""},
		},
		Goals: []goal{{"start", []string{envoy}, 0.5}, {"rss", []string{envoy}, 0.5}, {"ratio", nil, 1.03}},
		Start: func(ctx context.Context, h *harness, s subject) (session, error) {
			one, err := h.clusters(ctx, s.Contender, 1)
			if err != nil {
				return nil, err
			}
			many, err := h.clusters(ctx, s.Contender, manyClusters)
			if err != nil {
				return nil, err
			}
			return &clustersSession{h, s.Contender, one, many}, nil
		},
	})
}

// clusters writes the configuration of n hosts, and what Envoy needs to be the same.
func (h *harness) clusters(ctx context.Context, contender string, n int) (file string, err error) {
	dir, err := os.MkdirTemp(h.dir, "clusters-")
	if err != nil {
		return "", err
	}
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("h%d.test", i))
	}
	hosts[n/2] = host
	data := struct {
		Hosts []string
		Port  int
	}{hosts, h.up.Primary}
	yaml, err := h.render("clusters.yaml", dir, data)
	if err != nil || contender != envoy {
		return yaml, err
	}
	cmd := exec.CommandContext(ctx, h.tool(detour), "translate", "-f", yaml, "--locality", "us-east1")
	snapshot, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("detour translate: %w", err)
	}
	static, err := staticEnvoy(snapshot)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "envoy.json")
	return file, os.WriteFile(file, static, 0o644)
}

// staticEnvoy makes a static Envoy configuration of a translated snapshot: the clusters with their endpoints put inside (an
// EDS file would be read once for each of them), the routes in one connection manager. Port and admin port are PORT and
// ADMIN, filled in for each start.
func staticEnvoy(snapshot []byte) ([]byte, error) {
	var in struct {
		Clusters  []map[string]any
		Endpoints []map[string]any
		Routes    []map[string]any
	}
	if err := json.Unmarshal(snapshot, &in); err != nil {
		return nil, fmt.Errorf("detour translate: %w", err)
	}
	endpoints := map[any]any{}
	for _, e := range in.Endpoints {
		endpoints[e["cluster_name"]] = e
	}
	for _, c := range in.Clusters {
		if c["type"] == "EDS" {
			c["type"] = "STATIC"
			c["load_assignment"] = endpoints[c["name"]]
			delete(c, "eds_cluster_config")
		}
	}
	var routes any
	for _, r := range in.Routes {
		if r["name"] == "80" {
			routes = r
		}
	}
	if routes == nil {
		return nil, fmt.Errorf("detour translate: no routes of port 80")
	}
	type m = map[string]any
	socket := func(port string) m {
		return m{"socket_address": m{"address": "127.0.0.1", "port_value": port}}
	}
	manager := m{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "clients", "generate_request_id": false, "server_header_transformation": "PASS_THROUGH",
		"route_config": routes,
		"http_filters": []m{{"name": "envoy.filters.http.router", "typed_config": m{
			"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": true}}},
	}
	listener := m{"name": "clients", "address": socket("PORT"), "filter_chains": []m{{"filters": []m{
		{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}}}}}
	return json.Marshal(m{
		"admin":            m{"address": socket("ADMIN")},
		"static_resources": m{"clusters": in.Clusters, "listeners": []m{listener}},
	})
}

type clustersSession struct {
	h         *harness
	contender string
	one, many string
}

func (s *clustersSession) Round(ctx context.Context) (map[string]float64, error) {
	begin := time.Now()
	many, err := s.h.startProxy(ctx, s.contender, work{Config: s.many})
	if err != nil {
		return nil, err
	}
	defer many.stop()
	if err := s.h.check(ctx, many, "GET", "/1k", host, nil); err != nil {
		return nil, err
	}
	m := map[string]float64{"start": time.Since(begin).Seconds()}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	rss, err := many.rss()
	if err != nil {
		return nil, err
	}
	m["rss"] = float64(rss) / 1e6
	one, err := s.h.startProxy(ctx, s.contender, work{Config: s.one})
	if err != nil {
		return nil, err
	}
	defer one.stop()
	m["ratio"], err = s.compare(ctx, one, many)
	return m, err
}

// compare gives the CPU per request with many clusters by that with one, in turns.
func (s *clustersSession) compare(ctx context.Context, one, many *proxy) (float64, error) {
	var cpu [2][]float64
	for range 3 {
		for i, p := range []*proxy{one, many} {
			c, err := s.h.fill(p, load.Config{Path: "/1k", Conns: 32})
			if err != nil {
				return 0, err
			}
			c.Duration /= 3
			m, err := (&closedSession{h: s.h, p: p, c: c}).Round(ctx)
			if err != nil {
				return 0, err
			}
			cpu[i] = append(cpu[i], m["cpu"])
		}
	}
	return median(ratios(cpu[1], cpu[0])), nil
}

func (s *clustersSession) Close() {}
