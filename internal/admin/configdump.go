package admin

import (
	"net/http"
	"regexp"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"detour.dev/detour/internal/xds"
)

// Type URLs of the resources that a dump is made of.
const (
	typePrefix   = "type.googleapis.com/"
	clusterType  = typePrefix + "envoy.config.cluster.v3.Cluster"
	endpointType = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType = typePrefix + "envoy.config.listener.v3.Listener"
	routeType    = typePrefix + "envoy.config.route.v3.RouteConfiguration"
)

// dump gathers one /config_dump.
type dump struct {
	snapshot *xds.Snapshot
	applied  *timestamppb.Timestamp
	rejected map[rejectedKey][]Rejected
	names    *regexp.Regexp // nil: all
	hold     string         // unless "", resources are holders of this
}

// resource gives a resource as a dump shows it.
func resource[M proto.Message](d *dump, m M) *anypb.Any {
	if d.hold != "" {
		return holder(d.hold)
	}
	return pack(redacted(m))
}

type rejectedKey struct{ typeURL, name string }

// configDump answers /config_dump in Envoy's form: sections in Envoy's order, resources as dynamic ones, since they come
// and go while the process runs, and what was dropped as error_state.
func (h *Handler) configDump(w http.ResponseWriter, r *http.Request) {
	names, ok := regexParam(w, r, "name_regex", "^(?:%s)$")
	if !ok {
		return
	}
	q := r.URL.Query()
	if !q.Has("resource") && !q.Has("mask") {
		if err := h.wholeDump(w, names, q.Has("include_eds")); err != nil {
			fail(w, http.StatusInternalServerError, "can't be shown as JSON: "+err.Error())
		}
		return
	}
	d := h.newDump(names)
	var endpoints *adminv3.EndpointsConfigDump
	if q.Has("include_eds") {
		var all []*endpointv3.ClusterLoadAssignment
		for _, x := range h.state.Endpoints() {
			if d.wants(x.EndpointsName()) {
				all = append(all, x.Endpoints())
			}
		}
		endpoints = d.endpoints(all)
	}
	chosen, err := choose(h.sections(d, endpoints), q.Get("resource"), q.Get("mask"))
	if err != nil {
		fail(w, err.status, err.text)
		return
	}
	writeSections(w, chosen)
}

// newDump begins a dump of what is in force.
func (h *Handler) newDump(names *regexp.Regexp) *dump {
	snapshot, applied := h.state.Snapshot()
	if snapshot == nil {
		snapshot = &xds.Snapshot{}
	}
	d := &dump{snapshot: snapshot, applied: stamp(applied), rejected: map[rejectedKey][]Rejected{}, names: names}
	for _, x := range h.state.Rejected() {
		k := rejectedKey{x.TypeURL, x.Name}
		d.rejected[k] = append(d.rejected[k], x)
	}
	return d
}

// sections gives the dump's sections, in Envoy's order; without the endpoints' where endpoints is nil.
func (h *Handler) sections(d *dump, endpoints *adminv3.EndpointsConfigDump) []proto.Message {
	out := []proto.Message{h.bootstrap(), d.clusters()}
	if endpoints != nil {
		out = append(out, endpoints)
	}
	return append(out, d.listeners(), &adminv3.ScopedRoutesConfigDump{}, d.routes(), &adminv3.SecretsConfigDump{})
}

func writeSections(w http.ResponseWriter, sections []proto.Message) {
	out := &adminv3.ConfigDump{}
	for _, m := range sections {
		out.Configs = append(out.Configs, pack(m))
	}
	writeProto(w, out, false)
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t.Truncate(time.Millisecond))
}

func (h *Handler) bootstrap() *adminv3.BootstrapConfigDump {
	return &adminv3.BootstrapConfigDump{
		Bootstrap:   &bootstrapv3.Bootstrap{Node: h.node()},
		LastUpdated: stamp(h.start),
	}
}

func (d *dump) wants(name string) bool {
	return d.names == nil || d.hold != "" && name == d.hold || d.names.MatchString(name)
}

// take gives the error of a resource and marks it as shown.
func (d *dump) take(typeURL, name string) *adminv3.UpdateFailureState {
	k := rejectedKey{typeURL, name}
	all := d.rejected[k]
	if len(all) == 0 {
		return nil
	}
	delete(d.rejected, k)
	return failure(all[len(all)-1])
}

// rest gives what was dropped and has no version in force, of one type; objects of the configuration come with the
// clusters, most of which they make.
func (d *dump) rest(typeURL string) []Rejected {
	var all []Rejected
	for k, list := range d.rejected {
		if k.typeURL == typeURL && d.wants(k.name) {
			all = append(all, list...)
		}
	}
	sortRejected(all)
	return all
}

// failure renders one dropped object; where it stood in the file is in failed_configuration and in the text.
func failure(x Rejected) *adminv3.UpdateFailureState {
	text := x.Reason
	if x.Origin != "" {
		text = x.Origin + ": " + text
	}
	what := &structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue(x.Name)}}
	if x.Origin != "" {
		what.Fields["origin"] = structpb.NewStringValue(x.Origin)
	}
	return &adminv3.UpdateFailureState{
		FailedConfiguration: pack(what),
		LastUpdateAttempt:   stamp(x.At),
		Details:             text,
		VersionInfo:         x.Version,
	}
}

func (d *dump) clusters() *adminv3.ClustersConfigDump {
	out := &adminv3.ClustersConfigDump{VersionInfo: d.snapshot.Version}
	for _, c := range d.snapshot.Clusters {
		if d.wants(c.GetName()) {
			out.DynamicActiveClusters = append(out.DynamicActiveClusters, d.cluster(c, d.take(clusterType, c.GetName())))
		}
	}
	for _, x := range append(d.rest(clusterType), d.rest("")...) {
		out.DynamicWarmingClusters = append(out.DynamicWarmingClusters, &adminv3.ClustersConfigDump_DynamicCluster{
			ErrorState: failure(x), ClientStatus: adminv3.ClientResourceStatus_NACKED,
		})
	}
	return out
}

func (d *dump) cluster(c *clusterv3.Cluster, failed *adminv3.UpdateFailureState) *adminv3.ClustersConfigDump_DynamicCluster {
	return &adminv3.ClustersConfigDump_DynamicCluster{
		VersionInfo: d.snapshot.Version, Cluster: resource(d, c), LastUpdated: d.applied, ErrorState: failed,
	}
}

func (d *dump) endpoints(all []*endpointv3.ClusterLoadAssignment) *adminv3.EndpointsConfigDump {
	out := &adminv3.EndpointsConfigDump{}
	for _, e := range all {
		out.DynamicEndpointConfigs = append(out.DynamicEndpointConfigs, d.endpoint(e, d.take(endpointType, e.GetClusterName())))
	}
	return out
}

func (d *dump) endpoint(e *endpointv3.ClusterLoadAssignment, failed *adminv3.UpdateFailureState) *adminv3.EndpointsConfigDump_DynamicEndpointConfig {
	return &adminv3.EndpointsConfigDump_DynamicEndpointConfig{EndpointConfig: resource(d, e), ErrorState: failed}
}

func (d *dump) listeners() *adminv3.ListenersConfigDump {
	out := &adminv3.ListenersConfigDump{VersionInfo: d.snapshot.Version}
	for _, l := range d.snapshot.Listeners {
		if d.wants(l.GetName()) {
			out.DynamicListeners = append(out.DynamicListeners, d.listener(l, d.take(listenerType, l.GetName())))
		}
	}
	for _, x := range d.rest(listenerType) {
		out.DynamicListeners = append(out.DynamicListeners, &adminv3.ListenersConfigDump_DynamicListener{
			Name: x.Name, ErrorState: failure(x), ClientStatus: adminv3.ClientResourceStatus_NACKED,
		})
	}
	return out
}

func (d *dump) listener(l *listenerv3.Listener, failed *adminv3.UpdateFailureState) *adminv3.ListenersConfigDump_DynamicListener {
	return &adminv3.ListenersConfigDump_DynamicListener{
		Name: l.GetName(),
		ActiveState: &adminv3.ListenersConfigDump_DynamicListenerState{
			VersionInfo: d.snapshot.Version, Listener: resource(d, l), LastUpdated: d.applied,
		},
		ErrorState: failed,
	}
}

func (d *dump) routes() *adminv3.RoutesConfigDump {
	out := &adminv3.RoutesConfigDump{}
	for _, c := range d.snapshot.Routes {
		if d.wants(c.GetName()) {
			out.DynamicRouteConfigs = append(out.DynamicRouteConfigs, d.route(c, d.take(routeType, c.GetName())))
		}
	}
	for _, x := range d.rest(routeType) {
		out.DynamicRouteConfigs = append(out.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{
			ErrorState: failure(x), ClientStatus: adminv3.ClientResourceStatus_NACKED,
		})
	}
	return out
}

func (d *dump) route(rc *routev3.RouteConfiguration, failed *adminv3.UpdateFailureState) *adminv3.RoutesConfigDump_DynamicRouteConfig {
	return &adminv3.RoutesConfigDump_DynamicRouteConfig{
		VersionInfo: d.snapshot.Version, RouteConfig: resource(d, rc), LastUpdated: d.applied, ErrorState: failed,
	}
}
