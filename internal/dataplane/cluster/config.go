package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/outlier"
	"detour.dev/detour/internal/dns"
)

// Type is how a cluster comes by its endpoints.
type Type uint8

// The types that are served; any other is rejected.
const (
	Static Type = iota
	EDS
	StrictDNS
	LogicalDNS
	OriginalDst
	DynamicDNS // a dynamic forward proxy
)

// providesBalancing tells whether the type says by itself which endpoint a request goes to (lb_policy CLUSTER_PROVIDED).
func (t Type) providesBalancing() bool { return t == OriginalDst || t == DynamicDNS }

// byName tells whether endpoints are DNS names.
func (t Type) byName() bool { return t == StrictDNS || t == LogicalDNS }

// Config is what configuration says of one cluster, apart from its endpoints. It is immutable.
type Config struct {
	Name           string
	Type           Type
	ConnectTimeout time.Duration // Envoy's default: 5 s
	// TransportSocket says how connections are secured; nil: plain text.
	TransportSocket *corev3.TransportSocket
	// ProxyProtocol is the version of the header that each connection begins with; 0: none.
	ProxyProtocol uint8
	// PoolKey is the hash of all that makes pooled connections not interchangeable: transport socket, keepalive and HTTP
	// options. A connection of a host whose cluster has another PoolKey must not be used.
	PoolKey         string
	HTTP            HTTPOptions
	Limits          Limits
	Keepalive       *TCPKeepalive // nil: the system's default, off
	BufferLimit     uint32        // per_connection_buffer_limit_bytes, default 1 MiB
	PortOverride    uint16        // of ORIGINAL_DST; 0: none
	CleanupInterval time.Duration // of ORIGINAL_DST hosts, default 5 s

	HasOutlierDetection bool
	// Istio is metadata's filter_metadata.istio: config names the DestinationRule. nil: none.
	Istio *structpb.Struct
	// Proto is the resource as it came.
	Proto *clusterv3.Cluster

	errorMatcher *matcherv3.MatchPredicate

	policy  lb.Policy
	outlier *outlier.Config // nil without outlierDetection
	dns     discovery.Options
	dynamic dynamicConfig
	eds     string
}

// HTTPOptions are the parts of HttpProtocolOptions that the engine serves.
type HTTPOptions struct {
	AutoSNI           bool          // the SNI is the request's Host
	AutoSANValidation bool          // the certificate must carry the SNI so chosen
	IdleTimeout       time.Duration // of a pooled connection; default 1 h; 0: none
	MaxDuration       time.Duration // of a connection; 0: none
	MaxRequests       uint32        // per connection; 0: no limit
	HTTP2             bool          // explicit HTTP/2
	UseDownstream     bool          // the protocol of the downstream connection
}

// Limits are the circuit breaker's thresholds; math.MaxUint32 means none. Envoy's defaults are 1024, 1024, 1024 and 3.
type Limits struct {
	MaxConnections, MaxPending, MaxRequests, MaxRetries uint32
	RetryBudget                                         *RetryBudget // nil: MaxRetries counts
}

// TCPKeepalive is upstream_connection_options.tcp_keepalive; 0: the system's default.
type TCPKeepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// compile judges a cluster alone; an error says which field is not served or wrong.
func compile(c *clusterv3.Cluster, o *Options) (*Config, error) {
	if c.GetName() == "" {
		return nil, errors.New("name: is empty")
	}
	cfg := &Config{
		Name:            c.GetName(),
		ConnectTimeout:  duration(c.GetConnectTimeout(), 5*time.Second),
		TransportSocket: c.GetTransportSocket(),
		BufferLimit:     value(c.GetPerConnectionBufferLimitBytes(), 1<<20),
		Istio:           c.GetMetadata().GetFilterMetadata()["istio"],
		Proto:           c,
	}
	for _, step := range []func(*clusterv3.Cluster, *Options) error{
		refuse, cfg.compileTransport, cfg.compileType, cfg.compilePolicy, cfg.compileHTTP, cfg.compileOutlier,
	} {
		if err := step(c, o); err != nil {
			return nil, err
		}
	}
	cfg.Limits = limitsOf(c, corev3.RoutingPriority_DEFAULT)
	cfg.compileKeepalive(c)
	cfg.PoolKey = poolKey(c)
	return cfg, nil
}

// refuse names what would change where traffic goes and is not served.
func refuse(c *clusterv3.Cluster, _ *Options) error {
	switch {
	case len(c.GetTransportSocketMatches()) > 0 || c.GetTransportSocketMatcher() != nil:
		return errors.New("transport_socket_matches: not supported")
	case c.GetLoadBalancingPolicy() != nil:
		return errors.New("load_balancing_policy: not supported, use lb_policy")
	case c.GetLbSubsetConfig() != nil:
		return errors.New("lb_subset_config: not supported")
	case len(c.GetHealthChecks()) > 0:
		return errors.New("health_checks: not supported yet")
	case len(c.GetFilters()) > 0:
		return errors.New("filters: not supported")
	case c.GetUpstreamConfig() != nil:
		return errors.New("upstream_config: not supported")
	case c.GetUpstreamBindConfig() != nil:
		return errors.New("upstream_bind_config: not supported")
	case len(c.GetCircuitBreakers().GetPerHostThresholds()) > 0:
		return errors.New("circuit_breakers.per_host_thresholds: not supported")
	}
	return nil
}

// compileTransport takes the PROXY protocol's transport socket off the one that it wraps.
func (cfg *Config) compileTransport(c *clusterv3.Cluster, _ *Options) error {
	var p proxyv3.ProxyProtocolUpstreamTransport
	any := c.GetTransportSocket().GetTypedConfig()
	if !any.MessageIs(&p) {
		return nil
	}
	if err := any.UnmarshalTo(&p); err != nil {
		return fmt.Errorf("transport_socket: %w", err)
	}
	conf := p.GetConfig()
	if conf.GetPassThroughTlvs() != nil || len(conf.GetAddedTlvs()) > 0 {
		return errors.New("transport_socket: pass_through_tlvs and added_tlvs are not supported")
	}
	cfg.ProxyProtocol = 1
	if conf.GetVersion() == corev3.ProxyProtocolConfig_V2 {
		cfg.ProxyProtocol = 2
	}
	if cfg.TransportSocket = p.GetTransportSocket(); cfg.TransportSocket.GetTypedConfig().MessageIs(&rawv3.RawBuffer{}) {
		cfg.TransportSocket = nil
	}
	return nil
}

func (cfg *Config) compileType(c *clusterv3.Cluster, _ *Options) error {
	if t := c.GetClusterType(); t != nil {
		var d dnsv3.DnsCluster
		if t.GetTypedConfig().MessageIs(&dfpv3.ClusterConfig{}) {
			return cfg.compileDynamic(c)
		}
		if t.GetTypedConfig() == nil || !t.GetTypedConfig().MessageIs(&d) {
			return fmt.Errorf("cluster_type: %s is not supported", t.GetName())
		}
		if err := t.GetTypedConfig().UnmarshalTo(&d); err != nil {
			return fmt.Errorf("cluster_type: %w", err)
		}
		cfg.Type = StrictDNS
		if d.GetAllAddressesInSingleEndpoint() {
			cfg.Type = LogicalDNS
		}
		cfg.dns = dnsOptions(d.GetDnsRefreshRate(), d.GetDnsJitter(), d.GetRespectDnsTtl(), int32(d.GetDnsLookupFamily()))
		cfg.dns.Rotate = d.GetAllAddressesInSingleEndpoint()
		failureRate(&cfg.dns, d.GetDnsFailureRefreshRate())
		return nil
	}
	switch c.GetType() {
	case clusterv3.Cluster_STATIC:
		cfg.Type = Static
	case clusterv3.Cluster_EDS:
		cfg.Type = EDS
		if cfg.eds = c.GetEdsClusterConfig().GetServiceName(); cfg.eds == "" {
			cfg.eds = c.GetName()
		}
	case clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
		cfg.Type = StrictDNS
		if c.GetType() == clusterv3.Cluster_LOGICAL_DNS {
			cfg.Type = LogicalDNS
		}
		//lint:ignore SA1019 istiod and --compat istio send these (SEMANTICS T17)
		rate, jitter, ttl := c.GetDnsRefreshRate(), c.GetDnsJitter(), c.GetRespectDnsTtl()
		cfg.dns = dnsOptions(rate, jitter, ttl, int32(c.GetDnsLookupFamily())+1)
		cfg.dns.Rotate = cfg.Type == LogicalDNS
		//lint:ignore SA1019 as above
		failureRate(&cfg.dns, c.GetDnsFailureRefreshRate())
	case clusterv3.Cluster_ORIGINAL_DST:
		return cfg.compileOriginalDst(c)
	default:
		return fmt.Errorf("type: %s is not supported yet", c.GetType())
	}
	return nil
}

func (cfg *Config) compileOriginalDst(c *clusterv3.Cluster) error {
	cfg.Type = OriginalDst
	cfg.CleanupInterval = duration(c.GetCleanupInterval(), 5*time.Second)
	od := c.GetOriginalDstLbConfig()
	if od.GetUseHttpHeader() || od.GetMetadataKey() != nil {
		return errors.New("original_dst_lb_config: use_http_header and metadata_key are not supported")
	}
	port := od.GetUpstreamPortOverride().GetValue()
	if port > math.MaxUint16 {
		return fmt.Errorf("original_dst_lb_config.upstream_port_override: %d is not a port", port)
	}
	cfg.PortOverride = uint16(port)
	return nil
}

// dnsOptions takes the family by DnsCluster's numbers: 0 unspecified, 1 AUTO, 2 V4_ONLY, 3 V6_ONLY, 4 V4_PREFERRED, 5 ALL.
func dnsOptions(rate, jitter *durationpb.Duration, ttl bool, family int32) discovery.Options {
	d := discovery.Options{RefreshRate: duration(rate, 5*time.Second), Jitter: duration(jitter, -1), RespectTTL: ttl}
	switch family {
	case 2:
		d.Family = dns.V4
	case 3:
		d.Family = dns.V6
	case 4:
		d.Prefer = dns.V4
	case 5:
	default:
		d.Prefer = dns.V6
	}
	return d
}

// failureRate reads dns_failure_refresh_rate, whose max_interval is 10 × base_interval unless given.
func failureRate(d *discovery.Options, r interface {
	GetBaseInterval() *durationpb.Duration
	GetMaxInterval() *durationpb.Duration
}) {
	if base := r.GetBaseInterval().AsDuration(); base > 0 {
		d.FailureBase, d.FailureMax = base, duration(r.GetMaxInterval(), 10*base)
	}
}

func (cfg *Config) compileHTTP(c *clusterv3.Cluster, _ *Options) error {
	h := &cfg.HTTP
	h.IdleTimeout = time.Hour
	any := c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
	if any == nil {
		return nil
	}
	var o httpv3.HttpProtocolOptions
	if err := any.UnmarshalTo(&o); err != nil {
		return fmt.Errorf("typed_extension_protocol_options: %w", err)
	}
	common, up := o.GetCommonHttpProtocolOptions(), o.GetUpstreamHttpProtocolOptions()
	h.AutoSNI, h.AutoSANValidation = up.GetAutoSni(), up.GetAutoSanValidation()
	h.IdleTimeout = duration(common.GetIdleTimeout(), time.Hour)
	h.MaxDuration = duration(common.GetMaxConnectionDuration(), 0)
	h.MaxRequests = value(common.GetMaxRequestsPerConnection(), 0)
	h.HTTP2 = o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil
	h.UseDownstream = o.GetUseDownstreamProtocolConfig() != nil
	if h.HTTP2 {
		return errors.New("typed_extension_protocol_options: http2_protocol_options: HTTP/2 is not supported yet")
	}
	cfg.errorMatcher = o.GetOutlierDetection().GetErrorMatcher()
	return nil
}

func (cfg *Config) compileOutlier(c *clusterv3.Cluster, _ *Options) (err error) {
	if c.GetOutlierDetection() == nil {
		return nil
	}
	cfg.HasOutlierDetection = true
	if cfg.outlier, err = outlier.Parse(c.GetOutlierDetection()); err != nil {
		return err
	}
	return cfg.outlier.SetErrorMatcher(cfg.errorMatcher)
}

// limitsOf reads the thresholds of one priority.
func limitsOf(c *clusterv3.Cluster, p corev3.RoutingPriority) Limits {
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		if t.GetPriority() == p {
			return Limits{
				value(t.GetMaxConnections(), 1024), value(t.GetMaxPendingRequests(), 1024),
				value(t.GetMaxRequests(), 1024), value(t.GetMaxRetries(), 3), retryBudget(t.GetRetryBudget()),
			}
		}
	}
	return Limits{1024, 1024, 1024, 3, nil}
}

func retryBudget(b *clusterv3.CircuitBreakers_Thresholds_RetryBudget) *RetryBudget {
	if b == nil {
		return nil
	}
	out := &RetryBudget{Percent: 20, Least: value(b.GetMinRetryConcurrency(), 3), Interval: duration(b.GetBudgetInterval(), 0)}
	if p := b.GetBudgetPercent(); p != nil {
		out.Percent = p.GetValue()
	}
	return out
}

func (cfg *Config) compileKeepalive(c *clusterv3.Cluster) {
	k := c.GetUpstreamConnectionOptions().GetTcpKeepalive()
	if k == nil {
		return
	}
	cfg.Keepalive = &TCPKeepalive{
		Probes:   value(k.GetKeepaliveProbes(), 0),
		Time:     time.Duration(value(k.GetKeepaliveTime(), 0)) * time.Second,
		Interval: time.Duration(value(k.GetKeepaliveInterval(), 0)) * time.Second,
	}
}

// poolKey hashes what two connections to one address must have in common to stand for each other.
func poolKey(c *clusterv3.Cluster) string {
	part := &clusterv3.Cluster{
		TransportSocket:               c.GetTransportSocket(),
		UpstreamConnectionOptions:     c.GetUpstreamConnectionOptions(),
		TypedExtensionProtocolOptions: c.GetTypedExtensionProtocolOptions(),
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(part)
	if err != nil { // invalid UTF-8 only, which no decoder lets through
		b = []byte(err.Error())
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

func duration(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return max(d.AsDuration(), 0)
}

func value(v *wrapperspb.UInt32Value, def uint32) uint32 {
	if v == nil {
		return def
	}
	return v.GetValue()
}
