package dataplane_test

import (
	"bufio"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// saw answers with the request as it arrived: its line, then its fields in order with names in lower case.
func saw(who string) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		for {
			text := who + "\n"
			var line string
			var err error
			length := 0
			for line != "\r\n" {
				if line, err = c.R.ReadString('\n'); err != nil {
					return
				}
				if name, value, found := strings.Cut(line, ":"); found && !strings.Contains(name, " ") {
					line = strings.ToLower(name) + ":" + value
					if line := strings.TrimSpace(line); strings.HasPrefix(line, "content-length:") {
						length = int(line[len(line)-1] - '0')
					}
				}
				text += strings.TrimSpace(line) + "\n"
			}
			if _, err := c.R.Discard(length); err != nil {
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nX-R: a\r\nX-R: b\r\nVary: v\r\nServer: up\r\nContent-Length: " + itoa(len(text)) + "\r\n\r\n" + text)
		}
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// routed is a Plane for svc.test with those routes, in proto JSON; CLUSTER, SECOND and DEAD stand for its clusters' names.
// opts change the virtual host.
func routed(t *testing.T, o dataplane.Options, first, second netip.AddrPort, routes []string, opts ...func(*routev3.VirtualHost)) (*planetest.Plane, planetest.Service) {
	t.Helper()
	s, other, dead := planetest.One(first), planetest.One(second), planetest.One(planetest.Refused(t))
	other.Host, other.VIP = "second.test", netip.MustParseAddr("240.240.0.2")
	dead.Host, dead.VIP = "dead.test", netip.MustParseAddr("240.240.0.3")
	p := planetest.Start(t, o, s, other, dead)
	snap := planetest.Snapshot(s, other, dead)
	names := strings.NewReplacer("CLUSTER", s.ClusterName(), "SECOND", other.ClusterName(), "DEAD", dead.ClusterName())
	vh := snap.Routes[0].VirtualHosts[0]
	vh.Routes = nil
	for _, text := range routes {
		r := &routev3.Route{}
		if err := protojson.Unmarshal([]byte(names.Replace(text)), r); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		vh.Routes = append(vh.Routes, r)
	}
	for _, f := range opts {
		f(vh)
	}
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatalf("rejected: %+v", r.Rejected)
	}
	return p, s
}

// ask sends one request with those header lines, and reads the answer.
func ask(t *testing.T, p *planetest.Plane, s planetest.Service, method, path, headers string) planetest.Answer {
	t.Helper()
	c := p.Dial(s.Address())
	defer c.Close()
	c.Send(method + " " + path + " HTTP/1.1\r\nHost: svc.test\r\n" + headers + "\r\n")
	return c.Read(method)
}

// heads writes an answer's fields, sorted, names in lower case, without those of every answer.
func heads(h http.Header) string {
	var out []string
	for name, values := range h {
		if name != "Content-Length" && name != "Connection" {
			out = append(out, strings.ToLower(name)+"="+strings.Join(values, "|"))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func hdr(key, value, action string) string {
	return `{"header": {"key": "` + key + `", "value": "` + value + `"}, "append_action": "` + action + `"}`
}

const (
	overwrite = "OVERWRITE_IF_EXISTS_OR_ADD"
	appended  = "APPEND_IF_EXISTS_OR_ADD"
)

// TestRoutesEndToEnd: what clients get and endpoints see, as seen on Envoy 1.40 with the same routes.
func TestRoutesEndToEnd(t *testing.T) {
	up := planetest.NewUpstream(t, saw("first"))
	second := planetest.NewUpstream(t, saw("second"))
	p, s := routed(t, dataplane.Options{}, up.Addr, second.Addr, []string{
		`{"match": {"path": "/redir"}, "redirect": {"path_redirect": "/new"}, "response_headers_to_add": [` + hdr("x-z", "1", appended) + `]}`,
		`{"match": {"path": "/redirq"}, "redirect": {"path_redirect": "/new?z=1"}}`,
		`{"match": {"path": "/redirs"}, "redirect": {"scheme_redirect": "https", "response_code": "FOUND"}}`,
		`{"match": {"path": "/redirhttps"}, "redirect": {"https_redirect": true, "port_redirect": 8443, "response_code": "SEE_OTHER"}}`,
		`{"match": {"path": "/redirp"}, "redirect": {"port_redirect": 8080, "response_code": "TEMPORARY_REDIRECT"}}`,
		`{"match": {"path": "/redirh"}, "redirect": {"host_redirect": "other.com", "strip_query": true, "response_code": "PERMANENT_REDIRECT"}}`,
		`{"match": {"prefix": "/redirpre"}, "redirect": {"prefix_rewrite": "/zz"}}`,
		`{"match": {"prefix": "/redirrx"}, "redirect": {"regex_rewrite": {"pattern": {"regex": "^/redirrx/(.*)$"}, "substitution": "/q/\\1/\\0"}}}`,
		`{"match": {"path": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "hello"}}, "response_headers_to_add": [` + hdr("content-type", "text/html", overwrite) + `]}`,
		`{"match": {"path": "/bytes"}, "direct_response": {"status": 503, "body": {"inline_bytes": "aGVsbG8="}}}`,
		`{"match": {"path": "/direct302"}, "direct_response": {"status": 302}}`,
		`{"match": {"path": "/direct204"}, "direct_response": {"status": 204}}`,
		`{"match": {"prefix": "/p/"}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/"}}`,
		`{"match": {"prefix": "/PI/", "case_sensitive": false}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/x"}}`,
		`{"match": {"safe_regex": {"regex": "/rx/[a-z]+"}}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/whole"}}`,
		`{"match": {"prefix": "/rr"}, "route": {"cluster": "CLUSTER", "regex_rewrite": {"pattern": {"regex": "r"}, "substitution": "(\\0\\\\)"}}}`,
		`{"match": {"prefix": "/gone"}, "route": {"cluster": "CLUSTER", "regex_rewrite": {"pattern": {"regex": ".*"}, "substitution": ""}}}`,
		`{"match": {"path_separated_prefix": "/sep"}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/s"}}`,
		`{"match": {"path": "/host"}, "route": {"cluster": "CLUSTER", "host_rewrite_literal": "new.host:8080"}}`,
		`{"match": {"path": "/dead"}, "route": {"cluster": "DEAD"}, "response_headers_to_add": [` + hdr("x-z", "1", appended) + `]}`,
		`{"match": {"path": "/nocluster"}, "route": {"cluster": "nope"}, "response_headers_to_add": [` + hdr("x-z", "1", appended) + `]}`,
		`{"match": {"path": "/no404"}, "route": {"cluster": "nope", "cluster_not_found_response_code": "NOT_FOUND"}}`,
		`{"match": {"path": "/second"}, "route": {"cluster": "SECOND"}}`,
		`{"match": {"path": "/count"}, "route": {"cluster": "CLUSTER"}}`,
	})
	for _, c := range []struct {
		path, headers string
		status        int
		fields        string
		first         string // of the request as the endpoint saw it, or the body
	}{
		{"/redir?x=1", "", 301, "location=http://svc.test/new?x=1 x-z=1", ""},
		{"/redirq?x=1", "", 301, "location=http://svc.test/new?z=1", ""},
		{"/redirs?x", "", 302, "location=https://svc.test/redirs?x", ""},
		{"/redirhttps", "", 303, "location=https://svc.test:8443/redirhttps", ""},
		{"/redirp", "", 307, "location=http://svc.test:8080/redirp", ""},
		{"/redirp", "X-Forwarded-Proto: https\r\n", 307, "location=https://svc.test:8080/redirp", ""},
		{"/redirh?x=1", "", 308, "location=http://other.com/redirh", ""},
		{"/redirpre/a?b", "", 301, "location=http://svc.test/zz/a?b", ""},
		{"/redirrx/abc?d=e", "", 301, "location=http://svc.test/q/abc//redirrx/abc?d=e", ""},
		{"/direct", "", 200, "content-type=text/html", "hello"},
		{"/bytes", "", 503, "content-type=text/plain", "hello"},
		{"/direct302?x", "", 302, "location=http://svc.test/direct302?x", ""},
		{"/direct204", "", 204, "", ""},
		{"/p/x/p/?p", "", 200, "server=up vary=v x-r=a|b", "GET /x/p/?p HTTP/1.1"},
		{"/pi/abc", "", 200, "server=up vary=v x-r=a|b", "GET /xabc HTTP/1.1"},
		{"/rx/abc?q", "", 200, "server=up vary=v x-r=a|b", "GET /whole?q HTTP/1.1"},
		{"/rx/abc1", "", 404, "", ""},
		{"/rr?r", "", 200, "server=up vary=v x-r=a|b", `GET /(r\)(r\)?r HTTP/1.1`},
		{"/gone?x", "", 200, "server=up vary=v x-r=a|b", "GET /?x HTTP/1.1"},
		{"/sep", "", 200, "server=up vary=v x-r=a|b", "GET /s HTTP/1.1"},
		{"/sep/a?b", "", 200, "server=up vary=v x-r=a|b", "GET /s/a?b HTTP/1.1"},
		{"/sepa", "", 404, "", ""},
		{"/host", "", 200, "server=up vary=v x-r=a|b", "GET /host HTTP/1.1\nhost: new.host:8080"},
		{"/dead", "", 503, "content-type=text/plain x-z=1", ""},
		{"/nocluster", "", 503, "x-z=1", ""},
		{"/no404", "", 404, "", ""},
		{"/second", "", 200, "server=up vary=v x-r=a|b", "GET /second HTTP/1.1"},
	} {
		a := ask(t, p, s, "GET", c.path, c.headers)
		_, body, found := strings.Cut(a.Text, "\n")
		if !found {
			body = a.Text
		}
		if a.StatusCode != c.status || heads(a.Header) != c.fields || !strings.HasPrefix(body, c.first) {
			t.Errorf("%s: %d %s\n%s\nwant %d %s\n%s", c.path, a.StatusCode, heads(a.Header), a.Text, c.status, c.fields, c.first)
		}
	}
}

// TestHeaderOperations: levels, actions and operators, as seen on Envoy 1.40.
func TestHeaderOperations(t *testing.T) {
	up := planetest.NewUpstream(t, saw("first"))
	level := func(l string) string {
		return hdr("x-l", l, appended) + "," + hdr("x-s", l, overwrite)
	}
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{
		`{"match": {"path": "/set"}, "route": {"cluster": "CLUSTER"}, "request_headers_to_add": [` +
			hdr("X-A", "%REQ(x-b)%|100%%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%PROTOCOL%|%REQ(nope?x-c):2%", overwrite) + "," + hdr("x-m", "%REQ(nope)%", appended) + "," +
			hdr("x-a", "app", appended) + "," + hdr("x-abs", "1", "ADD_IF_ABSENT") + "," + hdr("x-c", "1", "ADD_IF_ABSENT") + "," + hdr("x-ow", "1", "OVERWRITE_IF_EXISTS") + "," +
			hdr("x-gone", "new", appended) + "," + hdr("User-Agent", "more", appended) + "," + hdr("cookie", "c=1", appended) + `],
		 "request_headers_to_remove": ["X-Gone", "x-b"],
		 "response_headers_to_add": [` + hdr("x-r", "c", overwrite) + "," + hdr("x-p", "100%%,%RESPONSE_CODE%,%RESP(vary)%,%REQ(x-c)%", overwrite) + "," + hdr("vary", "more", appended) + "," + hdr("x-q", "1", appended) + `],
		 "response_headers_to_remove": ["SERVER"]}`,
		`{"match": {"path": "/levels"}, "request_headers_to_add": [` + level("r") + `], "route": {"weighted_clusters": {"clusters": [{"name": "CLUSTER", "weight": 1,
		  "host_rewrite_literal": "w.host", "request_headers_to_add": [` + level("w") + `]}]}}}`,
	}, func(vh *routev3.VirtualHost) {
		r := &routev3.VirtualHost{}
		if err := protojson.Unmarshal([]byte(`{"request_headers_to_add": [`+level("vh")+`], "include_request_attempt_count": true}`), r); err != nil {
			t.Fatal(err)
		}
		vh.RequestHeadersToAdd, vh.IncludeRequestAttemptCount = r.RequestHeadersToAdd, true
	})
	for _, c := range []struct{ path, headers, fields, seen string }{
		{"/set", "X-A: o1\r\nx-a: o2\r\nx-b: bee\r\nx-c: own\r\nx-gone: old\r\nx-ow: own\r\nUser-Agent: me\r\nCookie: a=b\r\n",
			"vary=v,more x-p=100%,200,v,own x-q=1 x-r=c",
			"host: svc.test\nx-c: own\ncookie: a=b\nx-a: |100%|127.77.0.1|HTTP/1.1|ow\nx-ow: 1\nx-a: app\nx-abs: 1\nx-gone: new\nuser-agent: me,more\ncookie: c=1\nx-s: vh\nx-l: vh\nx-envoy-attempt-count: 1\n"},
		{"/set", "", "vary=v,more x-p=100%,200,v,1 x-q=1 x-r=c",
			"host: svc.test\nx-a: |100%|127.77.0.1|HTTP/1.1|\nx-a: app\nx-abs: 1\nx-c: 1\nx-gone: new\nuser-agent: more\ncookie: c=1\nx-s: vh\nx-l: vh\nx-envoy-attempt-count: 1\n"},
		{"/levels", "x-l: own\r\nx-s: own\r\nX-Envoy-Attempt-Count: 7\r\n", "server=up vary=v x-r=a|b",
			"host: w.host\nx-l: own\nx-l: w\nx-l: r\nx-s: vh\nx-l: vh\nx-envoy-attempt-count: 1\n"},
	} {
		a := ask(t, p, s, "GET", c.path, c.headers)
		_, seen, _ := strings.Cut(a.Text, "HTTP/1.1\n")
		if seen = strings.TrimSuffix(seen, "\n"); seen != c.seen || heads(a.Header) != c.fields {
			t.Errorf("%s %q: %s\n%s\nwant %s\n%s", c.path, c.headers, heads(a.Header), seen, c.fields, c.seen)
		}
	}
}

const corsFilter = `"envoy.filters.http.cors": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy", `
const faultFilter = `"envoy.filters.http.fault": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", `

// TestCORS: preflights and answers, as seen on Envoy 1.40.
func TestCORS(t *testing.T) {
	up := planetest.NewUpstream(t, saw("first"))
	zed := `"response_headers_to_add": [` + hdr("x-z", "1", appended) + `]`
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{
		`{"match": {"path": "/cors"}, "route": {"cluster": "CLUSTER"}, ` + zed + `, "typed_per_filter_config": {` + corsFilter + `"allow_origin_string_match":
		  [{"exact": "http://o"}, {"prefix": "http://p"}, {"safe_regex": {"regex": "http://r[0-9]"}}], "allow_methods": "GET,POST", "allow_headers": "*",
		  "expose_headers": "x-r", "max_age": "60", "allow_credentials": true}}}`,
		`{"match": {"path": "/nf"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + corsFilter + `"allow_origin_string_match": [{"exact": "http://o"}],
		  "forward_not_matching_preflights": false, "allow_methods": "GET"}}}`,
		`{"match": {"path": "/off"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + corsFilter + `"allow_origin_string_match": [{"exact": "http://o"}],
		  "filter_enabled": {"default_value": {"numerator": 0}}}}}`,
		`{"match": {"path": "/dead"}, "route": {"cluster": "DEAD"}, "typed_per_filter_config": {` + corsFilter + `"allow_origin_string_match": [{"exact": "http://o"}]}}}`,
		`{"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x"}, "typed_per_filter_config": {` + corsFilter + `"allow_origin_string_match": [{"exact": "http://o"}]}}}`,
	})
	const preflight = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-y\r\n"
	const upstream, allowed = "server=up vary=v x-r=a|b", "access-control-allow-credentials=true access-control-allow-origin=http://o access-control-expose-headers=x-r "
	for _, c := range []struct {
		method, path, headers string
		status                int
		fields                string
	}{
		{"GET", "/cors", "Origin: http://o\r\n", 200, allowed + upstream + " x-z=1"},
		{"GET", "/cors", "Origin: http://pq\r\n", 200, strings.Replace(allowed, "//o", "//pq", 1) + upstream + " x-z=1"},
		{"GET", "/cors", "Origin: http://r7\r\n", 200, strings.Replace(allowed, "//o", "//r7", 1) + upstream + " x-z=1"},
		{"GET", "/cors", "Origin: http://bad\r\n", 200, upstream + " x-z=1"},
		{"GET", "/cors", "", 200, upstream + " x-z=1"},
		{"OPTIONS", "/cors", "Origin: http://o\r\n", 200, allowed + upstream + " x-z=1"},
		{"OPTIONS", "/cors", "Origin: http://o\r\n" + preflight, 200, "access-control-allow-credentials=true access-control-allow-headers=x-y access-control-allow-methods=GET,POST access-control-allow-origin=http://o access-control-expose-headers=x-r access-control-max-age=60"},
		{"OPTIONS", "/cors", "Origin: http://bad\r\n" + preflight, 200, upstream + " x-z=1"},
		{"OPTIONS", "/nf", "Origin: http://bad\r\n" + preflight, 200, "access-control-allow-methods=GET"},
		{"GET", "/nf", "Origin: http://bad\r\n", 200, upstream},
		{"GET", "/off", "Origin: http://o\r\n", 200, upstream},
		{"GET", "/dead", "Origin: http://o\r\n", 503, "access-control-allow-origin=http://o content-type=text/plain"},
		{"GET", "/redirect", "Origin: http://o\r\n", 301, "location=http://svc.test/x"}, // the filter leaves redirects alone
	} {
		a := ask(t, p, s, c.method, c.path, c.headers)
		if a.StatusCode != c.status || heads(a.Header) != c.fields {
			t.Errorf("%s %s %q: %d %s\nwant %d %s", c.method, c.path, c.headers, a.StatusCode, heads(a.Header), c.status, c.fields)
		}
	}
	if st := &p.Stats.HTTP("0.0.0.0_80").CORS; st.OriginValid.Value() != 6 || st.OriginInvalid.Value() != 4 {
		t.Errorf("%d origins are valid and %d are not, want 6 and 4", st.OriginValid.Value(), st.OriginInvalid.Value())
	}
}

// TestFaults: delays and aborts, for the share of the requests that they are for.
func TestFaults(t *testing.T) {
	up := planetest.NewUpstream(t, saw("first"))
	var random atomic.Uint64
	abort := func(percent string) string {
		return `"typed_per_filter_config": {` + faultFilter + `"abort": {"http_status": 418, "percentage": {"numerator": ` + percent + `}}}}}`
	}
	p, s := routed(t, dataplane.Options{Rand: random.Load}, up.Addr, up.Addr, []string{
		`{"match": {"path": "/abort"}, "route": {"cluster": "CLUSTER"}, "response_headers_to_add": [` + hdr("x-z", "1", appended) + `],` + abort("100"),
		`{"match": {"path": "/half"}, "route": {"cluster": "CLUSTER"}, ` + abort("50"),
		`{"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x"}, ` + abort("100"),
		`{"match": {"path": "/grpc"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + faultFilter + `"abort": {"grpc_status": 14, "percentage": {"numerator": 100}}}}}`,
		`{"match": {"path": "/delay"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + faultFilter + `"delay": {"fixed_delay": "0.2s", "percentage": {"numerator": 100}}}}}`,
		`{"match": {"path": "/both"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + faultFilter + `"delay": {"fixed_delay": "0.2s", "percentage": {"numerator": 500000, "denominator": "MILLION"}}, "abort": {"http_status": 503, "percentage": {"numerator": 100}}}}}`,
		`{"match": {"path": "/some"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + faultFilter + `"headers": [{"name": "x-fault", "present_match": true}], "abort": {"http_status": 503, "percentage": {"numerator": 100}}}}}`,
		`{"match": {"path": "/weighted"}, "route": {"weighted_clusters": {"clusters": [{"name": "CLUSTER", "weight": 1, ` + abort("100") + `]}}, "typed_per_filter_config": {` + faultFilter + `"abort": {"http_status": 599, "percentage": {"numerator": 100}}}}}`,
	})
	for _, c := range []struct {
		path, headers string
		random        uint64
		status        int
		flags, fields string
		least         time.Duration
	}{
		{"/abort", "", 0, 418, "FI", "content-type=text/plain x-z=1", 0},
		{"/half", "", 49, 418, "FI", "content-type=text/plain", 0},
		{"/half", "", 50, 200, "-", "server=up vary=v x-r=a|b", 0},
		{"/redirect", "", 0, 418, "FI", "content-type=text/plain", 0},
		{"/grpc", "", 0, 200, "FI", "content-type=text/plain", 0},
		{"/delay", "", 0, 200, "DI", "server=up vary=v x-r=a|b", 200 * time.Millisecond},
		{"/both", "", 499_900, 503, "DI,FI", "content-type=text/plain", 200 * time.Millisecond},
		{"/both", "", 500_000, 503, "FI", "content-type=text/plain", 0},
		{"/some", "", 0, 200, "-", "server=up vary=v x-r=a|b", 0},
		{"/some", "X-Fault: 1\r\n", 0, 503, "FI", "content-type=text/plain", 0},
		{"/weighted", "", 0, 418, "FI", "content-type=text/plain", 0},
	} {
		random.Store(c.random)
		began := time.Now()
		a := ask(t, p, s, "GET", c.path, c.headers)
		if took := time.Since(began); took < c.least {
			t.Errorf("%s: after %v", c.path, took)
		}
		if i := p.Ended(); a.StatusCode != c.status || i.Flags.String() != c.flags || heads(a.Header) != c.fields {
			t.Errorf("%s at %d: %d %v %s %q, want %d %s %s", c.path, c.random, a.StatusCode, i.Flags, heads(a.Header), a.Text, c.status, c.flags, c.fields)
		}
		if c.flags == "FI" && a.Text != "fault filter abort" {
			t.Errorf("%s: %q", c.path, a.Text)
		}
	}
	st := &p.Stats.HTTP("0.0.0.0_80").Fault
	if st.DelaysInjected.Value() != 2 || st.AbortsInjected.Value() != 8 || st.Active.Value() != 0 {
		t.Errorf("%d delays, %d aborts, %d active, want 2, 8 and none", st.DelaysInjected.Value(), st.AbortsInjected.Value(), st.Active.Value())
	}
}

// TestDelayedBody: a body that arrives during a delay, and a client that leaves during one.
func TestDelayedBody(t *testing.T) {
	up := planetest.NewUpstream(t, planetest.Serve("served"))
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{
		`{"match": {"prefix": "/"}, "route": {"cluster": "CLUSTER"}, "typed_per_filter_config": {` + faultFilter + `"delay": {"fixed_delay": "0.2s", "percentage": {"numerator": 100}}}}}`})
	gone := p.Dial(s.Address())
	gone.Send(planetest.Request("GET", "/gone", ""))
	c := p.Dial(s.Address())
	body := strings.Repeat("x", 300<<10)
	go c.Send(planetest.Request("POST", "/whole", body)) // more than a window
	if a := c.Read("POST"); a.Text != "served" {
		t.Errorf("%d %q", a.StatusCode, a.Text)
	}
	if a := gone.Read("GET"); a.Text != "served" {
		t.Errorf("%d %q", a.StatusCode, a.Text)
	}
	gone.Send(planetest.Request("GET", "/left", ""))
	gone.Reset()
	for i := range 3 {
		if e := p.Ended(); e.Code == 0 != (i == 2) {
			t.Errorf("%d: %d %v", i, e.Code, e.Flags)
		}
	}
	if got := up.Got(); len(got) != 2 {
		t.Error(got)
	}
}

// TestRouteTimes: timeout, idle_timeout and max_stream_duration, with the statuses of Envoy 1.40.
func TestRouteTimes(t *testing.T) {
	silent := planetest.NewUpstream(t, func(c *planetest.Conn) { c.Gone() })
	zed := `"response_headers_to_add": [` + hdr("x-z", "1", appended) + `]`
	p, s := routed(t, dataplane.Options{}, silent.Addr, silent.Addr, []string{
		`{"match": {"path": "/timeout"}, "route": {"cluster": "CLUSTER", "timeout": "0.1s"}, ` + zed + `}`,
		`{"match": {"path": "/idle"}, "route": {"cluster": "CLUSTER", "timeout": "0s", "idle_timeout": "0.1s"}, ` + zed + `}`,
		`{"match": {"path": "/long"}, "route": {"cluster": "CLUSTER", "timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.1s"}}, ` + zed + `}`,
		`{"match": {"path": "/try"}, "route": {"cluster": "CLUSTER", "timeout": "0s", "retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s", "retry_back_off": {"base_interval": "0.001s"}}}, ` + zed + `}`,
		`{"match": {"path": "/tryidle"}, "route": {"cluster": "CLUSTER", "timeout": "0s", "retry_policy": {"retry_on": "connect-failure", "per_try_idle_timeout": "0.1s"}}, ` + zed + `}`,
	})
	half := "Content-Length: 5\r\n\r\nab"
	for _, c := range []struct {
		path, rest string
		status     int
		body       string
		flags      string
		attempts   int
	}{
		{"/timeout", "", 504, "upstream request timeout", "UT", 1},
		{"/idle", "", 504, "stream timeout", "SI", 1},
		{"/idle", half, 408, "stream timeout", "SI", 1},
		{"/long", "", 504, "downstream duration timeout", "-", 1},
		{"/long", half, 408, "downstream duration timeout", "-", 1},
		{"/try", "", 504, "upstream request timeout", "UT,URX", 2},
		{"/tryidle", "", 504, "upstream request timeout", "UT", 1},
	} {
		client := p.Dial(s.Address())
		client.Send("GET " + c.path + " HTTP/1.1\r\nHost: svc.test\r\n" + c.rest)
		if c.rest == "" {
			client.Send("\r\n")
		}
		a := client.Read("GET")
		if i := p.Ended(); a.StatusCode != c.status || a.Text != c.body || i.Flags.String() != c.flags || i.Attempts != c.attempts || a.Header.Get("x-z") != "1" {
			t.Errorf("%s %q: %d %q %v, %d attempts, x-z %q", c.path, c.rest, a.StatusCode, a.Text, i.Flags, i.Attempts, a.Header.Get("x-z"))
		}
	}
}

// TestTimeoutFromTheEnd: the route's timeout runs from the end of the request, not from its beginning.
func TestTimeoutFromTheEnd(t *testing.T) {
	up := planetest.NewUpstream(t, planetest.Serve("served"))
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{`{"match": {"prefix": "/"}, "route": {"cluster": "CLUSTER", "timeout": "0.15s"}}`})
	c := p.Dial(s.Address())
	c.Send("POST / HTTP/1.1\r\nHost: svc.test\r\nContent-Length: 2\r\n\r\na")
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.R.Peek(1); err == nil {
		t.Fatal("answered before the request was whole")
	}
	_ = c.SetReadDeadline(time.Now().Add(planetest.Patience))
	c.R = bufio.NewReader(c.TCPConn)
	c.Send("b")
	if a := c.Read("POST"); a.StatusCode != 200 {
		t.Errorf("%d %q", a.StatusCode, a.Text)
	}
}

// TestWeightedEndToEnd: the clusters get the shares that the weights say.
func TestWeightedEndToEnd(t *testing.T) {
	first, second := planetest.NewUpstream(t, planetest.Serve("1")), planetest.NewUpstream(t, planetest.Serve("2"))
	var random atomic.Uint64
	p, s := routed(t, dataplane.Options{Rand: func() uint64 { return random.Add(1) }}, first.Addr, second.Addr, []string{
		`{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "CLUSTER", "weight": 80}, {"name": "SECOND", "weight": 20}]}}}`})
	c := p.Dial(s.Address())
	for range 400 {
		if a := c.Do("GET", ""); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
	}
	if a, b := len(first.Got()), len(second.Got()); a+b != 400 || b < 40 || b > 120 {
		t.Errorf("%d and %d", a, b)
	}
}

// TestMirror: copies go out with what the route changes, bodies whole, and nothing of them comes back.
func TestMirror(t *testing.T) {
	first, copied := planetest.NewUpstream(t, planetest.Serve("first")), make(chan string, 10)
	shadow := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for {
			r := c.Request()
			if r == nil {
				return
			}
			copied <- r.Host + " " + r.Header.Get("X-Added") + " " + c.Last()
			c.Send("HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nworse")
		}
	})
	var random atomic.Uint64
	mirror := func(more string) string { return `"request_mirror_policies": [{"cluster": "SECOND"` + more + `}]` }
	p, s := routed(t, dataplane.Options{Rand: random.Load}, first.Addr, shadow.Addr, []string{
		`{"match": {"path": "/all"}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/copy", ` + mirror("") + `}, "request_headers_to_add": [` + hdr("x-added", "1", appended) + `]}`,
		`{"match": {"path": "/half"}, "route": {"cluster": "CLUSTER", ` + mirror(`, "disable_shadow_host_suffix_append": true, "runtime_fraction": {"default_value": {"numerator": 500000, "denominator": "MILLION"}}`) + `}}`,
		`{"match": {"path": "/two"}, "route": {"cluster": "CLUSTER", "request_mirror_policies": [{"cluster": "SECOND"}, {"cluster": "DEAD"}, {"cluster": "nope"}, {"cluster": "SECOND", "host_rewrite_literal": "x.y"}]}}`,
	})
	c := p.Dial(s.Address())
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case one := <-copied:
				got = append(got, one)
			case <-time.After(planetest.Patience):
				t.Fatalf("no copy after %q", got)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("copies %q, want %q", got, want)
		}
	}
	do := func(method, path, body string) {
		t.Helper()
		c.Send(planetest.Request(method, path, body))
		if a := c.Read(method); a.Text != "first" {
			t.Fatalf("%s: %d %q", path, a.StatusCode, a.Text)
		}
	}
	do("POST", "/all", "body")
	expect("svc.test-shadow 1 POST /copy body")
	random.Store(500_000)
	do("GET", "/half", "")
	random.Store(499_999)
	do("GET", "/half", "")
	expect("svc.test  GET /half")
	do("GET", "/two", "")
	expect("svc.test-shadow  GET /two", "x.y  GET /two")
	do("PUT", "/all", strings.Repeat("x", 500<<10))
	expect("svc.test-shadow 1 PUT /copy " + strings.Repeat("x", 64) + "… 512000")
	do("PUT", "/all", strings.Repeat("x", 2<<20)) // too long to be copied
	if n := p.Cluster(s).Stats().RetryOrShadowAbandoned.Value(); n != 1 {
		t.Errorf("%d copies were given up", n)
	}
	c.Send("POST /all HTTP/1.1\r\nHost: svc.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	c.Send("0\r\n\r\n")
	if a := c.Read("POST"); a.Text != "first" {
		t.Fatalf("%d %q", a.StatusCode, a.Text)
	}
	expect("svc.test-shadow 1 POST /copy abc")
}

// TestMirrorsInSum: requests whose bodies are still arriving share what copies may hold; beyond it they are served without.
func TestMirrorsInSum(t *testing.T) {
	const clients, length, all = 48, 1<<20 - 256, 32 << 20 // with their heads, 32 fit
	first, shadow := planetest.NewUpstream(t, planetest.Serve("first")), planetest.NewUpstream(t, planetest.Serve("shadow"))
	p, s := routed(t, dataplane.Options{}, first.Addr, shadow.Addr, []string{
		`{"match": {"prefix": "/"}, "route": {"cluster": "CLUSTER", "request_mirror_policies": [{"cluster": "SECOND"}]}}`})
	abandoned := &p.Cluster(s).Stats().RetryOrShadowAbandoned
	most := strings.Repeat("x", length-1)
	var open []*planetest.Client
	for range clients {
		c := p.Dial(s.Address())
		c.Send("POST / HTTP/1.1\r\nHost: svc.test\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n" + most)
		open = append(open, c)
	}
	planetest.Until(t, "the limit is kept", func() bool { return abandoned.Value() == clients-all>>20 })
	for _, c := range open {
		c.Send("x")
		if a := c.Read("POST"); a.Text != "first" {
			t.Errorf("got %d %q", a.StatusCode, a.Text)
		}
	}
	planetest.Until(t, "the copies arrive", func() bool { return len(shadow.Got()) == all>>20 })
	if n := abandoned.Value(); n != clients-all>>20 {
		t.Errorf("%d copies were given up", n)
	}
}

// TestMirrorAtTheEnd: copies under way when the plane stops give back what they hold.
func TestMirrorAtTheEnd(t *testing.T) {
	first := planetest.NewUpstream(t, planetest.Serve("first"))
	begun := make(chan bool)
	silent := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		begun <- true
		c.Gone()
	})
	p, s := routed(t, dataplane.Options{}, first.Addr, silent.Addr, []string{
		`{"match": {"prefix": "/"}, "route": {"cluster": "CLUSTER", "request_mirror_policies": [{"cluster": "SECOND"}]}}`})
	if a := p.Dial(s.Address()).Do("GET", ""); a.Text != "first" {
		t.Error(a.Text)
	}
	<-begun
}

// TestHashCookie: a cookie is made for a request that has none, once, and is what the endpoint is chosen by.
func TestHashCookie(t *testing.T) {
	up := planetest.NewUpstream(t, planetest.Serve("served"))
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{
		`{"match": {"prefix": "/"}, "route": {"cluster": "CLUSTER", "hash_policy": [{"cookie": {"name": "sid", "ttl": "3600s", "path": "/p", "attributes": [{"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]}}]}}`})
	a := ask(t, p, s, "GET", "/", "")
	got := a.Header.Get("Set-Cookie")
	if !strings.HasPrefix(got, `sid="`) || len(got) != len(`sid="2c3e6ded344160fd"; Max-Age=3600; Path=/p; SameSite=Strict; Secure; HttpOnly`) ||
		!strings.HasSuffix(got, `"; Max-Age=3600; Path=/p; SameSite=Strict; Secure; HttpOnly`) {
		t.Errorf("%q", got)
	}
	if got := ask(t, p, s, "GET", "/", "Cookie: a=b; sid=x\r\n").Header.Get("Set-Cookie"); got != "" {
		t.Errorf("%q", got)
	}
}

// TestRouteOfTheNextRequest: nothing of a request's route is left for the next on the connection.
func TestRouteOfTheNextRequest(t *testing.T) {
	up := planetest.NewUpstream(t, saw("first"))
	p, s := routed(t, dataplane.Options{}, up.Addr, up.Addr, []string{
		`{"match": {"path": "/set"}, "route": {"cluster": "CLUSTER", "prefix_rewrite": "/other"}, "request_headers_to_add": [` + hdr("x-a", "1", appended) + `], "response_headers_to_add": [` + hdr("x-z", "1", appended) + `]}`,
		`{"match": {"path": "/plain"}, "route": {"cluster": "CLUSTER"}}`,
	})
	c := p.Dial(s.Address())
	for range 2 {
		c.Send(planetest.Request("GET", "/set", "") + planetest.Request("GET", "/plain", "") + planetest.Request("GET", "/none", ""))
		if a := c.Read("GET"); a.Text != "first\nGET /other HTTP/1.1\nhost: svc.test\nx-a: 1\n\n" || a.Header.Get("x-z") != "1" {
			t.Errorf("%q %v", a.Text, a.Header)
		}
		if a := c.Read("GET"); a.Text != "first\nGET /plain HTTP/1.1\nhost: svc.test\n\n" || a.Header.Get("x-z") != "" {
			t.Errorf("%q %v", a.Text, a.Header)
		}
		if a := c.Read("GET"); a.StatusCode != 404 || a.Header.Get("x-z") != "" {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
	}
	c.Send(planetest.Request("GET", "/set", ""))
	c.Read("GET")
	c.Send("GET\r\n\r\n")
	if a := c.Read("GET"); a.StatusCode != 400 || a.Header.Get("x-z") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	for range 8 {
		if i := p.Ended(); i.Flags != 0 && i.Flags != streaminfo.NoRouteFound && i.Flags != streaminfo.DownstreamProtocolError {
			t.Error(i.Flags)
		}
	}
}
