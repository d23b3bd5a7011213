package proxyconfig

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// weighted is a route configuration with two virtual hosts, one of which splits its requests.
func weighted(t *testing.T, name string) *routev3.RouteConfiguration {
	t.Helper()
	r := &routev3.RouteConfiguration{}
	if err := (decode([]byte(`{"name": "`+name+`", "virtual_hosts": [
		{"name": "a.com:80", "domains": ["a.com"], "routes": [
			{"match": {"prefix": "/one"}, "route": {"cluster": "outbound|80||a.com"}},
			{"match": {"prefix": "/two"}, "route": {"weighted_clusters": {"clusters": [
				{"name": "outbound|80|v1|a.com", "weight": 1}, {"name": "outbound|80|v2|a.com", "weight": 0}]}}}]},
		{"name": "b.com:81", "domains": ["b.com"], "routes": [
			{"match": {"prefix": "/three"}, "redirect": {"path_redirect": "/"}},
			{"match": {"prefix": "/four"}, "route": {"cluster": "outbound|81||b.com"}}]}]}`), r)); err != nil {
		t.Fatal(err)
	}
	return r
}

// paths are the matches of the routes in a table and in JSON, which must be of the same.
func paths(t *testing.T, all []*routev3.RouteConfiguration, f Filter) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteRoutes(&b, all, f); err != nil {
		t.Fatal(err)
	}
	var table []string
	for line := range strings.Lines(b.String()) {
		if w := strings.Fields(line); w[0] != "NAME" {
			table = append(table, w[3])
		}
	}
	j, err := ToJSON(FilterRoutes(all, f))
	if err != nil {
		t.Fatal(err)
	}
	var out []struct {
		VirtualHosts []struct {
			Routes []struct{ Match struct{ Prefix string } }
		}
	}
	if err := json.Unmarshal(j, &out); err != nil {
		t.Fatal(err)
	}
	var raw []string
	for _, r := range out {
		if len(r.VirtualHosts) == 0 {
			t.Errorf("%+v: an empty configuration: %s", f, j)
		}
		for _, v := range r.VirtualHosts {
			for _, x := range v.Routes {
				raw = append(raw, x.Match.Prefix+"*")
			}
		}
	}
	if !slices.Equal(table, raw) {
		t.Errorf("%+v: the table has %q, JSON %q", f, table, raw)
	}
	return strings.Join(table, " ")
}

// Routes are left out by port, cluster and host, in a table as in JSON, whatever says the port.
func TestFilterRoutes(t *testing.T) {
	const everything = "/one* /two* /three* /four*"
	for _, tt := range []struct {
		name string
		f    Filter
		want string
	}{
		{"80", Filter{}, everything},
		{"80", Filter{Port: 80}, everything},
		{"80", Filter{Port: 81}, ""},
		{"80", Filter{Port: 8}, ""},
		{"mydb.com:80", Filter{Port: 80}, everything},
		{"mydb.com:80", Filter{Port: 9}, ""},
		{"http.8080", Filter{Port: 8080}, everything},
		{"https.443.web.gw.ns", Filter{Port: 443}, everything},
		{"inbound|9080||", Filter{Port: 9080}, everything},
		{"http_proxy", Filter{Port: 80}, "/one* /two*"},
		{"http_proxy", Filter{Port: 81}, "/three* /four*"},
		{"http_proxy", Filter{Port: 9}, ""},
		{"80", Filter{Cluster: "outbound|80||a.com"}, "/one*"},
		{"80", Filter{Cluster: "OUTBOUND|80|v2|a.com"}, "/two*"},
		{"80", Filter{Cluster: "outbound|80||x"}, ""},
		{"80", Filter{Cluster: "outbound|80||"}, ""},
		{"81", Filter{Port: 81, Cluster: "outbound|81||b.com"}, "/four*"},
		{"81", Filter{Port: 80, Cluster: "outbound|81||b.com"}, ""},
		{"80", Filter{FQDN: "b.c"}, "/three* /four*"},
		{"80", Filter{FQDN: "b.c", Cluster: "outbound|80||a.com"}, ""},
		{"80", Filter{Name: "81"}, ""},
	} {
		r := weighted(t, tt.name)
		before := proto.CloneOf(r)
		if got := paths(t, []*routev3.RouteConfiguration{r}, tt.f); got != tt.want {
			t.Errorf("%s, %+v: %q, want %q", tt.name, tt.f, got, tt.want)
		}
		if !proto.Equal(r, before) {
			t.Errorf("%s, %+v: what was given is changed", tt.name, tt.f)
		}
	}
}

// A dump's routes by port, and the table of everything with them; PassthroughCluster is shown to who asks for it.
func TestFilterRoutesOfDump(t *testing.T) {
	a, err := fromFile(t, "istio.json").All(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{Port: 80}, "80 80 80 80 80"},
		{Filter{Port: 8080}, "8080"},
		{Filter{Port: 9}, ""},
		{Filter{Cluster: "z"}, "80"},
		{Filter{Cluster: "PassthroughCluster"}, "80"},
	} {
		var b, whole bytes.Buffer
		if err := WriteRoutes(&b, a.Routes, tt.f); err != nil {
			t.Fatal(err)
		}
		if got := firstColumn(b.String()); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.f, got, tt.want)
		}
		if err := a.Write(&whole, tt.f, false); err != nil || !strings.Contains(whole.String(), "\n\n"+b.String()) {
			t.Errorf("%+v: %v, without these routes:\n%s", tt.f, err, whole.String())
		}
	}
}

func FuzzRoutePort(f *testing.F) {
	for _, s := range []string{"80", "mydb.com:80", "inbound|9080||", "https.443.web.gw.ns", "http.x", "http.example.com:80", "http_proxy", "[::1]:80", "", ":", "0", "65536"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if port, known := routePort(s); known && (port < 1 || port > 65535) {
			t.Errorf("%q: %d", s, port)
		}
	})
}
