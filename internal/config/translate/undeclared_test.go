package translate_test

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

// TestLookupCluster: what istiod 1.31 made of the same MeshConfig, without and with tls.
func TestLookupCluster(t *testing.T) {
	const (
		head = `{"name": "AllowAnyDynamicDNSCluster", "alt_stat_name": "AllowAnyDynamicDNSCluster;", "connect_timeout": "10s", "lb_policy": "CLUSTER_PROVIDED",
			"circuit_breakers": {"thresholds": [{"max_connections": 4294967295, "max_pending_requests": 4294967295, "max_requests": 4294967295, "max_retries": 4294967295}]},
			"cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": {
				"@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
				"dns_cache_config": {"name": "allow_any_dfp_dns_cache", "dns_lookup_family": "V4_ONLY", "max_hosts": 1024}`
		options = `"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
			"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", `
		socket = `"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
			"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			"common_tls_context": {"tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
				"combined_validation_context": {"default_validation_context": {}, "validation_context_sds_secret_config": {"name": "file-root:system",
					"sds_config": {"resource_api_version": "V3", "api_config_source": {"api_type": "GRPC", "transport_api_version": "V3",
						"grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}], "set_node_on_first_message_only": true}}}}}}}`
	)
	for mesh, want := range map[string]string{
		"{mode: ALLOW_ANY_DYNAMIC_DNS}": head + `, "allow_insecure_cluster_options": true}}, ` + options +
			`"common_http_protocol_options": {"idle_timeout": "300s"}, "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}}}`,
		"{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}": head + `}}, ` + options +
			`"upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true}, "explicit_http_config": {"http_protocol_options": {}}}}, ` + socket + `}`,
		"{mode: ALLOW_ANY, tls: {mode: SIMPLE}}": "",
	} {
		got := lookupClusterOf(t, mesh, true)
		if want == "" {
			if got != nil {
				t.Errorf("%s: %v", mesh, got)
			}
			continue
		}
		var c clusterv3.Cluster
		if err := protojson.Unmarshal([]byte(want), &c); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, &c) {
			t.Errorf("%s: got %s\nwant %s", mesh, protojson.Format(got), protojson.Format(&c))
		}
	}
}

// TestLookupWithheld: TLS that asks for certificates of a mesh or of Kubernetes leaves no plain text out.
func TestLookupWithheld(t *testing.T) {
	for _, tls := range []string{"{mode: ISTIO_MUTUAL}", "{mode: SIMPLE, credentialName: secret}"} {
		c := lookupClusterOf(t, "{mode: ALLOW_ANY_DYNAMIC_DNS, tls: "+tls+"}", false)
		if c.GetType() != clusterv3.Cluster_STATIC || c.LoadAssignment != nil || c.ClusterDiscoveryType == nil {
			t.Errorf("%s: %v", tls, c)
		}
	}
}

func lookupClusterOf(t *testing.T, policy string, istio bool) *clusterv3.Cluster {
	t.Helper()
	mesh, issues := decode.Mesh("mesh.yaml", []byte("outboundTrafficPolicy: "+policy))
	if mesh == nil {
		t.Fatal(issues)
	}
	g := inEast()
	g.CompatIstio = istio
	s, _ := translate.Translate(config.NewSet(nil, nil, nil).WithMesh(mesh), g)
	for _, c := range s.Clusters {
		if c.Name == xds.LookupCluster {
			return c
		}
	}
	return nil
}
