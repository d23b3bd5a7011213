package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
)

// loaded is a configuration read once.
type loaded struct {
	set    *config.Set
	issues []config.Issue
}

// load reads all paths once.
func load(paths []string, stdin io.Reader) (*loaded, error) {
	out := &loaded{}
	var objects []*config.Object
	for _, p := range paths {
		files, err := expand(p)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if f == "-" {
				f = "<stdin>"
				data, err = io.ReadAll(stdin)
			}
			if err != nil {
				return nil, err
			}
			objs, issues := decode.File(f, data)
			objects = append(objects, objs...)
			out.issues = append(out.issues, issues...)
		}
	}
	out.set = config.NewSet(objects, nil, nil)
	return out, nil
}

func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if path == "-" || err == nil && !info.IsDir() {
		return []string{path}, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(e.Name()))) {
			out = append(out, filepath.Join(path, e.Name()))
		}
	}
	return out, nil
}

// print writes all issues; lenient leaves out what is only not supported by the engine. It tells whether one is an error.
func (l *loaded) print(w io.Writer, more []config.Issue, lenient bool) bool {
	bad := false
	for _, i := range slices.Concat(l.issues, more) {
		if lenient && i.Code == config.CodeUnsupported {
			continue
		}
		bad = bad || i.Severity == config.Error
		fmt.Fprintln(w, i)
	}
	return bad
}
