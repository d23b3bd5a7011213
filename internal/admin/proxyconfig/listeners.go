package proxyconfig

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
)

// Names of what Istio's listeners hold.
const (
	hcmFilter   = "envoy.filters.network.http_connection_manager"
	tcpFilter   = "envoy.filters.network.tcp_proxy"
	blackHole   = "BlackHoleCluster"
	passthrough = "PassthroughCluster"
)

func chains(l *listenerv3.Listener) []*listenerv3.FilterChain {
	all := slices.Clone(l.GetFilterChains())
	if d := l.GetDefaultFilterChain(); d != nil {
		all = append(all, d)
	}
	return all
}

// listenerType is HTTP, TCP, HTTP+TCP or UNKNOWN, by the filters of all chains.
func listenerType(l *listenerv3.Listener) string {
	var http, tcp bool
	for _, c := range chains(l) {
		for _, f := range c.GetFilters() {
			switch f.GetName() {
			case hcmFilter:
				http = true
			case tcpFilter:
				tcp = tcp || !strings.Contains(string(f.GetTypedConfig().GetValue()), blackHole)
			}
		}
	}
	switch {
	case http && tcp:
		return "HTTP+TCP"
	case http:
		return "HTTP"
	case tcp:
		return "TCP"
	}
	return "UNKNOWN"
}

func listenerAddresses(l *listenerv3.Listener) []string {
	first := l.GetAddress().GetSocketAddress().GetAddress()
	if first == "" {
		first = l.GetAddress().GetPipe().GetPath()
	}
	all := []string{first}
	for _, a := range l.GetAdditionalAddresses() {
		all = append(all, a.GetAddress().GetSocketAddress().GetAddress())
	}
	return all
}

func listenerPort(l *listenerv3.Listener) uint32 {
	return l.GetAddress().GetSocketAddress().GetPortValue()
}

// FilterListeners gives the listeners that match, by port, address and type.
func FilterListeners(all []*listenerv3.Listener, f Filter) []*listenerv3.Listener {
	var out []*listenerv3.Listener
	for _, l := range all {
		same := func(a string) bool { return strings.EqualFold(a, f.Address) }
		if (f.Address == "" || slices.ContainsFunc(listenerAddresses(l), same)) &&
			(f.Port == 0 || listenerPort(l) == uint32(f.Port)) &&
			(f.Type == "" || strings.EqualFold(listenerType(l), f.Type)) {
			out = append(out, l)
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i], out[j]
		switch {
		case listenerPort(a) != listenerPort(b):
			return listenerPort(a) < listenerPort(b)
		case listenerAddresses(a)[0] != listenerAddresses(b)[0]:
			return listenerAddresses(a)[0] < listenerAddresses(b)[0]
		}
		return listenerType(a) < listenerType(b)
	})
	return out
}

// WriteListeners prints istioctl's table of listeners: a line for each filter chain.
func WriteListeners(w io.Writer, all []*listenerv3.Listener, f Filter) error {
	rows := [][]string{{"ADDRESSES", "PORT", "MATCH", "DESTINATION"}}
	for _, l := range FilterListeners(all, f) {
		var lines [][2]string
		for _, c := range chains(l) {
			lines = append(lines, [2]string{chainMatch(c.GetFilterChainMatch()), destination(c.GetFilters())})
		}
		sort.SliceStable(lines, func(i, j int) bool { return lines[i][1] > lines[j][1] })
		for _, line := range lines {
			rows = append(rows, []string{
				strings.Join(listenerAddresses(l), ","), strconv.FormatUint(uint64(listenerPort(l)), 10), line[0], line[1],
			})
		}
	}
	return table(w, 1, rows)
}

// alpn are the lists of application protocols that Istio writes, with istioctl's names for them.
var alpn = []struct {
	name string
	list []string
}{
	{"App: HTTP", []string{"http/1.0", "http/1.1", "h2c"}},
	{"App: HTTP TLS", []string{"http/1.0", "http/1.1", "h2c", "istio-http/1.0", "istio-http/1.1", "istio-h2"}},
	{"App: Istio HTTP Plain", []string{"istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"}},
	{"App: TCP TLS", []string{"istio-peer-exchange", "istio"}},
}

// chainMatch says which connections a filter chain takes.
func chainMatch(m *listenerv3.FilterChainMatch) string {
	var words []string
	if s := m.GetServerNames(); len(s) > 0 {
		words = append(words, "SNI: "+strings.Join(s, ","))
	}
	if t := m.GetTransportProtocol(); t != "" {
		words = append(words, "Trans: "+t)
	}
	if p := m.GetApplicationProtocols(); len(p) > 0 {
		word := "App: " + strings.Join(p, ",")
		for _, a := range alpn {
			if slices.Equal(a.list, p) {
				word = a.name
			}
		}
		words = append(words, word)
	}
	port := ""
	if m.GetDestinationPort() != nil {
		port = fmt.Sprintf(":%d", m.GetDestinationPort().GetValue())
	}
	var ranges []string
	for _, r := range m.GetPrefixRanges() {
		ranges = append(ranges, fmt.Sprintf("%s/%d", r.GetAddressPrefix(), r.GetPrefixLen().GetValue()))
	}
	switch {
	case len(ranges) > 0:
		words = append(words, "Addr: "+strings.Join(ranges, ",")+port)
	case port != "":
		words = append(words, "Addr: *"+port)
	}
	if len(words) == 0 {
		return "ALL"
	}
	return strings.Join(words, "; ")
}

// destination says where a filter chain leads.
func destination(filters []*listenerv3.Filter) string {
	for _, f := range filters {
		switch f.GetName() {
		case hcmFilter:
			m := &hcmv3.HttpConnectionManager{}
			if err := unpack(f.GetTypedConfig(), m); err != nil {
				return err.Error()
			}
			switch {
			case m.GetRouteConfig() != nil:
				return inlineRoute(m.GetRouteConfig())
			case m.GetRds().GetRouteConfigName() != "":
				return "Route: " + m.GetRds().GetRouteConfigName()
			}
			return "HTTP"
		case tcpFilter:
			m := &tcpv3.TcpProxy{}
			if err := unpack(f.GetTypedConfig(), m); err != nil {
				return err.Error()
			}
			if m.GetCluster() != blackHole {
				return toCluster(m.GetCluster())
			}
		}
	}
	return "Non-HTTP/Non-TCP"
}

// toCluster leaves Istio's own clusters, PassthroughCluster and its kin, without a prefix.
func toCluster(name string) string {
	if strings.Contains(name, "Cluster") {
		return name
	}
	return "Cluster: " + name
}

// inlineRoute says in a few words what a route table inside a listener does.
func inlineRoute(r *routev3.RouteConfiguration) string {
	if v := r.GetVirtualHosts(); len(v) == 1 && slices.Equal(v[0].GetDomains(), []string{"*"}) && len(v[0].GetRoutes()) == 1 {
		only := v[0].GetRoutes()[0]
		if c := only.GetRoute().GetCluster(); c != "" && only.GetMatch().GetPrefix() == "/" {
			return toCluster(c)
		}
	}
	var hosts []string
	for _, v := range r.GetVirtualHosts() {
		var matches []string
		for _, x := range v.GetRoutes() {
			matches = append(matches, routeMatch(x.GetMatch()))
		}
		word := strings.Join(matches, ", ")
		if !slices.Equal(v.GetDomains(), []string{"*"}) {
			word = strings.Join(v.GetDomains(), "/") + " " + word
		}
		hosts = append(hosts, word)
	}
	return "Inline Route: " + strings.Join(hosts, "; ")
}
