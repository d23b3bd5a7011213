package xds

import (
	"slices"
	"testing"
)

func TestDifference(t *testing.T) {
	var list []int
	for i := range 100 {
		list = append(list, i)
	}
	gone, come, ok := Difference(list, slices.Concat([]int{-1}, list[:50], list[52:99], []int{-2}))
	if !ok || !slices.Equal(gone, []int{50, 51, 99}) || !slices.Equal(come, []int{-1, -2}) {
		t.Errorf("%v gone, %v came, %v", gone, come, ok)
	}
	if gone, come, ok = Difference(nil, list[:3]); !ok || len(gone) != 0 || len(come) != 3 {
		t.Errorf("%v gone, %v came, %v", gone, come, ok)
	}
	back := slices.Clone(list)
	slices.Reverse(back)
	if _, _, ok := Difference(list, back); ok {
		t.Error("the reverse counts as a few changes")
	}
}
