package translate

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// mesh holds the settings of Istio's MeshConfig that decide about outbound traffic, with its defaults.
type mesh struct {
	connectTimeout   *durationpb.Duration
	dnsRefresh       *durationpb.Duration
	detectionTimeout *durationpb.Duration // how long the first bytes are waited for where they decide; nil: for ever
	localityLB       *networking.LocalityLoadBalancerSetting
	zoneAware        *networking.ZoneAwareLoadBalancerSetting
	retries          *networking.HTTPRetry // nil: Istio's default
	keepalive        *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive
	defaults         *meshconfig.MeshConfig_DefaultTrafficPolicy
	upgradesHTTP2    bool
	registryOnly     bool
	looksUp          bool // ALLOW_ANY_DYNAMIC_DNS
	lookupTLS        *networking.ClientTLSSettings
	root             string
	// exportTo of objects that state none; empty: to all.
	serviceExportTo, routerExportTo, ruleExportTo []string
}

// newMesh gives the mesh-wide settings. What the node group was told of undeclared destinations adds to the mesh's word.
func newMesh(set *config.Set, g xds.NodeGroup) mesh {
	m := mesh{
		connectTimeout:   durationpb.New(10 * time.Second),
		dnsRefresh:       durationpb.New(60 * time.Second),
		detectionTimeout: durationpb.New(0),
		localityLB:       &networking.LocalityLoadBalancerSetting{},
		registryOnly:     g.RegistryOnly,
		root:             set.Mesh().Root(),
	}
	if set.Mesh() == nil {
		return m
	}
	spec := set.Mesh().Spec
	replace(&m.connectTimeout, spec.ConnectTimeout)
	replace(&m.dnsRefresh, spec.DnsRefreshRate)
	replace(&m.detectionTimeout, spec.ProtocolDetectionTimeout)
	replace(&m.localityLB, spec.LocalityLbSetting)
	m.zoneAware, m.retries, m.keepalive = spec.ZoneAwareLbSetting, spec.DefaultHttpRetryPolicy, spec.TcpKeepalive
	m.defaults, m.upgradesHTTP2 = spec.DefaultTrafficPolicy, spec.H2UpgradePolicy == meshconfig.MeshConfig_UPGRADE
	m.serviceExportTo, m.routerExportTo = spec.DefaultServiceExportTo, spec.DefaultVirtualServiceExportTo
	m.ruleExportTo = spec.DefaultDestinationRuleExportTo
	m.looksUp = spec.OutboundTrafficPolicy.GetMode() == meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS && !m.registryOnly
	m.lookupTLS = spec.OutboundTrafficPolicy.GetTls()
	if only, set := set.Mesh().RegistryOnly(); set && only {
		m.registryOnly = true
	}
	return m
}
