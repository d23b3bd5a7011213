//go:build linux

package feature

import (
	"fmt"
	"testing"
)

// TestParityLookup: with ALLOW_ANY_DYNAMIC_DNS undeclared requests go where their Host resolves to, whatever address the
// client connected to; what is no plain HTTP goes to that address.
func TestParityLookup(t *testing.T) {
	records := map[string]string{"undeclared.test": "10.1.0.2", "other.test": "10.1.0.3", "addressed.test": "10.1.0.3"}
	t.Run("plain", func(t *testing.T) {
		parity{config: "lookup", mesh: "lookup", records: records,
			upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.1:7000": {raw: answerAny}, "10.1.0.2:80": {}, "10.1.0.2:9999": {}, "10.1.0.3:80": {},
				"10.1.0.9:7000": {raw: answerAny}},
			prepare: func(w *world) map[string]stub {
				return map[string]stub{"10.1.0.9:443": {raw: echoTLS(w, "undeclared.test")}}
			},
			script: func(a *actor) {
				// A port that hosts have, one that hosts with addresses have, and one that nobody has.
				for _, at := range []string{"10.1.0.9:80", "10.200.31.1:81", "10.1.0.9:9999"} {
					for _, url := range []string{"http://undeclared.test/", "http://Undeclared.Test./dot", "http://undeclared.test:9999/", "http://other.test/",
						"http://missing.test/", "http://10.1.0.3/", "http://undeclared.test:1/", "http://declared.test/", "http://addressed.test/"} {
						a.do(call{url: url, at: at})
					}
					a.do(call{url: "http://undeclared.test/", at: at, fresh: true, header: []string{"x-mine: yes"}, body: "body"})
				}
				a.dictate("10.1.0.9:7000", "\x00\x01hello")
				a.dictate("10.200.31.1:82", "\x00\x01hello")
				a.handshake("TLS", "10.1.0.9:443", "undeclared.test", "hello")
			}}.run(t)
	})
	t.Run("tls", func(t *testing.T) {
		parity{config: "lookup", mesh: "lookup-tls", records: records,
			prepare: func(w *world) map[string]stub {
				w.caFile()
				return map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:443": {tls: serverTLS(w, "undeclared.test"), greet: true},
					"10.1.0.2:9999": {tls: serverTLS(w, "undeclared.test"), greet: true}, "10.1.0.3:443": {tls: serverTLS(w, "wrong.test")}}
			},
			script: func(a *actor) {
				for _, at := range []string{"10.1.0.9:80", "10.1.0.9:9999"} {
					for _, url := range []string{"http://undeclared.test/", "http://undeclared.test:9999/", "http://other.test/", "http://declared.test/"} {
						a.do(call{url: url, at: at, fresh: true})
					}
				}
			}}.run(t)
	})
}

// TestParityLookupOverflow: no more names are kept than the cache holds.
func TestParityLookupOverflow(t *testing.T) {
	const most = 1024
	parity{config: "lookup", mesh: "lookup", upstreams: map[string]stub{"10.1.0.2:80": {ignore: true}}, records: func() map[string]string {
		out := map[string]string{}
		for i := range most + 1 {
			out[fmt.Sprintf("n%d.test", i)] = "10.1.0.2"
		}
		return out
	}(),
		script: func(a *actor) {
			a.spread("names", most, func(i int) call { return call{url: fmt.Sprintf("http://n%d.test/", i), at: "10.1.0.9:9999"} })
			a.do(call{url: fmt.Sprintf("http://n%d.test/", most), at: "10.1.0.9:9999"})
		}}.run(t)
}
