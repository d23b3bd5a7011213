package accesslog

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/stats"
)

// Format is the form of a line.
type Format int

// Formats.
const (
	Text Format = iota // Envoy's default format
	JSON
)

const (
	flushAfter = 100 * time.Millisecond
	flushSize  = 64 << 10
	maxPending = 1 << 20 // bytes that wait while a write is under way
	closeWait  = 2 * time.Second
)

// Logger writes access logs. Log only appends to a buffer in memory; a goroutine writes it out 100 ms after the first line
// or when 64 kB have gathered. While the writer is stuck at most 1 MB is kept, and what comes beyond is dropped and
// counted.
type Logger struct {
	append func([]byte, *streaminfo.Info) []byte
	out    io.Writer
	stats  *stats.Detour

	mu     sync.Mutex
	buf    []byte // lines not handed to the writer yet
	lines  uint64 // in buf
	closed bool

	wake chan struct{} // a first line stands in an empty buffer
	full chan struct{} // flushSize is reached
	stop chan struct{}
	done chan struct{}
	once sync.Once
	err  error // of the last write; read after done
}

// New starts a logger that writes to out, which it never closes. s counts lines written, dropped and failed.
func New(out io.Writer, f Format, s *stats.Detour) *Logger {
	l := &Logger{
		append: AppendText,
		out:    out,
		stats:  s,
		buf:    make([]byte, 0, flushSize+4096),
		wake:   make(chan struct{}, 1),
		full:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	if f == JSON {
		l.append = AppendJSON
	}
	go l.run()
	return l
}

// Log appends one request's line. It never waits for the writer. A nil Logger logs nothing.
func (l *Logger) Log(i *streaminfo.Info) {
	if l == nil {
		return
	}
	l.mu.Lock()
	if l.closed || len(l.buf) >= maxPending {
		l.mu.Unlock()
		l.stats.AccessLogDropped.Inc()
		return
	}
	before := len(l.buf)
	l.buf = l.append(l.buf, i)
	l.lines++
	full := before < flushSize && len(l.buf) >= flushSize
	l.mu.Unlock()
	if before == 0 {
		signal(l.wake)
	}
	if full {
		signal(l.full)
		// With one processor the writer would have to wait until the scheduler takes it from a busy event loop, for 10 ms
		// and more. The buffer would grow meanwhile, and leave the caches.
		runtime.Gosched()
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close writes what is left and gives the last write's error. It waits 2 s at most for a writer that is stuck. Lines that
// come later are dropped.
func (l *Logger) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.stop)
	})
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-l.done:
		return l.err
	case <-t.C:
		return errors.New("access log: the last lines could not be written: the writer is stuck")
	}
}

func (l *Logger) run() {
	defer close(l.done)
	spare := make([]byte, 0, flushSize+4096)
	t := time.NewTimer(time.Hour)
	t.Stop()
	defer t.Stop()
	for stopping := false; !stopping; {
		select {
		case <-l.stop:
			stopping = true
		case <-l.wake:
			t.Reset(flushAfter)
			select {
			case <-t.C:
			case <-l.full:
			case <-l.stop:
				stopping = true
			}
			t.Stop()
		}
		spare = l.flush(spare)
	}
}

// flush writes the buffer and puts spare in its place; it gives back the buffer for the next time.
func (l *Logger) flush(spare []byte) []byte {
	l.mu.Lock()
	b, lines := l.buf, l.lines
	l.buf, l.lines = spare[:0], 0
	l.mu.Unlock()
	if len(b) == 0 {
		return b
	}
	if _, err := l.out.Write(b); err != nil {
		l.err = err
		l.stats.AccessLogFailed.Inc()
		l.stats.AccessLogDropped.Add(lines)
	} else {
		l.stats.AccessLogWritten.Add(lines)
	}
	if cap(b) > 4*flushSize { // grown while the writer was stuck
		return make([]byte, 0, flushSize+4096)
	}
	return b
}
