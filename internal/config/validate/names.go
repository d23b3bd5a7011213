package validate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The forms of names that istiod accepts (pkg/config/labels, pkg/config/validation): RFC 1123 labels, and Kubernetes'
// labels.
var (
	labelForm      = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	wildcardForm   = regexp.MustCompile(`^\*(-?[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)?$`)
	labelValueForm = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$`)
	onlyDigits     = regexp.MustCompile(`^[0-9]+$`)
)

func isLabel(s string) bool { return len(s) <= 63 && labelForm.MatchString(s) }

// isLabelValue has no limit on the length: Kubernetes allows 63 characters, istiod's validation any number.
func isLabelValue(s string) bool { return labelValueForm.MatchString(s) }

func isLabelKey(s string) bool {
	prefix, name, has := strings.Cut(s, "/")
	if !has {
		prefix, name = "", s
	}
	if len(name) > 63 || !isLabelValue(name) || len(prefix) > 253 {
		return false
	}
	return !has || !slices.ContainsFunc(strings.Split(prefix, "."), func(l string) bool { return !isLabel(l) })
}

// checkDomain says what is wrong with a domain name; wildcard allows "*" and "*-x" as its first label, and then a name of
// one label may be a number (istiod's ValidateFQDN and ValidateWildcardDomain).
func checkDomain(name string, wildcard bool) error {
	if name == "" {
		return fmt.Errorf("is empty; wants a host name")
	}
	if len(name) > maxName {
		return fmt.Errorf("has %d characters; allowed: %d", len(name), maxName)
	}
	parts := strings.Split(strings.TrimSuffix(name, "."), ".")
	for i, p := range parts {
		switch {
		case wildcard && i == 0 && len(p) <= 63 && wildcardForm.MatchString(p):
		case strings.Contains(p, "*") && !wildcard:
			return fmt.Errorf("%q is not a full host name: no wildcard is allowed here", name)
		case strings.Contains(p, "*"):
			return fmt.Errorf("%q: a wildcard may only begin the name, as in \"*.example.com\"", name)
		case !isLabel(p):
			return fmt.Errorf("%q is not a host name: %q is no label of one (letters, digits and '-', at most 63)", name, p)
		}
	}
	if last := parts[len(parts)-1]; onlyDigits.MatchString(last) && !(wildcard && len(parts) == 1) && !strings.HasSuffix(name, ".") {
		return fmt.Errorf("%q is not a host name: its last label is a number", name)
	}
	return nil
}

// isPartialWildcard tells whether a wildcard is only part of the first label, as in "*-x.example.com".
func isPartialWildcard(host string) bool {
	return len(host) > 1 && strings.HasPrefix(host, "*") && !strings.HasPrefix(host, "*.")
}

// isIP takes a zone too, as istiod does.
func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isCIDR tells whether s is an IP prefix.
func isCIDR(s string) bool {
	_, err := netip.ParsePrefix(s)
	return err == nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
