package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
)

func newKey(t testing.TB) *PrivateKey {
	t.Helper()
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tamper calls open with every byte of box changed, every truncation and one
// byte more, and expects a refusal each time.
func tamper(t *testing.T, box []byte, open func(box []byte) ([]byte, error)) {
	t.Helper()
	if _, err := open(box); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, i int, b []byte) {
		if got, err := open(b); err == nil || got != nil {
			t.Errorf("%s %d is accepted", what, i)
		} else if !errors.Is(err, ErrOpen) && !errors.Is(err, ErrSuite) && !errors.Is(err, ErrKDF) {
			t.Errorf("%s %d: %v", what, i, err)
		}
	}
	for i := range box {
		c := bytes.Clone(box)
		c[i] ^= 1 << (i % 8)
		refused("flipped byte", i, c)
		if i < 100 || i > len(box)-20 {
			refused("length", i, box[:i])
		}
	}
	refused("length", len(box)+1, append(bytes.Clone(box), 0))
	for _, suite := range []byte{0, 2, 0x81} {
		c := bytes.Clone(box)
		c[0] = suite
		refused("first byte", int(suite), c)
	}
}

func TestBoxesToAKeyRefuseEveryChange(t *testing.T) {
	k, info := newKey(t), key.Hash{1}
	box, err := To(k.Public(), info, []byte("a row"))
	if err != nil {
		t.Fatal(err)
	}
	tamper(t, box, func(b []byte) ([]byte, error) { return k.Open(info, b) })
	if _, err := newKey(t).Open(info, box); !errors.Is(err, ErrOpen) {
		t.Error("another key:", err)
	}
}

func TestBoxesToAKeyRefuseEveryOtherContext(t *testing.T) {
	k := newKey(t)
	m, r, n := key.Hash{1}, key.Hash{2}, key.NodeID{3}
	right := Info(PurposeRelease, m, 5, 1, n, r)
	box, err := To(k.Public(), right, []byte("a row"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(right, box); err != nil || string(got) != "a row" {
		t.Fatal(err)
	}
	for name, info := range map[string]key.Hash{
		"none":         {},
		"purpose":      Info(PurposeDealing, m, 5, 1, n, r),
		"no purpose":   Info("", m, 5, 1, n, r),
		"manifest":     Info(PurposeRelease, key.Hash{9}, 5, 1, n, r),
		"seat":         Info(PurposeRelease, m, 6, 1, n, r),
		"epoch":        Info(PurposeRelease, m, 5, 2, n, r),
		"node":         Info(PurposeRelease, m, 5, 1, key.NodeID{9}, r),
		"request":      Info(PurposeRelease, m, 5, 1, n, key.Hash{9}),
		"no request":   Info(PurposeRelease, m, 5, 1, n, key.Hash{}),
		"seat, epoch":  Info(PurposeRelease, m, 1, 5, n, r),
		"swapped":      Info(PurposeRelease, r, 5, 1, n, m),
		"node, others": Info(PurposeRelease, m, 5, 1, key.NodeID(r), key.Hash(n)),
	} {
		if _, err := k.Open(info, box); !errors.Is(err, ErrOpen) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// X25519 gives zero for a point of low order, whoever computes it.
func TestKeysOfLowOrderAreRefused(t *testing.T) {
	k, info := newKey(t), key.Hash{1}
	box, err := To(k.Public(), info, []byte("a row"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{
		strings.Repeat("00", 32), "01" + strings.Repeat("00", 31),
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ec" + strings.Repeat("ff", 30) + "7f", "ed" + strings.Repeat("ff", 30) + "7f", "ee" + strings.Repeat("ff", 30) + "7f",
	} {
		low, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		recipient := append(k.Public()[:PublicSize-32], low...)
		if got, err := To(recipient, info, []byte("a row")); !errors.Is(err, ErrKey) || got != nil {
			t.Errorf("a recipient of %s: %v", h, err)
		}
		enc := bytes.Clone(box)
		copy(enc[1+1120-32:], low)
		if _, err := k.Open(info, enc); !errors.Is(err, ErrOpen) {
			t.Errorf("a sender of %s: %v", h, err)
		}
	}
}

func TestWhatIsNoSealingKey(t *testing.T) {
	for _, n := range []int{0, 31, 32, PublicSize - 1, PublicSize + 1} {
		if err := CheckPublic(make([]byte, n)); !errors.Is(err, ErrKey) {
			t.Errorf("a public key of %d bytes: %v", n, err)
		}
		if _, err := To(make([]byte, n), key.Hash{}, nil); !errors.Is(err, ErrKey) {
			t.Errorf("to %d bytes: %v", n, err)
		}
		if k, err := ParsePrivateKey(make([]byte, n)); n != PrivateSize && (!errors.Is(err, ErrKey) || k != nil) {
			t.Errorf("a private key of %d bytes: %v", n, err)
		}
	}
	// ML-KEM's coefficients are below 3329 (FIPS 203 section 7.2).
	if err := CheckPublic(bytes.Repeat([]byte{0xff}, PublicSize)); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	if err := CheckPublic(newKey(t).Public()); err != nil {
		t.Error(err)
	}
}

func TestPrivateKeysComeBack(t *testing.T) {
	k, info := newKey(t), key.Hash{1}
	b := k.Bytes()
	again, err := ParsePrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	box, err := To(k.Public(), info, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(info, box); err != nil || len(got) != 0 {
		t.Error(err)
	}
	if bytes.Equal(k.Bytes(), b) || bytes.Equal(k.Bytes(), newKey(t).Bytes()) {
		t.Error("Bytes is no copy or two keys are one")
	}
}

func TestBoxesRefuseEveryChange(t *testing.T) {
	k, other := [32]byte{1}, [32]byte{2}
	box := Box(&k, []byte("aad"), []byte("a record"))
	tamper(t, box, func(b []byte) ([]byte, error) { return Unbox(&k, []byte("aad"), b) })
	for _, aad := range []string{"", "aad ", "aa", "AAD"} {
		if _, err := Unbox(&k, []byte(aad), box); !errors.Is(err, ErrOpen) {
			t.Errorf("aad %q: %v", aad, err)
		}
	}
	if _, err := Unbox(&other, []byte("aad"), box); !errors.Is(err, ErrOpen) {
		t.Error("another key:", err)
	}
	if _, err := OpenLabel(&k, []byte("aad"), box); !errors.Is(err, ErrPadding) {
		t.Error("a record as a label:", err)
	}
}

func TestLabelsRefuseEveryChange(t *testing.T) {
	k := [32]byte{1}
	box, err := SealLabel(&k, []byte("id and gen"), []byte("a name"))
	if err != nil {
		t.Fatal(err)
	}
	tamper(t, box, func(b []byte) ([]byte, error) { return OpenLabel(&k, []byte("id and gen"), b) })
	if _, err := OpenLabel(&k, []byte("id and another gen"), box); !errors.Is(err, ErrOpen) {
		t.Error(err)
	}
	for n, want := range map[int]int{0: 256, 255: 256, 256: 512, 767: 768, 768: 1024, MaxLabel: 1024} {
		box, err := SealLabel(&k, nil, make([]byte, n))
		if err != nil || len(box) != want+BoxOverhead || len(box) > MaxSealedLabel {
			t.Errorf("a label of %d bytes has %d: %v", n, len(box), err)
		}
	}
	if box, err := SealLabel(&k, nil, make([]byte, MaxLabel+1)); !errors.Is(err, ErrSize) || box != nil {
		t.Error("a longer label:", err)
	}
	if _, err := OpenLabel(&k, nil, Box(&k, nil, make([]byte, 1025))); !errors.Is(err, ErrOpen) {
		t.Error("a longer box:", err)
	}
	if _, err := OpenLabel(&k, nil, Box(&k, nil, append([]byte{0x80}, make([]byte, 511)...))); !errors.Is(err, ErrPadding) {
		t.Error("padded further than needed:", err)
	}
}

func TestSealingTwiceGivesTwoBoxes(t *testing.T) {
	k, to := [32]byte{1}, newKey(t)
	seen := map[string]bool{}
	for range 2 {
		a := Box(&k, nil, []byte("x"))
		b, err1 := SealLabel(&k, nil, []byte("x"))
		c, err2 := To(to.Public(), key.Hash{}, []byte("x"))
		d, err3 := UnderPassphrase([]byte("p"), []byte("x"), LeastKDF())
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		for _, box := range [][]byte{a, b, c, d, a[1 : 1+nonceSize], d[7 : 7+saltSize], d[7+saltSize : headerSize]} {
			if seen[string(box)] {
				t.Error("a box or nonce twice")
			}
			seen[string(box)] = true
		}
	}
}

func TestWhatIsSealedComesBack(t *testing.T) {
	to := newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		plain, aad := rapid.SliceOf(rapid.Byte()).Draw(t, "plain"), rapid.SliceOf(rapid.Byte()).Draw(t, "aad")
		k := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		info := key.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "info"))
		kept := bytes.Clone(plain)
		if got, err := Unbox(&k, aad, Box(&k, aad, plain)); err != nil || !bytes.Equal(got, plain) {
			t.Fatal("Box:", err)
		}
		box, err := To(to.Public(), info, plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := to.Open(info, box); err != nil || !bytes.Equal(got, plain) {
			t.Fatal("To:", err)
		}
		if box, err = SealLabel(&k, aad, plain); err != nil {
			t.Fatal(err)
		}
		if got, err := OpenLabel(&k, aad, box); err != nil || !bytes.Equal(got, plain) {
			t.Fatal("SealLabel:", err)
		}
		if !bytes.Equal(kept, plain) {
			t.Fatal("the plaintext changed")
		}
	})
}

// hidden has its keys where fmt may not call their methods.
type hidden struct {
	p  PrivateKey
	pp *PrivateKey
	k  Keys
	kk []*Keys
}

func TestNothingPrintsAKey(t *testing.T) {
	seed := []byte("MARKERMARKERMARKERMARKERMARKERMA")
	p, err := ParsePrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	k, err := Derive(seed, key.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	m := k.material()
	copy(m.key[:], seed)
	copy(m.nonce[:], seed)
	h := hidden{*p, p, *k, []*Keys{k}}
	for _, v := range []any{p, *p, k, *k, []*PrivateKey{p}, map[string]*Keys{"k": k}, struct{ K *Keys }{k}, h, &h} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%t", "%p", "%w", "%z", "%!", "%6.2f", "none"} {
			refuseMarker(t, fmt.Sprintf("%s of %T", verb, v), fmt.Sprintf(verb, v))
		}
		var b bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
			slog.New(h).Info("m", "v", v)
		}
		refuseMarker(t, fmt.Sprintf("slog of %T", v), b.String())
		j, _ := json.Marshal(v)
		refuseMarker(t, fmt.Sprintf("json of %T", v), string(j))
	}
	for _, v := range []any{p, *p, k, *k} {
		if got := fmt.Sprintf("%v %+v %#v %s %x", v, v, v, v, v); got != strings.TrimSpace(strings.Repeat("[redacted] ", 5)) {
			t.Errorf("%T prints %s", v, got)
		}
		if _, err := json.Marshal(v); err == nil {
			t.Errorf("%T has a JSON form", v)
		}
	}
}

func refuseMarker(t *testing.T, how, out string) {
	t.Helper()
	for _, bad := range []string{"MARKER", "4d41524b", "4D41524B", "4d 41 52", "0x4d", "77 65 82", "77,65,82", "TUFSS0VS", "1001101 1000001", "U+004D"} {
		if strings.Contains(out, bad) {
			t.Fatalf("%s prints %.300q", how, out)
		}
	}
}

func FuzzOpen(f *testing.F) {
	c := load(f)
	k, err := ParsePrivateKey(c.HPKE.Private)
	if err != nil {
		f.Fatal(err)
	}
	small := [32]byte(c.Boxes[0].Key)
	f.Add([]byte(c.HPKE.Theirs.Box))
	f.Add([]byte(c.Boxes[1].Box))
	f.Add([]byte(c.Labels[0].Box))
	f.Add([]byte{Suite})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := k.Open(c.HPKE.Info, b); err == nil && !bytes.Equal(b, c.HPKE.Theirs.Box) && !bytes.Equal(b, c.HPKE.Ours.Box) {
			t.Fatal("a forgery to a key")
		}
		for _, v := range append(c.Boxes, c.Labels...) {
			if _, err := Unbox(&small, v.Aad, b); err == nil && len(b) < BoxOverhead {
				t.Fatal("a box that is too short")
			}
			if _, err := OpenLabel(&small, v.Aad, b); err == nil && len(b) > MaxSealedLabel {
				t.Fatal("a label that is too long")
			}
		}
	})
}

func BenchmarkTo(b *testing.B) {
	pub, row := newKey(b).Public(), make([]byte, 96)
	for b.Loop() {
		To(pub, key.Hash{}, row)
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b)
	box, err := To(k.Public(), key.Hash{}, make([]byte, 96))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k.Open(key.Hash{}, box)
	}
}

func BenchmarkGenerateKey(b *testing.B) {
	for b.Loop() {
		GenerateKey()
	}
}
