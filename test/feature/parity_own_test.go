//go:build linux

package feature

import "testing"

// TestParityOwnSockets: listeners of a Sidecar with a socket of their own, by path, by address, and as an HTTP proxy.
func TestParityOwnSockets(t *testing.T) {
	upstreams := map[string]stub{"10.1.0.1:8080": {}, "10.1.0.1:8081": {}, "10.1.0.2:7000": {raw: echo}, "10.1.0.2:8080": {raw: proxied},
		"10.200.30.4:9002": {}, "10.200.30.4:9003": {raw: echo}}
	t.Run("own", func(t *testing.T) {
		parity{config: "own", flags: []string{"--labels", "app=own"}, upstreams: upstreams,
			prepare: func(w *world) map[string]stub {
				return map[string]stub{"10.1.0.3:7443": {raw: echoTLS(w, "secure.test")}}
			},
			script: func(a *actor) {
				for _, at := range []string{"SCRATCH/h", "@detour parity", "127.0.0.1:3128", "127.0.0.3:80", "127.0.0.4:80", "127.0.0.4:8080"} {
					a.throughOwn(at)
				}
				for _, c := range []call{{url: "http://web.test:8080/", at: "10.200.30.9:8080"}, {url: "http://web.test:8080/"}, {url: "http://passed.test:9002/"}} {
					a.do(c) // redirected, as ever
				}
				a.do(call{url: "http://passed.test:9002/", at: "127.0.0.4:9002"})
				a.do(call{url: "http://raw.test:9001/", at: "127.0.0.4:9001"})
				for _, at := range []string{"SCRATCH/t", "127.0.0.4:9000", "127.0.0.4:9003", "127.0.0.4:27017", "127.0.0.4:5353",
					"10.200.30.2:27017", "10.200.30.2:3306", "10.200.30.2:6379", "10.200.30.2:5353"} {
					a.exchange("bytes at "+at, at, "hello")
				}
				a.dictate("127.0.0.4:9001", "\x00\x01 no HTTP\r\n\r\n") // a port without protocol
				for _, name := range []string{"secure.test", "nobody.test"} {
					a.handshake("TLS", "127.0.0.4:9443", name, "hello")
				}
			}}.run(t)
	})
	t.Run("registry only", func(t *testing.T) {
		parity{config: "own", flags: []string{"--labels", "app=only"}, upstreams: upstreams, script: func(a *actor) {
			a.throughOwn("127.0.0.1:3128")
			a.exchange("bytes", "127.0.0.1:9000", "hello")
		}}.run(t)
	})
}

// throughOwn asks a listener's own socket for what is declared, by all forms of its name, and for what is not.
func (a *actor) throughOwn(at string) {
	a.note("at %s", at)
	for _, c := range []call{
		{url: "http://web.test/a"}, {url: "http://web.test:80/b"}, {url: "http://web.test:8080/c"}, {url: "http://web.test:81/d"},
		{url: "http://web.test/e", target: "http://web.test/e"}, {url: "http://undeclared.test/f", target: "http://web.test:8080/f"},
		{url: "http://undeclared.test/g"}, {url: "http://undeclared.test/h", target: "http://undeclared.test/h"},
		{url: "http://10.200.30.1/i"}, {url: "http://web.test/moved"}, {url: "http://web.test:8080/moved"}, {url: "http://web.test/rewritten"},
		{url: "http://passed.test:9002/j"}, {url: "http://passed.test/k"},
	} {
		c.at = at
		a.do(c)
	}
}

// TestParityEgressProxy: what nobody declares goes to a Sidecar's egressProxy, by whatever address and port, and as
// whatever it is.
func TestParityEgressProxy(t *testing.T) {
	parity{config: "sidecar", flags: []string{"--labels", "app=through"},
		upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.9:80": {}, "10.1.0.9:9999": {}},
		script: func(a *actor) {
			for _, at := range []string{"10.1.0.9:80", "10.1.0.9:9999", "10.200.19.1:80", "10.200.19.2:80", "10.200.19.1:9999"} {
				a.do(call{url: "http://undeclared.test/", at: at})
				a.do(call{url: "http://seen.test/", at: at})
				a.do(call{url: "http://hidden.test/", at: at})
			}
			a.exchange("half a request", "10.1.0.9:9999", "GET / HTTP/1.0\r\nhost: bytes.test\r\n\r\n")
			a.handshake("TLS", "10.1.0.9:443", "undeclared.test", "hello")
		}}.run(t)
}
