//go:build linux

package feature

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// grammarEndpoints is how many endpoints a host has; the subset vN selects the N-th.
const grammarEndpoints = 3

// grammar makes configurations that are valid, and requests that nearly fit them. What it makes depends on nothing but
// its generator; and what an engine does with it depends on no chance: endpoints are chosen by subset or by hash.
type grammar struct {
	*rand.Rand
	n int // requests so far
}

type fields = map[string]any

// chance is true in n of 100.
func (g *grammar) chance(n int) bool { return g.IntN(100) < n }

func pick[T any](g *grammar, from ...T) T { return from[g.IntN(len(from))] }

// host makes a host with its rules, and n requests for it.
func (g *grammar) host(i, n int) (docs []string, calls []call) {
	name := fmt.Sprintf("h%d.test", i)
	ports := []any{fields{"number": 80, "name": "http", "protocol": "HTTP"}, fields{"number": 81, "name": "http-alt", "protocol": "HTTP"}}
	var endpoints []any
	for e := range grammarEndpoints {
		endpoints = append(endpoints, fields{"address": fmt.Sprintf("10.1.0.%d", e+1), "ports": fields{"http": 8080, "http-alt": 8080},
			"labels": fields{"version": fmt.Sprintf("v%d", e+1)}})
	}
	hosts := []any{name}
	if g.chance(20) { // names below it
		hosts = append(hosts, "*."+name)
	}
	docs = append(docs, object("ServiceEntry", fmt.Sprintf("h%d", i), fields{"hosts": hosts, "addresses": []any{fmt.Sprintf("10.200.%d.%d", i/200, i%200+1)},
		"ports": ports, "resolution": "STATIC", "endpoints": endpoints}))
	subsets := []any{}
	for e := range grammarEndpoints {
		subsets = append(subsets, fields{"name": fmt.Sprintf("v%d", e+1), "labels": fields{"version": fmt.Sprintf("v%d", e+1)}})
	}
	hash := g.hashKey()
	for at, h := range hosts {
		docs = append(docs, object("DestinationRule", fmt.Sprintf("h%d-%d", i, at), fields{"host": h, "subsets": subsets,
			"trafficPolicy": fields{"loadBalancer": fields{"consistentHash": hash}}}))
	}
	var rules []any
	var hints []fields
	for left := g.IntN(5); left >= 0; left-- {
		rule, m := g.rule(name, left == 0)
		rules, hints = append(rules, rule), append(hints, m...)
	}
	docs = append(docs, object("VirtualService", fmt.Sprintf("h%d", i), fields{"hosts": hosts[:1+g.IntN(len(hosts))], "http": rules}))
	for range n {
		calls = append(calls, g.call(name, hints))
	}
	return docs, calls
}

func (g *grammar) hashKey() fields {
	k := pick(g, fields{"httpHeaderName": "x-n"}, fields{"useSourceIp": true}) // what every request has: without a value an engine draws lots
	switch g.IntN(3) {
	case 0:
		k["maglev"] = fields{"tableSize": pick(g, 1009, 65537)}
	case 1:
		k["ringHash"] = fields{"minimumRingSize": pick(g, 64, 1024)}
	}
	return k
}

// rule makes an HTTP route, and gives its matches as hints for requests.
func (g *grammar) rule(host string, last bool) (rule fields, hints []fields) {
	rule = fields{}
	var matches []any
	least := 1
	if last {
		least = 0
	}
	for range least + g.IntN(3) {
		m := g.match(host)
		matches, hints = append(matches, m), append(hints, m)
	}
	if len(matches) > 0 {
		rule["match"] = matches
	}
	if g.chance(30) {
		rule["name"] = pick(g, "first", "second", "the third")
	}
	switch g.IntN(10) {
	case 0, 1:
		rule["directResponse"] = g.direct()
	case 2, 3:
		rule["redirect"] = g.redirect(matches)
	default:
		g.toUpstream(rule, host, matches)
	}
	if g.chance(35) {
		h := g.headers()
		rule["headers"] = h
		rewrite, _ := rule["rewrite"].(fields)
		hostOnce(h, rewrite["authority"] != nil)
	}
	if g.chance(15) {
		rule["corsPolicy"] = g.cors()
	}
	if rule["route"] != nil && g.chance(10) {
		rule["fault"] = fields{"abort": fields{"httpStatus": pick(g, 418, 503, 200, 404), "percentage": fields{"value": pick(g, 100, 0)}}}
	}
	return rule, hints
}

func (g *grammar) toUpstream(rule fields, host string, matches []any) {
	dest := func() fields {
		d := fields{"host": host}
		if g.chance(10) {
			d["host"] = "h0.test"
		}
		if g.chance(60) {
			d["subset"] = pick(g, "v1", "v2", "v3")
		} else if g.chance(5) {
			d["subset"] = "none"
		}
		if g.chance(20) {
			d["port"] = fields{"number": pick(g, 80, 81)}
		}
		return d
	}
	one := fields{"destination": dest()}
	if g.chance(20) {
		one["headers"] = g.headers()
	}
	route := []any{one}
	if g.chance(15) {
		one["weight"] = 100
		route = append(route, fields{"destination": dest(), "weight": 0})
	}
	rule["route"] = route
	if g.chance(35) {
		rule["rewrite"] = g.rewrite()
	}
	if g.chance(40) {
		rule["retries"] = g.retries()
	}
	if g.chance(10) {
		rule["timeout"] = pick(g, "5s", "10s", "30s")
	}
}

func (g *grammar) retries() fields {
	words := []string{"5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers",
		"reset-before-request", "envoy-ratelimited", "cancelled", "unavailable", "409", "418", "500", "503"}
	var on []string
	for range 1 + g.IntN(3) {
		on = append(on, pick(g, words...))
	}
	r := fields{"attempts": g.IntN(4), "backoff": "1ms"}
	if r["attempts"] == 0 {
		return fields{"attempts": 0}
	}
	if g.chance(80) {
		r["retryOn"] = strings.Join(on, ",")
	}
	if g.chance(20) {
		r["retryIgnorePreviousHosts"] = g.chance(50)
	}
	if g.chance(10) {
		r["perTryTimeout"] = "5s"
	}
	return r
}

func (g *grammar) direct() fields {
	d := fields{"status": pick(g, 200, 204, 304, 404, 418, 503, 599)}
	if d["status"] != 204 && d["status"] != 304 && g.chance(70) { // an Envoy sends their body too
		d["body"] = fields{"string": pick(g, "a body", "", "{\"json\": true}", "ü")}
	}
	return d
}

func (g *grammar) redirect(matches []any) fields {
	r := fields{}
	if g.chance(60) {
		r["uri"] = pick(g, "/to", "/to/", "/to?x=y", "/", "/a/b", "to")
	} else if g.chance(50) && regexless(matches) {
		r["prefixRewrite"] = pick(g, "/", "/new", "/new/", "new")
	}
	if g.chance(50) {
		r["authority"] = pick(g, "other.test", "other.test:8080", "OTHER.test")
	}
	if g.chance(40) {
		r["redirectCode"] = pick(g, 301, 302, 303, 307, 308)
	}
	if g.chance(30) {
		r["scheme"] = pick(g, "https", "http")
	}
	switch g.IntN(5) {
	case 0:
		r["port"] = pick(g, 80, 443, 8443)
	case 1:
		r["derivePort"] = pick(g, "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")
	}
	if r["uri"] == nil && r["authority"] == nil && r["prefixRewrite"] == nil {
		r["uri"] = "/to"
	}
	return r
}

// regexless says that every match of the path is by prefix, as Istio demands where a redirect replaces the prefix.
func regexless(matches []any) bool {
	for _, m := range matches {
		uri, _ := m.(fields)["uri"].(fields)
		if uri["regex"] != nil || uri["exact"] != nil {
			return false
		}
	}
	return true
}

func (g *grammar) rewrite() fields {
	r := fields{}
	switch g.IntN(4) {
	case 0:
		r["uriRegexRewrite"] = fields{"match": pick(g, "/(a+)/(b*)", "b", "^/api/(.*)$", "[0-9]+", "/", "(?i)A"), "rewrite": pick(g, `/\1`, `x`, `/new/\0`, `\\`)}
		if strings.Contains(r["uriRegexRewrite"].(fields)["rewrite"].(string), `\1`) {
			r["uriRegexRewrite"].(fields)["match"] = pick(g, "/(a+)/(b*)", "^/api/(.*)$")
		}
	case 1, 2:
		r["uri"] = pick(g, "/", "/new", "/new/", "/a/b/c", "/v2/", "new")
	}
	if len(r) == 0 || g.chance(30) {
		r["authority"] = pick(g, "rewritten.test", "rewritten.test:99", "10.0.0.9")
	}
	return r
}

func (g *grammar) headers() fields {
	ops := func(response bool) fields {
		o := fields{}
		if g.chance(60) {
			o["set"] = g.values(response)
		}
		if g.chance(50) {
			o["add"] = g.values(response)
		}
		if g.chance(40) {
			o["remove"] = []any{pick(g, "x-one", "x-two", "cache-control", "user-agent", "server", "accept")}
		}
		return o
	}
	h := fields{}
	if g.chance(70) {
		h["request"] = ops(false)
	}
	if g.chance(60) {
		h["response"] = ops(true)
	}
	return h
}

// hostOnce leaves one place that sets the host, as Istio demands of a rule; taken: its rewrite is that.
func hostOnce(headers fields, taken bool) {
	request, _ := headers["request"].(fields)
	for _, op := range []string{"set", "add"} {
		values, _ := request[op].(fields)
		for _, name := range []string{"host", ":authority", "Host"} {
			if values[name] != nil && taken {
				delete(values, name)
			}
			taken = taken || values[name] != nil
		}
	}
}

func (g *grammar) values(response bool) fields {
	o := fields{}
	for range 1 + g.IntN(2) {
		name := pick(g, "x-one", "x-two", "X-Three", "cache-control", "accept", "user-agent", "vary", "location", "x-envoy-one")
		o[name] = pick(g, "1", "one two", "", "a,b", "%REQ(:path)%", "%REQ(x-one)%", "%REQ(X-Two?x-one)%", "%ROUTE_NAME%", "100%%", "%PROTOCOL%-%UPSTREAM_CLUSTER%",
			"%REQ(:authority)%", "%DOWNSTREAM_LOCAL_ADDRESS%", "%RESPONSE_CODE%")
	}
	if !response && g.chance(10) {
		o[pick(g, "host", ":authority", "Host")] = pick(g, "set.test", "set.test:1")
	}
	return o
}

func (g *grammar) cors() fields {
	c := fields{"allowOrigins": []any{pick(g, fields{"exact": "https://a.example"}, fields{"prefix": "https://"}, fields{"regex": "https://[a-c]\\.example"}, fields{"exact": "*"})}}
	if g.chance(60) {
		c["allowMethods"] = []any{"GET", pick(g, "POST", "PUT")}
	}
	if g.chance(50) {
		c["allowHeaders"] = []any{"x-one"}
	}
	if g.chance(50) {
		c["exposeHeaders"] = []any{"x-two", "x-three"}
	}
	if g.chance(50) {
		c["maxAge"] = pick(g, "1h", "10s", "24h")
	}
	if g.chance(50) {
		c["allowCredentials"] = g.chance(50)
	}
	if g.chance(50) {
		c["unmatchedPreflights"] = pick(g, "FORWARD", "IGNORE")
	}
	return c
}

var (
	grammarPaths = []string{"/", "/a", "/a/b", "/a/", "/api/v1", "/api/v1/users/12", "/A", "/a//b", "/a/../b", "/a%2Fb", "/%61", "/aa/bb", "/a;x=y", "/a+b", "/b.", "/~a"}
	grammarRegex = []string{"/a.*", "/a", "/[ab]/?", "/api/v[0-9]+(/.*)?", ".*", "/(a|b)+", "/A", "/a\\?x", "[^?]*b"}
	grammarWords = []string{"1", "one", "one two", "ONE", "a,b", "x", "12"}
)

// match makes one match block.
func (g *grammar) match(host string) fields {
	m := fields{}
	if g.chance(80) {
		switch g.IntN(3) {
		case 0:
			m["uri"] = fields{"exact": pick(g, grammarPaths...)}
		case 1:
			m["uri"] = fields{"prefix": pick(g, grammarPaths...)}
		default:
			m["uri"] = fields{"regex": pick(g, grammarRegex...)}
		}
		if g.chance(20) {
			m["ignoreUriCase"] = true
		}
	}
	if g.chance(20) {
		m["method"] = pick(g, fields{"exact": "POST"}, fields{"exact": "GET"}, fields{"prefix": "P"}, fields{"regex": "GET|HEAD"})
	}
	if g.chance(15) {
		m["authority"] = pick(g, fields{"exact": host}, fields{"exact": host + ":80"}, fields{"prefix": "h"}, fields{"regex": "h[0-9]+\\.test"}, fields{"exact": strings.ToUpper(host)})
	}
	if g.chance(10) {
		m["scheme"] = fields{"exact": pick(g, "http", "https")}
	}
	if g.chance(30) {
		m["headers"] = g.asked()
	}
	if g.chance(20) {
		m["withoutHeaders"] = g.asked()
	}
	if g.chance(20) {
		m["queryParams"] = fields{pick(g, "q", "p", "Q"): g.word(true)}
	}
	if g.chance(10) {
		m["port"] = pick(g, 80, 81)
	}
	if g.chance(10) {
		m["sourceLabels"] = fields{"app": pick(g, "web", "web", "other")}
	}
	if len(m) == 0 {
		m["uri"] = fields{"prefix": "/"}
	}
	return m
}

func (g *grammar) asked() fields {
	o := fields{}
	for range 1 + g.IntN(2) {
		o[pick(g, "x-one", "x-two", "X-Three", "user-agent", "cookie", "accept")] = g.word(false)
	}
	return o
}

func (g *grammar) word(query bool) fields {
	switch n := g.IntN(7); {
	case n < 2:
		return fields{"exact": pick(g, grammarWords...)}
	case n < 4:
		return fields{"prefix": pick(g, "o", "one", "1", "a")}
	case n < 6 || query:
		return fields{"regex": pick(g, "o.*", "[0-9]+", ".*", "one two", "(a|x)(,b)?", "^one$")}
	}
	return fields{}
}

// call makes a request that has something of one of the matches.
func (g *grammar) call(host string, hints []fields) call {
	g.n++
	c := call{method: pick(g, "GET", "GET", "GET", "GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"), header: []string{fmt.Sprintf("x-n: %d", g.n)}}
	port := ""
	if g.chance(20) {
		port = ":81"
	}
	c.url = "http://" + host + port
	if g.chance(15) {
		c.host = pick(g, strings.ToUpper(host), host+".", "a."+host, "a.b."+host+":80", host+":80", host+":99", strings.ToUpper(host[:1])+host[1:])
	}
	hint := fields{}
	if len(hints) > 0 && g.chance(80) {
		hint = pick(g, hints...)
	}
	c.target = g.path(hint) + g.query(hint)
	if c.target == "" || c.target[0] != '/' {
		c.target = "/" + c.target
	}
	if g.chance(5) {
		c.target = "http://" + pick(g, host, "H1.test", "h2.test:80") + c.target
	}
	c.header = append(c.header, g.sent(hint)...)
	if method, _ := hint["method"].(fields); method != nil && g.chance(60) {
		c.method = pick(g, "POST", "GET", "PUT", "HEAD")
	}
	if c.method == "POST" || c.method == "PUT" && g.chance(50) {
		c.body, c.chunks = pick(g, "a body", strings.Repeat("long ", 2000)), g.chance(30)
	}
	if g.chance(30) {
		c.header = append(c.header, "x-codes: "+pick(g, "503,200", "503", "500,502,200", "409,200", "418,418,200", "504,503,500,200", "429", "404"))
	}
	if g.chance(25) {
		c.header = append(c.header, "origin: "+pick(g, "https://a.example", "https://c.example", "http://evil.example", "null"))
		if c.method == "OPTIONS" || g.chance(10) {
			c.header = append(c.header, "access-control-request-method: "+pick(g, "GET", "PUT"))
		}
	}
	return c
}

func (g *grammar) path(hint fields) string {
	p := pick(g, grammarPaths...)
	if uri, _ := hint["uri"].(fields); uri != nil && g.chance(80) {
		for kind, v := range uri {
			if kind == "regex" {
				p = pick(g, "/a", "/a/b", "/api/v2/x", "/b", "/abab")
			} else {
				p = v.(string)
			}
		}
	}
	switch g.IntN(8) {
	case 0:
		p += pick(g, "/", "x", "/more", "//", "/..", "%20")
	case 1:
		p = strings.ToUpper(p)
	case 2:
		p = strings.TrimSuffix(p, "/")
	}
	return p
}

func (g *grammar) query(hint fields) string {
	if _, asked := hint["queryParams"]; !asked && g.chance(70) {
		return ""
	}
	var out []string
	for range 1 + g.IntN(2) {
		out = append(out, pick(g, "q", "p", "Q", "")+pick(g, "=", "=", "=", "")+strings.ReplaceAll(pick(g, append([]string{"", "o", "%6Fne", "a=b"}, grammarWords...)...), " ", pick(g, "+", "%20")))
	}
	return "?" + strings.Join(out, "&")
}

// sent makes header lines, most of them for the names that the match asks for.
func (g *grammar) sent(hint fields) (out []string) {
	for _, key := range []string{"headers", "withoutHeaders"} {
		asked, _ := hint[key].(fields)
		for _, name := range []string{"x-one", "x-two", "X-Three", "user-agent", "cookie", "accept"} {
			v, there := asked[name].(fields)
			if !there && !g.chance(10) || there && g.chance(20) {
				continue
			}
			value := pick(g, append([]string{"", "o", "two, three"}, grammarWords...)...)
			if s, _ := v["exact"].(string); s != "" && g.chance(60) {
				value = s
			}
			out = append(out, name+": "+value)
			if g.chance(10) {
				out = append(out, strings.ToUpper(name)+": "+pick(g, grammarWords...))
			}
		}
	}
	return out
}
