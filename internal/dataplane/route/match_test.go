package route

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// routeOf reads a route in proto JSON.
func routeOf(t testing.TB, text string) *routev3.Route {
	t.Helper()
	r := &routev3.Route{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

// tableOf has one virtual host, which takes every host.
func tableOf(t testing.TB, routes ...string) *Table {
	t.Helper()
	vh := &routev3.VirtualHost{Name: "v", Domains: []string{"*"}}
	for _, text := range routes {
		vh.Routes = append(vh.Routes, routeOf(t, text))
	}
	tb, refused := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh}}, false)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return tb
}

// query is a GET with those header lines.
func query(t testing.TB, authority, path, headers string) *Query {
	t.Helper()
	h := &http1.Head{}
	if _, err := http1.ParseRequest([]byte("GET "+path+" HTTP/1.1\r\nHost: "+authority+"\r\n"+headers+"\r\n"), h); err != nil {
		t.Fatal(err)
	}
	return &Query{Authority: h.Authority, Path: h.Path, Head: h}
}

// TestRouteMatch holds RouteMatch's forms. The cases with headers and query parameters were seen on Envoy 1.40.
func TestRouteMatch(t *testing.T) {
	for _, c := range []struct {
		match          string
		path           string
		headers        string
		want           bool
		authorityOrDef string
	}{
		{`prefix: "/a"`, "/ab?x", "", true, ""},
		{`prefix: "/a"`, "/A", "", false, ""},
		{`prefix: "/A", case_sensitive: false`, "/ab", "", true, ""},
		{`prefix: "/a?b"`, "/a?b", "", false, ""},
		{`path: "/a"`, "/a?b", "", true, ""},
		{`path: "/a"`, "/a/", "", false, ""},
		{`path: "/a", case_sensitive: false`, "/A", "", true, ""},
		{`safe_regex: {regex: "/a|/ab"}`, "/ab?c", "", true, ""},
		{`safe_regex: {regex: "/a"}`, "/ab", "", false, ""},
		{`safe_regex: {regex: "/[0-9]+"}`, "/12x", "", false, ""},
		{`safe_regex: {regex: ".*"}`, "/x", "", true, ""},
		{`path_separated_prefix: "/a"`, "/a", "", true, ""},
		{`path_separated_prefix: "/a"`, "/a/b?c", "", true, ""},
		{`path_separated_prefix: "/a"`, "/a?c", "", true, ""},
		{`path_separated_prefix: "/a"`, "/ab", "", false, ""},

		// One value of several has to fit, none where the match is inverted; some fields are one to an Envoy.
		{`headers: [{name: "X-A", string_match: {exact: "1,2"}}]`, "/", "x-a: 1\r\nX-A: 2\r\n", false, ""},
		{`headers: [{name: "X-A", string_match: {exact: "2"}}]`, "/", "x-a: 1\r\nX-A: 2\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {exact: "2"}, invert_match: true}]`, "/", "x-a: 1\r\nX-A: 2\r\n", false, ""},
		{`headers: [{name: "x-a", string_match: {exact: "3"}, invert_match: true}]`, "/", "x-a: 1\r\nX-A: 2\r\n", true, ""},
		{`headers: [{name: "accept", string_match: {exact: "1,2"}}]`, "/", "accept: 1\r\naccept:\r\nAccept: 2\r\n", true, ""},
		{`headers: [{name: "accept", string_match: {exact: "2"}}]`, "/", "accept: 1\r\nAccept: 2\r\n", false, ""},
		{`headers: [{name: "accept", string_match: {exact: "2"}}]`, "/", "accept:\r\nAccept: 2\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {exact: "1,2"}}]`, "/", "x-a: 1, 2\r\n", false, ""},
		{`headers: [{name: "x-a", string_match: {prefix: "ab"}}]`, "/", "x-a: abc\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {suffix: "bc"}}]`, "/", "x-a: abc\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {contains: "B", ignore_case: true}}]`, "/", "x-a: abc\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {contains: "B"}}]`, "/", "x-a: abc\r\n", false, ""},
		{`headers: [{name: "x-a", string_match: {safe_regex: {regex: "a.c"}}}]`, "/", "x-a: abc\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {safe_regex: {regex: "a.c"}}}]`, "/", "x-a: abcd\r\n", false, ""},
		{`headers: [{name: "x-a", string_match: {exact: ""}}]`, "/", "x-a:\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {exact: ""}}]`, "/", "", false, ""},
		{`headers: [{name: "x-a", string_match: {exact: "1"}, invert_match: true}]`, "/", "x-a: 2\r\n", true, ""},
		{`headers: [{name: "x-a", string_match: {exact: "1"}, invert_match: true}]`, "/", "x-a: 1\r\n", false, ""},
		{`headers: [{name: "x-a", string_match: {exact: "1"}, invert_match: true}]`, "/", "", false, ""},
		{`headers: [{name: "x-a", string_match: {exact: "1"}, invert_match: true, treat_missing_header_as_empty: true}]`, "/", "", true, ""},
		{`headers: [{name: "x-a", present_match: true}]`, "/", "x-a:\r\n", true, ""},
		{`headers: [{name: "x-a", present_match: true}]`, "/", "", false, ""},
		{`headers: [{name: "x-a"}]`, "/", "x-a: 1\r\n", true, ""},
		{`headers: [{name: "x-a", present_match: false}]`, "/", "", true, ""},
		{`headers: [{name: "x-a", present_match: false}]`, "/", "x-a: 1\r\n", false, ""},
		{`headers: [{name: "x-a", present_match: true, invert_match: true}]`, "/", "", true, ""},
		{`headers: [{name: "x-a", present_match: true, invert_match: true}]`, "/", "x-a: 1\r\n", false, ""},
		{`headers: [{name: "x-a", present_match: true, treat_missing_header_as_empty: true}]`, "/", "", true, ""},
		{`headers: [{name: "x-a", range_match: {start: -1, end: 10}}]`, "/", "x-a: -1\r\n", true, ""},
		{`headers: [{name: "x-a", range_match: {start: -1, end: 10}}]`, "/", "x-a: 10\r\n", false, ""},
		{`headers: [{name: "x-a", range_match: {start: -1, end: 10}}]`, "/", "x-a: 5x\r\n", false, ""},
		{`headers: [{name: "x-a", exact_match: "1"}]`, "/", "x-a: 1\r\n", true, ""},
		{`headers: [{name: "x-a", present_match: true}, {name: "x-b", present_match: true}]`, "/", "x-a: 1\r\n", false, ""},
		{`headers: [{name: ":method", string_match: {exact: "GET"}}]`, "/", "", true, ""},
		{`headers: [{name: ":method", string_match: {exact: "POST"}}]`, "/", "", false, ""},
		{`headers: [{name: ":authority", string_match: {exact: "a.test:81"}}]`, "/", "", true, "a.test:81"},
		{`headers: [{name: "host", string_match: {exact: "a.test"}}]`, "/", "", false, "a.test:81"},
		{`headers: [{name: ":path", string_match: {exact: "/x?y"}}]`, "/x?y", "", true, ""},
		{`headers: [{name: ":scheme", string_match: {exact: "http"}}]`, "/", "", true, ""},
		{`headers: [{name: ":scheme", string_match: {exact: "https"}}]`, "/", "X-Forwarded-Proto: https\r\n", true, ""},

		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/?a=1", "", true, ""},
		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/?b&a=1&c", "", true, ""},
		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/?a=2&a=1", "", false, ""}, // the first counts
		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/?%61=1", "", false, ""},
		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/?a=%31", "", false, ""},
		{`query_parameters: [{name: "a", string_match: {exact: "1"}}]`, "/", "", false, ""},
		{`query_parameters: [{name: "a", string_match: {safe_regex: {regex: "[0-9]+"}}}]`, "/?a=12", "", true, ""},
		{`query_parameters: [{name: "a", present_match: true}]`, "/?a", "", true, ""},
		{`query_parameters: [{name: "a", present_match: true}]`, "/?aa", "", false, ""},
		{`query_parameters: [{name: "a", present_match: false}]`, "/?b", "", true, ""},
		{`query_parameters: [{name: "a", present_match: false}]`, "/?a=", "", false, ""},
		{`query_parameters: [{name: "a"}]`, "/?a=3", "", true, ""},
	} {
		if !strings.HasPrefix(c.match, "p") && !strings.HasPrefix(c.match, "s") {
			c.match = `prefix: "/", ` + c.match
		}
		if c.authorityOrDef == "" {
			c.authorityOrDef = "a.test"
		}
		m := yamlish(c.match)
		tb := tableOf(t, `{"match": {`+m+`}, "direct_response": {"status": 200}}`)
		if got := tb.Match(query(t, c.authorityOrDef, c.path, c.headers)) != nil; got != c.want {
			t.Errorf("%s, %s %q: %v", c.match, c.path, c.headers, got)
		}
	}
}

// yamlish quotes the bare keys of a table's short form.
func yamlish(s string) string {
	var b strings.Builder
	inText := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			inText = !inText
		}
		start := !inText && (i == 0 || strings.IndexByte(" {", s[i-1]) >= 0)
		if start && c >= 'a' && c <= 'z' {
			if end := strings.IndexByte(s[i:], ':'); end > 0 && !strings.ContainsAny(s[i:i+end], ` ,}"`) {
				b.WriteString(`"` + s[i:i+end] + `"`)
				i += end - 1
				continue
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// TestFraction: runtime_fraction takes those requests whose random value falls into it.
func TestFraction(t *testing.T) {
	tb := tableOf(t,
		`{"match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 25}}}, "direct_response": {"status": 201}}`,
		`{"match": {"prefix": "/"}, "direct_response": {"status": 202}}`)
	for random, want := range map[uint64]int{0: 201, 24: 201, 25: 202, 99: 202, 100: 201, 125: 202} {
		q := ask("x", "/")
		q.Random = random
		if got := tb.Match(q).Direct.Status; got != want {
			t.Errorf("%d: %d, want %d", random, got, want)
		}
	}
	for d, n := range map[typev3.FractionalPercent_DenominatorType]uint32{typev3.FractionalPercent_HUNDRED: 100,
		typev3.FractionalPercent_TEN_THOUSAND: 10000, typev3.FractionalPercent_MILLION: 1000000} {
		f := fractionOf(&typev3.FractionalPercent{Numerator: n / 2, Denominator: d})
		if !f.Hit(uint64(n/2-1)) || f.Hit(uint64(n/2)) {
			t.Errorf("half of %d: %+v", n, f)
		}
	}
}

// TestWeighted: each cluster gets its share, with what it says itself.
func TestWeighted(t *testing.T) {
	r := routeOf(t, `{"name": "w", "match": {"prefix": "/"}, "request_headers_to_add": [{"header": {"key": "x", "value": "r %REQ(:authority)%"}}], "route": {"timeout": "3s",
		"weighted_clusters": {"clusters": [
			{"name": "a", "weight": 1, "request_headers_to_add": [{"header": {"key": "x", "value": "a %REQ(:authority)%"}}], "host_rewrite_literal": "a.host"},
			{"name": "none", "weight": 0},
			{"name": "b", "weight": 3}]}}}`)
	tb, refused := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vhost(one(r), "x")}}, false)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	got := map[string]int{}
	for random := range uint64(400) {
		q := ask("x", "/")
		q.Random = random
		c := tb.Match(q)
		got[c.Cluster]++
		if c.Name != "w" || c.Host != "x" || c.Timeout.Seconds() != 3 || (c.HostRewrite == "a.host") != (c.Cluster == "a") {
			t.Fatalf("%+v", c)
		}
		var e Edit
		c.Request.Apply(&e, &http1.Head{}, &Context{Query: q, Request: &e})
		// The route's headers come after the cluster's Host.
		if got := pairs(e.Add); got != map[string]string{"a": "x:a x x:r a.host", "b": "x:r x"}[c.Cluster] {
			t.Fatalf("%s: %s", c.Cluster, got)
		}
	}
	if got["a"] != 100 || got["b"] != 300 || len(got) != 2 {
		t.Error(got)
	}
}

// TestManyHosts: wildcards are found by length, the longest first, whatever their number.
func TestManyHosts(t *testing.T) {
	rc := &routev3.RouteConfiguration{}
	for i := range 3000 {
		n := strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/100)
		rc.VirtualHosts = append(rc.VirtualHosts, vhost(one(to(n, "/")), "*."+n+".test."+string(rune('a'+i%23))))
	}
	rc.VirtualHosts = append(rc.VirtualHosts, vhost(one(to("short", "/")), "*.own"), vhost(one(to("long", "/")), "*.my.own"),
		vhost(one(to("pre", "/")), "www.*"), vhost(one(to("prelong", "/")), "www.own.*"))
	tb, _ := Compile(rc, false)
	for host, want := range map[string]string{"a.own": "short", "a.my.own": "long", "my.own": "short", "www.own": "short", "www.x": "pre", "www.own.x": "prelong", "www.": ""} {
		got := ""
		if r := tb.Match(ask(host, "/")); r != nil {
			got = r.Cluster
		}
		if got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	if n := len(tb.suffix); n > 60 {
		t.Errorf("%d lengths", n)
	}
}

// TestRefused: what is not served answers 501 alone, and is named.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ route, want string }{
		{`{"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "c"}}`, "match.grpc is not supported yet"},
		{`{"match": {"prefix": "/", "dynamic_metadata": [{}]}, "route": {"cluster": "c"}}`, "match.dynamic_metadata"},
		{`{"match": {"prefix": "/", "headers": [{"name": ""}]}, "route": {"cluster": "c"}}`, "headers[0]: name is empty"},
		{`{"match": {"prefix": "/", "headers": [{"name": "x", "string_match": {}}]}, "route": {"cluster": "c"}}`, "string_match"},
		{`{"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "c"}}`, "safe_regex"},
		{`{"match": {"connect_matcher": {}}, "route": {"cluster": "c"}}`, "match.connect_matcher"},
		{`{"match": {}, "route": {"cluster": "c"}}`, "path specifier is missing"},
		{`{"match": {"prefix": "/"}, "non_forwarding_action": {}}`, "non_forwarding_action"},
		{`{"match": {"prefix": "/"}}`, "action <nil>"},
		{`{"match": {"prefix": "/"}, "route": {"cluster_header": "x"}}`, "route.cluster_header"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "priority": "HIGH"}}`, "route.priority: HIGH"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "internal_redirect_policy": {}}}`, "route.internal_redirect_policy"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "metadata_match": {}}}`, "route.metadata_match"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "hash_policy": [{"filter_state": {"key": "k"}}]}}`, "hash_policy[0]"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\1"}}}`, "the pattern has 0 groups"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\x"}}}`, "a backslash"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "request_mirror_policies": [{"cluster_header": "x"}]}}`, "request_mirror_policies[0].cluster_header"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "retry_policy": {"retry_on": "5xx,sometimes"}}}`, `"sometimes"`},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "retry_policy": {"retry_host_predicate": [{"name": "envoy.retry_host_predicates.omit_canary_hosts"}]}}}`, "omit_canary_hosts"},
		{`{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 0}]}}}`, "add up to 0"},
		{`{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"cluster_header": "a", "weight": 1}]}}}`, "cluster.cluster_header"},
		{`{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"filename": "/etc/passwd"}}}`, "direct_response.body"},
		{`{"match": {"prefix": "/"}, "direct_response": {"status": 99}}`, "direct_response.status"},
		{`{"match": {"prefix": "/"}, "redirect": {"host_redirect": "a\r\nb"}}`, "can't be part of a URI"},
		{`{"match": {"prefix": "/"}, "redirect": {"prefix_rewrite": "/\r\nx: y"}}`, "redirect: prefix_rewrite: a control character"},
		{`{"match": {"prefix": "/"}, "redirect": {"regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\r\nx: y"}}}`, "regex_rewrite.substitution: a control character"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "host_rewrite_literal": "a\r\nx: y"}}`, "route.host_rewrite_literal: a control character"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c", "request_mirror_policies": [{"cluster": "m", "host_rewrite_literal": "a\r\nx: y"}]}}`, "[0].host_rewrite_literal: a control character"},
		{`{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1, "host_rewrite_literal": "a\r\nx: y"}]}}}`, "host_rewrite_literal: a control character"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "Host", "value": "x"}}]}`, "header host can't be changed here"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "response_headers_to_add": [{"header": {"key": "Transfer-Encoding", "value": "x"}}]}`, "transfer-encoding"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "response_headers_to_remove": ["content-length"]}`, "content-length"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "a b", "value": "x"}}]}`, "no header name"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "a", "value": "x\r\ny"}}]}`, "control character"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "a", "value": "%CEL(x)%"}}]}`, "the operator %CEL(x)%"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "a", "value": "100%"}}]}`, "single %"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"x": {"@type": "type.googleapis.com/envoy.config.core.v3.Locality"}}}`, "typed_per_filter_config[x] is not supported yet"},
		{`{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"f": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "abort": {"header_abort": {}}}}}`, "fault.abort"},
	} {
		r := routeOf(t, c.route)
		tb, refused := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{
			vhost(one(r, to("later", "/")), "x"), vhost(one(to("y", "/")), "y")}}, false)
		if len(refused) != 1 || !strings.Contains(refused[0].Error(), c.want) || !strings.Contains(refused[0].Error(), "virtual_hosts[x].routes[0]") {
			t.Errorf("%s: %v", c.route, refused)
		}
		if got := tb.Match(ask("x", "/")); got == nil || got.Direct == nil || got.Direct.Status != 501 || !got.Plain {
			t.Errorf("%s: %+v, want 501, not the next route", c.route, got)
		}
		if got := tb.Match(ask("y", "/")); got == nil || got.Cluster != "y" {
			t.Errorf("%s: another host: %+v", c.route, got)
		}
	}
}

// TestRefusedScope: what a virtual host or the whole configuration asks for and isn't served refuses their routes.
func TestRefusedScope(t *testing.T) {
	tls := vhost(one(to("a", "/")), "a")
	tls.RequireTls = routev3.VirtualHost_ALL
	tb, refused := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{tls, vhost(one(to("b", "/")), "b"), vhost(one(to("c", "/")), "B")}}, false)
	if len(refused) != 2 || !strings.Contains(refused[0].Error(), "require_tls") || !strings.Contains(refused[1].Error(), `"B" has a virtual host already`) {
		t.Error(refused)
	}
	if tb.Match(ask("a", "/")).Direct == nil || tb.Match(ask("b", "/")).Cluster != "b" {
		t.Error("the wrong routes are refused")
	}
	if _, refused := Compile(&routev3.RouteConfiguration{InternalOnlyHeaders: []string{"x"}, VirtualHosts: []*routev3.VirtualHost{vhost(one(to("b", "/")), "b")}}, false); len(refused) != 1 {
		t.Error(refused)
	}
	bad := vhost(one(to("a", "/")), "a")
	bad.RequestHeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: ":path", Value: "x"}}}
	if _, refused := Compile(&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{bad}}, false); len(refused) != 1 || !strings.Contains(refused[0].Error(), ":path") {
		t.Error(refused)
	}
}

// TestSpecialMatchAllocatesNothing: matching by headers, regular expressions and weights allocates nothing once warm.
func TestSpecialMatchAllocatesNothing(t *testing.T) {
	tb := tableOf(t,
		`{"match": {"safe_regex": {"regex": "/no.*"}}, "route": {"cluster": "c"}}`,
		`{"match": {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "1,3"}}]}, "route": {"cluster": "c"}}`,
		`{"match": {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"contains": "V"}}]}, "route": {"cluster": "c"}}`,
		`{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]}}}`)
	q := query(t, "a.test", "/yes?q=v", "x-a: 1\r\nx-a: 2\r\n")
	tb.Match(q)
	if n := testing.AllocsPerRun(100, func() { tb.Match(q) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
