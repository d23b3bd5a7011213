package route

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"detour.dev/detour/internal/xds"
)

// defaultTimeout is RouteAction.timeout's default in Envoy.
const defaultTimeout = 15 * time.Second

// headerOptions is what has header operations.
type headerOptions interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

// compileRoute gives, beside an error, what of the match could be read.
func compileRoute(r *routev3.Route, s scope) (*Route, error) {
	out := &Route{Name: r.GetName(), AttemptCount: s.attemptCount}
	var err error
	if out.match, err = compileMatch(r.GetMatch()); err != nil {
		return out, err
	}
	if s.err != nil {
		return out, s.err
	}
	if err := refuseFields(r, "route", "match route redirect direct_response typed_per_filter_config request_headers_to_add request_headers_to_remove"+
		" response_headers_to_add response_headers_to_remove"+inertFields); err != nil {
		return out, err
	}
	s.request, s.response, s.filters = slices.Clone(s.request), slices.Clone(s.response), slices.Clone(s.filters)
	s.enter("route", r, r.GetTypedPerFilterConfig())
	if s.err != nil {
		return out, s.err
	}
	if err := out.inherit(&s); err != nil {
		return out, err
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_DirectResponse:
		err = out.compileDirect(a.DirectResponse)
	case *routev3.Route_Redirect:
		err = out.compileRedirect(a.Redirect)
	case *routev3.Route_Route:
		err = out.compileAction(a.Route, r.GetMetadata(), &s)
	default:
		err = fmt.Errorf("action %T is not supported yet", r.GetAction())
	}
	out.settle()
	return out, err
}

// inherit takes what the levels say: header operations and filters.
func (r *Route) inherit(s *scope) (err error) {
	r.Request, r.Response = s.mutations(s.request), s.mutations(s.response)
	r.CORS, r.Fault, err = compileFilters(s.filters)
	return err
}

// settle decides whether a route is plain.
func (r *Route) settle() {
	r.Plain = r.CORS == nil && r.Fault == nil && len(r.Mirrors) == 0 && len(r.Hash) == 0 && len(r.Request) == 0 && len(r.Response) == 0 &&
		r.Redirect == nil && r.Path == nil && !r.HasIdle && r.MaxDuration == 0 && !r.AttemptCount && (r.Direct == nil || !redirects(r.Direct.Status))
}

// Locates says whether an answer of the route's own has a Location.
func (r *Route) Locates() bool {
	return r.Redirect != nil || r.Direct != nil && redirects(r.Direct.Status)
}

// redirects says whether Envoy sends Location with the status.
func redirects(status int) bool { return status == http.StatusCreated || status/100 == 3 }

func (r *Route) compileDirect(d *routev3.DirectResponseAction) error {
	if err := refuseFields(d, "direct_response", "status body"); err != nil {
		return err
	}
	switch d.GetBody().GetSpecifier().(type) {
	case nil, *corev3.DataSource_InlineBytes, *corev3.DataSource_InlineString:
	default:
		return fmt.Errorf("direct_response.body: %T is not supported yet", d.GetBody().GetSpecifier())
	}
	if n := d.GetStatus(); n < 200 || n > 599 {
		return fmt.Errorf("direct_response.status: %d is not between 200 and 599", n)
	}
	r.Direct = &Direct{Status: int(d.GetStatus()), Body: inline(d.GetBody())}
	return nil
}

const actionFields = "cluster weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite host_rewrite_literal auto_host_rewrite" +
	" timeout idle_timeout retry_policy request_mirror_policies hash_policy max_stream_duration max_grpc_timeout grpc_timeout_offset priority"

func (r *Route) compileAction(a *routev3.RouteAction, meta *corev3.Metadata, s *scope) error {
	if err := refuseFields(a, "route", actionFields); err != nil {
		return err
	}
	if a.GetPriority() != corev3.RoutingPriority_DEFAULT {
		return fmt.Errorf("route.priority: %s is not supported yet", a.GetPriority())
	}
	r.compileTimes(a)
	r.HostRewrite = a.GetHostRewriteLiteral()
	if err := checkText("route.host_rewrite_literal", r.HostRewrite); err != nil {
		return err
	}
	r.AutoHostRewrite = a.GetAutoHostRewrite().GetValue()
	r.MissingCluster = http.StatusServiceUnavailable
	switch a.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_NOT_FOUND:
		r.MissingCluster = http.StatusNotFound
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		r.MissingCluster = http.StatusInternalServerError
	}
	var err error
	if r.Path, err = compilePathRewrite(a.GetPrefixRewrite(), a.GetRegexRewrite()); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	if r.Hash, err = compileHash(a.GetHashPolicy()); err != nil {
		return err
	}
	mirrors := s.mirrors
	if own := a.GetRequestMirrorPolicies(); len(own) > 0 {
		mirrors = own
	}
	if r.Mirrors, err = compileMirrors(mirrors, r.Timeout); err != nil {
		return err
	}
	policy := a.GetRetryPolicy()
	if policy == nil {
		policy = s.retry
	}
	marked := meta.GetFilterMetadata()[xds.MetadataKey].GetFields()[xds.MetaDefaultRetry].GetBoolValue()
	if r.Retry, err = compileRetry(policy, marked, s.foreign); err != nil {
		return err
	}
	return r.compileClusters(a, s)
}

func (r *Route) compileTimes(a *routev3.RouteAction) {
	r.Timeout = defaultTimeout
	if t := a.GetTimeout(); t != nil {
		r.Timeout = t.AsDuration()
	}
	if t := a.GetIdleTimeout(); t != nil {
		r.Idle, r.HasIdle = t.AsDuration(), true
	}
	r.MaxDuration = a.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration()
}

func (r *Route) compileClusters(a *routev3.RouteAction, s *scope) error {
	switch c := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if r.Cluster = c.Cluster; r.Cluster == "" {
			return fmt.Errorf("route.cluster is empty")
		}
		return nil
	case *routev3.RouteAction_WeightedClusters:
		return r.compileWeighted(c.WeightedClusters, s)
	}
	return fmt.Errorf("route: cluster specifier %T is not supported yet", a.GetClusterSpecifier())
}

// compileWeighted makes a route of its own for each cluster.
func (r *Route) compileWeighted(w *routev3.WeightedCluster, s *scope) error {
	if err := refuseFields(w, "weighted_clusters", "clusters total_weight runtime_key_prefix"); err != nil {
		return err
	}
	for i, c := range w.GetClusters() {
		one, err := r.weightedRoute(c, *s)
		if err != nil {
			return fmt.Errorf("weighted_clusters.clusters[%d]: %w", i, err)
		}
		if c.GetWeight().GetValue() == 0 {
			continue
		}
		r.total += uint64(c.GetWeight().GetValue())
		r.weighted = append(r.weighted, weighted{r.total, one})
	}
	if r.total == 0 || r.total > math.MaxUint32 {
		return fmt.Errorf("weighted_clusters: the weights add up to %d", r.total)
	}
	return nil
}

func (r *Route) weightedRoute(c *routev3.WeightedCluster_ClusterWeight, s scope) (*Route, error) {
	if err := refuseFields(c, "cluster", "weight request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"+
		" typed_per_filter_config host_rewrite_literal"+inertFields); err != nil {
		return nil, err
	}
	if c.GetName() == "" {
		return nil, fmt.Errorf("name is empty")
	}
	if err := checkText("host_rewrite_literal", c.GetHostRewriteLiteral()); err != nil {
		return nil, err
	}
	one := *r
	one.weighted, one.total = nil, 0
	one.Cluster = c.GetName()
	if one.HostRewrite == "" { // the route's own comes later, and wins
		one.HostRewrite = c.GetHostRewriteLiteral()
	}
	s.request, s.response, s.filters = slices.Clone(s.request), slices.Clone(s.response), append([]map[string]*anypb.Any(nil), s.filters...)
	s.enter("cluster", c, c.GetTypedPerFilterConfig())
	if s.err != nil {
		return nil, s.err
	}
	for i := range s.request[1:] {
		s.request[1+i].authority = c.GetHostRewriteLiteral()
	}
	if err := one.inherit(&s); err != nil {
		return nil, err
	}
	one.settle()
	return &one, nil
}

// positive gives a duration, or def where it is not set or not above 0.
func positive(d *durationpb.Duration, def time.Duration) time.Duration {
	if t := d.AsDuration(); t > 0 {
		return t
	}
	return def
}
