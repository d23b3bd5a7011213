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
	c.lookupTLS(spec.OutboundTrafficPolicy)
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
}

// lookupTLS judges how requests that nothing declares are sent where ALLOW_ANY_DYNAMIC_DNS looks them up.
func (c *checker) lookupTLS(p *meshconfig.MeshConfig_OutboundTrafficPolicy) {
	const path = "outboundTrafficPolicy.tls"
	t := p.GetTls()
	switch {
	case t == nil:
		return
	case p.Mode != meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS:
		c.warnf(config.CodeTLS, path, "is without effect with mode %s; it is for ALLOW_ANY_DYNAMIC_DNS", p.Mode)
		return
	case t.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL:
		c.warnf(config.CodeUnsupported, path+".mode", "ISTIO_MUTUAL needs a mesh's certificates, so hosts that nothing declares answer 503; use SIMPLE or MUTUAL")
	case t.CredentialName != "":
		c.warnf(config.CodeUnsupported, path+".credentialName", "a secret can't be read outside Kubernetes, so hosts that nothing declares answer 503; name files in caCertificates, clientCertificate and privateKey")
	case t.InsecureSkipVerify.GetValue():
		c.warnf(config.CodeTLS, path+".insecureSkipVerify",
			"nobody verifies who answers for hosts that nothing declares: whoever can reach the network path can read and change everything; remove insecureSkipVerify, or name the authority in caCertificates")
	}
	c.tls(path, t)
}
