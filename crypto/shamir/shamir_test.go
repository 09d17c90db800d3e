package shamir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/vault/shamir"
	"pgregory.net/rapid"
)

func TestAnyKSharesGiveTheSecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 1, 80).Draw(t, "secret")
		n := rapid.IntRange(2, MaxSeats).Draw(t, "n")
		k := rapid.IntRange(2, n).Draw(t, "k")
		shares, err := Split(secret, n, k)
		if err != nil {
			t.Fatal(err)
		}
		shares = rapid.Permutation(shares).Draw(t, "order")
		m := rapid.IntRange(k, n).Draw(t, "answers")
		got, err := Combine(shares[:m])
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%d of %d: %x instead of %x (%v)", m, n, got, secret, err)
		}
		for _, s := range shares {
			y, err := EvalAt(shares[:m], s.X)
			if err != nil || !bytes.Equal(y, s.Y) {
				t.Fatalf("at seat %d: %x instead of %x (%v)", s.X, y, s.Y, err)
			}
		}
	})
}

func TestFewerThanKGiveAnother(t *testing.T) {
	secret := []byte("thirty-two bytes of a key, really")
	for _, c := range [][2]int{{5, 3}, {8, 5}, {32, 32}} {
		shares, err := Split(secret, c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		got, err := Combine(shares[:c[1]-1])
		if err != nil || bytes.Equal(got, secret) {
			t.Fatalf("%d shares of a threshold of %d: %v", c[1]-1, c[1], err)
		}
	}
}

func TestCoordinatesAreDistinctAndNotZero(t *testing.T) {
	for range 200 {
		shares, err := Split([]byte{1}, MaxSeats, 2)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[byte]bool{0: true}
		for _, s := range shares {
			if seen[s.X] {
				t.Fatal("x is 0 or twice:", s.X)
			}
			seen[s.X] = true
		}
	}
}

func TestSplitLimits(t *testing.T) {
	for _, c := range []struct{ len, n, k int }{
		{32, 3, 1}, {32, 3, 0}, {32, 3, -1}, {32, 2, 3}, {32, 33, 2}, {32, 33, 33}, {0, 3, 2},
	} {
		if s, err := Split(make([]byte, c.len), c.n, c.k); err == nil || s != nil {
			t.Errorf("split %+v", c)
		}
		if xs, rows, err := Deal(make([]byte, c.len), c.n, c.k); err == nil || xs != nil || rows != nil {
			t.Errorf("dealt %+v", c)
		}
	}
	if _, _, err := Deal(make([]byte, MaxWidth), 3, 2); err != nil {
		t.Error(err)
	}
	if _, _, err := Deal(make([]byte, MaxWidth+1), 3, 2); err == nil {
		t.Error("dealt more than MaxWidth")
	}
}

// The package underneath lets one share with x = 0 choose the secret.
func TestZeroWouldDictateTheSecret(t *testing.T) {
	shares, err := Split([]byte("the right one..."), 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	evil := []byte("the attacker's..")
	raw := [][]byte{append(append([]byte{}, shares[0].Y...), shares[0].X), append(append([]byte{}, evil...), 0)}
	if got, err := shamir.Combine(raw); err != nil || !bytes.Equal(got, evil) {
		t.Fatalf("the attack that is refused here no longer exists: %q %v", got, err)
	}
	for i := range 3 {
		forged := append([]Share(nil), shares[:3]...)
		forged[i] = Share{X: 0, Y: evil}
		if got, err := Combine(forged); !errors.Is(err, ErrZero) || got != nil {
			t.Error("Combine:", got, err)
		}
		if got, err := EvalAt(forged, 9); !errors.Is(err, ErrZero) || got != nil {
			t.Error("EvalAt:", got, err)
		}
	}
	if got, err := EvalAt(shares[:3], 0); !errors.Is(err, ErrZero) || got != nil {
		t.Error("EvalAt at 0 gives the secret:", err)
	}
}

func TestSharesThatDoNotFit(t *testing.T) {
	y := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	for name, shares := range map[string][]Share{
		"none":    nil,
		"one":     {{1, y(4)}},
		"twice":   {{1, y(4)}, {2, y(4)}, {1, y(4)}},
		"shorter": {{1, y(4)}, {2, y(3)}},
		"longer":  {{1, y(4)}, {2, y(4)}, {3, y(5)}},
		"empty":   {{1, nil}, {2, nil}},
		"one nil": {{1, y(1)}, {2, nil}},
	} {
		if got, err := Combine(shares); !errors.Is(err, ErrShares) || got != nil {
			t.Errorf("Combine, %s: %v", name, err)
		}
		if got, err := EvalAt(shares, 3); !errors.Is(err, ErrShares) || got != nil {
			t.Errorf("EvalAt, %s: %v", name, err)
		}
	}
	for name, xs := range map[string][]byte{"none": nil, "one": {1}, "twice": {1, 2, 1}} {
		if w, err := Weights(xs, 0); !errors.Is(err, ErrShares) || w != nil {
			t.Errorf("Weights, %s: %v", name, err)
		}
	}
	for name, vs := range map[string][][]byte{"none": nil, "fewer": {y(2)}, "more": {y(2), y(2), y(2)}, "unequal": {y(2), y(3)}} {
		if out, err := Apply([]byte{1, 2}, vs); !errors.Is(err, ErrShares) || out != nil {
			t.Errorf("Apply, %s: %v", name, err)
		}
	}
}

// The functions zero what they copied, which must not be what they were given.
func TestArgumentsStayAsTheyWere(t *testing.T) {
	secret := []byte("a secret of some bytes")
	kept := bytes.Clone(secret)
	shares, _ := Split(secret, 5, 3)
	y := bytes.Clone(shares[1].Y)
	Combine(shares)
	EvalAt(shares, 8)
	xs, rows, err := Deal(secret, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	row := rows[1].Encode()
	v, _ := rows[1].Help(xs[0])
	clear(v)
	rows[1].Encode()[0] ^= 1
	p, err := ParseRow(row, 3, len(secret))
	if err != nil {
		t.Fatal(err)
	}
	p.Erase()
	if !bytes.Equal(secret, kept) || !bytes.Equal(y, shares[1].Y) || !bytes.Equal(row, rows[1].Encode()) {
		t.Error("an argument or a receiver changed")
	}
}

func TestNothingPrintsAShareOrARow(t *testing.T) {
	marker := []byte("MARKERMARKERMARKERMARKER")
	share := Share{X: 77, Y: marker}
	row := Row{marker, marker}
	for _, v := range []any{share, &share, row, &row, []Share{share}, []Row{row}, map[string]Row{"r": row}, struct{ S Share }{share}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%08.3f"} {
			refuseMarker(t, verb, fmt.Sprintf(verb, v))
		}
		var b bytes.Buffer
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
		refuseMarker(t, "slog", b.String())
		if j, err := json.Marshal(v); err == nil {
			t.Errorf("json of %T: %s", v, j)
		}
	}
}

func refuseMarker(t *testing.T, how, out string) {
	t.Helper()
	for _, bad := range []string{"MARKER", "4d41524b4552", "4D41524B4552", "4d 41 52", "77 65 82", "TUFSS0VS"} {
		if strings.Contains(out, bad) {
			t.Errorf("%s prints %.200q", how, out)
		}
	}
	if !strings.Contains(out, "redacted") {
		t.Errorf("%s prints neither value nor notice: %.200q", how, out)
	}
}

func FuzzCombine(f *testing.F) {
	f.Add([]byte("\x01abc\x02def\x03ghi"), 4, byte(9))
	f.Add([]byte("\x00abc\x02def"), 4, byte(0))
	f.Add([]byte("\x01a\x01b"), 2, byte(1))
	f.Add([]byte{}, 1, byte(1))
	f.Fuzz(func(t *testing.T, b []byte, width int, at byte) {
		if width < 1 || width > 64 {
			return
		}
		var shares []Share
		var raw [][]byte
		for ; len(b) >= width; b = b[width:] {
			shares = append(shares, Share{X: b[0], Y: b[1:width]})
			raw = append(raw, append(bytes.Clone(b[1:width]), b[0]))
		}
		got, err := Combine(shares)
		if err == nil {
			want, err := shamir.Combine(raw)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%x, the package underneath gives %x (%v)", got, want, err)
			}
		}
		if _, evalErr := EvalAt(shares, at); at != 0 && (evalErr == nil) != (err == nil) {
			t.Fatalf("Combine says %v, EvalAt %v", err, evalErr)
		}
	})
}
