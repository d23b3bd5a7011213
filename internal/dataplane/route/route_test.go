package route

import (
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/xds"
)

func to(cluster string, prefix string) *routev3.Route {
	return &routev3.Route{Name: cluster, Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}}}
}

func exact(cluster, path string) *routev3.Route {
	r := to(cluster, "")
	r.Match.PathSpecifier = &routev3.RouteMatch_Path{Path: path}
	return r
}

func vhost(routes []*routev3.Route, domains ...string) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: domains[0], Domains: domains, Routes: routes}
}

func ask(authority, path string) *Query {
	return &Query{Authority: []byte(authority), Path: []byte(path)}
}

func one(r ...*routev3.Route) []*routev3.Route { return r }

func table(t testing.TB) *Table {
	t.Helper()
	tb, err := Compile(&routev3.RouteConfiguration{Name: "80", IgnorePortInHostMatching: true, VirtualHosts: []*routev3.VirtualHost{
		vhost(one(exact("exact", "/a"), to("api", "/api/"), to("rest", "/")), "MyDB.com", "mydb.com.", "240.240.0.1", "[2001:2::1]"),
		vhost(one(to("wild", "/")), "*.example.com"),
		vhost(one(to("longer", "/")), "*.eu.example.com"),
		vhost(one(to("prefix", "/")), "internal.*"),
		vhost(one(to("only", "/only")), "partial.test"),
		vhost(one(to("any", "/")), "*"),
	}}, false)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestMatch(t *testing.T) {
	tb := table(t)
	for _, c := range []struct{ authority, path, want string }{
		{"mydb.com", "/", "rest"},
		{"MYDB.com:8080", "/a", "exact"},
		{"mydb.com", "/a?b=/api/", "exact"},
		{"mydb.com", "/ab", "rest"},
		{"mydb.com.", "/api/x", "api"},
		{"mydb.com", "/api", "rest"},
		{"mydb.com", "*", "api"}, // a path of no length: the first prefix takes it
		{"240.240.0.1:80", "/", "rest"},
		{"[2001:2::1]:80", "/", "rest"},
		{"[2001:2::1]", "/", "rest"},
		{"a.example.com", "/", "wild"},
		{"a.eu.example.com", "/", "longer"},
		{"example.com", "/", "any"},
		{".example.com", "/", "any"},
		{"internal.x", "/", "prefix"},
		{"partial.test", "/", ""},
		{"partial.test", "/only", "only"},
		{"", "/", "any"},
		{strings.Repeat("x", 5000), "/", "any"},
	} {
		got := ""
		if r := tb.Match(&Query{Authority: []byte(c.authority), Path: []byte(c.path)}); r != nil {
			got = r.Cluster
		}
		if got != c.want {
			t.Errorf("%.40s %s: %q, want %q", c.authority, c.path, got, c.want)
		}
	}
	for authority, want := range map[string]bool{"mydb.com:1": true, "other.test": false, "a.example.com": true} {
		if tb.Declared([]byte(authority)) != want {
			t.Errorf("%s declared: %v", authority, !want)
		}
	}
}

func TestPort(t *testing.T) {
	for authority, want := range map[string]uint16{"a": 80, "a:8080": 8080, "[::1]": 80, "[::1]:81": 81, "a:": 80, "a:99999": 80, "": 80} {
		if got := Port([]byte(authority), 80); got != want {
			t.Errorf("%q: %d, want %d", authority, got, want)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	tb, authority, path := table(t), []byte("a.EU.example.com:80"), []byte("/x?y")
	if n := testing.AllocsPerRun(100, func() { tb.Match(&Query{Authority: authority, Path: path}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRetry(t *testing.T) {
	istio := &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
		NumRetries: wrapperspb.UInt32(2), HostSelectionRetryMaxAttempts: 5}
	own := &routev3.RetryPolicy{RetryOn: "5xx, reset", NumRetries: wrapperspb.UInt32(7), RetriableStatusCodes: []uint32{409},
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(2 * time.Second)}}
	for _, c := range []struct {
		name   string
		policy *routev3.RetryPolicy
		marked bool
		mode   RetryMode
		n      int
	}{
		{"none", nil, false, RetryNone, 0},
		{"marked", nil, true, RetryDefault, 0},
		{"own", own, false, RetryExplicit, 7},
		{"unset number", &routev3.RetryPolicy{RetryOn: "5xx"}, false, RetryExplicit, 1},
		{"Istio's, marked", istio, true, RetryDefault, 2},
		{"Istio's, asked for", istio, false, RetryExplicit, 2},
	} {
		r := to("c", "/")
		r.GetRoute().RetryPolicy = c.policy
		if c.marked {
			r.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				xds.MetadataKey: {Fields: map[string]*structpb.Value{xds.MetaDefaultRetry: structpb.NewBoolValue(true)}}}}
		}
		tb, err := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vhost(one(r), "x")}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := tb.Match(ask("x", "/")).Retry; got.Mode != c.mode || got.NumRetries != c.n {
			t.Errorf("%s: mode %d, %d retries", c.name, got.Mode, got.NumRetries)
		}
	}
	if got, err := compileRetry(istio, false, true); err != nil || got.Mode != RetryDefault {
		t.Errorf("a foreign control plane's default: mode %d, %v", got.Mode, err)
	}
}

func TestWants(t *testing.T) {
	for _, c := range []struct {
		on     string
		wants  RetryOn
		status []int
		not    []int
	}{
		{"5xx", OnReset | OnConnectFailure | OnTimeout, []int{500, 503}, []int{409, 200}},
		{"gateway-error", OnReset | OnTimeout, []int{502, 503, 504}, []int{500, 501}},
		{"connect-failure", OnConnectFailure, nil, []int{503}},
		{"reset", OnReset | OnResetBeforeRequest, nil, []int{503}},
		{"retriable-4xx", 0, []int{409}, []int{404, 500}},
		{"retriable-status-codes", 0, []int{418}, []int{503}},
		{"unavailable,cancelled", 0, nil, []int{503}},
	} {
		r, err := compileRetry(&routev3.RetryPolicy{RetryOn: c.on, RetriableStatusCodes: []uint32{418}}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		if r.On&c.wants != c.wants || c.wants == 0 && r.Wants(OnReset|OnConnectFailure|OnTimeout) {
			t.Errorf("%s wants %b", c.on, r.On)
		}
		for _, s := range c.status {
			if !r.WantsAnswer(&http1.Head{Status: s}) {
				t.Errorf("%s: not %d", c.on, s)
			}
		}
		for _, s := range c.not {
			if r.WantsAnswer(&http1.Head{Status: s}) {
				t.Errorf("%s: %d", c.on, s)
			}
		}
	}
	if _, err := compileRetry(&routev3.RetryPolicy{RetryOn: "5xx,sometimes"}, false, false); err == nil || !strings.Contains(err.Error(), `"sometimes"`) {
		t.Errorf("an unknown word: %v", err)
	}
}

// FuzzRoute: matching never fails, and doesn't depend on the case of the host or on the query.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"mydb.com", "a.eu.example.com:80", "[2001:2::1]:1", ":", "", "internal.", "*"} {
		f.Add(s, "/a?b#c")
	}
	tb := table(f)
	f.Fuzz(func(t *testing.T, authority, path string) {
		r := tb.Match(ask(authority, path))
		if again := tb.Match(ask(strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' {
				return c - 32
			}
			return c
		}, authority), path+"?x")); strings.ToValidUTF8(authority, "") == authority && r != again {
			t.Errorf("%q %q: %v and %v", authority, path, r, again)
		}
		Port([]byte(authority), 1)
	})
}
