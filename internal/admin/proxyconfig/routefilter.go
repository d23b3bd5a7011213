package proxyconfig

import (
	"slices"
	"sort"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// FilterRoutes gives the route configurations that match, numeric names in their order. FQDN, Port and Cluster leave out
// single virtual hosts and routes, too; what is left of such a configuration is a copy.
func FilterRoutes(all []*routev3.RouteConfiguration, f Filter) []*routev3.RouteConfiguration {
	var out []*routev3.RouteConfiguration
	for _, r := range all {
		if f.Name != "" && r.GetName() != f.Name {
			continue
		}
		if r = f.routeConfig(r); r != nil {
			out = append(out, r)
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, errA := strconv.Atoi(out[i].GetName())
		b, errB := strconv.Atoi(out[j].GetName())
		if errA != nil || errB != nil {
			return errA == nil && errB != nil
		}
		return a < b
	})
	return out
}

// routeConfig gives what matches of a route configuration, nil for nothing.
func (f Filter) routeConfig(r *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	port, known := routePort(r.GetName())
	if f.Port != 0 && known {
		if port != f.Port {
			return nil
		}
		f.Port = 0 // its virtual hosts' names need not tell it again
	}
	if f.Port == 0 && f.Cluster == "" && f.FQDN == "" {
		return r
	}
	var hosts []*routev3.VirtualHost
	for _, v := range r.GetVirtualHosts() {
		if v = f.virtualHost(v); v != nil {
			hosts = append(hosts, v)
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	out := proto.CloneOf(r)
	out.VirtualHosts = hosts
	return out
}

func (f Filter) virtualHost(v *routev3.VirtualHost) *routev3.VirtualHost {
	if !strings.Contains(v.GetName(), f.FQDN) {
		return nil
	}
	if f.Port != 0 {
		if port, known := routePort(v.GetName()); !known || port != f.Port {
			return nil
		}
	}
	if f.Cluster == "" {
		return v
	}
	var routes []*routev3.Route
	for _, x := range v.GetRoutes() {
		if leadsTo(x, f.Cluster) {
			routes = append(routes, x)
		}
	}
	if len(routes) == 0 {
		return nil
	}
	out := proto.CloneOf(v)
	out.Routes = routes
	return out
}

// leadsTo tells whether a route sends requests, or a share of them, to a cluster.
func leadsTo(r *routev3.Route, cluster string) bool {
	a := r.GetRoute()
	return strings.EqualFold(a.GetCluster(), cluster) ||
		slices.ContainsFunc(a.GetWeightedClusters().GetClusters(), func(c *routev3.WeightedCluster_ClusterWeight) bool {
			return strings.EqualFold(c.GetName(), cluster)
		})
}

// routePort reads the port out of the name of a route configuration or a virtual host, as Istio writes it: PORT, HOST:PORT,
// inbound|PORT||HOST, and a gateway's http.PORT or https.PORT.NAME.GATEWAY.NAMESPACE. Others, as http_proxy, tell none.
func routePort(name string) (port int, known bool) {
	if parts := strings.Split(name, "|"); len(parts) >= 4 {
		name = parts[1]
	} else if parts = strings.Split(name, "."); len(parts) >= 2 && (parts[0] == "http" || parts[0] == "https") {
		if port, known = portNumber(parts[1]); known {
			return port, true
		}
	}
	return portNumber(name[strings.LastIndexByte(name, ':')+1:])
}

func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0
}
