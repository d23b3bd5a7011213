//go:build linux

package feature

import "testing"

func TestParityMatch(t *testing.T) {
	parity{config: "match", flags: []string{"--labels", "app=web,version=v1"},
		upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			for _, path := range []string{"/named", "/named?x", "/gateway", "/gw2", "/exact", "/exact?q=1", "/exact/", "/Exact", "/case", "/CASE",
				"/casex", "/precaseX/y", "/PRECASE", "/prefix/", "/prefix", "/prefix/x?y", "/re/abc", "/re/abc/12", "/re/abc/1", "/re/abc/123?q",
				"/xre/abc", "/recase/", "/ReCase/x", "/scheme", "/labels", "/namespace", "/or/one", "/or/two", "/port", "/%65xact", "//exact",
				"/prefix/../exact", "/"} {
				a.get("http://match.test" + path)
			}
			for _, m := range []string{"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"} {
				a.do(call{method: m, url: "http://match.test/method"})
			}
			a.do(call{method: "POST", url: "http://match.test/or/two"})
			a.gets("http://match.test:81/port", "http://match.test:81/authority", "http://match.test/authority", "http://other.match.test/authority",
				"http://OTHER.match.test/authority", "http://other.match.test:80/authority")
			for _, h := range []string{"x-exact: one two", "X-EXACT: one two", "x-exact: one", "x-prefix: one more", "x-prefix: o", "x-regex: ooone", "x-regex: oone!",
				"x-there:", "x-there: yes", "x-star: 1", "x-a: 1", "x-exact:  one two  "} {
				a.get("http://match.test/header", h)
			}
			a.get("http://match.test/header", "x-a: 1", "x-b: 2")
			a.get("http://match.test/header", "x-exact: one", "x-exact: two")
			a.get("http://match.test/header", "x-prefix: one", "x-prefix: two")
			a.get("http://match.test/without")
			for _, h := range []string{"x-not: no", "x-not: yes", "x-never: abc", "x-never: cba", "x-regex: bbb"} {
				a.get("http://match.test/without", h)
			}
			for _, q := range []string{"", "?q=one", "?q=one&q=two", "?Q=one", "?q=twofold", "?q=three&r=", "?q=three&r", "?s=1", "?s", "?t=1&q=one", "?q=on%65"} {
				a.get("http://match.test/query" + q)
			}
		}}.run(t)
}
