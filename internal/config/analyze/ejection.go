package analyze

import (
	"slices"
	"strconv"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// envoyMaxEjection is Envoy's max_ejection_percent where nobody sets it.
const envoyMaxEjection = 10

// ejectable is how many of n endpoints may be ejected at once: Envoy ejects one more while 100*(ejected+1)/n is at most
// the percentage, over all priorities (SEMANTICS T1, T2).
func ejectable(percent, n int) int { return percent * n / 100 }

// ejection tells whether outlierDetection can eject anything, and enough. What counts is addresses: a name counts as one
// endpoint unless it was looked up.
func (r *run) ejection(p *translate.Plan) {
	if p.Outlier == nil || len(p.Endpoints) < 2 {
		return
	}
	r.panics(p)
	place := p.At("outlierDetection")
	n, near, names := 0, 0, ""
	for _, e := range p.Endpoints {
		size := 1
		if k := len(r.addrs[e.Address]); e.IsName && k > 0 {
			size, names = k, " (addresses that their names have now)"
		} else if e.IsName && names == "" {
			names = " (each name counted once)"
		}
		n += size
		if e.Priority == 0 {
			near += size
		}
	}
	several := near < n
	if !several {
		near = 1 // one endpoint at least must be able to go
	}
	enough := (100*near + n - 1) / n
	percent := int(p.Outlier.MaxEjectionPercent)
	if percent == 0 {
		r.unsetPercent(p, place, n, near, enough, names)
		return
	}
	place.Field += ".maxEjectionPercent"
	switch can := ejectable(percent, n); {
	case can == 0:
		hint := ""
		if p.External {
			hint = ", or leave the field out"
		}
		r.report(at(config.Warning, CodeNeverEjected, place,
			"%d %% of the %d endpoints of %s%s is less than one, so none is ever ejected and failover never happens; write %d or more%s",
			percent, n, named(p), names, enough, hint))
	case can < near && several:
		r.report(at(config.Warning, CodePartlyEjected, place,
			"%d %% of the %d endpoints of %s%s is %d, but %d are nearest: when all of those fail, %d stay in use and keep part of the requests; write %d or more",
			percent, n, named(p), names, can, near, near-can, enough))
	}
}

// unsetPercent judges Envoy's default. For hosts outside the mesh detour puts 99 in its place, so what follows is true of a
// mesh only, and a note.
func (r *run) unsetPercent(p *translate.Plan, place translate.Place, n, near, enough int, names string) {
	can := ejectable(envoyMaxEjection, n)
	if can >= near {
		return
	}
	if !p.External {
		r.report(at(config.Warning, CodeNeverEjected, place,
			"maxEjectionPercent is not set and Envoy's default of %d %% of the %d endpoints of %s%s lets %s go where %d must; write maxEjectionPercent: %d or more, or location: MESH_EXTERNAL",
			envoyMaxEjection, n, named(p), names, spelled(can), near, enough))
		return
	}
	r.report(at(config.Note, CodeStockIstio, place,
		"maxEjectionPercent is not set: detour ejects all but the last endpoint of %s, but in a mesh Envoy's default of %d %% of %d endpoints%s lets %s go, so there failover needs maxEjectionPercent: %d or more",
		named(p), envoyMaxEjection, n, names, spelled(can), enough))
}

// spelled writes 0 as a word.
func spelled(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

// fullHealth is the share of healthy endpoints, in percent, from which a priority counts as whole: Envoy's overprovisioning
// factor of 140 (SEMANTICS §1.3). Below it the panic threshold counts, where no other priority makes up for it.
const fullHealth = 100 * 100.0 / 140

// panics tells that minHealthPercent undoes the first ejection: with fewer healthy endpoints than it demands, requests go
// to all of them again, the ejected ones too.
func (r *run) panics(p *translate.Plan) {
	need := float64(p.Outlier.MinHealthPercent)
	if need == 0 || slices.ContainsFunc(p.Endpoints, func(e translate.PlannedEndpoint) bool { return e.Priority > 0 }) {
		return
	}
	n := 0
	for _, e := range p.Endpoints {
		n += max(1, len(r.addrs[e.Address]))
	}
	if left := 100 * float64(n-1) / float64(n); left < need && left < fullHealth {
		place := p.At("outlierDetection")
		place.Field += ".minHealthPercent"
		r.report(at(config.Warning, CodePanic, place,
			"with one of the %d endpoints of %s ejected %.0f %% are left, less than the %d %% demanded here, so requests go to the ejected one all the same; write %.0f or less",
			n, named(p), left, p.Outlier.MinHealthPercent, left))
	}
}

// lastEndpoint judges hosts with a single endpoint: ejecting it leaves nothing. A name counts as one only where it was
// looked up, and a rule that covers many hosts is not about this one.
func (r *run) lastEndpoint(p *translate.Plan) {
	if p.Outlier == nil || len(p.Endpoints) != 1 || p.Outlier.MaxEjectionPercent < 100 || p.Outlier.MinHealthPercent > 0 {
		return
	}
	if e := p.Endpoints[0]; e.IsName && len(r.addrs[e.Address]) != 1 {
		return
	}
	place := p.At("outlierDetection")
	place.Field += ".maxEjectionPercent"
	r.report(at(config.Warning, CodeLastEndpoint, place,
		"%s has one endpoint, and 100 %% lets it be ejected: then nothing is left and every request gets 503 until it comes back; add a second endpoint, or write 99",
		named(p)))
}

// named is how messages call whose endpoints are counted.
func named(p *translate.Plan) string {
	if p.Subset == "" {
		return p.Host
	}
	return "subset " + p.Subset + " of " + p.Host
}
