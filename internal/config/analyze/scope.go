package analyze

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// relevant leaves out what people's meshes have and detour has no business with: kinds that say nothing about outbound
// traffic, and "not supported yet" or "ignored" about DestinationRules and VirtualServices of hosts that no ServiceEntry here
// declares. Everything else stays; an object whose hosts can't be read counts as declared. It also gives the number of
// objects that were left out.
func relevant(set *config.Set, issues []config.Issue) ([]config.Issue, int) {
	declared := declaredHosts(set)
	about := map[config.Key][]string{}
	for _, r := range set.Refused() {
		about[r.Key] = append(about[r.Key], r.Hosts...)
	}
	var out []config.Issue
	ignored := map[config.Key]bool{}
	for _, i := range issues {
		if i.Code == config.CodeUnsupported || i.Code == config.CodeKindIgnored {
			traffic := i.Object.Kind == config.DestinationRule || i.Object.Kind == config.VirtualService
			hosts := hostsOf(set, i.Object, about)
			undeclared := traffic && len(hosts) > 0 && !slices.ContainsFunc(hosts, declared)
			if undeclared || i.Code == config.CodeKindIgnored && len(hosts) == 0 {
				ignored[i.Object] = true
				continue
			}
		}
		out = append(out, i)
	}
	return out, len(ignored)
}

// hostsOf gives the hosts a DestinationRule or VirtualService is about.
func hostsOf(set *config.Set, k config.Key, refused map[config.Key][]string) []string {
	if hosts := refused[k]; len(hosts) > 0 {
		return hosts
	}
	o := set.Get(k)
	if o == nil {
		return nil
	}
	switch spec := o.Spec.(type) {
	case *networking.DestinationRule:
		return []string{spec.Host}
	case *networking.VirtualService:
		return spec.Hosts
	}
	return nil
}

// declaredHosts gives a test for whether a host, which may be a wildcard, is or covers one that a ServiceEntry declares,
// refused ones among them.
func declaredHosts(set *config.Set) func(string) bool {
	exact := map[string]bool{}
	var wild []string
	add := func(h string) {
		if h = normal(h); strings.HasPrefix(h, "*") {
			wild = append(wild, h)
		} else {
			exact[h] = true
		}
	}
	for _, o := range set.All(config.ServiceEntry) {
		for _, h := range o.Spec.(*networking.ServiceEntry).Hosts {
			add(h)
		}
	}
	for _, r := range set.Refused() {
		if r.Key.Kind == config.ServiceEntry {
			for _, h := range r.Hosts {
				add(h)
			}
		}
	}
	return func(h string) bool {
		h = normal(h)
		if exact[h] || slices.ContainsFunc(wild, func(d string) bool { return covers(h, d) || covers(d, h) }) {
			return true
		}
		if strings.HasPrefix(h, "*") {
			for d := range exact {
				if covers(h, d) {
					return true
				}
			}
		}
		return false
	}
}

func normal(h string) string { return strings.TrimSuffix(strings.ToLower(h), ".") }

func covers(pattern, host string) bool {
	return pattern == host || strings.HasPrefix(pattern, "*") && strings.HasSuffix(host, pattern[1:])
}
