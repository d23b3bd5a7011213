package route

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// scope is what a route gets from its route configuration and its virtual host.
type scope struct {
	foreign bool
	// wins: most_specific_header_mutations_wins, so that levels apply from the outermost in.
	wins              bool
	request, response []level // innermost first
	filters           []map[string]*anypb.Any
	retry             *routev3.RetryPolicy
	mirrors           []*routev3.RouteAction_RequestMirrorPolicy
	attemptCount      bool
	err               error // refuses every route
}

// Fields that change nothing in how a request is served here: names, statistics, limits checked elsewhere.
const inertFields = " name metadata stat_prefix decorator tracing virtual_clusters validate_clusters max_direct_response_body_size_bytes" +
	" per_request_buffer_limit_bytes request_body_buffer_limit"

func configScope(rc *routev3.RouteConfiguration, foreign bool) scope {
	s := scope{foreign: foreign, wins: rc.GetMostSpecificHeaderMutationsWins(), mirrors: rc.GetRequestMirrorPolicies()}
	s.err = refuseFields(rc, "route configuration", "virtual_hosts response_headers_to_add response_headers_to_remove request_headers_to_add"+
		" request_headers_to_remove most_specific_header_mutations_wins request_mirror_policies ignore_port_in_host_matching"+
		" typed_per_filter_config cluster_specifier_plugins"+inertFields)
	s.enter("route configuration", rc, rc.GetTypedPerFilterConfig())
	return s
}

func (s scope) virtualHost(vh *routev3.VirtualHost) scope {
	s.request, s.response = append([]level(nil), s.request...), append([]level(nil), s.response...)
	s.filters = append([]map[string]*anypb.Any(nil), s.filters...)
	if err := refuseFields(vh, "virtual host", "domains routes request_headers_to_add request_headers_to_remove response_headers_to_add"+
		" response_headers_to_remove typed_per_filter_config include_request_attempt_count retry_policy request_mirror_policies"+inertFields); s.err == nil {
		s.err = err
	}
	s.enter("virtual host", vh, vh.GetTypedPerFilterConfig())
	s.retry = vh.GetRetryPolicy()
	if m := vh.GetRequestMirrorPolicies(); len(m) > 0 {
		s.mirrors = m
	}
	s.attemptCount = vh.GetIncludeRequestAttemptCount()
	return s
}

// enter puts a level before those that surround it.
func (s *scope) enter(name string, m headerOptions, filters map[string]*anypb.Any) {
	request, response, err := levels(name, m)
	if s.err == nil {
		s.err = err
	}
	s.request = append([]level{request}, s.request...)
	s.response = append([]level{response}, s.response...)
	s.filters = append([]map[string]*anypb.Any{filters}, s.filters...)
}

// mutations joins the levels from the innermost out, as Envoy applies them by default, or the other way round.
func (s *scope) mutations(levels []level) Mutations {
	var out Mutations
	for _, l := range levels {
		if len(l.remove)+len(l.set)+len(l.add) == 0 {
			continue
		}
		if s.wins {
			out = append(Mutations{l}, out...)
		} else {
			out = append(out, l)
		}
	}
	return out
}

func levels(name string, m headerOptions) (request, response level, err error) {
	if request, err = compileLevel("request_headers", m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove()); err == nil {
		response, err = compileLevel("response_headers", m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove())
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return request, response, err
}
