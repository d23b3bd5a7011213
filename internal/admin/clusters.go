package admin

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"sort"
	"strconv"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"detour.dev/detour/internal/stats"
)

// HostStats gives a host's statistics in the order and form of Envoy's /clusters: counters, then gauges.
func HostStats(h *stats.Host) []*adminv3.SimpleMetric {
	var counters, gauges []*adminv3.SimpleMetric
	stats.Each(h, func(name string, value uint64, isGauge bool) {
		m := &adminv3.SimpleMetric{Name: name, Value: value}
		if isGauge {
			m.Type = adminv3.SimpleMetric_GAUGE
			gauges = append(gauges, m)
			return
		}
		counters = append(counters, m)
	})
	return append(counters, gauges...)
}

func (h *Handler) clusters(w http.ResponseWriter, r *http.Request) {
	filter, ok := regexParam(w, r, "filter", "%s")
	if !ok {
		return
	}
	all := h.state.Clusters()
	if filter != nil {
		var kept []*adminv3.ClusterStatus
		for _, c := range all.GetClusterStatuses() {
			if filter.MatchString(c.GetName()) {
				kept = append(kept, c)
			}
		}
		all = &adminv3.Clusters{ClusterStatuses: kept}
	}
	if r.URL.Query().Get("format") == "json" {
		writeProto(w, all, false)
		return
	}
	outlier := map[string]bool{}
	if s, _ := h.state.Snapshot(); s != nil {
		for _, c := range s.Clusters {
			outlier[c.GetName()] = c.GetOutlierDetection() != nil
		}
	}
	var b bytes.Buffer
	for _, c := range all.GetClusterStatuses() {
		clusterText(&b, c, outlier[c.GetName()])
	}
	plain(w, b.String())
}

// clusterText writes a cluster in Envoy's text form (source/server/admin/clusters_handler.cc says which lines there are).
func clusterText(b *bytes.Buffer, c *adminv3.ClusterStatus, outlier bool) {
	name := c.GetName()
	line := func(key string, value any) { fmt.Fprintf(b, "%s::%s::%v\n", name, key, value) }
	observability := c.GetObservabilityName()
	if observability == "" {
		observability = name
	}
	line("observability_name", observability)
	if outlier {
		line("outlier::success_rate_average", "-1") // detour ejects by no success rate, so there is no average
		line("outlier::success_rate_ejection_threshold", percent(c.GetSuccessRateEjectionThreshold()))
		line("outlier::local_origin_success_rate_average", "-1")
		line("outlier::local_origin_success_rate_ejection_threshold", percent(c.GetLocalOriginSuccessRateEjectionThreshold()))
	}
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		p := "default_priority::"
		if t.GetPriority() == corev3.RoutingPriority_HIGH {
			p = "high_priority::"
		}
		line(p+"max_connections", t.GetMaxConnections().GetValue())
		line(p+"max_pending_requests", t.GetMaxPendingRequests().GetValue())
		line(p+"max_requests", t.GetMaxRequests().GetValue())
		line(p+"max_retries", t.GetMaxRetries().GetValue())
	}
	line("added_via_api", c.GetAddedViaApi())
	for _, host := range c.GetHostStatuses() {
		hostText(b, name+"::"+AddressString(host.GetAddress()), host)
	}
}

func hostText(b *bytes.Buffer, prefix string, host *adminv3.HostStatus) {
	line := func(key string, value any) { fmt.Fprintf(b, "%s::%s::%v\n", prefix, key, value) }
	metrics := append([]*adminv3.SimpleMetric(nil), host.GetStats()...)
	sort.Slice(metrics, func(i, j int) bool { return metrics[i].GetName() < metrics[j].GetName() })
	for _, m := range metrics {
		line(m.GetName(), m.GetValue())
	}
	line("hostname", host.GetHostname())
	line("health_flags", healthFlags(host.GetHealthStatus()))
	line("weight", host.GetWeight())
	line("region", host.GetLocality().GetRegion())
	line("zone", host.GetLocality().GetZone())
	line("sub_zone", host.GetLocality().GetSubZone())
	line("canary", false)
	line("priority", host.GetPriority())
	line("success_rate", percent(host.GetSuccessRate()))
	line("local_origin_success_rate", percent(host.GetLocalOriginSuccessRate()))
}

// healthFlags gives "healthy" or the flags that are not (envoy/upstream/upstream.h, HEALTH_FLAG_ENUM_VALUES).
func healthFlags(s *adminv3.HostHealthStatus) string {
	eds := s.GetEdsHealthStatus()
	text := ""
	for _, f := range []struct {
		set  bool
		name string
	}{
		{s.GetFailedActiveHealthCheck(), "/failed_active_hc"},
		{s.GetFailedOutlierCheck(), "/failed_outlier_check"},
		{eds == corev3.HealthStatus_UNHEALTHY, "/failed_eds_health"},
		{s.GetFailedActiveDegradedCheck(), "/degraded_active_hc"},
		{eds == corev3.HealthStatus_DEGRADED, "/degraded_eds_health"},
		{s.GetPendingDynamicRemoval(), "/pending_dynamic_removal"},
		{s.GetPendingActiveHc(), "/pending_active_hc"},
		{s.GetExcludedViaImmediateHcFail(), "/excluded_via_immediate_hc_fail"},
		{s.GetActiveHcTimeout(), "/active_hc_timeout"},
		{eds == corev3.HealthStatus_DRAINING, "/eds_status_draining"},
	} {
		if f.set {
			text += f.name
		}
	}
	if text == "" {
		return "healthy"
	}
	return text
}

func percent(p *typev3.Percent) string {
	if p == nil {
		return "-1"
	}
	return strconv.FormatFloat(p.GetValue(), 'g', -1, 64)
}

// AddressString gives IP:PORT, [IP]:PORT or a socket's path.
func AddressString(a *corev3.Address) string {
	if s := a.GetSocketAddress(); s != nil {
		return net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
	}
	return a.GetPipe().GetPath()
}

func (h *Handler) listeners(w http.ResponseWriter, r *http.Request) {
	all := h.state.Listeners()
	if r.URL.Query().Get("format") == "json" {
		writeProto(w, all, false)
		return
	}
	var b bytes.Buffer
	for _, l := range all.GetListenerStatuses() {
		fmt.Fprintf(&b, "%s::%s\n", l.GetName(), AddressString(l.GetLocalAddress()))
	}
	plain(w, b.String())
}
