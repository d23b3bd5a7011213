package cli

import (
	"slices"
	"strings"
	"testing"
)

// completions is what a shell is offered after a command line, without descriptions.
func completions(t *testing.T, args ...string) []string {
	t.Helper()
	out, _, err := execute(t, newRoot(), "", append([]string{"__complete"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	var all []string
	for line := range strings.Lines(out) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		all = append(all, word)
	}
	if last := all[len(all)-1]; last != ":4" && last != ":36" { // no file names; 32 keeps the order
		t.Errorf("%v: directive %s", args, last)
	}
	return all[:len(all)-1]
}

func TestCompleteValues(t *testing.T) {
	for line, want := range map[string]string{
		"run --outbound-policy":     "allow-any registry-only",
		"proxy --outbound-policy":   "allow-any registry-only",
		"run --via":                 "auto namespace environment",
		"run --loopback":            "host private",
		"proxy --log-level":         "debug info warn error",
		"proxy --access-log-format": "text json",
		"proxy --compat":            "envoy",
		"pc -o":                     "short wide json yaml",
		"pc ep -o":                  "short wide json yaml",
		"pc l --type":               "HTTP TCP HTTP+TCP",
		"analyze -o":                "text json sarif",
		"translate -o":              "json yaml bootstrap",
		"translate --type":          "all cds eds lds rds",
		"translate --compat":        "istio",
	} {
		if got := strings.Join(completions(t, append(strings.Fields(line), "")...), " "); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	if got := completions(t, "analyze", "--explain", ""); len(got) < 50 || !slices.Contains(got, "DTR0103") || !slices.IsSorted(got) {
		t.Errorf("codes: %v", got)
	}
	if got := completions(t, "demo", "--step", ""); !slices.Contains(got, "3b") {
		t.Errorf("steps: %v", got)
	}
	if got := completions(t, "demo", "--step", "3,7"); !slices.Contains(got, "3,7b") || slices.Contains(got, "7b") {
		t.Errorf("steps after a comma: %v", got)
	}
}

// What help marks the name of a value with is not shown by a shell.
func TestCompletionDescriptions(t *testing.T) {
	for _, verb := range []string{"analyze", "run", "proxy", "demo"} {
		p := launch(t, t.TempDir(), "", "__complete", verb, "--")
		if p.wait() != 0 || strings.Contains(p.out(), "`") || !strings.Contains(p.out(), "--help\t") {
			t.Errorf("%s:\n%s", verb, p.out())
		}
	}
}
