package outlier

import (
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane/lb"
)

// step is one thing that happens to endpoint At.
type step struct {
	what  string // refused, silent, 200, 503, wait, sweep
	at    int
	after time.Duration
}

// E4's rule, case by case: a local-origin failure ejects, unless every endpoint has failed so lately and nothing succeeded
// since; then nothing stays ejected for it.
func TestEveryoneFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hosts int
		pct   uint32
		steps []step
		want  []int
		fault int // how many Fault events
	}{
		{"one of two dies, the other was never tried", 2, 99, []step{{"refused", 0, 0}}, []int{0}, 0},
		{"one of two dies, the other serves", 2, 99, []step{{"200", 1, 0}, {"refused", 0, 0}, {"200", 1, 0}}, []int{0}, 0},
		{"both die at once", 2, 99, []step{{"refused", 0, 0}, {"refused", 1, time.Second}}, nil, 1},
		{"both die at once, explicit 100 %", 2, 100, []step{{"refused", 0, 0}, {"refused", 1, time.Second}}, nil, 1},
		{"the network goes: both silent, 1.2 s each", 2, 99,
			[]step{{"200", 0, 0}, {"silent", 0, 1200 * time.Millisecond}, {"silent", 1, 1200 * time.Millisecond}}, nil, 1},
		{"it stays away", 2, 100, []step{{"silent", 0, 0}, {"silent", 1, 2 * time.Second}, {"silent", 0, 2 * time.Second},
			{"silent", 1, 2 * time.Second}, {"silent", 0, time.Minute}, {"silent", 1, time.Second}}, nil, 4},
		{"back, and then one dies for real", 2, 99,
			[]step{{"silent", 0, 0}, {"silent", 1, time.Second}, {"200", 0, time.Second}, {"200", 1, 0}, {"refused", 0, time.Second}},
			[]int{0}, 1},
		{"both failed, the second serves again: the first failure of the other ejects it", 2, 99,
			[]step{{"refused", 0, 0}, {"refused", 1, 0}, {"200", 1, 0}, {"refused", 0, 0}}, []int{0}, 1},
		{"one died a minute ago, now the other: explicit 100 %", 2, 100,
			[]step{{"refused", 0, 0}, {"200", 1, 0}, {"refused", 1, 50 * time.Second}}, []int{0, 1}, 0},
		{"the same, and then the ejected one as last resort fails too", 2, 100,
			[]step{{"refused", 0, 0}, {"200", 1, 0}, {"refused", 1, 50 * time.Second}, {"refused", 0, 0}}, nil, 1},
		{"a minute apart without any success: the first is not in doubt any more", 2, 100,
			[]step{{"refused", 0, 0}, {"refused", 1, 50 * time.Second}}, []int{0, 1}, 0},
		{"503 answers are answers", 2, 100, []step{{"503", 0, 0}, {"503", 1, 0}}, []int{0, 1}, 0},
		{"what was ejected for its answers stays ejected", 3, 100,
			[]step{{"503", 0, 0}, {"refused", 1, 0}, {"refused", 2, 0}, {"refused", 0, 0}}, []int{0}, 1},
		{"four, all within seconds", 4, 99,
			[]step{{"refused", 0, 0}, {"refused", 1, time.Second}, {"refused", 2, time.Second}, {"refused", 3, time.Second}}, nil, 1},
		{"three of four", 4, 99,
			[]step{{"refused", 0, 0}, {"refused", 1, time.Second}, {"refused", 2, time.Second}, {"200", 3, time.Second}}, []int{0, 1, 2}, 0},
		{"the only endpoint is never ejected for it, and nothing is said", 1, 100, []step{{"refused", 0, 0}}, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, tc.hosts, walkthrough(tc.pct))
			faults := 0
			for _, s := range tc.steps {
				w.now = w.now.Add(s.after)
				for _, ev := range w.step(s) {
					if ev.Kind == Fault {
						faults++
					}
				}
			}
			w.ejected(tc.want...)
			if faults != tc.fault {
				t.Errorf("%d times the fault was said to be here, want %d", faults, tc.fault)
			}
		})
	}
}

func (w *world) step(s step) []Event {
	switch s.what {
	case "refused":
		return w.refused(s.at)
	case "silent":
		return w.report(s.at, lb.Outcome{Kind: lb.ConnectTimeout})
	case "200":
		return w.status(s.at, 200)
	case "503":
		return w.status(s.at, 503)
	}
	w.t.Fatalf("no step %q", s.what)
	return nil
}

// An endpoint that EDS calls unhealthy does not vouch for the rest.
func TestEveryoneFailsLeavesOutTheUnhealthy(t *testing.T) {
	w := newWorld(t, 3, walkthrough(99))
	w.eps[2].Status = corev3.HealthStatus_UNHEALTHY
	w.refused(0)
	w.ejected(0)
	w.refused(1)
	w.ejected()
}

// An ejection that E4 took back does not lengthen the next.
func TestAmnestyLeavesNoTrace(t *testing.T) {
	w := newWorld(t, 2, walkthrough(99))
	w.refused(0)
	w.refused(1)
	w.status(1, 200)
	ev := w.refused(0)
	if len(ev) != 1 || ev[0].For != time.Minute {
		t.Errorf("events %+v, want one ejection for 1m", ev)
	}
}

// compat leaves E4 out: both are ejected where 100 % allows it.
func TestCompatJudgesEveryFailure(t *testing.T) {
	w := newWorld(t, 2, walkthrough(100))
	w.d.compat = true
	w.refused(0)
	w.refused(1)
	w.ejected(0, 1)
}
