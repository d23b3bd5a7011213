package app

import "testing"

func TestPace(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 800}, {1 << 20, 800}, {4 << 20, 400}, {10 << 20, 150}, {16 << 20, 100}, {20 << 20, 80}, {64 << 20, 25}, {1 << 30, 15}} {
		if got := new(pace).percent(c.live, 30); got != c.want {
			t.Errorf("%d bytes live: %d %%, want %d %%", c.live, got, c.want)
		}
	}
}

// TestPaceOfMuchGarbage: a large heap gets room while much is collected, and gives it back some time after.
func TestPaceOfMuchGarbage(t *testing.T) {
	var p pace
	for tick, c := range []struct {
		cycles uint64
		want   int
	}{{30, 25}, {31, 25}, {35, 25}, {38, 25}, {42, 25}, {46, 100}, {46, 100}, {50, 100}, {53, 100}, {53, 100}, {53, 100}, {53, 100}, {53, 25}, {57, 25}, {61, 100}} {
		if got := p.percent(64<<20, c.cycles); got != c.want {
			t.Errorf("tick %d, %d collections: %d %%, want %d %%", tick, c.cycles, got, c.want)
		}
	}
	if got := (&pace{cycles: 1}).percent(2<<20, 100); got != 800 {
		t.Errorf("a small heap that is busy: %d %%", got)
	}
}
