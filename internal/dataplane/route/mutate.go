package route

//lint:file-ignore SA1019 foreign snapshots may still use deprecated fields

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// Edit is what changes in the fields of one head. It is reused: Reset keeps the memory.
type Edit struct {
	Drop []string     // names, in lower case, of received fields to leave out
	Add  []http1.Pair // fields to put at the end

	space []byte
}

// Reset forgets everything.
func (e *Edit) Reset() { e.Drop, e.Add, e.space = e.Drop[:0], e.Add[:0], e.space[:0] }

// None says that nothing changes.
func (e *Edit) None() bool { return len(e.Drop) == 0 && len(e.Add) == 0 }

// get gives the first value that a field has by now.
func (e *Edit) get(h *http1.Head, name string) (value []byte, there bool) {
	if !slices.Contains(e.Drop, name) {
		for i := range h.Fields {
			if f := &h.Fields[i]; !f.Drop && http1.EqualFold(f.Name, name) {
				return f.Value, true
			}
		}
	}
	for i := range e.Add {
		if string(e.Add[i].Name) == name {
			return e.Add[i].Value, true
		}
	}
	return nil, false
}

// Remove takes all fields of that name out.
func (e *Edit) Remove(name string) {
	if !slices.Contains(e.Drop, name) {
		e.Drop = append(e.Drop, name)
	}
	e.Add = slices.DeleteFunc(e.Add, func(p http1.Pair) bool { return string(p.Name) == name })
}

// Set makes value the only one of its field.
func (e *Edit) Set(name string, value []byte) {
	e.Remove(name)
	e.Add = append(e.Add, http1.Pair{Name: []byte(name), Value: value})
}

// Append adds a value: a field more, or behind a comma where Envoy keeps the field as one.
func (e *Edit) Append(h *http1.Head, name string, value []byte) {
	e.append(h, name, []byte(name), value)
}

func (e *Edit) append(h *http1.Head, name string, key, value []byte) {
	if single(h, name) {
		at := len(e.space)
		e.joined(h, name)
		if at < len(e.space) && len(value) > 0 {
			e.space = append(e.space, ',')
		}
		e.space = append(e.space, value...)
		value = e.space[at:len(e.space):len(e.space)]
		e.Remove(name)
	}
	e.Add = append(e.Add, http1.Pair{Name: key, Value: value})
}

// joined appends all values that a field has by now, but for empty ones, to space, with commas between them.
func (e *Edit) joined(h *http1.Head, name string) {
	at := len(e.space)
	add := func(v []byte) {
		if at < len(e.space) && len(v) > 0 {
			e.space = append(e.space, ',')
		}
		e.space = append(e.space, v...)
	}
	if !slices.Contains(e.Drop, name) {
		for i := range h.Fields {
			if f := &h.Fields[i]; !f.Drop && http1.EqualFold(f.Name, name) {
				add(f.Value)
			}
		}
	}
	for i := range e.Add {
		if string(e.Add[i].Name) == name {
			add(e.Add[i].Value)
		}
	}
}

// Envoy keeps these fields as one each, and appends behind a comma (http/header_map.h, the inline headers, and those that
// its filters register); seen on Envoy 1.40.
var (
	singleRequest = nameSet("user-agent authorization accept cache-control x-forwarded-for via content-type accept-encoding origin referer " +
		"x-request-id x-forwarded-host x-forwarded-proto grpc-timeout authentication if-match if-none-match if-modified-since " +
		"if-unmodified-since if-range expect access-control-request-headers access-control-request-method")
	singleResponse = nameSet("server vary cache-control etag date location content-type via content-encoding " +
		"access-control-allow-origin access-control-allow-credentials access-control-allow-methods access-control-allow-headers " +
		"access-control-max-age access-control-expose-headers last-modified expires age x-request-id")
)

func nameSet(words string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(words) {
		out[w] = true
	}
	return out
}

func single(h *http1.Head, name string) bool {
	if h.Status != 0 {
		return singleResponse[name]
	}
	return singleRequest[name]
}

// Mutations are the header operations of a route, in the order in which its levels apply.
type Mutations []level

// level is what one of route configuration, virtual host, route and weighted cluster says.
type level struct {
	remove []string
	set    []operation // evaluated with add, before anything of the level changes, and done first
	add    []operation
	// authority, if not "", is the Host that this level's values see: a weighted cluster sets its own before the levels
	// around it.
	authority string
}

type operation struct {
	name      string // lower case
	key       []byte // name
	value     format
	keepEmpty bool
	ifThere   bool // OVERWRITE_IF_EXISTS
	ifAbsent  bool // ADD_IF_ABSENT
}

// Context is what the values of headers may be made of.
type Context struct {
	Info  *streaminfo.Info
	Query *Query
	// Cluster is the name of the cluster, empty where there is none, and ClusterStat its alt_stat_name, which
	// %UPSTREAM_CLUSTER% gives where there is one.
	Cluster, ClusterStat string
	// Request is what has been changed in the request so far.
	Request *Edit
	// Response is the response's head; nil for requests.
	Response *http1.Head
	// Local says that the response is the proxy's own, which has no code yet where Envoy makes the values.
	Local bool

	authority string // of the level
}

// Apply adds the operations to e, an edit of h (Envoy's HeaderParser::evaluateHeaders): in each level removal, then values
// are made, then those that overwrite, then those that are added.
func (m Mutations) Apply(e *Edit, h *http1.Head, c *Context) {
	for i := range m {
		l := &m[i]
		c.authority = l.authority
		for _, name := range l.remove {
			e.Remove(name)
		}
		var room [8]http1.Pair
		values := room[:0]
		for _, list := range [...][]operation{l.set, l.add} {
			for j := range list {
				values = append(values, http1.Pair{Name: list[j].key, Value: list[j].eval(e, h, c)})
			}
		}
		for j := range l.set {
			if v := values[j].Value; v != nil {
				e.Remove(l.set[j].name)
				e.Add = append(e.Add, http1.Pair{Name: l.set[j].key, Value: v})
			}
		}
		for j := range l.add {
			if v := values[len(l.set)+j].Value; v != nil {
				e.append(h, l.add[j].name, l.add[j].key, v)
			}
		}
	}
}

// eval gives the value, or nil where nothing is to be done.
func (o *operation) eval(e *Edit, h *http1.Head, c *Context) []byte {
	if o.ifThere || o.ifAbsent {
		if _, there := e.get(h, o.name); there != o.ifThere {
			return nil
		}
	}
	v := o.value.fixed
	if v == nil {
		at := len(e.space)
		e.space = o.value.append(e.space, c)
		v = e.space[at:len(e.space):len(e.space)]
	}
	if len(v) == 0 && !o.keepEmpty {
		return nil
	}
	return v
}

// framing are the fields that decide where a message ends and whose connection it is; nothing in a configuration may touch
// them. Host and pseudo headers are refused as Envoy does.
var framing = nameSet("host connection content-length transfer-encoding keep-alive proxy-connection te trailer upgrade expect")

func compileLevel(path string, add []*corev3.HeaderValueOption, remove []string) (l level, err error) {
	for _, name := range remove {
		name = strings.ToLower(name)
		if err := checkName(name); err != nil {
			return l, fmt.Errorf("%s_to_remove: %w", path, err)
		}
		l.remove = append(l.remove, name)
	}
	for i, h := range add {
		o, set, err := compileOperation(h)
		if err != nil {
			return l, fmt.Errorf("%s_to_add[%d]: %w", path, i, err)
		}
		if set {
			l.set = append(l.set, o)
		} else {
			l.add = append(l.add, o)
		}
	}
	return l, nil
}

func compileOperation(h *corev3.HeaderValueOption) (o operation, set bool, err error) {
	o = operation{name: strings.ToLower(h.GetHeader().GetKey()), keepEmpty: h.GetKeepEmptyValue()}
	o.key = []byte(o.name)
	if err := checkName(o.name); err != nil {
		return o, false, err
	}
	value := h.GetHeader().GetValue()
	if raw := h.GetHeader().GetRawValue(); len(raw) > 0 {
		value = string(raw)
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return o, false, fmt.Errorf("%s: a control character in the value", o.name)
	}
	if o.value, err = compileFormat(value); err != nil {
		return o, false, fmt.Errorf("%s: %w", o.name, err)
	}
	action := h.GetAppendAction()
	if a := h.GetAppend(); a != nil {
		if action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD; a.GetValue() {
			action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		}
	}
	switch action {
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		o.ifAbsent = true
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		o.ifThere, set = true, true
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		set = true
	}
	return o, set, nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name of a header is empty")
	case name[0] == ':' || framing[name]:
		return fmt.Errorf("header %s can't be changed here", name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return fmt.Errorf("%q is no header name", name)
		}
	}
	return nil
}

// format is a header's value with Envoy's command operators.
type format struct {
	fixed []byte // a value without operators; not nil then
	parts []part
}

type part struct {
	text string // of a part that is fixed
	op   func(dst []byte, c *Context, p *part) []byte
	name string // of a header
	alt  string
	max  int // 0: no limit
}

func (f *format) append(dst []byte, c *Context) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		if p.op == nil {
			dst = append(dst, p.text...)
			continue
		}
		at := len(dst)
		dst = p.op(dst, c, p)
		if p.max > 0 && len(dst)-at > p.max {
			dst = dst[:at+p.max]
		}
	}
	return dst
}

// operators are the command operators that are served, with the meaning they have in Envoy; what is not known gives
// nothing.
var operators = map[string]func(dst []byte, c *Context, p *part) []byte{
	"DOWNSTREAM_REMOTE_ADDRESS": func(dst []byte, c *Context, _ *part) []byte {
		return appendAddrPort(append(dst, c.Info.DownstreamPath...), c.Info.DownstreamRemote)
	},
	"DOWNSTREAM_LOCAL_ADDRESS": func(dst []byte, c *Context, _ *part) []byte {
		return appendAddrPort(append(dst, c.Info.DownstreamPath...), local(c))
	},
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": func(dst []byte, c *Context, _ *part) []byte {
		return appendAddr(append(dst, c.Info.DownstreamPath...), c.Info.DownstreamRemote.Addr())
	},
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": func(dst []byte, c *Context, _ *part) []byte {
		return appendAddr(append(dst, c.Info.DownstreamPath...), local(c).Addr())
	},
	"DOWNSTREAM_LOCAL_PORT": func(dst []byte, c *Context, _ *part) []byte {
		return strconv.AppendUint(dst, uint64(local(c).Port()), 10)
	},
	"PROTOCOL":   func(dst []byte, c *Context, _ *part) []byte { return append(dst, c.Info.Protocol.String()...) },
	"ROUTE_NAME": func(dst []byte, c *Context, _ *part) []byte { return append(dst, c.Info.Route...) },
	"UPSTREAM_CLUSTER": func(dst []byte, c *Context, _ *part) []byte {
		return append(dst, cmp.Or(c.ClusterStat, c.Cluster)...)
	},
	"UPSTREAM_CLUSTER_RAW": func(dst []byte, c *Context, _ *part) []byte { return append(dst, c.Cluster...) },
	"UPSTREAM_HOST":        func(dst []byte, c *Context, _ *part) []byte { return appendAddrPort(dst, c.Info.UpstreamHost) },
	"START_TIME": func(dst []byte, c *Context, _ *part) []byte {
		return c.Info.Start.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	},
	"RESPONSE_CODE": func(dst []byte, c *Context, _ *part) []byte {
		if c.Response == nil || c.Local {
			return append(dst, '0') // what Envoy gives while there is none
		}
		return strconv.AppendInt(dst, int64(c.Response.Status), 10)
	},
	"REQ":  func(dst []byte, c *Context, p *part) []byte { return appendHeader(dst, c.request, p) },
	"RESP": func(dst []byte, c *Context, p *part) []byte { return appendHeader(dst, c.response, p) },
}

// local is where the client meant to connect to.
func local(c *Context) netip.AddrPort {
	if c.Info.OriginalDst.IsValid() {
		return c.Info.OriginalDst
	}
	return c.Info.DownstreamLocal
}

func appendAddrPort(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return dst
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst)
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return dst
	}
	return a.Unmap().AppendTo(dst)
}

func appendHeader(dst []byte, get func(string) ([]byte, bool), p *part) []byte {
	v, there := get(p.name)
	if !there && p.alt != "" {
		v, _ = get(p.alt)
	}
	return append(dst, v...)
}

func (c *Context) request(name string) ([]byte, bool) {
	if c.authority != "" && (name == ":authority" || name == "host") {
		return []byte(c.authority), true
	}
	if isPseudo(name) {
		return headerValue(c.Query, name)
	}
	if c.Query.Head == nil {
		return nil, false
	}
	return c.Request.get(c.Query.Head, name)
}

func (c *Context) response(name string) ([]byte, bool) {
	if c.Response == nil {
		return nil, false
	}
	var none Edit
	return none.get(c.Response, name)
}

func compileFormat(s string) (f format, err error) {
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			f.parts = append(f.parts, part{text: text.String()})
			text.Reset()
		}
	}
	for s != "" {
		before, rest, found := strings.Cut(s, "%")
		text.WriteString(before)
		if !found {
			break
		}
		if strings.HasPrefix(rest, "%") {
			text.WriteByte('%')
			s = rest[1:]
			continue
		}
		op, after, closed := strings.Cut(rest, "%")
		if !closed {
			return f, fmt.Errorf("a single %% in the value; write %%%% for the sign itself")
		}
		p, err := compileOperator(op)
		if err != nil {
			return f, err
		}
		flush()
		f.parts = append(f.parts, p)
		s = after
	}
	flush()
	switch {
	case len(f.parts) == 0:
		f.fixed = []byte{}
	case len(f.parts) == 1 && f.parts[0].op == nil:
		f.fixed = []byte(f.parts[0].text)
	}
	return f, nil
}

// compileOperator reads NAME, NAME:LENGTH, and REQ(HEADER?ALTERNATIVE):LENGTH.
func compileOperator(s string) (p part, err error) {
	name, rest := s, ""
	if i := strings.IndexAny(s, "(:"); i >= 0 {
		name, rest = s[:i], s[i:]
	}
	header := name == "REQ" || name == "RESP"
	if p.op = operators[name]; p.op == nil || header != strings.HasPrefix(rest, "(") {
		return p, fmt.Errorf("the operator %%%s%% is not supported yet", s)
	}
	if header {
		args, after, closed := strings.Cut(rest[1:], ")")
		p.name, p.alt, _ = strings.Cut(strings.ToLower(args), "?")
		if !closed || p.name == "" {
			return p, fmt.Errorf("%%%s%% is no operator", s)
		}
		rest = after
	}
	if rest != "" {
		if p.max, err = strconv.Atoi(strings.TrimPrefix(rest, ":")); err != nil || p.max <= 0 {
			return p, fmt.Errorf("%%%s%% is no operator", s)
		}
	}
	return p, nil
}
