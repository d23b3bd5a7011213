package translate

import (
	"slices"
	"strings"

	"detour.dev/detour/internal/config"
)

// hostIndex finds the objects that are about a host without looking at all of them.
type hostIndex struct {
	exact     map[string][]indexed
	wildcards []indexed // most specific first; equal ones in the order they were added
}

// indexed is an object under one of the hosts it names.
type indexed struct {
	host   string // resolved
	object *config.Object
}

// add enters an object under a host. Call sort once all are in.
func (x *hostIndex) add(host string, o *config.Object) {
	e := indexed{resolveHost(host), o}
	if isWildcard(e.host) {
		x.wildcards = append(x.wildcards, e)
		return
	}
	if x.exact == nil {
		x.exact = map[string][]indexed{}
	}
	x.exact[e.host] = append(x.exact[e.host], e)
}

func (x *hostIndex) sort() {
	slices.SortStableFunc(x.wildcards, func(a, b indexed) int {
		switch {
		case moreSpecific(a.host, b.host):
			return -1
		case moreSpecific(b.host, a.host):
			return 1
		}
		return strings.Compare(a.host, b.host)
	})
}

// replace puts another version of an object in the place of every one with its key.
func (x *hostIndex) replace(host string, o *config.Object) {
	list := x.exact[resolveHost(host)]
	if isWildcard(host) {
		list = x.wildcards
	}
	for i := range list {
		if list[i].object.Key == o.Key {
			list[i].object = o
		}
	}
}

// covering gives what stands under hosts that cover this one, most specific host first, equal hosts in the order they were
// added.
func (x *hostIndex) covering(host string) []indexed {
	out := slices.Clone(x.exact[host])
	for _, e := range x.wildcards {
		if hostMatches(e.host, host) {
			out = append(out, e)
		}
	}
	return out
}
