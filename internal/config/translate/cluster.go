package translate

import (
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// What istiod does (core/cluster.go, cluster_builder.go; SEMANTICS §1.1, §3): one cluster for every service port and every
// subset, plus BlackHoleCluster and PassthroughCluster. The resolution decides the type: DNS is STRICT_DNS with its
// endpoints inline, DNS_ROUND_ROBIN LOGICAL_DNS, STATIC and workloadSelector EDS, NONE ORIGINAL_DST, DYNAMIC_DNS a dynamic
// forward proxy. Each has connect_timeout 10 s, all four circuit breakers open, no panic, LEAST_REQUEST.

const protocolOptionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// clusterContext is what one cluster is made from.
type clusterContext struct {
	service  *service
	port     servicePort
	subset   *subset        // nil for the whole service
	from     *config.Object // the DestinationRule it names in its metadata; nil when there is none
	policy   policy
	members  []member
	options  *httpv3.HttpProtocolOptions // nil until something needs it
	upgrades bool                        // MeshConfig's h2UpgradePolicy
	passes   bool                        // a subset that passes connections through: it says so, or its service does
}

// clustersOf gives the clusters of a service and the load assignments of those that get theirs by EDS. What is blocked has
// none: a route to it is answered 503, a connection closed.
func (c *compiler) clustersOf(s *service) (clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) {
	for _, cc := range c.contexts(s) {
		if c.blocked(s, cc.policy) != "" {
			continue
		}
		cl, la := c.cluster(cc)
		if cl != nil {
			clusters = append(clusters, cl)
		}
		if la != nil {
			assignments = append(assignments, la)
		}
	}
	return clusters, assignments
}

// contexts gives what each cluster of a service is made from: one for every port, and one for every port and subset.
func (c *compiler) contexts(s *service) []*clusterContext {
	var out []*clusterContext
	for _, port := range s.ports {
		if port.protocol == datagram || !c.joins(s, port.number) {
			continue
		}
		whole := &clusterContext{service: s, port: port, upgrades: c.mesh.upgradesHTTP2, policy: c.policyFor(s.rule, port.number, nil), members: c.membersOf(s, port, nil)}
		out = append(out, whole)
		if s.rule == nil {
			continue
		}
		whole.from = s.rule.from
		if s.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
			continue
		}
		for i := range s.rule.subsets {
			sub := &s.rule.subsets[i]
			out = append(out, &clusterContext{
				service: s, port: port, subset: sub, from: s.rule.from, upgrades: c.mesh.upgradesHTTP2,
				policy:  c.policyFor(s.rule, port.number, sub),
				passes:  passes(whole.policy.balancer) || passes(sub.TrafficPolicy.GetLoadBalancer()),
				members: c.membersOf(s, port, sub.Labels),
			})
		}
	}
	return out
}

// cluster makes one cluster, and its load assignment where that goes by EDS.
func (c *compiler) cluster(cc *clusterContext) (*clusterv3.Cluster, *endpointv3.ClusterLoadAssignment) {
	s := cc.service
	name := clusterName(cc.port.number, cc.subset.name(), s.host)
	cl := &clusterv3.Cluster{
		Name:           name,
		AltStatName:    name + ";",
		ConnectTimeout: c.mesh.connectTimeout,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
		LbPolicy:       clusterv3.Cluster_LEAST_REQUEST,
		Metadata:       c.clusterMetadata(cc),
	}
	groups := c.place(cc.members, c.placementFor(s, cc.policy), c.failsOver(cc))
	var assignment *endpointv3.ClusterLoadAssignment
	switch r := s.spec.Resolution; {
	case cc.passes && r != networking.ServiceEntry_NONE:
		toOriginalDestination(cl)
	case resolvesByName(r):
		if len(cc.members) == 0 {
			return nil, nil // Envoy would wait for it in vain; istiod leaves it out
		}
		c.nameEndpoints(cc, groups)
		c.resolveByName(cl, cc)
		cl.LoadAssignment = c.loadAssignment(name, groups)
	case r == networking.ServiceEntry_STATIC:
		cl.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		cl.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{ServiceName: name, EdsConfig: share(c, adsSource())}
		assignment = c.loadAssignment(name, groups)
	case r == networking.ServiceEntry_DYNAMIC_DNS:
		c.forwardDynamically(cl, s.host)
	default:
		toOriginalDestination(cl)
		if p := portNamed(s.spec, cc.port.number); p.GetTargetPort() > 0 {
			cl.LbConfig = &clusterv3.Cluster_OriginalDstLbConfig_{OriginalDstLbConfig: &clusterv3.Cluster_OriginalDstLbConfig{
				UpstreamPortOverride: wrapperspb.UInt32(p.TargetPort),
			}}
		}
	}
	c.applyPool(cc, cl)
	c.applyBalancer(cc, cl)
	c.applyOutlier(s, cl, cc.policy.outlier)
	c.countStatuses(cc)
	c.applyTLS(cc, cl)
	applyProtocol(cc, cl)
	c.admitPlain(cc, cl)
	if cl.LbPolicy == clusterv3.Cluster_CLUSTER_PROVIDED {
		assignment = nil
	}
	cl.CommonLbConfig, cl.CircuitBreakers = share(c, cl.CommonLbConfig), share(c, cl.CircuitBreakers)
	cl.OutlierDetection, cl.TransportSocket = share(c, cl.OutlierDetection), share(c, cl.TransportSocket)
	return cl, assignment
}

// adsSource says that a resource comes over the stream the cluster came by.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// clusterMetadata names the DestinationRule and the subset, where istioctl looks for them.
func (c *compiler) clusterMetadata(cc *clusterContext) *corev3.Metadata {
	host := structpb.NewStringValue(cc.service.host)
	service := structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"host": host, "name": host, "namespace": share(c, structpb.NewStringValue(cc.service.first.Namespace)),
	}})
	istio := map[string]*structpb.Value{
		"services": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{service}}),
	}
	if cc.service.external() {
		istio["external"] = share(c, structpb.NewBoolValue(true))
	}
	if cc.from != nil {
		istio["config"] = structpb.NewStringValue(configPath(cc.from))
	}
	if cc.subset != nil {
		istio["subset"] = share(c, structpb.NewStringValue(cc.subset.Name))
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: istio}}}
}

// mustStruct makes a Struct of strings, booleans, lists and maps, which can't fail on valid UTF-8.
func mustStruct(m map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(m)
	if err != nil {
		return &structpb.Struct{}
	}
	return s
}

// toOriginalDestination sends connections where they wanted to go.
func toOriginalDestination(cl *clusterv3.Cluster) {
	cl.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
	cl.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	cl.LoadAssignment, cl.EdsClusterConfig = nil, nil
}

// applyPool writes connectionPool and retryBudget: limits as circuit breakers, which stand open unless set, and the life
// of connections.
func (c *compiler) applyPool(cc *clusterContext, cl *clusterv3.Cluster) {
	tcp, http := cc.policy.pool.GetTcp(), cc.policy.pool.GetHttp()
	th := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     limit(tcp.GetMaxConnections()),
		MaxPendingRequests: limit(http.GetHttp1MaxPendingRequests()),
		MaxRequests:        limit(http.GetHttp2MaxRequests()),
		MaxRetries:         limit(http.GetMaxRetries()),
	}
	if b := cc.policy.budget; b != nil {
		th.RetryBudget = retryBudget(b)
	}
	cl.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{th}}
	if d := tcp.GetConnectTimeout(); d != nil {
		cl.ConnectTimeout = d
	}
	if c.mesh.keepalive != nil || tcp.GetTcpKeepalive() != nil {
		k := keepalive(c.mesh.keepalive)
		proto.Merge(k, keepalive(tcp.GetTcpKeepalive()))
		cl.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: k}
	}
	common := &corev3.HttpProtocolOptions{IdleTimeout: http.GetIdleTimeout(), MaxConnectionDuration: tcp.GetMaxConnectionDuration()}
	if common.IdleTimeout == nil {
		common.IdleTimeout = tcp.GetIdleTimeout()
	}
	if n := http.GetMaxRequestsPerConnection(); n > 0 {
		common.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(n))
	}
	if common.IdleTimeout != nil || common.MaxConnectionDuration != nil || common.MaxRequestsPerConnection != nil ||
		http.GetMaxConcurrentStreams() > 0 || http.GetHttp2KeepAlive() != nil {
		cc.httpOptions().CommonHttpProtocolOptions = common
	}
}

// limit gives a circuit breaker's threshold: 0 and less mean none.
func limit(n int32) *wrapperspb.UInt32Value {
	if n > 0 {
		return wrapperspb.UInt32(uint32(n))
	}
	return wrapperspb.UInt32(math.MaxUint32)
}

// retryBudget: percent 20 and at least 3 retries at once unless said otherwise, as Istio's documentation has it.
func retryBudget(b *networking.TrafficPolicy_RetryBudget) *clusterv3.CircuitBreakers_Thresholds_RetryBudget {
	out := &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
		BudgetPercent: &typev3.Percent{Value: 20}, BudgetInterval: b.BudgetInterval, MinRetryConcurrency: wrapperspb.UInt32(3),
	}
	if b.Percent != nil {
		out.BudgetPercent.Value = b.Percent.Value
	}
	if b.MinRetryConcurrency > 0 {
		out.MinRetryConcurrency.Value = b.MinRetryConcurrency
	}
	return out
}

func keepalive(k *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) *corev3.TcpKeepalive {
	out := &corev3.TcpKeepalive{}
	if k.GetProbes() > 0 {
		out.KeepaliveProbes = wrapperspb.UInt32(k.Probes)
	}
	if k.GetTime() != nil {
		out.KeepaliveTime = seconds(k.Time)
	}
	if k.GetInterval() != nil {
		out.KeepaliveInterval = seconds(k.Interval)
	}
	return out
}

func seconds(d *durationpb.Duration) *wrapperspb.UInt32Value {
	return wrapperspb.UInt32(uint32(min(max(d.Seconds, 0), math.MaxUint32)))
}

func (cc *clusterContext) httpOptions() *httpv3.HttpProtocolOptions {
	if cc.options == nil {
		cc.options = &httpv3.HttpProtocolOptions{}
	}
	return cc.options
}

// speaksHTTP2 tells whether requests go upstream as HTTP/2: on ports that say so, and where the rule asks for an upgrade,
// or the mesh does for HTTP ports and the rule says nothing.
func (cc *clusterContext) speaksHTTP2() bool {
	http := cc.policy.pool.GetHttp()
	switch {
	case cc.port.protocol == http2:
		return true
	case http.GetUseClientProtocol() || cc.port.protocol == sniffed:
		return false
	case http.GetH2UpgradePolicy() != networking.ConnectionPoolSettings_HTTPSettings_DEFAULT:
		return http.GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
	}
	return cc.upgrades && cc.port.protocol == plainHTTP
}

// followsClient tells whether requests go upstream in the version they came in.
func (cc *clusterContext) followsClient() bool {
	return cc.policy.pool.GetHttp().GetUseClientProtocol() || cc.port.protocol == sniffed
}

// applyProtocol writes the upstream HTTP version and what else stands in HttpProtocolOptions; the options demand a version
// as soon as they say anything.
func applyProtocol(cc *clusterContext, cl *clusterv3.Cluster) {
	switch {
	case cc.followsClient():
		cc.httpOptions().UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		}
	case cc.speaksHTTP2():
		cc.httpOptions().UpstreamProtocolOptions = explicit(&httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
				Http2ProtocolOptions: http2Options(cc.policy.pool.GetHttp()),
			},
		})
	case cc.options != nil:
		cc.options.UpstreamProtocolOptions = explicit(&httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		})
	default:
		return
	}
	cl.TypedExtensionProtocolOptions = map[string]*anypb.Any{protocolOptionsName: mustAny(cc.options)}
}

func explicit(e *httpv3.HttpProtocolOptions_ExplicitHttpConfig) *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: e}
}

func http2Options(h *networking.ConnectionPoolSettings_HTTPSettings) *corev3.Http2ProtocolOptions {
	out := &corev3.Http2ProtocolOptions{}
	if n := h.GetMaxConcurrentStreams(); n > 0 {
		out.MaxConcurrentStreams = wrapperspb.UInt32(uint32(n))
	}
	if k := h.GetHttp2KeepAlive(); k != nil {
		out.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: k.Interval, Timeout: k.Timeout}
	}
	return out
}

// passthroughCluster carries what nobody declared to where it wanted to go.
func (c *compiler) passthroughCluster() *clusterv3.Cluster {
	cl := &clusterv3.Cluster{
		Name:            passthroughName,
		AltStatName:     passthroughName + ";",
		ConnectTimeout:  c.mesh.connectTimeout,
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{openThresholds()}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{protocolOptionsName: mustAny(&httpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(5 * time.Minute)},
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
				UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
				},
			},
		})},
	}
	toOriginalDestination(cl)
	return cl
}

func openThresholds() *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections: limit(0), MaxPendingRequests: limit(0), MaxRequests: limit(0), MaxRetries: limit(0),
	}
}

// blackHoleCluster is where refused traffic ends: it has no endpoints.
func (c *compiler) blackHoleCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 blackHoleName,
		AltStatName:          blackHoleName + ";",
		ConnectTimeout:       c.mesh.connectTimeout,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
	}
}
