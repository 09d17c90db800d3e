package shamir

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// values returns the helpers of seat 0 and what they send.
func (d dealing) values(t interface{ Fatal(...any) }, from []int) (xs []byte, vs [][]byte) {
	for _, i := range from {
		xs, vs = append(xs, d.xs[i]), append(vs, d.help(t, i, 0))
	}
	return xs, vs
}

func (d dealing) ok(r Row) bool { return bytes.Equal(r.Encode(), d.rows[0].Encode()) }

func TestRepairNamesTheLiars(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 5).Draw(t, "k")
		d := deal(t, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"), rapid.IntRange(k+1, 10).Draw(t, "n"), k)
		n := len(d.xs)
		helpers := rapid.Permutation(seats(n)[1:]).Draw(t, "helpers")
		helpers = helpers[:rapid.IntRange(k, n-1).Draw(t, "answers")]
		xs, vs := d.values(t, helpers)
		var want []byte
		for i := range rapid.IntRange(0, len(helpers)-k).Draw(t, "liars") {
			lie := rapid.SampledFrom([]string{"bit", "random", "short", "long", "huge", "empty", "own share"}).Draw(t, "lie")
			vs[i] = told(t, lie, vs[i], d.rows[helpers[i]][0])
			want = append(want, xs[i])
		}
		row, liars, err := Repair(k, d.xs[0], xs, vs, d.ok)
		if err != nil || !d.ok(row) || !bytes.Equal(liars, want) {
			t.Fatalf("%v, liars %v instead of %v", err, liars, want)
		}
	})
}

func told(t *rapid.T, lie string, v, share []byte) []byte {
	v = bytes.Clone(v)
	switch lie {
	case "bit":
		v[rapid.IntRange(0, len(v)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	case "random":
		v[0] ^= rapid.ByteRange(1, 255).Draw(t, "by")
		copy(v[1:], rapid.SliceOfN(rapid.Byte(), len(v)-1, len(v)-1).Draw(t, "value"))
	case "short":
		v = v[:len(v)-1]
	case "long":
		v = append(v, 0)
	case "huge":
		v = make([]byte, MaxWidth+1)
	case "empty":
		v = nil
	case "own share":
		if bytes.Equal(v, share) {
			v[0] ^= 1
		} else {
			v = bytes.Clone(share)
		}
	}
	return v
}

// k liars who agree on another polynomial convince each other, not ok.
func TestRepairAgainstLiarsWhoAgree(t *testing.T) {
	d, other := deal(t, make([]byte, 32), 7, 3), deal(t, make([]byte, 32), 7, 3)
	xs, vs := d.values(t, []int{1, 2, 3, 4, 5, 6})
	for i := range 3 {
		v, err := other.rows[0].Help(xs[i])
		if err != nil {
			t.Fatal(err)
		}
		vs[i] = v
	}
	row, liars, err := Repair(3, d.xs[0], xs, vs, d.ok)
	if err != nil || !d.ok(row) || !bytes.Equal(liars, xs[:3]) {
		t.Fatal(err, liars)
	}
}

func TestRepairWithTooManyLiarsNamesNobody(t *testing.T) {
	d := deal(t, make([]byte, 32), 6, 3)
	xs, vs := d.values(t, []int{1, 2, 3, 4, 5})
	for i := range 3 {
		vs[i][i] ^= 1
	}
	if row, liars, err := Repair(3, d.xs[0], xs, vs, d.ok); !errors.Is(err, ErrRepair) || row != nil || liars != nil {
		t.Fatal(row, liars, err)
	}
}

func TestRepairRefuses(t *testing.T) {
	d := deal(t, make([]byte, 32), 5, 3)
	xs, vs := d.values(t, []int{1, 2, 3})
	replace := func(i int, x byte) []byte { c := bytes.Clone(xs); c[i] = x; return c }
	for name, c := range map[string]struct {
		k      int
		x      byte
		xs     []byte
		values [][]byte
		want   error
	}{
		"the secret's place":    {3, 0, xs, vs, ErrZero},
		"a helper at 0":         {3, d.xs[0], replace(1, 0), vs, ErrZero},
		"a helper twice":        {3, d.xs[0], replace(1, xs[0]), vs, ErrShares},
		"itself as helper":      {3, d.xs[0], replace(2, d.xs[0]), vs, ErrShares},
		"fewer values":          {3, d.xs[0], xs, vs[:2], ErrShares},
		"fewer than k":          {3, d.xs[0], xs[:2], vs[:2], ErrRepair},
		"nobody":                {3, d.xs[0], nil, nil, ErrRepair},
		"k = 1":                 {1, d.xs[0], xs, vs, ErrShares},
		"k = 33":                {33, d.xs[0], xs, vs, ErrShares},
		"more than other seats": {3, d.xs[0], make([]byte, 32), make([][]byte, 32), ErrShares},
	} {
		called := false
		row, liars, err := Repair(c.k, c.x, c.xs, c.values, func(Row) bool { called = true; return true })
		if !errors.Is(err, c.want) || row != nil || liars != nil || called {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Values wider than any row are not worth a single attempt.
func TestRepairIgnoresHugeValues(t *testing.T) {
	d := deal(t, make([]byte, 32), 5, 3)
	xs, _ := d.values(t, []int{1, 2, 3})
	huge := make([]byte, MaxWidth+1)
	_, _, err := Repair(3, d.xs[0], xs, [][]byte{huge, huge, huge}, func(Row) bool {
		t.Error("a candidate of huge values")
		return true
	})
	if !errors.Is(err, ErrRepair) {
		t.Fatal(err)
	}
}

// A repair sees the helpers' values alone: k-1 of them fit every row.
func TestFewerThanKValuesDoNotRepair(t *testing.T) {
	d := deal(t, []byte("0123456789abcdef0123456789abcdef"), 5, 3)
	xs, vs := d.values(t, []int{1, 2})
	other, _ := d.values(t, []int{3})
	row, _, err := Repair(3, d.xs[0], append(xs, other...), append(vs, make([]byte, 32)), func(Row) bool { return true })
	if err != nil || d.ok(row) {
		t.Fatal("two true values and a made-up one gave the row", err)
	}
}

// The largest case with more subsets than are tried: still found while few lie,
// and bounded when all do.
func TestRepairIsBounded(t *testing.T) {
	d := deal(t, make([]byte, 32), 32, 16)
	xs, vs := d.values(t, seats(32)[1:])
	for i := range 4 {
		vs[i][0] ^= 1
	}
	row, liars, err := Repair(16, d.xs[0], xs, vs, d.ok)
	if err != nil || !d.ok(row) || !bytes.Equal(liars, xs[:4]) {
		t.Fatal(err, liars)
	}
	tries := 0
	if _, _, err := Repair(16, d.xs[0], xs, vs, func(Row) bool { tries++; return false }); !errors.Is(err, ErrRepair) {
		t.Fatal(err)
	}
	if tries != maxAttempts {
		t.Fatalf("%d tries instead of %d", tries, maxAttempts)
	}
}

func TestSuccessorVisitsEverySubsetOnce(t *testing.T) {
	pick, seen := []int{0, 1, 2}, map[[3]int]bool{}
	next := successor(7)
	for {
		if seen[[3]int(pick)] || !slices.IsSorted(pick) || pick[2] >= 7 {
			t.Fatal(pick)
		}
		seen[[3]int(pick)] = true
		more, err := next(pick)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if len(seen) != 35 {
		t.Fatalf("%d subsets of 3 in 7", len(seen))
	}
}

func TestShuffleNeverPicksTwice(t *testing.T) {
	next := shuffle(10)
	used := map[int]bool{}
	for range 100 {
		pick := make([]int, 4)
		if more, err := next(pick); err != nil || !more {
			t.Fatal(err)
		}
		slices.Sort(pick)
		if len(slices.Compact(slices.Clone(pick))) != 4 || pick[0] < 0 || pick[3] > 9 {
			t.Fatal(pick)
		}
		for _, p := range pick {
			used[p] = true
		}
	}
	if len(used) != 10 {
		t.Fatal("some seats are never picked:", used)
	}
}

func BenchmarkRepair3of5(b *testing.B) {
	d := deal(b, make([]byte, 32), 5, 3)
	xs, vs := d.values(b, []int{1, 2, 3, 4})
	for b.Loop() {
		Repair(3, d.xs[0], xs, vs, d.ok)
	}
}
