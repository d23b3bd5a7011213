package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

// deeper gives the pages below docs' subfolders.
func deeper(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" || filepath.Dir(path) == "." {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil || len(out) < 30 {
		t.Fatalf("%d pages: %v", len(out), err)
	}
	return out
}

// judge compiles a block and gives the worst of what is said about it.
func judge(t *testing.T, page, block string) (worst config.Severity, said []config.Issue) {
	t.Helper()
	set, issues, err := pipeline.LoadOnce([]string{"-"}, strings.NewReader(block))
	if err != nil {
		t.Errorf("%s: %v\n%s", page, err, block)
		return worst, nil
	}
	_, found := translate.Translate(set, xds.NodeGroup{IPv4: true})
	worst = config.Note
	for _, i := range append(issues, found...) {
		worst, said = min(worst, i.Severity), append(said, i) // Error is the least
	}
	return worst, said
}

// TestSubfoldersYAML: every block of a page about a finding compiles; what is said about the mended one has no error. That
// analyze finds the page's code in the first and not in the second is tested beside analyze.
func TestSubfoldersYAML(t *testing.T) {
	n := 0
	for page, text := range deeper(t) {
		example, mended, isFinding := strings.Cut(text, "\n## Mended")
		for _, block := range blocks(example, "yaml") {
			n++
			worst, said := judge(t, page, block)
			if !isFinding && worst != config.Note {
				t.Errorf("%s: %v\n%s", page, said, block)
			}
		}
		for _, block := range blocks(mended, "yaml") {
			n++
			if worst, said := judge(t, page, block); worst == config.Error {
				t.Errorf("%s: %v\n%s", page, said, block)
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d blocks found", n)
	}
}

// TestSubfoldersLinks: the pages' relative links lead somewhere.
func TestSubfoldersLinks(t *testing.T) {
	for page, text := range deeper(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
