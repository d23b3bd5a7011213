//go:build linux

package feature

import (
	"strings"
	"testing"
	"time"
)

// sidecarPolicy is a Sidecar that says what becomes of undeclared destinations.
func sidecarPolicy(mode string) string {
	return `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata:
  name: policy
spec:
  outboundTrafficPolicy:
    mode: ` + mode + "\n"
}

// TestOutboundPolicyPrecedence: a Sidecar's word goes before the flag's, the flag's before MeshConfig's.
func TestOutboundPolicyPrecedence(t *testing.T) {
	w := running(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	curl := []string{"curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://elsewhere.example/"}
	mesh := func(mode string) []string {
		return []string{"--mesh-config", w.scratchFile("mesh.yaml", "outboundTrafficPolicy: {mode: "+mode+"}\n")}
	}
	for _, c := range []struct{ sidecar, flag, mesh, want string }{
		{"", "", "REGISTRY_ONLY", "502"},
		{"", "", "ALLOW_ANY", "200"},
		{"", "allow-any", "REGISTRY_ONLY", "200"},
		{"", "registry-only", "ALLOW_ANY", "502"},
		{"ALLOW_ANY", "", "REGISTRY_ONLY", "200"},
		{"REGISTRY_ONLY", "", "ALLOW_ANY", "502"},
		{"ALLOW_ANY", "registry-only", "", "200"},
		{"REGISTRY_ONLY", "allow-any", "", "502"},
	} {
		var flags []string
		if c.mesh != "" {
			flags = mesh(c.mesh)
		}
		if c.flag != "" {
			flags = append(flags, "--outbound-policy", c.flag)
		}
		text := "# no Sidecar\n"
		if c.sidecar != "" {
			text = sidecarPolicy(c.sidecar)
		}
		w.write("sidecar.yaml", text)
		w.want(w.asUser(w.runCommand(flags, curl...)), 0, c.want, "")
	}
}

// TestOutboundPolicyLive: a Sidecar that comes and goes changes what a running proxy does with undeclared hosts.
func TestOutboundPolicyLive(t *testing.T) {
	w := regions(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.proxyIn("us-east1", "--outbound-policy", "allow-any")
	want := func(answer string) {
		t.Helper()
		for _, send := range []string{
			"GET http://elsewhere.example/ HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n",
			"CONNECT elsewhere.example:80 HTTP/1.1\r\nHost: elsewhere.example:80\r\n\r\nGET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n",
		} {
			await(t, answer+" for "+send, func() bool { return strings.Contains(w.raw(forwardAddr, send), answer) })
		}
	}
	want(fromWest)
	w.write("sidecar.yaml", sidecarPolicy("REGISTRY_ONLY"))
	want("HTTP/1.1 502 ")
	w.remove("sidecar.yaml")
	want(fromWest)
}

// TestOutboundPolicyLooksUp: with ALLOW_ANY_DYNAMIC_DNS the Host of an undeclared request says where it goes, not the address
// that the application chose, and an address that detour allocates is none to go to.
func TestOutboundPolicyLooksUp(t *testing.T) {
	w := running(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	mesh := w.scratchFile("mesh.yaml", "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}\n")
	w.write("none.yaml", "# nothing is declared\n")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"200", []string{"http://elsewhere.example/"}},
		{"200", []string{"--resolve", "elsewhere.example:80:192.0.2.1", "http://elsewhere.example/"}},
		{"200", []string{"--resolve", "elsewhere.example:8123:192.0.2.1", "-H", "Host: elsewhere.example", "http://elsewhere.example:8123/"}},
		{"404", []string{"-H", "Host: 240.240.0.9", "http://elsewhere.example/"}},
	} {
		curl := append([]string{"curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"}, c.args...)
		w.want(w.asUser(w.runCommand([]string{"--mesh-config", mesh}, curl...)), 0, c.want, "")
	}
}
