//go:build unix

package event

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Random timers, moved and stopped at random: each fires once, never early, never later than two ticks after its
// deadline (one for rounding up, one for the clock's step).
func TestWheelRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	d := NewManual(epoch)
	type entry struct {
		Timer
		due   time.Time
		armed bool
	}
	timers := make([]*entry, 300)
	fired := 0
	for i := range timers {
		e := &entry{}
		e.Init(d, func() {
			fired++
			if !e.armed {
				t.Errorf("timer %d fired after it was stopped, or twice", i)
			}
			if late := d.Now().Sub(e.due); late < 0 || late > 2*tick {
				t.Errorf("timer %d fired %s after its deadline", i, late)
			}
			e.armed = false
		})
		timers[i] = e
	}
	for range 20000 {
		e := timers[rnd.IntN(len(timers))]
		switch rnd.IntN(4) {
		case 0, 1:
			after := time.Duration(rnd.Int64N(int64(10 * time.Second)))
			if rnd.IntN(3) == 0 {
				after = time.Duration(rnd.Int64N(int64(20 * time.Millisecond)))
			}
			e.Schedule(after)
			e.due, e.armed = d.Now().Add(after), true
		case 2:
			e.Stop()
			e.armed = false
		case 3:
			d.Advance(time.Duration(rnd.Int64N(int64(30 * time.Millisecond))))
		}
		if e.Armed() != e.armed {
			t.Fatalf("Armed is %v, want %v", e.Armed(), e.armed)
		}
	}
	d.Advance(11 * time.Second)
	for i, e := range timers {
		if e.armed || e.Armed() {
			t.Errorf("timer %d never fired", i)
		}
	}
	if fired < 1000 || d.wheel.count != 0 {
		t.Errorf("%d fired, %d counted as waiting", fired, d.wheel.count)
	}
	if got := d.wheel.untilNext(d.Now()); got != -1 {
		t.Errorf("an empty wheel wants to wake in %s", got)
	}
}

func TestWheelFunctions(t *testing.T) {
	d := NewManual(epoch)
	var a, b, c Timer
	var log []string
	a.Init(d, func() {
		log = append(log, "a")
		b.Stop() // in the same slot
		if len(log) < 3 {
			a.Schedule(10 * time.Millisecond)
		}
	})
	b.Init(d, func() { log = append(log, "b") })
	c.Init(d, func() { log = append(log, "c") })
	b.Schedule(10 * time.Millisecond)
	a.Schedule(10 * time.Millisecond) // the later one of a slot fires first
	d.Advance(100 * time.Millisecond)
	if got := len(log); got != 3 {
		t.Errorf("fired %v, want a three times", log)
	}
	log = nil
	c.Schedule(math.MaxInt64)
	a.Schedule(-time.Hour)
	d.Advance(2 * tick)
	if len(log) == 0 || log[0] != "a" {
		t.Errorf("a deadline in the past fired %v, want a at the next tick", log)
	}
	d.Advance(time.Hour)
	if !c.Armed() {
		t.Error("a timer that means never has fired")
	}
	c.Stop()
	c.Stop()
}

// A clock that jumps (the machine slept) fires everything that is due, once.
func TestWheelJump(t *testing.T) {
	d := NewManual(epoch)
	fired := map[time.Duration]int{}
	for _, after := range []time.Duration{time.Millisecond, time.Second, 3 * time.Second, time.Minute, 2 * time.Hour} {
		timer := &Timer{}
		timer.Init(d, func() { fired[after]++ })
		timer.Schedule(after)
	}
	d.now = d.now.Add(time.Hour)
	d.wheel.advance(d.now)
	if len(fired) != 4 || fired[2*time.Hour] != 0 {
		t.Errorf("fired %v", fired)
	}
}

func BenchmarkTimer(b *testing.B) {
	d := NewManual(epoch)
	timers := make([]Timer, 1000)
	for i := range timers {
		timers[i].Init(d, func() {})
	}
	for i := 0; b.Loop(); i++ {
		timers[i%1000].Schedule(15 * time.Second)
	}
}
