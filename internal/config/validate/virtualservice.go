package validate

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// mesh is the gateway that stands for all proxies beside applications; it is implied where none is named.
const mesh = "mesh"

func gatewaysOnly(vs *networking.VirtualService) bool {
	return len(vs.Gateways) > 0 && !slices.Contains(vs.Gateways, mesh)
}

// virtualService follows istiod's ValidateVirtualService (SEMANTICS §1.6). One without hosts is a delegate: another
// VirtualService names it.
func (c *checker) virtualService(vs *networking.VirtualService) {
	c.routedHosts(vs)
	c.exportTo(vs.ExportTo)
	c.gateways("spec.gateways", vs.Gateways)
	if len(vs.Http)+len(vs.Tcp)+len(vs.Tls) == 0 {
		c.errorf(config.CodeNoRoute, "spec", "has no route; give http, tls or tcp")
	}
	delegate := len(vs.Hosts) == 0
	if delegate && len(vs.Gateways) > 0 {
		c.errorf(config.CodeVSHost, "spec.gateways", "not allowed without hosts: this is one that others delegate to, and they say where it applies; give hosts, or remove it")
	}
	if delegate && len(vs.Tcp)+len(vs.Tls) > 0 {
		c.errorf(config.CodeVSHost, "spec", "has no hosts, so it is one that others delegate to, which can have http routes only; give hosts, or remove tls and tcp")
	}
	for i, r := range vs.Http {
		path := fmt.Sprintf("spec.http[%d]", i)
		c.httpRoute(path, r, delegate)
		c.claims(path, r, gatewaysOnly(vs))
	}
	c.unreachableHTTP(vs.Http)
	for i, r := range vs.Tls {
		c.tlsRoute(fmt.Sprintf("spec.tls[%d]", i), r, vs.Hosts)
	}
	c.unreachableL4("spec.tls", tlsMatches(vs.Tls))
	for i, r := range vs.Tcp {
		c.tcpRoute(fmt.Sprintf("spec.tcp[%d]", i), r)
	}
	c.unreachableL4("spec.tcp", tcpMatches(vs.Tcp))
}

func (c *checker) routedHosts(vs *networking.VirtualService) {
	valid := true
	for i, h := range vs.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		if h == "*" && !gatewaysOnly(vs) {
			c.errorf(config.CodeVSHost, path, "\"*\" is allowed at gateways only; name a host")
			valid = false
		} else if err := checkDomain(h, true); err != nil && !isIP(h) && !(gatewaysOnly(vs) && strings.HasPrefix(h, "outbound_")) {
			c.errorf(config.CodeVSHost, path, "%v", err)
			valid = false
		}
	}
	if !valid {
		return
	}
	for i, h := range vs.Hosts {
		if k := slices.IndexFunc(vs.Hosts[:i], func(was string) bool { return covers(was, h) || covers(h, was) }); k >= 0 {
			c.errorf(config.CodeVSHost, fmt.Sprintf("spec.hosts[%d]", i), "%q overlaps with %q, which stands before it; remove one of them", h, vs.Hosts[k])
		}
	}
}

// covers tells whether every name that b stands for is one of a's; both may be wildcards (istiod's Name.SubsetOf).
func covers(a, b string) bool {
	tail, wild := strings.CutPrefix(a, "*")
	return a == b || wild && len(b) >= len(a) && strings.HasSuffix(b, tail)
}

// gateways checks names of gateways: NAMESPACE/NAME, or a name alone. What follows one without a namespace istiod does not
// look at.
func (c *checker) gateways(path string, names []string) {
	said := config.Error
	for i, g := range names {
		p := fmt.Sprintf("%s[%d]", path, i)
		ns, name, qualified := strings.Cut(g, "/")
		switch {
		case qualified && (!isLabel(ns) || !isLabel(name)):
			c.add(said, config.CodeVSHost, p, "%q is not a gateway; wants NAMESPACE/NAME, or \"mesh\"", g)
		case qualified:
		case checkDomain(g, false) != nil:
			c.add(said, config.CodeVSHost, p, "%q is not a gateway's name; wants NAMESPACE/NAME, or \"mesh\"", g)
		case strings.Contains(g, "."):
			host, domain, _ := strings.Cut(g, ".")
			ns, _, _ := strings.Cut(domain, ".")
			c.warnf(config.CodeVSHost, p, "%q is the old way to name a gateway; write %s/%s", g, ns, host)
		}
		if !qualified {
			said = config.Warning
		}
	}
}

func (c *checker) httpRoute(path string, r *networking.HTTPRoute, isDelegate bool) {
	c.leadsTo(path, r, isDelegate)
	for i, m := range r.Match {
		c.httpMatch(fmt.Sprintf("%s.match[%d]", path, i), m)
	}
	c.destinations(path+".route", r.Route)
	if r.Delegate != nil {
		c.delegate(path+".delegate", r.Delegate)
	}
	c.redirect(path+".redirect", r)
	c.directResponse(path+".directResponse", r.DirectResponse)
	c.rewrite(path+".rewrite", r)
	if r.Timeout != nil && r.Timeout.AsDuration() == 0 {
		c.errorf(config.CodeTimeout, path+".timeout", "0s is not allowed; leave it out to have no timeout")
	} else {
		c.duration(config.CodeTimeout, path+".timeout", r.Timeout)
	}
	c.retries(path+".retries", r.Retries)
	c.fault(path+".fault", r.Fault)
	c.mirrors(path, r)
	c.cors(path+".corsPolicy", r.CorsPolicy)
	c.headers(path+".headers", r.Headers)
	c.authorityOnce(path+".headers.request", r)
}

// leadsTo checks that a rule leads to one thing (istiod's validateHTTPRouteConflict).
func (c *checker) leadsTo(path string, r *networking.HTTPRoute, isDelegate bool) {
	if r.Delegate != nil && !isDelegate {
		if len(r.Route) > 0 || r.Redirect != nil {
			c.errorf(config.CodeNoRoute, path, "leads to several: delegate excludes route and redirect")
		}
		if r.DirectResponse != nil {
			c.warnf(config.CodeNoRoute, path+".directResponse", "is without effect beside delegate; remove one of them")
		}
		return
	}
	if r.Delegate != nil {
		c.errorf(config.CodeDelegate, path+".delegate", "a VirtualService that others delegate to (it has no hosts) can't delegate itself")
	}
	own := ""
	switch {
	case r.Redirect != nil && r.DirectResponse != nil || len(r.Route) > 0 && (r.Redirect != nil || r.DirectResponse != nil):
		c.errorf(config.CodeNoRoute, path, "leads to several: route, redirect and directResponse exclude each other")
	case r.Redirect != nil:
		own = "redirect"
	case r.DirectResponse != nil:
		own = "directResponse"
	case len(r.Route) == 0:
		c.errorf(config.CodeNoRoute, path, "leads nowhere; give route, redirect, directResponse or delegate")
	}
	if own != "" && r.Fault != nil {
		c.errorf(config.CodeFault, path+".fault", "is not allowed beside %s; remove it", own)
	}
	if own != "" && r.Rewrite != nil {
		c.errorf(config.CodeRewrite, path+".rewrite", "is not allowed beside %s; remove it", own)
	}
}

// destinations checks an HTTP route's destinations and what of their weights adds up.
func (c *checker) destinations(path string, list []*networking.HTTPRouteDestination) {
	weights := make([]int32, len(list))
	for i, d := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		c.destination(p+".destination", d.Destination)
		c.headers(p+".headers", d.Headers)
		weights[i] = d.Weight
	}
	c.weights(path, weights)
}

func (c *checker) weights(path string, weights []int32) {
	total := int64(0)
	for i, w := range weights {
		if w < 0 {
			c.errorf(config.CodeWeight, fmt.Sprintf("%s[%d].weight", path, i), "%d is negative; allowed: 0 or more", w)
		}
		total += int64(w)
	}
	if total > math.MaxUint32 {
		c.errorf(config.CodeWeight, path, "the weights add up to %d; allowed: %d together", total, uint32(math.MaxUint32))
	}
	if len(weights) > 1 && total == 0 {
		c.errorf(config.CodeWeight, path, "the weights add up to 0; give at least one above it")
	}
}

// delegate: istiod looks at neither name nor namespace; one that can't be is never found.
func (c *checker) delegate(path string, d *networking.Delegate) {
	if !isLabelValue(d.Name) {
		c.warnf(config.CodeDelegate, path+".name", "%q is not a VirtualService's name, so this delegates to nothing", d.Name)
	}
	if d.Namespace != "" && !isLabel(d.Namespace) {
		c.warnf(config.CodeDelegate, path+".namespace", "%q is not a namespace, so this delegates to nothing", d.Namespace)
	}
}

func (c *checker) destination(path string, d *networking.Destination) {
	if d == nil {
		c.errorf(config.CodeDestination, path, "is missing")
		return
	}
	switch {
	case d.Host == "*":
		c.errorf(config.CodeDestination, path+".host", "\"*\" is no destination; name a host")
	default:
		if err := checkDomain(d.Host, true); err != nil {
			c.errorf(config.CodeDestination, path+".host", "%v", err)
		}
	}
	if d.Subset != "" && !isLabel(d.Subset) {
		c.errorf(config.CodeDestination, path+".subset", "%q is not a subset's name", d.Subset)
	}
	if d.Port != nil {
		c.port(config.CodeDestination, path+".port.number", d.Port.Number)
	}
}

// retryOn are the words that istiod accepts (pkg/config/validation/agent: supportedRetryOnPolicies); HTTP statuses may
// stand among them.
var retryOn = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
	"retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func (c *checker) retries(path string, r *networking.HTTPRetry) {
	if r == nil {
		return
	}
	if r.Attempts < 0 {
		c.errorf(config.CodeRetries, path+".attempts", "%d is negative; allowed: 0 or more", r.Attempts)
	}
	if r.Attempts == 0 {
		switch {
		case r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil:
			c.errorf(config.CodeRetries, path+".attempts", "0 turns retries off, so that the other fields are without effect; remove them or give attempts")
		case r.Backoff != nil || r.RetryIgnorePreviousHosts != nil:
			c.warnf(config.CodeRetries, path+".attempts", "0 turns retries off, so that the other fields are without effect; remove them or give attempts")
		}
	}
	c.duration(config.CodeRetries, path+".perTryTimeout", r.PerTryTimeout)
	c.duration(config.CodeRetries, path+".backoff", r.Backoff)
	if r.RetryOn == "" {
		return
	}
	for _, word := range strings.Split(r.RetryOn, ",") {
		n, err := strconv.Atoi(word)
		switch plain := strings.TrimSpace(word); {
		case err == nil && http.StatusText(n) != "", slices.Contains(retryOn, word):
		case plain != word && slices.Contains(retryOn, plain):
			c.errorf(config.CodeRetries, path+".retryOn", "%q has a space in it, which istiod does not take; write %q", word, plain)
		default:
			c.errorf(config.CodeRetries, path+".retryOn", "%q is unknown%s; allowed: HTTP statuses that have a name, and %s", word, config.DidYouMean(plain, retryOn), strings.Join(retryOn, ", "))
		}
	}
}
