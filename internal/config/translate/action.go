package translate

//lint:file-ignore SA1019 people's files still use the deprecated fields

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

const (
	faultName = "envoy.filters.http.fault"
	corsName  = "envoy.filters.http.cors"
)

// redirect writes HTTPRoute.redirect: 301 unless another code is given, the default ports of http and https left out.
func redirect(r *networking.HTTPRedirect, port servicePort) *routev3.Route_Redirect {
	out := &routev3.RedirectAction{
		HostRedirect:         r.Authority,
		PathRewriteSpecifier: &routev3.RedirectAction_PathRedirect{PathRedirect: r.Uri},
	}
	if r.PrefixRewrite != "" {
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: r.PrefixRewrite}
	}
	if r.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.PortRedirect = p.Port
	case *networking.HTTPRedirect_DerivePort:
		if p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT {
			out.PortRedirect = port.number
		}
	}
	if out.PortRedirect == 80 && r.Scheme != "https" || out.PortRedirect == 443 && r.Scheme == "https" {
		out.PortRedirect = 0
	}
	switch r.RedirectCode {
	case 302:
		out.ResponseCode = routev3.RedirectAction_FOUND
	case 303:
		out.ResponseCode = routev3.RedirectAction_SEE_OTHER
	case 307:
		out.ResponseCode = routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		out.ResponseCode = routev3.RedirectAction_PERMANENT_REDIRECT
	}
	return &routev3.Route_Redirect{Redirect: out}
}

// directResponse answers without asking anybody.
func directResponse(d *networking.HTTPDirectResponse) *routev3.Route_DirectResponse {
	out := &routev3.DirectResponseAction{Status: d.Status}
	switch b := d.GetBody().GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = inlineString(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b.Bytes}}
	}
	return &routev3.Route_DirectResponse{DirectResponse: out}
}

// headerOps is HTTPRoute.headers, or a destination's, as Envoy has it: set overwrites, add appends, and setting Host is a
// rewrite of the authority.
type headerOps struct {
	requestAdd, responseAdd       []*corev3.HeaderValueOption
	requestRemove, responseRemove []string
	authority                     string
}

func headerOperations(h *networking.Headers) headerOps {
	var out headerOps
	req, resp := h.GetRequest(), h.GetResponse()
	out.authority = cmp.Or(authorityIn(req.GetSet()), authorityIn(req.GetAdd()))
	out.requestAdd = append(headerOptions(req.GetSet(), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
		headerOptions(req.GetAdd(), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)...)
	out.responseAdd = append(headerOptions(resp.GetSet(), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
		headerOptions(resp.GetAdd(), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)...)
	out.requestRemove = slices.DeleteFunc(slices.Clone(req.GetRemove()), isInternal)
	out.responseRemove = slices.DeleteFunc(slices.Clone(resp.GetRemove()), isInternal)
	return out
}

func headerOptions(values map[string]string, a corev3.HeaderValueOption_HeaderAppendAction) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for _, name := range sortedKeys(values) {
		if !isInternal(name) {
			out = append(out, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: values[name]}, AppendAction: a})
		}
	}
	return out
}

// authorityIn gives the value for Host among headers; the last by name where there are several.
func authorityIn(values map[string]string) (out string) {
	for _, name := range sortedKeys(values) {
		if isAuthority(name) {
			out = values[name]
		}
	}
	return out
}

// isInternal tells whether Envoy lets nobody change a header: pseudo-headers, and Host, which is a rewrite of its own.
func isInternal(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, "host") || strings.EqualFold(name, ":authority")
}

// rewrite writes HTTPRoute.rewrite; a uri replaces the matched prefix, or all of an exact path.
func rewrite(action *routev3.RouteAction, r *networking.HTTPRewrite) {
	if rx := r.GetUriRegexRewrite(); rx != nil {
		action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: rx.Match}, Substitution: rx.Rewrite}
		return
	}
	action.PrefixRewrite = r.GetUri()
}

// mirrors copies requests to other services: all of them unless a percentage is given, none at 0 %.
func (c *compiler) mirrors(rule *networking.HTTPRoute, port servicePort) []*routev3.RouteAction_RequestMirrorPolicy {
	var out []*routev3.RouteAction_RequestMirrorPolicy
	add := func(d *networking.Destination, percent *networking.Percent, whole *wrapperspb.UInt32Value) {
		m := &routev3.RouteAction_RequestMirrorPolicy{
			Cluster: c.destinationCluster(d, port), DisableShadowHostSuffixAppend: true, TraceSampled: wrapperspb.Bool(false),
		}
		if percent != nil {
			if percent.Value <= 0 {
				return
			}
			m.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(percent)}
		} else if whole != nil {
			if whole.Value == 0 {
				return
			}
			m.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: whole.Value}}
		}
		out = append(out, m)
	}
	if rule.Mirror != nil {
		add(rule.Mirror, rule.MirrorPercentage, rule.MirrorPercent)
	}
	for _, m := range rule.Mirrors {
		add(m.Destination, m.Percentage, nil)
	}
	return out
}

// perMillion writes a percentage with the four decimals Envoy can take.
func perMillion(p *networking.Percent) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(p.Value * 10000), Denominator: typev3.FractionalPercent_MILLION}
}

// perFilter gives the configuration of the filters that a rule uses.
func (c *compiler) perFilter(rule *networking.HTTPRoute, port servicePort) map[string]*anypb.Any {
	var out map[string]*anypb.Any
	use := func(name string, m proto.Message) {
		if out == nil {
			out = map[string]*anypb.Any{}
		}
		out[name] = mustAny(m)
		c.use(filterUse{port.number, name})
	}
	if f := rule.Fault; f.GetDelay().GetHttpDelayType() != nil || f.GetAbort().GetErrorType() != nil {
		use(faultName, c.fault(f))
	}
	if rule.CorsPolicy != nil {
		use(corsName, cors(rule.CorsPolicy))
	}
	return out
}

// fault delays or answers some requests itself.
func (c *compiler) fault(f *networking.HTTPFaultInjection) *faultv3.HTTPFault {
	out := &faultv3.HTTPFault{}
	if d := f.Delay; d.GetHttpDelayType() != nil {
		out.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: d.GetFixedDelay()},
			Percentage:         &typev3.FractionalPercent{},
		}
		switch {
		case d.Percentage != nil:
			out.Delay.Percentage = perMillion(d.Percentage)
		case d.Percent > 0:
			out.Delay.Percentage = &typev3.FractionalPercent{Numerator: uint32(d.Percent)}
		default:
			out.Delay.Percentage = c.faultDefault(out.Delay.Percentage)
		}
	}
	if a := f.Abort; a.GetErrorType() != nil {
		out.Abort = &faultv3.FaultAbort{Percentage: c.faultDefault(nil)}
		if a.Percentage != nil {
			out.Abort.Percentage = perMillion(a.Percentage)
		}
		if code, ok := grpcCode(a.GetGrpcStatus()); ok {
			out.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: code}
		} else {
			out.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: uint32(max(a.GetHttpStatus(), 0))}
		}
	}
	return out
}

// grpcCode finds a gRPC status by its name, as "UNAVAILABLE".
func grpcCode(name string) (uint32, bool) {
	if name == "" {
		return 0, false
	}
	var code codes.Code
	err := code.UnmarshalJSON([]byte(`"` + name + `"`))
	return uint32(code), err == nil
}

// cors writes corsPolicy.
func cors(p *networking.CorsPolicy) *corsv3.CorsPolicy {
	out := &corsv3.CorsPolicy{
		AllowMethods:     strings.Join(p.AllowMethods, ","),
		AllowHeaders:     strings.Join(p.AllowHeaders, ","),
		ExposeHeaders:    strings.Join(p.ExposeHeaders, ","),
		AllowCredentials: p.AllowCredentials,
		FilterEnabled:    &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}},
	}
	if p.MaxAge != nil {
		out.MaxAge = strconv.FormatInt(p.MaxAge.Seconds, 10)
	}
	for _, o := range p.AllowOrigins {
		if s := stringMatch(o); s != nil {
			out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, s)
		}
	}
	if len(p.AllowOrigins) == 0 {
		out.AllowOriginStringMatch = exactSANs(p.AllowOrigin)
	}
	switch p.UnmatchedPreflights {
	case networking.CorsPolicy_IGNORE:
		out.ForwardNotMatchingPreflights = wrapperspb.Bool(false)
	default:
		out.ForwardNotMatchingPreflights = wrapperspb.Bool(true)
	}
	return out
}
