package pipeline

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/config/source/dir"
)

// LoadOnce reads paths ("-" is stdin) for a command that looks at a configuration and does not serve it. The Set holds
// all objects that are good; issues tell of the others, of files that can't be read and of directories that hold none, sorted by place. Addresses are
// allocated in memory, the same for the same hosts. The error says that no path is named.
func LoadOnce(paths []string, stdin io.Reader) (*config.Set, []config.Issue, error) {
	if len(paths) == 0 {
		return nil, nil, errors.New("no configuration is named; give -f PATH")
	}
	s := newStore()
	u := dir.New(paths, dir.Options{Stdin: stdin}).Load()
	s.update(u, time.Now())
	s.advance(time.Now(), true)
	r := s.result()
	vips, issues := newAllocator("").assign(r.objects)
	issues = append(append(issues, r.issues...), nothingIn(paths, u.Files)...)
	if len(issues)+len(r.objects) == 0 {
		for _, f := range u.Files {
			issues = append(issues, config.Issue{Severity: config.Warning, Code: config.CodeNothing, Origin: config.Origin{File: f.Name, Line: 1, Column: 1}, Message: "no object was found"})
		}
	}
	return config.NewSet(r.objects, vips, r.refused), sortIssues(issues), nil
}

// nothingIn warns of directories without a file to read.
func nothingIn(paths []string, files []source.File) (issues []config.Issue) {
	read := map[string]bool{}
	for _, f := range files {
		if abs, err := filepath.Abs(f.Name); err == nil {
			read[filepath.Dir(abs)] = true
		}
	}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if info, statErr := os.Stat(p); p == dir.Stdin || err != nil || statErr != nil || !info.IsDir() || read[abs] {
			continue
		}
		issues = append(issues, config.Issue{Severity: config.Warning, Code: config.CodeNothing, Origin: config.Origin{File: p},
			Message: "no object was found: there is no *.yaml, *.yml or *.json in this directory, and its subfolders are not read"})
	}
	return issues
}
