package pipeline

import (
	"errors"
	"io"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source/dir"
)

// LoadOnce reads paths ("-" is stdin) for a command that looks at a configuration and does not serve it. The Set holds
// all objects that are good; issues tell of the others and of files that can't be read, sorted by place. Addresses are
// allocated in memory, the same for the same hosts. The error says that no path is named.
func LoadOnce(paths []string, stdin io.Reader) (*config.Set, []config.Issue, error) {
	if len(paths) == 0 {
		return nil, nil, errors.New("no configuration is named; give -f PATH")
	}
	s := newStore()
	s.update(dir.New(paths, dir.Options{Stdin: stdin}).Load(), time.Now())
	s.advance(time.Now(), true)
	r := s.result()
	vips, issues := newAllocator("").assign(r.objects)
	return config.NewSet(r.objects, vips, r.refused), sortIssues(append(r.issues, issues...)), nil
}
