//go:build linux

package feature

import "testing"

// TestParitySpoilt gives detour another configuration than Envoy, and wants the comparison to see it: what compares two
// engines must be able to fail.
func TestParitySpoilt(t *testing.T) {
	one := map[string]stub{"10.1.0.1:8080": {}}
	for name, p := range map[string]parity{
		"match": {config: "match", upstreams: one, spoil: map[string]string{"{uri: {exact: /exact}}": "{uri: {exact: /inexact}}"},
			script: func(a *actor) { a.get("http://match.test/exact") }},
		"weights": {config: "weights", upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}}, spoil: map[string]string{"weight: 25": "weight: 75"},
			script: func(a *actor) { a.spread("weights", 1000, same(call{url: "http://one.test/"})) }},
		"redirect": {config: "redirect", spoil: map[string]string{"redirectCode: 307": "redirectCode: 308"},
			script: func(a *actor) { a.get("http://redirect.test/307") }},
		"rewrite": {config: "rewrite", upstreams: one, spoil: map[string]string{"rewrite: {uri: /new}": "rewrite: {uri: /newer}"},
			script: func(a *actor) { a.get("http://rewrite.test/prefix") }},
		"headers": {config: "headers", upstreams: one, spoil: map[string]string{"x-fresh: fresh": "x-fresh: stale"},
			script: func(a *actor) { a.get("http://headers.test/set") }},
		"retries": {config: "retries", spoil: map[string]string{"retryOn: gateway-error": "retryOn: reset"},
			prepare: func(*world) map[string]stub { return map[string]stub{"10.1.0.1:8080": {status: byCodes()}} },
			script:  func(a *actor) { a.get("http://one.test/gateway", "x-codes: 503,200") }},
		"fault": {config: "fault", upstreams: one, spoil: map[string]string{"httpStatus: 418": "httpStatus: 419"},
			script: func(a *actor) { a.get("http://fault.test/abort") }},
		"hash": {config: "hash", upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {}},
			spoil: map[string]string{"httpQueryParameterName: user": "httpQueryParameterName: x"},
			script: func(a *actor) {
				for _, user := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"} {
					a.get("http://hash.test:84/?x=y&user=" + user)
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p.difference(t) == "" {
				t.Error("nothing differs")
			}
		})
	}
}
