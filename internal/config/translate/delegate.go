package translate

//lint:file-ignore SA1019 people's files still use the deprecated fields

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// What istiod does (model/virtualservice.go): a VirtualService without hosts is a delegate. A rule that names one is
// replaced by the delegate's rules, each with the root's match added to its own and the root's settings where it has none.
// A delegate's rule whose match can't lie within the root's is left out, and so is a rule whose delegate does not exist or
// is not exported to the root's namespace. Delegation goes one level deep.

// delegation is what a VirtualService came to with its delegates in place.
type delegation struct {
	delegates map[config.Key]*config.Object // what it named, and what was there
	merged    *config.Object
	issues    []config.Issue
}

// merged is withDelegates, done once as long as the delegates are the same.
func (c *compiler) merged(o *config.Object) *config.Object {
	if c.memo == nil || !slices.ContainsFunc(o.Spec.(*networking.VirtualService).Http, func(r *networking.HTTPRoute) bool { return r.Delegate != nil }) {
		return c.withDelegates(o)
	}
	d := c.memo.delegations[o]
	if d != nil {
		for k, was := range d.delegates {
			if c.set.Get(k) != was {
				d = nil
				break
			}
		}
	}
	if d == nil {
		d = &delegation{delegates: map[config.Key]*config.Object{}}
		u := c.compile(identity{}, func() { d.merged = c.withDelegates(o) })
		d.issues = u.issues
		for _, r := range o.Spec.(*networking.VirtualService).Http {
			if r.Delegate != nil {
				k := delegateKey(o, r.Delegate)
				d.delegates[k] = c.set.Get(k)
			}
		}
	}
	for _, i := range d.issues {
		c.report(i)
	}
	c.delegations[o] = d
	return d.merged
}

func delegateKey(o *config.Object, d *networking.Delegate) config.Key {
	key := config.Key{Kind: config.VirtualService, Namespace: d.Namespace, Name: d.Name}
	if key.Namespace == "" {
		key.Namespace = o.Namespace
	}
	return key
}

// withDelegates gives a VirtualService with its delegates' rules in place; the object itself where it names none.
func (c *compiler) withDelegates(o *config.Object) *config.Object {
	vs := o.Spec.(*networking.VirtualService)
	if !slices.ContainsFunc(vs.Http, func(r *networking.HTTPRoute) bool { return r.Delegate != nil }) {
		return o
	}
	merged := proto.CloneOf(vs)
	merged.Http = nil
	for i, root := range vs.Http {
		if root.Delegate == nil {
			merged.Http = append(merged.Http, root)
			continue
		}
		for _, rule := range c.delegateRules(o, i, root) {
			if r := mergeRule(root, rule); r != nil {
				merged.Http = append(merged.Http, r)
			}
		}
	}
	out := *o
	out.Spec = merged
	return &out
}

// delegateRules gives the rules that a root's rule hands over to.
func (c *compiler) delegateRules(o *config.Object, index int, root *networking.HTTPRoute) []*networking.HTTPRoute {
	key := delegateKey(o, root.Delegate)
	field := func(what string) []*networking.HTTPRoute {
		c.warn(o, CodeNoDelegate, fmt.Sprintf("spec.http[%d].delegate", index), "%s %s, so the rule leads nowhere and is left out", key, what)
		return nil
	}
	d := c.set.Get(key)
	if d == nil {
		return field("does not exist")
	}
	vs := d.Spec.(*networking.VirtualService)
	switch {
	case len(vs.Hosts) > 0:
		return field("has hosts of its own and is no delegate")
	case !exportedTo(vs.ExportTo, c.mesh.routerExportTo, d.Namespace, o.Namespace):
		return field("is not exported to namespace " + o.Namespace)
	}
	return vs.Http
}

// mergeRule puts a delegate's rule into the root's; nil where their matches exclude each other.
func mergeRule(root, delegate *networking.HTTPRoute) *networking.HTTPRoute {
	match, ok := mergeMatches(root.Match, delegate.Match)
	if !ok {
		return nil
	}
	out := proto.CloneOf(delegate)
	out.Match = match
	out.Name = joinNames(root.Name, delegate.Name)
	replaceUnset(&out.Rewrite, root.Rewrite)
	replaceUnset(&out.DirectResponse, root.DirectResponse)
	replaceUnset(&out.Timeout, root.Timeout)
	replaceUnset(&out.Retries, root.Retries)
	replaceUnset(&out.Fault, root.Fault)
	replaceUnset(&out.Mirror, root.Mirror)
	replaceUnset(&out.MirrorPercent, root.MirrorPercent)
	replaceUnset(&out.MirrorPercentage, root.MirrorPercentage)
	replaceUnset(&out.CorsPolicy, root.CorsPolicy)
	replaceUnset(&out.Headers, root.Headers)
	if out.Mirrors == nil {
		out.Mirrors = root.Mirrors
	}
	return out
}

func replaceUnset[T any](dst **T, src *T) {
	if *dst == nil {
		*dst = src
	}
}

func joinNames(root, delegate string) string {
	if root == "" || delegate == "" {
		return root + delegate
	}
	return root + "-" + delegate
}

// mergeMatches combines every match of the delegate with every one of the root that it can lie within; a delegate's match
// that fits none of them makes the whole rule unusable.
func mergeMatches(root, delegate []*networking.HTTPMatchRequest) ([]*networking.HTTPMatchRequest, bool) {
	if len(root) == 0 {
		return delegate, true
	}
	if len(delegate) == 0 {
		return root, true
	}
	var out []*networking.HTTPMatchRequest
	for _, d := range delegate {
		before := len(out)
		for _, r := range root {
			if !excludes(r, d) {
				out = append(out, mergeMatch(r, d))
			}
		}
		if len(out) == before {
			return nil, false
		}
	}
	return out, true
}

func mergeMatch(root, delegate *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
	out := proto.CloneOf(delegate)
	out.Name = joinNames(root.Name, delegate.Name)
	replaceUnset(&out.Uri, root.Uri)
	replaceUnset(&out.Scheme, root.Scheme)
	replaceUnset(&out.Method, root.Method)
	replaceUnset(&out.Authority, root.Authority)
	out.Headers = union(root.Headers, delegate.Headers)
	out.WithoutHeaders = union(root.WithoutHeaders, delegate.WithoutHeaders)
	out.QueryParams = union(root.QueryParams, delegate.QueryParams)
	out.SourceLabels = union(root.SourceLabels, delegate.SourceLabels)
	if out.Port == 0 {
		out.Port = root.Port
	}
	if out.SourceNamespace == "" {
		out.SourceNamespace = root.SourceNamespace
	}
	if len(out.Gateways) == 0 {
		out.Gateways = root.Gateways
	}
	if out.StatPrefix == "" {
		out.StatPrefix = root.StatPrefix
	}
	return out
}

// union joins two maps; the second's values count where both have one.
func union[V any](a, b map[string]V) map[string]V {
	if len(a) == 0 {
		return b
	}
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// excludes tells whether a delegate's match can't lie within a root's.
func excludes(root, leaf *networking.HTTPMatchRequest) bool {
	for _, pair := range [][2]*networking.StringMatch{{root.Uri, leaf.Uri}, {root.Scheme, leaf.Scheme}, {root.Method, leaf.Method}, {root.Authority, leaf.Authority}} {
		if outside(pair[0], pair[1]) {
			return true
		}
	}
	for _, pair := range [][2]map[string]*networking.StringMatch{
		{root.Headers, leaf.Headers}, {root.WithoutHeaders, leaf.WithoutHeaders}, {root.QueryParams, leaf.QueryParams},
	} {
		for name, m := range pair[1] {
			if outside(pair[0][name], m) {
				return true
			}
		}
	}
	for k, v := range leaf.SourceLabels {
		if have, ok := root.SourceLabels[k]; ok && have != v {
			return true
		}
	}
	return root.IgnoreUriCase != leaf.IgnoreUriCase ||
		root.Port > 0 && leaf.Port > 0 && root.Port != leaf.Port ||
		root.SourceNamespace != "" && leaf.SourceNamespace != root.SourceNamespace ||
		gatewaysOutside(root.Gateways, leaf.Gateways)
}

func gatewaysOutside(root, leaf []string) bool {
	return len(root) > 0 && (len(leaf) > len(root) || slices.ContainsFunc(leaf, func(g string) bool { return !slices.Contains(root, g) }))
}

// outside tells whether what leaf matches can't lie within what root matches. A regular expression on either side lies
// within nothing, because nobody can tell.
func outside(root, leaf *networking.StringMatch) bool {
	if root == nil || leaf == nil {
		return false
	}
	switch r := root.MatchType.(type) {
	case *networking.StringMatch_Exact:
		return leaf.GetExact() != r.Exact || leaf.GetPrefix() != ""
	case *networking.StringMatch_Prefix:
		switch l := leaf.MatchType.(type) {
		case *networking.StringMatch_Prefix:
			return !strings.HasPrefix(l.Prefix, r.Prefix)
		case *networking.StringMatch_Exact:
			return !strings.HasPrefix(l.Exact, r.Prefix)
		}
	}
	return true
}
