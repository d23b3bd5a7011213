//go:build linux

package feature

import (
	"maps"
	"slices"
	"testing"
)

func TestParityWeights(t *testing.T) {
	parity{config: "weights",
		upstreams: map[string]stub{
			"10.1.0.1:8080": {header: map[string]string{"x-secret": "1", "x-answer": "upstream"}},
			"10.1.0.2:8080": {header: map[string]string{"x-secret": "2"}},
			"10.1.0.2:8090": {},
		},
		script: func(a *actor) {
			a.spread("weights", 2000, same(call{url: "http://one.test/"}))
			a.spread("thirds", 2000, same(call{url: "http://one.test/third"}))
			a.spread("zero", 20, same(call{url: "http://one.test/none"}))
			a.gets("http://one.test/missing", "http://one.test/nosubset")
			// Which one it is is chance; that each does its own is not.
			seen := map[string]string{}
			for i := 0; len(seen) < 2 && i < 100; i++ {
				answer := a.ask(&a.own, call{url: "http://one.test/headers", header: []string{"x-drop: 1", "x-more: client"}})
				for _, r := range a.takeArrivals() {
					seen[r.endpoint] = r.text + " -> " + answer
				}
			}
			for _, k := range slices.Sorted(maps.Keys(seen)) {
				a.note("%s got %s", k, seen[k])
			}
		}}.run(t)
}

func TestParityRedirect(t *testing.T) {
	parity{config: "redirect", upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			for _, path := range []string{"/uri", "/uri?q=1", "/prefix/x/y?q=1", "/prefix/", "/authority/a?b=c", "/both?q", "/port?x", "/wellknown", "/scheme",
				"/schemeport", "/derive", "/request", "/307", "/308", "/headers", "/exact", "/re/x?y=z", "/no"} {
				a.gets("http://redirect.test"+path, "http://redirect.test:8081"+path)
			}
			a.do(call{method: "POST", url: "http://redirect.test/307", body: "some body"})
			a.get("http://redirect.test/uri")
		}}.run(t)
}

func TestParityDirectResponse(t *testing.T) {
	parity{config: "direct",
		script: func(a *actor) {
			for _, path := range []string{"/string", "/bytes", "/nobody", "/204", "/304", "/json", "/nothing"} {
				a.get("http://direct.test" + path)
			}
			a.do(call{method: "HEAD", url: "http://direct.test/string"})
			a.do(call{method: "POST", url: "http://direct.test/string", body: "some body"})
			a.get("http://direct.test/string")
		}}.run(t)
}

func TestParityRewrite(t *testing.T) {
	parity{config: "rewrite", upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			for _, path := range []string{"/prefix", "/prefix/x?y=z", "/prefixed", "/slash/", "/slash/a/b", "/exact", "/exact?q", "/case/A", "/CASE", "/authority/x",
				"/both/x?y", "/regex/a/b/c?q=/regex/a/b", "/regex/a", "/re/foo?o=o", "/rewhole/x?y", "/no"} {
				a.get("http://rewrite.test" + path)
			}
		}}.run(t)
}

func TestParityHeaders(t *testing.T) {
	parity{config: "headers",
		upstreams: map[string]stub{"10.1.0.1:8080": {header: map[string]string{"x-upstream": "up", "X-Other": "other", "x-gone": "gone", "server": "stub", "via": "1.1 stub"}}},
		script: func(a *actor) {
			for _, path := range []string{"/set", "/add", "/remove", "/all", "/host", "/authority", "/commands?q=1", "/"} {
				a.get("http://headers.test"+path, "X-One: 1", "x-one: 2", "x-two: 2", "x-three: 3", "x-four: 4", "user-agent: test")
				a.get("http://headers.test" + path)
			}
			a.get("http://headers.test/", "x-forwarded-for: 192.0.2.9", "x-request-id: mine", "accept-encoding: gzip", "cookie: a=b", "cookie: c=d")
			a.do(call{method: "POST", url: "http://headers.test/", header: []string{"content-type: text/plain"}, body: "a body"})
			a.do(call{method: "HEAD", url: "http://headers.test/set"})
			a.do(call{method: "POST", url: "http://headers.test/", header: []string{"content-length: 0"}})
		}}.run(t)
}
