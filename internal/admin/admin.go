// Package admin owns the admin API: Envoy's paths and Envoy's JSON over HTTP, on a loopback address or a private unix
// socket, so that istioctl and other tools for Envoy work on detour. It knows the data plane only by the interface State.
//
// Nothing here changes state except by POST; a request whose Host is not this machine is refused, so that no web page can
// reach the API by DNS rebinding; cross-origin POSTs are refused; private keys never leave it.
package admin

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

// State is what the API shows of the process. Its methods may be called at any time, from several goroutines; what they
// return belongs to the caller, except the snapshot and what hangs from it, which nobody may change.
type State interface {
	// Snapshot gives what is in force and since when; nil before the first one.
	Snapshot() (s *xds.Snapshot, applied time.Time)
	// Clusters gives every cluster's live hosts, in the order of the clusters' names.
	Clusters() *adminv3.Clusters
	// Listeners gives the listeners that are bound.
	Listeners() *adminv3.Listeners
	// Endpoints gives what ?include_eds shows, of every cluster.
	Endpoints() []Assigned
	// Hosts gives what Envoy's form has no place for, for /detour/endpoints.
	Hosts() []Host
	// Rejected gives what was dropped, or is served in an older version than the one configured.
	Rejected() []Rejected
	// ServerState is LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING.
	ServerState() adminv3.ServerInfo_State
	// Drain stops accepting and lets what is under way finish; it returns at once.
	Drain()
	// Quit ends the process in an orderly way; it returns at once.
	Quit()
}

// Assigned is a cluster with its endpoints.
type Assigned interface {
	// EndpointsName is the cluster_name of Endpoints.
	EndpointsName() string
	// EndpointsVersion is equal (==) as long as Endpoints gives equal messages; nil where that can't be told.
	EndpointsVersion() any
	// Endpoints gives the resolved endpoints with their health.
	Endpoints() *endpointv3.ClusterLoadAssignment
}

// Host is one endpoint of one cluster, as /detour/endpoints shows it (durations in milliseconds).
type Host struct {
	Cluster string `json:"cluster"`
	Address string `json:"address"` // IP:PORT, or a socket's path
	// EjectedFor is how long the ejection has lasted, EjectedLeft how long it will at least last; both 0 when it is not
	// ejected.
	EjectedFor  int64     `json:"ejected_for_ms,omitempty"`
	EjectedLeft int64     `json:"ejected_left_ms,omitempty"`
	Ejections   uint32    `json:"ejections,omitempty"` // so far
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Rejected is one object or resource that was dropped. It appears in /config_dump as error_state.
type Rejected struct {
	// TypeURL is the xDS type concerned; empty for an object of the configuration.
	TypeURL string
	// Name is the resource's name, or "Kind namespace/name" of an object.
	Name string
	// Origin is file:line, where there is one.
	Origin string
	Reason string
	// Version is the snapshot's version that was tried, if known.
	Version string
	At      time.Time
}

// Options are what does not change while the process runs.
type Options struct {
	Version string // detour's
	Args    []string
	Node    *corev3.Node // locality, labels; may be nil
	Stats   *stats.Registry
	Level   *slog.LevelVar // of the process's log; nil: /logging changes nothing
	Log     *slog.Logger   // nil: silent
}

// Handler serves the admin API.
type Handler struct {
	state State
	opt   Options
	start time.Time
	paths map[string]path
	next  http.Handler
	texts texts
}

// path is one path of the API.
type path struct {
	post bool // changes something, so only POST will do
	help string
	f    func(*Handler, http.ResponseWriter, *http.Request)
}

// NewHandler makes the handler; it does not start anything.
func NewHandler(s State, opt Options) *Handler {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{state: s, opt: opt, start: time.Now(), paths: map[string]path{
		"/":                 {help: "this page", f: (*Handler).index},
		"/help":             {help: "this list", f: (*Handler).help},
		"/clusters":         {help: "endpoints of every cluster and their health (?format=json, ?filter=REGEX)", f: (*Handler).clusters},
		"/config_dump":      {help: "configuration in force (?include_eds, ?mask=, ?resource=, ?name_regex=)", f: (*Handler).configDump},
		"/listeners":        {help: "bound listeners (?format=json)", f: (*Handler).listeners},
		"/stats":            {help: "statistics (?format=text|json|prometheus, ?filter=REGEX, ?usedonly)", f: (*Handler).stats},
		"/stats/prometheus": {help: "statistics for Prometheus (?filter=REGEX, ?usedonly)", f: (*Handler).prometheus},
		"/ready":            {help: "200 and LIVE when it serves, else 503 and the state", f: (*Handler).ready},
		"/server_info":      {help: "version, state, uptime", f: (*Handler).serverInfo},
		"/certs":            {help: "certificates (none are shown)", f: (*Handler).certs},
		"/detour/endpoints": {help: "ejections and last errors of endpoints", f: (*Handler).endpoints},
		"/logging":          {post: true, help: "show the log level, or change it (?level=debug)", f: (*Handler).logging},
		"/drain_listeners":  {post: true, help: "accept nothing new, let the rest finish", f: (*Handler).drain},
		"/quitquitquit":     {post: true, help: "exit", f: (*Handler).quit},
	}}
	h.next = http.NewCrossOriginProtection().Handler(http.HandlerFunc(h.serve))
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-cache, max-age=0")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	if !localHost(r) {
		fail(w, http.StatusForbidden, "The admin API answers only to this machine's own names: Host "+quoted(r.Host)+" is refused.")
		return
	}
	h.next.ServeHTTP(w, r)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	p, ok := h.paths[r.URL.Path]
	if !ok {
		fail(w, http.StatusNotFound, "invalid path. "+h.commands())
		return
	}
	if p.post && r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, "Method "+quoted(r.Method)+" not allowed, POST required.")
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
		p.f(h, w, r)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		fail(w, http.StatusMethodNotAllowed, "Method "+quoted(r.Method)+" not allowed.")
	}
}

// localHost tells whether the Host of a request can only have been meant for this machine: a loopback name or address,
// the very address that the connection came in on, or anything over a unix socket. A name in a DNS that somebody else
// controls is none of these.
func localHost(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(interface {
		Network() string
		String() string
	})
	if local != nil && local.Network() == "unix" {
		return true
	}
	name := strings.TrimSuffix(strings.ToLower(hostOnly(r.Host)), ".")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	if ip.Unmap().IsLoopback() {
		return true
	}
	if local == nil {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	return err == nil && at.Addr().Unmap() == ip.Unmap()
}

// hostOnly takes port and brackets from a Host.
func hostOnly(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		if j := strings.IndexByte(host, ':'); j == i || strings.HasPrefix(host, "[") {
			host = host[:i]
		}
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// fail answers with one line of plain text.
func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(strings.TrimSuffix(text, "\n") + "\n"))
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = w.Write([]byte(text))
}

// quoted makes what a client sent fit for a line of text.
func quoted(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '<' || r == '>' {
			return '?'
		}
		return r
	}, s)
}
