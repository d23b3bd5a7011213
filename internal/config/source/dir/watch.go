package dir

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
)

const (
	// gather is how long the files are left alone after the first notification of a burst.
	gather = 5 * time.Millisecond
	// safety is how often everything is looked at where notification works: it may miss what another machine writes.
	safety = time.Second
	// pollEvery is how often where it does not, unless a scan takes more than a twentieth of it.
	pollEvery = 50 * time.Millisecond
	// followUp is how long after a change the files are looked at as often as when polling, and what is seen is
	// sent: whether a file has stood still must depend neither on notification nor on the clock.
	followUp = 250 * time.Millisecond
)

// Watch implements source.Source.
func (d *Dir) Watch(ctx context.Context, updates chan<- source.Update) error {
	w := &watcher{d: d, watched: map[string]fs.FileInfo{}}
	if !d.opt.Poll {
		if n, err := fsnotify.NewBufferedWatcher(4096); err == nil {
			w.notify = n
			defer n.Close()
		}
	}
	return w.run(ctx, updates)
}

type watcher struct {
	d       *Dir
	notify  *fsnotify.Watcher // nil: poll
	watched map[string]fs.FileInfo
	named   map[string]bool // paths that the user named, and the targets of links
	failed  bool            // some directory can't be watched
	// lastRename is the path that the event before this one moved away, where it did.
	lastRename string
	lastIssues []config.Issue
}

func (w *watcher) run(ctx context.Context, updates chan<- source.Update) error {
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	w.watch()
	var pending source.Update
	var send chan<- source.Update // nil while nothing is pending
	timer := time.NewTimer(0)     // what was written between Load and now
	defer timer.Stop()
	var changedAt time.Time
	unconfirmed := false
	gathering := false // an event set the timer; later ones must not put it off
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if w.note(e) && !gathering {
				gathering = true
				timer.Reset(gather)
			}
		case <-errs: // an overflow: events are lost
			timer.Reset(gather)
		case send <- pending:
			send = nil
		case <-timer.C:
			gathering = false
			w.drain(events)
			start := time.Now()
			w.watch()
			u, changed := w.d.scan(start)
			if changed || !slices.Equal(u.Issues, w.lastIssues) {
				w.lastIssues = u.Issues
				changedAt, unconfirmed = start, true
			}
			if unconfirmed {
				pending, send = u, updates
				unconfirmed = start.Sub(changedAt) < followUp
			}
			timer.Reset(w.interval(time.Since(start), time.Since(changedAt)))
		}
	}
}

// interval gives the time until the next look at the files.
func (w *watcher) interval(scan, sinceChange time.Duration) time.Duration {
	if w.notify == nil || w.failed || sinceChange < followUp {
		return max(pollEvery, 20*scan)
	}
	return max(safety, 20*scan)
}

// drain takes the events that are there already: one scan answers them all.
func (w *watcher) drain(events <-chan fsnotify.Event) {
	for {
		select {
		case e := <-events:
			w.note(e)
		default:
			return
		}
	}
}

// note tells whether an event asks for a look at the files, and keeps what it says beyond that. The kernel reports a rename inside a directory as two events,
// one after the other: away from the old name, and to the new one.
func (w *watcher) note(e fsnotify.Event) bool {
	from := w.lastRename
	w.lastRename = ""
	switch {
	case e.Has(fsnotify.Rename):
		w.lastRename = e.Name
	case e.Has(fsnotify.Create) && from != "" && from != e.Name:
		w.d.renamed[filepath.Clean(e.Name)] = true
	}
	return w.matters(filepath.Clean(e.Name))
}

// matters tells whether what happens to a path may change what is read: others write into the same folders.
func (w *watcher) matters(path string) bool {
	base := filepath.Base(path)
	return isConfig(base) || strings.HasPrefix(base, "..") || w.named[path]
}

// watch has the kernel watch each directory in which something that was named may change. A directory that was
// replaced is watched anew.
func (w *watcher) watch() {
	if w.notify == nil {
		return
	}
	w.failed = false
	want := map[string]bool{}
	w.named = map[string]bool{}
	for _, p := range w.d.paths {
		if p == Stdin {
			continue
		}
		w.named[filepath.Clean(p)] = true
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			want[filepath.Clean(p)] = true
		} else {
			want[filepath.Dir(p)] = true
		}
	}
	for _, st := range w.d.files {
		if st.real != "" {
			want[filepath.Dir(st.real)] = true
			w.named[st.real] = true
		}
	}
	for dir := range w.watched {
		if !want[dir] {
			_ = w.notify.Remove(dir)
			delete(w.watched, dir)
		}
	}
	active := w.notify.WatchList()
	for dir := range want {
		info, err := os.Stat(dir)
		old := w.watched[dir]
		if err == nil && old != nil && os.SameFile(old, info) && slices.Contains(active, dir) {
			continue
		}
		if old != nil {
			_ = w.notify.Remove(dir)
			delete(w.watched, dir)
		}
		if err == nil {
			err = w.notify.Add(dir)
		}
		if err != nil {
			w.failed = true
			continue
		}
		w.watched[dir] = info
	}
}
