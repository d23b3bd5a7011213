package route

//lint:file-ignore SA1019 foreign snapshots may still use deprecated fields

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// match is a compiled RouteMatch: everything it names is demanded at once. The zero match takes every path.
type match struct {
	kind     pathKind
	fold     bool // the path's letters without case
	path     string
	regex    *regexp.Regexp
	fraction *Fraction
	headers  []headerMatcher
	query    []queryMatcher
}

type pathKind uint8

const (
	prefixPath pathKind = iota
	exactPath
	separatedPath // a prefix that ends where the path does, or at a slash
	regexPath
)

func (m *match) matches(q *Query, path []byte) bool {
	return m.matchesPath(path) && (len(m.headers)|len(m.query) == 0 && m.fraction == nil || m.matchesRest(q))
}

func (m *match) matchesPath(path []byte) bool {
	switch m.kind {
	case regexPath:
		return m.regex.Match(path)
	case exactPath:
		return len(path) == len(m.path) && m.begins(path)
	case separatedPath:
		return len(path) >= len(m.path) && m.begins(path) && (len(path) == len(m.path) || path[len(m.path)] == '/')
	}
	if string(path) == "*" { // OPTIONS * has no path and fits every prefix
		return true
	}
	return len(path) >= len(m.path) && m.begins(path)
}

// begins compares the beginning of a path that is long enough.
func (m *match) begins(path []byte) bool {
	if m.fold {
		return http1.EqualFold(path[:len(m.path)], m.path)
	}
	return string(path[:len(m.path)]) == m.path
}

func (m *match) matchesRest(q *Query) bool {
	if m.fraction != nil && !m.fraction.Hit(q.Random) {
		return false
	}
	for i := range m.headers {
		if !m.headers[i].matches(q) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].matches(q.Path) {
			return false
		}
	}
	return true
}

// prefixLength is how much of a path prefix_rewrite replaces: what the match named.
func (m *match) prefixLength(path []byte) int {
	if m.kind == prefixPath || m.kind == separatedPath {
		return min(len(m.path), len(path))
	}
	return len(path)
}

func compileMatch(m *routev3.RouteMatch) (out match, err error) {
	refused := refuseFields(m, "match", "prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers query_parameters")
	if m.GetCaseSensitive() != nil {
		out.fold = !m.GetCaseSensitive().GetValue()
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.path = p.Prefix
	case *routev3.RouteMatch_Path:
		out.path, out.kind = p.Path, exactPath
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.path, out.kind = p.PathSeparatedPrefix, separatedPath
	case *routev3.RouteMatch_SafeRegex:
		if out.regex, err = fullMatch(p.SafeRegex); err != nil {
			return match{}, fmt.Errorf("match.safe_regex: %w", err)
		}
		out.kind = regexPath
	default:
		if refused == nil {
			refused = fmt.Errorf("match: a path specifier is missing")
		}
	}
	if out.fold {
		out.path = strings.ToLower(out.path)
	}
	if f := m.GetRuntimeFraction(); f != nil {
		fr := fractionOf(f.GetDefaultValue())
		out.fraction = &fr
	}
	for i, h := range m.GetHeaders() {
		c, err := compileHeader(h)
		if err != nil {
			return out, fmt.Errorf("match.headers[%d]: %w", i, err)
		}
		out.headers = append(out.headers, c)
	}
	for i, p := range m.GetQueryParameters() {
		c, err := compileQuery(p)
		if err != nil {
			return out, fmt.Errorf("match.query_parameters[%d]: %w", i, err)
		}
		out.query = append(out.query, c)
	}
	return out, refused
}

// headerMatcher is a compiled HeaderMatcher.
type headerMatcher struct {
	name         string // lower case
	kind         headerKind
	text         stringMatcher
	start, end   int64 // of a range
	present      bool
	invert       bool
	missingEmpty bool // treat_missing_header_as_empty
}

type headerKind uint8

const (
	headerPresent headerKind = iota
	headerString
	headerRange
)

// matches as Envoy does (HeaderUtility, since 1.37): one of several values has to fit, and where the match is inverted
// none may; but the values of fields that Envoy keeps as one are joined by a comma. A header that is missing fits only
// where that is what is asked for, whether or not the match is inverted.
func (m *headerMatcher) matches(q *Query) bool {
	if q.Head == nil || singleRequest[m.name] || isPseudo(m.name) {
		value, there := headerValue(q, m.name)
		if !there && !m.missingEmpty {
			return m.kind == headerPresent && m.present == m.invert
		}
		return m.fits(value) != m.invert
	}
	there, fits := false, false
	for i := range q.Head.Fields {
		f := &q.Head.Fields[i]
		if len(f.Name) == len(m.name) && http1.EqualFold(f.Name, m.name) {
			there, fits = true, fits || m.fits(f.Value)
		}
	}
	switch {
	case !there && !m.missingEmpty:
		return m.kind == headerPresent && m.present == m.invert
	case !there:
		fits = m.fits(nil)
	}
	return fits != m.invert
}

// fits tells whether one value does.
func (m *headerMatcher) fits(value []byte) bool {
	switch m.kind {
	case headerString:
		return m.text.matches(value)
	case headerRange:
		n, ok := parseInt(value)
		return ok && n >= m.start && n < m.end
	}
	return m.present
}

// isPseudo says that a name is not that of a field: what it stands for is in Query.
func isPseudo(name string) bool { return name[0] == ':' || name == "host" }

func parseInt(v []byte) (int64, bool) {
	if len(v) > 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}

// headerValue gives a header of the request, name in lower case, until the next is asked for.
func headerValue(q *Query, name string) (value []byte, there bool) {
	switch name {
	case ":authority", "host":
		return q.Authority, true
	case ":path":
		return q.Path, true
	case ":scheme":
		return q.Scheme(), true
	case ":method":
		if q.Head == nil {
			return nil, false
		}
		return q.Head.Method, true
	}
	if q.Head == nil {
		return nil, false
	}
	return FieldValue(q.Head, name, &q.space)
}

// FieldValue gives a field of a head, name in lower case. Several values, but for empty ones, are joined by a comma, in
// space.
func FieldValue(h *http1.Head, name string, space *[]byte) (value []byte, there bool) {
	joined := (*space)[:0]
	for i := range h.Fields {
		f := &h.Fields[i]
		if len(f.Name) != len(name) || !http1.EqualFold(f.Name, name) {
			continue
		}
		if !there || len(value) == 0 {
			value, there = f.Value, true
			continue
		}
		if len(f.Value) == 0 {
			continue
		}
		if len(joined) == 0 {
			joined = append(joined, value...)
		}
		joined = append(append(joined, ','), f.Value...)
		value, *space = joined, joined
	}
	return value, there
}

var schemeHTTP, schemeHTTPS = []byte("http"), []byte("https")

// Scheme is what Envoy takes the request's scheme for: what X-Forwarded-Proto says, else http.
func (q *Query) Scheme() []byte {
	if q.Head != nil {
		if v, ok := FieldValue(q.Head, "x-forwarded-proto", &q.space); ok {
			switch {
			case http1.EqualFold(v, "https"):
				return schemeHTTPS
			case http1.EqualFold(v, "http"):
				return schemeHTTP
			}
		}
	}
	return schemeHTTP
}

// compileHeader reads a HeaderMatcher, in its deprecated forms too.
func compileHeader(h *routev3.HeaderMatcher) (headerMatcher, error) {
	out := headerMatcher{name: strings.ToLower(h.GetName()), present: true, invert: h.GetInvertMatch(), missingEmpty: h.GetTreatMissingHeaderAsEmpty()}
	if out.name == "" {
		return out, fmt.Errorf("name is empty")
	}
	plain := func(m *matcherv3.StringMatcher) (err error) {
		out.kind = headerString
		out.text, err = compileString(m)
		return err
	}
	switch m := h.GetHeaderMatchSpecifier().(type) {
	case nil:
	case *routev3.HeaderMatcher_PresentMatch:
		out.present = m.PresentMatch
	case *routev3.HeaderMatcher_StringMatch:
		return out, plain(m.StringMatch)
	case *routev3.HeaderMatcher_ExactMatch:
		return out, plain(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m.ExactMatch}})
	case *routev3.HeaderMatcher_PrefixMatch:
		return out, plain(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: m.PrefixMatch}})
	case *routev3.HeaderMatcher_SuffixMatch:
		return out, plain(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: m.SuffixMatch}})
	case *routev3.HeaderMatcher_ContainsMatch:
		return out, plain(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: m.ContainsMatch}})
	case *routev3.HeaderMatcher_SafeRegexMatch:
		return out, plain(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: m.SafeRegexMatch}})
	case *routev3.HeaderMatcher_RangeMatch:
		out.kind, out.start, out.end = headerRange, m.RangeMatch.GetStart(), m.RangeMatch.GetEnd()
	default:
		return out, fmt.Errorf("%T is not supported yet", m)
	}
	return out, nil
}

func compileHeaders(list []*routev3.HeaderMatcher) ([]headerMatcher, error) {
	var out []headerMatcher
	for i, h := range list {
		c, err := compileHeader(h)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// queryMatcher is a compiled QueryParameterMatcher.
type queryMatcher struct {
	name    string
	text    *stringMatcher // nil: only whether it is there
	present bool
}

// matches looks at the first parameter with the name, as it was sent: Envoy does not decode it here.
func (m *queryMatcher) matches(path []byte) bool {
	value, there := QueryParameter(path, m.name)
	if m.text == nil {
		return there == m.present
	}
	return there && m.text.matches(value)
}

// QueryParameter gives the first parameter with that name in the path's query, as it was sent.
func QueryParameter(path []byte, name string) (value []byte, there bool) {
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil, false
	}
	for rest := path[i+1:]; len(rest) > 0; {
		var one []byte
		one, rest, _ = bytes.Cut(rest, []byte{'&'})
		key, v, _ := bytes.Cut(one, []byte{'='})
		if string(key) == name {
			return v, true
		}
	}
	return nil, false
}

func compileQuery(p *routev3.QueryParameterMatcher) (queryMatcher, error) {
	out := queryMatcher{name: p.GetName(), present: true}
	switch m := p.GetQueryParameterMatchSpecifier().(type) {
	case nil:
	case *routev3.QueryParameterMatcher_PresentMatch:
		out.present = m.PresentMatch
	case *routev3.QueryParameterMatcher_StringMatch:
		s, err := compileString(m.StringMatch)
		if err != nil {
			return out, err
		}
		out.text = &s
	}
	return out, nil
}
