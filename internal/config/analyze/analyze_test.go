package analyze

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/xds"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller is a node group in a locality; "" is none.
func caller(region string) xds.NodeGroup {
	g := xds.NodeGroup{IPv4: true}
	if region != "" {
		g.Locality = &corev3.Locality{Region: region}
	}
	return g
}

// analyse runs the analysis on YAML, as the command does.
func analyse(t *testing.T, yaml string, opt Options) Result {
	t.Helper()
	set, issues := load(t, yaml)
	return Run(context.Background(), set, issues, opt)
}

func load(t *testing.T, yaml string) (*config.Set, []config.Issue) {
	t.Helper()
	set, issues, err := pipeline.LoadOnce([]string{"-"}, strings.NewReader(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return set, issues
}

// TestGolden analyses each file of testdata for the caller its first line names ("all" is --all-localities).
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(in), "\n")
			who, ok := strings.CutPrefix(first, "# caller:")
			if !ok {
				t.Fatal("the first line names no caller")
			}
			opt := Options{Group: caller(strings.TrimSpace(who))}
			if strings.TrimSpace(who) == "all" {
				opt = Options{Group: caller(""), AllLocalities: true}
			}
			var got bytes.Buffer
			for _, i := range analyse(t, string(in), opt).Issues {
				got.WriteString(i.String() + "\n")
			}
			golden := strings.TrimSuffix(f, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestEjectable holds the arithmetic against what a real Envoy did with two endpoints (SEMANTICS §4).
func TestEjectable(t *testing.T) {
	for _, tc := range []struct{ percent, n, want int }{
		{10, 2, 0}, {49, 2, 0}, {50, 2, 1}, {99, 2, 1}, {100, 2, 2}, {10, 9, 0}, {10, 10, 1}, {10, 16, 1}, {99, 100, 99}, {99, 1, 0},
	} {
		if got := ejectable(tc.percent, tc.n); got != tc.want {
			t.Errorf("%d %% of %d: %d, want %d", tc.percent, tc.n, got, tc.want)
		}
	}
}
