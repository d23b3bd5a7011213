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

// virtualService follows istiod's ValidateVirtualService as far as plain routes and retries go (SEMANTICS §1.6).
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
	catchAll := -1
	for i, r := range vs.Http {
		path := fmt.Sprintf("spec.http[%d]", i)
		if catchAll >= 0 {
			c.warnf(config.CodeUnreachable, path, "is never reached: spec.http[%d] takes every request before it", catchAll)
		} else if takesAll(r) {
			catchAll = i
		}
		c.httpRoute(path, r)
	}
}

// takesAll tells whether no request gets past the rule.
func takesAll(r *networking.HTTPRoute) bool {
	return len(r.Match) == 0 || slices.ContainsFunc(r.Match, catchesAll)
}

// catchesAll tells whether a match excludes nothing: it is empty but for its name, or asks for prefix "/" alone.
func catchesAll(m *networking.HTTPMatchRequest) bool {
	rest := networking.HTTPMatchRequest{Name: m.Name, StatPrefix: m.StatPrefix, Uri: m.Uri}
	return proto.Equal(m, &rest) && (m.Uri == nil || m.Uri.GetPrefix() == "/")
}

func (c *checker) httpRoute(path string, r *networking.HTTPRoute) {
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
	total := int64(0)
	for i, d := range r.Route {
		p := fmt.Sprintf("%s.route[%d]", path, i)
		c.destination(p+".destination", d.Destination)
		if d.Weight < 0 {
			c.errorf(config.CodeWeight, p+".weight", "%d is negative; allowed: 0 or more", d.Weight)
		}
		total += int64(d.Weight)
	}
	if len(r.Route) > 1 && total == 0 {
		c.errorf(config.CodeWeight, path+".route", "the weights add up to 0; give at least one above it")
	}
	c.retries(path+".retries", r.Retries)
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
