package shamir

import (
	"encoding/binary"
	"fmt"
)

// Weights returns the Lagrange weights of the points xs at the point at: for
// every polynomial f of degree below len(xs), f(at) is the sum of weights[i] *
// f(xs[i]), which is what [Apply] computes. They are taken once for all bytes
// by combining unit vectors. xs are two or more distinct coordinates; 0 is
// allowed on both sides, since coordinates and weights are public.
func Weights(xs []byte, at byte) ([]byte, error) {
	points := make([]Share, len(xs))
	for i, x := range xs {
		unit := make([]byte, len(xs))
		unit[i] = 1
		points[i] = Share{X: x, Y: unit}
	}
	return translate(points, at)
}

// Apply returns the sum of weights[i] * values[i] in GF(2^8), byte by byte. The
// values must be as many as the weights and of one length. Its time depends on
// counts and lengths alone. The result aliases nothing.
func Apply(weights []byte, values [][]byte) ([]byte, error) {
	if len(weights) != len(values) || len(values) == 0 {
		return nil, fmt.Errorf("%w: %d weights for %d values", ErrShares, len(weights), len(values))
	}
	out := make([]byte, len(values[0]))
	for i, v := range values {
		if len(v) != len(out) {
			clear(out)
			return nil, fmt.Errorf("%w: unequal lengths", ErrShares)
		}
		addMul(out, weights[i], v)
	}
	return out, nil
}

// addMul adds w*v to out, eight bytes at a time.
func addMul(out []byte, w byte, v []byte) {
	for len(v) >= 8 {
		sum := binary.NativeEndian.Uint64(out) ^ mul8(w, binary.NativeEndian.Uint64(v))
		binary.NativeEndian.PutUint64(out, sum)
		out, v = out[8:], v[8:]
	}
	for i, b := range v {
		out[i] ^= byte(mul8(w, uint64(b)))
	}
}

// mul8 multiplies eight field elements by w in constant time: GF(2^8) modulo
// 0x11b, as in FIPS 197 section 4.2 and in the vault package.
func mul8(w byte, v uint64) (r uint64) {
	const low7, ones = 0x7f7f7f7f7f7f7f7f, 0x0101010101010101
	for range 8 {
		r ^= v & -uint64(w&1)
		v = v&low7<<1 ^ (v>>7&ones)*0x1b
		w >>= 1
	}
	return r
}

// mul multiplies two field elements in constant time.
func mul(a, b byte) byte { return byte(mul8(a, uint64(b))) }

// inv returns 1/a as a^254, and 0 for 0.
func inv(a byte) byte {
	r := byte(1)
	for range 7 {
		a = mul(a, a)
		r = mul(r, a)
	}
	return r
}

// basis returns the rows of weights of xs at 0, 1, ... k-1: what [Weights]
// gives for each, with the denominators taken once. [Repair] needs it for many
// subsets. xs are distinct.
func basis(xs []byte, k int) [][]byte {
	inverse := make([]byte, len(xs))
	for i, xi := range xs {
		d := byte(1)
		for j, xj := range xs {
			if j != i {
				d = mul(d, xi^xj)
			}
		}
		inverse[i] = inv(d)
	}
	out := make([][]byte, k)
	for at := range out {
		out[at] = make([]byte, len(xs))
		for i := range xs {
			w := inverse[i]
			for j, xj := range xs {
				if j != i {
					w = mul(w, byte(at)^xj)
				}
			}
			out[at][i] = w
		}
	}
	return out
}
