// Package route turns Envoy's RouteConfiguration into a table that is matched without allocating. Matching is pure: the
// same request always gets the same route.
package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"detour.dev/detour/internal/xds"
)

// Table is one compiled RouteConfiguration.
type Table struct {
	Name       string
	ignorePort bool
	exact      map[string]*host // by lower-case domain
	suffix     []wildcard       // "*.example.com", longest first
	prefix     []wildcard       // "example.*", longest first
	any        *host            // "*"
}

type wildcard struct {
	part string
	host *host
}

type host struct {
	name   string
	routes []*Route
}

// Route is where a request goes.
type Route struct {
	Name    string
	Host    string // name of the virtual host
	Cluster string
	// Direct answers without an upstream; nil otherwise.
	Direct *Direct
	// CatchAll is true on the virtual host "*": nothing declared the host.
	CatchAll bool

	Timeout         time.Duration // 0: none
	PerTryTimeout   time.Duration // 0: none
	Retry           Retry
	HostRewrite     string // Host sent upstream; "": as received
	AutoHostRewrite bool   // Host is the chosen endpoint's name

	path     string
	pathKind pathKind
}

// Direct is a direct_response.
type Direct struct {
	Status int
	Body   string
}

type pathKind uint8

const (
	prefixPath pathKind = iota
	exactPath
)

// Compile makes a Table. A route that can't be served answers 501, alone: refused names each and why. foreign says that
// the snapshot is not of detour's own compiler, so that nothing marks the routes without retries of their own.
func Compile(rc *routev3.RouteConfiguration, foreign bool) (t *Table, refused []error) {
	t = &Table{Name: rc.GetName(), ignorePort: rc.GetIgnorePortInHostMatching(), exact: map[string]*host{}}
	for _, vh := range rc.GetVirtualHosts() {
		h := &host{name: vh.GetName()}
		for i, r := range vh.GetRoutes() {
			c, err := compileRoute(r, foreign)
			if err != nil {
				refused = append(refused, fmt.Errorf("virtual_hosts[%s].routes[%d]: %w", vh.GetName(), i, err))
				c = c.refuse(err)
			}
			c.Host = h.name
			c.CatchAll = slices.Contains(vh.GetDomains(), "*")
			h.routes = append(h.routes, c)
		}
		for _, d := range vh.GetDomains() {
			t.add(strings.ToLower(d), h)
		}
	}
	longestFirst := func(a, b wildcard) int { return len(b.part) - len(a.part) }
	slices.SortStableFunc(t.suffix, longestFirst)
	slices.SortStableFunc(t.prefix, longestFirst)
	return t, refused
}

// refuse gives what stands in a refused route's place: it takes the requests that the route would take, as far as its
// match could be read, so that none of them goes where a later route leads.
func (r *Route) refuse(err error) *Route {
	return &Route{Name: r.Name, path: r.path, pathKind: r.pathKind,
		Direct: &Direct{Status: 501, Body: "detour: not served: " + err.Error() + "\n"}}
}

func (t *Table) add(domain string, h *host) {
	switch {
	case domain == "*":
		t.any = h
	case strings.HasPrefix(domain, "*"):
		t.suffix = append(t.suffix, wildcard{domain[1:], h})
	case strings.HasSuffix(domain, "*"):
		t.prefix = append(t.prefix, wildcard{domain[:len(domain)-1], h})
	default:
		t.exact[domain] = h
	}
}

// Match finds the route of a request. It gives nil when there is none. Domains are searched as in Envoy
// (VirtualHost.domains): exact, longest suffix wildcard, longest prefix wildcard, "*".
func (t *Table) Match(authority, path []byte) *Route {
	h := t.find(authority)
	if h == nil {
		return nil
	}
	end := len(path)
	for i, c := range path {
		if c == '?' || c == '#' {
			end = i
			break
		}
	}
	for _, r := range h.routes {
		if r.matches(path[:end]) {
			return r
		}
	}
	return nil
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
		if w := &t.suffix[i]; len(name) > len(w.part) && string(name[len(name)-len(w.part):]) == w.part {
			return w.host
		}
	}
	for i := range t.prefix {
		if w := &t.prefix[i]; len(name) > len(w.part) && string(name[:len(w.part)]) == w.part {
			return w.host
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

func (r *Route) matches(path []byte) bool {
	switch r.pathKind {
	case exactPath:
		return string(path) == r.path
	}
	if string(path) == "*" { // OPTIONS * has no path and fits every prefix
		return true
	}
	return len(path) >= len(r.path) && string(path[:len(r.path)]) == r.path
}

// compileRoute gives, beside an error, what of the match could be read.
func compileRoute(r *routev3.Route, foreign bool) (*Route, error) {
	out := &Route{Name: r.GetName()}
	if err := out.compileMatch(r.GetMatch()); err != nil {
		return out, err
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_DirectResponse:
		out.Direct = &Direct{Status: int(a.DirectResponse.GetStatus()), Body: inline(a.DirectResponse.GetBody())}
		return out, nil
	case *routev3.Route_Route:
		return out, out.compileAction(a.Route, r.GetMetadata(), foreign)
	}
	return out, fmt.Errorf("action %T is not supported yet", r.GetAction())
}

func (r *Route) compileMatch(m *routev3.RouteMatch) error {
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		r.path = p.Prefix
	case *routev3.RouteMatch_Path:
		r.path, r.pathKind = p.Path, exactPath
	default:
		return fmt.Errorf("match: path specifier %T is not supported yet", m.GetPathSpecifier())
	}
	if len(m.GetHeaders()) > 0 || len(m.GetQueryParameters()) > 0 || m.GetRuntimeFraction() != nil {
		return fmt.Errorf("match: headers, query_parameters and runtime_fraction are not supported yet")
	}
	return nil
}

func (r *Route) compileAction(a *routev3.RouteAction, meta *corev3.Metadata, foreign bool) error {
	r.Cluster = a.GetCluster()
	if r.Cluster == "" {
		return fmt.Errorf("route: cluster specifier %T is not supported yet", a.GetClusterSpecifier())
	}
	r.Timeout = a.GetTimeout().AsDuration()
	r.HostRewrite = a.GetHostRewriteLiteral()
	r.AutoHostRewrite = a.GetAutoHostRewrite().GetValue()
	if a.GetRetryPolicy().GetPerTryTimeout() != nil {
		r.PerTryTimeout = a.GetRetryPolicy().GetPerTryTimeout().AsDuration()
	}
	marked := meta.GetFilterMetadata()[xds.MetadataKey].GetFields()[xds.MetaDefaultRetry].GetBoolValue()
	var err error
	r.Retry, err = compileRetry(a.GetRetryPolicy(), marked, foreign)
	return err
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
