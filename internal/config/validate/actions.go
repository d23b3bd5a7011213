package validate

//lint:file-ignore SA1019 people's files still use the deprecated fields

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// maxBody is the longest body of a direct response, in bytes (istiod: max_direct_response_body_size_bytes).
const maxBody = 1 << 20

// largeBody is the length from which istiod warns of it, in bytes.
const largeBody = 100 << 10

// redirectCodes are those that Envoy can send (RedirectAction.response_code).
var redirectCodes = []uint32{0, 301, 302, 303, 307, 308}

func (c *checker) redirect(path string, route *networking.HTTPRoute) {
	r := route.Redirect
	if r == nil {
		return
	}
	if r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.Scheme == "" && r.RedirectPort == nil {
		c.errorf(config.CodeRedirect, path, "leads where the request came from; give uri, authority, scheme or port")
	}
	c.plainText(config.CodeRedirect, path+".uri", r.Uri)
	c.plainText(config.CodeRedirect, path+".prefixRewrite", r.PrefixRewrite)
	c.plainText(config.CodeRedirect, path+".authority", r.Authority)
	if r.Uri != "" && r.PrefixRewrite != "" {
		c.errorf(config.CodeRedirect, path+".prefixRewrite", "excludes uri; give one of them")
	}
	for _, m := range route.Match {
		if _, prefix := m.Uri.GetMatchType().(*networking.StringMatch_Prefix); r.PrefixRewrite != "" && m.Uri != nil && !prefix {
			c.errorf(config.CodeRedirect, path+".prefixRewrite", "needs matches of uri by prefix; this rule has one by exact or regex: write uri instead")
			break
		}
	}
	switch {
	case slices.Contains(redirectCodes, r.RedirectCode):
	case r.RedirectCode < 300 || r.RedirectCode > 399:
		c.errorf(config.CodeRedirect, path+".redirectCode", "%d is not a redirect; allowed: 301, 302, 303, 307, 308", r.RedirectCode)
	default:
		c.warnf(config.CodeRedirect, path+".redirectCode", "%d is not a redirect that Envoy can send, and 301 is sent; write 301, 302, 303, 307 or 308", r.RedirectCode)
	}
	if s := r.Scheme; s != "" && s != "http" && s != "https" {
		c.errorf(config.CodeRedirect, path+".scheme", "%q is not allowed; allowed: http, https", s)
	}
	if p, ok := r.RedirectPort.(*networking.HTTPRedirect_Port); ok && p.Port == 0 {
		c.warnf(config.CodeRedirect, path+".port", "0 is no port and changes nothing; remove it")
	} else if ok {
		c.port(config.CodeRedirect, path+".port", p.Port)
	}
}

// plainText refuses what would break a request's head, and Envoy's own validation refuses too.
func (c *checker) plainText(code, path, v string) {
	if strings.ContainsAny(v, "\r\n\x00") {
		c.errorf(code, path, "%q has a line break or NUL in it", v)
	}
}

func (c *checker) directResponse(path string, d *networking.HTTPDirectResponse) {
	if d == nil {
		return
	}
	c.status(config.CodeRedirect, path+".status", int64(d.Status))
	switch n := len(d.GetBody().GetString_()) + len(d.GetBody().GetBytes()); {
	case n > maxBody:
		c.errorf(config.CodeRedirect, path+".body", "has %d bytes; allowed: %d", n, maxBody)
	case n > largeBody:
		c.warnf(config.CodeRedirect, path+".body", "has %d bytes; more than %d burden every proxy that gets the configuration", n, largeBody)
	}
}

func (c *checker) status(code, path string, status int64) {
	if status < 200 || status > 599 {
		c.errorf(code, path, "%d is not a status that can be answered; allowed: 200 to 599", status)
	}
}

func (c *checker) rewrite(path string, r *networking.HTTPRoute) {
	w := r.Rewrite
	if w == nil {
		return
	}
	if w.Uri == "" && w.UriRegexRewrite == nil && w.Authority == "" {
		c.errorf(config.CodeRewrite, path, "is empty; give uri, uriRegexRewrite or authority")
	}
	c.plainText(config.CodeRewrite, path+".uri", w.Uri)
	c.plainText(config.CodeRewrite, path+".authority", w.Authority)
	x := w.UriRegexRewrite
	if x == nil {
		return
	}
	if w.Uri != "" {
		c.errorf(config.CodeRewrite, path+".uri", "excludes uriRegexRewrite; give one of them")
	}
	c.regex(config.CodeRewrite, path+".uriRegexRewrite.match", x.Match)
	if x.Rewrite == "" {
		c.errorf(config.CodeRewrite, path+".uriRegexRewrite.rewrite", "is missing")
	}
}

func (c *checker) fault(path string, f *networking.HTTPFaultInjection) {
	if f == nil {
		return
	}
	if f.Delay == nil && f.Abort == nil {
		c.errorf(config.CodeFault, path, "is empty; give delay, abort or both")
	}
	if d := f.Delay; d != nil {
		p := path + ".delay"
		switch t := d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			c.duration(config.CodeFault, p+".fixedDelay", t.FixedDelay)
		case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
			c.errorf(config.CodeFault, p+".exponentialDelay", "is reserved and nobody serves it; give fixedDelay")
		default:
			c.warnf(config.CodeFault, p, "delays nothing; give fixedDelay")
		}
		switch v := d.Percent; {
		case v < 0 || v > 100:
			c.warnf(config.CodeFault, p+".percent", "%d is out of range; allowed: 0 to 100, written percentage: {value: 100}", v)
		case v != 0:
			c.warnf(config.CodeFault, p+".percent", "is deprecated; write percentage: {value: %d}", v)
		}
		c.percentage(p+".percentage", d.Percentage)
	}
	if a := f.Abort; a != nil {
		p := path + ".abort"
		switch t := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			c.status(config.CodeFault, p+".httpStatus", int64(t.HttpStatus))
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			if new(codes.Code).UnmarshalJSON([]byte(`"`+t.GrpcStatus+`"`)) != nil {
				c.errorf(config.CodeFault, p+".grpcStatus", "%q is not a gRPC status; wants a name as in UNAVAILABLE", t.GrpcStatus)
			}
		case *networking.HTTPFaultInjection_Abort_Http2Error:
			c.errorf(config.CodeFault, p+".http2Error", "is reserved and nobody serves it; give httpStatus or grpcStatus")
		default:
			c.warnf(config.CodeFault, p, "aborts nothing; give httpStatus or grpcStatus")
		}
		c.percentage(p+".percentage", a.Percentage)
	}
}

// percentage wants 0, or what four decimals can say, up to 100.
func (c *checker) percentage(path string, p *networking.Percent) {
	if v := p.GetValue(); p != nil && !(v == 0 || v >= 0.0001 && v <= 100) {
		c.errorf(config.CodeFault, path+".value", "%v is out of range; allowed: 0, or 0.0001 to 100", v)
	}
}

func (c *checker) mirrors(path string, r *networking.HTTPRoute) {
	if r.Mirror != nil {
		c.destination(path+".mirror", r.Mirror)
		if len(r.Mirrors) > 0 {
			c.errorf(config.CodeMirror, path+".mirrors", "excludes mirror; give one of them")
		}
	}
	if p := r.MirrorPercent; p != nil {
		c.warnf(config.CodeMirror, path+".mirrorPercent", "is deprecated; write mirrorPercentage: {value: %d}", p.Value)
		if p.Value > 100 {
			c.errorf(config.CodeMirror, path+".mirrorPercent", "%d is out of range; allowed: 0 to 100", p.Value)
		}
	}
	c.mirrorPercentage(path+".mirrorPercentage", r.MirrorPercentage)
	if r.Mirror == nil && (r.MirrorPercent != nil || r.MirrorPercentage != nil) {
		c.warnf(config.CodeMirror, path, "has a percentage for a mirror and no mirror, so nothing is mirrored; give mirror, or mirrors with percentages of their own")
	}
	for i, m := range r.Mirrors {
		p := fmt.Sprintf("%s.mirrors[%d]", path, i)
		c.destination(p+".destination", m.Destination)
		c.mirrorPercentage(p+".percentage", m.Percentage)
	}
}

// mirrorPercentage: below 0.0001 nothing is mirrored, as with 0.
func (c *checker) mirrorPercentage(path string, p *networking.Percent) {
	if v := p.GetValue(); !(v >= 0 && v <= 100) {
		c.errorf(config.CodeMirror, path+".value", "%v is out of range; allowed: 0 to 100", v)
	} else if v > 0 && v < 0.0001 {
		c.warnf(config.CodeMirror, path+".value", "%v is too small and counts as 0; write 0.0001 or more", v)
	}
}

// corsMethods are those istiod knows.
var corsMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}

func (c *checker) cors(path string, p *networking.CorsPolicy) {
	if p == nil {
		return
	}
	for i, o := range p.AllowOrigins {
		p := fmt.Sprintf("%s.allowOrigins[%d]", path, i)
		if o.GetExact()+o.GetPrefix()+o.GetRegex() == "" {
			c.errorf(config.CodeHeaders, p, "matches nothing; give exact, prefix or regex")
			continue
		}
		c.regexMatch(p, o)
	}
	for i, m := range p.AllowMethods {
		if !slices.Contains(corsMethods, m) {
			c.errorf(config.CodeHeaders, fmt.Sprintf("%s.allowMethods[%d]", path, i), "%q is not an HTTP method; allowed: %s", m, strings.Join(corsMethods, ", "))
		}
	}
	for _, l := range []struct {
		field string
		names []string
	}{{"allowHeaders", p.AllowHeaders}, {"exposeHeaders", p.ExposeHeaders}} {
		for i, n := range l.names {
			if n != "*" && !headerName.MatchString(n) {
				c.errorf(config.CodeHeaders, fmt.Sprintf("%s.%s[%d]", path, l.field, i), "%q is not a header's name", n)
			}
		}
	}
	c.duration(config.CodeHeaders, path+".maxAge", p.MaxAge)
	if d := p.MaxAge.AsDuration(); d >= time.Millisecond && d%time.Millisecond == 0 && d%time.Second != 0 {
		c.errorf(config.CodeHeaders, path+".maxAge", "%s is too fine; it has whole seconds", d)
	}
}

// headers checks what is done to headers. Of pseudo-headers only :authority can be set, in requests; host is another word
// for it.
func (c *checker) headers(path string, h *networking.Headers) {
	for _, side := range []struct {
		field   string
		request bool
		ops     *networking.Headers_HeaderOperations
	}{{".request", true, h.GetRequest()}, {".response", false, h.GetResponse()}} {
		p := path + side.field
		for _, set := range []struct {
			field  string
			values map[string]string
		}{{".set", side.ops.GetSet()}, {".add", side.ops.GetAdd()}} {
			for _, name := range sortedKeys(set.values) {
				if !side.request || !isAuthority(name) {
					c.headerOperation(p+set.field, name)
				}
				if err := checkHeaderValue(set.values[name]); err != nil {
					c.errorf(config.CodeHeaders, p+set.field, "the value of %q %v", name, err)
				}
			}
		}
		for i, name := range side.ops.GetRemove() {
			c.headerOperation(fmt.Sprintf("%s.remove[%d]", p, i), name)
		}
	}
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, ":authority") || strings.EqualFold(name, "host")
}

// headerOperation refuses names that no header can have: Envoy would send them, and no server takes such a request.
func (c *checker) headerOperation(path, name string) {
	switch {
	case isAuthority(name):
		c.errorf(config.CodeHeaders, path, "%q can be set in requests only, and not be removed", name)
	case strings.HasPrefix(name, ":"):
		c.errorf(config.CodeHeaders, path, "%q begins with \":\"; of those only :authority can be set, in requests: see rewrite for the path", name)
	case !headerName.MatchString(name):
		c.errorf(config.CodeHeaders, path, "%q is not a header's name; allowed: letters, digits and any of !#$%%&'*+-.^_`|~", name)
	}
}

// authorityOnce: a rule sets the host in one place.
func (c *checker) authorityOnce(path string, r *networking.HTTPRoute) {
	var places []string
	if r.Rewrite.GetAuthority() != "" {
		places = append(places, "rewrite.authority")
	}
	for _, ops := range []struct {
		field  string
		values map[string]string
	}{{"headers.request.set", r.Headers.GetRequest().GetSet()}, {"headers.request.add", r.Headers.GetRequest().GetAdd()}} {
		for _, name := range sortedKeys(ops.values) {
			if isAuthority(name) {
				places = append(places, ops.field+" of "+name)
			}
		}
	}
	if len(places) > 1 {
		c.errorf(config.CodeHeaders, path, "the host is set in several places: %s; keep one", strings.Join(places, ", "))
	}
}
