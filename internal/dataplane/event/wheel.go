package event

import (
	"math/bits"
	"time"
)

// Timers are coarse on purpose: they guard requests and connections, so that one tick more or less decides nothing,
// and setting one must cost no more than a few list operations per request.
const (
	tick  = 4 * time.Millisecond
	slots = 512 // one turn of the wheel is 2.048 s; later deadlines stay in their slot for several turns

	// maxAfter keeps a timer that means "never" from overflowing into "now".
	maxAfter = 100 * 365 * 24 * time.Hour
)

// Timer calls a function once at a deadline. The zero Timer is unusable; Init it. It may be scheduled again from its
// own function. A Timer belongs to one dispatcher.
type Timer struct {
	d          *Dispatcher
	fn         func()
	at         int64 // in ticks since the wheel's start; valid while queued
	next, prev *Timer
	queued     bool
}

// Init prepares the timer.
func (t *Timer) Init(d *Dispatcher, fn func()) { t.d, t.fn = d, fn }

// Schedule arms the timer, replacing an earlier deadline. It fires at the first tick not before after has passed
// since Now.
func (t *Timer) Schedule(after time.Duration) {
	t.d.wheel.schedule(t, t.d.now.Add(min(after, maxAfter)))
}

// Stop disarms the timer.
func (t *Timer) Stop() {
	if t.queued {
		t.d.wheel.unlink(t)
	}
}

// Armed says whether the timer will fire.
func (t *Timer) Armed() bool { return t.queued }

// wheel is a hashed timing wheel (Varghese and Lauck, scheme 6) with a bitmap of slots in use, so that the loop
// sleeps until the next slot instead of ticking.
type wheel struct {
	start time.Time
	done  int64 // all ticks up to this one have been run
	slot  [slots]*Timer
	used  [slots / 64]uint64
	count int
}

func (w *wheel) init(now time.Time) { w.start = now }

func (w *wheel) schedule(t *Timer, at time.Time) {
	if t.queued {
		w.unlink(t)
	}
	t.at = max(int64((at.Sub(w.start)+tick-1)/tick), w.done+1)
	i := t.at % slots
	t.prev, t.next = nil, w.slot[i]
	if t.next != nil {
		t.next.prev = t
	}
	w.slot[i] = t
	w.used[i/64] |= 1 << (i % 64)
	t.queued = true
	w.count++
}

func (w *wheel) unlink(t *Timer) {
	i := t.at % slots
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		w.slot[i] = t.next
		if t.next == nil {
			w.used[i/64] &^= 1 << (i % 64)
		}
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.next, t.prev, t.queued = nil, nil, false
	w.count--
}

// untilNext is how long the loop may sleep: until the next slot in use, whether its timers are due in this turn of
// the wheel or a later one; -1 when there is no timer.
func (w *wheel) untilNext(now time.Time) time.Duration {
	if w.count == 0 {
		return -1
	}
	first := w.done + 1
	for off := int64(0); off < slots; {
		i := (first + off) % slots
		if word := w.used[i/64] >> (i % 64); word != 0 {
			at := first + off + int64(bits.TrailingZeros64(word))
			return max(w.start.Add(time.Duration(at)*tick).Sub(now), 0)
		}
		off += 64 - i%64
	}
	return tick * slots
}

// advance runs every timer that is due.
func (w *wheel) advance(now time.Time) {
	to := int64(now.Sub(w.start) / tick)
	if w.count == 0 || to <= w.done {
		w.done = max(w.done, to)
		return
	}
	from := w.done + 1
	w.done = to
	if to-from >= slots {
		from = to - slots + 1 // every slot once is enough
	}
	for tk := from; tk <= to; tk++ {
		w.runSlot(tk%slots, to)
	}
}

// runSlot fires the due timers of one slot. A timer's function may arm or stop any timer, so the list is read again
// from its head after each.
func (w *wheel) runSlot(i, to int64) {
	for {
		t := w.slot[i]
		for t != nil && t.at > to {
			t = t.next
		}
		if t == nil {
			return
		}
		w.unlink(t)
		t.fn()
	}
}
