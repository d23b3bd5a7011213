//go:build linux

package feature

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/bench/scale"
)

// The goals for 5,000 ServiceEntries with 4 endpoints and a DestinationRule each, on a quiet machine with two CPUs. One
// that runs other tests beside these may take scaleSlack times as long.
const (
	scaleHosts  = 5000
	scaleStart  = 1500 * time.Millisecond
	scaleEdit   = 100 * time.Millisecond
	scaleSlack  = 3
	scaleEdited = 42 // the host that changes
)

// TestScale: with 5,000 hosts a proxy starts fast, and a live edit that takes nothing away shows in /config_dump soon,
// whether each object has a file or one file has all.
func TestScale(t *testing.T) {
	for _, layout := range []string{"a file each", "one file"} {
		t.Run(layout, func(t *testing.T) {
			w := newWorld(t)
			w.east.http(80)
			docs := make([]string, scaleHosts)
			for i := range docs {
				docs[i] = scale.Document(i, 10)
			}
			docs[0] = strings.ReplaceAll(docs[0], "127.1.0.0", w.east.ip.String())
			path, text := w.lay(docs, layout == "one file")
			begin := time.Now()
			p := w.startProxy("r0/z0")
			app := w.client()
			await(t, "the first answer", func() bool { return app.do("GET", "http://host00000.example.com/", "").Status == 200 })
			if took := time.Since(begin); took > scaleSlack*scaleStart {
				t.Errorf("the first request was served after %v; on a quiet machine it should be %v", took, scaleStart)
			}
			best := time.Hour
			for round := range 8 {
				docs[scaleEdited] = scale.Document(scaleEdited, 20+round)
				want := fmt.Sprintf(`"load_balancing_weight": %d`, 20+round)
				now := text()
				written := time.Now()
				w.inPlace(path, now)
				await(t, want, func() bool {
					return strings.Contains(p.ask("/config_dump?include_eds&name_regex=outbound.80..host00042.example.com"), want)
				})
				best = min(best, time.Since(written))
			}
			t.Logf("an edit showed after %v", best)
			if best > scaleSlack*scaleEdit {
				t.Errorf("an edit showed after %v at best; on a quiet machine it should be %v", best, scaleEdit)
			}
		})
	}
}

// lay writes documents, and gives the path of the file with the one that is edited, and what is to be written there.
func (w *world) lay(docs []string, one bool) (path string, text func() string) {
	w.t.Helper()
	put := func(name, text string) string {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
		return path
	}
	if one {
		text = func() string { return strings.Join(docs, "---\n") }
		return put("all.yaml", text()), text
	}
	for i, d := range docs {
		p := put(fmt.Sprintf("h%05d.yaml", i), d)
		if i == scaleEdited {
			path = p
		}
	}
	return path, func() string { return docs[scaleEdited] }
}
