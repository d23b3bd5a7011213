package cli

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/analyze"
)

const badDir = "../../testdata/conformance/bad"

// TestBadConfigurations: what analyze says of each bad configuration, as the index asks (testdata/conformance/bad.py asks
// the same of a built detour).
func TestBadConfigurations(t *testing.T) {
	var index []struct{ File, Detour string }
	b, err := os.ReadFile(filepath.Join(badDir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &index); err != nil || len(index) < 38 {
		t.Fatal(len(index), err)
	}
	for _, e := range index {
		t.Run(e.File, func(t *testing.T) {
			file := filepath.Join(badDir, e.File)
			out, _, err := execute(t, newAnalyze(), "", "-f", file)
			placed := regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(file)+`:[1-9]\d*:[1-9]\d*: \w+: .`).FindAllString(out, -1)
			got := "accept"
			switch {
			case err != nil:
				got = "reject"
			case len(placed) > 0:
				got = "warn"
			}
			if got != e.Detour || got == "reject" && len(placed) == 0 {
				t.Errorf("%s, want %s: %s", got, e.Detour, out)
			}
		})
	}
}

// TestConformanceCasesAreAccepted: a configuration that istiod takes is no error, whatever else there is to say of it.
func TestConformanceCasesAreAccepted(t *testing.T) {
	files, err := filepath.Glob("../../testdata/conformance/cases/*/config.yaml")
	if err != nil || len(files) < 39 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		if out, stderr, err := execute(t, newAnalyze(), "", "-f", f, "--all-localities"); err != nil {
			t.Errorf("%s: %v\n%s%s", f, err, out, stderr)
		}
	}
}

// TestAllFilesAtOnce: every problem of every file in one run, in the order of files and places.
func TestAllFilesAtOnce(t *testing.T) {
	out, stderr, err := execute(t, newAnalyze(), "", "-f", badDir+"/45-vs-invalid-header-name-and-cors.yaml", "-f", badDir+"/03-port-number-0.yaml")
	if err == nil || !strings.Contains(stderr, "3 errors") {
		t.Errorf("%v, %s", err, stderr)
	}
	var places []string
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		places = append(places, strings.SplitN(strings.TrimPrefix(l, badDir+"/"), ": ", 2)[0])
	}
	want := []string{"03-port-number-0.yaml:7:12", "45-vs-invalid-header-name-and-cors.yaml:7:31", "45-vs-invalid-header-name-and-cors.yaml:7:100"}
	if !slices.Equal(places, want) {
		t.Errorf("got %q", places)
	}
}

// TestSARIF holds the output against what the schema of SARIF 2.1.0 requires, and against the findings.
func TestSARIF(t *testing.T) {
	var log map[string]any
	out, _, err := execute(t, newAnalyze(), "", "-f", badDir+"/45-vs-invalid-header-name-and-cors.yaml", "-f", badDir+"/42-vs-unreachable-rule.yaml", "-o", "sarif")
	if err == nil {
		t.Error("errors, and exit status 0")
	}
	if err := json.Unmarshal([]byte(out), &log); err != nil {
		t.Fatal(err)
	}
	run := validSARIF(t, log)
	results := run["results"].([]any)
	if len(results) != 3 {
		t.Fatalf("%d results", len(results))
	}
	levels := map[string]int{}
	for _, r := range results {
		levels[r.(map[string]any)["level"].(string)]++
	}
	if levels["error"] != 2 || levels["warning"] != 1 {
		t.Error(levels)
	}
	for _, r := range run["tool"].(map[string]any)["driver"].(map[string]any)["rules"].([]any) {
		rule := r.(map[string]any)
		if rule["id"] == config.CodeUnreachable && !strings.Contains(rule["help"].(map[string]any)["markdown"].(string), "## Mended") {
			t.Errorf("%v", rule)
		}
	}
	out, _, err = execute(t, newAnalyze(), twoRegions, "-f", "-", "-o", "sarif", "--locality", "us-east1")
	if err != nil {
		t.Fatal(err)
	}
	log = nil
	if err := json.Unmarshal([]byte(out), &log); err != nil {
		t.Fatal(err)
	}
	validSARIF(t, log)
	out, _, err = execute(t, newAnalyze(), "", "-f", write(t, strings.Replace(twoRegions, ", {address: 192.0.2.2, locality: us-west}", "", 1)), "-o", "sarif")
	if err != nil || !strings.Contains(out, `"results": []`) {
		t.Errorf("nothing found: %v %s", err, out)
	}
}

// validSARIF checks the schema's required properties, enumerations and formats, and gives the one run.
func validSARIF(t *testing.T, log map[string]any) map[string]any {
	t.Helper()
	if log["version"] != "2.1.0" || len(log["runs"].([]any)) != 1 {
		t.Fatalf("%v", log)
	}
	run := log["runs"].([]any)[0].(map[string]any)
	driver := run["tool"].(map[string]any)["driver"].(map[string]any)
	if driver["name"] != "detour" || !slices.Contains([]any{"utf16CodeUnits", "unicodeCodePoints"}, run["columnKind"]) {
		t.Errorf("%v", run)
	}
	rules := driver["rules"].([]any)
	seen := map[any]bool{}
	for _, r := range rules {
		rule := r.(map[string]any)
		if rule["id"] == "" || seen[rule["id"]] || rule["shortDescription"].(map[string]any)["text"] == "" || rule["help"].(map[string]any)["text"] == "" {
			t.Errorf("%v", rule)
		}
		seen[rule["id"]] = true
	}
	for _, r := range run["results"].([]any) {
		res := r.(map[string]any)
		if rules[int(res["ruleIndex"].(float64))].(map[string]any)["id"] != res["ruleId"] || res["message"].(map[string]any)["text"] == "" ||
			!slices.Contains([]any{"none", "note", "warning", "error"}, res["level"]) {
			t.Errorf("%v", res)
		}
		for _, l := range res["locations"].([]any) {
			physical := l.(map[string]any)["physicalLocation"].(map[string]any)
			uri := physical["artifactLocation"].(map[string]any)["uri"].(string)
			if _, err := url.Parse(uri); err != nil || uri == "" {
				t.Errorf("%q: %v", uri, err)
			}
			region := physical["region"].(map[string]any)
			if region["startLine"].(float64) < 1 || region["startColumn"].(float64) < 1 {
				t.Errorf("%v", region)
			}
		}
	}
	return run
}

func TestArtifactURI(t *testing.T) {
	for file, want := range map[string]string{"a b.yaml": "a%20b.yaml", "x/y.yaml": "x/y.yaml", "/x/y.yaml": "file:///x/y.yaml", "<stdin>": "stdin", "a:b.yaml": "./a:b.yaml"} {
		if got := artifactURI(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	out, _, err := execute(t, newAnalyze(), "", "--explain", "dtr0103")
	page, rerr := os.ReadFile("../../docs/analysis/DTR0103.md")
	if err != nil || rerr != nil || out != string(page) {
		t.Errorf("%v, %v: %s", err, rerr, out)
	}
	out, _, err = execute(t, newAnalyze(), "", "--explain", config.CodeBadPort)
	if err != nil || !strings.HasPrefix(out, config.CodeBadPort+": ") {
		t.Errorf("%v: %s", err, out)
	}
	for _, short := range []string{"0103", "103", "dtr103", "DTR0103", " Dtr0103"} {
		if out, _, err := execute(t, newAnalyze(), "", "--explain", short); err != nil || out != string(page) {
			t.Errorf("%s: %v: %s", short, err, out)
		}
	}
	for _, none := range []string{"DTR9999", "dtr", "00103", "x103", "1 03", "-103"} {
		out, errs, err := execute(t, newAnalyze(), "", "--explain="+none)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Status != ExitUsage || out != "" ||
			!strings.Contains(errs, "\nDTR0103  ") || strings.Count(errs, "\n") != len(analyze.AllCodes()) {
			t.Errorf("%s: %v, %q\n%s", none, err, out, errs)
		}
	}
}
