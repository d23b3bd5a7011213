package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// ports gives a ServiceEntry's ports; none for a Kubernetes Service.
func ports(o *config.Object) []*networking.ServicePort {
	se, _ := o.Spec.(*networking.ServiceEntry)
	return se.GetPorts()
}

// emptySubset: a subset whose labels no endpoint has.
func (r *run) emptySubset(p *translate.Plan) {
	if p.Subset == "" || len(p.Endpoints)+len(p.Dropped) > 0 || p.Resolution == networking.ServiceEntry_NONE || p.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
		return
	}
	place := p.DeclaredAt
	if p.Entry.Kind == config.Service {
		r.report(at(config.Note, CodeEmptySubset, translate.Place{Object: place.Object, Field: "spec.subsets"},
			"subsets of %s are told apart by the labels of Pods, which are not read here: requests for them get 503 outside the cluster", p.Host))
		return
	}
	place.Field += ".labels"
	r.report(at(config.Warning, CodeEmptySubset, place, "no endpoint of %s has the labels of subset %s, so requests for it get 503; label the endpoints in the ServiceEntry, or mend the labels here", p.Host, p.Subset))
}

// objects looks at what the objects say about each other.
func (r *run) objects(set *config.Set) {
	d := newDirectory(set)
	r.entriesTwice(set)
	r.rulesTwice(set)
	for _, o := range set.All(config.DestinationRule) {
		h := o.Spec.(*networking.DestinationRule).Host
		if !d.defines(h, o.Namespace) {
			r.report(config.Warningf(o, CodeNoSuchHost, "spec.host", "nothing declares %s, so this rule applies to nothing%s", h, d.nearest(h)))
		}
	}
	r.egressProxies(set, d)
	byHost := map[string][]view{}
	for _, v := range r.views {
		byHost[v.plan.Host] = append(byHost[v.plan.Host], v)
	}
	planned := map[string][]*translate.Plan{}
	for _, p := range r.plans {
		planned[p.Host] = append(planned[p.Host], p)
	}
	for _, o := range set.All(config.VirtualService) {
		v := &routes{run: r, directory: d, byHost: byHost, planned: planned, o: o, spec: o.Spec.(*networking.VirtualService)}
		v.hosts()
		v.rules()
	}
}

// directory knows the hosts that something defines.
type directory struct {
	declared func(string) bool
	names    []string
	services map[string]bool // Kubernetes Services by "name.namespace"; empty where none are given
	ports    map[string]map[uint32]bool
	subsets  map[string]map[string]bool // by the host of DestinationRules
	// wildRules are those of subsets' hosts that are wildcards.
	wildRules []string
}

func newDirectory(set *config.Set) *directory {
	d := &directory{declared: declaredHosts(set), services: map[string]bool{}, ports: map[string]map[uint32]bool{}, subsets: map[string]map[string]bool{}}
	for _, o := range set.All(config.Service) {
		d.services[o.Name+"."+o.Namespace] = true
	}
	for _, o := range set.All(config.ServiceEntry) {
		for _, h := range o.Spec.(*networking.ServiceEntry).Hosts {
			h = normal(h)
			d.names = append(d.names, h)
			if d.ports[h] == nil {
				d.ports[h] = map[uint32]bool{}
			}
			for _, p := range ports(o) {
				d.ports[h][p.Number] = true
			}
		}
	}
	for _, o := range set.All(config.DestinationRule) {
		dr := o.Spec.(*networking.DestinationRule)
		h := normal(dr.Host)
		for _, s := range dr.Subsets {
			if d.subsets[h] == nil {
				d.subsets[h] = map[string]bool{}
				if strings.HasPrefix(h, "*") {
					d.wildRules = append(d.wildRules, h)
				}
			}
			d.subsets[h][s.Name] = true
		}
	}
	return d
}

// defines tells whether a host, or one that it covers, is there. Names inside a cluster are known only where its Services
// are given; else they count as there. Where nothing at all is declared, somebody looks at a file by itself.
func (d *directory) defines(host, namespace string) bool {
	if len(d.names)+len(d.services) == 0 || d.declared(host) || host == "*" {
		return true
	}
	name, inside := strings.CutSuffix(normal(host), ".svc.cluster.local")
	if !inside {
		name, inside = strings.CutSuffix(name, ".svc")
	}
	if !inside && (!strings.Contains(name, ".") || strings.HasSuffix(name, ".local")) {
		inside = true
	}
	if !inside || len(d.services) == 0 {
		return inside || d.services[name]
	}
	if !strings.Contains(name, ".") {
		name += "." + namespace
	}
	return strings.HasPrefix(name, "*") || d.services[name]
}

// nearest gives what else the author may have meant.
func (d *directory) nearest(host string) string {
	if hint := config.DidYouMean(normal(host), d.names); hint != "" {
		return hint
	}
	return "; add a ServiceEntry for it"
}

// subset tells whether a DestinationRule declares a host's subset; known is false where no rule covers the host.
func (d *directory) subset(host, name string) (there, known bool) {
	host = normal(host)
	names, known := d.subsets[host]
	there = names[name]
	for _, h := range d.wildRules {
		if covers(h, host) {
			known, there = true, there || d.subsets[h][name]
		}
	}
	return there, known
}

// entriesTwice: several ServiceEntries that declare one host. In one namespace Istio adds them up; of different namespaces
// only one counts.
func (r *run) entriesTwice(set *config.Set) {
	first := map[string]*config.Object{}
	for _, o := range set.All(config.ServiceEntry) {
		se := o.Spec.(*networking.ServiceEntry)
		for i, h := range se.Hosts {
			h = normal(h)
			was := first[h]
			if was == nil {
				first[h] = o
				continue
			}
			place := translate.Place{Object: o, Field: indexed("spec.hosts", i)}
			a := was.Spec.(*networking.ServiceEntry)
			visible := !slices.Contains(se.ExportTo, ".") && !slices.Contains(a.ExportTo, ".") && !slices.Contains(se.ExportTo, "~") && !slices.Contains(a.ExportTo, "~")
			switch {
			case was == o:
				r.report(at(config.Warning, CodeHostTwice, place, "%s stands there twice; remove one", h))
			case was.Namespace != o.Namespace && visible:
				r.report(at(config.Warning, CodeHostTwice, place, "%s is declared by %s at %s too, in another namespace: callers get one of the two, their own namespace's or the older, never both; keep one",
					h, was.Key, was.Origin))
			case was.Namespace == o.Namespace && (a.Resolution != se.Resolution || a.Location != se.Location):
				r.report(at(config.Warning, CodeHostTwice, place, "%s is declared by %s at %s too, whose resolution %s and location %s hold for both; make them one ServiceEntry, or say the same in both",
					h, was.Key, was.Origin, a.Resolution, a.Location))
			case was.Namespace == o.Namespace:
				r.report(at(config.Note, CodeHostTwice, place, "%s is declared by %s at %s too: ports and endpoints of both are added up", h, was.Key, was.Origin))
			}
		}
	}
}

// rulesTwice: of several DestinationRules for one host in one namespace the first trafficPolicy counts, and the first
// subset of each name (SEMANTICS §1.5).
func (r *run) rulesTwice(set *config.Set) {
	type key struct{ namespace, host string }
	policy, subsets := map[key]*config.Object{}, map[key]map[string]*config.Object{}
	for _, o := range set.All(config.DestinationRule) {
		dr := o.Spec.(*networking.DestinationRule)
		if dr.WorkloadSelector != nil {
			continue
		}
		k := key{o.Namespace, normal(dr.Host)}
		if was := policy[k]; dr.TrafficPolicy != nil && was != nil {
			r.report(config.Warningf(o, CodeHostTwice, "spec.trafficPolicy", "%s has a trafficPolicy in %s at %s, which came first; this one is not used; put both into one DestinationRule", dr.Host, was.Key, was.Origin))
		} else if dr.TrafficPolicy != nil {
			policy[k] = o
		}
		if subsets[k] == nil {
			subsets[k] = map[string]*config.Object{}
		}
		for i, s := range dr.Subsets {
			if was := subsets[k][s.Name]; was != nil {
				r.report(config.Warningf(o, CodeHostTwice, indexed("spec.subsets", i), "%s has a subset %s in %s at %s already; this one is not used", dr.Host, s.Name, was.Key, was.Origin))
				continue
			}
			subsets[k][s.Name] = o
		}
	}
	for k, o := range policy {
		for wide, was := range policy {
			if wide.namespace == k.namespace && wide.host != k.host && strings.HasPrefix(wide.host, "*") && covers(wide.host, k.host) {
				r.report(config.Notef(o, CodeHostTwice, "spec.host", "%s at %s, for %s, does not count for %s: this rule is more specific and inherits nothing of it", was.Key, was.Origin, wide.host, k.host))
			}
		}
	}
}

// servicePorts writes port numbers in order.
func servicePorts(m map[uint32]bool) string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, ", ")
}
