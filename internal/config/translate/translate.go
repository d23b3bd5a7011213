// Package translate owns the compiler: a pure function from a config.Set and a node group to a complete xDS snapshot.
// It does no I/O, reads no clock and no environment; its output is sorted, and its version is the hash of its contents.
//
// The files follow what they make: listener.go, route.go, cluster.go, endpoint.go, with locality.go (priorities and
// weights), outlier.go, tls.go and naming.go (names of resources, order of hosts) beside them. service.go and rule.go
// turn ServiceEntries and DestinationRules into what the rest reads. What istiod does is the rule everywhere; where
// detour departs from it on purpose stands in deviations.go, one function each, and NodeGroup.CompatIstio turns all of
// them off.
package translate

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// Codes of the issues that translation finds.
const (
	// CodeInsecure: a destination's certificate is not verified.
	CodeInsecure = "DTR0501"
	// CodeUnreachableHost: no connection can be recognised as meant for this host and port.
	CodeUnreachableHost = "DTR0502"
	// CodePortConflict: two hosts want one port in ways that exclude each other; the first keeps it.
	CodePortConflict = "DTR0503"
	// CodeHostClaimed: two objects claim one host; the first serves.
	CodeHostClaimed = "DTR0504"
	// CodeCredential: a secret that can't be read outside Kubernetes; the host answers 503.
	CodeCredential = "DTR0505"
	// CodeNoDelegate: a rule delegates to what does not exist or is not visible.
	CodeNoDelegate = "DTR0507"
	// CodeBadAnnotation: an annotation of detour's has a value that is not known.
	CodeBadAnnotation = "DTR0506"
)

// Codes gives the title of each code, for the documentation.
var Codes = map[string]string{
	CodeInsecure:        "A certificate is not verified",
	CodeUnreachableHost: "No connection can be recognised as meant for a host",
	CodePortConflict:    "Two hosts want one port in ways that exclude each other",
	CodeHostClaimed:     "Two objects claim one host",
	CodeNoDelegate:      "A rule delegates to nothing",
	CodeCredential:      "A secret can't be read outside Kubernetes",
	CodeBadAnnotation:   "An annotation has a value that is not known",
}

// compiler holds one run's inputs, what was derived from them, and what was found.
type compiler struct {
	set   *config.Set
	group xds.NodeGroup
	node  node
	mesh  mesh
	rules ruleIndex
	// candidates are the services that the group may see, in order of age, before a Sidecar limits them.
	candidates       []*service
	candidatesByHost map[string][]*service
	hidden           map[string]*service // of the caller's namespace, and not exported to it: VirtualServices reach them all the same
	// routerOrder is the VirtualServices that apply to sidecars, delegates merged in, in the order istiod asks them.
	routerOrder []*config.Object
	egress      []*egress
	open        bool                       // no Sidecar limits what the caller sees: one egress listener imports everything
	egressProxy *networking.Destination    // where undeclared requests go instead of PassthroughCluster; nil: there
	services    []*service                 // of all egress listeners, in order of age: what clusters are made for
	byHost      map[string]*service        // the same by host
	kube        *kubeIndex                 // made when a Kubernetes Service first asks
	filters     map[uint32]map[string]bool // HTTP filters that the routes of a port configure, by name
	found       []config.Issue             // by the front
	issues      []config.Issue
	reported    map[config.Issue]bool // issues already made, so that each appears once

	pending

	memo        *Compiler                      // nil: this run stands alone
	delegations map[*config.Object]*delegation // of this run, for the next one
	unit        *unit                          // being compiled; nil: none
	routed      map[routedKey]*routeUnit       // routes of VirtualServices, for names that nobody declares
	own         []resource[*clusterv3.Cluster] // the clusters that are always there
	catchAll    *routev3.VirtualHost           // the last virtual host of every port
	before      *output                        // of the run before; nil: there was none
}

// Translate compiles a configuration for one node group. The issues are what can only be seen when objects are put
// together; none of them stops the rest. Equal arguments give equal results.
func Translate(set *config.Set, group xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
	return NewCompiler(group).Translate(set)
}

// newCompiler finds out what the group can reach and which rules apply to it.
func newCompiler(set *config.Set, group xds.NodeGroup, memo *Compiler) *compiler {
	c := &compiler{set: set, group: group, memo: memo, filters: map[uint32]map[string]bool{}, reported: map[config.Issue]bool{},
		delegations: map[*config.Object]*delegation{}}
	if c.group.Namespace == "" {
		c.group.Namespace = config.DefaultNamespace
	}
	c.node = newNode(c.group)
	c.mesh = newMesh(set, c.group)
	c.rules = newRuleIndex(set, c.mesh)
	c.findRouters()
	c.findCandidates()
	c.findScope()
	c.found = c.issues
	return c
}

// report keeps an issue unless the same one was reported before: several ports and subsets read the same field. A unit's
// are kept with it, and reported when it is replayed.
func (c *compiler) report(i config.Issue) {
	if c.unit != nil {
		c.unit.issues = append(c.unit.issues, i)
		return
	}
	if !c.reported[i] {
		c.reported[i] = true
		c.issues = append(c.issues, i)
	}
}

// warn reports a warning about a field of an object. Where that stands tells the object of the present Set: the compiler
// may hold an earlier reading of the same one.
func (c *compiler) warn(o *config.Object, code, field, format string, args ...any) {
	c.report(config.Warningf(c.current(o), code, field, format, args...))
}

// current gives an object as it stands in the present Set.
func (c *compiler) current(o *config.Object) *config.Object {
	if now := c.set.Get(o.Key); now != nil {
		return now
	}
	return o
}

// mustAny packs a message. Marshalling fails only on invalid UTF-8, which decode refuses; a nil Any would be read as
// an unset field, so the failure is loud.
func mustAny(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("translate: %T cannot be packed: %v", m, err))
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}
