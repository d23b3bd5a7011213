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

// redirectCodes are those that Envoy can send (RedirectAction.response_code).
var redirectCodes = []uint32{0, 301, 302, 303, 307, 308}

func (c *checker) redirect(path string, r *networking.HTTPRedirect) {
	if r == nil {
		return
	}
	if r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.Scheme == "" && r.RedirectPort == nil {
		c.errorf(config.CodeRedirect, path, "leads where the request came from; give uri, authority, scheme or port")
	}
	if r.Uri != "" && r.PrefixRewrite != "" {
		c.errorf(config.CodeRedirect, path+".prefixRewrite", "excludes uri; give one of them")
	}
	if !slices.Contains(redirectCodes, r.RedirectCode) {
		c.errorf(config.CodeRedirect, path+".redirectCode", "%d is not a redirect that can be sent; allowed: 301, 302, 303, 307, 308", r.RedirectCode)
	}
	if s := r.Scheme; s != "" && s != "http" && s != "https" {
		c.errorf(config.CodeRedirect, path+".scheme", "%q is not allowed; allowed: http, https", s)
	}
	if p, ok := r.RedirectPort.(*networking.HTTPRedirect_Port); ok {
		c.port(config.CodeRedirect, path+".port", p.Port)
	}
}

func (c *checker) directResponse(path string, d *networking.HTTPDirectResponse) {
	if d == nil {
		return
	}
	c.status(config.CodeRedirect, path+".status", int64(d.Status))
	if n := len(d.GetBody().GetString_()) + len(d.GetBody().GetBytes()); n > maxBody {
		c.errorf(config.CodeRedirect, path+".body", "has %d bytes; allowed: %d", n, maxBody)
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
	if r.Redirect != nil || r.DirectResponse != nil {
		c.errorf(config.CodeRewrite, path, "is without effect beside redirect or directResponse; remove it")
	}
	if w.Uri == "" && w.UriRegexRewrite == nil && w.Authority == "" {
		c.errorf(config.CodeRewrite, path, "is empty; give uri, uriRegexRewrite or authority")
	}
	if w.UriRegexRewrite == nil {
		return
	}
	if w.Uri != "" {
		c.errorf(config.CodeRewrite, path+".uri", "excludes uriRegexRewrite; give one of them")
	}
	c.regex(config.CodeRewrite, path+".uriRegexRewrite.match", w.UriRegexRewrite.Match)
	if w.UriRegexRewrite.Rewrite == "" {
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
			c.errorf(config.CodeFault, p+".fixedDelay", "is missing")
		}
		c.percent(config.CodeFault, p+".percent", d.Percent)
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
			c.errorf(config.CodeFault, p+".httpStatus", "is missing; an abort answers with httpStatus or grpcStatus")
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
	if n := r.MirrorPercent.GetValue(); n > 100 {
		c.errorf(config.CodeMirror, path+".mirrorPercent", "%d is out of range; allowed: 0 to 100", n)
	}
	c.percentage(path+".mirrorPercentage", r.MirrorPercentage)
	if r.Mirror == nil && (r.MirrorPercent != nil || r.MirrorPercentage != nil) {
		c.warnf(config.CodeMirror, path, "has a percentage for a mirror and no mirror, so nothing is mirrored; give mirror, or mirrors with percentages of their own")
	}
	for i, m := range r.Mirrors {
		p := fmt.Sprintf("%s.mirrors[%d]", path, i)
		c.destination(p+".destination", m.Destination)
		c.percentage(p+".percentage", m.Percentage)
	}
}

// corsMethods are those istiod knows.
var corsMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}

func (c *checker) cors(path string, p *networking.CorsPolicy) {
	if p == nil {
		return
	}
	for i, o := range p.AllowOrigins {
		c.stringMatch(fmt.Sprintf("%s.allowOrigins[%d]", path, i), o)
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
	if p.MaxAge == nil {
		return
	}
	switch d := p.MaxAge.AsDuration(); {
	case d < 0:
		c.errorf(config.CodeHeaders, path+".maxAge", "%s is negative; allowed: 0s or more", d)
	case d%time.Second != 0:
		c.errorf(config.CodeHeaders, path+".maxAge", "%s is too fine; it has whole seconds", d)
	}
}

// headers checks what is done to headers. Of pseudo-headers only :authority can be set, in requests.
func (c *checker) headers(path string, h *networking.Headers) {
	for _, side := range []struct {
		field string
		ops   *networking.Headers_HeaderOperations
	}{{".request", h.GetRequest()}, {".response", h.GetResponse()}} {
		p := path + side.field
		for _, set := range []struct {
			field  string
			values map[string]string
		}{{".set", side.ops.GetSet()}, {".add", side.ops.GetAdd()}} {
			for _, name := range sortedKeys(set.values) {
				if name != ":authority" || side.field != ".request" {
					c.headerOperation(p+set.field, name)
				}
				if strings.ContainsAny(set.values[name], "\r\n\x00") {
					c.errorf(config.CodeHeaders, p+set.field, "the value of %q has a line break or NUL in it", name)
				} else if strings.Count(set.values[name], "%")%2 != 0 {
					c.errorf(config.CodeHeaders, p+set.field, "the value of %q has a single %%; write %%%% for one, or a command as in %%REQ(x)%%", name)
				}
			}
		}
		for i, name := range side.ops.GetRemove() {
			c.headerOperation(fmt.Sprintf("%s.remove[%d]", p, i), name)
		}
	}
}

func (c *checker) headerOperation(path, name string) {
	switch {
	case strings.HasPrefix(name, ":"):
		c.errorf(config.CodeHeaders, path, "%q begins with \":\"; of those only :authority can be set, in requests: see rewrite for the path", name)
	case !headerName.MatchString(name):
		c.errorf(config.CodeHeaders, path, "%q is not a header's name; allowed: letters, digits and any of !#$%%&'*+-.^_`|~", name)
	}
}
