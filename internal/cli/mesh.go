package cli

import (
	"fmt"
	"os"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/validate"
)

// mesh reads --mesh-config; nil without it. say gets warnings and notes; errors are the returned error.
func (g *groupFlags) mesh(say func(config.Issue)) (*config.Mesh, error) {
	if g.meshConfig == "" {
		return nil, nil
	}
	data, err := os.ReadFile(g.meshConfig)
	if err != nil {
		return nil, fmt.Errorf("--mesh-config: %w", err)
	}
	m, issues := decode.Mesh(g.meshConfig, data)
	if m != nil {
		issues = append(issues, validate.Mesh(m)...)
	}
	var bad pipeline.Errors
	for _, i := range issues {
		if i.Severity == config.Error {
			bad = append(bad, i)
		} else {
			say(i)
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return m, nil
}

// outboundPolicy joins --outbound-policy and MeshConfig's outboundTrafficPolicy: the flag, where it was given, wins, and
// the mesh's word is taken out, so that nobody follows it.
func outboundPolicy(flag string, given bool, m *config.Mesh) (registryOnly bool, err error) {
	registryOnly, err = parsePolicy(flag)
	if err != nil || m == nil {
		return registryOnly, err
	}
	if given {
		m.Spec.OutboundTrafficPolicy = nil
		return registryOnly, nil
	}
	registryOnly, _ = m.RegistryOnly()
	return registryOnly, nil
}
