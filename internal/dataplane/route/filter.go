package route

import (
	"fmt"
	"maps"
	"slices"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// CORS is the policy of envoy.filters.http.cors for a route: each field is the innermost level's that has it.
type CORS struct {
	enabled     *Fraction // nil: always
	origins     []stringMatcher
	Methods     string // access-control-allow-methods
	Headers     string
	Expose      string
	MaxAge      string // in seconds
	Credentials bool
	// AnswerUnmatched: a preflight from another origin is answered, without allowing it, instead of passed on
	// (forward_not_matching_preflights: false).
	AnswerUnmatched bool
}

// Enabled says whether the policy holds for a request.
func (c *CORS) Enabled(random uint64) bool { return c.enabled == nil || c.enabled.Hit(random) }

// Allows says whether an origin may read answers.
func (c *CORS) Allows(origin []byte) bool {
	for i := range c.origins {
		if c.origins[i].matches(origin) || c.origins[i].matches(anyOrigin) {
			return true
		}
	}
	return false
}

var anyOrigin = []byte("*")

// Fault is what envoy.filters.http.fault does to a route's requests.
type Fault struct {
	Delay   time.Duration // 0: none
	delayed Fraction
	Status  int // of an abort; 0: none
	aborted Fraction
	headers []headerMatcher
	cluster string
}

// Concerns says whether a request may get the fault at all.
func (f *Fault) Concerns(r *Route, q *Query) bool {
	for i := range f.headers {
		if !f.headers[i].matches(q) {
			return false
		}
	}
	return f.cluster == "" || f.cluster == r.Cluster
}

// Delays and Aborts decide about one request.
func (f *Fault) Delays(random uint64) bool { return f.Delay > 0 && f.delayed.Hit(random) }

// Aborts decides about one request.
func (f *Fault) Aborts(random uint64) bool { return f.Status > 0 && f.aborted.Hit(random) }

// compileFilters reads typed_per_filter_config of the levels, innermost first. Faults are the innermost level's that has
// any; CORS is put together.
func compileFilters(levels []map[string]*anypb.Any) (cors *CORS, fault *Fault, err error) {
	var policies []*corsv3.CorsPolicy
	for _, l := range levels {
		for _, name := range slices.Sorted(maps.Keys(l)) {
			m, err := filterConfig(l[name])
			if err != nil {
				return nil, nil, fmt.Errorf("typed_per_filter_config[%s]: %w", name, err)
			}
			switch t := m.(type) {
			case nil:
			case *corsv3.CorsPolicy:
				policies = append(policies, t)
			case *faultv3.HTTPFault:
				if fault != nil {
					continue
				}
				if fault, err = compileFault(t); err != nil {
					return nil, nil, fmt.Errorf("typed_per_filter_config[%s]: %w", name, err)
				}
			default:
				return nil, nil, fmt.Errorf("typed_per_filter_config[%s] is not supported yet", name)
			}
		}
	}
	cors, err = compileCORS(policies)
	return cors, fault, err
}

// filterConfig opens a message, out of the FilterConfig that may be around it; nil where the filter is off.
func filterConfig(a *anypb.Any) (any, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	w, ok := m.(*routev3.FilterConfig)
	switch {
	case !ok:
		return m, nil
	case w.GetDisabled():
		return nil, fmt.Errorf("disabled is not supported yet")
	case w.GetConfig() == nil:
		return nil, nil
	}
	return w.GetConfig().UnmarshalNew()
}

func compileCORS(policies []*corsv3.CorsPolicy) (*CORS, error) {
	if len(policies) == 0 {
		return nil, nil
	}
	out := &CORS{}
	if f := policies[0].GetFilterEnabled(); f != nil {
		fr := fractionOf(f.GetDefaultValue())
		out.enabled = &fr
	}
	first := func(get func(*corsv3.CorsPolicy) string) string {
		i := slices.IndexFunc(policies, func(p *corsv3.CorsPolicy) bool { return get(p) != "" })
		if i < 0 {
			return ""
		}
		return get(policies[i])
	}
	out.Methods, out.Headers = first((*corsv3.CorsPolicy).GetAllowMethods), first((*corsv3.CorsPolicy).GetAllowHeaders)
	out.Expose, out.MaxAge = first((*corsv3.CorsPolicy).GetExposeHeaders), first((*corsv3.CorsPolicy).GetMaxAge)
	for _, p := range slices.Backward(policies) {
		if err := refuseFields(p, "cors", "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials"+
			" filter_enabled forward_not_matching_preflights"); err != nil {
			return nil, err
		}
		if p.AllowCredentials != nil {
			out.Credentials = p.AllowCredentials.GetValue()
		}
		if p.ForwardNotMatchingPreflights != nil {
			out.AnswerUnmatched = !p.ForwardNotMatchingPreflights.GetValue()
		}
		if len(p.AllowOriginStringMatch) == 0 {
			continue
		}
		out.origins = nil
		for _, o := range p.AllowOriginStringMatch {
			m, err := compileString(o)
			if err != nil {
				return nil, fmt.Errorf("cors.allow_origin_string_match: %w", err)
			}
			out.origins = append(out.origins, m)
		}
	}
	return out, nil
}

func compileFault(f *faultv3.HTTPFault) (*Fault, error) {
	if err := refuseFields(f, "fault", "delay abort upstream_cluster headers disable_downstream_cluster_stats filter_metadata"); err != nil {
		return nil, err
	}
	out := &Fault{cluster: f.GetUpstreamCluster()}
	switch d := f.GetDelay().GetFaultDelaySecifier().(type) {
	case nil:
	case *commonfaultv3.FaultDelay_FixedDelay:
		out.Delay, out.delayed = d.FixedDelay.AsDuration(), fractionOf(f.GetDelay().GetPercentage())
	default:
		return nil, fmt.Errorf("fault.delay: %T is not supported yet", d)
	}
	switch a := f.GetAbort().GetErrorType().(type) {
	case nil:
	case *faultv3.FaultAbort_HttpStatus:
		out.Status = int(a.HttpStatus)
	case *faultv3.FaultAbort_GrpcStatus:
		out.Status = 200 // Envoy's answer to a request that isn't gRPC
	default:
		return nil, fmt.Errorf("fault.abort: %T is not supported yet", a)
	}
	out.aborted = fractionOf(f.GetAbort().GetPercentage())
	if f.GetAbort() != nil && (out.Status < 200 || out.Status > 599) {
		return nil, fmt.Errorf("fault.abort: status %d is not between 200 and 599", out.Status)
	}
	var err error
	if out.headers, err = compileHeaders(f.GetHeaders()); err != nil {
		return nil, fmt.Errorf("fault.headers%w", err)
	}
	return out, nil
}

// Mirror is one of a route's request_mirror_policies.
type Mirror struct {
	// Route serves the copies.
	Route    *Route
	fraction *Fraction // nil: all
	// Suffix: Host gets "-shadow" behind its name.
	Suffix bool
	Host   string // host_rewrite_literal; "": none
}

// Takes says whether a request is copied.
func (m *Mirror) Takes(random uint64) bool { return m.fraction == nil || m.fraction.Hit(random) }

// Authority appends the copy's Host.
func (m *Mirror) Authority(dst, authority []byte) []byte {
	if m.Host != "" {
		return append(dst, m.Host...)
	}
	if !m.Suffix {
		return append(dst, authority...)
	}
	host := withoutPort(authority)
	dst = append(append(dst, host...), "-shadow"...)
	return append(dst, authority[len(host):]...)
}

// mirrorTimeout bounds copies where the route's own requests have no bound.
const mirrorTimeout = 5 * time.Minute

func compileMirrors(list []*routev3.RouteAction_RequestMirrorPolicy, timeout time.Duration) ([]Mirror, error) {
	if timeout <= 0 {
		timeout = mirrorTimeout
	}
	var out []Mirror
	for i, p := range list {
		path := fmt.Sprintf("request_mirror_policies[%d]", i)
		if err := refuseFields(p, path, "cluster runtime_fraction trace_sampled disable_shadow_host_suffix_append host_rewrite_literal"); err != nil {
			return nil, err
		}
		if p.GetCluster() == "" {
			return nil, fmt.Errorf("%s.cluster is empty", path)
		}
		if err := checkText(path+".host_rewrite_literal", p.GetHostRewriteLiteral()); err != nil {
			return nil, err
		}
		m := Mirror{Route: &Route{Name: "mirror", Cluster: p.GetCluster(), Timeout: timeout, Plain: true},
			Suffix: !p.GetDisableShadowHostSuffixAppend(), Host: p.GetHostRewriteLiteral()}
		if f := p.GetRuntimeFraction(); f != nil {
			fr := fractionOf(f.GetDefaultValue())
			m.fraction = &fr
		}
		out = append(out, m)
	}
	return out, nil
}
