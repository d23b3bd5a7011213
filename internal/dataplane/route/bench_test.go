package route

import (
	"fmt"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// hostsTable has n virtual hosts as translate makes them, and a wildcard beside "*".
func hostsTable(t testing.TB, n int) *Table {
	t.Helper()
	rc := &routev3.RouteConfiguration{Name: "80", IgnorePortInHostMatching: true}
	for i := range n {
		name := fmt.Sprintf("host%04d.example.com", i)
		rc.VirtualHosts = append(rc.VirtualHosts, vhost(one(to(name, "/")), name))
	}
	rc.VirtualHosts = append(rc.VirtualHosts, vhost(one(to("wild", "/")), "*.wild.example"), vhost(one(to("any", "/")), "*"))
	tb, err := Compile(rc, false)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// BenchmarkMatch finds the last virtual host of the table, by a name with a port; the wildcard and "*" are what comes after
// a search that found nothing.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 100, 5000} {
		tb, last := hostsTable(b, n), fmt.Sprintf("host%04d.example.com", n-1)
		for _, bc := range []struct{ name, authority, want string }{
			{"exact", last + ":80", last}, {"wildcard", "a.wild.example:80", "wild"}, {"any", "nobody.example.com", "any"},
		} {
			b.Run(fmt.Sprintf("hosts=%d/%s", n, bc.name), func(b *testing.B) {
				authority, path := []byte(bc.authority), []byte("/items/4711?verbose=1")
				b.ReportAllocs()
				for b.Loop() {
					if r := tb.Match(&Query{Authority: authority, Path: path}); r == nil || r.Cluster != bc.want {
						b.Fatalf("%+v, want %s", r, bc.want)
					}
				}
			})
		}
	}
}
