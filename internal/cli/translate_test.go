package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const conformance = "../../testdata/conformance"

// execute runs a verb in this process and gives what it printed.
func execute(t *testing.T, c *cobra.Command, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SilenceUsage, c.SilenceErrors = true, true
	err = c.Execute()
	return out.String(), errs.String(), err
}

// TestConformance compares `translate --compat istio` with what a real istiod sent for the same configuration, both
// reduced by project.py to what decides where traffic goes.
func TestConformance(t *testing.T) {
	cases, err := filepath.Glob(filepath.Join(conformance, "cases", "*", "config.yaml"))
	if err != nil || len(cases) < 39 {
		t.Fatalf("%d cases found: %v", len(cases), err)
	}
	for _, file := range cases {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			args := []string{"--compat", "istio", "-f", file, "--proxy", filepath.Join(dir, "proxy.json")}
			if mesh := filepath.Join(dir, "mesh.yaml"); exists(mesh) {
				args = append(args, "--mesh-config", mesh)
			}
			out, errs, err := execute(t, newTranslate(), "", args...)
			if err != nil {
				t.Fatalf("%v: %s", err, errs)
			}
			project := exec.CommandContext(t.Context(), "python3", filepath.Join(conformance, "project.py"))
			project.Stdin = strings.NewReader(out)
			project.Stderr = os.Stderr
			projected, err := project.Output()
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, "expected.json"))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(parseJSON(t, want), parseJSON(t, projected)); d != "" {
				t.Errorf("-istio +detour:\n%s", d)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func parseJSON(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTranslateShape(t *testing.T) {
	file := filepath.Join(conformance, "cases", "02-walkthrough-se-dr", "config.yaml")
	run := func(args ...string) string {
		out, errs, err := execute(t, newTranslate(), "", append([]string{"-f", file, "--locality", "us-east1"}, args...)...)
		if err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		return out
	}
	all := parseJSON(t, []byte(run())).(map[string]any)
	for _, k := range []string{"clusters", "endpoints", "listeners", "routes"} {
		if _, ok := all[k].([]any); !ok {
			t.Errorf("no list of %s", k)
		}
	}
	if got := run(); got != run() {
		t.Error("two runs differ")
	}
	cds := parseJSON(t, []byte(run("--type", "cds"))).(map[string]any)
	if len(cds) != 1 || len(cds["clusters"].([]any)) != 3 {
		t.Errorf("--type cds: %v", cds)
	}
	if y := run("--type", "rds", "-o", "yaml"); !strings.HasPrefix(y, "routes:\n- ") {
		t.Errorf("-o yaml: %.40q", y)
	}
}

func TestTranslateBootstrap(t *testing.T) {
	file := filepath.Join(conformance, "cases", "02-walkthrough-se-dr", "config.yaml")
	out, errs, err := execute(t, newTranslate(), "", "-f", file, "--locality", "us-east1", "-o", "bootstrap",
		"--bind", "0.0.0.0_80=127.0.0.1:8080", "--listen", "", "--admin", "127.0.0.1:9901", "--resolver", "127.0.0.1")
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	b := parseJSON(t, []byte(out)).(map[string]any)
	l := b["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
	if l["name"] != "0.0.0.0_80" || l["bind_to_port"] != true {
		t.Errorf("first listener: %v", l)
	}
	for _, k := range []string{"admin", "node", "typed_dns_resolver_config"} {
		if b[k] == nil {
			t.Errorf("no %s", k)
		}
	}
}

func TestTranslateUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		status int
	}{
		"no path":         {nil, ExitUsage},
		"bind, no boot":   {[]string{"-f", "x", "--bind", "a=127.0.0.1:1"}, ExitUsage},
		"partial boot":    {[]string{"-f", "x", "-o", "bootstrap", "--type", "cds"}, ExitUsage},
		"unknown bind":    {[]string{"-f", conformance + "/cases/54-empty/config.yaml", "-o", "bootstrap", "--bind", "a=127.0.0.1:1"}, ExitUsage},
		"bad listen":      {[]string{"-f", conformance + "/cases/54-empty/config.yaml", "-o", "bootstrap", "--listen", "localhost"}, ExitUsage},
		"unknown output":  {[]string{"-f", "x", "-o", "xml"}, ExitUsage},
		"unknown type":    {[]string{"-f", conformance + "/cases/54-empty/config.yaml", "--type", "sds"}, ExitUsage},
		"unknown compat":  {[]string{"-f", "x", "--compat", "envoy"}, ExitUsage},
		"proxy and local": {[]string{"-f", "x", "--proxy", "p", "--namespace", "n"}, ExitUsage},
		"no such file":    {[]string{"-f", "/nonexistent.yaml"}, ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := execute(t, newTranslate(), "", tc.args...)
			exit, ok := err.(*ExitError)
			if !ok || exit.Status != tc.status {
				t.Errorf("got %v, want exit status %d", err, tc.status)
			}
		})
	}
}
