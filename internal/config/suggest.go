package config

import (
	"fmt"
	"strings"
)

// DidYouMean gives " (did you mean `x`?)" for the nearest of the words, or nothing when none is near.
func DidYouMean(word string, words []string) string {
	best, bestDistance := "", 1+len(word)/3
	for _, w := range words {
		d := Distance(strings.ToLower(word), strings.ToLower(w), bestDistance)
		if d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean `%s`?)", best)
}

// Distance counts the insertions, deletions, replacements and swaps of neighbours between two words; more than limit
// is not told apart.
func Distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
