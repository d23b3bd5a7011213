package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// only gives the route of a configuration that has one.
func only(t testing.TB, text string) *Route {
	t.Helper()
	r := tableOf(t, text).Match(ask("x", "/"))
	if r == nil {
		t.Fatalf("%s does not match", text)
	}
	return r
}

// TestOrderOfLevels: levels apply from the innermost out, or from the outermost in where the configuration says so; within one,
// removals come first, then what overwrites, then what is added.
func TestOrderOfLevels(t *testing.T) {
	config := func(wins string) string {
		l := func(n string) string {
			return `"request_headers_to_remove": ["x-gone"], "request_headers_to_add": [{"header": {"key": "x-add", "value": "` + n + `"}},
				{"header": {"key": "X-Set", "value": "` + n + `"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}, {"header": {"key": "x-gone", "value": "` + n + `"}}]`
		}
		return `{"name": "r", ` + wins + l("rc") + `, "virtual_hosts": [{"name": "v", "domains": ["*"], ` + l("vh") + `, "routes": [
			{"match": {"prefix": "/"}, "route": {"cluster": "c"}, ` + l("r") + `}]}]}`
	}
	for wins, want := range map[string]string{
		"": "x-add:r x-add:vh x-set:rc x-add:rc x-gone:rc",
		`"most_specific_header_mutations_wins": true,`: "x-add:rc x-add:vh x-set:r x-add:r x-gone:r",
	} {
		rc := &routev3.RouteConfiguration{}
		if err := protojson.Unmarshal([]byte(config(wins)), rc); err != nil {
			t.Fatal(err)
		}
		tb, refused := Compile(rc, false)
		if len(refused) > 0 {
			t.Fatal(refused)
		}
		q := query(t, "x", "/", "x-set: own\r\nx-gone: own\r\n")
		var e Edit
		tb.Match(q).Request.Apply(&e, q.Head, &Context{Query: q, Request: &e})
		if got := pairs(e.Add); got != want || !slices.Contains(e.Drop, "x-set") || !slices.Contains(e.Drop, "x-gone") || slices.Contains(e.Drop, "x-add") {
			t.Errorf("%q: %s, without %v; want %s", wins, got, e.Drop, want)
		}
	}
}

// TestAppend: to a field that an Envoy keeps as one a value is added behind a comma, and none of those before is lost.
func TestAppend(t *testing.T) {
	for head, want := range map[string]string{
		"":                             "accept:new accept:",
		"accept: a\r\n":                "accept:a,new",
		"accept: a\r\nAccept: b,c\r\n": "accept:a,b,c,new",
		"accept:\r\naccept: b\r\n":     "accept:b,new",
		"accept:\r\n":                  "accept:new",
	} {
		q := query(t, "x", "/", head)
		var e Edit
		e.Append(q.Head, "accept", []byte("new"))
		e.Append(q.Head, "accept", nil)
		if got := pairs(e.Add); got != strings.TrimSuffix(want, " accept:") {
			t.Errorf("%q: %s, want %s", head, got, want)
		}
	}
}

// TestRelativeRedirect: what a path is replaced by begins with a slash, whatever the configuration says.
func TestRelativeRedirect(t *testing.T) {
	for action, want := range map[string]string{
		`"path_redirect": "to"`: "http://x/to?q", `"path_redirect": "/to"`: "http://x/to?q", `"path_redirect": "to?r"`: "http://x/to?r",
		`"prefix_rewrite": "new"`: "http://x/newb?q", `"prefix_rewrite": "/new/"`: "http://x/new/b?q",
	} {
		r := only(t, `{"match": {"prefix": "/"}, "redirect": {`+action+`}}`)
		if got := string(r.Location(nil, query(t, "x", "/b?q", ""))); got != want {
			t.Errorf("%s: %s, want %s", action, got, want)
		}
	}
}

func pairs(list []http1.Pair) string {
	var out []string
	for _, p := range list {
		out = append(out, string(p.Name)+":"+string(p.Value))
	}
	return strings.Join(out, " ")
}

// TestOperators: the values that headers may be made of.
func TestOperators(t *testing.T) {
	q := query(t, "svc.test:81", "/p?q", "X-A: one\r\nX-A: two\r\n")
	info := &streaminfo.Info{DownstreamRemote: netip.MustParseAddrPort("[::ffff:10.0.0.1]:5000"), DownstreamLocal: netip.MustParseAddrPort("10.0.0.2:15001"),
		OriginalDst: netip.MustParseAddrPort("240.240.0.1:80"), UpstreamHost: netip.MustParseAddrPort("[2001:db8::1]:8080"), Protocol: streaminfo.HTTP11,
		Route: "the route", Cluster: "outbound|80||x", Start: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)}
	resp := &http1.Head{}
	if _, err := http1.ParseResponse([]byte("HTTP/1.1 404 No\r\nX-R: r\r\nContent-Length: 0\r\n\r\n"), http1.Asked{}, resp); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"plain": "plain", "": "", "100%%": "100%", "%%%%": "%%",
		"%DOWNSTREAM_REMOTE_ADDRESS%": "10.0.0.1:5000", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%": "10.0.0.1",
		"%DOWNSTREAM_LOCAL_ADDRESS%": "240.240.0.1:80", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%": "240.240.0.1", "%DOWNSTREAM_LOCAL_PORT%": "80",
		"%PROTOCOL%:%ROUTE_NAME%": "HTTP/1.1:the route", "%UPSTREAM_CLUSTER%": "outbound|80||x;", "%UPSTREAM_CLUSTER_RAW%": "outbound|80||x", "%UPSTREAM_HOST%": "[2001:db8::1]:8080",
		"%START_TIME%": "2026-01-02T03:04:05.006Z", "%RESPONSE_CODE%": "404", "%RESP(x-r)%%RESP(nope)%": "r",
		"%REQ(X-A)%": "one", "%REQ(nope?X-A):2%": "on", "%REQ(:path)%%REQ(:method)%": "/p?qGET", "%REQ(:authority)%": "svc.test:81",
	} {
		f, err := compileFormat(value)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		got := f.fixed
		if got == nil {
			got = f.append(nil, &Context{Info: info, Query: q, Request: &Edit{}, Response: resp, Cluster: info.Cluster, ClusterStat: info.Cluster + ";"})
		}
		if string(got) != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
	for _, bad := range []string{"%", "a%b", "%NOPE%", "%REQ%", "%REQ()%", "%REQ(a%", "%REQ(a):x%", "%REQ(a):0%", "%PROTOCOL(x)%", "%PROTOCOL:-1%"} {
		if f, err := compileFormat(bad); err == nil {
			t.Errorf("%q: %+v", bad, f)
		}
	}
}

// TestHash64: xxHash64 of each policy's value, combined as Envoy's HashPolicyImpl does.
func TestHash64(t *testing.T) {
	sum := func(s string) uint64 { return xxhash.Sum64String(s) }
	chain := func(a, b string) uint64 {
		d := xxhash.NewWithSeed(sum(a))
		_, _ = d.WriteString(b)
		return d.Sum64()
	}
	rotl := func(h uint64) uint64 { return h<<1 | h>>63 }
	src := Source{Remote: netip.MustParseAddrPort("10.0.0.1:5000"), Local: netip.MustParseAddrPort("10.0.0.2:80")}
	made := fmt.Sprintf("%016x", sum("10.0.0.1:500010.0.0.2:80")) // one for each connection
	for _, c := range []struct {
		name, policies, path, headers string
		want                          uint64
		ok                            bool
		cookies                       int
	}{
		{"header", `{"header": {"header_name": "X-User"}}`, "/", "x-user: u\r\n", sum("u"), true, 0},
		{"no header", `{"header": {"header_name": "X-User"}}`, "/", "", 0, false, 0},
		{"values in any order", `{"header": {"header_name": "x"}}`, "/", "x: b\r\nx: a\r\n", chain("a", "b"), true, 0},
		{"rewritten", `{"header": {"header_name": "x", "regex_rewrite": {"pattern": {"regex": "-.*"}, "substitution": ""}}}`, "/", "x: user-1\r\n", sum("user"), true, 0},
		{"path", `{"header": {"header_name": ":path"}}`, "/p?q", "", sum("/p?q"), true, 0},
		{"cookie", `{"cookie": {"name": "sid"}}`, "/", "cookie: other=1;  sid=\"abc\"; sid=x\r\n", sum("abc"), true, 0},
		{"no cookie", `{"cookie": {"name": "sid"}}`, "/", "cookie: other=1\r\n", 0, false, 0},
		{"cookie made", `{"cookie": {"name": "sid", "ttl": "0s"}}`, "/", "", 0, true, 1},
		{"source", `{"connection_properties": {"source_ip": true}}`, "/", "", sum("10.0.0.1"), true, 0},
		{"query", `{"query_parameter": {"name": "k"}}`, "/?j=1&k=v&k=w", "", sum("v"), true, 0},
		{"empty query", `{"query_parameter": {"name": "k"}}`, "/?k", "", sum(""), true, 0},
		{"two", `{"header": {"header_name": "x"}}, {"query_parameter": {"name": "k"}}`, "/?k=v", "x: u\r\n", rotl(sum("u")) ^ sum("v"), true, 0},
		{"two, one missing", `{"header": {"header_name": "y"}}, {"query_parameter": {"name": "k"}}`, "/?k=v", "x: u\r\n", sum("v"), true, 0},
		{"terminal", `{"header": {"header_name": "x"}, "terminal": true}, {"query_parameter": {"name": "k"}}`, "/?k=v", "x: u\r\n", sum("u"), true, 0},
		{"terminal, missing", `{"header": {"header_name": "y"}, "terminal": true}, {"query_parameter": {"name": "k"}}`, "/?k=v", "", sum("v"), true, 0},
	} {
		r := only(t, `{"match": {"prefix": "/"}, "route": {"cluster": "c", "hash_policy": [`+c.policies+`]}}`)
		got, ok, cookies := r.Hash64(query(t, "x", c.path, c.headers), src)
		if c.cookies == 1 && len(cookies) == 1 {
			value := strings.TrimSuffix(strings.TrimPrefix(string(cookies[0]), `sid="`), `"; HttpOnly`)
			c.want = sum(value)
			if value != made {
				t.Errorf("%s: %q", c.name, cookies[0])
			}
			again, _, _ := r.Hash64(query(t, "x", c.path, c.headers), src)
			if again != got {
				t.Errorf("%s: another cookie for the same connection", c.name)
			}
		}
		if got != c.want || ok != c.ok || len(cookies) != c.cookies {
			t.Errorf("%s: %x %v %q, want %x %v", c.name, got, ok, cookies, c.want, c.ok)
		}
	}
}

// TestWantsAnswer: the words that look at more than the status.
func TestWantsAnswer(t *testing.T) {
	for _, c := range []struct {
		policy string
		head   string
		want   bool
		below  bool
	}{
		{`{"retry_on": "retriable-headers", "retriable_headers": [{"name": "x-try", "string_match": {"exact": "yes"}}]}`, "200 OK\r\nX-Try: yes", true, true},
		{`{"retry_on": "retriable-headers", "retriable_headers": [{"name": "x-try", "string_match": {"exact": "yes"}}]}`, "503 No\r\nX-Try: no", false, true},
		{`{"retry_on": "retriable-headers", "retriable_headers": [{"name": ":status", "range_match": {"start": 420, "end": 430}}]}`, "429 Slow", true, true},
		{`{"retry_on": "envoy-ratelimited"}`, "429 Slow\r\nX-Envoy-Ratelimited: true", true, true},
		{`{"retry_on": "envoy-ratelimited"}`, "429 Slow", false, true},
		{`{"retry_on": "5xx"}`, "503 No\r\nX-Envoy-Ratelimited: true", false, false},
		{`{"retry_on": "unavailable"}`, "200 OK\r\ngrpc-status: 14", true, true},
		{`{"retry_on": "unavailable"}`, "200 OK\r\ngrpc-status: 13", false, true},
		{`{"retry_on": "cancelled,internal"}`, "200 OK\r\ngrpc-status: 13", true, true},
		{`{"retry_on": "http3-post-connect-failure"}`, "503 No", false, false},
		{`{"retry_on": "5xx"}`, "500 No", true, false},
	} {
		p := &routev3.RetryPolicy{}
		if err := protojson.Unmarshal([]byte(c.policy), p); err != nil {
			t.Fatal(err)
		}
		r, err := compileRetry(p, false, false)
		if err != nil {
			t.Fatal(err)
		}
		h := &http1.Head{}
		if _, err := http1.ParseResponse([]byte("HTTP/1.1 "+c.head+"\r\nContent-Length: 0\r\n\r\n"), http1.Asked{}, h); err != nil {
			t.Fatal(err)
		}
		if got := r.WantsAnswer(h); got != c.want || r.BelowError != c.below {
			t.Errorf("%s after %q: %v, below %v", c.policy, c.head, got, r.BelowError)
		}
	}
	p := &routev3.RetryPolicy{}
	if err := protojson.Unmarshal([]byte(`{"retry_on": "5xx", "retriable_request_headers": [{"name": "x-may", "present_match": true}]}`), p); err != nil {
		t.Fatal(err)
	}
	r, err := compileRetry(p, false, false)
	if err != nil || !r.Concerns(query(t, "x", "/", "X-May: 1\r\n").Head) || r.Concerns(query(t, "x", "/", "").Head) {
		t.Errorf("retriable_request_headers: %v", err)
	}
}

// TestResetAfter: when an endpoint says that it wants to be asked again.
func TestResetAfter(t *testing.T) {
	p := &routev3.RetryPolicy{}
	if err := protojson.Unmarshal([]byte(`{"retry_on": "5xx", "rate_limited_retry_back_off": {"max_interval": "100s", "reset_headers": [
		{"name": "Retry-After", "format": "SECONDS"}, {"name": "X-RateLimit-Reset", "format": "UNIX_TIMESTAMP"}]}}`), p); err != nil {
		t.Fatal(err)
	}
	r, err := compileRetry(p, false, false)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	for head, want := range map[string]time.Duration{
		"": 0, "Retry-After: 7": 7 * time.Second, "Retry-After: 101": 0, "Retry-After: soon": 0, "Retry-After: -1": 0, "Retry-After: 0": 0,
		"Retry-After: 99999999999999999999": 0, "Retry-After: 999999999999": 0,
		"X-RateLimit-Reset: 1010": 10 * time.Second, "X-RateLimit-Reset: 990": 0, "Retry-After: 500\r\nX-RateLimit-Reset: 1003": 3 * time.Second,
	} {
		h := &http1.Head{}
		if head != "" {
			head += "\r\n"
		}
		if _, err := http1.ParseResponse([]byte("HTTP/1.1 503 No\r\n"+head+"Content-Length: 0\r\n\r\n"), http1.Asked{}, h); err != nil {
			t.Fatal(err)
		}
		if got, ok := r.ResetAfter(h, now); got != want || ok != (want > 0) {
			t.Errorf("%q: %v %v, want %v", head, got, ok, want)
		}
	}
}

// TestPlain: which routes need nothing but their cluster.
func TestPlain(t *testing.T) {
	for text, want := range map[string]bool{
		`"route": {"cluster": "c", "timeout": "1s", "auto_host_rewrite": true, "retry_policy": {"retry_on": "5xx"}, "max_stream_duration": {"grpc_timeout_header_max": "1s"}}`: true,
		`"route": {"cluster": "c", "host_rewrite_literal": "x"}`:                       true,
		`"direct_response": {"status": 502}`:                                           true,
		`"direct_response": {"status": 302}`:                                           false,
		`"redirect": {}`:                                                               false,
		`"route": {"cluster": "c", "prefix_rewrite": "/"}`:                             false,
		`"route": {"cluster": "c", "idle_timeout": "0s"}`:                              false,
		`"route": {"cluster": "c", "request_mirror_policies": [{"cluster": "d"}]}`:     false,
		`"route": {"cluster": "c"}, "response_headers_to_remove": ["x"]`:               false,
		`"route": {"cluster": "c", "hash_policy": [{"header": {"header_name": "x"}}]}`: false,
		`"route": {"cluster": "c"}, "typed_per_filter_config": {"f": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}`: false,
	} {
		if got := only(t, `{"match": {"prefix": "/"}, `+text+`}`).Plain; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if got := only(t, `{"match": {"prefix": "/"}, "route": {"cluster": "c"}}`).Timeout; got != 15*time.Second {
		t.Errorf("the default timeout is %v", got)
	}
}

// FuzzCompile: whatever a control plane sends, a table comes of it, every route of which answers something.
func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`{"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*", "*.x", "y.*"], "routes": [{"match": {"safe_regex": {"regex": "a+"}}, "redirect": {"regex_rewrite": {"pattern": {"regex": "(a)|b"}, "substitution": "\\1\\0"}}}]}]}`,
		`{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/", "query_parameters": [{"name": "a"}]}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 4294967295}, {"name": "b", "weight": 4294967295}]}}}]}]}`,
		`{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/x"}, "route": {"cluster": "c", "prefix_rewrite": "/", "hash_policy": [{"cookie": {"name": "s", "ttl": "1s"}}]}, "request_headers_to_add": [{"header": {"key": "a", "value": "%REQ(b?c):1%"}}]}]}]}`,
	} {
		rc := &routev3.RouteConfiguration{}
		if err := protojson.Unmarshal([]byte(text), rc); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(rc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "x.x", "/xa?b=c#d", uint64(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, authority, path string, random uint64) {
		rc := &routev3.RouteConfiguration{}
		if proto.Unmarshal(b, rc) != nil {
			return
		}
		tb, _ := Compile(rc, random%2 == 0)
		q := query(t, "x", "/", "b: 1\r\ncookie: s=1; t\r\n")
		q.Authority, q.Path, q.Random = []byte(authority), []byte(path), random
		r := tb.Match(q)
		if r == nil {
			return
		}
		if r.Cluster == "" && r.Direct == nil && r.Redirect == nil {
			t.Fatalf("a route to nowhere: %+v", r)
		}
		var e Edit
		c := &Context{Info: &streaminfo.Info{}, Query: q, Request: &e}
		r.Request.Apply(&e, q.Head, c)
		for _, p := range e.Add {
			if checkName(string(p.Name)) != nil || strings.ContainsAny(string(p.Value), "\r\n") {
				t.Fatalf("header %q: %q", p.Name, p.Value)
			}
		}
		r.Response.Apply(&Edit{}, &http1.Head{Status: 200}, c)
		r.Location(nil, q)
		r.Hash64(q, Source{})
		if r.Path != nil {
			r.Path.Append(nil, r, q.Path)
		}
	})
}
