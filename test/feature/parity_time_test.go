//go:build linux

package feature

import (
	"testing"
	"time"
)

func TestParityTimeouts(t *testing.T) {
	parity{config: "timeouts",
		upstreams: map[string]stub{"10.1.0.1:8080": {wait: 400 * time.Millisecond}},
		script: func(a *actor) {
			a.took(call{url: "http://slow.test/short"}, 100*time.Millisecond, 390*time.Millisecond)
			a.took(call{url: "http://slow.test/retried"}, 100*time.Millisecond, 390*time.Millisecond)
			a.took(call{url: "http://slow.test/zero"}, 400*time.Millisecond, 2*time.Second)
			a.took(call{url: "http://slow.test/long"}, 400*time.Millisecond, 2*time.Second)
			a.took(call{method: "POST", url: "http://slow.test/short", body: "a body"}, 100*time.Millisecond, 390*time.Millisecond)
		}}.run(t)
}

func TestParityFault(t *testing.T) {
	parity{config: "fault", upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			const delay, late = 100 * time.Millisecond, 2 * time.Second
			for _, path := range []string{"/abort", "/never", "/grpc", "/retried", "/redirect", "/"} {
				a.get("http://fault.test" + path)
			}
			a.do(call{method: "HEAD", url: "http://fault.test/abort"})
			a.do(call{method: "POST", url: "http://fault.test/abort", body: "a body"})
			a.took(call{url: "http://fault.test/delay"}, delay, late)
			a.took(call{url: "http://fault.test/slowabort"}, delay, late)
			a.took(call{url: "http://fault.test/limited"}, delay, late)
			a.took(call{url: "http://fault.test/old"}, 0, late)
			a.took(call{method: "POST", url: "http://fault.test/delay", body: "a body"}, delay, late)
			a.spread("some", 2000, same(call{url: "http://fault.test/some"}))
			a.spread("few", 2000, same(call{url: "http://fault.test/few"}))
			a.spread("half", 1000, same(call{url: "http://fault.test/half"}))
		}}.run(t)
}
