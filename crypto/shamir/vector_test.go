package shamir

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write a new testdata/dealing.json")

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectors[C any] struct {
	Note  string `json:"note"`
	Cases []C    `json:"cases"`
}

func load[C any](t *testing.T, name string) []C {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors[C]
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) == 0 || v.Note == "" {
		t.Fatal("no cases in " + name)
	}
	return v.Cases
}

// window returns k shares from i on, cyclically, of the form y || x.
func window(shares []hexBytes, i, k int) []Share {
	out := make([]Share, k)
	for j := range out {
		s := shares[(i+j)%len(shares)]
		out[j] = Share{X: s[len(s)-1], Y: s[:len(s)-1]}
	}
	return out
}

func TestWeCombineTheSharesOfOthers(t *testing.T) {
	type theirs struct {
		K, N   int
		Secret hexBytes
		Shares []hexBytes
	}
	for _, c := range load[theirs](t, "theirs.json") {
		if len(c.Shares) != c.N {
			t.Fatalf("%d shares of %d", len(c.Shares), c.N)
		}
		for i := range c.N {
			got, err := Combine(window(c.Shares, i, c.K))
			if err != nil || !bytes.Equal(got, c.Secret) {
				t.Errorf("%d of %d, %d bytes, from %d: %v", c.K, c.N, len(c.Secret), i, err)
			}
			next := window(c.Shares, i+c.K, 1)[0]
			if y, err := EvalAt(window(c.Shares, i, c.K), next.X); err != nil || !bytes.Equal(y, next.Y) {
				t.Errorf("%d of %d, %d bytes: their share is not on the polynomial: %v", c.K, c.N, len(c.Secret), err)
			}
		}
	}
}

func TestOthersCombinedOurShares(t *testing.T) {
	type ours struct {
		K, N     int
		Shares   []hexBytes
		Combined hexBytes // what the other implementation returned
		Agreed   int      // for how many windows
	}
	for _, c := range load[ours](t, "ours.json") {
		if len(c.Shares) != c.N || c.Agreed != c.N {
			t.Fatalf("%d shares of %d, %d windows", len(c.Shares), c.N, c.Agreed)
		}
		for i := range c.N {
			got, err := Combine(window(c.Shares, i, c.K))
			if err != nil || !bytes.Equal(got, c.Combined) {
				t.Errorf("%d of %d, %d bytes, from %d: %v", c.K, c.N, len(c.Combined), i, err)
			}
		}
	}
}

type fixedSeat struct {
	X   byte     `json:"x"`
	Row hexBytes `json:"row"`
	C   hexBytes `json:"c"` // T("keymesh/v1/row", ctx, x, k, row)
}

type fixedDealing struct {
	K      int         `json:"k"`
	Secret hexBytes    `json:"secret"`
	Ctx    hexBytes    `json:"ctx"`
	Seats  []fixedSeat `json:"seats"`
}

// commitment is T("keymesh/v1/row", ctx, x, k, row) written out, since this
// package imports nothing of ours.
func commitment(ctx []byte, x byte, k int, row []byte) []byte {
	h := sha256.New()
	for _, p := range [][]byte{
		[]byte("keymesh/v1/row"), ctx,
		binary.BigEndian.AppendUint64(nil, uint64(x)), binary.BigEndian.AppendUint64(nil, uint64(k)), row,
	} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

func newFixedDealings(t *testing.T) {
	v := vectors[fixedDealing]{Note: "Dealings of 0x00 01 02 ... with ctx = SHA-256(\"ctx\"), made once by this package. A row is F(x,0) || ... || F(x,k-1), in hexadecimal."}
	for _, c := range [][2]int{{3, 2}, {5, 3}, {8, 5}} {
		ctx := sha256.Sum256([]byte("ctx"))
		d := fixedDealing{K: c[1], Ctx: ctx[:]}
		for i := range 32 {
			d.Secret = append(d.Secret, byte(i))
		}
		deal := deal(t, d.Secret, c[0], c[1])
		for i, r := range deal.rows {
			d.Seats = append(d.Seats, fixedSeat{deal.xs[i], r.Encode(), commitment(ctx[:], deal.xs[i], d.K, r.Encode())})
		}
		v.Cases = append(v.Cases, d)
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/dealing.json", append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFixedDealings(t *testing.T) {
	if *update {
		newFixedDealings(t)
	}
	for _, c := range load[fixedDealing](t, "dealing.json") {
		d := dealing{secret: c.Secret, k: c.K}
		for _, s := range c.Seats {
			r, err := ParseRow(s.Row, c.K, len(c.Secret))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.C, commitment(c.Ctx, s.X, c.K, r.Encode())) {
				t.Error("the commitment differs")
			}
			d.xs, d.rows = append(d.xs, s.X), append(d.rows, r)
		}
		n := len(d.xs)
		if got := d.combine(t, seats(n)[n-c.K:]); !bytes.Equal(got, c.Secret) {
			t.Errorf("%x", got)
		}
		xs, vs := d.values(t, seats(n)[1:])
		if _, liars, err := Repair(c.K, d.xs[0], xs, vs, d.ok); err != nil || liars != nil {
			t.Error(err, liars)
		}
		if !bytes.Equal(d.help(t, 0, 1), d.help(t, 1, 0)) {
			t.Error("not symmetric")
		}
	}
}

type fixedZero struct {
	K    int        `json:"k"`
	Xs   hexBytes   `json:"xs"`
	Seed hexBytes   `json:"seed"`
	Rows []hexBytes `json:"rows"`
	Z    hexBytes   `json:"z"`
}

func newFixedZeros(t *testing.T) {
	v := vectors[fixedZero]{Note: "Dealings of zero, made once by this package; the seed of the challenge is SHA-256(xs)."}
	for _, xs := range [][]byte{{3, 1, 2}, {200, 7, 91, 5, 44}} {
		k := (len(xs) + 1) / 2
		seed := sha256.Sum256(xs)
		rows, z, err := DealZero(xs, k, func([]Row) [32]byte { return seed })
		if err != nil {
			t.Fatal(err)
		}
		c := fixedZero{K: k, Xs: xs, Seed: seed[:], Z: z}
		for _, r := range rows {
			c.Rows = append(c.Rows, r.Encode())
		}
		v.Cases = append(v.Cases, c)
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/zero.json", append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFixedDealingsOfZero(t *testing.T) {
	if *update {
		newFixedZeros(t)
	}
	for _, c := range load[fixedZero](t, "zero.json") {
		for i, b := range c.Rows {
			r, err := ParseRow(b, c.K, DealtWidth)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyZero(c.K, c.Xs[i], r, [32]byte(c.Seed), c.Z, func(Row) bool { return true }); err != nil {
				t.Error(err)
			}
		}
	}
}
