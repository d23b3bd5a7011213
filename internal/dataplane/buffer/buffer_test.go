package buffer

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// filled is a window with a head of that many bytes and everything else full.
func filled(head int) *Window {
	w := &Window{Keep: true}
	w.Init(&Pool{})
	w.Fill = copy(w.Room(), make([]byte, head))
	w.Head, w.Sent, w.Valid = head, head, head
	w.Fill += len(w.Room())
	w.Valid = w.Fill
	return w
}

func TestKeep(t *testing.T) {
	w := filled(100)
	if len(w.Room()) != 0 || !w.Replayable() {
		t.Error("a full window of which nothing was sent gives room, or forgets")
	}
	w.Sent = w.Head + 10
	w.Rewind()
	if len(w.Room()) != 0 || !w.Replayable() {
		t.Error("what was taken back was dropped")
	}
	w.Sent = w.Head + 10
	if n := len(w.Room()); n != 10 || w.Replayable() {
		t.Errorf("%d bytes of room, replayable %v, want 10, false", n, w.Replayable())
	}
	w.Sent = w.Fill
	if n := len(w.Room()); n != Size-100 {
		t.Errorf("%d bytes of room after all was sent", n)
	}
}

// TestLongHead: a head near the limit leaves room for its body, and its bytes stay where slices point.
func TestLongHead(t *testing.T) {
	w := &Window{Keep: true}
	w.Init(&Pool{})
	for w.Fill < 80<<10 {
		room := w.Room()
		if len(room) == 0 {
			t.Fatalf("no room after %d bytes", w.Fill)
		}
		n := min(len(room), 80<<10-w.Fill)
		for i := range room[:n] {
			room[i] = byte(w.Fill + i)
		}
		w.Fill += n
	}
	w.Head, w.Sent, w.Valid = w.Fill, w.Fill, w.Fill
	head, before := w.B[:w.Head], bytes.Clone(w.B[:w.Head])
	for w.Fill < 80<<10+minBody {
		room := w.Room()
		if len(room) == 0 {
			break
		}
		w.Fill += len(room)
	}
	if w.Fill < w.Head+minBody {
		t.Errorf("%d bytes of body fit", w.Fill-w.Head)
	}
	if !bytes.Equal(head, before) || !bytes.Equal(w.B[:w.Head], before) || len(w.B) > maxHead+Size {
		t.Errorf("the window has grown to %d", len(w.B))
	}
}

func TestNextReleases(t *testing.T) {
	p := &Pool{}
	w := &Window{}
	w.Init(p)
	w.Fill = copy(w.Room(), "onetwo")
	w.Head, w.Valid, w.Sent = 3, 3, 3
	w.Next()
	if string(w.B[w.Base:w.Fill]) != "two" || w.Head != 0 || len(p.free) != 0 {
		t.Errorf("next is %q", w.B[w.Base:w.Fill])
	}
	w.Head, w.Valid, w.Sent = w.Fill, w.Fill, w.Fill
	w.Next()
	if w.B != nil || len(p.free) != 1 {
		t.Error("an empty window keeps its memory")
	}
	if b := p.Get(); len(b) != Size || len(p.free) != 0 {
		t.Error("the pool lost it")
	}
}

// TestStream passes random bytes through a window in random pieces: they come out as they went in, whatever is kept.
func TestStream(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		in := make([]byte, 200<<10)
		for i := range in {
			in[i] = byte(rnd.Uint32())
		}
		head := 1 + rnd.IntN(80<<10)
		w := &Window{Keep: rnd.IntN(2) == 0}
		w.Init(&Pool{})
		var out []byte
		for at := 0; len(out) < len(in)-head; {
			if room := w.Room(); len(room) > 0 && at < len(in) {
				n := copy(room[:min(len(room), 1+rnd.IntN(20<<10))], in[at:])
				w.Fill += n
				at += n
			} else if w.Head > 0 && w.Sent >= w.Fill && at < len(in) {
				t.Fatalf("seed %d: neither room nor anything to send", seed)
			}
			if w.Head == 0 {
				if w.Fill < head {
					continue
				}
				w.Head, w.Sent, w.Valid = head, head, head
			}
			w.Valid = w.Fill
			n := rnd.IntN(len(w.Pending()) + 1)
			if w.Replayable() && rnd.IntN(50) == 0 { // an attempt failed: all that was sent is sent again
				w.Rewind()
				w.Sent, out = w.Head, nil
				continue
			}
			out = append(out, w.Pending()[:n]...)
			w.Sent += n
		}
		if !bytes.Equal(out, in[head:]) {
			t.Fatalf("seed %d: %d bytes came out, not as they went in", seed, len(out))
		}
	}
}

// TestTrim: what a burst needed stays while it lasts, and goes step by step when nothing needs it any more.
func TestTrim(t *testing.T) {
	grown := 0
	p := &Pool{Grown: func() { grown++ }}
	use := func(n int) {
		var all [][]byte
		for range n {
			all = append(all, p.Get())
		}
		for _, b := range all {
			p.Put(b)
		}
	}
	use(Keep)
	if grown != 0 || p.Trim() || len(p.free) != Keep {
		t.Fatalf("told %d times of %d buffers", grown, len(p.free))
	}
	use(1000)
	p.Trim() // what was needed since the last time stays
	if grown != 1 || len(p.free) != 1000 {
		t.Fatalf("told %d times, %d of 1000 buffers", grown, len(p.free))
	}
	use(900)
	if !p.Trim() || len(p.free) != 950 {
		t.Errorf("%d buffers left where 100 of 1000 were not needed", len(p.free))
	}
	rounds := 0
	for p.Trim() {
		rounds++
	}
	if len(p.free) != Keep || rounds > 12 {
		t.Errorf("%d buffers after %d rounds", len(p.free), rounds)
	}
	use(maxFree + 10)
	if len(p.free) != maxFree {
		t.Errorf("%d buffers are kept", len(p.free))
	}
}
