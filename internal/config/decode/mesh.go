package decode

import (
	"slices"
	"strings"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"detour.dev/detour/internal/config"
)

// meshServed are the fields of MeshConfig that decide about outbound traffic.
var meshServed = []string{
	"outboundTrafficPolicy", "localityLbSetting", "zoneAwareLbSetting", "defaultHttpRetryPolicy", "connectTimeout",
	"dnsRefreshRate", "tcpKeepalive", "defaultTrafficPolicy", "h2UpgradePolicy", "protocolDetectionTimeout", "rootNamespace",
	"defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo",
}

// Mesh reads a MeshConfig: the document itself, or a ConfigMap that holds it under data.mesh, as Istio installs it. Fields
// that say nothing about outbound traffic outside a mesh are named in one note. The Mesh is nil where an issue is an error.
func Mesh(name string, data []byte) (*config.Mesh, []config.Issue) {
	r := &reader{name: name, out: Result{Parsed: true}}
	d := &document{file: name, data: data}
	v, duplicates, bad := meshValue(d, data)
	if bad != nil {
		r.fileIssue(config.CodeSyntax, bad.at, bad.message)
		return nil, r.out.Issues
	}
	if inner, ok := configMapMesh(v); ok {
		// Places inside the string are those of the document in it: the line that begins the string is not known.
		d = &document{file: name + " (data.mesh)", data: []byte(inner)}
		if v, duplicates, bad = meshValue(d, []byte(inner)); bad != nil {
			r.fileIssue(config.CodeSyntax, bad.at, bad.message)
			return nil, r.out.Issues
		}
	}
	m, ok := v.(map[string]any)
	if v == nil {
		m, ok = map[string]any{}, true
	}
	if !ok {
		r.fileIssue(config.CodeNotAnObject, d.origin(), "wants a MeshConfig, got "+describe(v))
		return nil, r.out.Issues
	}
	return r.mesh(d, m, duplicates)
}

func (r *reader) mesh(d *document, m map[string]any, duplicates []problem) (*config.Mesh, []config.Issue) {
	out := &config.Mesh{Spec: &meshconfig.MeshConfig{}, Origin: d.origin(), Where: d}
	o := &object{r: r, at: d, origin: out.Origin, problems: duplicates}
	fields := out.Spec.ProtoReflect().Descriptor().Fields()
	served := map[string]any{}
	var ignored []string
	for _, k := range sortedKeys(m) {
		fd := fields.ByJSONName(k)
		if fd == nil {
			fd = fields.ByTextName(k)
		}
		if fd == nil || slices.Contains(meshServed, fd.JSONName()) {
			served[k] = m[k] // fill names what does not exist
			continue
		}
		ignored = append(ignored, k)
	}
	fill(o, "", served, out.Spec.ProtoReflect())
	if len(ignored) > 0 {
		o.problems = append(o.problems, problem{severity: config.Note, code: config.CodeKindIgnored, path: ignored[0],
			message: "ignored, because it says nothing about outbound traffic outside a mesh: " + strings.Join(ignored, ", ")})
	}
	o.report(d, "", false, nil)
	for _, i := range r.out.Issues {
		if i.Severity == config.Error {
			return nil, r.out.Issues
		}
	}
	return out, r.out.Issues
}

// meshValue reads one document within the bounds of all files.
func meshValue(d *document, data []byte) (any, []problem, *syntaxError) {
	if len(data) > MaxFileSize {
		return nil, nil, &syntaxError{at: d.origin(), message: "the file is too large for a MeshConfig"}
	}
	if err := checkExpansion(d); err != nil {
		return nil, nil, &syntaxError{at: d.origin(), message: err.Error()}
	}
	return d.value()
}

// configMapMesh gives the MeshConfig in Istio's ConfigMap.
func configMapMesh(v any) (string, bool) {
	m, _ := v.(map[string]any)
	if m["kind"] != "ConfigMap" {
		return "", false
	}
	data, _ := m["data"].(map[string]any)
	s, ok := data["mesh"].(string)
	return s, ok
}
