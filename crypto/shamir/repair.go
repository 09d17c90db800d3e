package shamir

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
)

// maxAttempts bounds the subsets of helpers that one [Repair] tries; the
// largest row takes about 20 µs an attempt.
const maxAttempts = 1 << 14

// ErrRepair: no k of the values that were tried give a row that ok accepts.
var ErrRepair = errors.New("no row of this seat comes out of these values")

// Repair rebuilds the row of seat x from values[i] = F(helpers[i], x), what
// [Row.Help] gives at k or more other seats (protocol.md section 8). ok must
// hold for the right row only, so it compares the commitment. Values that
// contradict the accepted row, also by their length, are lies, and the helpers who
// sent them are returned in the order given; a value longer than [MaxWidth] is
// not even looked at. Any k honest ones suffice
// while there are at most 16,384 ways to choose k; beyond that as many random
// choices are tried, which finds them unless a large part lies.
//
// It refuses x = 0 and a helper 0 ([ErrZero]), and x among the helpers or a
// helper named twice ([ErrShares]). When nothing is accepted it is [ErrRepair]
// and nobody is named.
func Repair(k int, x byte, helpers []byte, values [][]byte, ok func(Row) bool) (Row, []byte, error) {
	if err := checkHelpers(k, x, helpers, values); err != nil {
		return nil, nil, err
	}
	tried := map[int]bool{}
	for _, v := range values {
		if len(v) == 0 || len(v) > MaxWidth || tried[len(v)] {
			continue
		}
		tried[len(v)] = true
		row, err := repairWidth(k, len(v), helpers, values, ok)
		if err != nil {
			return nil, nil, err
		}
		if row == nil {
			continue
		}
		liars, err := contradict(row, helpers, values)
		return row, liars, err
	}
	return nil, nil, ErrRepair
}

func checkHelpers(k int, x byte, helpers []byte, values [][]byte) error {
	if k < 2 || k > MaxSeats || len(helpers) != len(values) || len(helpers) >= MaxSeats {
		return fmt.Errorf("%w: %d helpers and %d values for k = %d", ErrShares, len(helpers), len(values), k)
	}
	if x == 0 {
		return ErrZero
	}
	var seen [256]bool
	seen[x] = true
	for _, h := range helpers {
		if h == 0 {
			return ErrZero
		}
		if seen[h] {
			return fmt.Errorf("%w: seat %d twice", ErrShares, h)
		}
		seen[h] = true
	}
	return nil
}

// contradict names the helpers whose value is not the row's.
func contradict(row Row, helpers []byte, values [][]byte) (liars []byte, err error) {
	for i, h := range helpers {
		want, err := row.Help(h)
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare(want, values[i]) != 1 {
			liars = append(liars, h)
		}
		clear(want)
	}
	return liars, nil
}

// repairWidth tries subsets of the helpers whose values have this width. It
// returns nil when none is accepted.
func repairWidth(k, width int, helpers []byte, values [][]byte, ok func(Row) bool) (Row, error) {
	var xs []byte
	var vs [][]byte
	for i, v := range values {
		if len(v) == width {
			xs, vs = append(xs, helpers[i]), append(vs, v)
		}
	}
	if len(xs) < k {
		return nil, nil
	}
	next := successor(len(xs))
	// At most 31 over 15, so it fits an int64.
	if new(big.Int).Binomial(int64(len(xs)), int64(k)).Int64() > maxAttempts {
		next = shuffle(len(xs))
	}
	pick := make([]int, k)
	for i := range pick {
		pick[i] = i
	}
	for range maxAttempts {
		row, err := candidate(pick, xs, vs)
		if err != nil {
			return nil, err
		}
		if ok(row) {
			return row, nil
		}
		row.Erase()
		if more, err := next(pick); err != nil || !more {
			return nil, err
		}
	}
	return nil, nil
}

// candidate interpolates F(., x) through the picked values at 0 to k-1.
func candidate(pick []int, xs []byte, vs [][]byte) (Row, error) {
	px, pv := make([]byte, len(pick)), make([][]byte, len(pick))
	for i, p := range pick {
		px[i], pv[i] = xs[p], vs[p]
	}
	row := make(Row, len(pick))
	for v, w := range basis(px, len(pick)) {
		var err error
		if row[v], err = Apply(w, pv); err != nil {
			return nil, err
		}
	}
	return row, nil
}

// successor steps through the subsets of n in lexicographic order.
func successor(n int) func(pick []int) (bool, error) {
	return func(pick []int) (bool, error) {
		for i := len(pick) - 1; i >= 0; i-- {
			if pick[i] < n-len(pick)+i {
				pick[i]++
				for j := i + 1; j < len(pick); j++ {
					pick[j] = pick[j-1] + 1
				}
				return true, nil
			}
		}
		return false, nil
	}
}

// shuffle picks random subsets of n, so that liars cannot choose seats that
// come first in every choice.
func shuffle(n int) func(pick []int) (bool, error) {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return func(pick []int) (bool, error) {
		for i := range pick {
			j, err := rand.Int(rand.Reader, big.NewInt(int64(n-i)))
			if err != nil {
				return false, fmt.Errorf("repairing: %w", err)
			}
			o := i + int(j.Int64())
			all[i], all[o] = all[o], all[i]
			pick[i] = all[i]
		}
		return true, nil
	}
}
