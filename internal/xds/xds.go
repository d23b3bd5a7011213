// Package xds is the waist between the compiler and the engines: complete, consistent, immutable sets of Envoy's own
// resources. internal/config produces them, internal/dataplane and internal/ads consume them, and neither side knows
// the other.
package xds

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Snapshot is one complete, consistent set of resources for one node group. It is immutable; every slice is sorted
// by resource name, so that equal configurations give equal versions.
type Snapshot struct {
	Version   string // content hash, see Hash
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	// Foreign says that another control plane made the snapshot: nothing in it carries detour's own marks.
	Foreign bool
	// RegistryOnly says that what nobody declares is refused, on ports without a listener too (Istio's
	// outboundTrafficPolicy REGISTRY_ONLY, from the command line, MeshConfig or a Sidecar).
	RegistryOnly bool
	// Undeclared is the cluster that gets what nobody declares, on ports without a listener too (a Sidecar's egressProxy);
	// empty: it goes where it wanted to go. Where RegistryOnly is set it is empty.
	Undeclared string
	// Names is what the DNS proxy answers from: Istio's NDS name table. Sorted by host.
	Names []Name
}

// LookupCluster is istiod's name for the cluster that looks up the Host of requests that nothing declares (MeshConfig's
// outboundTrafficPolicy ALLOW_ANY_DYNAMIC_DNS). A snapshot that has it sends plain HTTP there, on ports without a listener too;
// everything else that nobody declares goes where it wanted to go.
const LookupCluster = "AllowAnyDynamicDNSCluster"

// Name is one service host with the addresses by which a captured application reaches it (allocated or stated).
// A host that has no entry is forwarded to the real resolver.
type Name struct {
	Host  string // lower case, no trailing dot
	Addrs []netip.Addr
}

// NodeGroup is what a snapshot is compiled for: all proxies that get the same resources.
type NodeGroup struct {
	Locality  *corev3.Locality // nil: unknown, then nothing is near
	Labels    map[string]string
	Namespace string
	IPv6      bool // the node can reach IPv6 addresses
	IPv4      bool // the node can reach IPv4 addresses
	// CompatIstio asks for istiod's own output: every deviation off.
	CompatIstio bool
	// RegistryOnly is outboundTrafficPolicy REGISTRY_ONLY: undeclared destinations are refused.
	RegistryOnly bool
}

// Sink takes snapshots. Set returns once the snapshot is in force, or has been rejected in part.
type Sink interface {
	Set(*Snapshot) Result
}

// Result says what a sink made of a snapshot.
type Result struct {
	// Rejected lists resources the sink could not use; their last good versions stay in force.
	Rejected []Rejection
}

// Rejection is one resource that a sink refused, with the reason.
type Rejection struct {
	TypeURL string
	Name    string
	Reason  string
	// Listen is the address that a Listener has a socket of its own at, where that could not be opened: IP:PORT or
	// unix://PATH.
	Listen string
}

// MetadataKey is the filter_metadata key under which translate says what Envoy's own fields can't.
const MetadataKey = "detour.dev"

// Fields of the MetadataKey struct.
const (
	// MetaDefaultRetry (bool, on a route): the route has no retries of its own; the embedded engine's guarantees
	// E2 and E3 apply in full.
	MetaDefaultRetry = "default_retry"
	// MetaPeek (bool, on a listener): a host without addresses of its own uses this port, so connections to
	// undeclared addresses are peeked before they pass (DESIGN.md, "What traffic is taken for").
	MetaPeek = "peek"
)
