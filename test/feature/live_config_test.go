//go:build linux

package feature

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// applied is how soon a change must be in force.
const applied = 200 * time.Millisecond

// inPlace writes a file as an editor does that does not rename.
func (w *world) inPlace(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// median of the durations.
func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// changes makes several changes, each of which takes away what the one before gave, and wants them in force in time.
func (p *proxy) changes(change func(port int)) {
	p.t.Helper()
	var took []time.Duration
	for i := range 7 {
		port := 9000 + i
		begin := time.Now()
		change(port)
		await(p.t, fmt.Sprintf("port %d is in force", port), func() bool { return strings.Contains(p.ask("/config_dump"), fmt.Sprintf(`"outbound|%d||`, port)) })
		took = append(took, time.Since(begin))
	}
	if m := median(took); m > applied {
		p.t.Errorf("changes took %v, want at most %v", took, applied)
	}
}

// entryWithPort is the walkthrough's ServiceEntry on another port.
func (w *world) entryWithPort(port int) string {
	return w.walkthrough(step1, "number: 80", fmt.Sprintf("number: %d", port))
}

// TestLiveFile changes a file that -f names: by rename, and in place.
func TestLiveFile(t *testing.T) {
	for _, how := range []string{"rename", "in place"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write(entryFile, w.walkthrough(step1))
			path := filepath.Join(w.dir, entryFile)
			w.dir = path
			p := w.proxyIn("us-east1")
			w.dir = filepath.Dir(path)
			p.changes(func(port int) {
				if how == "rename" {
					w.write(entryFile, w.entryWithPort(port))
				} else {
					w.inPlace(path, w.entryWithPort(port))
				}
			})
		})
	}
}

// TestLiveDirectory adds files to a directory and takes them out.
func TestLiveDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(entryFile, w.walkthrough(step1))
	p := w.proxyIn("us-east1")
	last := ""
	p.changes(func(port int) {
		if last != "" {
			w.remove(last)
		}
		last = fmt.Sprintf("port-%d.yaml", port)
		w.write(last, strings.ReplaceAll(w.entryWithPort(port), "mydb.com", "other.example")+"---\n"+
			strings.ReplaceAll(w.entryWithPort(port), "external-svc-dns", "second"))
	})
	if dump := p.ask("/config_dump"); strings.Contains(dump, "outbound|9000||") {
		t.Error("what was taken out still serves")
	}
}

// TestLiveConfigMap swaps the symbolic link of a mounted ConfigMap.
func TestLiveConfigMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	swap := func(version, text string) {
		t.Helper()
		err := os.Mkdir(filepath.Join(w.dir, version), 0o755)
		for _, f := range []func() error{
			func() error { return os.WriteFile(filepath.Join(w.dir, version, entryFile), []byte(text), 0o644) },
			func() error { return os.Symlink(version, filepath.Join(w.dir, "..data_tmp")) },
			func() error { return os.Rename(filepath.Join(w.dir, "..data_tmp"), filepath.Join(w.dir, "..data")) },
		} {
			if err == nil {
				err = f()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	swap("..v0", w.walkthrough(step1))
	if err := os.Symlink("..data/"+entryFile, filepath.Join(w.dir, entryFile)); err != nil {
		t.Fatal(err)
	}
	p := w.proxyIn("us-east1")
	p.changes(func(port int) { swap(fmt.Sprintf("..v%d", port), w.entryWithPort(port)) })
}

// TestLiveHalfWritten writes every prefix of the rule that asks for TLS, one after the other, under load: no request
// fails, and none goes out in plain text.
func TestLiveHalfWritten(t *testing.T) {
	w := tlsRegions(t)
	plain := w.east.http(80)
	w.write(entryFile, w.walkthrough(httpsEntry))
	rule := w.httpsRule()
	w.write(ruleFile, rule)
	p := w.proxyIn("us-east1")
	load := w.client().load(4, 2*tick)
	load.more(20)
	var longest time.Duration
	for _, file := range []struct{ name, text string }{{ruleFile, rule}, {entryFile, w.walkthrough(httpsEntry)}} {
		longest = max(longest, prefixes(t, filepath.Join(w.dir, file.name), file.text))
		load.more(20)
	}
	gets, posts := load.stop()
	answers := bodies(append(gets, posts...))
	if longest > applied/4 && (len(answers) != 1 || plain.connections() > 0) {
		t.Skipf("this machine is too busy to tell: the writing itself stood still for %v", longest)
	}
	if len(answers) != 1 || answers[fromEast] == 0 {
		t.Errorf("answers: %v", answers)
	}
	if plain.connections() > 0 {
		t.Error("plain text went out")
	}
	w.ownNames(t)
	p.table(line(w.east, 443, "OK"), line(w.west, 443, "OK"))
}

// prefixes writes a text into a file so that each of its prefixes stands there for a moment, and gives the longest time
// that one stood.
func prefixes(t *testing.T, path, text string) (longest time.Duration) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := time.Now()
	for n := range len(text) {
		if _, err := f.WriteString(text[n : n+1]); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 { // the whole must take longer than a file has to stand still
			await(t, "a moment passes", func() bool { return time.Since(last) > tick })
		}
		longest, last = max(longest, time.Since(last)), time.Now()
	}
	return longest
}

// TestLiveInFlight: a request that is under way ends on what it began with, on the connection that it has.
func TestLiveInFlight(t *testing.T) {
	w, p := walking(t)
	gate := make(chan struct{})
	w.east.ports[80].behave(behaviour{Gate: gate})
	c := w.client()
	answer := make(chan result, 1)
	go func() { answer <- c.do("GET", mydb+"slow", "") }()
	await(t, "it is delivered", func() bool { return len(w.deliveries()) == 1 })
	w.write(entryFile, w.walkthrough(step3))
	p.awaitHosts(cluster80, "10.1.0.1:81", "10.2.0.1:80")
	all(t, fromWest, c.gets(3))
	close(gate)
	if r := <-answer; r.String() != fromEast {
		t.Error(r)
	}
}

// TestLiveKeepsState: connections to unchanged endpoints, ejections and counters survive changes of everything else.
func TestLiveKeepsState(t *testing.T) {
	w, p := walking(t)
	c := w.client()
	w.east.ports[80].behave(behaviour{Status: 503})
	all(t, fromWest, c.gets(5))
	w.east.ports[80].behave(behaviour{})
	total := "cluster." + cluster80 + ".upstream_rq_total"
	before, connections := p.stat(total), w.west.ports[80].connections()

	w.write("another.yaml", strings.ReplaceAll(w.entryWithPort(9000), "external-svc-dns", "another"))
	w.write(routeFile, retries("attempts: 1", "retryOn: 5xx"))
	w.write(ruleFile, w.walkthrough(step2, "consecutive5xxErrors: 1", "consecutive5xxErrors: 2"))
	await(t, "the change is in force", func() bool {
		return strings.Contains(p.ask("/config_dump"), `"consecutive_5xx": 2`)
	})
	if !p.ejected(cluster80, w.east, 80) {
		t.Error("the ejection is gone")
	}
	all(t, fromWest, c.gets(5))
	if got := p.stat(total); got != before+5 {
		t.Errorf("%s: %d, then %d after five requests", total, before, got)
	}
	if got := w.west.ports[80].connections(); got != connections {
		t.Errorf("%d connections, %d before the change", got, connections)
	}
}

// TestLiveBadObject: a bad object is dropped alone, its last good version serves, and everybody can see why.
func TestLiveBadObject(t *testing.T) {
	w, p := walking(t)
	c := w.client()
	w.write(ruleFile, w.walkthrough(step2, "interval: 15s", "interval: soon"))
	await(t, "the log says where", func() bool { return p.logged(ruleFile+":", "interval") > 0 })
	all(t, fromEast, c.gets(2))
	if dump := p.ask("/config_dump"); !strings.Contains(dump, "error_state") || !strings.Contains(dump, ruleFile) {
		t.Error("/config_dump does not show the error")
	}
	w.east.ports[80].stop()
	all(t, fromWest, c.gets(2)) // the last good version of the rule is in force
	w.write(ruleFile, "kind: [\n")
	await(t, "the log says that it does not parse", func() bool { return p.logged(ruleFile+":1") > 0 })
	p.table(line(w.east, 80, "FAILED"), line(w.west, 80, "OK"))
}

// TestStartBadConfiguration: at the start an error ends the process, unless it is to go on with what is good; then a host
// whose rule was refused is not served in plain text.
func TestStartBadConfiguration(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(httpsRule, "mode: SIMPLE", "mode: SIMPEL"))
	p := w.startProxy("us-east1")
	if status := p.wait(); status != 1 || p.logged(ruleFile+":") == 0 {
		t.Errorf("status %d: %s", status, p.err())
	}
	p = w.startProxy("us-east1", "--keep-going")
	await(t, "it is ready", p.ready)
	if r := w.client().get(); r.Status != 503 {
		t.Errorf("got %v, want 503", r)
	}
	if d := w.deliveries(); len(d) > 0 {
		t.Errorf("delivered in plain text: %v", d)
	}
	w.write(ruleFile, w.walkthrough(step2))
	await(t, "it serves once the rule is mended", func() bool { return w.client().get().String() == fromEast })
}
