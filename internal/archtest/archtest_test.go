package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "detour.dev/detour/"

// rule forbids imports. Prefixes are of import paths; inside the module without the module's path.
type rule struct {
	from   string   // packages it holds for
	except []string // packages below from that may
	never  []string // what they must not import
	why    string
}

var rules = []rule{
	{from: "internal/config", never: []string{"internal/dataplane", "internal/ads", "internal/admin", "internal/app", "internal/cli", "internal/intercept", "internal/stats"},
		why: "the compiler knows of the engines only what internal/xds says"},
	{from: "internal/dataplane", never: []string{"internal/config", "internal/ads", "internal/admin", "internal/app", "internal/cli", "internal/intercept"},
		why: "the engine knows of the configuration only what internal/xds says"},
	{from: "internal/xds", never: []string{"internal"}, why: "the waist depends on nobody"},
	{from: "internal/stats", never: []string{"internal"}, why: "whoever counts imports stats, never the reverse"},
	{from: "internal/dns", never: []string{"internal"}, why: "a resolver knows nothing of proxies"},
	{from: "internal/intercept", never: []string{"internal/config", "internal/dataplane", "internal/admin", "internal/app", "internal/cli"},
		why: "capturing connections and serving them are two things"},
	{from: "internal/admin", never: []string{"internal/config", "internal/dataplane", "internal/app", "internal/cli"},
		why: "the admin API knows the process by its State interface"},
	{from: "internal/dataplane/codec", never: []string{"internal", "os", "time"}, why: "the codec does no I/O (rule 8)"},
	{from: "internal/config/translate", never: []string{"os", "net/http", "context", "log"}, why: "translation is a pure function"},
	{from: "internal/app", never: []string{"internal/cli"}, why: "the command line is the outermost layer"},
	{from: "", except: []string{"internal/config"}, never: []string{"istio.io/", "k8s.io/"}, why: "Istio's and Kubernetes' types stay in internal/config"},
	{from: "", except: []string{"internal/config/source/kube"}, never: []string{"k8s.io/client-go"}, why: "only the source talks to Kubernetes"},
	{from: "", except: []string{"internal/ads"}, never: []string{"github.com/envoyproxy/go-control-plane/pkg"}, why: "only ads serves xDS"},
}

// importsOf gives the imports of every package of the module, test files left out.
func importsOf(t *testing.T, root string) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != root || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		if out[pkg] == nil {
			out[pkg] = map[string]string{}
		}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			out[pkg][strings.TrimPrefix(name, module)] = p
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func under(pkg, prefix string) bool {
	return prefix == "" || pkg == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(pkg, strings.TrimSuffix(prefix, "/")+"/")
}

// breaks gives the rules that one import breaks.
func breaks(pkg, imported string) (out []string) {
	for _, r := range rules {
		if !under(pkg, r.from) || anyUnder(pkg, r.except) {
			continue
		}
		for _, n := range r.never {
			// A package may import what lies below the folder that the rule is about.
			if under(imported, n) && !(r.from != "" && under(imported, r.from)) {
				out = append(out, r.why)
			}
		}
	}
	return out
}

func anyUnder(pkg string, prefixes []string) bool {
	for _, p := range prefixes {
		if under(pkg, p) {
			return true
		}
	}
	return false
}

func TestArrows(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	all := importsOf(t, root)
	if len(all) < 20 {
		t.Fatalf("found %d packages only: the walk is broken", len(all))
	}
	for pkg, imports := range all {
		for imported, file := range imports {
			for _, why := range breaks(pkg, imported) {
				t.Errorf("%s imports %s: %s", file, imported, why)
			}
		}
	}
}

func TestRulesCatch(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		want          int
	}{
		{"internal/config/analyze", "internal/dataplane/lb", 1},
		{"internal/dataplane/route", "internal/config", 1},
		{"internal/dataplane/route", "internal/xds", 0},
		{"internal/cli", "istio.io/api/networking/v1alpha3", 1},
		{"internal/config/decode", "istio.io/api/networking/v1alpha3", 0},
		{"internal/config/decode", "k8s.io/client-go/rest", 1},
		{"internal/dataplane/codec/http1", "time", 1},
		{"internal/dataplane/codec/http1", "internal/dataplane/codec", 0},
		{"internal/xds", "internal/config", 1},
	} {
		if got := len(breaks(c.pkg, c.imported)); got != c.want {
			t.Errorf("%s importing %s breaks %d rules, want %d", c.pkg, c.imported, got, c.want)
		}
	}
}
