package validate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
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
	for i, h := range vs.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		if h == "*" {
			c.errorf(config.CodeVSHost, path, "\"*\" is allowed at gateways only; name a host")
		} else if err := checkDomain(h, true); err != nil && !isIP(h) {
			c.errorf(config.CodeVSHost, path, "%v", err)
		}
		if slices.Contains(vs.Hosts[:i], h) {
			c.errorf(config.CodeVSHost, path, "%q stands there twice", h)
		}
	}
	c.exportTo(vs.ExportTo)
	if len(vs.Http)+len(vs.Tcp)+len(vs.Tls) == 0 {
		c.errorf(config.CodeNoRoute, "spec", "has no route; give http, tls or tcp")
	}
	delegate := len(vs.Hosts) == 0
	if delegate && len(vs.Tcp)+len(vs.Tls) > 0 {
		c.errorf(config.CodeVSHost, "spec", "has no hosts, so it is one that others delegate to, which can have http routes only; give hosts, or remove tls and tcp")
	}
	for i, r := range vs.Http {
		c.httpRoute(fmt.Sprintf("spec.http[%d]", i), r, delegate)
	}
	c.unreachableHTTP(vs.Http)
	for i, r := range vs.Tls {
		c.tlsRoute(fmt.Sprintf("spec.tls[%d]", i), r, vs.Hosts)
	}
	for i, r := range vs.Tcp {
		c.tcpRoute(fmt.Sprintf("spec.tcp[%d]", i), r)
	}
}

func (c *checker) httpRoute(path string, r *networking.HTTPRoute, isDelegate bool) {
	kinds := 0
	for _, there := range []bool{len(r.Route) > 0, r.Redirect != nil, r.DirectResponse != nil, r.Delegate != nil} {
		if there {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		c.errorf(config.CodeNoRoute, path, "leads nowhere; give route, redirect, directResponse or delegate")
	case kinds > 1:
		c.errorf(config.CodeNoRoute, path, "leads to several: route, redirect, directResponse and delegate exclude each other")
	}
	for i, m := range r.Match {
		c.httpMatch(fmt.Sprintf("%s.match[%d]", path, i), m)
	}
	c.destinations(path+".route", r.Route)
	if r.Delegate != nil {
		c.delegate(path+".delegate", r.Delegate, isDelegate)
	}
	c.redirect(path+".redirect", r.Redirect)
	c.directResponse(path+".directResponse", r.DirectResponse)
	c.rewrite(path+".rewrite", r)
	c.durationOrOff(config.CodeTimeout, path+".timeout", r.Timeout)
	c.retries(path+".retries", r.Retries)
	c.fault(path+".fault", r.Fault)
	c.mirrors(path, r)
	c.cors(path+".corsPolicy", r.CorsPolicy)
	c.headers(path+".headers", r.Headers)
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
	if len(weights) > 1 && total == 0 {
		c.errorf(config.CodeWeight, path, "the weights add up to 0; give at least one above it")
	}
}

func (c *checker) delegate(path string, d *networking.Delegate, inDelegate bool) {
	if inDelegate {
		c.errorf(config.CodeDelegate, path, "a VirtualService that others delegate to (it has no hosts) can't delegate itself")
	}
	if !isLabelValue(d.Name) {
		c.errorf(config.CodeDelegate, path+".name", "%q is not a VirtualService's name", d.Name)
	}
	if d.Namespace != "" && !isLabel(d.Namespace) {
		c.errorf(config.CodeDelegate, path+".namespace", "%q is not a namespace", d.Namespace)
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
	if only := (&networking.HTTPRetry{}); r.Attempts == 0 && !proto.Equal(r, only) {
		c.errorf(config.CodeRetries, path+".attempts", "0 turns retries off, so that the other fields are without effect; remove them or give attempts")
	}
	c.duration(config.CodeRetries, path+".perTryTimeout", r.PerTryTimeout)
	c.duration(config.CodeRetries, path+".backoff", r.Backoff)
	if r.RetryOn == "" {
		return
	}
	for _, word := range strings.Split(r.RetryOn, ",") {
		word = strings.TrimSpace(word)
		if n, err := strconv.Atoi(word); err == nil && n >= 100 && n <= 599 {
			continue
		}
		if !slices.Contains(retryOn, word) {
			c.errorf(config.CodeRetries, path+".retryOn", "%q is unknown; allowed: HTTP statuses and %s", word, strings.Join(retryOn, ", "))
		}
	}
}
