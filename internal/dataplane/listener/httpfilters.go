package listener

import (
	"fmt"
	"slices"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// What the engine knows of http_filters: cors and fault, which routes configure, the dynamic forward proxy and the router, in that order. Istio's own
// only observe.
var (
	servedFilters = []string{
		"envoy.extensions.filters.http.cors.v3.Cors",
		"envoy.extensions.filters.http.fault.v3.HTTPFault",
		// Requests for a dynamic forward proxy's cluster are looked up with or without it.
		"envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
		"envoy.extensions.filters.http.router.v3.Router",
	}
	observingFilters = []string{"istio.metadata_exchange", "istio.stats", "istio.alpn", "envoy.filters.http.grpc_stats"}
)

// checkHTTPFilters names a filter whose work would be left undone, or one that stands where Envoy would run it in another
// order.
func checkHTTPFilters(filters []*hcmv3.HttpFilter) error {
	last := -1
	for _, f := range filters {
		if f.GetDisabled() || slices.Contains(observingFilters, f.GetName()) {
			continue
		}
		kind := f.GetTypedConfig().GetTypeUrl()
		at := slices.Index(servedFilters, kind[strings.LastIndexByte(kind, '/')+1:])
		switch {
		case at < 0 && f.GetIsOptional():
			continue
		case at < 0:
			return fmt.Errorf("http_filters: %s is not supported yet", f.GetName())
		case at <= last:
			return fmt.Errorf("http_filters: %s behind another is not supported yet; served: cors, fault, dynamic_forward_proxy, router", f.GetName())
		case servedFilters[at] == servedFilters[1] && len(f.GetTypedConfig().GetValue()) > 0:
			return fmt.Errorf("http_filters: a fault for all routes (%s) is not supported yet; give it to routes", f.GetName())
		}
		last = at
	}
	return nil
}
