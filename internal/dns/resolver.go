package dns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
)

// maxOutstanding bounds the queries in flight, as c-ares' udp_max_queries does in Istio's bootstrap.
const maxOutstanding = 100

// otherFamilyGrace is how much longer than the first family's answer a lookup of All waits for the second: a server that
// never answers AAAA must not cost the whole of its tries.
const otherFamilyGrace = 500 * time.Millisecond

// Options make a Resolver.
type Options struct {
	// Server is --resolver: all names are looked up there and nowhere else; /etc/hosts and the search list, which
	// belong to the system's resolver, do not apply. The zero value means the system's servers.
	Server netip.AddrPort
	// Dial replaces net.Dialer.DialContext; network is "udp" or "tcp".
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Families replaces HostFamilies.
	Families func() (v4, v6 bool)
	// ResolvConf and Hosts replace the system's files.
	ResolvConf, Hosts string
	// Timeout and Attempts, if not 0, win over 2 s and 3, and over the system's options.
	Timeout  time.Duration
	Attempts int
}

// Resolver looks names up. It is safe for concurrent use.
type Resolver struct {
	opt   Options
	conf  atomic.Pointer[config]
	fams  atomic.Pointer[[2]bool]
	slots chan struct{}
	avoid atomic.Pointer[[]netip.AddrPort]

	mu      sync.Mutex // held while the files are looked at
	checked time.Time
	stamps  [2]stamp
}

// New makes a resolver and reads its configuration. A missing resolv.conf means a server on 127.0.0.1 (resolv.conf(5)).
func New(opt Options) *Resolver {
	if opt.Dial == nil {
		opt.Dial = new(net.Dialer).DialContext
	}
	if opt.Families == nil {
		opt.Families = HostFamilies
	}
	if opt.ResolvConf == "" {
		opt.ResolvConf = "/etc/resolv.conf"
	}
	if opt.Hosts == "" {
		opt.Hosts = "/etc/hosts"
	}
	r := &Resolver{opt: opt, slots: make(chan struct{}, maxOutstanding)}
	r.Reload()
	return r
}

// Reload reads the system's files again, whether they have changed or not, and asks the routing table again which
// families this machine can reach. Lookups under way finish with what they began with.
func (r *Resolver) Reload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load()
	v4, v6 := r.opt.Families()
	r.fams.Store(&[2]bool{v4, v6})
}

// load reads the files; r.mu is held.
func (r *Resolver) load() {
	c := &config{timeout: defaultTimeout, attempts: defaultAttempts}
	if r.opt.Server.IsValid() {
		c.servers = []netip.AddrPort{r.opt.Server}
	} else {
		r.checked = time.Now()
		r.stamps = [2]stamp{stampOf(r.opt.ResolvConf), stampOf(r.opt.Hosts)}
		b, err := readBounded(r.opt.ResolvConf)
		if old := r.conf.Load(); err != nil && !os.IsNotExist(err) && old != nil {
			return // no file descriptor, say: keep what works
		}
		c = parseResolvConf(b)
		b, _ = readBounded(r.opt.Hosts)
		c.hosts = parseHosts(b)
	}
	if r.opt.Timeout > 0 {
		c.timeout = r.opt.Timeout
	}
	if r.opt.Attempts > 0 {
		c.attempts = r.opt.Attempts
	}
	r.conf.Store(c)
}

// config gives the configuration in force, after a look at the files' stamps at most every 5 s.
func (r *Resolver) config() *config {
	if !r.opt.Server.IsValid() && r.mu.TryLock() {
		if time.Since(r.checked) >= fileRecheck {
			r.checked = time.Now()
			if r.stamps != [2]stamp{stampOf(r.opt.ResolvConf), stampOf(r.opt.Hosts)} {
				r.load()
			}
		}
		r.mu.Unlock()
	}
	return r.conf.Load()
}

// Families tells which address families this machine can reach, as of the last Reload. When it is neither (a namespace
// with nothing but loopback), both are: there is nothing to choose by.
func (r *Resolver) Families() (v4, v6 bool) {
	f := r.fams.Load()
	if !f[0] && !f[1] {
		return true, true
	}
	return f[0], f[1]
}

// Servers lists the servers in force, in the order in which they are asked.
func (r *Resolver) Servers() []netip.AddrPort { return r.servers(r.config()) }

// Avoid makes the resolver never ask these addresses: detour's own DNS listeners, as seen from the network namespace that
// the resolver dials in. An unspecified address stands for every loopback and interface address.
func (r *Resolver) Avoid(listeners ...netip.AddrPort) {
	l := slices.Clone(listeners)
	r.avoid.Store(&l)
}

func (r *Resolver) servers(c *config) []netip.AddrPort {
	own := r.avoid.Load()
	if own == nil || len(*own) == 0 {
		return c.servers
	}
	return slices.DeleteFunc(slices.Clone(c.servers), func(s netip.AddrPort) bool {
		return slices.ContainsFunc(*own, func(l netip.AddrPort) bool {
			if l.Port() != s.Port() {
				return false
			}
			return l.Addr().Unmap() == s.Addr().Unmap() || l.Addr().IsUnspecified() && isLocalAddr(s.Addr())
		})
	})
}

func isLocalAddr(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(i net.Addr) bool {
		p, err := netip.ParsePrefix(i.String())
		return err == nil && p.Addr().Unmap() == a.Unmap().WithZone("")
	})
}

// Lookup finds the addresses of a name. IP literals (of whatever family) and localhost are answered without a query, and so
// are names in /etc/hosts unless Options.Server is set.
//
// Endpoint names are meant to be complete. So a name with a dot is asked for as it is first, and the search list of
// resolv.conf(5) is tried after NXDOMAIN only if the name has fewer dots than ndots; one without a dot is tried with the
// search list first. A name that ends in a dot is never extended.
func (r *Resolver) Lookup(ctx context.Context, name string, f Family) Answer {
	if a, err := netip.ParseAddr(name); err == nil {
		return Answer{Addrs: []netip.Addr{a.Unmap()}}
	}
	c := r.config()
	key := canonical(name)
	if addrs := byFamily(c.hosts[key], f); len(addrs) > 0 {
		return Answer{Addrs: addrs}
	}
	if key == "localhost" || strings.HasSuffix(key, ".localhost") { // RFC 6761 §6.3
		return Answer{Addrs: byFamily([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, f)}
	}
	if _, ok := mdns.IsDomainName(name); !ok || key == "" {
		return Answer{Err: &Error{Kind: NXDomain, Name: name, Err: errBadName}}
	}
	var first Answer
	for i, fqdn := range candidates(c, name) {
		ans := r.lookupFQDN(ctx, c, fqdn, name, f)
		if ans.Err == nil {
			return ans
		}
		// "Not there" under one name must not hide that another could not be asked.
		if k := KindOf(ans.Err); i == 0 || k != NXDomain && k != NoData {
			first = ans
		}
	}
	return first
}

// candidates are the complete names to ask for, in order.
func candidates(c *config, name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	dots := strings.Count(name, ".")
	names := make([]string, 0, len(c.search)+1)
	if dots < c.ndots {
		for _, s := range c.search {
			if fqdn := name + "." + s + "."; len(fqdn) <= 254 {
				names = append(names, fqdn)
			}
		}
	}
	if dots > 0 {
		return slices.Insert(names, 0, name+".")
	}
	return append(names, name+".")
}

// byFamily sorts the addresses and keeps those of the family.
func byFamily(in []netip.Addr, f Family) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		if f == All || a.Is4() == (f == V4) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// lookupFQDN asks for the one or two types of the family.
func (r *Resolver) lookupFQDN(ctx context.Context, c *config, fqdn, name string, f Family) Answer {
	switch f {
	case V4:
		return r.lookupType(ctx, c, fqdn, name, mdns.TypeA)
	case V6:
		return r.lookupType(ctx, c, fqdn, name, mdns.TypeAAAA)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		Answer
		fam Family
	}
	done := make(chan result, 2)
	go func() { done <- result{r.lookupType(ctx, c, fqdn, name, mdns.TypeA), V4} }()
	go func() { done <- result{r.lookupType(ctx, c, fqdn, name, mdns.TypeAAAA), V6} }()
	one := <-done
	if one.Err == nil {
		grace := time.AfterFunc(otherFamilyGrace, cancel)
		defer grace.Stop()
	}
	two := <-done
	if one.Err != nil {
		one, two = two, one
	}
	switch {
	case one.Err != nil: // neither: what is wrong with a server outweighs that a family is not there
		if k := KindOf(one.Err); k == NXDomain || k == NoData {
			return two.Answer
		}
		return one.Answer
	case two.Err == nil:
		one.Addrs = byFamily(append(one.Addrs, two.Addrs...), All)
		one.TTL = min(one.TTL, two.TTL)
	case KindOf(two.Err) != NoData && KindOf(two.Err) != NXDomain:
		one.Missing = two.fam
	}
	return one.Answer
}
