//go:build linux

package feature

import "testing"

func TestParityRoutes(t *testing.T) {
	parity{config: "routes",
		upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}},
		script: func(a *actor) {
			for _, path := range []string{"/", "/exact", "/exact/", "/exact?q", "/pre", "/prefix", "/pre/x?y=z", "/Exact"} {
				a.get("http://api.test" + path)
			}
			a.get("http://other.test/exact", "X-One: 1", "x-one: 2")
			a.do(call{url: "http://nowhere.test/", at: "10.200.9.1:80"})
		}}.run(t)
}
