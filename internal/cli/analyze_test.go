package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write puts a configuration into a file of its own.
func write(t *testing.T, yaml string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const twoRegions = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, locality: us-east1}, {address: 192.0.2.2, locality: us-west}]
`

const rule = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a.example.com
  trafficPolicy: {outlierDetection: {consecutiveGatewayErrors: 1, consecutive5xxErrors: 0}}
`

func TestAnalyzeExitStatus(t *testing.T) {
	noted := twoRegions + rule
	refused := strings.Replace(twoRegions, "protocol: HTTP", "protocol: HTPT", 1)
	for name, tc := range map[string]struct {
		yaml   string
		args   []string
		status int
		says   string
	}{
		"warnings":                      {twoRegions, nil, ExitOK, "0 errors, 1 warning, 0 notes in 1 object and 1 host"},
		"warnings, strict":              {twoRegions, []string{"--strict"}, ExitFailed, "1 warning"},
		"notes, strict":                 {noted, []string{"--strict", "--locality", "us-east1"}, ExitOK, "0 errors, 0 warnings, 1 note in 2 objects"},
		"errors":                        {refused, nil, ExitFailed, "1 error,"},
		"all localities, strict":        {noted, []string{"--strict", "--all-localities"}, ExitOK, "2 notes"},
		"two ways to name the caller":   {noted, []string{"--locality", "x", "--all-localities"}, ExitUsage, ""},
		"an output that does not exist": {noted, []string{"-o", "xml"}, ExitUsage, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, err := execute(t, newAnalyze(), "", append([]string{"-f", write(t, tc.yaml)}, tc.args...)...)
			status := ExitOK
			if err != nil {
				status = err.(*ExitError).Status
			}
			if status != tc.status || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit status %d, want %d; stderr %q", status, tc.status, stderr)
			}
		})
	}
	if _, _, err := execute(t, newAnalyze(), ""); err.(*ExitError).Status != ExitUsage {
		t.Errorf("no -f: %v", err)
	}
}

func TestAnalyzeOutput(t *testing.T) {
	out, _, err := execute(t, newAnalyze(), twoRegions, "-f", "-", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	list := parseJSON(t, []byte(out)).([]any)
	if len(list) != 1 {
		t.Fatalf("%s", out)
	}
	issue := list[0].(map[string]any)
	for k, want := range map[string]any{
		"file": "<stdin>", "line": 5.0, "severity": "warning", "code": "DTR0103", "object": "ServiceEntry default/a", "field": "spec.hosts",
	} {
		if issue[k] != want {
			t.Errorf("%s is %v, want %v", k, issue[k], want)
		}
	}
	out, _, err = execute(t, newAnalyze(), twoRegions, "-f", "-")
	if err != nil || !strings.HasPrefix(out, "<stdin>:5:3: warning: ServiceEntry default/a: spec.hosts: ") {
		t.Errorf("%v: %q", err, out)
	}
	out, _, err = execute(t, newAnalyze(), twoRegions+rule, "-f", "-", "-o", "json", "--locality", "us-east1", "--strict")
	if err != nil || strings.TrimSpace(out) == "null" {
		t.Errorf("%v: %q", err, out)
	}
}

// TestTranslateRefuses: an error ends translate with its place; for Istio's eyes what can be read is compiled.
func TestTranslateRefuses(t *testing.T) {
	file := write(t, twoRegions+strings.Replace(rule, "trafficPolicy:", "subsets: [{name: v_1}]\n  trafficPolicy:", 1))
	out, stderr, err := execute(t, newTranslate(), "", "-f", file)
	if err == nil || out != "" || !strings.Contains(stderr, "config.yaml:15:14: error: DestinationRule default/a: spec.subsets[0].name: ") {
		t.Errorf("%v: %q", err, stderr)
	}
	out, stderr, err = execute(t, newTranslate(), "", "-f", file, "--compat", "istio")
	if err != nil || !strings.Contains(out, "outbound|80|v_1|a.example.com") {
		t.Errorf("%v: %q", err, stderr)
	}
}
