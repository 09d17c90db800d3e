package shamir

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// zero is a dealing of zero with its commitments, as a dealer publishes it.
type zero struct {
	k       int
	xs      []byte
	rows    []Row
	commits [][32]byte
	z       []byte
}

func commitTo(x byte, r Row) [32]byte { return sha256.Sum256(append([]byte{x}, r.Encode()...)) }

func (d *zero) seed() [32]byte {
	h := sha256.New()
	h.Write(d.xs)
	for _, c := range d.commits {
		h.Write(c[:])
	}
	return [32]byte(h.Sum(nil))
}

func (d *zero) commit() {
	d.commits = nil
	for i, r := range d.rows {
		d.commits = append(d.commits, commitTo(d.xs[i], r))
	}
}

func dealZero(t interface{ Fatal(...any) }, xs []byte, k int) *zero {
	d := &zero{k: k, xs: xs}
	var err error
	d.rows, d.z, err = DealZero(xs, k, func(rows []Row) [32]byte {
		d.rows = rows
		d.commit()
		return d.seed()
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// verify is the check of seat i.
func (d *zero) verify(i int) error {
	return VerifyZero(d.k, d.xs[i], d.rows[i], d.seed(), d.z, func(r Row) bool { return commitTo(d.xs[i], r) == d.commits[i] })
}

// rejects is how many seats refuse.
func (d *zero) rejects() (n int) {
	for i := range d.xs {
		if d.verify(i) != nil {
			n++
		}
	}
	return n
}

// prove makes the best proof there is for rows that were chosen freely: the
// polynomial through the first k of them, with a symmetric grid and, if forged,
// zero in its corner.
func (d *zero) prove(t interface{ Fatal(...any) }, forged bool) {
	d.commit()
	rho := challenge(d.seed())
	folds := make([][][]byte, d.k) // of the first k rows, by v
	for i := range d.k {
		for v := range d.k {
			folds[v] = append(folds[v], fold(d.rows[i][v], rho))
		}
	}
	d.z = nil
	for u := range d.k {
		w, err := Weights(d.xs[:d.k], byte(u))
		if err != nil {
			t.Fatal(err)
		}
		for v := range u + 1 {
			value, err := Apply(w, folds[v])
			if err != nil {
				t.Fatal(err)
			}
			d.z = append(d.z, value...)
		}
	}
	if forged {
		clear(d.z[:MaskWidth])
	}
}

func TestZeroKeepsTheSecretAndChangesEveryRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 6).Draw(t, "k")
		old := deal(t, rapid.SliceOfN(rapid.Byte(), DeltaWidth, DeltaWidth).Draw(t, "secret"), rapid.IntRange(k, 9).Draw(t, "n"), k)
		n := len(old.xs)
		var dealt []*zero
		for range k {
			dealt = append(dealt, dealZero(t, old.xs, k))
		}
		next := dealing{secret: old.secret, k: k, xs: old.xs}
		for i := range n {
			var deltas []Row
			for _, d := range dealt {
				if err := d.verify(i); err != nil {
					t.Fatal(err)
				}
				deltas = append(deltas, d.rows[i])
			}
			row, err := old.rows[i].Add(deltas...)
			if err != nil || bytes.Equal(row[0], old.rows[i][0]) {
				t.Fatal("the row did not change", err)
			}
			next.rows = append(next.rows, row)
		}
		some := rapid.Permutation(seats(n)).Draw(t, "seats")[:k]
		if !bytes.Equal(next.combine(t, some), old.secret) {
			t.Fatal("the secret changed")
		}
		mixed := next
		mixed.rows = append([]Row(nil), next.rows...)
		for _, i := range some[1:] {
			mixed.rows[i] = old.rows[i]
		}
		if bytes.Equal(mixed.combine(t, some), old.secret) {
			t.Fatal("k-1 old rows and a new one open the secret")
		}
		if a, b := next.help(t, 0, 1), next.help(t, 1, 0); !bytes.Equal(a, b) {
			t.Fatal("no longer symmetric")
		}
	})
}

// The kinds of malicious dealings: what the dealer does, and how many of n
// seats must refuse at least. A dealing that at most n-k seats refuse harms
// those alone: the others hold one polynomial.
type badDealing struct {
	name    string
	refuse  func(n, k int) int
	corrupt func(t interface{ Fatal(...any) }, d *zero, seat int, col int, by byte)
}

func badDealings() []badDealing {
	one := func(int, int) int { return 1 }
	// Whatever proof is made, fewer than k seats agree with one that is good.
	most := func(n, k int) int { return n - k + 1 }
	all := func(n, _ int) int { return n }
	constant := func(t interface{ Fatal(...any) }, d *zero, col int, by byte) {
		for _, r := range d.rows { // Q + by: symmetric, of the degree, not zero at (0, 0)
			for _, v := range r {
				v[col] ^= by
			}
		}
	}
	return []badDealing{
		{"a row changed after it was committed to", one, func(_ interface{ Fatal(...any) }, d *zero, seat, col int, by byte) {
			d.rows[seat][1][col] ^= by
		}},
		{"a row changed and committed to", one, func(_ interface{ Fatal(...any) }, d *zero, seat, col int, by byte) {
			d.rows[seat][1][col] ^= by
			d.commit()
		}},
		{"a row changed and proven as well as can be", one, func(t interface{ Fatal(...any) }, d *zero, seat, col int, by byte) {
			d.rows[seat][1][col] ^= by
			d.prove(t, false)
		}},
		{"a constant, proven", all, func(t interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			constant(t, d, col, by)
			d.prove(t, false)
		}},
		{"a constant, the proof's corner forged", most, func(t interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			constant(t, d, col, by)
			d.prove(t, true)
		}},
		{"a constant, the proof of the honest dealing", most, func(t interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			constant(t, d, col, by)
			d.commit()
		}},
		{"degree k", one, func(t interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			for i, r := range d.rows { // Q + by * x^k * y^k
				for u, v := range r {
					v[col] ^= mul(by, mul(power(d.xs[i], d.k), power(byte(u), d.k)))
				}
			}
			d.prove(t, false)
		}},
		{"not symmetric", one, func(t interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			for i, r := range d.rows { // Q + by * x: of the degree, zero at (0, 0)
				for _, v := range r {
					v[col] ^= mul(by, d.xs[i])
				}
			}
			d.prove(t, false)
		}},
		{"a proof of other rows", one, func(_ interface{ Fatal(...any) }, d *zero, _, col int, by byte) {
			d.z[MaskWidth+col%(len(d.z)-MaskWidth)] ^= by
		}},
		{"a commitment replaced", all, func(_ interface{ Fatal(...any) }, d *zero, seat, _ int, by byte) {
			d.commits[seat][0] ^= by // the challenge is another one for everybody
		}},
		{"two rows swapped", one, func(t interface{ Fatal(...any) }, d *zero, seat, _ int, _ byte) {
			o := (seat + 1) % len(d.rows)
			d.rows[seat], d.rows[o] = d.rows[o], d.rows[seat]
			d.prove(t, false)
		}},
		{"rows of two dealings", one, func(t interface{ Fatal(...any) }, d *zero, seat, _ int, _ byte) {
			d.rows[seat] = dealZero(t, d.xs, d.k).rows[seat]
			d.prove(t, false)
		}},
	}
}

func power(x byte, n int) byte {
	r := byte(1)
	for range n {
		r = mul(r, x)
	}
	return r
}

// 1,000 malicious dealings and more, of every kind and in every shape.
func TestMaliciousDealingsAreRefused(t *testing.T) {
	shapes := [][2]int{{3, 2}, {5, 3}, {7, 4}, {9, 3}}
	random := func(n int) int {
		var b [2]byte
		rand.Read(b[:])
		return (int(b[0])<<8 | int(b[1])) % n
	}
	done := 0
	for _, kind := range badDealings() {
		for i := range 100 {
			n, k := shapes[i%len(shapes)][0], shapes[i%len(shapes)][1]
			xs := make([]byte, n)
			for j := range xs {
				xs[j] = byte(1 + j*7 + i%5)
			}
			d := dealZero(t, xs, k)
			if d.rejects() != 0 {
				t.Fatal("an honest dealing is refused")
			}
			kind.corrupt(t, d, random(n), random(DeltaWidth), byte(1+random(255)))
			if got := d.rejects(); got < kind.refuse(n, k) {
				t.Fatalf("%s, %d of %d: %d seats refuse and %d must", kind.name, k, n, got, kind.refuse(n, k))
			}
			done++
		}
	}
	if done < 1000 {
		t.Fatalf("%d dealings", done)
	}
}

func TestVerifyZeroRefusesShapes(t *testing.T) {
	d := dealZero(t, []byte{1, 2, 3, 4, 5}, 3)
	yes := func(Row) bool { return true }
	short := Row{d.rows[0][0][:DealtWidth-1], d.rows[0][1][:DealtWidth-1], d.rows[0][2][:DealtWidth-1]}
	for name, err := range map[string]error{
		"x = 0":           VerifyZero(3, 0, d.rows[0], d.seed(), d.z, yes),
		"another k":       VerifyZero(4, 1, d.rows[0], d.seed(), d.z, yes),
		"k = 1":           VerifyZero(1, 1, d.rows[0][:1], d.seed(), d.z[:MaskWidth], yes),
		"no row":          VerifyZero(3, 1, nil, d.seed(), d.z, yes),
		"a short vector":  VerifyZero(3, 1, short, d.seed(), d.z, yes),
		"a short proof":   VerifyZero(3, 1, d.rows[0], d.seed(), d.z[1:], yes),
		"a long proof":    VerifyZero(3, 1, d.rows[0], d.seed(), append(bytes.Clone(d.z), 0), yes),
		"another seat":    VerifyZero(3, 2, d.rows[0], d.seed(), d.z, yes),
		"another seed":    VerifyZero(3, 1, d.rows[0], [32]byte{1}, d.z, yes),
		"not committed":   VerifyZero(3, 1, d.rows[0], d.seed(), d.z, func(Row) bool { return false }),
		"a row of nobody": VerifyZero(3, 9, d.rows[0], d.seed(), d.z, yes),
	} {
		if err == nil || !errors.Is(err, ErrDealing) && !errors.Is(err, ErrZero) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.verify(0); err != nil {
		t.Fatal(err)
	}
	for _, xs := range [][]byte{{1}, {1, 1}, {0, 1}, make([]byte, MaxSeats+1)} {
		if _, _, err := DealZero(xs, 2, func([]Row) [32]byte { return [32]byte{} }); err == nil {
			t.Errorf("dealt for %v", xs)
		}
	}
	if _, err := (Row{d.rows[0][0], d.rows[0][1]}).Add(d.rows[0]); err == nil {
		t.Error("a dealing of another k or width is added")
	}
}

// Every flipped bit of a row or a proof is seen by the seat.
func TestFlippedBytesOfADealing(t *testing.T) {
	d := dealZero(t, []byte{9, 4, 7}, 2)
	yes := func(Row) bool { return true } // the commitment alone would refuse
	for i := range d.rows[0] {
		for b := range d.rows[0][i] {
			d.rows[0][i][b] ^= 0x40
			if VerifyZero(2, 9, d.rows[0], d.seed(), d.z, yes) == nil {
				t.Errorf("vector %d byte %d", i, b)
			}
			d.rows[0][i][b] ^= 0x40
		}
	}
	for b := range d.z {
		d.z[b] ^= 1
		if VerifyZero(2, 9, d.rows[0], d.seed(), d.z, yes) == nil {
			t.Errorf("proof byte %d", b)
		}
		d.z[b] ^= 1
	}
}

func FuzzVerifyZero(f *testing.F) {
	d := dealZero(f, []byte{3, 1, 2}, 2)
	seed := d.seed()
	f.Add(byte(3), d.rows[0].Encode(), seed[:], d.z)
	f.Add(byte(1), d.rows[0].Encode(), seed[:], d.z)
	f.Add(byte(0), []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, x byte, row, seed, z []byte) {
		r, err := ParseRow(row, 2, DealtWidth)
		if err != nil || len(seed) != 32 {
			return
		}
		if VerifyZero(2, x, r, [32]byte(seed), z, func(Row) bool { return true }) != nil {
			return
		}
		// What passes folds to the proof: with any byte of it changed it does not.
		r[0][0] ^= 1
		if VerifyZero(2, x, r, [32]byte(seed), z, func(Row) bool { return true }) == nil && challenge([32]byte(seed))[0] != 0 {
			t.Fatal("two rows fold to one proof")
		}
	})
}

func BenchmarkVerifyZero(b *testing.B) {
	d := dealZero(b, []byte{1, 2, 3, 4, 5}, 3)
	for b.Loop() {
		if d.verify(0) != nil {
			b.Fatal()
		}
	}
}
