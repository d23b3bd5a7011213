package accesslog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/stats"
)

// recorder keeps what is written, and when; while gate is set a write waits for it.
type recorder struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	writes []time.Time
	gate   chan struct{}
	err    error
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, time.Now())
	return r.buf.Write(p)
}

func (r *recorder) lines() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return lines(r.buf.String())
}

func TestFlushAfter100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &recorder{}
		var s stats.Detour
		l := New(out, Text, &s)
		defer l.Close()
		time.Sleep(time.Hour) // nothing to write, nothing written
		start := time.Now()
		l.Log(full())
		time.Sleep(50 * time.Millisecond)
		l.Log(full())
		time.Sleep(49 * time.Millisecond)
		if out.lines() != 0 {
			t.Fatal("written before 100 ms")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if out.lines() != 2 || len(out.writes) != 1 || out.writes[0].Sub(start) != 100*time.Millisecond {
			t.Fatalf("%d lines in writes at %v", out.lines(), out.writes)
		}
		if s.AccessLogWritten.Value() != 2 || s.AccessLogDropped.Value() != 0 {
			t.Errorf("written %d, dropped %d", s.AccessLogWritten.Value(), s.AccessLogDropped.Value())
		}
	})
}

func TestFlushWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &recorder{}
		var s stats.Detour
		l := New(out, JSON, &s)
		defer l.Close()
		n := flushSize/len(AppendJSON(nil, full())) + 1
		start := time.Now()
		for range n {
			l.Log(full())
		}
		synctest.Wait()
		if out.lines() != n || time.Since(start) != 0 {
			t.Errorf("%d of %d lines after %v", out.lines(), n, time.Since(start))
		}
	})
}

// While the writer is stuck requests go on, memory is bounded, and every line is either written later or counted.
func TestStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &recorder{gate: make(chan struct{})}
		var s stats.Detour
		l := New(out, Text, &s)
		one := len(AppendText(nil, full()))
		n := 3 * maxPending / one
		for range n {
			l.Log(full())
			l.mu.Lock()
			kept := len(l.buf)
			l.mu.Unlock()
			if kept > maxPending+one {
				t.Fatalf("%d bytes are kept", kept)
			}
		}
		synctest.Wait()
		if err := l.Close(); err == nil {
			t.Error("Close says that all is well")
		}
		dropped := int(s.AccessLogDropped.Value())
		if dropped == 0 {
			t.Error("nothing was dropped")
		}
		close(out.gate)
		synctest.Wait()
		if got := out.lines() + dropped; got != n || int(s.AccessLogWritten.Value()) != out.lines() {
			t.Errorf("%d written and %d dropped of %d; counted as written: %d", out.lines(), dropped, n, s.AccessLogWritten.Value())
		}
	})
}

func TestWriteError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &recorder{err: errors.New("disk full")}
		var s stats.Detour
		l := New(out, Text, &s)
		l.Log(full())
		if err := l.Close(); err == nil || err.Error() != "disk full" {
			t.Errorf("Close: %v", err)
		}
		if s.AccessLogFailed.Value() != 1 || s.AccessLogDropped.Value() != 1 || s.AccessLogWritten.Value() != 0 {
			t.Errorf("failed %d, dropped %d, written %d", s.AccessLogFailed.Value(), s.AccessLogDropped.Value(), s.AccessLogWritten.Value())
		}
		l.Log(full()) // after Close
		if s.AccessLogDropped.Value() != 2 {
			t.Error("a line after Close is not counted as dropped")
		}
		if err := l.Close(); err == nil {
			t.Error("the second Close forgets the error")
		}
	})
}

// Many goroutines and a real file: every line is there, whole.
func TestConcurrentToFile(t *testing.T) {
	const workers, each = 8, 2000
	path := filepath.Join(t.TempDir(), "access.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s stats.Detour
	l := New(f, Text, &s)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			i := full()
			for range each {
				l.Log(i)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := AppendText(nil, full())
	written := bytes.Count(b, want)
	if written*len(want) != len(b) || written+int(s.AccessLogDropped.Value()) != workers*each || written == 0 {
		t.Errorf("%d whole lines in %d bytes, %d dropped, want %d in all", written, len(b), s.AccessLogDropped.Value(), workers*each)
	}
}

func TestNilLogger(t *testing.T) {
	var l *Logger
	l.Log(&streaminfo.Info{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogAllocatesNothing(t *testing.T) {
	var s stats.Detour
	l := New(io.Discard, Text, &s)
	defer l.Close()
	i := full()
	i.DownstreamRemote = i.DownstreamLocal
	for range 1000 {
		l.Log(i)
	}
	if n := testing.AllocsPerRun(1000, func() { l.Log(i) }); n > 0.01 {
		t.Errorf("%v allocations a line", n)
	}
}

func BenchmarkLog(b *testing.B) {
	var s stats.Detour
	l := New(io.Discard, Text, &s)
	defer l.Close()
	i := full()
	b.ReportAllocs()
	for b.Loop() {
		l.Log(i)
	}
}
