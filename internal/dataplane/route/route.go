// Package route turns Envoy's RouteConfiguration into a table that is matched without allocating. Matching is pure: the
// same request with the same random value always gets the same route.
//
// A Route holds all that the filters and the router do for its requests, compiled: what they change in heads (Mutations),
// where they lead (weighted clusters are Routes of their own), redirects, faults, CORS, mirrors, hash policies.
package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// Table is one compiled RouteConfiguration.
type Table struct {
	Name       string
	ignorePort bool
	exact      map[string]*host // by lower-case domain
	suffix     []wildcards      // "*.example.com", longest first
	prefix     []wildcards      // "example.*", longest first
	any        *host            // "*"

	made map[*routev3.VirtualHost]*host // by the message that each was compiled from
	head *routev3.RouteConfiguration    // the configuration without its virtual hosts
	// foreign and refused are Compile's.
	foreign bool
	refused []error
	from    *routev3.RouteConfiguration
}

// wildcards are the wildcard domains whose fixed part has one length.
type wildcards struct {
	length int
	byPart map[string]*host
}

type host struct {
	name    string
	routes  []*Route
	refused []error
}

// Route is where a request goes. It is immutable.
type Route struct {
	Name    string
	Host    string // name of the virtual host
	Cluster string
	// Direct answers without an upstream; nil otherwise. Redirect likewise.
	Direct   *Direct
	Redirect *Redirect
	// CatchAll is true on the virtual host "*": nothing declared the host.
	CatchAll bool
	// Plain: the request goes to its cluster, or is answered, with nothing before it and nothing changed but Host.
	Plain bool

	Timeout     time.Duration // from the request's end to the response's; 0: none
	MaxDuration time.Duration // max_stream_duration; 0: none
	// Idle is the route's own idle_timeout, if HasIdle; 0: none.
	Idle    time.Duration
	HasIdle bool

	Retry           Retry
	HostRewrite     string // Host sent upstream; "": as received
	AutoHostRewrite bool   // Host is the chosen endpoint's name
	Path            *PathRewrite
	Request         Mutations
	Response        Mutations
	AttemptCount    bool // include_request_attempt_count
	// MissingCluster is the status where the cluster does not exist (cluster_not_found_response_code).
	MissingCluster int

	CORS    *CORS
	Fault   *Fault
	Mirrors []Mirror
	Hash    []HashPolicy

	match    match
	weighted []weighted
	total    uint64 // of the weights
}

// weighted is one of several clusters of a route: the requests whose random value, modulo the total, is below end and not
// below the one before.
type weighted struct {
	end   uint64
	route *Route
}

// Direct is a direct_response.
type Direct struct {
	Status int
	Body   string
}

// Query is what a route is chosen by. It may be used for one request after another.
type Query struct {
	// Authority is the request's Host, or what stands for it; Path its path and query.
	Authority, Path []byte
	// Head has the method and the fields; nil: none.
	Head *http1.Head
	// Random decides about fractions and weights: one value for all that is asked about a request, as in Envoy.
	Random uint64

	space []byte // for values of several fields
}

// Compile makes a Table. A route that can't be served answers 501, alone: refused names each and why. foreign says that
// the snapshot is not of detour's own compiler, so that nothing marks the routes without retries of their own.
func Compile(rc *routev3.RouteConfiguration, foreign bool) (t *Table, refused []error) {
	return Recompile(nil, rc, foreign)
}

// Recompile is Compile, and takes over from an earlier Table of the same name the virtual hosts whose messages are the same
// pointers. old may be nil.
func Recompile(old *Table, rc *routev3.RouteConfiguration, foreign bool) (t *Table, refused []error) {
	if old != nil && old.from == rc && old.foreign == foreign {
		return old, old.refused
	}
	domains := len(rc.GetVirtualHosts())
	if old != nil {
		domains = len(old.exact) // mostly as many as last time
	}
	t = &Table{made: make(map[*routev3.VirtualHost]*host, len(rc.GetVirtualHosts())), head: withoutHosts(rc), foreign: foreign, from: rc,
		Name: rc.GetName(), ignorePort: rc.GetIgnorePortInHostMatching(), exact: make(map[string]*host, domains)}
	scope := configScope(rc, foreign)
	keep := old != nil && old.foreign == foreign && proto.Equal(old.head, t.head)
	for _, vh := range rc.GetVirtualHosts() {
		var h *host
		if keep {
			h = old.made[vh]
		}
		if h == nil {
			h = compileHost(vh, scope)
		}
		t.made[vh] = h
		refused = append(refused, h.refused...)
		for _, d := range vh.GetDomains() {
			if !t.add(strings.ToLower(d), h) {
				refused = append(refused, fmt.Errorf("virtual_hosts[%s]: the domain %q has a virtual host already", vh.GetName(), d))
			}
		}
	}
	longestFirst := func(a, b wildcards) int { return b.length - a.length }
	slices.SortFunc(t.suffix, longestFirst)
	slices.SortFunc(t.prefix, longestFirst)
	t.refused = refused
	return t, refused
}

// withoutHosts gives all that a virtual host's routes inherit from their configuration.
func withoutHosts(rc *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	out := &routev3.RouteConfiguration{}
	rc.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Name() != "virtual_hosts" {
			out.ProtoReflect().Set(fd, v)
		}
		return true
	})
	return out
}

func compileHost(vh *routev3.VirtualHost, s scope) *host {
	h := &host{name: vh.GetName()}
	inner := s.virtualHost(vh)
	for i, r := range vh.GetRoutes() {
		c, err := compileRoute(r, inner)
		if err != nil {
			h.refused = append(h.refused, fmt.Errorf("virtual_hosts[%s].routes[%d]: %w", vh.GetName(), i, err))
			c = c.refuse(err)
		}
		c.belong(h.name, slices.Contains(vh.GetDomains(), "*"))
		h.routes = append(h.routes, c)
	}
	return h
}

// refuse gives what stands in a refused route's place: it takes the requests that the route would take, as far as its
// match could be read, so that none of them goes where a later route leads.
func (r *Route) refuse(err error) *Route {
	return &Route{Name: r.Name, match: r.match, Plain: true,
		Direct: &Direct{Status: 501, Body: "detour: not served: " + err.Error() + "\n"}}
}

func (r *Route) belong(virtualHost string, catchAll bool) {
	r.Host, r.CatchAll = virtualHost, catchAll
	for i := range r.weighted {
		r.weighted[i].route.belong(virtualHost, catchAll)
	}
}

// add says whether the domain was free.
func (t *Table) add(domain string, h *host) bool {
	switch {
	case domain == "*":
		if t.any != nil {
			return false
		}
		t.any = h
	case strings.HasPrefix(domain, "*"):
		return addWildcard(&t.suffix, domain[1:], h)
	case strings.HasSuffix(domain, "*"):
		return addWildcard(&t.prefix, domain[:len(domain)-1], h)
	case t.exact[domain] != nil:
		return false
	default:
		t.exact[domain] = h
	}
	return true
}

func addWildcard(list *[]wildcards, part string, h *host) bool {
	i := slices.IndexFunc(*list, func(w wildcards) bool { return w.length == len(part) })
	if i < 0 {
		i = len(*list)
		*list = append(*list, wildcards{len(part), map[string]*host{}})
	}
	if (*list)[i].byPart[part] != nil {
		return false
	}
	(*list)[i].byPart[part] = h
	return true
}

// Match finds the route of a request, weighted clusters included. It gives nil when there is none. Domains are searched as
// in Envoy (VirtualHost.domains): exact, longest suffix wildcard, longest prefix wildcard, "*".
func (t *Table) Match(q *Query) *Route {
	h := t.find(q.Authority)
	if h == nil {
		return nil
	}
	path := WithoutQuery(q.Path)
	for _, r := range h.routes {
		if r.match.matches(q, path) {
			return r.choose(q.Random)
		}
	}
	return nil
}

// choose gives the route of the cluster that a random value falls on (WeightedCluster).
func (r *Route) choose(random uint64) *Route {
	if r.total == 0 {
		return r
	}
	at := random % r.total
	for i := range r.weighted {
		if at < r.weighted[i].end {
			return r.weighted[i].route
		}
	}
	return r // not reached: the last end is the total
}

// WithoutQuery cuts query and fragment off a path.
func WithoutQuery(path []byte) []byte {
	for i, c := range path {
		if c == '?' || c == '#' {
			return path[:i]
		}
	}
	return path
}

// Declared says whether a virtual host other than "*" has the authority.
func (t *Table) Declared(authority []byte) bool {
	h := t.find(authority)
	return h != nil && h != t.any
}

func (t *Table) find(authority []byte) *host {
	var buf [256]byte
	name := lower(buf[:0], authority)
	if t.ignorePort {
		name = withoutPort(name)
	}
	if h := t.exact[string(name)]; h != nil {
		return h
	}
	for i := range t.suffix {
		if w := &t.suffix[i]; len(name) > w.length {
			if h := w.byPart[string(name[len(name)-w.length:])]; h != nil {
				return h
			}
		}
	}
	for i := range t.prefix {
		if w := &t.prefix[i]; len(name) > w.length {
			if h := w.byPart[string(name[:w.length])]; h != nil {
				return h
			}
		}
	}
	return t.any
}

func lower(dst, s []byte) []byte {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// withoutPort cuts ":port" off, and leaves an IPv6 address in its brackets.
func withoutPort(name []byte) []byte {
	for i := len(name) - 1; i >= 0; i-- {
		switch c := name[i]; {
		case c == ':':
			return name[:i]
		case c < '0' || c > '9':
			return name
		}
	}
	return name
}

func inline(d *corev3.DataSource) string {
	if b := d.GetInlineBytes(); b != nil {
		return string(b)
	}
	return d.GetInlineString()
}

// Port gives the port of an authority, or def where it names none.
func Port(authority []byte, def uint16) uint16 {
	host := withoutPort(authority)
	if len(host) == len(authority) {
		return def
	}
	n, err := strconv.ParseUint(string(authority[len(host)+1:]), 10, 16)
	if err != nil {
		return def
	}
	return uint16(n)
}
