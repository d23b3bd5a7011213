package validate

import (
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// maxConnectTimeout is istiod's limit (connectTimeoutMax).
const maxConnectTimeout = time.Hour

// Mesh judges a MeshConfig that decode made, as istiod does (ValidateMeshConfig), as far as it decides about outbound
// traffic. An error means that it can't be used.
func Mesh(m *config.Mesh) []config.Issue {
	c := &checker{o: &config.Object{Origin: m.Origin, Where: m.Where}}
	spec := m.Spec
	c.duration(config.CodeMesh, "connectTimeout", spec.ConnectTimeout)
	if d := spec.ConnectTimeout.AsDuration(); d > maxConnectTimeout {
		c.errorf(config.CodeMesh, "connectTimeout", "%s is too long; allowed: 1ms to %s", d, maxConnectTimeout)
	}
	c.duration(config.CodeMesh, "dnsRefreshRate", spec.DnsRefreshRate)
	c.durationOrOff(config.CodeMesh, "protocolDetectionTimeout", spec.ProtocolDetectionTimeout)
	c.retries("defaultHttpRetryPolicy", spec.DefaultHttpRetryPolicy)
	if ka := spec.TcpKeepalive; ka != nil {
		c.duration(config.CodeMesh, "tcpKeepalive.time", ka.Time)
		c.duration(config.CodeMesh, "tcpKeepalive.interval", ka.Interval)
	}
	// What a DestinationRule's outlierDetection has to say of it is not known here.
	c.localityLB("localityLbSetting", spec.LocalityLbSetting, &networking.OutlierDetection{})
	c.zoneAwareLB("zoneAwareLbSetting", spec.ZoneAwareLbSetting, &networking.OutlierDetection{})
	if p := spec.DefaultTrafficPolicy; p != nil {
		c.connectionPool("defaultTrafficPolicy.connectionPool", p.ConnectionPool)
		c.outlierDetection("defaultTrafficPolicy.outlierDetection", p.OutlierDetection)
	}
	if ns := spec.RootNamespace; ns != "" && !isLabel(ns) {
		c.errorf(config.CodeMesh, "rootNamespace", "%q is not a namespace", ns)
	}
	return c.issues
}
