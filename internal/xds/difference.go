package xds

// maxDifference is how many elements may come and go at one place of a list before it counts as another list.
const maxDifference = 16

// Difference gives the elements that are in one list only, where most are in both and in the same order; ok is false where
// the lists have too little in common to tell soon. Of long lists of pointers that is a walk from end to end.
func Difference[T comparable](old, now []T) (gone, come []T, ok bool) {
	i, j := 0, 0
	for {
		for i < len(old) && j < len(now) && old[i] == now[j] {
			i, j = i+1, j+1
		}
		if i == len(old) && j == len(now) {
			return gone, come, true
		}
		a, b, found := resume(old[i:], now[j:])
		if !found || len(gone) > 4*maxDifference || len(come) > 4*maxDifference {
			return nil, nil, false
		}
		gone, come = append(gone, old[i:i+a]...), append(come, now[j:j+b]...)
		i, j = i+a, j+b
	}
}

// resume finds where two lists go on alike: after the fewest elements of both together.
func resume[T comparable](old, now []T) (a, b int, found bool) {
	for n := 1; n <= maxDifference; n++ {
		for a := max(0, n-len(now)); a <= min(n, len(old)); a++ {
			b := n - a
			if a == len(old) && b == len(now) || a < len(old) && b < len(now) && old[a] == now[b] {
				return a, b, true
			}
		}
	}
	return 0, 0, false
}
