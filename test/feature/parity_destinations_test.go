//go:build linux

package feature

import (
	"testing"
)

func TestParityDestinations(t *testing.T) {
	upstreams := map[string]stub{}
	for _, addr := range []string{"10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080", "10.1.0.5:8080", "10.1.0.6:8080", "10.1.0.7:8080", "10.1.0.8:8080",
		"10.1.0.9:8081", "10.1.0.9:8080", "10.1.0.9:9999"} {
		upstreams[addr] = stub{}
	}
	parity{config: "destinations", upstreams: upstreams,
		records: map[string]string{"one.example": "10.1.0.1", "two.example": "10.1.0.2", "itself.test": "10.1.0.3", "three.example": "10.1.0.3 10.1.0.2",
			"a.dynamic.test": "10.1.0.9"},
		script: func(a *actor) {
			a.spread("dns", 400, same(call{url: "http://dns.test/"}))
			a.get("http://itself.test/path")
			a.get("http://none.test:8080/")
			a.do(call{url: "http://a.wild.test:8081/", at: "10.1.0.9:8081"})
			a.do(call{url: "http://a.dynamic.test:8080/", at: "10.1.0.9:8080"})
			a.do(call{url: "http://b.dynamic.test:8080/", at: "10.1.0.9:8080"}) // no such name
			a.get("http://through.test:8080/")
			a.spread("selected", 400, same(call{url: "http://selected.test/"}))
			a.do(call{url: "http://undeclared.test:9999/", at: "10.1.0.9:9999"})
			a.do(call{url: "http://undeclared.test:8080/", at: "10.1.0.9:8080"})
		}}.run(t)
}

func TestParityLogicalDNS(t *testing.T) {
	parity{config: "destinations", upstreams: map[string]stub{"10.1.0.3:8080": {}},
		records: map[string]string{"one.example": "10.1.0.1", "two.example": "10.1.0.2", "itself.test": "10.1.0.3", "three.example": "10.1.0.3"},
		script:  func(a *actor) { a.gets("http://robin.test/", "http://robin.test/again") }}.run(t)
}

func TestParitySidecar(t *testing.T) {
	for name, flags := range map[string][]string{"selected": {"--labels", "app=web"}, "others": {"--labels", "app=other"}, "through": {"--labels", "app=through"}} {
		t.Run(name, func(t *testing.T) {
			parity{config: "sidecar", flags: flags,
				upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.9:80": {}, "10.1.0.9:9999": {raw: echo}},
				script: func(a *actor) {
					a.get("http://seen.test/")
					a.get("http://hidden.test/")
					a.do(call{url: "http://undeclared.test/", at: "10.1.0.9:80"})
					a.exchange("undeclared", "10.1.0.9:9999", "hello")
				}}.run(t)
		})
	}
}

func TestParityMeshConfig(t *testing.T) {
	parity{config: "mesh", mesh: "mesh",
		prepare: func(*world) map[string]stub {
			return map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {status: byCodes()}, "10.1.0.9:80": {}}
		},
		script: func(a *actor) {
			a.spread("distribute", 2000, same(call{url: "http://mesh.test/"}))
			a.get("http://retried.test/", "x-codes: 500,200")
			a.get("http://retried.test/", "x-codes: 500,501,200")
			a.do(call{url: "http://undeclared.test/", at: "10.1.0.9:80"})
		}}.run(t)
}
