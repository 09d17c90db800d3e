package shamir

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// school multiplies polynomials over GF(2) and divides by x^8+x^4+x^3+x+1.
func school(a, b byte) byte {
	p := 0
	for i := range 8 {
		if b>>i&1 == 1 {
			p ^= int(a) << i
		}
	}
	for i := 15; i >= 8; i-- {
		if p>>i&1 == 1 {
			p ^= 0x11b << (i - 8)
		}
	}
	return byte(p)
}

func TestFieldAgainstSchoolMultiplication(t *testing.T) {
	// FIPS 197 section 4.2.
	if mul(0x57, 0x83) != 0xc1 || mul(0x57, 0x13) != 0xfe {
		t.Fatal("the examples of FIPS 197 do not hold")
	}
	for a := range 256 {
		for b := range 256 {
			if mul(byte(a), byte(b)) != school(byte(a), byte(b)) {
				t.Fatalf("%d * %d = %d", a, b, mul(byte(a), byte(b)))
			}
		}
		want := byte(1)
		if a == 0 {
			want = 0
		}
		if mul(byte(a), inv(byte(a))) != want {
			t.Fatalf("inv(%d) = %d", a, inv(byte(a)))
		}
	}
}

// points draws n points with distinct non-zero x of w bytes each.
func points(t *rapid.T, n, w int) []Share {
	xs := rapid.SliceOfNDistinct(rapid.ByteRange(1, 255), n, n, rapid.ID).Draw(t, "xs")
	out := make([]Share, n)
	for i, x := range xs {
		out[i] = Share{X: x, Y: rapid.SliceOfN(rapid.Byte(), w, w).Draw(t, "y")}
	}
	return out
}

func TestWeightsEqualCombine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.IntRange(1, 70).Draw(t, "width")
		ps := points(t, rapid.IntRange(2, 12).Draw(t, "points"), w)
		at := rapid.Byte().Draw(t, "at")
		var xs []byte
		var ys [][]byte
		for _, p := range ps {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
		weights, err := Weights(xs, at)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Apply(weights, ys)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Combine(ps)
		if at != 0 {
			want, err = EvalAt(ps, at)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("at %d: %x instead of %x (%v)", at, got, want, err)
		}
	})
}

func TestBasisEqualsWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 32).Draw(t, "points")
		xs := rapid.SliceOfNDistinct(rapid.Byte(), n, n, rapid.ID).Draw(t, "xs")
		k := rapid.IntRange(1, 6).Draw(t, "k")
		for at, got := range basis(xs, k) {
			want, err := Weights(xs, byte(at))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("at %d: %x instead of %x (%v)", at, got, want, err)
			}
		}
	})
}

func TestWeightsAtAPointOfTheirOwn(t *testing.T) {
	w, err := Weights([]byte{9, 0, 200}, 200)
	if err != nil || !bytes.Equal(w, []byte{0, 0, 1}) {
		t.Fatal(w, err)
	}
}

func BenchmarkEvalAt(b *testing.B) {
	shares, _ := Split(make([]byte, 32), 5, 3)
	for b.Loop() {
		EvalAt(shares[:3], 77)
	}
}

func BenchmarkWeightsApply(b *testing.B) {
	shares, _ := Split(make([]byte, 32), 5, 3)
	xs, ys := make([]byte, 3), make([][]byte, 3)
	for i, s := range shares[:3] {
		xs[i], ys[i] = s.X, s.Y
	}
	for b.Loop() {
		w, _ := Weights(xs, 77)
		Apply(w, ys)
	}
}
