// Package buffer owns the memory that messages pass through: one window per direction of a connection that is busy, none
// for one that is idle. The codec's slices point into it, so the head of a message stays in place while its body streams
// through the rest.
package buffer

// Size is the size of a new window: an answer of 16 kB and its head in one read.
const Size = 32 << 10

// maxHead is how far a window grows for a head that does not fit; the codec refuses heads of responses above 80 KiB, and those of
// requests before that.
const maxHead = 84 << 10

// minBody is the least room that a long head must leave for the body.
const minBody = 4 << 10

// Pool keeps windows of one worker for reuse. Not safe for concurrent use.
type Pool struct {
	free [][]byte
	low  int // least number of free buffers since the last Trim
	// Grown is told when more than Keep buffers are free; Trim should be called now and then for as long as that lasts. nil:
	// nobody trims.
	Grown func()
}

// Bounds of what a pool keeps: Keep for good, maxFree (64 MB) while the load that needed them lasts. Below that, a thousand
// requests at once would leave most of their buffers to the garbage collector, and get new ones at the next turn.
const (
	Keep    = 64
	maxFree = 2048
)

// Get gives a buffer of Size bytes.
func (p *Pool) Get() []byte {
	if n := len(p.free) - 1; n >= 0 {
		b := p.free[n]
		p.free[n] = nil
		p.free = p.free[:n]
		p.low = min(p.low, n)
		return b
	}
	return make([]byte, Size)
}

// Put takes a buffer back.
func (p *Pool) Put(b []byte) {
	if len(b) != Size || len(p.free) >= maxFree {
		return
	}
	p.free = append(p.free, b)
	if len(p.free) == Keep+1 && p.Grown != nil {
		p.Grown()
	}
}

// Trim drops half of the buffers beyond Keep that nobody needed since the last time. It says whether there is more to trim.
func (p *Pool) Trim() bool {
	if n := (min(p.low, len(p.free)-Keep) + 1) / 2; n > 0 {
		for range n {
			last := len(p.free) - 1
			p.free[last] = nil
			p.free = p.free[:last]
		}
	}
	p.low = len(p.free)
	return len(p.free) > Keep
}

// Window is what has been read of a message and not yet left: B[Base:Head] is its head, B[Sent:Valid] may be sent,
// B[Valid:Fill] has yet to be checked by the codec.
type Window struct {
	pool  *Pool
	B     []byte
	Base  int // first byte of the message
	Head  int // first byte after its head; 0 while the head is incomplete
	Sent  int
	Valid int
	Fill  int
	// Keep holds what was sent, so that it can be sent again. It falls to false when what was sent has to make room.
	Keep bool
}

// Init sets where the window's memory comes from.
func (w *Window) Init(p *Pool) { w.pool = p }

// Pending is what may be sent.
func (w *Window) Pending() []byte { return w.B[w.Sent:w.Valid] }

// Unchecked is what the codec has not seen.
func (w *Window) Unchecked() []byte { return w.B[w.Valid:w.Fill] }

// Room gives the space to read into, making some where it can; it is empty while the receiver has to catch up first.
func (w *Window) Room() []byte {
	if w.B == nil {
		w.B = w.pool.Get()
	}
	if w.Head == 0 {
		w.roomForHead()
	} else {
		w.roomForBody()
	}
	return w.B[w.Fill:]
}

func (w *Window) roomForHead() {
	if w.Fill < len(w.B) {
		return
	}
	if w.Base > 0 {
		w.shift(0, w.Base)
		w.Base = 0
		return
	}
	if len(w.B) < maxHead {
		w.grow(min(2*len(w.B), maxHead))
	}
}

func (w *Window) roomForBody() {
	if w.Sent == w.Fill && w.Sent > w.Head && !w.Keep {
		w.Sent, w.Valid, w.Fill = w.Head, w.Head, w.Head
		return
	}
	if w.Fill < len(w.B) {
		return
	}
	switch {
	case w.Sent > w.Head:
		w.Keep = false
		w.shift(w.Head, w.Sent)
	case len(w.B)-w.Head < minBody:
		w.grow(w.Head + Size)
	}
}

// shift moves B[from:Fill] to B[to:].
func (w *Window) shift(to, from int) {
	copy(w.B[to:], w.B[from:w.Fill])
	w.Valid -= from - to
	w.Sent -= from - to
	w.Fill -= from - to
}

// grow moves the window to new memory. Only called where no head that is in use can be cut off from its slices: before
// the head is parsed, or with the old memory left to the garbage collector, where those slices keep it alive.
func (w *Window) grow(size int) {
	b := make([]byte, size)
	copy(b, w.B[:w.Fill])
	w.B = b
}

// Replayable says whether everything from the head on is still here.
func (w *Window) Replayable() bool { return w.Keep }

// Rewind takes everything back that was sent, so that it stays until it is sent again. Only while Replayable.
func (w *Window) Rewind() { w.Sent = w.Base }

// Next ends the message at B[Valid] and makes what follows the beginning of the next. Memory is given back when nothing
// follows.
func (w *Window) Next() {
	w.Base, w.Head, w.Sent, w.Keep = w.Valid, 0, w.Valid, false
	if w.Base == w.Fill {
		w.Release()
	}
}

// Release drops everything and gives the memory back.
func (w *Window) Release() {
	if w.B != nil {
		w.pool.Put(w.B)
	}
	*w = Window{pool: w.pool}
}
