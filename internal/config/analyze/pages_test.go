package analyze

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

const pagesDir = "../../../docs/analysis"

// TestPagesAreCurrent: docs/analysis holds what Pages say, and nothing else.
func TestPagesAreCurrent(t *testing.T) {
	want := map[string]string{"README.md": Index()}
	for _, p := range Pages() {
		want[p.Code+".md"] = p.Markdown()
	}
	if *update {
		if err := os.MkdirAll(pagesDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(pagesDir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(pagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(pagesDir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want[f.Name()], string(got)); d != "" {
			t.Errorf("%s: go generate ./internal/config/analyze writes it anew: -want +got:\n%s", f.Name(), d)
		}
		delete(want, f.Name())
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

// TestPagesAreAll: every code has one title, pages are sorted, and every code of analysis and translation has a page.
func TestPagesAreAll(t *testing.T) {
	pages := Pages()
	titles := Titles()
	if len(titles) != len(pages) {
		t.Error("a code has two pages")
	}
	for code := range translate.Codes {
		if titles[code] == "" && code != translate.CodePortConflict {
			t.Errorf("%s has no page", code)
		}
	}
	for _, p := range pages {
		if p.Title == "" || strings.TrimSpace(p.Why) == "" || p.Bad == "" {
			t.Errorf("%s lacks something", p.Code)
		}
		for _, line := range strings.Split(p.Why, "\n") {
			if len([]rune(line)) > 130 {
				t.Errorf("%s: a line of %d characters", p.Code, len([]rune(line)))
			}
		}
		if got, ok := Explain(strings.ToLower(p.Code)); !ok || got.Title != p.Title {
			t.Errorf("%s can't be explained", p.Code)
		}
	}
	if _, ok := Explain("DTR9999"); ok {
		t.Error("DTR9999 is explained")
	}
}

// TestPagesExamples: the first example gives its page's code and no other warning, the mended one gives it no more and
// nothing else either.
func TestPagesExamples(t *testing.T) {
	network := exampleNetwork(t)
	for _, p := range Pages() {
		t.Run(p.Code, func(t *testing.T) {
			warnings, all := exampleCodes(t, p, p.Bad, network)
			if !slices.Contains(all, p.Code) || len(warnings) > 0 && !slices.Equal(warnings, []string{p.Code}) && p.Code != CodeNobodyCertified {
				t.Errorf("the example gives %v, warnings %v", all, warnings)
			}
			if p.Good == "" {
				return
			}
			if warnings, all := exampleCodes(t, p, p.Good, network); len(warnings) > 0 || slices.Contains(all, p.Code) {
				t.Errorf("the mended example gives %v, warnings %v", all, warnings)
			}
		})
	}
}

// exampleCodes gives the codes of an example's findings: of warnings and errors, and of all.
func exampleCodes(t *testing.T, p Page, yaml string, network Network) (warnings, all []string) {
	t.Helper()
	opt := Options{Group: caller(""), Network: network}
	if where, ok := strings.CutPrefix(p.Flags, "--locality "); ok {
		opt.Group = caller(where)
	}
	opt.Files = p.Code == CodeNoCertFile // the others' files need not be there
	opt.Resolve, opt.Connect = p.Flags == "--resolve", p.Flags == "--connect"
	for _, i := range analyse(t, yaml, opt).Issues {
		if i.Severity != config.Note && !slices.Contains(warnings, i.Code) {
			warnings = append(warnings, i.Code)
		}
		all = append(all, i.Code)
	}
	return warnings, all
}

// exampleNetwork is the world of the examples: names under example.net, each an address with a certificate of its own.
func exampleNetwork(t *testing.T) Network {
	t.Helper()
	ca, stranger := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	ports := map[string]int{
		"192.0.2.1": serve(t, ca.issue(t, long, "mydb.example.net")),
		"192.0.2.2": closedPort(t),
		"192.0.2.3": serve(t, ca.issue(t, long, "other.example.net")),
		"192.0.2.4": serve(t, stranger.issue(t, long, "mydb.example.net")),
		"192.0.2.5": serve(t, ca.issue(t, 72*time.Hour, "mydb.example.net")),
	}
	names := map[string]string{
		"good.example.net": "192.0.2.1", "same.example.net": "192.0.2.1", "refuses.example.net": "192.0.2.2",
		"other-name.example.net": "192.0.2.3", "untrusted.example.net": "192.0.2.4", "expires.example.net": "192.0.2.5",
	}
	return Network{
		Roots: roots,
		Now:   func() time.Time { return noon },
		LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			if a, ok := names[host]; ok {
				return []netip.Addr{netip.MustParseAddr(a)}, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", ports[host]))
		},
	}
}
