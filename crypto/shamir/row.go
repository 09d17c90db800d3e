package shamir

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// MaxWidth is the largest width of a row, in bytes. A data key is 32 wide, a
// dealing of a refresh 48.
const MaxWidth = 64

// Row is what a seat stores: k vectors of the secret's length, Row[v] being
// F(x, v). Row[0] is P(x), the seat's share. It prints as "[redacted]", but fmt
// cannot ask it in an unexported field: never print a struct that holds one.
type Row [][]byte

var (
	// ErrRow: the bytes are not k vectors of the width.
	ErrRow = errors.New("not a row of this shape")
	// ErrDeal: a dealing contradicted itself and was thrown away.
	ErrDeal = errors.New("the dealing failed its own check")
)

// Deal shares secret among n seats of which any k give it back, as rows of a
// fresh symmetric bivariate polynomial (protocol.md section 3). Seat xs[i] gets
// rows[i]. The limits are those of [Split], and secret has at most [MaxWidth]
// bytes: larger ones are encrypted under a data key, which is dealt.
func Deal(secret []byte, n, k int) (xs []byte, rows []Row, err error) {
	if len(secret) > MaxWidth {
		return nil, nil, fmt.Errorf("dealing %d bytes: at most %d", len(secret), MaxWidth)
	}
	shares, err := Split(secret, n, k)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, s := range shares {
			s.Erase()
		}
	}()
	grid, err := newGrid(secret, shares[:k])
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, vs := range grid {
			wipe(vs)
		}
	}()
	xs, rows = make([]byte, n), make([]Row, n)
	for i, s := range shares {
		xs[i] = s.X
		rows[i], err = gridRow(grid, s.X)
		if err == nil && subtle.ConstantTimeCompare(rows[i][0], s.Y) != 1 {
			err = ErrDeal
		}
		if err != nil {
			for _, r := range rows {
				r.Erase()
			}
			return nil, nil, err
		}
	}
	return xs, rows, nil
}

// newGrid returns F(u, v) for 0 <= u, v < k: the secret in the corner, P along
// the edges, random and symmetric inside.
func newGrid(secret []byte, shares []Share) ([][][]byte, error) {
	k := len(shares)
	grid := make([][][]byte, k)
	for u := range grid {
		grid[u] = make([][]byte, k)
	}
	xs, ys := make([]byte, k), make([][]byte, k)
	for i, s := range shares {
		xs[i], ys[i] = s.X, s.Y
	}
	grid[0][0] = append([]byte(nil), secret...)
	for u := 1; u < k; u++ {
		w, err := Weights(xs, byte(u))
		if err != nil {
			return nil, err
		}
		edge, err := Apply(w, ys)
		if err != nil {
			return nil, err
		}
		grid[0][u], grid[u][0] = edge, edge
		for v := 1; v <= u; v++ {
			inner := make([]byte, len(secret))
			if _, err := rand.Read(inner); err != nil {
				return nil, fmt.Errorf("dealing: %w", err)
			}
			grid[u][v], grid[v][u] = inner, inner
		}
	}
	return grid, nil
}

// gridRow interpolates the grid's columns at x.
func gridRow(grid [][][]byte, x byte) (Row, error) {
	w, err := Weights(upTo(len(grid)), x)
	if err != nil {
		return nil, err
	}
	row := make(Row, len(grid))
	for v := range row {
		// F is symmetric: the column v is the row v.
		if row[v], err = Apply(w, grid[v]); err != nil {
			return nil, err
		}
	}
	return row, nil
}

func upTo(k int) []byte {
	u := make([]byte, k)
	for i := range u {
		u[i] = byte(i)
	}
	return u
}

// check refuses what is no row: fewer than 2 or more than [MaxSeats] vectors,
// empty ones, or vectors of unequal length.
func (r Row) check() error {
	if len(r) < 2 || len(r) > MaxSeats || len(r[0]) == 0 {
		return ErrRow
	}
	for _, v := range r {
		if len(v) != len(r[0]) {
			return ErrRow
		}
	}
	return nil
}

// Help returns F(xi, x), xi being the seat of this row: what this seat and seat
// x have in common, the audit key of the pair and this seat's word in a repair
// of x. It refuses x = 0 ([ErrZero]), where the answer would be this seat's own
// share. Whether x is a seat of the secret, and who asks, is for the caller to
// check. The result aliases nothing.
func (r Row) Help(x byte) ([]byte, error) {
	if x == 0 {
		return nil, ErrZero
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	w, err := Weights(upTo(len(r)), x)
	if err != nil {
		return nil, err
	}
	return Apply(w, r)
}

// Share returns the share of seat x of which this is the row. Its Y is Row[0],
// not a copy.
func (r Row) Share(x byte) Share { return Share{X: x, Y: r[0]} }

// Encode returns the vectors one after the other: the bytes that a commitment
// covers and that a seat stores. The result aliases nothing.
func (r Row) Encode() []byte {
	n := 0
	for _, v := range r {
		n += len(v)
	}
	out := make([]byte, 0, n)
	for _, v := range r {
		out = append(out, v...)
	}
	return out
}

// ParseRow reads k vectors of width bytes, 2 <= k <= [MaxSeats], 1 <= width <=
// [MaxWidth]; b must have exactly k*width bytes, else [ErrRow]. The row does not
// alias b.
func ParseRow(b []byte, k, width int) (Row, error) {
	if k < 2 || k > MaxSeats || width < 1 || width > MaxWidth || len(b) != k*width {
		return nil, fmt.Errorf("%w: %d bytes for %d times %d", ErrRow, len(b), k, width)
	}
	r := make(Row, k)
	for v := range r {
		r[v] = append([]byte(nil), b[v*width:(v+1)*width]...)
	}
	return r, nil
}

// Erase overwrites the row.
func (r Row) Erase() { wipe(r) }

// Format implements fmt.Formatter: no verb prints the row.
func (Row) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue implements slog.LogValuer.
func (Row) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler by refusing.
func (Row) MarshalText() ([]byte, error) { return nil, errors.New("a row has no text form") }
