// Package listener turns Envoy's Listener resources into what decides where a connection goes: which listener has an
// address, and which of its filter chains takes a connection. The sockets themselves are few and detour's own; the
// resources are matched by a connection's original destination, as Envoy does with use_original_dst.
package listener

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mongov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/mongo_proxy/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"detour.dev/detour/internal/dataplane/listenerfilter/httpinspector"
	"detour.dev/detour/internal/xds"
)

// StreamIdle is Envoy's default stream_idle_timeout.
const StreamIdle = 5 * time.Minute

// Config is one compiled Listener.
type Config struct {
	Name  string
	Addrs []netip.AddrPort
	// Own are the sockets that the listener has of its own; none: it gets redirected connections only (bind_to_port false).
	Own []Own
	// Peek says that connections to undeclared addresses on this port are looked at before they pass.
	Peek bool
	// TLS says that some chain asks for the server name; HTTP, that some chain speaks HTTP.
	TLS, HTTP bool
	// Sniff says that some chain is for connections that speak HTTP alone (filter_chain_match.application_protocols), and
	// SniffTime how long their first bytes are waited for, 0 for ever (listener_filters_timeout).
	Sniff     bool
	SniffTime time.Duration
	// Refused says which chains can't be served and why; their connections are reset, the others' are served.
	Refused  []error
	chains   []chain
	fallback *Chain
}

// Chain is what takes a connection: HTTP or TCP.
type Chain struct {
	StatPrefix string
	// Routes names the RouteConfiguration of an HTTP chain; Cluster is a TCP chain's, Weighted are a TCP chain's that has
	// several. Exactly one is set; none on a chain that is refused.
	Routes     string
	StreamIdle time.Duration
	Cluster    string
	Weighted   []Weighted
	// HashSource says that the endpoint depends on the client's address (tcp_proxy's hash_policy source_ip).
	HashSource bool
	Idle       time.Duration
	MaxTime    time.Duration // max_downstream_connection_duration; 0: none
	// DynamicPort is where connections go whose name is taken from the ClientHello (sni_dynamic_forward_proxy's
	// port_value, default 443).
	DynamicPort uint16
}

// Weighted is one of several clusters of a TCP chain: the connections whose random value, modulo the last one's End, is
// below End and not below the End of the one before.
type Weighted struct {
	Cluster string
	End     uint64
}

// To gives the cluster of a connection; random is uniformly distributed. It is empty for a chain that is not TCP.
func (c *Chain) To(random uint64) string {
	if len(c.Weighted) == 0 {
		return c.Cluster
	}
	at := random % c.Weighted[len(c.Weighted)-1].End
	i := slices.IndexFunc(c.Weighted, func(w Weighted) bool { return at < w.End })
	return c.Weighted[i].Cluster
}

type chain struct {
	Chain
	prefixes  []netip.Prefix
	servers   []string // lower case; "*.example.com" matches any name under it
	tls       tlsMatch
	protocols []string
}

type tlsMatch uint8

const (
	anyTransport tlsMatch = iota
	onlyTLS
	onlyPlain
)

// Compile makes a Config. Filters that are not served refuse their chain alone; an error, which names what can't be read,
// refuses the listener.
func Compile(l *listenerv3.Listener) (*Config, error) {
	c := &Config{Name: l.GetName()}
	addrs := []*corev3.Address{l.GetAddress()}
	for _, a := range l.GetAdditionalAddresses() {
		addrs = append(addrs, a.GetAddress())
	}
	for _, a := range addrs {
		own, err := ownAddress(a)
		if err != nil {
			return nil, err
		}
		if own.Path == "" {
			c.Addrs = append(c.Addrs, own.Addr)
		}
		if l.GetBindToPort() == nil || l.GetBindToPort().GetValue() {
			c.Own = append(c.Own, own)
		}
	}
	c.Peek = l.GetMetadata().GetFilterMetadata()[xds.MetadataKey].GetFields()[xds.MetaPeek].GetBoolValue()
	c.SniffTime = l.GetListenerFiltersTimeout().AsDuration()
	for i, fc := range l.GetFilterChains() {
		one, err := compileChain(fc)
		if err != nil {
			return nil, fmt.Errorf("filter_chains[%d]: %w", i, err)
		}
		c.compileFilters(&one, fc, fmt.Sprintf("filter_chains[%d]", i))
		c.TLS = c.TLS || len(one.servers) > 0 || one.tls == onlyTLS
		c.HTTP = c.HTTP || one.Routes != ""
		c.Sniff = c.Sniff || len(one.protocols) > 0
		c.chains = append(c.chains, one)
	}
	if fc := l.GetDefaultFilterChain(); fc != nil {
		one, err := compileChain(fc)
		if err != nil {
			return nil, fmt.Errorf("default_filter_chain: %w", err)
		}
		c.compileFilters(&one, fc, "default_filter_chain")
		c.fallback = &one.Chain
	}
	return c, nil
}

func (c *Config) compileFilters(one *chain, fc *listenerv3.FilterChain, name string) {
	if err := one.compileFilters(fc.GetFilters()); err != nil {
		c.Refused = append(c.Refused, fmt.Errorf("%s (%s): %w", name, one.StatPrefix, err))
		one.Chain = Chain{}
	}
}

// compileChain reads which connections a chain is for.
func compileChain(fc *listenerv3.FilterChain) (c chain, err error) {
	m := fc.GetFilterChainMatch()
	for _, p := range m.GetPrefixRanges() {
		ip, err := netip.ParseAddr(p.GetAddressPrefix())
		if err != nil {
			return c, fmt.Errorf("filter_chain_match.prefix_ranges: %w", err)
		}
		prefix, err := ip.Unmap().Prefix(int(p.GetPrefixLen().GetValue()))
		if err != nil {
			return c, fmt.Errorf("filter_chain_match.prefix_ranges: %w", err)
		}
		c.prefixes = append(c.prefixes, prefix)
	}
	for _, s := range m.GetServerNames() {
		c.servers = append(c.servers, strings.ToLower(s))
	}
	c.protocols = m.GetApplicationProtocols()
	switch t := m.GetTransportProtocol(); t {
	case "":
	case "tls":
		c.tls = onlyTLS
	case "raw_buffer":
		c.tls = onlyPlain
	default:
		return c, fmt.Errorf("filter_chain_match.transport_protocol %q is not supported", t)
	}
	return c, nil
}

func (c *chain) compileFilters(filters []*listenerv3.Filter) error {
	for _, f := range filters {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			return fmt.Errorf("filter %s: %w", f.GetName(), err)
		}
		switch t := m.(type) {
		case *hcmv3.HttpConnectionManager:
			if err := checkHTTPFilters(t.GetHttpFilters()); err != nil {
				return fmt.Errorf("filter %s: %w", f.GetName(), err)
			}
			c.StatPrefix = t.GetStatPrefix()
			c.Routes = t.GetRds().GetRouteConfigName()
			if c.Routes == "" {
				c.Routes = t.GetRouteConfig().GetName()
			}
			c.StreamIdle = StreamIdle
			if d := t.GetStreamIdleTimeout(); d != nil {
				c.StreamIdle = d.AsDuration()
			}
			return nil
		case *snidfpv3.FilterConfig:
			if c.DynamicPort = uint16(t.GetPortValue()); c.DynamicPort == 0 {
				c.DynamicPort = 443
			}
		case *mongov3.MongoProxy:
			if t.GetDelay() != nil {
				return fmt.Errorf("filter %s: delay is not supported", f.GetName())
			}
			// else it only observes
		case *tcpv3.TcpProxy:
			if err := c.compileTCP(t); err != nil {
				return fmt.Errorf("filter %s: %w", f.GetName(), err)
			}
			return nil
		default:
			return fmt.Errorf("filter %s is not supported yet", f.GetName())
		}
	}
	return fmt.Errorf("no filters")
}

// compileTCP reads a tcp_proxy.
func (c *Chain) compileTCP(t *tcpv3.TcpProxy) error {
	c.StatPrefix, c.Cluster = t.GetStatPrefix(), t.GetCluster()
	end := uint64(0)
	for _, w := range t.GetWeightedClusters().GetClusters() {
		if w.GetMetadataMatch() != nil {
			return fmt.Errorf("weighted_clusters.clusters.metadata_match is not supported")
		}
		if w.GetWeight() > 0 {
			end += uint64(w.GetWeight())
			c.Weighted = append(c.Weighted, Weighted{w.GetName(), end})
		}
	}
	switch {
	case c.Cluster == "" && len(c.Weighted) == 0:
		return fmt.Errorf("names no cluster")
	case t.GetTunnelingConfig() != nil:
		return fmt.Errorf("tunneling_config is not supported yet")
	}
	for _, h := range t.GetHashPolicy() { // Envoy has one at most
		if h.GetSourceIp() == nil {
			return fmt.Errorf("hash_policy: only source_ip is supported")
		}
		c.HashSource = true
	}
	c.Idle = time.Hour // Envoy's default
	if d := t.GetIdleTimeout(); d != nil {
		c.Idle = d.AsDuration()
	}
	c.MaxTime = t.GetMaxDownstreamConnectionDuration().AsDuration()
	return nil
}

// Facts is what is known of a connection when a chain is chosen.
type Facts struct {
	Dst        netip.AddrPort
	TLS        bool
	ServerName string // lower case
	// Protocol is what the first bytes were found to be, as httpinspector names it; empty where nobody looked, which
	// counts as HTTP/1.1.
	Protocol string
}

// Chain chooses as Envoy does (FilterChainMatch): the most specific destination first, then the server name, the transport
// and the protocol, each step among what the one before left; nil when nothing fits.
func (c *Config) Chain(f Facts) *Chain {
	best, bestBits := []*chain{}, -2
	for i := range c.chains {
		bits, ok := c.chains[i].destination(f.Dst.Addr())
		switch {
		case !ok || bits < bestBits:
		case bits > bestBits:
			best, bestBits = append(best[:0], &c.chains[i]), bits
		default:
			best = append(best, &c.chains[i])
		}
	}
	return c.choose(best, f)
}

func (c *Config) choose(among []*chain, f Facts) *Chain {
	length := -1
	var named []*chain
	for _, ch := range among {
		n, ok := ch.server(f.ServerName)
		switch {
		case !ok || n < length:
		case n > length:
			named, length = append(named[:0], ch), n
		default:
			named = append(named, ch)
		}
	}
	transport := onlyPlain
	if f.TLS {
		transport = onlyTLS
	}
	if !slices.ContainsFunc(named, func(ch *chain) bool { return ch.tls == transport }) {
		transport = anyTransport
	}
	protocol := cmp.Or(f.Protocol, httpinspector.HTTP11)
	for _, speaks := range []bool{true, false} {
		for _, ch := range named {
			if ch.tls == transport && (speaks && slices.Contains(ch.protocols, protocol) || !speaks && len(ch.protocols) == 0) {
				return &ch.Chain
			}
		}
	}
	return c.fallback
}

// destination gives the length of the longest prefix that has the address; -1 for a chain that names none.
func (c *chain) destination(ip netip.Addr) (bits int, ok bool) {
	if len(c.prefixes) == 0 {
		return -1, true
	}
	bits = -1
	for _, p := range c.prefixes {
		if p.Contains(ip) {
			bits, ok = max(bits, p.Bits()), true
		}
	}
	return bits, ok
}

// server gives the length of the longest name that fits; 0 for a chain that names none.
func (c *chain) server(name string) (length int, ok bool) {
	if len(c.servers) == 0 {
		return 0, true
	}
	for _, s := range c.servers {
		if s == name && name != "" {
			return 1 << 16, true // an exact name beats every wildcard
		}
		if strings.HasPrefix(s, "*.") && strings.HasSuffix(name, s[1:]) && len(name) > len(s)-1 {
			length, ok = max(length, len(s)), true
		}
	}
	return length, ok
}

// Fallback is the default filter chain, nil if there is none.
func (c *Config) Fallback() *Chain { return c.fallback }

// Names says whether any chain but the default is for that server name.
func (c *Config) Names(server string) bool {
	return slices.ContainsFunc(c.chains, func(ch chain) bool {
		_, ok := ch.server(server)
		return ok && len(ch.servers) > 0
	})
}

// Takes says whether some chain is for a range that has the address.
func (c *Config) Takes(ip netip.Addr) bool {
	return slices.ContainsFunc(c.chains, func(ch chain) bool {
		bits, ok := ch.destination(ip)
		return ok && bits >= 0
	})
}

// Prefixes gives the destinations that chains name.
func (c *Config) Prefixes() (out []netip.Prefix) {
	for i := range c.chains {
		out = append(out, c.chains[i].prefixes...)
	}
	return out
}

// HTTPChain gives the first HTTP chain, nil if there is none.
func (c *Config) HTTPChain() *Chain {
	for i := range c.chains {
		if c.chains[i].Routes != "" {
			return &c.chains[i].Chain
		}
	}
	return nil
}

// Set finds listeners by address.
type Set struct {
	exact map[netip.AddrPort]*Config
	any   map[uint16]*Config // 0.0.0.0 and [::]
}

// NewSet indexes listeners. Of two with one address the first stays.
func NewSet(all []*Config) *Set {
	s := &Set{exact: map[netip.AddrPort]*Config{}, any: map[uint16]*Config{}}
	for _, c := range all {
		for _, a := range c.Addrs {
			if a.Addr().IsUnspecified() {
				if s.any[a.Port()] == nil {
					s.any[a.Port()] = c
				}
			} else if s.exact[a] == nil {
				s.exact[a] = c
			}
		}
	}
	return s
}

// Find gives the listener of an address: its own, else the one for all addresses of the port. exact tells which.
func (s *Set) Find(dst netip.AddrPort) (c *Config, exact bool) {
	if c := s.exact[dst]; c != nil {
		return c, true
	}
	return s.any[dst.Port()], false
}

// Exact gives the addresses that have a listener of their own.
func (s *Set) Exact() (out []netip.Addr) {
	for a := range s.exact {
		out = append(out, a.Addr())
	}
	return out
}
