// Package analyze owns what can be said about a configuration as a whole before it serves anything: that a failover can
// never happen, and why; that a certificate will not fit; that a name does not resolve. It never rejects anything. Each
// family of findings has a file of its own; every finding has a stable code, the place of the line to change, and says
// what to write there.
//
// It does I/O only where it is asked to look at the world: Options.Files, Options.Resolve and Options.Connect.
package analyze

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

// Codes of the findings.
const (
	CodeNeverEjected    = "DTR0101"
	CodePartlyEjected   = "DTR0102"
	CodeNoOutlier       = "DTR0103"
	CodeNothingNear     = "DTR0104"
	CodeStockIstio      = "DTR0105"
	CodeDistribute      = "DTR0106"
	CodeOnePriority     = "DTR0107"
	CodePanic           = "DTR0108"
	CodeLastEndpoint    = "DTR0109"
	CodeApplication500  = "DTR0110"
	CodeNoSuchLocality  = "DTR0111"
	CodeNotResolved     = "DTR0120"
	CodeSameAddress     = "DTR0121"
	CodeNotConnected    = "DTR0130"
	CodeWrongNames      = "DTR0131"
	CodeNobodyCertified = "DTR0132"
	CodeNotTrusted      = "DTR0133"
	CodeExpires         = "DTR0134"
	CodeCertificate     = "DTR0135"
	CodePlain443        = "DTR0140"
	CodePlainToTLS      = "DTR0141"
	CodeTLSInTLS        = "DTR0142"
	CodeNoSuchName      = "DTR0143"
	CodeTLSToPlain      = "DTR0144"
	CodeNoCertFile      = "DTR0145"
	CodeNoSuchPort      = "DTR0150"
	CodeEmptySubset     = "DTR0151"
	CodeNoSuchSubset    = "DTR0152"
	CodeNoSuchHost      = "DTR0153"
	CodeHostTwice       = "DTR0154"
	CodeOtherProtocol   = "DTR0155"
	CodeNeverMatches    = "DTR0156"
	CodeNoEgressProxy   = "DTR0157"
	CodeRetryStays      = "DTR0160"
	CodeRetryTwice      = "DTR0161"
	CodeShortTimeout    = "DTR0162"
	CodeFaultAlways     = "DTR0163"
)

// Options say who calls and how far to look.
type Options struct {
	Group         xds.NodeGroup // the caller
	AllLocalities bool          // every locality that an endpoint names, and none; Group.Locality does not count then
	Resolve       bool          // look endpoints' names up
	Connect       bool          // connect to every endpoint, and shake hands with those that must speak TLS
	Files         bool          // look whether this machine has the certificates and keys that tls names
	Network       Network       // what Resolve and Connect use; zero: the system's
}

// Result is what was found.
type Result struct {
	Issues []config.Issue // sorted by place, each once
	Hosts  int            // service hosts that were looked at
	// Ignored counts the objects that say nothing about outbound traffic here, or only about hosts nobody here declares.
	Ignored int
}

// Count gives the number of issues of a severity.
func (r Result) Count(s config.Severity) int {
	n := 0
	for _, i := range r.Issues {
		if i.Severity == s {
			n++
		}
	}
	return n
}

// Run analyses a configuration. The issues are those found while it was read and validated; those about objects that
// have no business here are left out. The context bounds Resolve and Connect.
func Run(ctx context.Context, set *config.Set, issues []config.Issue, opt Options) Result {
	r := &run{opt: opt, set: set, seen: map[string]bool{}, hosts: map[string]bool{}, far: map[string]*distance{}, known: map[string]bool{}, addrs: map[string][]netip.Addr{}}
	mine, ignored := relevant(set, issues)
	for _, i := range mine {
		r.report(i)
	}
	groups := []xds.NodeGroup{opt.Group}
	if opt.AllLocalities {
		groups = everyLocality(set, opt.Group)
	}
	for _, g := range groups {
		_, found := translate.Translate(set, g)
		for _, i := range found {
			r.report(i)
		}
		for _, p := range translate.Plans(set, g) {
			r.see(p, g)
		}
	}
	if opt.Resolve {
		r.resolve(ctx)
	}
	for _, v := range r.views {
		r.failover(v.plan, v.caller)
		r.ejection(v.plan)
		r.lastEndpoint(v.plan)
		r.namedLocalities(v.plan)
		r.application500(v.plan)
	}
	r.reportDistances()
	for _, p := range r.plans {
		r.transport(p)
		r.emptySubset(p)
	}
	if opt.Files {
		r.certificateFiles()
	}
	r.objects(set)
	if opt.Connect {
		r.connect(ctx)
	}
	slices.SortStableFunc(r.issues, compareIssues)
	return Result{Issues: r.issues, Hosts: len(r.hosts), Ignored: ignored}
}

// run holds one analysis.
type run struct {
	opt    Options
	set    *config.Set
	issues []config.Issue
	seen   map[string]bool
	hosts  map[string]bool
	far    map[string]*distance // by host: callers to whom all of its endpoints are equally near
	plans  []*translate.Plan    // every cluster once, as the first caller sees it
	known  map[string]bool      // the names of the clusters in plans
	views  []view
	addrs  map[string][]netip.Addr // addresses of each name that resolves; empty unless Options.Resolve
}

// view is one cluster as one caller sees it.
type view struct {
	plan   *translate.Plan
	caller xds.NodeGroup
}

// see enters a cluster as one caller sees it. What is blocked carries no traffic, so there is nothing more to say about it.
func (r *run) see(p *translate.Plan, g xds.NodeGroup) {
	r.hosts[p.Host] = true
	if !r.known[p.Cluster] {
		r.known[p.Cluster] = true
		r.plans = append(r.plans, p)
	}
	if p.Blocked == "" {
		r.views = append(r.views, view{p, g})
	}
}

// report keeps a finding unless it is there: ports, subsets and callers often share one.
func (r *run) report(i config.Issue) {
	if key := i.String(); !r.seen[key] {
		r.seen[key] = true
		r.issues = append(r.issues, i)
	}
}

// at makes an issue about a place.
func at(s config.Severity, code string, p translate.Place, format string, args ...any) config.Issue {
	return config.Issue{
		Severity: s, Code: code, Object: p.Object.Key, Origin: p.Object.At(p.Field), Field: p.Field, Message: config.OneLine(fmt.Sprintf(format, args...)),
	}
}

func compareIssues(a, b config.Issue) int {
	return cmp.Or(
		strings.Compare(a.Origin.File, b.Origin.File), cmp.Compare(a.Origin.Line, b.Origin.Line), cmp.Compare(a.Origin.Column, b.Origin.Column),
		cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message),
	)
}

// everyLocality gives a caller for each locality that an endpoint names, and one without.
func everyLocality(set *config.Set, g xds.NodeGroup) []xds.NodeGroup {
	var names []string
	for _, p := range translate.Plans(set, g) {
		for _, e := range p.Endpoints {
			names = append(names, e.Locality)
		}
	}
	names = append(names, "")
	slices.Sort(names)
	var out []xds.NodeGroup
	for _, n := range slices.Compact(names) {
		caller := g
		caller.Locality = nil
		if n != "" {
			parts := append(strings.SplitN(n, "/", 3), "", "")
			caller.Locality = &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
		}
		out = append(out, caller)
	}
	return out
}

// localityName writes a caller's locality; "" when it has none.
func localityName(g xds.NodeGroup) string {
	l := g.Locality
	return strings.TrimRight(l.GetRegion()+"/"+l.GetZone()+"/"+l.GetSubZone(), "/")
}
