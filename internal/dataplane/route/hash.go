package route

import (
	"bytes"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// HashPolicy is one of a route's hash policies: what of a request its endpoint depends on.
type HashPolicy struct {
	kind     hashKind
	name     string // of the header (lower case), cookie or query parameter
	terminal bool
	rewrite  *PathRewrite // of the header's values
	cookie   *hashCookie  // a cookie that is made where the request has none
}

type hashKind uint8

const (
	hashHeader hashKind = iota
	hashCookieName
	hashSource
	hashQuery
)

// hashCookie is what follows a cookie's value in Set-Cookie.
type hashCookie struct{ attributes string }

// Source is the connection of a request, for hashing.
type Source struct{ Remote, Local netip.AddrPort }

// Hash64 computes what the endpoint is chosen by, as Envoy's HashPolicyImpl: xxHash64 of each policy's value, each combined
// with those before. ok is false where no policy found anything. cookies gives the Set-Cookie values that the answer needs.
func (r *Route) Hash64(q *Query, src Source) (hash uint64, ok bool, cookies [][]byte) {
	for i := range r.Hash {
		p := &r.Hash[i]
		h, found := uint64(0), false
		switch p.kind {
		case hashHeader:
			h, found = p.header(q)
		case hashCookieName:
			var made []byte
			if h, found, made = p.fromCookie(q, src); made != nil {
				cookies = append(cookies, made)
			}
		case hashSource:
			if a := src.Remote.Addr(); a.IsValid() {
				h, found = HashSource(a), true
			}
		case hashQuery:
			var v []byte
			if v, found = QueryParameter(q.Path, p.name); found {
				h = xxhash.Sum64(v)
			}
		}
		if found {
			hash = bits.RotateLeft64(hash, 1) ^ h
			ok = true
		}
		if p.terminal && ok {
			break
		}
	}
	return hash, ok, cookies
}

// HashSource is the hash of a client's address, in tcp_proxy's policies too.
func HashSource(a netip.Addr) uint64 {
	var buf [64]byte
	return xxhash.Sum64(a.Unmap().AppendTo(buf[:0]))
}

// header hashes the values of a header, in an order that does not depend on theirs.
func (p *HashPolicy) header(q *Query) (uint64, bool) {
	switch p.name {
	case ":authority", "host", ":path", ":method", ":scheme":
		v, there := headerValue(q, p.name)
		return xxhash.Sum64(p.rewritten(v)), there
	}
	if q.Head == nil {
		return 0, false
	}
	var room [4][]byte
	values := room[:0]
	for i := range q.Head.Fields {
		if f := &q.Head.Fields[i]; http1.EqualFold(f.Name, p.name) {
			values = append(values, p.rewritten(f.Value))
		}
	}
	switch len(values) {
	case 0:
		return 0, false
	case 1:
		return xxhash.Sum64(values[0]), true
	}
	slices.SortFunc(values, bytes.Compare)
	// Each value is hashed with the hash of those before it as seed (Envoy's HashUtil::xxHash64 of a span).
	h := uint64(0)
	for _, v := range values {
		d := xxhash.NewWithSeed(h)
		_, _ = d.Write(v)
		h = d.Sum64()
	}
	return h, true
}

func (p *HashPolicy) rewritten(v []byte) []byte {
	if p.rewrite == nil {
		return v
	}
	return p.rewrite.replaceAll(nil, v)
}

func (p *HashPolicy) fromCookie(q *Query, src Source) (hash uint64, found bool, made []byte) {
	if v := cookieValue(q.Head, p.name); len(v) > 0 {
		return xxhash.Sum64(v), true, nil
	}
	if p.cookie == nil {
		return 0, false, nil
	}
	// One value for each connection, so that requests that race on it get the same.
	value := fmt.Appendf(nil, "%016x", xxhash.Sum64(fmt.Appendf(nil, "%v%v", unmap(src.Remote), unmap(src.Local))))
	made = append(append(append([]byte(p.name), `="`...), value...), p.cookie.attributes...)
	return xxhash.Sum64(value), true, made
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// cookieValue gives the first cookie of that name, without the quotes around it.
func cookieValue(h *http1.Head, name string) []byte {
	if h == nil {
		return nil
	}
	for i := range h.Fields {
		if !http1.EqualFold(h.Fields[i].Name, "cookie") {
			continue
		}
		for rest := h.Fields[i].Value; len(rest) > 0; {
			var one []byte
			one, rest, _ = bytes.Cut(rest, []byte{';'})
			key, v, found := bytes.Cut(bytes.TrimLeft(one, " \t"), []byte{'='})
			if !found || string(key) != name {
				continue
			}
			if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
				v = v[1 : n-1]
			}
			return v
		}
	}
	return nil
}

func compileHash(list []*routev3.RouteAction_HashPolicy) ([]HashPolicy, error) {
	var out []HashPolicy
	for i, p := range list {
		c, err := compileHashPolicy(p)
		if err != nil {
			return nil, fmt.Errorf("hash_policy[%d]: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func compileHashPolicy(p *routev3.RouteAction_HashPolicy) (out HashPolicy, err error) {
	out.terminal = p.GetTerminal()
	switch s := p.GetPolicySpecifier().(type) {
	case *routev3.RouteAction_HashPolicy_Header_:
		out.name = strings.ToLower(s.Header.GetHeaderName())
		if rx := s.Header.GetRegexRewrite(); rx != nil {
			out.rewrite, err = compilePathRewrite("", rx)
		}
	case *routev3.RouteAction_HashPolicy_Cookie_:
		out.kind, out.name = hashCookieName, s.Cookie.GetName()
		if s.Cookie.GetTtl() != nil {
			out.cookie = compileCookie(s.Cookie)
		}
		if strings.ContainsAny(out.name, "=;, \t\r\n\"") || out.cookie != nil && strings.ContainsFunc(out.cookie.attributes, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			err = fmt.Errorf("cookie: the name, path or an attribute has characters that no cookie has")
		}
	case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
		if out.kind = hashSource; !s.ConnectionProperties.GetSourceIp() {
			err = fmt.Errorf("connection_properties without source_ip")
		}
	case *routev3.RouteAction_HashPolicy_QueryParameter_:
		out.kind, out.name = hashQuery, s.QueryParameter.GetName()
	default:
		err = fmt.Errorf("%T is not supported yet", s)
	}
	return out, err
}

// compileCookie writes what follows the value, in Envoy's order (Http::Utility::makeSetCookieValue).
func compileCookie(c *routev3.RouteAction_HashPolicy_Cookie) *hashCookie {
	s := `"`
	if ttl := int64(c.GetTtl().AsDuration().Seconds()); ttl != 0 {
		s += "; Max-Age=" + strconv.FormatInt(ttl, 10)
	}
	if c.GetPath() != "" {
		s += "; Path=" + c.GetPath()
	}
	for _, a := range c.GetAttributes() {
		s += "; " + a.GetName()
		if a.GetValue() != "" {
			s += "=" + a.GetValue()
		}
	}
	return &hashCookie{s + "; HttpOnly"}
}
