//go:build linux

package feature

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// TestAccessLog has a line for each request, in Envoy's default format.
func TestAccessLog(t *testing.T) {
	w, p := walking(t, quick...)
	c := w.client()
	all(t, fromEast, c.gets(1))
	w.east.ports[80].stop()
	all(t, fromWest, []result{c.post()})
	w.west.ports[80].stop()
	c.get()
	p.terminate()
	lines := strings.Split(strings.TrimSpace(p.out()), "\n")
	at := `^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] `
	for i, want := range []string{
		at + `"GET / HTTP/1\.1" 200 - 0 41 \d+ (\d+|-) "-" "Go-http-client/1\.1" "GET-\d+" "mydb\.com" "10\.1\.0\.1:80"$`,
		at + `"POST / HTTP/1\.1" 200 - 20 41 \d+ (\d+|-) "-" "Go-http-client/1\.1" "POST-\d+" "mydb\.com" "10\.2\.0\.1:80"$`,
		at + `"GET / HTTP/1\.1" 503 (UF|UH|UF,URX) 0 \d+ \d+ - "-" "Go-http-client/1\.1" "GET-\d+" "mydb\.com" "[^"]+"$`,
	} {
		if i >= len(lines) || !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %d: %q does not match %s", i, lines, want)
		}
	}
	if len(lines) != 3 {
		t.Errorf("%d lines", len(lines))
	}
}

// TestAccessLogJSON is the same as JSON.
func TestAccessLogJSON(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	p := w.proxyIn("us-east1", "--access-log-format", "json")
	r := w.client().get()
	p.terminate()
	var line map[string]any
	if err := json.Unmarshal([]byte(p.out()), &line); err != nil {
		t.Fatalf("%q: %v", p.out(), err)
	}
	for key, want := range map[string]any{"method": "GET", "path": "/", "response_code": 200.0, "authority": "mydb.com", "request_id": r.ID,
		"upstream_host": "10.1.0.1:80"} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v; all: %v", key, line[key], want, line)
		}
	}
}

// TestLogOfEjection says what is ejected, why, for how long, where traffic goes now, and when it is back.
func TestLogOfEjection(t *testing.T) {
	w, p := walking(t, quick...)
	c := w.client()
	w.east.ports[80].stop()
	all(t, fromWest, c.gets(3))
	if n := p.logged("endpoint ejected", cluster80, "10.1.0.1:80", eastName, "locality=us-east1", "connection refused", "for=1s", westName, "crosses_region=true"); n != 1 {
		t.Errorf("%d lines tell of the ejection: %s", n, p.err())
	}
	w.east.ports[80].start(t)
	await(t, "a line says that it is back", func() bool { return p.logged("endpoint is back", cluster80, "10.1.0.1:80") == 1 })
}
