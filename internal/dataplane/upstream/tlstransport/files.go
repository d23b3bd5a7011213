package tlstransport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// checkEvery is how often, at most, a handshake looks whether the files have changed.
	checkEvery = time.Second
	// settle is how long a changed file must have stood before it replaces one that is in use: a trust file cut off
	// between two certificates parses.
	settle = 100 * time.Millisecond
	// maxFile bounds what is read. The system's trust store has some 220 kB.
	maxFile = 4 << 20
)

// material is what the files of a Context held at one time, and what was learnt with it: sessions and trusted chains. The
// rest is immutable.
type material struct {
	roots    *x509.CertPool // nil: the system's
	crls     []*x509.RevocationList
	certs    []*tls.Certificate
	sessions tls.ClientSessionCache // nil: no resumption
	chains   chainCache
}

// store keeps the last good material and reads files again when they change. Its parts fail one by one: each keeps
// its own last good contents.
type store struct {
	log      *slog.Logger
	resume   bool
	sysRoots *x509.CertPool

	mu      sync.Mutex // guards what follows
	parts   []*part
	checked time.Time
	current *material // nil until every part was good once
}

// part is a unit of files that make sense together only.
type part struct {
	what    string
	sources []*source
	parse   func(contents [][]byte) (func(*material), error)
	apply   func(*material) // the last good contents; nil when there never were any
	problem string
	dirty   bool // contents were read that have not been judged
}

// source is a DataSource: a file, or the bytes themselves.
type source struct {
	path  string
	data  []byte
	stamp stamp
}

type stamp struct {
	mtime time.Time
	size  int64
	inode uint64
	// young marks a file changed so recently when read that a further change might not show in its time stamp.
	young bool
}

// get gives the material for a handshake at time now.
func (s *store) get(now time.Time) (*material, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(now)
	if s.current != nil {
		return s.current, nil
	}
	return nil, &Error{Kind: KindConfig, Err: errors.New(strings.Join(s.problemList(), "; "))}
}

func (s *store) problems(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(now)
	return s.problemList()
}

func (s *store) problemList() []string {
	var list []string
	for _, p := range s.parts {
		if p.problem != "" {
			list = append(list, p.problem)
		}
	}
	return list
}

// refresh is called with mu held.
func (s *store) refresh(now time.Time) {
	if !s.checked.IsZero() && now.Sub(s.checked) < checkEvery && !now.Before(s.checked) {
		return
	}
	s.checked = now
	changed := s.current == nil
	complete := true
	for _, p := range s.parts {
		changed = p.check(now, s.log) || changed
		complete = complete && p.apply != nil
	}
	if !changed || !complete {
		return
	}
	m := &material{roots: s.sysRoots}
	if s.resume {
		m.sessions = newSessions()
	}
	for _, p := range s.parts {
		p.apply(m)
	}
	s.current = m
}

// check reads what has changed and reports whether the part has new contents. A change that can't be used is logged
// once and leaves the last good contents.
func (p *part) check(now time.Time, log *slog.Logger) bool {
	for _, src := range p.sources {
		fresh, err := src.read(now, p.apply != nil)
		if err != nil {
			src.stamp = stamp{} // read it when it is back, even if it is the same
			p.fail(fmt.Errorf("%s: %w", p.what, err), log)
			return false
		}
		p.dirty = p.dirty || fresh
	}
	if !p.dirty && p.apply != nil {
		return false
	}
	p.dirty = false
	contents := make([][]byte, len(p.sources))
	for i, src := range p.sources {
		contents[i] = src.data
	}
	apply, err := p.parse(contents)
	if err != nil {
		p.fail(fmt.Errorf("%s: %s: %w", p.what, p.paths(), err), log)
		return false
	}
	if p.apply != nil || p.problem != "" {
		log.Info("TLS files read again", "what", p.what, "files", p.paths())
	}
	p.apply, p.problem = apply, ""
	return true
}

func (p *part) fail(err error, log *slog.Logger) {
	if p.problem == err.Error() {
		return
	}
	p.problem = err.Error()
	if p.apply != nil {
		log.Warn("TLS files refused, the last good ones stay in use", "error", err)
	} else {
		log.Error("TLS files can't be used, handshakes fail until they can", "error", err)
	}
}

func (p *part) paths() string {
	var list []string
	for _, src := range p.sources {
		if src.path == "" {
			list = append(list, "inline")
		} else {
			list = append(list, src.path)
		}
	}
	return strings.Join(list, ", ")
}

// read reads the file where its stamp says that it may have changed, and reports whether its contents did.
func (s *source) read(now time.Time, inUse bool) (bool, error) {
	if s.path == "" {
		return false, nil
	}
	f, err := os.OpenFile(s.path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not block
	if err != nil {
		return false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, fmt.Errorf("%s is not a file", s.path)
	}
	age := now.Sub(fi.ModTime())
	st := stamp{mtime: fi.ModTime(), size: fi.Size(), inode: inode(fi), young: age < checkEvery}
	if st == s.stamp && !st.young {
		return false, nil
	}
	if inUse && age >= 0 && age < settle {
		return false, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return false, err
	}
	if len(data) > maxFile {
		return false, fmt.Errorf("%s is larger than %d bytes", s.path, maxFile)
	}
	same := bytes.Equal(data, s.data) && s.stamp != stamp{}
	s.stamp, s.data = st, data
	return !same, nil
}

func inode(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino)
	}
	return 0
}

func parseRoots(contents [][]byte) (func(*material), error) {
	pool := x509.NewCertPool()
	n := 0
	err := eachPEM(contents[0], "CERTIFICATE", func(der []byte) error {
		cert, err := x509.ParseCertificate(der)
		if err == nil {
			pool.AddCert(cert)
			n++
		}
		return err
	})
	if err == nil && n == 0 {
		err = errors.New("no certificate in it")
	}
	return func(m *material) { m.roots = pool }, err
}

func parseCRLs(contents [][]byte) (func(*material), error) {
	var lists []*x509.RevocationList
	err := eachPEM(contents[0], "X509 CRL", func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		lists = append(lists, list)
		return err
	})
	if err == nil && len(lists) == 0 {
		err = errors.New("no revocation list in it")
	}
	return func(m *material) { m.crls = lists }, err
}

func parsePair(contents [][]byte) (func(*material), error) {
	cert, err := tls.X509KeyPair(contents[0], contents[1])
	return func(m *material) { m.certs = append(m.certs, &cert) }, err
}

// eachPEM calls fn for each block of the type. Text around the blocks is allowed, a block cut off is not.
func eachPEM(data []byte, typ string, fn func(der []byte) error) error {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if bytes.Contains(data, []byte("-----BEGIN ")) {
				return errors.New("a PEM block is broken or cut off")
			}
			return nil
		}
		if block.Type == typ {
			if err := fn(block.Bytes); err != nil {
				return err
			}
		}
		data = rest
	}
}
