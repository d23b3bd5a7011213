package app

import "testing"

func TestCollectorPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 800}, {1 << 20, 800}, {4 << 20, 400}, {10 << 20, 150}, {16 << 20, 100}, {1 << 30, 100}} {
		if got := collectorPercent(c.live); got != c.want {
			t.Errorf("%d bytes live: %d %%, want %d %%", c.live, got, c.want)
		}
	}
}
