package demo

import "strings"

// line is one line of a difference: ' ' in both, '-' in the old text, '+' in the new one.
type line struct {
	mark byte
	text string
}

// diff compares texts line by line (longest common subsequence); the files of the walkthrough are short.
func diff(before, after string) []line {
	a, b := split(before), split(after)
	common := make([][]int, len(a)+1) // common[i][j]: of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []line
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, line{' ', a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, line{'-', a[i]})
			i++
		default:
			out = append(out, line{'+', b[j]})
			j++
		}
	}
	return out
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// near keeps the changed lines and up to n lines before and one after each.
func near(all []line, n int) []line {
	keep := make([]bool, len(all))
	for i, l := range all {
		if l.mark == ' ' {
			continue
		}
		for k := max(0, i-n); k <= min(len(all)-1, i+1); k++ {
			keep[k] = true
		}
	}
	var out []line
	for i, l := range all {
		if keep[i] {
			out = append(out, l)
		}
	}
	return out
}
