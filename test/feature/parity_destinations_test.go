//go:build linux

package feature

import (
	"net/netip"
	"testing"
	"time"
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

// TestParityBytesToOriginal: bytes that are no HTTP, to addresses of a host that says no more than that they are its own.
func TestParityBytesToOriginal(t *testing.T) {
	parity{config: "destinations",
		upstreams: map[string]stub{"10.1.0.10:9000": {raw: echo}, "10.1.1.7:9000": {raw: echo}, "10.1.0.10:9001": {raw: answerAny}, "10.1.1.7:9001": {raw: answerAny},
			"10.1.0.10:9002": {raw: answerAny}},
		script: func(a *actor) {
			for _, addr := range []string{"10.1.0.10:9000", "10.1.1.7:9000", "10.1.1.8:9000"} {
				a.exchange(addr, addr, "\x00\x01 hello\r\n")
				a.exchange(addr, addr, "GET / HTTP/1.1\r\n\r\n")
			}
			for _, addr := range []string{"10.1.0.10:9001", "10.1.1.7:9001"} {
				a.dictate(addr, "\x00\x01 these are no HTTP\r\n\r\n")
				a.dictate(addr, "SSH-2.0-OpenSSH\r\n")
				a.dictate(addr, "GET /path HTTP/1.1\r\nHost: bytes.test:9001\r\nconnection: close\r\n\r\n")
			}
			a.dictate("10.1.0.10:9002", "GET /path HTTP/1.1\r\nHost: bytes.test:9002\r\nconnection: close\r\n\r\n")
		}}.run(t)
}

// TestParityWarmup: an endpoint that appears when another is warm already gets little at first, and its share in the end.
func TestParityWarmup(t *testing.T) {
	parity{config: "destinations",
		prepare: func(w *world) map[string]stub {
			w.dns.Set("warm.example", time.Second, netip.MustParseAddr("10.1.0.1"))
			return map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}}
		},
		script: func(a *actor) {
			const warm = 2 * time.Second
			ask := func() string {
				_, body, err := a.own.send(call{url: "http://warm.test/"})
				if err != nil {
					a.t.Fatal(err)
				}
				return body
			}
			await(a.t, "the first is warm", func() bool { return a.after(warm + 100*time.Millisecond) })
			a.w.dns.Set("warm.example", time.Second, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2"))
			await(a.t, "the second is there", func() bool { return ask() == "10.1.0.2:8080" })
			there, second := time.Now(), 0
			const n = 200
			for range n {
				if ask() == "10.1.0.2:8080" {
					second++
				}
			}
			// Its weight is 10 % at first, and 60 % of the first's when that took more than a second.
			a.note("cold: less than 38 of 100: %v", second*100 < n*38)
			await(a.t, "the second is warm", func() bool { return time.Since(there) > warm+100*time.Millisecond })
			a.takeArrivals()
			a.spread("warm", 1000, same(call{url: "http://warm.test/"}))
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
