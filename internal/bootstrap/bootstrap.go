// Package bootstrap owns the static form of a snapshot: one Envoy bootstrap in which nothing is left to a control plane,
// so that a real Envoy can be started with what the embedded engine would run.
package bootstrap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"detour.dev/detour/internal/xds"
)

// Options say what a bootstrap has beside the snapshot's resources. An invalid address turns its part off.
type Options struct {
	Group xds.NodeGroup // becomes the node's locality and metadata
	Admin netip.AddrPort
	// Listen takes redirected connections and hands them to the listener of their original destination, as proxy's
	// --listen does.
	Listen netip.AddrPort
	// Bind makes single listeners reachable without redirection: listener's name to address.
	Bind map[string]netip.AddrPort
	// Resolver is the DNS server that names are looked up with; invalid: the system's.
	Resolver netip.AddrPort
}

// Static makes the bootstrap: clusters with their EDS endpoints, listeners with their routes. The snapshot is not changed.
// It fails when Bind names a listener that does not exist.
func Static(s *xds.Snapshot, o Options) (*bootstrapv3.Bootstrap, error) {
	out := &bootstrapv3.Bootstrap{Node: node(o.Group), StaticResources: &bootstrapv3.Bootstrap_StaticResources{}}
	if o.Admin.IsValid() {
		out.Admin = &bootstrapv3.Admin{Address: address(o.Admin)}
	}
	if o.Resolver.IsValid() {
		out.TypedDnsResolverConfig = &corev3.TypedExtensionConfig{
			Name: "envoy.network.dns_resolver.cares",
			TypedConfig: pack(&caresv3.CaresDnsResolverConfig{
				Resolvers:          []*corev3.Address{address(o.Resolver)},
				DnsResolverOptions: &corev3.DnsResolverOptions{NoDefaultSearchDomain: true},
			}),
		}
	}
	assignments := make(map[string]*endpointv3.ClusterLoadAssignment, len(s.Endpoints))
	for _, a := range s.Endpoints {
		assignments[a.ClusterName] = a
	}
	for _, c := range s.Clusters {
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, inlineEndpoints(c, assignments))
	}
	var err error
	out.StaticResources.Listeners, err = listeners(s, o)
	return out, err
}

// node tells Envoy who it is; nothing in a static bootstrap depends on it but zone-aware balancing, which needs the zone.
func node(g xds.NodeGroup) *corev3.Node {
	namespace := g.Namespace
	if namespace == "" {
		namespace = "default"
	}
	labels := map[string]any{}
	for k, v := range g.Labels {
		labels[k] = v
	}
	metadata, err := structpb.NewStruct(map[string]any{"NAMESPACE": namespace, "LABELS": labels})
	if err != nil { // a label that is not UTF-8
		metadata = nil
	}
	return &corev3.Node{
		Id: "sidecar~127.0.0.1~detour." + namespace + "~" + namespace, Cluster: "detour." + namespace,
		Locality: g.Locality, Metadata: metadata,
	}
}

// inlineEndpoints makes an EDS cluster a static one with the same endpoints; other clusters stay as they are.
func inlineEndpoints(c *clusterv3.Cluster, assignments map[string]*endpointv3.ClusterLoadAssignment) *clusterv3.Cluster {
	if c.GetType() != clusterv3.Cluster_EDS || c.GetClusterType() != nil {
		return c
	}
	out := proto.CloneOf(c)
	name := c.EdsClusterConfig.GetServiceName()
	if name == "" {
		name = c.Name
	}
	out.EdsClusterConfig = nil
	out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	out.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
	if a := assignments[name]; a != nil {
		out.LoadAssignment = proto.CloneOf(a)
	}
	return out
}

// unknown lists the names of Bind that no listener has.
func unknown(s *xds.Snapshot, o Options) error {
	names := make([]string, 0, len(s.Listeners))
	for _, l := range s.Listeners {
		names = append(names, l.Name)
	}
	for name := range o.Bind {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no listener %q; there are: %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

func address(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

// pack fails only on strings that are not UTF-8, which no configuration can hold.
func pack(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("bootstrap: " + err.Error())
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}
