package route

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// PathRewrite is prefix_rewrite or regex_rewrite.
type PathRewrite struct {
	prefix       string
	regex        *regexp.Regexp
	substitution []substitute
}

// substitute is fixed text, or what a group of the expression has matched.
type substitute struct {
	text  string
	group int // -1: text
}

// compilePathRewrite gives nil where nothing is rewritten.
func compilePathRewrite(prefix string, rx *matcherv3.RegexMatchAndSubstitute) (*PathRewrite, error) {
	if rx == nil {
		if prefix == "" {
			return nil, nil
		}
		if err := checkText("prefix_rewrite", prefix); err != nil {
			return nil, err
		}
		return &PathRewrite{prefix: prefix}, nil
	}
	if err := checkText("regex_rewrite.substitution", rx.GetSubstitution()); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(rx.GetPattern().GetRegex())
	if err != nil {
		return nil, fmt.Errorf("regex_rewrite.pattern: %w", err)
	}
	sub, err := compileSubstitution(rx.GetSubstitution(), re.NumSubexp())
	if err != nil {
		return nil, fmt.Errorf("regex_rewrite.substitution: %w", err)
	}
	return &PathRewrite{regex: re, substitution: sub}, nil
}

// checkText refuses what would end a line of a head.
func checkText(field, text string) error {
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("%s: a control character in %q", field, text)
	}
	return nil
}

// compileSubstitution reads RE2's rewrite syntax: \0 to \9 are groups, \\ a backslash.
func compileSubstitution(s string, groups int) ([]substitute, error) {
	var out []substitute
	var text strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			text.WriteByte(s[i])
			continue
		}
		i++
		switch {
		case i < len(s) && s[i] == '\\':
			text.WriteByte('\\')
		case i < len(s) && s[i] >= '0' && s[i] <= '9':
			n := int(s[i] - '0')
			if n > groups {
				return nil, fmt.Errorf(`\%d: the pattern has %d groups`, n, groups)
			}
			out = append(out, substitute{text.String(), -1}, substitute{"", n})
			text.Reset()
		default:
			return nil, fmt.Errorf(`a backslash must stand before a digit or a backslash`)
		}
	}
	return append(out, substitute{text.String(), -1}), nil
}

// Append appends the path that goes upstream; the query stays.
func (w *PathRewrite) Append(dst []byte, r *Route, path []byte) []byte {
	just := WithoutQuery(path)
	if w.regex == nil {
		dst = append(dst, w.prefix...)
		return append(dst, path[r.match.prefixLength(just):]...)
	}
	return append(w.replaceAll(dst, just), path[len(just):]...)
}

func (w *PathRewrite) replaceAll(dst, path []byte) []byte {
	at := 0
	for _, m := range w.regex.FindAllSubmatchIndex(path, -1) {
		dst = append(dst, path[at:m[0]]...)
		for _, s := range w.substitution {
			if s.group < 0 {
				dst = append(dst, s.text...)
			} else if from := m[2*s.group]; from >= 0 {
				dst = append(dst, path[from:m[2*s.group+1]]...)
			}
		}
		at = m[1]
	}
	return append(dst, path[at:]...)
}

// Redirect is a redirect action.
type Redirect struct {
	Status     int
	scheme     string
	host       string
	port       string // with its colon
	path       string
	rewrite    *PathRewrite
	stripQuery bool
}

func (r *Route) compileRedirect(a *routev3.RedirectAction) error {
	out := &Redirect{host: a.GetHostRedirect(), stripQuery: a.GetStripQuery(), path: a.GetPathRedirect(), scheme: strings.ToLower(a.GetSchemeRedirect())}
	if a.GetHttpsRedirect() {
		out.scheme = "https"
	}
	if out.path != "" && out.path[0] != '/' {
		out.path = "/" + out.path
	}
	if p := a.GetPortRedirect(); p > 0 {
		out.port = ":" + strconv.FormatUint(uint64(p), 10)
	}
	var err error
	if out.rewrite, err = compilePathRewrite(a.GetPrefixRewrite(), a.GetRegexRewrite()); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	switch a.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		out.Status = http.StatusMovedPermanently
	case routev3.RedirectAction_FOUND:
		out.Status = http.StatusFound
	case routev3.RedirectAction_SEE_OTHER:
		out.Status = http.StatusSeeOther
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		out.Status = http.StatusTemporaryRedirect
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		out.Status = http.StatusPermanentRedirect
	default:
		return fmt.Errorf("redirect.response_code: %s is not supported yet", a.GetResponseCode())
	}
	for _, text := range []string{out.scheme, out.host, out.path} {
		if strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return fmt.Errorf("redirect: %q can't be part of a URI", text)
		}
	}
	r.Redirect = out
	return nil
}

// Location appends where a request is redirected to (Envoy's Http::Utility::newUri), or, for a direct response that has a
// Location in Envoy, where it came to.
func (r *Route) Location(dst []byte, q *Query) []byte {
	to := r.Redirect
	if to == nil {
		to = &Redirect{}
	}
	scheme := q.Scheme()
	if to.scheme != "" {
		scheme = []byte(to.scheme)
	}
	dst = append(append(dst, scheme...), "://"...)
	if to.host != "" {
		dst = append(dst, to.host...)
	} else {
		dst = append(dst, to.sameHost(q, scheme)...)
	}
	return to.appendPath(append(dst, to.port...), r, q.Path)
}

// RedirectPath is what changes in the path of a request that is redirected; nil: nothing.
func (r *Route) RedirectPath() *PathRewrite {
	if r.Redirect == nil {
		return nil
	}
	return r.Redirect.rewrite
}

// sameHost is the request's host without a port that is replaced, or that was the default of the scheme that is.
func (to *Redirect) sameHost(q *Query, scheme []byte) []byte {
	host, port := http1.SplitAuthority(q.Authority)
	if len(port) == 0 {
		return q.Authority
	}
	was := q.Scheme()
	if to.port != "" || !bytes.Equal(was, scheme) && (string(was) == "http" && string(port) == "80" || string(was) == "https" && string(port) == "443") {
		return host
	}
	return q.Authority
}

func (to *Redirect) appendPath(dst []byte, r *Route, path []byte) []byte {
	query := path[len(WithoutQuery(path)):]
	switch {
	case to.path != "" && strings.Contains(to.path, "?"):
		return append(dst, to.path...)
	case to.path != "":
		dst, path = append(dst, to.path...), query
	case to.rewrite != nil:
		at := len(dst)
		if dst = to.rewrite.Append(dst, r, path); at == len(dst) || dst[at] != '/' {
			dst = slices.Insert(dst, at, '/')
		}
		dst, path = dst[:len(dst)-len(query)], query
	default:
		dst, path = append(dst, path[:len(path)-len(query)]...), query
	}
	if to.stripQuery {
		return dst
	}
	return append(dst, path...)
}
