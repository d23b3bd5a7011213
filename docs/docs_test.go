// Package docs_test holds the documentation against the code: every YAML block compiles, every command line names verbs
// and flags that exist, and every path and test that is named is there.
package docs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

const root = ".."

// pages gives the text of the README and of all pages in docs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d pages: %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range append(files, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(b)
	}
	return out
}

// blocks gives the fenced blocks with one of the given languages.
func blocks(text string, languages ...string) (out []string) {
	var block []string
	in, wanted := false, false
	for line := range strings.Lines(text) {
		fence, ok := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case ok && !in:
			in, wanted, block = true, slices.Contains(languages, fence), nil
		case ok:
			if in = false; wanted {
				out = append(out, strings.Join(block, ""))
			}
		case in:
			block = append(block, line)
		}
	}
	return out
}

func TestYAMLCompiles(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, block := range blocks(text, "yaml") {
			n++
			set, issues, err := pipeline.LoadOnce([]string{"-"}, strings.NewReader(block))
			if err != nil {
				t.Errorf("%s: %v\n%s", page, err, block)
				continue
			}
			_, found := translate.Translate(set, xds.NodeGroup{IPv4: true})
			for _, i := range append(issues, found...) {
				if i.Severity != config.Note {
					t.Errorf("%s: %v\n%s", page, i, block)
				}
			}
			if set.Len() == 0 {
				t.Errorf("%s: no object in\n%s", page, block)
			}
		}
	}
	if n == 0 {
		t.Error("no YAML found")
	}
}

// build is where binary builds; TestMain removes it.
var build string

// binary is detour, built once.
var binary = sync.OnceValues(func() (file string, err error) {
	if build, err = os.MkdirTemp("", "detour-docs-*"); err != nil {
		return "", err
	}
	file = filepath.Join(build, "detour")
	out, err := exec.Command("go", "build", "-o", file, filepath.Join(root, "cmd", "detour")).CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return file, err
})

func TestMain(m *testing.M) {
	status := m.Run()
	if build != "" {
		_ = os.RemoveAll(build)
	}
	os.Exit(status)
}

// help gives what detour says of a verb.
func help(t *testing.T, words ...string) string {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := exec.CommandContext(t.Context(), file, append(words, "--help")...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Errorf("detour %s --help: %v\n%s", strings.Join(words, " "), err, out.String())
	}
	return out.String()
}

// detour is a call of detour in a command line: after a prompt, a pipe or "<(".
var detour = regexp.MustCompile(`(?:^\s*(?:\$ )?|\| |<\(|go run \./cmd/)detour ([a-z][^|&)#]*)`)

// calls gives the detour command lines of the console blocks and indented blocks of a page, without the prompt.
func calls(text string) (out []string) {
	in := false
	for line := range strings.Lines(text) {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		if isFence {
			in = !in && (fence == "console" || fence == "sh")
			continue
		}
		if !in && !strings.HasPrefix(line, "    ") {
			continue
		}
		for _, m := range detour.FindAllStringSubmatch(line, -1) {
			out = append(out, strings.TrimSpace(m[1]))
		}
	}
	return out
}

var flagName = regexp.MustCompile(`(?:^|[\s\[|])(--?[a-z][a-z-]*)`)

func TestCommandsExist(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, call := range calls(text) {
			n++
			ours, _, _ := strings.Cut(call, " -- ") // what follows is COMMAND's
			verb := regexp.MustCompile(`^[a-z-]+`).FindString(ours)
			words := []string{verb}
			usage := `Usage:\n  detour ` + verb + `[ \n]`
			if sub := regexp.MustCompile(`^(?:pc|proxy-config)[a-z|]* ([a-z]+)`).FindStringSubmatch(ours); sub != nil {
				words = append(words, sub[1])
				usage = `Usage:\n  detour proxy-config [a-z]` // an unknown word gets the help of proxy-config itself
			}
			h := help(t, words...)
			if !regexp.MustCompile(usage).MatchString(h) {
				t.Errorf("%s: %q: there is no such verb", page, call)
				continue
			}
			for _, f := range flagName.FindAllStringSubmatch(ours, -1) {
				if !regexp.MustCompile(`(?m)^\s+(?:-[a-zA-Z], )?` + regexp.QuoteMeta(f[1]) + `(?:[ ,]|$)`).MatchString(h) {
					t.Errorf("%s: %q: %s has no flag %s", page, call, strings.Join(words, " "), f[1])
				}
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d command lines found", n)
	}
}

// TestManualHasEveryVerb: every verb that help shows has a section.
func TestManualHasEveryVerb(t *testing.T) {
	manual := pages(t)["manual.md"]
	verbs := regexp.MustCompile(`(?m)^  ([a-z-]+) +[A-Z]`).FindAllStringSubmatch(help(t), -1)
	if len(verbs) < 6 {
		t.Fatalf("verbs: %v", verbs)
	}
	for _, v := range verbs {
		if v[1] != "help" && !regexp.MustCompile(`(?m)^## .*\b`+v[1]+`\b`).MatchString(manual) {
			t.Errorf("no section about %q", v[1])
		}
	}
}

// named are paths of the repository in backquotes: they have a slash and an ending, or end in a slash.
var named = regexp.MustCompile("`((?:internal|test|testdata|docs|examples|cmd)/[A-Za-z0-9_./-]*)`")

func TestPathsExist(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			n++
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d paths found", n)
	}
}

// link is a relative link of Markdown.
var link = regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`)

func TestLinksLead(t *testing.T) {
	for page, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// TestGuaranteesAreTested: each guarantee names tests, and each test that is named exists.
func TestGuaranteesAreTested(t *testing.T) {
	var code strings.Builder
	files, err := filepath.Glob(filepath.Join(root, "test", "feature", "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	sections := strings.Split(pages(t)["guarantees.md"], "\n## ")[1:]
	if len(sections) != 6 {
		t.Fatalf("%d guarantees, want E1 to E6", len(sections))
	}
	for _, s := range sections {
		tests := regexp.MustCompile("`(Test[A-Za-z0-9]+)").FindAllStringSubmatch(s, -1)
		if len(tests) == 0 {
			t.Errorf("no test: %.40q", s)
		}
		for _, m := range tests {
			if !strings.Contains(code.String(), "func "+m[1]+"(") {
				t.Errorf("there is no %s", m[1])
			}
		}
	}
}
