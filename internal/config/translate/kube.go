package translate

import (
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// kubeIndex finds the endpoints of Kubernetes Services and where nodes are.
type kubeIndex struct {
	slices  map[string][]*networking.ServiceEntry // EndpointSlices by NAMESPACE/SERVICE, oldest first
	nodes   map[string]map[string]string          // labels by node
	regions map[string]string                     // region by zone, as far as nodes tell
}

func newKubeIndex(set *config.Set) *kubeIndex {
	x := &kubeIndex{slices: map[string][]*networking.ServiceEntry{}, nodes: map[string]map[string]string{}, regions: map[string]string{}}
	for _, o := range set.All(config.EndpointSlice) {
		key := o.Namespace + "/" + o.Labels[config.LabelService]
		x.slices[key] = append(x.slices[key], entryOf(o))
	}
	for _, o := range set.All(config.Node) {
		x.nodes[o.Name] = o.Labels
		if zone := o.Labels[config.LabelZone]; zone != "" && x.regions[zone] == "" {
			x.regions[zone] = o.Labels[config.LabelRegion]
		}
	}
	return x
}

// sliceEndpoints gives the ready endpoints of a Kubernetes Service's port, each with the locality of its node; where the
// node is not known, the slice's zone tells, and the region of any node in it.
func (c *compiler) sliceEndpoints(o *config.Object, port string) []*networking.WorkloadEntry {
	if c.kube == nil {
		c.kube = newKubeIndex(c.set)
	}
	var out []*networking.WorkloadEntry
	seen := map[string]bool{}
	for _, slice := range c.kube.slices[o.Namespace+"/"+o.Name] {
		for _, e := range slice.Endpoints {
			if e.Ports[port] == 0 || seen[e.Address] {
				continue
			}
			seen[e.Address] = true
			e = proto.CloneOf(e)
			node := c.kube.nodes[e.Labels[config.LabelNode]]
			region, zone := node[config.LabelRegion], node[config.LabelZone]
			if zone == "" {
				zone = e.Labels[config.LabelZone]
				region = c.kube.regions[zone]
			}
			if region != "" || zone != "" {
				e.Locality = locality{region: region, zone: zone}.String()
			}
			out = append(out, e)
		}
	}
	return out
}

// reaches tells whether the caller has the family of an address.
func (c *compiler) reaches(p netip.Prefix) bool {
	return p.Addr().Is4() && c.group.IPv4 || p.Addr().Is6() && c.group.IPv6
}

// inCluster gives the names by which callers in a cluster know a host NAME.NAMESPACE.svc.cluster.local beside its full one:
// NAME.NAMESPACE and NAME.NAMESPACE.svc, and NAME in its own namespace.
func (c *compiler) inCluster(host string) []string {
	qualified, ok := strings.CutSuffix(host, "."+config.ClusterDomain)
	name, ns, both := strings.Cut(qualified, ".")
	if !ok || !both {
		return nil
	}
	out := []string{qualified, qualified + ".svc"}
	if ns == c.group.Namespace {
		out = append(out, name)
	}
	return out
}

// shortNames gives the names by which callers in a cluster know a Service beside its full one: NAME.NAMESPACE and
// NAME.NAMESPACE.svc, and NAME in its own namespace.
func (c *compiler) shortNames(o *config.Object) []string {
	qualified := o.Name + "." + o.Namespace
	out := []string{qualified, qualified + ".svc"}
	if o.Namespace == c.group.Namespace {
		out = append(out, o.Name)
	}
	return out
}
