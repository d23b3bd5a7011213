package config

import (
	meshconfig "istio.io/api/mesh/v1alpha1"
)

// Mesh is Istio's MeshConfig as far as it decides about outbound traffic. It is read once, at start; a nil Mesh means
// Istio's defaults.
type Mesh struct {
	Spec   *meshconfig.MeshConfig
	Origin Origin
	Where  Positions // of its fields; may be nil
}

// RegistryOnly tells whether destinations that nothing declares are refused (outboundTrafficPolicy); set is false where
// the file says nothing about it, and Istio's default, ALLOW_ANY, holds.
func (m *Mesh) RegistryOnly() (registryOnly, set bool) {
	if m == nil || m.Spec.OutboundTrafficPolicy == nil {
		return false, false
	}
	return m.Spec.OutboundTrafficPolicy.Mode == meshconfig.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY, true
}

// Root is the namespace whose objects hold for all (rootNamespace).
func (m *Mesh) Root() string {
	if m == nil || m.Spec.RootNamespace == "" {
		return RootNamespace
	}
	return m.Spec.RootNamespace
}
