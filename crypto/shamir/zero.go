package shamir

import (
	"bytes"
	"crypto/rand"
	"crypto/sha3"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Widths of a dealing of zero, in bytes (protocol.md section 9): what is added
// to the vectors of a row, and the masks that hide it in the proof.
const (
	DeltaWidth = 32
	MaskWidth  = 16 // a bad dealing passes with probability 256^-16 = 2^-128
	DealtWidth = DeltaWidth + MaskWidth
)

// ErrDealing: a dealing of zero does not prove what it must.
var ErrDealing = errors.New("not a good dealing of zero")

// ProofSize is the length of the proof of a dealing of zero, in bytes: the
// values Z(u, v) for 0 <= v <= u < k, MaskWidth bytes each, u after u. Z is
// symmetric by this form.
func ProofSize(k int) int { return k * (k + 1) / 2 * MaskWidth }

// DealZero deals a fresh random symmetric Q of degree k-1 in both variables with
// Q(0, 0) = 0, [DealtWidth] byte columns wide: added to the rows of a secret it
// gives other rows of the same secret (protocol.md section 9). Seat xs[i] gets
// rows[i]; xs are 2 to [MaxSeats] distinct non-zero coordinates, 2 <= k <=
// len(xs). seed is called once with the rows and must depend on all of what
// binds them, their commitments first: it chooses the challenge. z is the proof.
func DealZero(xs []byte, k int, seed func([]Row) [32]byte) (rows []Row, z []byte, err error) {
	if err := checkSeats(xs, k); err != nil {
		return nil, nil, err
	}
	grid, err := zeroGrid(k)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, vs := range grid {
			wipe(vs)
		}
	}()
	rows = make([]Row, len(xs))
	for i, x := range xs {
		if rows[i], err = gridRow(grid, x); err != nil {
			return nil, nil, err
		}
	}
	rho := challenge(seed(rows))
	z = make([]byte, 0, ProofSize(k))
	for u := range k {
		for v := range u + 1 {
			z = append(z, fold(grid[u][v], rho)...)
		}
	}
	return rows, z, nil
}

func checkSeats(xs []byte, k int) error {
	if k < 2 || k > len(xs) || len(xs) > MaxSeats {
		return fmt.Errorf("dealing zero for %d of %d: 2 <= k <= n <= %d does not hold", k, len(xs), MaxSeats)
	}
	var seen [256]bool
	seen[0] = true
	for _, x := range xs {
		if seen[x] {
			return fmt.Errorf("%w: seat %d is zero or given twice", ErrShares, x)
		}
		seen[x] = true
	}
	return nil
}

// zeroGrid returns a random symmetric grid with zero in its corner.
func zeroGrid(k int) ([][][]byte, error) {
	grid := make([][][]byte, k)
	for u := range grid {
		grid[u] = make([][]byte, k)
		for v := range u + 1 {
			value := make([]byte, DealtWidth)
			if u > 0 {
				if _, err := rand.Read(value); err != nil {
					return nil, fmt.Errorf("dealing zero: %w", err)
				}
			}
			grid[u][v], grid[v][u] = value, value
		}
	}
	return grid, nil
}

// challenge is SHAKE256 of the seed, one factor for each column of deltas and
// of masks: rho[b*MaskWidth+m].
func challenge(seed [32]byte) []byte {
	return sha3.SumSHAKE256(seed[:], DeltaWidth*MaskWidth)
}

// fold returns mask + rho * delta of a vector of DealtWidth bytes. The values
// are the secret factor of addMul, whose time does not depend on either.
func fold(v, rho []byte) []byte {
	out := bytes.Clone(v[DeltaWidth:DealtWidth])
	for b := range DeltaWidth {
		addMul(out, v[b], rho[b*MaskWidth:(b+1)*MaskWidth])
	}
	return out
}

// VerifyZero is the check of seat x on its own row of a dealing, of which z is
// the proof and seed what chose the challenge: the row has the shape and is the
// one committed to (committed says so, and is asked once), Z(0, 0) = 0, and
// Z(x, v) is the fold of row[v] for every v < k.
//
// Why that is enough: the rows of all seats were committed to before rho was
// known. A column is good when the values that the seats with a verified row
// have in it lie on one symmetric polynomial of degree below k that is 0 at
// (0, 0); good columns are a linear space. All those rows fold to one Z of that
// space, so for each of the 16 masks m the column mask_m + sum of rho[b][m] *
// delta_b is in it. If any delta_b is not, this holds for one value in 256 of
// rho[b][m], and for all 16 with probability 2^-128. It says nothing of the
// masks and needs not: only the deltas are used. Any k honest seats that accept
// fix the polynomial; a dealer that tries T challenges offline succeeds with
// probability T * 2^-128 for a given set of seats.
//
// z itself is uniformly random in that space whatever the deltas are, since the
// masks are: it tells nothing. Errors wrap [ErrDealing] and say nothing of the
// row's bytes.
func VerifyZero(k int, x byte, row Row, seed [32]byte, z []byte, committed func(Row) bool) error {
	switch {
	case x == 0:
		return ErrZero
	case k < 2 || k > MaxSeats || len(row) != k || row.check() != nil || len(row[0]) != DealtWidth:
		return fmt.Errorf("%w: the row has another shape", ErrDealing)
	case len(z) != ProofSize(k):
		return fmt.Errorf("%w: the proof has another shape", ErrDealing)
	case !committed(row):
		return fmt.Errorf("%w: the row is not the one committed to", ErrDealing)
	case !bytes.Equal(z[:MaskWidth], make([]byte, MaskWidth)):
		return fmt.Errorf("%w: it is not zero at the corner", ErrDealing)
	}
	proof, err := gridRow(proofGrid(k, z), x)
	if err != nil {
		return err
	}
	rho := challenge(seed)
	same := 1
	for v := range row {
		same &= subtle.ConstantTimeCompare(proof[v], fold(row[v], rho))
	}
	if same != 1 {
		return fmt.Errorf("%w: the row is not on the polynomial of the proof", ErrDealing)
	}
	return nil
}

func proofGrid(k int, z []byte) [][][]byte {
	grid := make([][][]byte, k)
	for u := range grid {
		grid[u] = make([][]byte, k)
		for v := range u + 1 {
			grid[u][v], grid[v][u] = z[:MaskWidth], z[:MaskWidth]
			z = z[MaskWidth:]
		}
	}
	return grid
}

// Add returns r plus the deltas of each row of a dealing of zero, all of the
// same seat: the seat's row of the next epoch. r has vectors of [DeltaWidth]
// bytes and the others as many of [DealtWidth]; anything else is [ErrRow]. The
// result aliases nothing.
func (r Row) Add(dealt ...Row) (Row, error) {
	if r.check() != nil || len(r[0]) != DeltaWidth {
		return nil, ErrRow
	}
	out := make(Row, len(r))
	for v := range r {
		out[v] = bytes.Clone(r[v])
	}
	for _, d := range dealt {
		if d.check() != nil || len(d) != len(r) || len(d[0]) != DealtWidth {
			out.Erase()
			return nil, ErrRow
		}
		for v := range out {
			subtle.XORBytes(out[v], out[v], d[v][:DeltaWidth])
		}
	}
	return out, nil
}
