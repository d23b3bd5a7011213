package route

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"detour.dev/detour/internal/dataplane/codec/http1"
)

// stringMatcher is a compiled StringMatcher.
type stringMatcher struct {
	kind  stringKind
	fold  bool // without case; text is in lower case then
	text  string
	part  []byte // text, of a stringContains
	regex *regexp.Regexp
}

type stringKind uint8

const (
	stringExact stringKind = iota
	stringPrefix
	stringSuffix
	stringContains
	stringRegex
)

func (m *stringMatcher) matches(v []byte) bool {
	n := len(m.text)
	switch m.kind {
	case stringRegex:
		return m.regex.Match(v)
	case stringExact:
		return len(v) == n && m.equal(v)
	case stringPrefix:
		return len(v) >= n && m.equal(v[:n])
	case stringSuffix:
		return len(v) >= n && m.equal(v[len(v)-n:])
	}
	if !m.fold {
		return bytes.Contains(v, m.part)
	}
	for ; len(v) >= n; v = v[1:] {
		if m.equal(v[:n]) {
			return true
		}
	}
	return false
}

func (m *stringMatcher) equal(v []byte) bool {
	if m.fold {
		return http1.EqualFold(v, m.text)
	}
	return string(v) == m.text
}

func compileString(s *matcherv3.StringMatcher) (out stringMatcher, err error) {
	switch m := s.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		out.text = m.Exact
	case *matcherv3.StringMatcher_Prefix:
		out.kind, out.text = stringPrefix, m.Prefix
	case *matcherv3.StringMatcher_Suffix:
		out.kind, out.text = stringSuffix, m.Suffix
	case *matcherv3.StringMatcher_Contains:
		out.kind, out.text, out.part = stringContains, m.Contains, []byte(m.Contains)
	case *matcherv3.StringMatcher_SafeRegex:
		out.kind = stringRegex
		out.regex, err = fullMatch(m.SafeRegex)
		return out, err // ignore_case has no effect on regular expressions
	default:
		return out, fmt.Errorf("string_match: %T is not supported yet", m)
	}
	if out.fold = s.GetIgnoreCase(); out.fold {
		out.text = strings.ToLower(out.text)
	}
	return out, nil
}

// fullMatch compiles an expression that must match all of a text (RE2 FullMatch; Go's syntax is RE2's).
func fullMatch(m *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(m.GetRegex()); err != nil {
		return nil, err // which quotes what was written
	}
	return regexp.Compile(`\A(?:` + m.GetRegex() + `)\z`)
}

// Fraction is a FractionalPercent.
type Fraction struct{ Numerator, Denominator uint32 }

// Hit says whether a random value falls within the fraction, as Envoy's evaluateFractionalPercent does.
func (f *Fraction) Hit(random uint64) bool {
	return random%uint64(f.Denominator) < uint64(f.Numerator)
}

func fractionOf(p *typev3.FractionalPercent) Fraction {
	f := Fraction{p.GetNumerator(), 100}
	switch p.GetDenominator() {
	case typev3.FractionalPercent_TEN_THOUSAND:
		f.Denominator = 10_000
	case typev3.FractionalPercent_MILLION:
		f.Denominator = 1_000_000
	}
	return f
}

// refuseFields names the first field of m that is set and not among the served ones, so that nothing is silently ignored.
func refuseFields(m proto.Message, path, served string) error {
	refused := ""
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		name := string(fd.Name())
		for rest := served; rest != ""; {
			var one string
			if one, rest, _ = strings.Cut(rest, " "); one == name {
				return true
			}
		}
		if refused == "" || name < refused {
			refused = name
		}
		return true
	})
	if refused == "" {
		return nil
	}
	return fmt.Errorf("%s.%s is not supported yet", path, refused)
}
