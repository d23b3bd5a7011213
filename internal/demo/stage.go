package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"detour.dev/detour/examples"
)

// file is one file of the configuration directory: its name there, and which of the examples it is.
type file struct{ name, example string }

// stage is where steps play. Once something has gone wrong, err is set and nothing more is done.
type stage struct {
	*printer
	o    Options
	w    *world
	app  *session
	err  error
	id   string          // of the step that plays
	open bool            // the last line was that of `detour run`: what is no request of its begins with an empty line
	seen map[string]bool // examples that have been shown whole
	told map[string]bool // messages of the log that have been shown whole
	log  []string        // all that app's detour has said

	answered, failed int // requests of this step
	played           []string

	locality string // what app runs with
	config   []file
}

// failure says that a step showed something else than it should.
type failure struct{ step, what string }

func (f *failure) Error() string { return fmt.Sprintf("step %s: expected: %s", f.step, f.what) }

// play plays one step.
func (st *stage) play(s step) {
	if st.err != nil {
		return
	}
	st.id, st.open, st.answered, st.failed = s.ID, false, 0, 0
	st.title(s.ID, s.Title, s.text)
	s.play(st)
	if err := st.w.reset(); st.err == nil {
		st.err = err
	}
	counts := fmt.Sprintf("%d answered", st.answered)
	if st.failed > 0 {
		counts += fmt.Sprintf(", %d failed", st.failed)
	}
	st.played = append(st.played, fmt.Sprintf("%s %-3s %-50s %s", st.paint(green, "✓"), s.ID, s.Title, st.paint(dim, counts)))
}

// ask sends one request of the application's.
func (st *stage) ask(url string) (answer, error) {
	a, err := st.app.get(st.o.Binary, url)
	if a.code == 200 && a.exit == 0 {
		st.answered++
	} else {
		st.failed++
	}
	return a, err
}

// do runs f unless something has gone wrong already.
func (st *stage) do(f func() error) {
	if st.err != nil {
		return
	}
	if err := errors.Join(f(), st.printer.err); err != nil && st.err == nil {
		st.err = fmt.Errorf("step %s: %w", st.id, err)
	}
}

// expect says what should be seen, and sets err if it is not. saw is added then.
func (st *stage) expect(ok bool, what, saw string) {
	if st.err != nil {
		return
	}
	if !ok {
		what = cmp.Or(what, "no endpoint is ejected") + "; saw " + saw
		st.err = &failure{st.id, what}
	}
	st.verdict(ok, what)
}

// run starts the application in a locality, with a configuration, and shows both; an earlier one ends.
func (st *stage) run(locality string, config []file) {
	st.do(func() error {
		var known []string
		for _, f := range config {
			if st.seen[f.example] {
				known = append(known, f.name)
				continue
			}
			text, err := fs.ReadFile(examples.FS, f.example)
			if err != nil {
				return err
			}
			st.seen[f.example] = true
			st.yaml("config/"+f.name, path.Base(f.example), diff(string(text), string(text)))
		}
		if len(known) > 0 {
			st.line("%s\n", st.paint(dim, "config/ has "+strings.Join(known, " and ")+", as before."))
		}
		st.command("$", "detour %s -- sh", strings.Join(arguments(locality), " "))
		st.open = true
		return nil
	})
	st.again(locality, config)
}

func arguments(locality string) []string {
	return []string{"run", "-f", "config", "--locality", locality, "--resolver", dnsAddr}
}

// again is run without a word.
func (st *stage) again(locality string, config []file) {
	st.do(func() error {
		st.end()
		if err := os.RemoveAll(filepath.Join(st.w.dir, "config")); err != nil {
			return err
		}
		for _, f := range config {
			if _, err := st.write(f); err != nil {
				return err
			}
		}
		app, err := st.w.startSession(st.o.Binary, arguments(locality))
		if err != nil {
			return err
		}
		st.app, st.locality, st.config, st.log = app, locality, config, nil
		st.logs()
		return nil
	})
}

// from makes sure that the application runs like this, as an earlier step has left it or started now.
func (st *stage) from(locality string, config []file) {
	if st.app == nil || st.locality != locality || !slices.Equal(st.config, config) {
		st.run(locality, config)
	}
}

// end ends the application.
func (st *stage) end() {
	if st.app != nil {
		st.app.close()
		st.app = nil
	}
}

// write puts a file of the examples in its place by rename, and gives its text.
func (st *stage) write(f file) (string, error) {
	b, err := fs.ReadFile(examples.FS, f.example)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(st.w.dir, "config")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp := filepath.Join(dir, "."+f.name+".tmp")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return "", err
	}
	return string(b), os.Rename(tmp, filepath.Join(dir, f.name))
}

// apply changes the configuration of the running application, shows the difference, and waits until it is in force.
func (st *stage) apply(config []file) {
	st.do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		before, err := st.w.dump(ctx, st.app)
		if err != nil {
			return err
		}
		st.gap()
		begin := time.Now()
		for _, f := range config {
			if err := st.change(f); err != nil {
				return err
			}
		}
		for after := before; after == before; {
			if after, err = st.w.dump(ctx, st.app); err != nil {
				return fmt.Errorf("the changed configuration is not in force: %w", err)
			}
			time.Sleep(time.Millisecond)
		}
		st.line("%s\n", st.paint(dim, fmt.Sprintf("Changed while it runs; in force after %d ms.", time.Since(begin).Milliseconds())))
		st.config = config
		return nil
	})
}

// gap ends the lines of `detour run`.
func (st *stage) gap() {
	if st.open {
		st.line("")
	}
	st.open = false
}

// change writes a file if it differs from the one in force, and shows how.
func (st *stage) change(f file) error {
	if slices.Contains(st.config, f) {
		return nil
	}
	old, err := os.ReadFile(filepath.Join(st.w.dir, "config", f.name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := st.write(f)
	if err != nil {
		return err
	}
	lines, note := near(diff(string(old), text), 3), "changed: "
	if len(old) == 0 {
		lines, note = diff(text, text), "new: "
	}
	st.seen[f.example] = true
	st.yaml("config/"+f.name, note+path.Base(f.example), lines)
	return nil
}

// logs shows what detour itself has said.
func (st *stage) logs() {
	if st.app == nil {
		return
	}
	lines := st.app.said()
	st.log = append(st.log, lines...)
	for _, l := range lines {
		msg := message(l)
		st.said(abridge(l, st.told[msg]))
		st.told[msg] = true
	}
}

// curl asks n times and shows the answers.
func (st *stage) curl(n int, url string) []answer {
	return st.curlUntil(n, n, url, func([]answer) bool { return true })
}

// curlUntil asks at least least times, then until enough, most times at most.
func (st *stage) curlUntil(least, most int, url string, enough func([]answer) bool) (all []answer) {
	st.do(func() error {
		times := ""
		switch {
		case most > least:
			times = st.paint(dim, fmt.Sprintf("   # %d times, and until both have answered", least))
		case least > 1:
			times = st.paint(dim, fmt.Sprintf("   # %d times", least))
		}
		st.open = false
		name := "curl"
		if !st.app.curl {
			name = "get"
		}
		st.command("sh$", "%s %s%s", name, url, times)
		for len(all) < least || len(all) < most && !enough(all) {
			a, err := st.ask(url)
			if err != nil {
				return err
			}
			st.answer(a)
			all = append(all, a)
			st.pause()
		}
		st.logs()
		return nil
	})
	return all
}

// pause lets a person follow.
func (st *stage) pause() {
	if st.o.Live {
		time.Sleep(120 * time.Millisecond)
	}
}

// patience bounds how long a table may take to show what it should.
const patience = 5 * time.Second

// endpoints shows `detour pc endpoints` and expects each endpoint's outlier check.
func (st *stage) endpoints(want ...check) {
	st.do(func() error {
		var rows []string
		for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			var err error
			if rows, _, err = st.w.detour(st.o.Binary, "pc", "endpoints"); err != nil {
				return err
			}
			if matches(rows, want) || time.Since(begin) > patience {
				break
			}
		}
		st.logs()
		st.line("")
		st.command("$", "detour pc endpoints")
		st.table(rows)
		st.line("")
		if what := describe(want); what != "" || !matches(rows, want) {
			st.expect(matches(rows, want), what, "the table above")
		}
		return st.err
	})
}

// check is what the table must say of one endpoint.
type check struct {
	endpoint string // ADDR:PORT
	outlier  string // OK or FAILED
}

// matches compares the table's rows, of mydb.com alone, with what they must be.
func matches(rows []string, want []check) bool {
	var got []check
	for _, r := range rows {
		f := strings.Fields(r)
		if len(f) == 4 && strings.HasSuffix(f[3], "||mydb.com") && f[1] == "HEALTHY" {
			got = append(got, check{f[0], f[2]})
		}
	}
	slices.SortFunc(got, func(a, b check) int { return strings.Compare(a.endpoint, b.endpoint) })
	return slices.Equal(got, want)
}

func describe(want []check) string {
	var failed []string
	for _, c := range want {
		if c.outlier == "FAILED" {
			failed = append(failed, c.endpoint)
		}
	}
	if len(failed) == 0 {
		return ""
	}
	return strings.Join(failed, " and ") + " is ejected: its outlier check is FAILED"
}
