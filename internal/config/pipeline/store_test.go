package pipeline

import (
	"testing"
	"time"

	"detour.dev/detour/internal/config/source"
)

// TestStandStillIsSeen: where the source says when it looked, a file has stood still when it was seen twice as it is, long
// enough apart; the clock alone proves nothing, since the source may be late.
func TestStandStillIsSeen(t *testing.T) {
	const name = "rule.yaml"
	start := time.Now()
	at := func(d time.Duration) time.Time { return start.Add(d) }
	s := newStore()
	see := func(d time.Duration, data string) bool {
		s.update(source.Update{At: at(d), Files: []source.File{{Name: name, Data: []byte(data)}}}, at(d))
		return s.advance(at(d), false)
	}
	s.update(source.Update{At: start, Files: []source.File{{Name: name, Data: []byte(walkthrough(t, "2-destination-rule"))}}}, start)
	s.advance(start, true)

	see(time.Second, "") // truncated, on the way to something
	if _, wakes := s.nextDeadline(); wakes {
		t.Error("waits for the clock")
	}
	if s.advance(at(time.Second+10*StandStill), false) || len(s.result().objects) != 1 {
		t.Error("applied what the source saw once")
	}
	if see(time.Second+StandStill-1, ""); len(s.result().objects) != 1 {
		t.Error("applied too soon")
	}
	if see(time.Second+StandStill, ""); len(s.result().objects) != 0 {
		t.Error("not applied though it was seen to stand still")
	}

	see(2*time.Second, walkthrough(t, "2-destination-rule"))
	see(3*time.Second, "") // between two looks it has changed: it stood still for neither
	if len(s.result().objects) != 0 {
		t.Error("applied what was seen once")
	}
	s.update(source.Update{At: at(4 * time.Second)}, at(4*time.Second))
	s.update(source.Update{At: at(4*time.Second + StandStill)}, at(4*time.Second+StandStill))
	if s.advance(at(4*time.Second+StandStill), false); len(s.files) != 0 {
		t.Error("a file that is gone is still there")
	}
}
