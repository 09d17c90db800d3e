package shamir

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

type dealing struct {
	secret []byte
	k      int
	xs     []byte
	rows   []Row
}

func drawDealing(t *rapid.T, maxSeats int) dealing {
	secret := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "secret")
	n := rapid.IntRange(2, maxSeats).Draw(t, "n")
	return deal(t, secret, n, rapid.IntRange(2, n).Draw(t, "k"))
}

func deal(t interface{ Fatal(...any) }, secret []byte, n, k int) dealing {
	xs, rows, err := Deal(secret, n, k)
	if err != nil {
		t.Fatal(err)
	}
	return dealing{secret, k, xs, rows}
}

func (d dealing) combine(t interface{ Fatal(...any) }, seats []int) []byte {
	shares := make([]Share, len(seats))
	for i, s := range seats {
		shares[i] = d.rows[s].Share(d.xs[s])
	}
	got, err := Combine(shares)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (d dealing) help(t interface{ Fatal(...any) }, from, to int) []byte {
	v, err := d.rows[from].Help(d.xs[to])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func seats(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestRowsOfADealing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDealing(t, 12)
		n := len(d.rows)
		pick := rapid.Permutation(seats(n)).Draw(t, "seats")[:d.k]
		if got := d.combine(t, pick); !bytes.Equal(got, d.secret) {
			t.Fatalf("seats %v give %x", pick, got)
		}
		for i := range n {
			if len(d.rows[i]) != d.k {
				t.Fatalf("a row of %d vectors for k = %d", len(d.rows[i]), d.k)
			}
			for j := range i {
				if !bytes.Equal(d.help(t, i, j), d.help(t, j, i)) {
					t.Fatalf("F(%d,%d) is not F(%d,%d)", d.xs[i], d.xs[j], d.xs[j], d.xs[i])
				}
			}
		}
	})
}

// k-1 rows fit every secret: adding d * Z(x) * Z(y), Z being zero at their
// seats alone, changes F(0,0) to anything and keeps F symmetric, of degree k-1
// and the same at these rows.
func TestFewerThanKRowsFitEverySecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDealing(t, 8)
		known := d.xs[:d.k-1]
		z := func(x byte) byte {
			p := byte(1)
			for _, xi := range known {
				p = mul(p, x^xi)
			}
			return p
		}
		other := rapid.SliceOfN(rapid.Byte(), len(d.secret), len(d.secret)).Draw(t, "other secret")
		scale := inv(mul(z(0), z(0)))
		before := d.rows[0].Encode()
		for j, row := range d.rows {
			for v := range row {
				for b := range row[v] {
					row[v][b] ^= mul(mul(d.secret[b]^other[b], scale), mul(z(d.xs[j]), z(byte(v))))
				}
			}
		}
		if !bytes.Equal(before, d.rows[0].Encode()) {
			t.Fatal("a known row changed")
		}
		n := len(d.rows)
		if got := d.combine(t, seats(n)[n-d.k:]); !bytes.Equal(got, other) {
			t.Fatalf("the rows now give %x instead of %x", got, other)
		}
		if !bytes.Equal(d.help(t, 0, n-1), d.help(t, n-1, 0)) {
			t.Fatal("no longer symmetric")
		}
	})
}

// Without randomness inside the grid a single row of a 2-of-n dealing would
// give the secret away.
func TestTheInsideOfTheGridIsRandom(t *testing.T) {
	inner := map[string]bool{}
	for range 20 {
		d := deal(t, make([]byte, 32), 3, 2)
		w, err := Weights(d.xs[:2], 1)
		if err != nil {
			t.Fatal(err)
		}
		g11, err := Apply(w, [][]byte{d.rows[0][1], d.rows[1][1]})
		if err != nil {
			t.Fatal(err)
		}
		inner[string(g11)] = true
	}
	if len(inner) != 20 {
		t.Fatalf("%d different values of F(1,1) in 20 dealings", len(inner))
	}
}

func TestHelpRefuses(t *testing.T) {
	d := deal(t, make([]byte, 32), 3, 2)
	if v, err := d.rows[0].Help(0); !errors.Is(err, ErrZero) || v != nil {
		t.Error("at 0 it would be this seat's own share:", err)
	}
	for name, r := range map[string]Row{
		"nil": nil, "one vector": {{1}}, "empty vectors": {{}, {}}, "unequal": {{1}, {1, 2}}, "too many": make(Row, 33),
	} {
		if v, err := r.Help(5); !errors.Is(err, ErrRow) || v != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRowRefuses(t *testing.T) {
	for _, c := range []struct{ len, k, width int }{
		{0, 2, 0}, {0, 0, 0}, {32, 1, 32}, {0, 3, 32}, {95, 3, 32}, {97, 3, 32}, {96, 3, 31},
		{33 * 32, 33, 32}, {96, 2, 48 + 1}, {2 * 65, 2, 65}, {4, -2, -2}, {4, 2, -2},
	} {
		if r, err := ParseRow(make([]byte, c.len), c.k, c.width); !errors.Is(err, ErrRow) || r != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestErase(t *testing.T) {
	d := deal(t, bytes.Repeat([]byte{9}, 32), 3, 2)
	d.rows[0].Erase()
	if !bytes.Equal(d.rows[0].Encode(), make([]byte, 64)) {
		t.Error("a row is still there")
	}
	s := Share{X: 1, Y: []byte{1, 2}}
	s.Erase()
	if !bytes.Equal(s.Y, []byte{0, 0}) {
		t.Error("a share is still there")
	}
}

func FuzzParseRow(f *testing.F) {
	f.Add(make([]byte, 96), 3, 32)
	f.Add([]byte{1, 2, 3, 4}, 2, 2)
	f.Add([]byte{1, 2, 3}, 2, 2)
	f.Add([]byte{}, 0, 0)
	f.Fuzz(func(t *testing.T, b []byte, k, width int) {
		r, err := ParseRow(b, k, width)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Encode(), b) || len(r) != k || len(r[k-1]) != width {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
		if _, err := r.Help(7); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkDeal3of5(b *testing.B) {
	secret := make([]byte, 32)
	for b.Loop() {
		Deal(secret, 5, 3)
	}
}

func BenchmarkHelp(b *testing.B) {
	d := deal(b, make([]byte, 32), 5, 3)
	for b.Loop() {
		d.rows[0].Help(d.xs[1])
	}
}
