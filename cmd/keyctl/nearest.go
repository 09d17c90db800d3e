package main

import "strings"

// nearest returns the candidate that word most likely meant, or "" when none
// is close: a shared prefix of three letters, or at most two slips (one in
// words of up to four letters).
func nearest(word string, candidates []string) string {
	word = strings.ToLower(word)
	limit := 2
	if len(word) <= 4 {
		limit = 1
	}
	best, bestAt := "", limit+1
	for _, c := range candidates {
		d := slips(word, c)
		if d > limit && len(word) >= 3 && strings.HasPrefix(c, word) {
			d = limit
		}
		if d < bestAt {
			best, bestAt = c, d
		}
	}
	return best
}

// slips counts the insertions, deletions, replacements and swaps of neighbours
// that turn a into b (optimal string alignment distance). Words here are
// short; anything over 64 bytes is simply far.
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
