package translate_test

import (
	"testing"
)

// TestChainsShareNoAddress: two hosts with TLS on one port that share one of their addresses. Envoy refuses a listener in which
// two chains match the same, so the first keeps the address.
func TestChainsShareNoAddress(t *testing.T) {
	const yaml = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.example.com], addresses: [10.20.0.1, 10.20.0.2], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b}
spec: {hosts: [b.example.com], addresses: [10.20.0.2, 10.20.0.3], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
`
	s, _ := compile(t, yaml, inEast())
	if len(s.Listeners) != 1 {
		t.Fatalf("listeners %v", s.Listeners)
	}
	seen, ranges := map[string]bool{}, 0
	for _, ch := range s.Listeners[0].FilterChains {
		names := ch.FilterChainMatch.GetServerNames()
		if len(names) == 0 {
			names = []string{""}
		}
		for _, r := range ch.FilterChainMatch.GetPrefixRanges() {
			for _, n := range names {
				key := n + " " + r.AddressPrefix
				if seen[key] {
					t.Errorf("two chains match %q", key)
				}
				seen[key] = true
			}
			ranges++
		}
	}
	if !seen[" 10.20.0.1"] || !seen[" 10.20.0.2"] || !seen[" 10.20.0.3"] || ranges < 3 {
		t.Errorf("addresses matched: %v", seen)
	}
}
