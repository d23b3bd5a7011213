// Package dir watches files and directories for configuration. It notices writes in place, renames, symbolic links
// that are swapped (a ConfigMap's ..data), files that appear and vanish; where the kernel's notification does not
// work it polls. It reads; what the contents mean is not its business.
package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/source"
)

// Stdin is the path that stands for standard input, read once.
const Stdin = "-"

// Options say how to watch.
type Options struct {
	Stdin io.Reader // for the path "-"; nil refuses it
	// Poll never asks the kernel for notification.
	Poll bool
}

// Dir is a source.Source over paths: files, directories (their *.yaml, *.yml and *.json, neither hidden files nor
// subfolders) and "-". It is not safe for concurrent use.
type Dir struct {
	paths []string
	opt   Options
	stdin []byte
	files map[string]*state // by path
	lists map[string]*list  // of directories
	scans uint64
	chunk []byte // for reading what is probably the same again
	// renamed are paths into which the kernel says a file was renamed since the last scan.
	renamed map[string]bool
}

// state is what is known of one file since its last reading.
type state struct {
	info  fs.FileInfo // of the target, where path is a symbolic link
	real  string      // the target's path where path is a symbolic link, else ""
	data  []byte
	whole bool
	seen  uint64 // the last scan that found it
}

// list is what a directory held when it was looked at last. Most looks find the same.
type list struct {
	names []string // as the system gave them
	paths []string // of what is configuration by its name, sorted
}

// New makes a source over the paths.
func New(paths []string, opt Options) *Dir {
	return &Dir{paths: paths, opt: opt, files: map[string]*state{}, lists: map[string]*list{}, renamed: map[string]bool{}}
}

// Load implements source.Source.
func (d *Dir) Load() source.Update {
	var issues []config.Issue
	if slices.Contains(d.paths, Stdin) {
		if err := d.readStdin(); err != nil {
			issues = append(issues, unreadable("<stdin>", err))
		}
	}
	u, _ := d.scan(time.Now())
	u.Issues = append(issues, u.Issues...)
	return u
}

func (d *Dir) readStdin() error {
	if d.opt.Stdin == nil {
		return errors.New("standard input is not available here; name a file or a directory")
	}
	b, err := io.ReadAll(io.LimitReader(d.opt.Stdin, decode.MaxFileSize+1))
	d.stdin = b
	return err
}

// scan reads what changed and gives the full set; changed is false where it equals the set before.
func (d *Dir) scan(now time.Time) (u source.Update, changed bool) {
	u.At = now
	u.Files = make([]source.File, 0, len(d.files))
	d.scans++
	absolute := map[string]bool{}
	for _, p := range d.paths {
		if p == Stdin {
			u.Files = append(u.Files, source.File{Name: "<stdin>", Data: d.stdin, Whole: true})
			continue
		}
		paths, lost := d.list(p)
		for _, path := range paths {
			if len(d.paths) > 1 { // the same file may be named twice
				abs, err := filepath.Abs(path)
				if err != nil || absolute[abs] {
					continue
				}
				absolute[abs] = true
			}
			fileChanged, err := d.read(path, now)
			if lost == nil && errors.Is(err, fs.ErrNotExist) { // it may be p that went since it was listed
				_, lost = os.Stat(p)
			}
			if lost == nil && errors.Is(err, fs.ErrNotExist) || errors.Is(err, errFolder) && path != p {
				continue
			}
			if err != nil && lost == nil {
				u.Issues = append(u.Issues, unreadable(path, err))
			}
			st := d.files[path]
			if st == nil || st.info == nil {
				continue
			}
			st.seen = d.scans
			changed = changed || fileChanged
			u.Files = append(u.Files, source.File{Name: path, Data: st.data, Whole: st.whole})
		}
		if lost != nil {
			u.Issues = append(u.Issues, d.lost(p, lost))
		}
	}
	for path, st := range d.files {
		if st.seen != d.scans {
			delete(d.files, path)
			changed = true
		}
	}
	clear(d.renamed)
	return u, changed
}

// list gives the files that a path of the user's stands for. Of a path that is gone or can't be read, which err tells, they
// are those it had: a mount that is lost, or a folder that is moved for a moment, takes nothing away.
func (d *Dir) list(p string) (out []string, err error) {
	info, err := os.Stat(p)
	if err == nil && !info.IsDir() {
		return []string{p}, nil
	}
	var names []string
	if err == nil {
		names, err = namesIn(p)
	}
	if err != nil {
		return d.had(p), err
	}
	if known := d.lists[p]; known != nil && slices.Equal(known.names, names) {
		return known.paths, nil
	}
	for _, name := range names {
		if isConfig(name) {
			out = append(out, filepath.Join(p, name))
		}
	}
	slices.Sort(out)
	d.lists[p] = &list{names, out}
	return out, nil
}

// had gives the files that were last read of a path of the user's.
func (d *Dir) had(p string) (out []string) {
	for path := range d.files {
		if path == p || filepath.Dir(path) == filepath.Clean(p) {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// lost tells of a path of the user's that is gone or can't be read, and whether anything of it is kept.
func (d *Dir) lost(p string, err error) config.Issue {
	i := unreadable(p, err)
	if len(d.had(p)) > 0 {
		i.Message += "; what was read of it last stays in force until it is back"
	}
	return i
}

// namesIn gives what a directory holds.
func namesIn(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

var (
	errNoFile = errors.New("is no regular file")
	errFolder = fmt.Errorf("%w", errNoFile)
)

func isConfig(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// racy is how old a modification must be before an equal time and size are believed to mean equal contents: file
// systems count time in steps.
const racy = time.Second

// read brings the state of one file up to date and tells whether its contents are others than before.
func (d *Dir) read(path string, now time.Time) (changed bool, err error) {
	old := d.files[path]
	if old != nil && old.real == "" && now.Sub(old.info.ModTime()) > racy && sameAs(path, old.info) {
		return false, nil
	}
	link, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	info, real := link, ""
	if link.Mode()&fs.ModeSymlink != 0 {
		if real, err = filepath.EvalSymlinks(path); err != nil {
			return false, d.dangling(path, err)
		}
		if info, err = os.Stat(real); err != nil {
			return false, d.dangling(path, err)
		}
	}
	if link.IsDir() {
		return false, errFolder
	}
	if !info.Mode().IsRegular() {
		return false, errNoFile
	}
	if old != nil && old.real == real && os.SameFile(old.info, info) && old.info.Size() == info.Size() && old.info.Mode() == info.Mode() &&
		old.info.ModTime().Equal(info.ModTime()) && now.Sub(info.ModTime()) > racy {
		return false, nil
	}
	var known []byte
	if old != nil {
		known = old.data
	}
	data, info, err := d.readFile(path, known)
	if err != nil {
		return false, err
	}
	st := &state{info: info, real: real, data: data}
	if old != nil && bytes.Equal(old.data, data) {
		st.data, st.whole = old.data, old.whole
		d.files[path] = st
		return false, nil
	}
	swapped := old != nil && old.real != real
	replaced := old == nil || !os.SameFile(old.info, info)
	st.whole = swapped || replaced && (d.renamed[filepath.Clean(path)] || movedSinceWritten(info))
	d.files[path] = st
	return true, nil
}

// dangling makes a symbolic link without a target an error as long as there is something to keep.
func (d *Dir) dangling(path string, err error) error {
	if d.files[path] == nil {
		return err
	}
	return fmt.Errorf("is a symbolic link to nothing (%v)", err)
}

// readFile gives a file's contents and what was known of that very file: by its name another one may be found a moment
// earlier or later. It gives known itself where the file still holds that.
func (d *Dir) readFile(path string, known []byte) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	same, err := d.compare(f, known)
	if err != nil {
		return known[:same:same], info, ignoreEOF(err)
	}
	data := make([]byte, 0, min(max(info.Size(), int64(same+len(d.chunk))), decode.MaxFileSize)+1)
	data = append(append(data, known[:same]...), d.chunk...)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case err == io.EOF:
			return data, info, nil
		case err != nil || len(data) > decode.MaxFileSize:
			return data, info, err
		case len(data) == cap(data): // it grew meanwhile
			data = slices.Grow(data, 1)
		}
	}
}

// compare reads as long as the file holds what is known, and tells how much of that it does; what comes then is in d.chunk.
// An error, which may be io.EOF, says that nothing comes.
func (d *Dir) compare(f *os.File, known []byte) (same int, err error) {
	const size = 32 << 10
	d.chunk = slices.Grow(d.chunk[:0], size)
	for len(known) > 0 {
		n, err := f.Read(d.chunk[:size])
		if !bytes.HasPrefix(known[same:], d.chunk[:n]) {
			d.chunk = d.chunk[:n]
			return same, nil
		}
		if same += n; err != nil {
			return same, err
		}
	}
	return 0, nil
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

func unreadable(path string, err error) config.Issue {
	msg := err.Error()
	var pe *fs.PathError
	if errors.As(err, &pe) {
		msg = pe.Err.Error()
	}
	return config.Issue{Severity: config.Error, Code: config.CodeUnreadable, Origin: config.Origin{File: path}, Message: "can't be read: " + msg}
}
