package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/config/source/dir"
	"detour.dev/detour/internal/xds"
)

// TestLive runs the pipeline over a real directory: writes in place, a rename, a file that goes.
func TestLive(t *testing.T) {
	folder := t.TempDir()
	put := func(name, data string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("se.yaml", walkthrough(t, "1-service-entry"))
	sets := make(chan *config.Set, 100)
	n := 0
	lines := make(logLines, 100)
	p := New(Config{
		Source: dir.New([]string{folder}, dir.Options{}),
		Sink:   &refusingSink{},
		Log:    slog.New(slog.NewTextHandler(lines, nil)),
		Translate: func(s *config.Set, _ xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
			sets <- s
			n++
			return &xds.Snapshot{Version: fmt.Sprint(n)}, nil
		},
		StateFile: filepath.Join(t.TempDir(), "addresses.json"),
		KeepGoing: true,
	})
	if err := p.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	vips, _ := (<-sets).VIPs("mydb.com")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func(*config.Set) bool) {
		t.Helper()
		began, timeout := time.Now(), time.After(10*time.Second)
		for {
			select {
			case s := <-sets:
				if v, there := s.VIPs("mydb.com"); there && v != vips {
					t.Errorf("the address moved from %v to %v", vips, v)
				}
				if ok(s) {
					t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
					return
				}
			case <-timeout:
				t.Fatalf("%s: never", what)
			}
		}
	}
	port := func(s *config.Set) uint32 {
		for _, o := range s.All(config.ServiceEntry) {
			return o.Spec.(*networking.ServiceEntry).Endpoints[0].Ports["http"]
		}
		return 0
	}
	rules := func(s *config.Set) int { return len(s.All(config.DestinationRule)) }
	put("dr.yaml", walkthrough(t, "2-destination-rule"))
	until("a new rule", func(s *config.Set) bool { return rules(s) == 1 })
	put("se.yaml", walkthrough(t, "3-service-entry-us-east-down"))
	until("a changed port", func(s *config.Set) bool { return port(s) == 81 })
	put(".tmp", walkthrough(t, "1-service-entry"))
	if err := os.Rename(filepath.Join(folder, ".tmp"), filepath.Join(folder, "se.yaml")); err != nil {
		t.Fatal(err)
	}
	until("a rename", func(s *config.Set) bool { return port(s) == 80 })
	if err := os.Remove(filepath.Join(folder, "dr.yaml")); err != nil {
		t.Fatal(err)
	}
	until("a file gone", func(s *config.Set) bool { return rules(s) == 0 })
	for _, move := range []struct{ from, to, log string }{
		{folder, folder + "2", "stays in force until it is back"},
		{folder + "2", folder, "configuration error is gone"},
	} {
		if err := os.Rename(move.from, move.to); err != nil {
			t.Fatal(err)
		}
		lines.until(t, move.log)
		if s := p.Status().Set; port(s) != 80 {
			t.Errorf("%s: its objects are gone", move.log)
		}
	}
}

// logLines hands on what is logged, line by line; nobody need take it.
type logLines chan string

func (l logLines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func (l logLines) until(t *testing.T, part string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, part) {
				return
			}
		case <-timeout:
			t.Fatalf("%q was never logged", part)
		}
	}
}

// many gives n ServiceEntries of four endpoints, each with a DestinationRule, as one file.
func many(tb testing.TB, n int) string {
	one, two := walkthrough(tb, "1-service-entry"), walkthrough(tb, "2-destination-rule")
	var all strings.Builder
	for i := range n {
		r := strings.NewReplacer("mydb.com", fmt.Sprintf("h%d.com", i), "external-svc-dns", fmt.Sprintf("s%d", i), "mydynamodb", fmt.Sprintf("d%d", i))
		all.WriteString(r.Replace(one) + one[strings.Index(one, "  - address"):] + "---\n" + r.Replace(two) + "---\n")
	}
	return all.String()
}

func BenchmarkLoad(b *testing.B) {
	all := many(b, 1000)
	for b.Loop() {
		set, issues, err := LoadOnce([]string{"-"}, strings.NewReader(all))
		if err != nil || len(issues) > 0 || set.Len() != 2000 {
			b.Fatal(set, issues, err)
		}
	}
}

// BenchmarkEdit changes one value in one of 2,000 objects.
func BenchmarkEdit(b *testing.B) {
	all := many(b, 1000)
	at := strings.LastIndex(all, "15s")
	s := newStore()
	now := time.Now()
	s.update(source.Update{Files: []source.File{{Name: "f", Data: []byte(all)}}}, now)
	s.advance(now, true)
	for i := 0; b.Loop(); i++ {
		edited := all[:at] + fmt.Sprint(10+i%80) + all[at+2:]
		s.update(source.Update{Files: []source.File{{Name: "f", Data: []byte(edited)}}}, now)
		if changed := s.advance(now, false); !changed || len(s.result().objects) != 2000 {
			b.Fatal("the edit did not apply")
		}
	}
}
