package dir

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// names gives "name=data" of each file, joined; w marks one that came whole.
func names(u source.Update) string {
	var out []string
	for _, f := range u.Files {
		s := filepath.Base(f.Name) + "=" + string(f.Data)
		if f.Whole {
			s += "(w)"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a.yml", "c.json", "d.txt", ".hidden.yaml", "e.yaml~"} {
		write(t, filepath.Join(dir, name), name[:1])
	}
	must(t, os.MkdirAll(filepath.Join(dir, "sub.yaml"), 0o700))
	other := filepath.Join(t.TempDir(), "anything.conf")
	write(t, other, "o")
	d := New([]string{other, dir, "-", filepath.Join(dir, "a.yml"), dir + "/"}, Options{Stdin: strings.NewReader("in")})
	u := d.Load()
	if got := names(u); got != "anything.conf=o a.yml=a b.yaml=b c.json=c <stdin>=in(w)" || len(u.Issues) != 0 {
		t.Errorf("%s, %v", got, u.Issues)
	}
	if u.Files[1].Name != filepath.Join(dir, "a.yml") {
		t.Errorf("named %q", u.Files[1].Name)
	}
}

func TestLoadIssues(t *testing.T) {
	u := New([]string{"no/such", "-"}, Options{}).Load()
	if len(u.Issues) != 2 || u.Issues[0].Code != config.CodeUnreadable || !strings.HasPrefix(u.Issues[1].String(), "no/such: error: can't be read: no such file or directory") {
		t.Errorf("%v", u.Issues)
	}
}

// watching is a source that is watched until the test ends.
type watching struct {
	t       *testing.T
	updates chan source.Update
	last    source.Update
}

func watch(t *testing.T, poll bool, paths ...string) *watching {
	t.Helper()
	d := New(paths, Options{Poll: poll})
	w := &watching{t: t, updates: make(chan source.Update), last: d.Load()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(ctx, w.updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// until takes updates until the files are as wanted.
func (w *watching) until(want string) source.Update {
	w.t.Helper()
	return w.untilFunc(want, func(u source.Update) bool { return names(u) == want })
}

func (w *watching) untilFunc(what string, ok func(source.Update) bool) source.Update {
	w.t.Helper()
	timeout := time.After(10 * time.Second)
	for !ok(w.last) {
		select {
		case w.last = <-w.updates:
		case <-timeout:
			w.t.Fatalf("last update %q %v, want %s", names(w.last), w.last.Issues, what)
		}
	}
	return w.last
}

// both runs a test with the kernel's notification and with polling.
func both(t *testing.T, f func(t *testing.T, poll bool)) {
	t.Run("notified", func(t *testing.T) { f(t, false) })
	t.Run("polled", func(t *testing.T) { f(t, true) })
}

func TestWriteAppearVanish(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		dir := t.TempDir()
		a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
		write(t, a, "1")
		w := watch(t, poll, dir)
		w.until("a.yaml=1")
		write(t, a, "2")
		w.until("a.yaml=2")
		write(t, b, "3")
		w.until("a.yaml=2 b.yaml=3")
		must(t, os.Remove(a))
		w.until("b.yaml=3")
		write(t, a, "4")
		w.until("a.yaml=4 b.yaml=3")
	})
}

// replace puts a file in place by rename, written some time before.
func replace(t *testing.T, path, data string) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), ".tmp")
	write(t, tmp, data)
	must(t, os.Chtimes(tmp, time.Time{}, time.Now().Add(-time.Minute)))
	must(t, os.Rename(tmp, path))
}

func TestRename(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		dir := t.TempDir()
		a := filepath.Join(dir, "a.yaml")
		write(t, a, "1")
		w := watch(t, poll, a)
		replace(t, a, "2")
		w.until("a.yaml=2(w)")
		write(t, a, "3")
		w.until("a.yaml=3")
		replace(t, a, "4")
		w.until("a.yaml=4(w)")
	})
}

// TestRenameNotified has the file's times say the contrary: the kernel's word alone tells that it was renamed.
func TestRenameNotified(t *testing.T) {
	dir := t.TempDir()
	a, tmp := filepath.Join(dir, "a.yaml"), filepath.Join(dir, ".tmp")
	write(t, a, "1")
	w := watch(t, false, dir)
	// The first scan after Load has every event of the next rename reach a watcher that is there.
	write(t, a, "2")
	w.until("a.yaml=2")
	write(t, tmp, "3")
	must(t, os.Chtimes(tmp, time.Time{}, time.Now().Add(time.Minute)))
	must(t, os.Rename(tmp, a))
	w.until("a.yaml=3(w)")
}

func TestEditorThatKeepsABackup(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		dir := t.TempDir()
		a := filepath.Join(dir, "a.yaml")
		write(t, a, "1")
		w := watch(t, poll, dir)
		w.until("a.yaml=1")
		must(t, os.Rename(a, a+"~"))
		write(t, a, "half")
		w.until("a.yaml=half") // not whole: it was written where it stands
	})
}

func TestConfigMap(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		dir := t.TempDir()
		version := func(name, data string) {
			must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
			write(t, filepath.Join(dir, name, "a.yaml"), data)
			must(t, os.Symlink(name, filepath.Join(dir, "..tmp")))
			must(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
		}
		version("..1", "1")
		must(t, os.Symlink(filepath.Join("..data", "a.yaml"), filepath.Join(dir, "a.yaml")))
		w := watch(t, poll, dir)
		w.until("a.yaml=1")
		version("..2", "2")
		must(t, os.RemoveAll(filepath.Join(dir, "..1")))
		w.until("a.yaml=2(w)")
		// A link to nothing keeps what was read, and says so.
		must(t, os.RemoveAll(filepath.Join(dir, "..2")))
		u := w.untilFunc("an issue", func(u source.Update) bool { return len(u.Issues) == 1 })
		if names(u) != "a.yaml=2(w)" || !strings.Contains(u.Issues[0].Message, "symbolic link to nothing") {
			t.Errorf("%s %v", names(u), u.Issues)
		}
		version("..3", "3")
		u = w.until("a.yaml=3(w)")
		if len(u.Issues) != 0 {
			t.Errorf("%v", u.Issues)
		}
	})
}

func TestLinkedFile(t *testing.T) {
	real := filepath.Join(t.TempDir(), "real.yaml")
	write(t, real, "1")
	link := filepath.Join(t.TempDir(), "a.yaml")
	must(t, os.Symlink(real, link))
	w := watch(t, false, link)
	write(t, real, "2")
	w.until("a.yaml=2")
}

func TestFolderComesAndGoes(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		top := t.TempDir()
		dir := filepath.Join(top, "conf")
		must(t, os.Mkdir(dir, 0o700))
		write(t, filepath.Join(dir, "a.yaml"), "1")
		w := watch(t, poll, dir)
		must(t, os.Rename(dir, dir+"2"))
		u := w.untilFunc("an issue", func(u source.Update) bool { return len(u.Issues) == 1 })
		if got := u.Issues[0].String(); names(u) != "a.yaml=1" || got != dir+": error: can't be read: no such file or directory; what was read of it last stays in force until it is back [DTR0020]" {
			t.Errorf("%s, %s", names(u), got)
		}
		must(t, os.Rename(dir+"2", dir))
		w.untilFunc("no issue", func(u source.Update) bool { return names(u) == "a.yaml=1" && len(u.Issues) == 0 })
		must(t, os.Rename(dir, dir+"2"))
		w.untilFunc("an issue", func(u source.Update) bool { return len(u.Issues) == 1 })
		must(t, os.Mkdir(dir, 0o700))
		w.until("") // it is back, and empty
		write(t, filepath.Join(dir, "a.yaml"), "2")
		w.untilFunc("a.yaml=2", func(u source.Update) bool { return strings.HasPrefix(names(u), "a.yaml=2") && len(u.Issues) == 0 })
		write(t, filepath.Join(dir, "b.yaml"), "3")
		w.untilFunc("b.yaml=3", func(u source.Update) bool { return strings.HasSuffix(names(u), "b.yaml=3") })
	})
}

// TestFileComesAndGoes: a file that was named stays as it was read while it is gone; a link and a folder above it count alike.
func TestFileComesAndGoes(t *testing.T) {
	both(t, func(t *testing.T, poll bool) {
		top := filepath.Join(t.TempDir(), "top")
		must(t, os.Mkdir(top, 0o700))
		a, b := filepath.Join(top, "a.yaml"), filepath.Join(top, "b.yaml")
		write(t, a, "1")
		write(t, b, "2")
		w := watch(t, poll, a, b)
		gone := func(n int) func(source.Update) bool {
			return func(u source.Update) bool {
				if names(u) != "a.yaml=1 b.yaml=2" {
					t.Errorf("%s", names(u))
				}
				return len(u.Issues) == n
			}
		}
		must(t, os.Rename(a, a+".old"))
		u := w.untilFunc("an issue", gone(1))
		if u.Issues[0].Origin.File != a || !strings.HasSuffix(u.Issues[0].Message, "stays in force until it is back") {
			t.Errorf("%v", u.Issues)
		}
		must(t, os.Rename(a+".old", a))
		w.untilFunc("no issue", gone(0))
		must(t, os.Rename(top, top+"2"))
		w.untilFunc("two issues", gone(2))
		must(t, os.Rename(top+"2", top))
		w.untilFunc("no issue", gone(0))
		replace(t, a, "3")
		w.until("a.yaml=3(w) b.yaml=2")
	})
}

// TestGoneWhileScanned: a folder that goes after it was listed keeps what it had as well.
func TestGoneWhileScanned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	must(t, os.Mkdir(dir, 0o700))
	write(t, filepath.Join(dir, "a.yaml"), "1")
	d := New([]string{dir}, Options{})
	d.Load()
	must(t, os.RemoveAll(dir))
	for range 3 {
		if u, changed := d.scan(time.Now().Add(time.Minute)); changed || names(u) != "a.yaml=1" || len(u.Issues) != 1 {
			t.Errorf("%s %v", names(u), u.Issues)
		}
	}
}

func TestWhatMatters(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(t.TempDir(), "target")
	write(t, real, "1")
	must(t, os.Symlink(real, filepath.Join(dir, "a.yaml")))
	d := New([]string{dir, filepath.Join(dir, "conf")}, Options{})
	d.Load()
	n, err := fsnotify.NewWatcher()
	must(t, err)
	defer n.Close()
	w := &watcher{d: d, notify: n, watched: map[string]fs.FileInfo{}}
	w.watch()
	for path, want := range map[string]bool{
		filepath.Join(dir, "new.yaml"): true, filepath.Join(dir, "..data"): true, filepath.Join(dir, "conf"): true, real: true, dir: true,
		filepath.Join(dir, "a.log"): false, filepath.Join(dir, ".a.yaml.swp"): false,
	} {
		if got := w.note(fsnotify.Event{Name: path, Op: fsnotify.Write}); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestSameTimeSameSize(t *testing.T) {
	a := filepath.Join(t.TempDir(), "a.yaml")
	write(t, a, "1")
	d := New([]string{a}, Options{})
	d.Load()
	info, err := os.Stat(a)
	must(t, err)
	write(t, a, "2")
	must(t, os.Chtimes(a, time.Time{}, info.ModTime()))
	if u, changed := d.scan(info.ModTime().Add(racy)); !changed || names(u) != "a.yaml=2" {
		t.Error(names(u))
	}
	if _, changed := d.scan(info.ModTime().Add(racy)); changed {
		t.Error("nothing changed")
	}
}

func TestNotAFile(t *testing.T) {
	u := New([]string{os.DevNull}, Options{}).Load()
	if len(u.Issues) != 1 || !strings.Contains(u.Issues[0].Message, "no regular file") {
		t.Errorf("%v", u.Issues)
	}
}

// TestSlowReceiver: while nobody takes an update, newer ones replace it.
func TestSlowReceiver(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, "0")
	w := watch(t, true, dir)
	for _, v := range []string{"1", "2", "3", "4"} {
		write(t, a, v)
		write(t, b, v)
	}
	w.until("a.yaml=4 b.yaml=4")
}

// TestReadsWhatChanged: what is compared with what is known is read as it is, and what is the same is not read anew.
func TestReadsWhatChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	long := strings.Repeat("0123456789", 10_000)
	contents := []string{"", "a", "b", long, long + "x", "x" + long, long[:70_000] + "y" + long[70_001:], long[:50_000], ""}
	d := New(nil, Options{})
	for _, known := range contents {
		for _, now := range contents {
			write(t, path, now)
			k := []byte(known)
			got, _, err := d.readFile(path, k)
			if err != nil || string(got) != now {
				t.Fatalf("%d bytes after %d: %d bytes, %v", len(now), len(known), len(got), err)
			}
			if known == now && now != "" && &got[0] != &k[0] {
				t.Errorf("%d bytes were read anew", len(now))
			}
		}
	}
}
