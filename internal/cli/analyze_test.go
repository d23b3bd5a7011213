package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
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

// TestAnalyzeTellsAll: what is wrong with any file is found in one run and printed as asked, in order, the mesh's
// configuration and files that aren't there among them.
func TestAnalyzeTellsAll(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": strings.NewReplacer("resolution", "resolutions", "protocol: HTTP", "protocol: HTPT").Replace(twoRegions),
		"m.yaml": "outboundTrafficPolicy: {mode: NOBODY}\nconnectTimeouts: 5s\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	args := []string{"-f", "zz.yaml/none", "-f", "a.yaml", "-f", "b.yaml", "--mesh-config", "m.yaml"}
	want := []string{"a.yaml", "b.yaml", "m.yaml", "m.yaml", "zz.yaml/none"}
	out, stderr, err := execute(t, newAnalyze(), "", append(args, "-o", "json")...)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Status != ExitFailed || exit.Err != nil {
		t.Errorf("ends with %v", err)
	}
	var files []string
	for _, i := range parseJSON(t, []byte(out)).([]any) {
		i := i.(map[string]any)
		if i["severity"] == "error" {
			files = append(files, i["file"].(string))
		}
	}
	if got := slices.Compact(slices.Clone(files)); !slices.Equal(got, slices.Compact(want)) || len(files) < len(want) || strings.Contains(stderr, "m.yaml") {
		t.Errorf("errors of %v, want %v; stderr %q", files, want, stderr)
	}
	out, _, _ = execute(t, newAnalyze(), "", append(args, "-o", "sarif")...)
	if results := parseJSON(t, []byte(out)).(map[string]any)["runs"].([]any)[0].(map[string]any)["results"].([]any); len(results) < len(want) {
		t.Errorf("%d results: %s", len(results), out)
	}
	out, _, _ = execute(t, newAnalyze(), twoRegions, "-f", "-", "--mesh-config", "gone.yaml")
	if !strings.Contains(out, "gone.yaml: error: --mesh-config can't be read: no such file") || !strings.Contains(out, "DTR0103") {
		t.Errorf("a mesh that is not there: %s", out)
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

// nameServer answers for good.test with 127.0.0.1, and says of every other name that it is not there.
func nameServer(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &mdns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg).SetReply(q)
		switch {
		case q.Question[0].Name != "good.test.":
			a.Rcode = mdns.RcodeNameError
		case q.Question[0].Qtype == mdns.TypeA:
			a.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: "good.test.", Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(a)
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return pc.LocalAddr().String()
}

// TestAnalyzeResolver: names are asked of the server that is given, and plain endpoints are connected to.
func TestAnalyzeResolver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	yaml := fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints:
  - {address: good.test, ports: {http: %d}}
  - {address: good.test, ports: {http: %d}}
  - {address: bad.test}
`, port(l), port(gone))
	file := write(t, yaml)
	server := nameServer(t)
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"--resolve"}, []string{":11:6: warning: ServiceEntry default/a: spec.endpoints[2].address: bad.test does not resolve: "}},
		{[]string{"--connect"}, []string{":10:6: warning: ServiceEntry default/a: spec.endpoints[1].address: good.test:", ":11:6: warning: ServiceEntry default/a: spec.endpoints[2].address: bad.test:80 can't be reached: "}},
	} {
		out, _, err := execute(t, newAnalyze(), "", append([]string{"-f", file, "--resolver", server}, tc.args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err != nil || len(lines) != len(tc.want) {
			t.Errorf("%v: %v: %s", tc.args, err, out)
			continue
		}
		for i, want := range tc.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%v: %q lacks %q", tc.args, lines[i], want)
			}
		}
	}
	if _, _, err := execute(t, newAnalyze(), "", "-f", file, "--resolve", "--resolver", "nonsense"); err == nil || err.(*ExitError).Status != ExitUsage {
		t.Errorf("a resolver that is none: %v", err)
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
