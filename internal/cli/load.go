package cli

import (
	"io"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/source/dir"
)

// loadForIstio reads a configuration as istiod would take it: what can be decoded is served, whether or not detour's own
// engine serves it yet. Issues are those of decoding, without those that only say so.
func loadForIstio(paths []string, stdin io.Reader) (*config.Set, []config.Issue, error) {
	u := dir.New(paths, dir.Options{Stdin: stdin}).Load()
	issues := u.Issues
	seen := map[config.Key]bool{}
	var objects []*config.Object
	for _, f := range u.Files {
		objs, found := decode.File(f.Name, f.Data)
		for _, o := range objs {
			if !seen[o.Key] {
				seen[o.Key] = true
				objects = append(objects, o)
			}
		}
		for _, i := range found {
			if i.Code != config.CodeUnsupported {
				issues = append(issues, i)
			}
		}
	}
	return config.NewSet(objects, nil, nil), issues, nil
}

// loadOnce reads a configuration for a command that looks at it and does not serve it.
func loadOnce(paths []string, stdin io.Reader, compatIstio bool) (*config.Set, []config.Issue, error) {
	if compatIstio {
		return loadForIstio(paths, stdin)
	}
	return pipeline.LoadOnce(paths, stdin)
}
