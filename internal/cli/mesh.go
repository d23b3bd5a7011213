package cli

import (
	"errors"
	"fmt"
	"io/fs"
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
	m, issues := g.judgedMesh()
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

// judgedMesh reads --mesh-config and gives all that there is to say about it; with errors among that the Mesh may be nil.
func (g *groupFlags) judgedMesh() (*config.Mesh, []config.Issue) {
	if g.meshConfig == "" {
		return nil, nil
	}
	data, err := os.ReadFile(g.meshConfig)
	if err != nil {
		var why *fs.PathError
		if errors.As(err, &why) {
			err = why.Err
		}
		return nil, []config.Issue{{Severity: config.Error, Code: config.CodeUnreadable, Origin: config.Origin{File: g.meshConfig}, Message: fmt.Sprintf("--mesh-config can't be read: %v", err)}}
	}
	m, issues := decode.Mesh(g.meshConfig, data)
	if m != nil {
		issues = append(issues, validate.Mesh(m)...)
	}
	return m, issues
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
