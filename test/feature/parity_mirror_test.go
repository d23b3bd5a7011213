//go:build linux

package feature

import (
	"fmt"
	"strings"
	"testing"
)

func TestParityMirror(t *testing.T) {
	parity{config: "mirror",
		upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {}},
		script: func(a *actor) {
			mirrored := func(n int, c call) {
				a.noteAnswer(c, a.ask(&a.own, c))
				a.awaitArrivals(n)
				a.withoutFields(" | x-envoy-internal: true", " | x-forwarded-for: 127.0.0.1") // an Envoy can't be told to leave them out of copies
				a.noteArrivalsSorted("  ")
			}
			mirrored(2, call{url: "http://main.test/one", header: []string{"x-client: 1"}})
			mirrored(2, call{method: "POST", url: "http://main.test/one", body: "a body"})
			mirrored(2, call{method: "PUT", url: "http://main.test/one", body: strings.Repeat("long ", 10000)})
			mirrored(3, call{url: "http://main.test/two?q"})
			mirrored(1, call{url: "http://main.test/none"})
			mirrored(1, call{url: "http://main.test/nowhere"})
			mirrored(2, call{url: "http://main.test/rewritten/x", header: []string{"x-client: 1"}})
			mirrored(2, call{url: "http://main.test/old"})
			for _, path := range []string{"/some", "/several"} {
				a.mirroredShares(path)
			}
		}}.run(t)
}

// mirroredShares notes how many of the requests for a path were copied to whom.
func (a *actor) mirroredShares(path string) {
	a.t.Helper()
	const n = 1000
	for range n {
		a.ask(&a.own, call{url: "http://main.test" + path})
	}
	a.ask(&a.own, call{url: "http://main.test/two"}) // whose copies are the last to arrive
	count := map[string]int{}
	await(a.t, "all copies arrive", func() bool {
		for _, r := range a.takeArrivals() {
			if strings.Contains(r.text, "/two") {
				count["last "+r.endpoint]++
				continue
			}
			count[r.endpoint]++
		}
		return count["last 10.1.0.2:8080"] == 1 && count["last 10.1.0.3:8080"] == 1
	})
	for i := range 3 {
		delete(count, fmt.Sprintf("last 10.1.0.%d:8080", i+1))
	}
	a.noteShares("mirrored", count, n)
}

func TestParityCORS(t *testing.T) {
	parity{config: "cors", upstreams: map[string]stub{"10.1.0.1:8080": {header: map[string]string{"access-control-allow-origin": "upstream", "vary": "accept"}}},
		script: func(a *actor) {
			for _, path := range []string{"/full", "/star", "/forward", "/ignore", "/old", "/direct", "/none"} {
				for _, origin := range []string{"https://a.example", "https://b.example", "https://c1.example", "https://cx.example", "https://evil.example", "null"} {
					a.get("http://cors.test"+path, "origin: "+origin)
					a.do(call{method: "OPTIONS", url: "http://cors.test" + path, header: []string{"origin: " + origin, "access-control-request-method: GET"}})
				}
				a.get("http://cors.test" + path)
				a.do(call{method: "OPTIONS", url: "http://cors.test" + path, header: []string{"origin: https://a.example"}})
				a.do(call{method: "OPTIONS", url: "http://cors.test" + path, header: []string{"origin: https://a.example", "access-control-request-method: DELETE",
					"access-control-request-headers: x-none", "access-control-request-private-network: true"}})
			}
		}}.run(t)
}
