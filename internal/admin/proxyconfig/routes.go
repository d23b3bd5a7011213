package proxyconfig

import (
	"fmt"
	"io"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// WriteRoutes prints istioctl's table of routes. As there, routes to PassthroughCluster are left out, but for who asks for it.
func WriteRoutes(w io.Writer, all []*routev3.RouteConfiguration, f Filter) error {
	rows := [][]string{{"NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"}}
	for _, r := range FilterRoutes(all, f) {
		for _, v := range r.GetVirtualHosts() {
			for _, x := range v.GetRoutes() {
				if x.GetRoute().GetCluster() != passthrough || f.Cluster != "" {
					rows = append(rows, []string{
						r.GetName(), v.GetName(), domains(v.GetDomains()), routeMatch(x.GetMatch()), configOf(x.GetMetadata()),
					})
				}
			}
			if len(v.GetRoutes()) == 0 {
				rows = append(rows, []string{r.GetName(), v.GetName(), domains(v.GetDomains()), "/*", "404"})
			}
		}
	}
	return table(w, 5, rows)
}

// domains shortens a virtual host's domains: those without a port, at most two of them, and not the forms of a cluster's
// own service names that another one already says.
func domains(all []string) string {
	if len(all) == 1 {
		return all[0]
	}
	var kept []string
	for _, d := range all {
		bare := !strings.Contains(d, ":") || strings.Count(d, ":") > 2 && strings.HasSuffix(d, "]")
		long := false
		for _, suffix := range []string{".svc.cluster.local", ".svc"} {
			short, ok := strings.CutSuffix(d, suffix)
			long = long || ok && slices.Contains(all, short)
		}
		if bare && !long {
			kept = append(kept, d)
		}
	}
	if n := len(kept) - 2; n > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(kept[:2], ", "), n)
	}
	return strings.Join(kept, ", ")
}

// routeMatch says which paths a route takes.
func routeMatch(m *routev3.RouteMatch) string {
	var words []string
	if p := m.GetPrefix(); p != "" {
		words = append(words, p+"*")
	}
	if p := m.GetPathSeparatedPrefix(); p != "" {
		words = append(words, "PathPrefix:"+p)
	}
	if p := m.GetPath(); p != "" {
		words = append(words, p)
	}
	if r := m.GetSafeRegex(); r != nil {
		words = append(words, "regex "+r.GetRegex())
	}
	return strings.Join(words, " ")
}
