package validate

import (
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"
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
		c.refusalsIn(refusalsOf(config.DestinationRule), "defaultTrafficPolicy", "defaultTrafficPolicy", p.ProtoReflect())
	}
	c.meshRefusals(spec)
	if ns := spec.RootNamespace; ns != "" && !isLabel(ns) {
		c.errorf(config.CodeMesh, "rootNamespace", "%q is not a namespace", ns)
	}
	return c.issues
}

// meshRefusals warns of what the embedded engine does not serve of a MeshConfig.
func (c *checker) meshRefusals(spec *meshconfig.MeshConfig) {
	if spec.H2UpgradePolicy == meshconfig.MeshConfig_UPGRADE {
		c.warnf(config.CodeUnsupported, "h2UpgradePolicy", "HTTP/2 is not served by the embedded engine yet: requests to hosts without a policy of their own get 501")
	}
	if p := spec.OutboundTrafficPolicy; p.GetMode() == meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS {
		c.warnf(config.CodeUnsupported, "outboundTrafficPolicy.mode",
			"is taken as ALLOW_ANY: what nothing declares goes where the application looked its name up")
		if p.Tls != nil {
			c.warnf(config.CodeUnsupported, "outboundTrafficPolicy.tls",
				"TLS is not originated for what nothing declares; declare it with a wildcard ServiceEntry of resolution DYNAMIC_DNS and a DestinationRule")
		}
	}
}
