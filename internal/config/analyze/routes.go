package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// routes looks at one VirtualService.
type routes struct {
	*run
	*directory
	byHost map[string][]view
	// planned are the clusters of each host, those without traffic too.
	planned map[string][]*translate.Plan
	o       *config.Object
	spec    *networking.VirtualService
}

func (v *routes) warn(code, field, format string, args ...any) {
	v.report(config.Warningf(v.o, code, field, format, args...))
}

// hosts: names that nothing declares carry no traffic that could be routed.
func (v *routes) hosts() {
	for i, h := range v.spec.Hosts {
		if !v.defines(h, v.o.Namespace) {
			v.warn(CodeNoSuchHost, indexed("spec.hosts", i), "nothing declares %s, so its traffic is not taken for it and is not routed here%s", h, v.nearest(h))
		}
	}
}

func (v *routes) rules() {
	v.protocols()
	for i, rt := range v.spec.Http {
		path := indexed("spec.http", i)
		for j, m := range rt.Match {
			v.matchPort(indexed(path+".match", j), m.Port)
			v.neverMatches(indexed(path+".match", j), m)
		}
		for j, d := range rt.Route {
			if d.Weight > 0 || len(rt.Route) == 1 { // the others get nothing
				v.destination(indexed(path+".route", j)+".destination", d.Destination)
			}
		}
		v.destination(path+".mirror", rt.Mirror)
		for j, m := range rt.Mirrors {
			v.destination(indexed(path+".mirrors", j)+".destination", m.Destination)
		}
		v.retries(path, rt)
		v.timeout(path, rt)
		v.fault(path, rt)
	}
	for i, rt := range v.spec.Tls {
		path := indexed("spec.tls", i)
		for j, m := range rt.Match {
			v.matchPort(indexed(path+".match", j), m.Port)
		}
		for j, d := range rt.Route {
			v.destination(indexed(path+".route", j)+".destination", d.Destination)
		}
	}
	for i, rt := range v.spec.Tcp {
		path := indexed("spec.tcp", i)
		for j, m := range rt.Match {
			v.matchPort(indexed(path+".match", j), m.Port)
		}
		for j, d := range rt.Route {
			v.destination(indexed(path+".route", j)+".destination", d.Destination)
		}
	}
}

// matchPort: a match for a port that none of the hosts has never holds.
func (v *routes) matchPort(path string, port uint32) {
	if port == 0 {
		return
	}
	known := map[uint32]bool{}
	for _, h := range v.spec.Hosts {
		ports := v.ports[normal(h)]
		if ports == nil {
			return // a wildcard, or somebody else's
		}
		for p := range ports {
			known[p] = true
		}
	}
	if len(known) > 0 && !known[port] {
		v.warn(CodeNoSuchPort, path+".port", "no request can match: %s has no port %d; it has %s", strings.Join(v.spec.Hosts, ", "), port, servicePorts(known))
	}
}

func (v *routes) destination(path string, d *networking.Destination) {
	if d == nil {
		return
	}
	if !v.defines(d.Host, v.o.Namespace) {
		v.warn(CodeNoSuchHost, path+".host", "nothing declares %s, so requests that come here get 503%s", d.Host, v.nearest(d.Host))
		return
	}
	ports := v.ports[normal(d.Host)]
	if n := d.Port.GetNumber(); n != 0 && ports != nil && !ports[n] {
		v.warn(CodeNoSuchPort, path+".port.number", "%s has no port %d, so requests that come here get 503; it has %s", d.Host, n, servicePorts(ports))
	}
	if d.Subset == "" || ports == nil {
		return
	}
	if there, known := v.subset(d.Host, d.Subset); !there {
		what := "no DestinationRule for " + d.Host + " declares subset " + d.Subset + config.DidYouMean(d.Subset, slices.Sorted(maps.Keys(v.subsets[normal(d.Host)])))
		if !known {
			what = "there is no DestinationRule with subsets for " + d.Host
		}
		v.warn(CodeNoSuchSubset, path+".subset", "%s, so requests that come here get 503", what)
	}
}

// views gives what the callers see of a route's destinations.
func (v *routes) views(rt *networking.HTTPRoute) []view {
	var out []view
	for _, d := range rt.Route {
		port := d.Destination.GetPort().GetNumber()
		for _, w := range v.byHost[normal(d.Destination.GetHost())] {
			if w.plan.Protocol == "http" && d.Destination.GetSubset() == w.plan.Subset && (port == 0 || port == w.plan.Port) {
				out = append(out, w)
			}
		}
	}
	return out
}

// resends are the words of retryOn that send a request again that an endpoint may have worked on.
var resends = []string{"5xx", "gateway-error", "reset", "retriable-4xx", "retriable-headers", "envoy-ratelimited"}

// idempotent are the methods of RFC 9110 §9.2.2.
var idempotent = []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}

func (v *routes) retries(path string, rt *networking.HTTPRoute) {
	t := rt.Retries
	if t.GetAttempts() <= 0 || len(rt.Route) == 0 {
		return
	}
	var again []string
	for _, w := range strings.Split(t.RetryOn, ",") {
		w = strings.TrimSpace(w)
		if _, err := strconv.Atoi(w); err == nil || slices.Contains(resends, w) {
			again = append(again, w)
		}
	}
	if len(again) > 0 && !onlyIdempotent(rt) {
		v.warn(CodeRetryTwice, path+".retries.retryOn",
			"%s sends a request again that an endpoint may have worked on, for every method: a POST can be done twice; put a rule for GET and HEAD (match.method) with these retries before this one, and leave retryOn out here",
			strings.Join(again, ", "))
	}
	for _, w := range v.views(rt) {
		v.stays(path, t, w)
	}
}

// onlyIdempotent tells whether every match of a rule asks for a method that may be repeated.
func onlyIdempotent(rt *networking.HTTPRoute) bool {
	return len(rt.Match) > 0 && !slices.ContainsFunc(rt.Match, func(m *networking.HTTPMatchRequest) bool {
		switch u := m.Method.GetMatchType().(type) {
		case *networking.StringMatch_Exact:
			return !slices.Contains(idempotent, u.Exact)
		case *networking.StringMatch_Regex:
			return slices.ContainsFunc(strings.FieldsFunc(u.Regex, func(c rune) bool { return strings.ContainsRune("|()?:^$", c) }),
				func(w string) bool { return !slices.Contains(idempotent, w) })
		}
		return true
	})
}

// stays: without retryRemoteLocalities Envoy's retries go to the priority of the first attempt; more attempts than that
// has endpoints meet those again that failed (SEMANTICS T10).
func (v *routes) stays(path string, t *networking.HTTPRetry, w view) {
	if t.RetryRemoteLocalities.GetValue() {
		return
	}
	near, far := 0, false
	for _, e := range w.plan.Endpoints {
		if e.Priority == 0 {
			near += max(1, len(v.addrs[e.Address]))
		}
		far = far || e.Priority > 0
	}
	if far && int(t.Attempts) >= near {
		v.warn(CodeRetryStays, path+".retries",
			"%d retries stay with the %s of %s that %s nearest until an ejection has landed, though others are there; write retryRemoteLocalities: true",
			t.Attempts, count(near, "endpoint"), w.plan.Host, map[bool]string{true: "is", false: "are"}[near == 1])
	}
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// timeout: where an endpoint is silent each attempt takes the connect timeout, or perTryTimeout where that is shorter; the
// route's timeout ends the request before the last attempt begins.
func (v *routes) timeout(path string, rt *networking.HTTPRoute) {
	limit, attempts := rt.Timeout.AsDuration(), rt.Retries.GetAttempts()
	if rt.Timeout == nil || limit <= 0 || rt.Retries != nil && attempts <= 0 {
		return
	}
	for _, w := range v.views(rt) {
		if rt.Retries == nil && !w.plan.ConnectTimeoutSet {
			continue // nobody chose either number
		}
		n := attempts
		if rt.Retries == nil {
			n = 2 // Istio's default
		}
		each, what := w.plan.ConnectTimeout, "connectTimeout"
		if p := rt.Retries.GetPerTryTimeout(); p != nil && p.AsDuration() < each {
			each, what = p.AsDuration(), "perTryTimeout"
		}
		if total := each * time.Duration(n); total >= limit {
			v.warn(CodeShortTimeout, path+".timeout",
				"%s is over before the last of %s can begin when endpoints of %s are silent: each takes up to %s (%s); write more than %s here, or a shorter connectTimeout or perTryTimeout",
				limit, count(int(n), "retry attempt"), w.plan.Host, each, what, total)
			return
		}
	}
}

// fault: a fault without a percentage hits every request here and none in a mesh (SEMANTICS T13).
func (v *routes) fault(path string, rt *networking.HTTPRoute) {
	//lint:ignore SA1019 people's files still use it
	if d := rt.Fault.GetDelay(); d.GetHttpDelayType() != nil && d.Percentage == nil && d.Percent == 0 {
		v.warn(CodeFaultAlways, path+".fault.delay", "has no percentage: detour delays every request, as the field's documentation says; in a mesh none is; write percentage")
	}
	if a := rt.Fault.GetAbort(); a.GetErrorType() != nil && a.Percentage == nil {
		v.warn(CodeFaultAlways, path+".fault.abort", "has no percentage: detour aborts every request, as the field's documentation says; in a mesh none is; write percentage")
	}
}
