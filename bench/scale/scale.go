// Package scale makes configurations of any size for benchmarks and tests.
package scale

import (
	"fmt"
	"strings"
)

// Document gives ServiceEntry and DestinationRule number i: four endpoints in four zones, one port, ejection after five
// errors. Its edits are what people change: the weight of the first endpoint, never a line more or less.
func Document(i, weight int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: host%05d}
spec:
  hosts: [host%05d.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  endpoints:
`, i, i)
	for e := range 4 {
		w := 10
		if e == 0 {
			w = weight
		}
		fmt.Fprintf(&b, "  - {address: 127.%d.%d.%d, locality: r%d/z%d, weight: %d}\n", 1+e, i>>8&0xff, i&0xff, e/2, e, w)
	}
	fmt.Fprintf(&b, `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: host%05d}
spec:
  host: host%05d.example.com
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, interval: 15s, baseEjectionTime: 1m}
`, i, i)
	return b.String()
}
