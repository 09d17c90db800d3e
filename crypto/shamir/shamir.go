package shamir

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/vault/shamir"
)

// MaxSeats is the largest number of seats of a secret (protocol.md section 1).
const MaxSeats = 32

var (
	// ErrZero: x = 0 is the place of the secret and no seat's. A share that
	// claims it would alone dictate the result.
	ErrZero = errors.New("x is 0, which is no seat")
	// ErrShares: too few shares, two of one seat, or shares of unequal length.
	ErrShares = errors.New("these shares do not fit together")
)

// Share is the value of the polynomial at one seat. It prints as "[redacted]".
type Share struct {
	X byte   // the seat's coordinate, 1 to 255
	Y []byte // as long as the secret
}

// Split shares secret among n seats of which any k give it back, 2 <= k <= n
// <= [MaxSeats]. The coordinates are distinct, non-zero and in random order;
// secret must not be empty and is not kept.
func Split(secret []byte, n, k int) ([]Share, error) {
	if k < 2 || k > n || n > MaxSeats {
		return nil, fmt.Errorf("splitting %d of %d: 2 <= k <= n <= %d does not hold", k, n, MaxSeats)
	}
	parts, err := shamir.Split(secret, n, k)
	if err != nil {
		return nil, fmt.Errorf("splitting: %w", err)
	}
	shares := make([]Share, n)
	for i, p := range parts {
		last := len(p) - 1
		shares[i] = Share{X: p[last], Y: p[:last:last]}
	}
	return shares, nil
}

// Combine returns the secret of two or more shares. It refuses x = 0
// ([ErrZero]), and seats named twice, unequal lengths and fewer than two shares
// ([ErrShares]). It cannot tell whether the shares are enough or belong
// together. The result is the caller's to zero.
func Combine(shares []Share) ([]byte, error) {
	if err := check(shares); err != nil {
		return nil, err
	}
	return translate(shares, 0)
}

// EvalAt returns P(x) of the polynomial through the shares: the share that seat
// x has. It refuses what [Combine] refuses, and x = 0, which would be the
// secret: who wants that calls Combine.
func EvalAt(shares []Share, x byte) ([]byte, error) {
	if x == 0 {
		return nil, ErrZero
	}
	if err := check(shares); err != nil {
		return nil, err
	}
	return translate(shares, x)
}

func check(shares []Share) error {
	if len(shares) < 2 {
		return fmt.Errorf("%w: %d of them", ErrShares, len(shares))
	}
	var seen [256]bool
	for _, s := range shares {
		switch {
		case s.X == 0:
			return ErrZero
		case seen[s.X]:
			return fmt.Errorf("%w: two of seat %d", ErrShares, s.X)
		case len(s.Y) != len(shares[0].Y) || len(s.Y) == 0:
			return fmt.Errorf("%w: unequal lengths", ErrShares)
		}
		seen[s.X] = true
	}
	return nil
}

// translate evaluates at x with a Combine that evaluates at 0: g(z) = P(z+x)
// has the value P(xi) at xi+x, and addition in the field is XOR.
func translate(points []Share, x byte) ([]byte, error) {
	parts := make([][]byte, len(points))
	for i, p := range points {
		parts[i] = append(append(make([]byte, 0, len(p.Y)+1), p.Y...), p.X^x)
	}
	defer wipe(parts)
	out, err := shamir.Combine(parts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShares, err)
	}
	return out, nil
}

func wipe(vs [][]byte) {
	for _, v := range vs {
		clear(v)
	}
}

const redacted = "[redacted]"

// Erase overwrites the value.
func (s Share) Erase() { clear(s.Y) }

// Format implements fmt.Formatter: no verb prints the value.
func (Share) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue implements slog.LogValuer.
func (Share) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler by refusing.
func (Share) MarshalText() ([]byte, error) { return nil, errors.New("a share has no text form") }
