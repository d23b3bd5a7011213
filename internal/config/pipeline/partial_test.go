package pipeline

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"detour.dev/detour/internal/config/source"
)

// TestAllProblemsAtOnce: an object that can't be read as a whole is validated as far as it can, without complaints that
// only follow from what is unreadable.
func TestAllProblemsAtOnce(t *testing.T) {
	const yaml = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: t}
spec:
  hosts: [t.test]
  ports: [{number: 80, name: http, protocol: HTTPP}, 5, {number: 99999, name: x, protocol: TCP}]
  resolution: STATICC
  endpoints: [{address: t.test, locality: a, weigth: 1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: u}
spec:
  hosts: [u.test]
  ports: [{number: 80, name: http, protocol: HTTPP}]
  endpoint: [{address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: t}
spec:
  host: t.test
  trafficPolicy:
    loadBalancer: {simple: ROUNDROBIN}
    outlierDetection: {baseEjectionTime: 0.1ms, maxEjectionPercent: 200}
    tls: {mode: MUTUALL, clientCertificate: a, credentialName: b}
`
	s := newStore()
	now := time.Now()
	s.update(source.Update{Files: []source.File{{Name: "f", Data: []byte(yaml)}}}, now)
	s.advance(now, true)
	var got []string
	for _, i := range sortIssues(s.result().issues) {
		got = append(got, strings.TrimPrefix(i.Object.Name+" "+i.Field, " "))
	}
	want := []string{
		"t spec.ports[1]", "t spec.resolution", "t spec.endpoints[0].weigth",
		"u spec.ports[0].protocol", "u spec.endpoint",
		"t spec.trafficPolicy.loadBalancer.simple", "t spec.trafficPolicy.outlierDetection.baseEjectionTime",
		"t spec.trafficPolicy.outlierDetection.maxEjectionPercent", "t spec.trafficPolicy.tls.mode",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
