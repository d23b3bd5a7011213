package admin

import (
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/stats"
)

// What Envoy printed is printed again, from what Envoy's JSON says.
func TestClustersAsEnvoy(t *testing.T) {
	h := handler(envoyState(t))
	_, text := ask(h, "GET", "/clusters")
	if diff := cmp.Diff(string(golden(t, "clusters.txt")), text); diff != "" {
		t.Errorf("text differs from Envoy's (-Envoy +detour):\n%s", diff)
	}
	_, body := ask(h, "GET", "/clusters?format=json")
	if diff := cmp.Diff(parse(t, string(golden(t, "clusters.json"))), parse(t, body)); diff != "" {
		t.Errorf("JSON differs from Envoy's (-Envoy +detour):\n%s", diff)
	}
	_, some := ask(h, "GET", "/clusters?filter=my")
	if strings.Contains(some, "9000") || !strings.Contains(some, "mydb.com") {
		t.Errorf("filter: %s", some)
	}
}

func TestListenersAsEnvoy(t *testing.T) {
	h := handler(envoyState(t))
	_, text := ask(h, "GET", "/listeners")
	if diff := cmp.Diff(string(golden(t, "listeners.txt")), text); diff != "" {
		t.Error(diff)
	}
	_, body := ask(h, "GET", "/listeners?format=json")
	if diff := cmp.Diff(parse(t, string(golden(t, "listeners.json"))), parse(t, body)); diff != "" {
		t.Error(diff)
	}
}

// The dump of the same resources is Envoy's own but for the bootstrap, the times, and the listener that Envoy refused.
func TestConfigDumpAsEnvoy(t *testing.T) {
	h := handler(envoyState(t))
	_, body := ask(h, "GET", "/config_dump?include_eds")
	want := parse(t, string(golden(t, "config_dump_eds.json"))).(map[string]any)["configs"].([]any)
	got := parse(t, body).(map[string]any)["configs"].([]any)
	if len(got) != len(want) {
		t.Fatalf("%d sections, want %d", len(got), len(want))
	}
	for i := range want {
		w, g := want[i].(map[string]any), got[i].(map[string]any)
		if w["@type"] != g["@type"] {
			t.Fatalf("section %d is %v, want %v", i, g["@type"], w["@type"])
		}
		if i == 0 { // the bootstrap is detour's own
			continue
		}
		if l, ok := w["dynamic_listeners"].([]any); ok {
			w["dynamic_listeners"] = l[:2] // the rest is error_state
		}
		dropTimes(w)
		dropTimes(g)
		if diff := cmp.Diff(w, g); diff != "" {
			t.Errorf("%v (-Envoy +detour):\n%s", w["@type"], diff)
		}
	}
}

func dropTimes(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "last_updated")
		for _, x := range v {
			dropTimes(x)
		}
	case []any:
		for _, x := range v {
			dropTimes(x)
		}
	}
}

// error_state has the keys that Envoy's has.
func TestErrorState(t *testing.T) {
	s := envoyState(t)
	s.rejected = []Rejected{
		{TypeURL: listenerType, Name: "bad", Reason: "cannot bind", At: applied},
		{TypeURL: clusterType, Name: "outbound|80||mydb.com", Reason: "tls: no such file", Version: "2", At: applied},
		{Name: "ServiceEntry default/mydb", Origin: "mydb.yaml:7", Reason: "spec.ports: missing", At: applied},
	}
	_, body := ask(handler(s), "GET", "/config_dump")
	want := parse(t, string(golden(t, "config_dump_eds.json"))).(map[string]any)["configs"].([]any)[3].(map[string]any)["dynamic_listeners"].([]any)[2].(map[string]any)
	configs := parse(t, body).(map[string]any)["configs"].([]any)
	bad := configs[2].(map[string]any)["dynamic_listeners"].([]any)[2].(map[string]any)
	for k := range want["error_state"].(map[string]any) {
		if _, ok := bad["error_state"].(map[string]any)[k]; !ok {
			t.Errorf("error_state has no %s: %v", k, bad)
		}
	}
	if bad["name"] != "bad" || bad["active_state"] != nil {
		t.Errorf("refused listener: %v", bad)
	}
	clusters := configs[1].(map[string]any)
	first := clusters["dynamic_active_clusters"].([]any)[0].(map[string]any)
	if e, _ := first["error_state"].(map[string]any); e == nil || e["details"] != "tls: no such file" || first["cluster"] == nil {
		t.Errorf("a cluster that serves its last good version: %v", first)
	}
	mustContain(t, body, `"mydb.yaml:7: spec.ports: missing"`, `"ServiceEntry default/mydb"`)
	if n := len(clusters["dynamic_warming_clusters"].([]any)); n != 1 {
		t.Errorf("%d dropped objects, want 1", n)
	}
}

// The answers to masks are those that Envoy 1.40 gave.
func TestMasks(t *testing.T) {
	h := handler(envoyState(t))
	for _, tt := range []struct {
		query  string
		status int
		types  string // the sections' names, joined by spaces
		word   string
	}{
		{"mask=dynamic_active_clusters,dynamic_warming_clusters,static_clusters", 200, "ClustersConfigDump", "mydb.com"},
		{"mask=dynamic_listeners,static_listeners", 200, "ListenersConfigDump", "0.0.0.0_80"},
		{"mask=dynamic_route_configs,static_route_configs", 200, "RoutesConfigDump", "virtual_hosts"},
		{"mask=dynamic_active_secrets,dynamic_warming_secrets", 200, "SecretsConfigDump", ""},
		{"mask=bootstrap", 200, "BootstrapConfigDump", "user_agent_name"},
		{"mask=bootstrap.node.user_agent_name", 200, "BootstrapConfigDump", "detour"},
		{"mask=last_updated", 200, "BootstrapConfigDump", "last_updated"},
		{"mask=foo", 400, "", "FieldMask foo could not be successfully applied to any configs."},
		{"mask=dynamic_active_clusters,dynamic_listeners", 400, "", "could not be"},
		{"mask=dynamic_active_clusters.cluster", 400, "", "could not be"},
		{"resource=bootstrap", 400, "", "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field"},
		{"resource=nope", 404, "", "nope not found in config dump"},
		{"resource=static_clusters", 200, "", "{}"},
		{"resource=dynamic_active_clusters&mask=cluster.name", 200,
			"ClustersConfigDump.DynamicCluster ClustersConfigDump.DynamicCluster", `"name": "outbound|80||mydb.com"`},
		{"resource=dynamic_active_clusters&mask=cluster.nope", 400, "", "could not be successfully used"},
		{"resource=dynamic_active_clusters&name_regex=.*mydb.*", 200, "ClustersConfigDump.DynamicCluster", "STRICT_DNS"},
		{"resource=dynamic_active_clusters&name_regex=mydb", 200, "", "{}"}, // the whole name must match
		{"resource=dynamic_endpoint_configs&include_eds", 200,
			"EndpointsConfigDump.DynamicEndpointConfig EndpointsConfigDump.DynamicEndpointConfig", "localhost"},
		{"name_regex=%5B", 400, "", "Invalid re2 regex"},
		{"name_regex=a)(b", 400, "", "Invalid re2 regex"},
	} {
		t.Run(tt.query, func(t *testing.T) {
			status, body := ask(h, "GET", "/config_dump?"+tt.query)
			if status != tt.status {
				t.Fatalf("status %d, want %d: %s", status, tt.status, body)
			}
			mustContain(t, body, tt.word)
			if status != 200 {
				return
			}
			var types []string
			configs, _ := parse(t, body).(map[string]any)["configs"].([]any)
			for _, c := range configs {
				types = append(types, strings.TrimPrefix(c.(map[string]any)["@type"].(string), "type.googleapis.com/envoy.admin.v3."))
			}
			if got := strings.Join(types, " "); got != tt.types {
				t.Errorf("sections %q, want %q", got, tt.types)
			}
		})
	}
	_, body := ask(h, "GET", "/config_dump?resource=dynamic_active_clusters&mask=cluster.name")
	if strings.Contains(body, "STRICT_DNS") {
		t.Errorf("the mask left more than the name: %s", body)
	}
}

// A private key never leaves, wherever it stands; nor does what nobody can read.
func TestNoSecrets(t *testing.T) {
	s := envoyState(t)
	key := func(x string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: x}}
	}
	tls := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{{
		CertificateChain: key("PUBLIC CHAIN"),
		PrivateKey:       key("PRIVATE ONE"),
		Password:         &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("PRIVATE TWO")}},
	}}}}
	c := s.snapshot.Clusters[0]
	c.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(tls)}}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"x": {TypeUrl: typePrefix + "nobody.knows.It", Value: []byte("PRIVATE THREE")}}
	before := c.String()
	status, body := ask(handler(s), "GET", "/config_dump")
	if status != 200 || strings.Contains(body, "PRIVATE") || strings.Contains(body, "UFJJVkFURSB") { // base64 of "PRIVATE "
		t.Fatalf("status %d: %s", status, body)
	}
	mustContain(t, body, "PUBLIC CHAIN", `"inline_string": "[redacted]"`)
	if c.String() != before {
		t.Error("the snapshot itself was changed")
	}
	if strings.Contains(body, "Authorization") {
		t.Error("the command's arguments are in the dump")
	}
	mustContain(t, body, `"curl"`)
}

func TestServerInfo(t *testing.T) {
	s := envoyState(t)
	_, body := ask(handler(s), "GET", "/server_info")
	want := parse(t, string(golden(t, "server_info.json"))).(map[string]any)
	got := parse(t, body).(map[string]any)
	for k := range want {
		if _, ok := got[k]; !ok {
			t.Errorf("no %s, which Envoy has: %s", k, body)
		}
	}
	for k := range want["command_line_options"].(map[string]any) {
		if _, ok := got["command_line_options"].(map[string]any)[k]; !ok {
			t.Errorf("no command_line_options.%s, which Envoy has", k)
		}
	}
	mustContain(t, body, `"minor_number": 1`, `"version": "v0.1.0"`)
	if got["state"] != "LIVE" {
		t.Errorf("state %v", got["state"])
	}
}

func TestHostStatsAsEnvoy(t *testing.T) {
	s := envoyState(t)
	var want, got []string
	for _, m := range s.clusters.ClusterStatuses[0].HostStatuses[0].Stats {
		want = append(want, m.GetName()+" "+m.GetType().String())
	}
	for _, m := range HostStats(&stats.Host{}) {
		got = append(got, m.GetName()+" "+m.GetType().String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-Envoy +detour):\n%s", diff)
	}
}

func TestHealthFlags(t *testing.T) {
	for want, s := range map[string]*adminv3.HostHealthStatus{
		"healthy":                                    {EdsHealthStatus: corev3.HealthStatus_HEALTHY},
		"/failed_outlier_check":                      {FailedOutlierCheck: true, EdsHealthStatus: corev3.HealthStatus_HEALTHY},
		"/failed_active_hc/failed_outlier_check":     {FailedActiveHealthCheck: true, FailedOutlierCheck: true},
		"/failed_eds_health":                         {EdsHealthStatus: corev3.HealthStatus_UNHEALTHY},
		"/degraded_eds_health/pending_active_hc":     {EdsHealthStatus: corev3.HealthStatus_DEGRADED, PendingActiveHc: true},
		"/pending_dynamic_removal/active_hc_timeout": {PendingDynamicRemoval: true, ActiveHcTimeout: true},
	} {
		if got := healthFlags(s); got != want {
			t.Errorf("%v gives %s, want %s", s, got, want)
		}
	}
}
