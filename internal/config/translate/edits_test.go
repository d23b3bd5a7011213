package translate_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// dice chooses: from the fuzzer's bytes, or at random.
type dice struct {
	data []byte
	rand *rand.Rand // nil: data, and zeros when it is used up
}

func (d *dice) n(n int) int {
	if d.rand != nil {
		return d.rand.IntN(n)
	}
	if len(d.data) == 0 {
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return int(b) % n
}

func (d *dice) done() bool { return d.rand == nil && len(d.data) == 0 }

func pick[T any](d *dice, list ...T) T { return list[d.n(len(list))] }

// some gives up to n of a list, in its order.
func some[T any](d *dice, n int, list ...T) []T {
	var out []T
	for _, v := range list {
		if len(out) < n && d.n(len(list)) < n {
			out = append(out, v)
		}
	}
	return out
}

var (
	someNamespaces = []string{"default", "other", "istio-system"}
	manyHosts      = slices.Concat(numbered("h%d.example.com", 30), []string{"*.example.com", "*.example.org", "e"})
	someHosts      = []string{"a.example.com", "b.example.com", "c.example.com", "*.example.com", "d.example.org", "*.org", "e"}
	somePorts      = []uint32{80, 443, 8080, 3306}
	someLabels     = []map[string]string{nil, {"v": "1"}, {"v": "2"}, {"app": "x"}}
)

func numbered(format string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(format, i))
	}
	return out
}

// edits is a configuration that changes.
type edits struct {
	*dice
	plain   bool // most hosts are declared by one object each, and nothing but their rules and routes is there
	objects []*config.Object
	last    *config.Set
	vips    map[string]config.VIPs
	refused []config.Refusal
	mesh    *config.Mesh
	line    int
}

func (e *edits) set() *config.Set {
	return config.NewSet(slices.Clone(e.objects), e.vips, slices.Clone(e.refused)).WithMesh(e.mesh)
}

// next is set, made from the one before.
func (e *edits) next() *config.Set {
	if e.last == nil {
		e.last = e.set()
		return e.last
	}
	e.last = e.last.With(slices.Clone(e.objects), e.vips, slices.Clone(e.refused)).WithMesh(e.mesh)
	return e.last
}

// hosts are those that objects are about.
func (e *edits) hosts() []string {
	if e.plain {
		return manyHosts
	}
	return someHosts
}

// name is one of an object.
func (e *edits) name() string {
	if e.plain {
		return fmt.Sprintf("o%d", e.n(40))
	}
	return fmt.Sprintf("o%d", e.n(8))
}

func (e *edits) kind() config.Kind {
	if e.plain {
		return pick(e.dice, config.ServiceEntry, config.ServiceEntry, config.DestinationRule, config.VirtualService)
	}
	return pick(e.dice, config.ServiceEntry, config.ServiceEntry, config.DestinationRule, config.DestinationRule, config.VirtualService,
		config.VirtualService, config.WorkloadEntry, config.Sidecar, config.Service, config.EndpointSlice, config.Node)
}

// fewHosts gives up to two hosts; in a plain configuration mostly one.
func (e *edits) fewHosts() []string {
	if e.plain && e.n(8) > 0 {
		return []string{pick(e.dice, manyHosts...)}
	}
	return some(e.dice, 2, e.hosts()...)
}

// edit makes one change and says which.
func (e *edits) edit() string {
	i := -1
	if len(e.objects) > 0 {
		i = e.n(len(e.objects))
	}
	switch op := e.n(20); {
	case op < 6 || i < 0:
		o := e.object(e.kind())
		if e.index(o.Key) >= 0 {
			return "nothing"
		}
		e.objects = append(e.objects, o)
		return "add " + o.String()
	case op < 8:
		o := e.objects[i]
		e.objects = slices.Delete(e.objects, i, i+1)
		return "remove " + o.String()
	case op < 10 && e.n(4) == 0: // a line more at the top of a file
		for j, o := range e.objects {
			moved := *o
			moved.Origin.Line++
			e.objects[j] = &moved
		}
		return "shift all"
	case op < 10: // to another file, or further down in it
		o := *e.objects[i]
		e.line++
		o.Origin = config.Origin{File: pick(e.dice, "a.yaml", "b.yaml"), Line: e.line}
		e.objects[i] = &o
		return "move " + o.String()
	case op < 11:
		o := *e.objects[i]
		if o.Name = e.name(); e.n(4) == 0 {
			o.Namespace = pick(e.dice, someNamespaces...)
		}
		if e.index(o.Key) >= 0 {
			return "nothing"
		}
		e.objects[i] = &o
		return "rename to " + o.String()
	case op < 13:
		old := e.objects[i]
		o := e.object(old.Kind)
		o.Key, o.Created = old.Key, old.Created
		e.objects[i] = o
		return "replace " + o.String()
	case op < 18:
		e.touch(i)
		return "touch " + e.objects[i].String()
	case op < 19:
		return e.around()
	}
	return "nothing" // the same again
}

func (e *edits) index(k config.Key) int {
	return slices.IndexFunc(e.objects, func(o *config.Object) bool { return o.Key == k })
}

// touch changes a field or two inside an object, as people do.
func (e *edits) touch(i int) {
	o := *e.objects[i]
	o.Spec = proto.Clone(o.Spec)
	if e.n(6) == 0 {
		o.Annotations = pick(e.dice, nil, map[string]string{translate.AnnotationHostRewrite: translate.HostEndpoint}, map[string]string{translate.AnnotationHostRewrite: "wrong"})
	}
	switch s := o.Spec.(type) {
	case *networking.ServiceEntry:
		e.touchEntry(&o, s)
	case *networking.DestinationRule:
		switch e.n(5) {
		case 0:
			s.ExportTo = e.exportTo()
		case 1:
			s.Host = pick(e.dice, e.hosts()...)
		case 2:
			s.WorkloadSelector = pick(e.dice, nil, &typev1beta1.WorkloadSelector{MatchLabels: pick(e.dice, someLabels...)})
		default:
			s.TrafficPolicy = e.policy()
		}
	case *networking.VirtualService:
		switch {
		case e.n(6) == 0:
			s.Gateways = pick(e.dice, nil, []string{"mesh"}, []string{"gw"})
		case e.n(6) == 0:
			r := e.router()
			s.Tls, s.Tcp = r.Tls, r.Tcp
		case e.n(4) == 0:
			s.Hosts, s.ExportTo = e.fewHosts(), e.exportTo()
		case len(s.Http) > 0:
			s.Http[e.n(len(s.Http))] = e.rule()
		}
	case *networking.WorkloadEntry:
		s.Weight = uint32(e.n(3))
	}
	e.line++
	o.Origin.Line = e.line
	e.objects[i] = &o
}

func (e *edits) touchEntry(o *config.Object, s *networking.ServiceEntry) {
	switch e.n(9) {
	case 0:
		s.Resolution = e.resolution()
	case 1:
		s.ExportTo = e.exportTo()
	case 2:
		s.Location = networking.ServiceEntry_Location(e.n(2))
	case 3:
		s.Addresses = pick(e.dice, nil, nil, []string{"10.1.0.1"}, []string{"10.1.0.2", "10.2.0.0/16"})
	case 4:
		if o.Kind == config.ServiceEntry { // a Service has one host, by its name
			s.Hosts = e.fewHosts()
		}
	case 5:
		s.Ports = e.entry().Ports
	case 6:
		o.Labels = pick(e.dice, someLabels...)
	default:
		s.Endpoints = e.endpoints()
	}
}

// around changes what is no object: mesh settings, addresses, what is refused.
func (e *edits) around() string {
	switch e.n(3) {
	case 0:
		e.mesh = nil
		if e.n(3) > 0 {
			e.mesh = &config.Mesh{Spec: &meshconfig.MeshConfig{
				ConnectTimeout: durationpb.New(time.Duration(1+e.n(3)) * time.Second),
				OutboundTrafficPolicy: &meshconfig.MeshConfig_OutboundTrafficPolicy{
					Mode: meshconfig.MeshConfig_OutboundTrafficPolicy_Mode(e.n(2)),
				},
				DefaultServiceExportTo: pick(e.dice, nil, []string{"."}), DefaultVirtualServiceExportTo: pick(e.dice, nil, []string{"."}),
				DefaultDestinationRuleExportTo: pick(e.dice, nil, []string{"."}),
			}}
		}
		return "mesh"
	case 1:
		vips := map[string]config.VIPs{}
		for i, h := range e.hosts() {
			if e.n(3) == 0 {
				vips[h] = config.VIPs{V4: netip.MustParseAddr(fmt.Sprintf("240.240.%d.%d", e.n(2), 1+i))}
			}
		}
		e.vips = vips
		return "addresses"
	}
	e.refused = nil
	if e.n(2) == 0 {
		e.refused = []config.Refusal{{Key: config.Key{Kind: pick(e.dice, config.DestinationRule, config.VirtualService, config.ServiceEntry), Namespace: pick(e.dice, "default", "other"), Name: pick(e.dice, "bad", e.name())},
			Hosts: []string{pick(e.dice, someHosts...)}, Issue: config.Issue{Code: "DTR0001", Message: "m"}}}
	}
	return "refused"
}

func (e *edits) object(k config.Kind) *config.Object {
	e.line++
	o := &config.Object{Key: config.Key{Kind: k, Namespace: pick(e.dice, "default", "default", "other", "istio-system"), Name: e.name()},
		Origin: config.Origin{File: "a.yaml", Line: e.line}}
	if e.n(8) == 0 {
		o.Created = time.Unix(int64(e.n(3)), 0)
	}
	switch k {
	case config.ServiceEntry:
		o.Spec = e.entry()
	case config.DestinationRule:
		r := &networking.DestinationRule{Host: pick(e.dice, e.hosts()...), ExportTo: e.exportTo(), TrafficPolicy: e.policy()}
		for _, v := range some(e.dice, 2, "1", "2", "3") {
			r.Subsets = append(r.Subsets, &networking.Subset{Name: "v" + v, Labels: map[string]string{"v": v}, TrafficPolicy: e.policy()})
		}
		if e.n(6) == 0 {
			r.WorkloadSelector = &typev1beta1.WorkloadSelector{MatchLabels: pick(e.dice, someLabels...)}
		}
		o.Spec = r
	case config.VirtualService:
		o.Spec = e.router()
	case config.WorkloadEntry:
		o.Spec = e.endpoint()
	case config.Sidecar:
		o.Spec = e.sidecar()
	default:
		e.kube(o)
	}
	return o
}

func (e *edits) kube(o *config.Object) {
	switch o.Kind {
	case config.Service:
		o.Spec = &networking.ServiceEntry{Hosts: []string{o.Name + "." + o.Namespace + "." + config.ClusterDomain}, Resolution: networking.ServiceEntry_STATIC,
			Location: networking.ServiceEntry_MESH_INTERNAL, Ports: []*networking.ServicePort{{Number: pick(e.dice, somePorts...), Name: "p", Protocol: "HTTP"}}}
	case config.EndpointSlice:
		o.Labels = map[string]string{config.LabelService: fmt.Sprintf("o%d", e.n(8))}
		o.Spec = &networking.ServiceEntry{Endpoints: []*networking.WorkloadEntry{
			{Address: fmt.Sprintf("10.9.0.%d", e.n(9)), Ports: map[string]uint32{"p": 8000}, Labels: map[string]string{config.LabelNode: fmt.Sprintf("o%d", e.n(8))}}}}
	default:
		o.Labels = map[string]string{config.LabelRegion: pick(e.dice, "us-east1", "us-west1"), config.LabelZone: pick(e.dice, "a", "b")}
		o.Spec = &networking.WorkloadEntry{}
	}
}

func (e *edits) exportTo() []string {
	return pick(e.dice, nil, nil, []string{"*"}, []string{"."}, []string{"other"})
}

func (e *edits) resolution() networking.ServiceEntry_Resolution {
	return networking.ServiceEntry_Resolution(e.n(len(networking.ServiceEntry_Resolution_name)))
}

func (e *edits) endpoint() *networking.WorkloadEntry {
	return &networking.WorkloadEntry{Address: pick(e.dice, "10.0.0.1", "10.0.0.2", "x.example.net", "y.example.net"), Weight: uint32(e.n(3)),
		Locality: pick(e.dice, "", "us-east1/a", "us-west1/b"), Labels: pick(e.dice, someLabels...)}
}

func (e *edits) endpoints() (out []*networking.WorkloadEntry) {
	for range e.n(4) {
		out = append(out, e.endpoint())
	}
	return out
}

func (e *edits) entry() *networking.ServiceEntry {
	s := &networking.ServiceEntry{Hosts: e.fewHosts(), Resolution: e.resolution(), ExportTo: e.exportTo(), Endpoints: e.endpoints(),
		Addresses: pick(e.dice, nil, nil, []string{"10.1.0.1"}, []string{"10.1.0.2", "10.2.0.0/16"})}
	for _, p := range some(e.dice, 2, somePorts...) {
		s.Ports = append(s.Ports, &networking.ServicePort{Number: p, Name: fmt.Sprintf("p%d", p), Protocol: pick(e.dice, "HTTP", "HTTP", "HTTPS", "TCP", "", "TLS", "MONGO")})
	}
	if e.n(4) == 0 {
		s.WorkloadSelector = &networking.WorkloadSelector{Labels: pick(e.dice, someLabels...)}
	}
	return s
}

func (e *edits) policy() *networking.TrafficPolicy {
	p := &networking.TrafficPolicy{}
	switch e.n(7) {
	case 0:
		return nil
	case 1:
		p.OutlierDetection = &networking.OutlierDetection{Interval: durationpb.New(time.Duration(1+e.n(3)) * time.Second)}
	case 2:
		p.Tls = &networking.ClientTLSSettings{Mode: networking.ClientTLSSettings_TLSmode(e.n(4)), CredentialName: pick(e.dice, "", "secret")}
	case 3:
		p.LoadBalancer = &networking.LoadBalancerSettings{LbPolicy: &networking.LoadBalancerSettings_ConsistentHash{
			ConsistentHash: &networking.LoadBalancerSettings_ConsistentHashLB{HashKey: &networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp{UseSourceIp: true}}}}
	case 4:
		p.ConnectionPool = &networking.ConnectionPoolSettings{Tcp: &networking.ConnectionPoolSettings_TCPSettings{IdleTimeout: durationpb.New(time.Duration(e.n(9)) * time.Second)}}
	case 5:
		p.PortLevelSettings = []*networking.TrafficPolicy_PortTrafficPolicy{{Port: &networking.PortSelector{Number: pick(e.dice, somePorts...)},
			OutlierDetection: &networking.OutlierDetection{}}}
	}
	return p
}

func (e *edits) destination() *networking.Destination {
	d := &networking.Destination{Host: pick(e.dice, e.hosts()...), Subset: pick(e.dice, "", "", "v1", "v2")}
	if e.n(2) == 0 {
		d.Port = &networking.PortSelector{Number: pick(e.dice, somePorts...)}
	}
	return d
}

func (e *edits) rule() *networking.HTTPRoute {
	r := &networking.HTTPRoute{Name: pick(e.dice, "", "r")}
	if e.n(2) == 0 {
		r.Match = []*networking.HTTPMatchRequest{{Uri: &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: pick(e.dice, "/", "/x", "/x/y")}},
			Port: pick[uint32](e.dice, 0, 0, 80, 8080)}}
	}
	switch e.n(6) {
	case 0:
		if e.plain {
			break
		}
		r.Delegate = &networking.Delegate{Name: fmt.Sprintf("o%d", e.n(8)), Namespace: pick(e.dice, "", someNamespaces[1])}
		return r
	case 1:
		r.Redirect = &networking.HTTPRedirect{Uri: "/z"}
		return r
	case 2:
		r.Fault = &networking.HTTPFaultInjection{Abort: &networking.HTTPFaultInjection_Abort{ErrorType: &networking.HTTPFaultInjection_Abort_HttpStatus{HttpStatus: 500}}}
	case 3:
		r.CorsPolicy = &networking.CorsPolicy{AllowMethods: []string{"GET"}}
	}
	for range 1 + e.n(2) {
		r.Route = append(r.Route, &networking.HTTPRouteDestination{Destination: e.destination(), Weight: int32(e.n(3))})
	}
	return r
}

func (e *edits) router() *networking.VirtualService {
	vs := &networking.VirtualService{ExportTo: e.exportTo()}
	if e.plain || e.n(4) > 0 {
		vs.Hosts = e.fewHosts()
	}
	for range e.n(3) {
		vs.Http = append(vs.Http, e.rule())
	}
	if e.n(3) == 0 {
		vs.Tls = []*networking.TLSRoute{{Match: []*networking.TLSMatchAttributes{{SniHosts: some(e.dice, 2, someHosts...)}}, Route: []*networking.RouteDestination{{Destination: e.destination()}}}}
	}
	if e.n(3) == 0 {
		vs.Tcp = []*networking.TCPRoute{{Route: []*networking.RouteDestination{{Destination: e.destination()}, {Destination: e.destination(), Weight: 1}}}}
	}
	return vs
}

func (e *edits) sidecar() *networking.Sidecar {
	s := &networking.Sidecar{}
	if e.n(4) == 0 {
		proxy := &networking.Destination{Host: pick(e.dice, e.hosts()...), Subset: pick(e.dice, "", "v1"), Port: &networking.PortSelector{Number: pick(e.dice, somePorts...)}}
		s.OutboundTrafficPolicy = &networking.OutboundTrafficPolicy{Mode: networking.OutboundTrafficPolicy_Mode(e.n(2)), EgressProxy: pick(e.dice, nil, proxy)}
	}
	if e.n(2) == 0 {
		s.WorkloadSelector = &networking.WorkloadSelector{Labels: map[string]string{"app": "x"}}
	}
	for range e.n(3) {
		l := &networking.IstioEgressListener{Hosts: some(e.dice, 3, "*/*", "./*", "other/*", "*/a.example.com", "~/*.org")}
		if e.n(2) == 0 {
			l.Port = &networking.SidecarPort{Number: pick(e.dice, somePorts...), Protocol: pick(e.dice, "HTTP", "TCP", "HTTP_PROXY", ""), Name: "p"}
		}
		if e.n(5) == 0 {
			l.CaptureMode, l.Bind = networking.CaptureMode_NONE, pick(e.dice, "", "127.0.0.1", "unix:///tmp/x")
		}
		s.Egress = append(s.Egress, l)
	}
	return s
}
