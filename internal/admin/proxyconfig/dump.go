package proxyconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/admin"
)

// Endpoints are all clusters' endpoints.
type Endpoints struct {
	Clusters *adminv3.Clusters
	// Hosts is what only detour tells, by cluster and address; nil if it is not known.
	Hosts map[HostKey]admin.Host
	// FromDump: the endpoints come from a /config_dump, which does not say why one is unhealthy.
	FromDump bool
}

// HostKey names one endpoint of one cluster.
type HostKey struct{ Cluster, Address string }

// Endpoints reads /clusters?format=json, or the EndpointsConfigDump of a saved /config_dump?include_eds. details asks for
// detour's own part too.
func (s *Source) Endpoints(ctx context.Context, details bool) (*Endpoints, error) {
	b, err := s.get(ctx, "/clusters?format=json")
	if err != nil {
		return nil, err
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(b, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, jsonError(b, err))
	}
	if top["configs"] != nil {
		return s.endpointsOfDump(b)
	}
	e := &Endpoints{Clusters: &adminv3.Clusters{}}
	if err := decode(b, e.Clusters); err != nil {
		return nil, fmt.Errorf("%s: not what /clusters?format=json prints: %w", s.name, err)
	}
	if !details || s.data != nil {
		return e, nil
	}
	b, err = s.get(ctx, "/detour/endpoints")
	if err != nil {
		if errors.Is(err, errNotFound) { // a plain Envoy
			err = nil
		}
		return e, err
	}
	var own struct {
		Endpoints []admin.Host `json:"endpoints"`
	}
	if json.Unmarshal(b, &own) != nil { // a program that answers every path, perhaps; the rest is good
		return e, nil
	}
	e.Hosts = map[HostKey]admin.Host{}
	for _, h := range own.Endpoints {
		e.Hosts[HostKey{h.Cluster, h.Address}] = h
	}
	return e, nil
}

// endpointsOfDump makes of an EndpointsConfigDump what /clusters would have said.
func (s *Source) endpointsOfDump(b []byte) (*Endpoints, error) {
	d := &adminv3.EndpointsConfigDump{}
	if ok, err := s.section(b, d); err != nil || !ok {
		if err == nil {
			err = fmt.Errorf("%s: has no endpoints; take the dump with /config_dump?include_eds, or save /clusters?format=json", s.name)
		}
		return nil, err
	}
	e := &Endpoints{Clusters: &adminv3.Clusters{}, FromDump: true}
	add := func(a *anypb.Any, api bool) error {
		cla := &endpointv3.ClusterLoadAssignment{}
		if err := unpack(a, cla); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		e.Clusters.ClusterStatuses = append(e.Clusters.ClusterStatuses, statusOf(cla, api))
		return nil
	}
	for _, c := range d.DynamicEndpointConfigs {
		if err := add(c.EndpointConfig, true); err != nil {
			return nil, err
		}
	}
	for _, c := range d.StaticEndpointConfigs {
		if err := add(c.EndpointConfig, false); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func statusOf(cla *endpointv3.ClusterLoadAssignment, api bool) *adminv3.ClusterStatus {
	c := &adminv3.ClusterStatus{Name: cla.GetClusterName(), AddedViaApi: api}
	for _, l := range cla.GetEndpoints() {
		for _, ep := range l.GetLbEndpoints() {
			c.HostStatuses = append(c.HostStatuses, &adminv3.HostStatus{
				Address:      ep.GetEndpoint().GetAddress(),
				Hostname:     ep.GetEndpoint().GetHostname(),
				HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: ep.GetHealthStatus()},
				Weight:       ep.GetLoadBalancingWeight().GetValue(),
				Locality:     l.GetLocality(),
				Priority:     l.GetPriority(),
			})
		}
	}
	return c
}

// Clusters reads the clusters in force.
func (s *Source) Clusters(ctx context.Context) ([]*clusterv3.Cluster, error) {
	d := &adminv3.ClustersConfigDump{}
	if err := s.masked(ctx, "dynamic_active_clusters,dynamic_warming_clusters,static_clusters", d); err != nil {
		return nil, err
	}
	var all []*anypb.Any
	for _, c := range d.DynamicActiveClusters {
		all = append(all, c.Cluster)
	}
	for _, c := range d.StaticClusters {
		all = append(all, c.Cluster)
	}
	return unpackAll[clusterv3.Cluster](s, all)
}

// Listeners reads the listeners in force.
func (s *Source) Listeners(ctx context.Context) ([]*listenerv3.Listener, error) {
	d := &adminv3.ListenersConfigDump{}
	if err := s.masked(ctx, "dynamic_listeners,static_listeners", d); err != nil {
		return nil, err
	}
	var all []*anypb.Any
	for _, l := range d.DynamicListeners {
		all = append(all, l.GetActiveState().GetListener())
	}
	for _, l := range d.StaticListeners {
		all = append(all, l.Listener)
	}
	return unpackAll[listenerv3.Listener](s, all)
}

// Routes reads the route configurations in force.
func (s *Source) Routes(ctx context.Context) ([]*routev3.RouteConfiguration, error) {
	d := &adminv3.RoutesConfigDump{}
	if err := s.masked(ctx, "dynamic_route_configs,static_route_configs", d); err != nil {
		return nil, err
	}
	var all []*anypb.Any
	for _, r := range d.DynamicRouteConfigs {
		all = append(all, r.RouteConfig)
	}
	for _, r := range d.StaticRouteConfigs {
		all = append(all, r.RouteConfig)
	}
	return unpackAll[routev3.RouteConfiguration](s, all)
}

// Bootstrap reads the bootstrap section.
func (s *Source) Bootstrap(ctx context.Context) (*adminv3.BootstrapConfigDump, error) {
	d := &adminv3.BootstrapConfigDump{}
	return d, s.masked(ctx, "bootstrap", d)
}

// masked reads one section of /config_dump into m.
func (s *Source) masked(ctx context.Context, mask string, m proto.Message) error {
	b, err := s.get(ctx, "/config_dump?mask="+mask)
	if err != nil {
		return err
	}
	ok, err := s.section(b, m)
	if err == nil && !ok {
		err = fmt.Errorf("%s: has no %s", s.name, m.ProtoReflect().Descriptor().Name())
	}
	return err
}

// section decodes the last section of m's type, as istioctl does.
func (s *Source) section(b []byte, m proto.Message) (bool, error) {
	var top struct {
		Configs []json.RawMessage `json:"configs"`
	}
	if err := json.Unmarshal(b, &top); err != nil {
		return false, fmt.Errorf("%s: %w", s.name, jsonError(b, err))
	}
	want := string(m.ProtoReflect().Descriptor().FullName())
	var found json.RawMessage
	for _, c := range top.Configs {
		var head struct {
			Type string `json:"@type"`
		}
		if json.Unmarshal(c, &head) == nil && head.Type[strings.LastIndexByte(head.Type, '/')+1:] == want {
			found = c
		}
	}
	if found == nil {
		return false, nil
	}
	if err := decode(found, m); err != nil {
		return false, fmt.Errorf("%s: %s: %w", s.name, want, err)
	}
	return true, nil
}

// decode reads proto JSON that may hold fields and types which this build does not know.
func decode(b []byte, m proto.Message) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return jsonError(b, err)
	}
	if o, ok := v.(map[string]any); ok {
		delete(o, "@type")
	}
	b, err := json.Marshal(known(v))
	if err != nil {
		return err
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}

// known wraps every Any of an unknown type into a Struct, which protojson can carry.
func known(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = known(x)
		}
		if t, ok := v["@type"].(string); ok {
			if _, err := protoregistry.GlobalTypes.FindMessageByURL(t); err != nil {
				return map[string]any{"@type": "type.googleapis.com/google.protobuf.Struct", "value": v}
			}
		}
	case []any:
		for i, x := range v {
			v[i] = known(x)
		}
	}
	return v
}

// jsonError adds the line to a JSON error.
func jsonError(b []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset <= int64(len(b)) {
		return fmt.Errorf("line %d: not JSON: %w", 1+bytes.Count(b[:syntax.Offset], []byte("\n")), err)
	}
	return fmt.Errorf("not JSON: %w", err)
}

func unpack(a *anypb.Any, m proto.Message) error {
	if !a.MessageIs(m) {
		return fmt.Errorf("%s where %s is expected", clean(a.GetTypeUrl()), m.ProtoReflect().Descriptor().FullName())
	}
	return proto.UnmarshalOptions{DiscardUnknown: true, AllowPartial: true}.Unmarshal(a.GetValue(), m)
}

func unpackAll[T any, M interface {
	*T
	proto.Message
}](s *Source, all []*anypb.Any) ([]*T, error) {
	var out []*T
	for _, a := range all {
		if a == nil {
			continue
		}
		m := M(new(T))
		if err := unpack(a, m); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.name, a.GetTypeUrl(), err)
		}
		out = append(out, (*T)(m))
	}
	return out, nil
}

// endpointAddress gives the address as istioctl prints it, and its port (0 for a socket).
func endpointAddress(a *corev3.Address) (addr string, port uint32) {
	if s := a.GetSocketAddress(); s != nil {
		return s.GetAddress(), s.GetPortValue()
	}
	if p := a.GetPipe(); p != nil {
		return "unix://" + p.GetPath(), 0
	}
	if i := a.GetEnvoyInternalAddress(); i != nil {
		return "envoy://" + i.GetServerListenerName() + "/" + i.GetEndpointId(), 0
	}
	return "unknown", 0
}

// detourAddress gives the address as /detour/endpoints has it.
func detourAddress(a *corev3.Address) string {
	if s := a.GetSocketAddress(); s != nil {
		return net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
	}
	return a.GetPipe().GetPath()
}
