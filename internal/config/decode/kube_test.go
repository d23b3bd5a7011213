package decode

import (
	"slices"
	"testing"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// service reads a Kubernetes Service with one port and more in its metadata and spec.
func service(t *testing.T, metadata, port, spec string) (*config.Object, *networking.ServiceEntry) {
	t.Helper()
	objects, issues := File("f", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: a"+metadata+"}\nspec: {clusterIP: 10.0.0.1, ports: [{"+port+"}]"+spec+"}\n"))
	if len(issues) != 0 || len(objects) != 1 {
		t.Fatalf("%d objects, %v", len(objects), issues)
	}
	return objects[0], objects[0].Spec.(*networking.ServiceEntry)
}

// TestKubeProtocol: what istiod reads from a port (pkg/config/kube: ConvertProtocol).
func TestKubeProtocol(t *testing.T) {
	for port, want := range map[string]string{
		"port: 80":                                             "",
		"port: 80, name: web":                                  "",
		"port: 80, name: http":                                 "HTTP",
		"port: 80, name: HTTP2-x":                              "HTTP2",
		"port: 80, name: grpc-web-x":                           "GRPC-WEB",
		"port: 80, name: grpc-x":                               "GRPC",
		"port: 80, name: http, protocol: UDP":                  "UDP",
		"port: 53, name: dns":                                  "TCP",
		"port: 25":                                             "TCP",
		"port: 3306, name: http":                               "HTTP",
		"port: 80, name: http, appProtocol: tcp":               "TCP",
		"port: 80, name: http, appProtocol: https-x":           "HTTPS",
		"port: 80, name: http, appProtocol: example.com/own":   "",
		"port: 80, name: http, appProtocol: kubernetes.io/h2c": "HTTP2",
		"port: 80, name: tcp, appProtocol: kubernetes.io/ws":   "HTTP",
		"port: 80, name: tcp, appProtocol: kubernetes.io/wss":  "HTTPS",
		"port: 27017, appProtocol: example.com/own":            "TCP",
	} {
		if _, se := service(t, "", port, ""); se.Ports[0].Protocol != want {
			t.Errorf("%s: %q, want %q", port, se.Ports[0].Protocol, want)
		}
	}
}

func TestKubeExportTo(t *testing.T) {
	for in, want := range map[string][]string{
		"":              nil,
		".":             {"."},
		"default, shop": {"default", "shop"},
		"~":             {"~"},
	} {
		_, se := service(t, ", annotations: {networking.istio.io/exportTo: '"+in+"'}", "port: 80", "")
		if !slices.Equal(se.ExportTo, want) {
			t.Errorf("%q: %q, want %q", in, se.ExportTo, want)
		}
	}
}

// TestKubeDistribution: the field counts before the annotation; a word that Istio does not know does not.
func TestKubeDistribution(t *testing.T) {
	const noted = ", annotations: {networking.istio.io/traffic-distribution: PreferClose}"
	for _, tt := range []struct{ metadata, spec, want string }{
		{"", "", ""},
		{noted, "", "PreferClose"},
		{noted, ", trafficDistribution: PreferSameNode", "PreferSameNode"},
		{"", ", trafficDistribution: PreferSameZone", "PreferSameZone"},
		{noted, ", trafficDistribution: Elsewhere", "PreferClose"},
	} {
		if o, _ := service(t, tt.metadata, "port: 80", tt.spec); o.Annotations[config.AnnotationDistribution] != tt.want {
			t.Errorf("%v: %q", tt, o.Annotations)
		}
	}
}
