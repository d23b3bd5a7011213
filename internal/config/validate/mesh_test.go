package validate

import (
	"strings"
	"testing"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
)

// TestMesh: a MeshConfig is held to the rules that its fields have elsewhere, with their places.
func TestMesh(t *testing.T) {
	for _, tt := range []struct{ in, field, place string }{
		{"connectTimeout: 0s", "connectTimeout", "m:1:1"},
		{"dnsRefreshRate: 0.1ms", "dnsRefreshRate", "m:1:1"},
		{"protocolDetectionTimeout: -1s", "protocolDetectionTimeout", "m:1:1"},
		{"protocolDetectionTimeout: 0s", "", ""},
		{"h2UpgradePolicy: UPGRADE", "h2UpgradePolicy", "warning m:1:1"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}", "", ""},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}", "", ""},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY, tls: {mode: SIMPLE}}", "outboundTrafficPolicy.tls", "warning m:1:42"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: ISTIO_MUTUAL}}", "outboundTrafficPolicy.tls.mode", "warning m:1:60"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE, credentialName: a}}", "outboundTrafficPolicy.tls.credentialName", "warning m:1:74"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE, insecureSkipVerify: true}}", "outboundTrafficPolicy.tls.insecureSkipVerify", "warning m:1:74"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: MUTUAL, privateKey: a}}", "outboundTrafficPolicy.tls.clientCertificate", "m:1:54"},
		{"outboundTrafficPolicy: {mode: ALLOW_ANY}", "", ""},
		{"defaultTrafficPolicy: {connectionPool: {http: {maxConcurrentStreams: 5}}}", "defaultTrafficPolicy.connectionPool.http.maxConcurrentStreams", "warning m:1:48"},
		{"rootNamespace: a.b", "rootNamespace", "m:1:1"},
		{"defaultHttpRetryPolicy: {attempts: -1}", "defaultHttpRetryPolicy.attempts", "m:1:26"},
		{"defaultHttpRetryPolicy: {attempts: 1, retryOn: fooo}", "defaultHttpRetryPolicy.retryOn", "m:1:39"},
		{"defaultHttpRetryPolicy: {attempts: 0}", "", ""},
		{"tcpKeepalive: {interval: 0s}", "tcpKeepalive.interval", "m:1:16"},
		{"localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}", "localityLbSetting.distribute[0].to", "m:1:44"},
		{"localityLbSetting: {failover: [{from: a, to: b}]}", "", ""},
		{"defaultTrafficPolicy: {outlierDetection: {maxEjectionPercent: 200}}", "defaultTrafficPolicy.outlierDetection.maxEjectionPercent", "m:1:43"},
		{"defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}", "defaultTrafficPolicy.connectionPool.tcp.maxConnections", "m:1:47"},
	} {
		severity := config.Error
		if word, ok := strings.CutPrefix(tt.place, "warning "); ok {
			severity, tt.place = config.Warning, word
		}
		m, issues := decode.Mesh("m", []byte(tt.in))
		if m == nil {
			t.Fatal(issues)
		}
		issues = Mesh(m)
		switch {
		case tt.field == "" && len(issues) == 0:
		case len(issues) != 1 || issues[0].Severity != severity || issues[0].Field != tt.field || issues[0].Origin.String() != tt.place:
			t.Errorf("%s: %v", tt.in, issues)
		}
	}
}
