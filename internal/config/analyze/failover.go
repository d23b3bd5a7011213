package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

// failover looks for what keeps a host with endpoints in several localities from preferring the near ones and moving to
// the others. Priorities exist only where outlierDetection is set and the caller's locality tells near from far
// (SEMANTICS §1.3).
func (r *run) failover(p *translate.Plan, g xds.NodeGroup) {
	places := localities(p)
	r.distributed(p, g)
	r.onePriority(p, g)
	if len(places) < 2 || p.LocalityOff || p.Distributed || p.Ordered && p.Outlier == nil {
		return // the last: validation says so
	}
	if p.Outlier == nil {
		at0 := p.At("outlierDetection")
		what := "add outlierDetection to this rule's trafficPolicy"
		if p.Rule == nil {
			what = fmt.Sprintf("add a DestinationRule for %s with outlierDetection", p.Host)
		}
		r.report(at(config.Warning, CodeNoOutlier, at0,
			"%s has endpoints in %s and no outlierDetection: requests go to all of them evenly, and one that fails keeps getting its share; %s",
			p.Host, listed(places), what))
		return
	}
	if slices.ContainsFunc(p.Endpoints, func(e translate.PlannedEndpoint) bool { return e.Priority > 0 }) {
		return
	}
	if p.Ordered && localityName(g) != "" {
		return // onePriority says so
	}
	d := r.far[p.Host]
	if d == nil {
		d = &distance{plan: p, places: places}
		r.far[p.Host] = d
	}
	if name := localityName(g); !slices.Contains(d.callers, name) {
		d.callers = append(d.callers, name)
	}
}

// distributed tells that callers whose locality a distribute rule names have nowhere to go when all that it lists fails.
func (r *run) distributed(p *translate.Plan, g xds.NodeGroup) {
	if len(p.Dropped) == 0 {
		return
	}
	dropped := localities(&translate.Plan{Endpoints: p.Dropped})
	place := p.At("loadBalancer")
	place.Field += ".localityLbSetting.distribute"
	if len(p.Endpoints) == 0 {
		r.report(at(config.Warning, CodeDistribute, place,
			"callers in %s reach no endpoint of %s, and every request gets 503: none is where distribute sends them, and those in %s get nothing; list these with a weight, or write failover instead",
			localityName(g), p.Host, strings.Join(dropped, ", ")))
		return
	}
	r.report(at(config.Warning, CodeDistribute, place,
		"callers in %s reach only the endpoints of %s in %s: distribute weighs, it does not fail over, so those in %s get nothing even when all others are down; list them too with a weight, or write failover instead",
		localityName(g), p.Host, strings.Join(localities(p), ", "), strings.Join(dropped, ", ")))
}

// onePriority tells that an order was asked for and there is none: every endpoint is in the same priority for this caller.
func (r *run) onePriority(p *translate.Plan, g xds.NodeGroup) {
	if !p.Ordered || p.Outlier == nil || len(p.Endpoints) < 2 || p.LocalityOff {
		return
	}
	if slices.ContainsFunc(p.Endpoints, func(e translate.PlannedEndpoint) bool { return e.Priority > 0 }) || localityName(g) == "" {
		return
	}
	place := p.At("loadBalancer")
	place.Field += ".localityLbSetting"
	s := config.Warning
	if r.opt.AllLocalities {
		s = config.Note
	}
	r.report(at(s, CodeOnePriority, place,
		"all endpoints of %s are in one priority for callers in %s, so none is only a fallback: their localities are %s; give the endpoints the localities or labels that this setting compares",
		p.Host, localityName(g), strings.Join(localities(p), ", ")))
}

// distance is one host and the callers to whom all of its endpoints are equally near.
type distance struct {
	plan    *translate.Plan
	places  []string
	callers []string // localities; "" for a caller without
}

// reportDistances reports, host by host, the callers for whom nothing is near. Where all localities are tried it is a
// note: nobody said that callers stand there.
func (r *run) reportDistances() {
	for _, d := range r.far {
		e := d.plan.Endpoints[0]
		place := translate.Place{Object: e.At.Object, Field: e.At.Field + ".locality"}
		known := strings.Join(d.places, ", ")
		if r.opt.AllLocalities {
			r.report(at(config.Note, CodeNothingNear, place, "for callers in %s every endpoint of %s is equally near (its localities: %s)",
				strings.Join(callerNames(d.callers), ", "), d.plan.Host, known))
			continue
		}
		if d.callers[0] == "" {
			r.report(at(config.Warning, CodeNothingNear, place,
				"the caller's locality is unknown, so every endpoint of %s is equally near and none is only a fallback; give --locality (or DETOUR_LOCALITY); endpoints are in %s",
				d.plan.Host, known))
			continue
		}
		r.report(at(config.Warning, CodeNothingNear, place,
			"the caller is in %s, where %s has no endpoint, so all are equally near and none is only a fallback; endpoints are in %s; say which comes first with localityLbSetting.failover",
			d.callers[0], d.plan.Host, known))
	}
}

func callerNames(callers []string) []string {
	var out []string
	for _, c := range callers {
		if c == "" {
			c = "an unknown locality"
		}
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}

// listed writes words as in "a, b and c".
func listed(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// namedLocalities tells of localities that a localityLbSetting leads to and no endpoint is in. A rule for many hosts may
// name those of others.
func (r *run) namedLocalities(p *translate.Plan) {
	place := p.At("loadBalancer")
	dr, ok := place.Object.Spec.(*networking.DestinationRule)
	if !ok || strings.HasPrefix(dr.Host, "*") || p.LocalityOff {
		return
	}
	lb := balancers(dr)[place.Field]
	regions, all := map[string]bool{}, append(slices.Clone(p.Endpoints), p.Dropped...)
	for _, e := range all {
		region, _, _ := strings.Cut(e.Locality, "/")
		regions[region] = true
	}
	delete(regions, "")
	if len(regions) == 0 {
		return // onePriority says so
	}
	known := slices.Sorted(maps.Keys(regions))
	setting := place.Field + ".localityLbSetting"
	for i, f := range lb.GetLocalityLbSetting().GetFailover() {
		if p.Outlier != nil && f.To != "" && !regions[f.To] {
			r.report(at(config.Warning, CodeNoSuchLocality, translate.Place{Object: place.Object, Field: indexed(setting+".failover", i) + ".to"},
				"no endpoint of %s is in %s%s, so callers in %s prefer none of the others; endpoints are in %s", p.Host, f.To, config.DidYouMean(f.To, known), f.From, strings.Join(known, ", ")))
		}
	}
	for i, d := range lb.GetLocalityLbSetting().GetDistribute() {
		for _, to := range slices.Sorted(maps.Keys(d.To)) {
			if !slices.ContainsFunc(all, func(e translate.PlannedEndpoint) bool { return inLocality(e.Locality, to) }) {
				r.report(at(config.Warning, CodeNoSuchLocality, translate.Place{Object: place.Object, Field: indexed(setting+".distribute", i) + ".to"},
					"no endpoint of %s is in %s%s, so its %d %% go to the other localities here, if there are any; endpoints are in %s", p.Host, to, config.DidYouMean(to, known), d.To[to], strings.Join(localities(&translate.Plan{Endpoints: all}), ", ")))
			}
		}
	}
}

// inLocality tells whether a locality fits a pattern of distribute, as in "us-east1/*" (istiod's LocalityMatch).
func inLocality(locality, pattern string) bool {
	l, p := strings.Split(locality, "/"), strings.Split(pattern, "/")
	for i, part := range p {
		if prefix, wild := strings.CutSuffix(part, "*"); wild {
			return prefix == "" || i < len(l) && strings.HasPrefix(l[i], prefix)
		}
		if i >= len(l) || l[i] != part {
			return false
		}
	}
	return true
}

// balancers gives a rule's loadBalancer blocks by their paths.
func balancers(dr *networking.DestinationRule) map[string]*networking.LoadBalancerSettings {
	out := map[string]*networking.LoadBalancerSettings{}
	add := func(path string, tp *networking.TrafficPolicy) {
		out[path+".loadBalancer"] = tp.GetLoadBalancer()
		for i, p := range tp.GetPortLevelSettings() {
			out[indexed(path+".portLevelSettings", i)+".loadBalancer"] = p.LoadBalancer
		}
	}
	add("spec.trafficPolicy", dr.TrafficPolicy)
	for i, s := range dr.Subsets {
		add(indexed("spec.subsets", i)+".trafficPolicy", s.TrafficPolicy)
	}
	return out
}

// localities gives the localities of a cluster's endpoints, sorted.
func localities(p *translate.Plan) []string {
	var out []string
	for _, e := range p.Endpoints {
		name := e.Locality
		if name == "" {
			name = "no locality"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
