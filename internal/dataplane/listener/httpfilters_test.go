package listener

import (
	"strings"
	"testing"

	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestHTTPFilters: a filter that would not run is refused by name.
func TestHTTPFilters(t *testing.T) {
	f := func(name string, m proto.Message) *hcmv3.HttpFilter {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}}
	}
	cors, fault, router := f("cors", &corsv3.Cors{}), f("fault", &faultv3.HTTPFault{}), f("router", &routerv3.Router{SuppressEnvoyHeaders: true})
	buffer, optional, off := f("buffer", &bufferv3.Buffer{}), f("buffer", &bufferv3.Buffer{}), f("buffer", &bufferv3.Buffer{})
	optional.IsOptional, off.Disabled = true, true
	forAll := f("fault", &faultv3.HTTPFault{Delay: &commonfaultv3.FaultDelay{}})
	for _, c := range []struct {
		name    string
		filters []*hcmv3.HttpFilter
		want    string
	}{
		{"all", []*hcmv3.HttpFilter{cors, fault, router}, ""},
		{"router", []*hcmv3.HttpFilter{{Name: "istio.stats"}, router}, ""},
		{"optional and disabled", []*hcmv3.HttpFilter{optional, off, router}, ""},
		{"unknown", []*hcmv3.HttpFilter{buffer, router}, "http_filters: buffer is not supported yet"},
		{"order", []*hcmv3.HttpFilter{fault, cors, router}, "cors behind another"},
		{"a fault for all", []*hcmv3.HttpFilter{forAll, router}, "a fault for all routes"},
	} {
		err := checkHTTPFilters(c.filters)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
