package key

import (
	"bytes"
	"crypto/ed25519"
	"encoding"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func marker() []byte { return []byte("MARKERMARKERMARKERMARKERMARKERMA") }

func markedKeys(t *testing.T) (NodePrivate, PersonPrivate, AuthorityPrivate) {
	t.Helper()
	n, err1 := NodeFromSeed(marker())
	p, err2 := PersonFromSeed(marker())
	a, err3 := AuthorityFromSeed(marker())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return n, p, a
}

// hidden has its keys where fmt may not call their methods.
type hidden struct {
	n NodePrivate
	p *PersonPrivate
	a []AuthorityPrivate
}

func TestNothingPrintsAPrivateKey(t *testing.T) {
	n, p, a := markedKeys(t)
	for _, v := range []any{
		n, &n, p, &p, a, &a, n.private, []NodePrivate{n}, map[string]PersonPrivate{"k": p},
		struct{ K AuthorityPrivate }{a}, hidden{n, &p, []AuthorityPrivate{a}}, &hidden{n, &p, []AuthorityPrivate{a}},
		[]any{n}, fmt.Errorf("with %v", p), Private(n),
	} {
		for _, verb := range []string{
			"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%O", "%b", "%c", "%U",
			"%e", "%t", "%p", "%w", "%T", "%z", "%!", "%08.3f", "%-20s", "%[2]v", "%*d", "none",
		} {
			refuseMarker(t, fmt.Sprintf("%s of %T", verb, v), fmt.Sprintf(verb, v))
		}
		refuseMarker(t, "Sprint", fmt.Sprint(v)+fmt.Sprintln(v))
		var b bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
			slog.New(h).With("with", v).Info("m", "v", v, slog.Group("g", "v", v))
		}
		refuseMarker(t, fmt.Sprintf("slog of %T", v), b.String())
		j, _ := json.Marshal(v)
		refuseMarker(t, fmt.Sprintf("json of %T", v), string(j))
	}
	for _, v := range []any{n, p, a} {
		if !strings.Contains(fmt.Sprintf("%v %+v %#v %s %x %d", v, v, v, v, v, v), strings.Repeat("[redacted] ", 5)) {
			t.Errorf("%T does not say that it is redacted", v)
		}
		if _, err := json.Marshal(v); err == nil {
			t.Errorf("%T has a JSON form", v)
		}
		if err := gob.NewEncoder(new(bytes.Buffer)).Encode(v); err == nil {
			t.Errorf("%T has a gob form", v)
		}
		refuseMarker(t, "CBOR", string(Encode(v)))
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

func TestEraseReachesEveryCopy(t *testing.T) {
	n, _, _ := markedKeys(t)
	held, inside := n, *n.k()
	if n.IsZero() {
		t.Fatal("a key that is zero")
	}
	n.Erase()
	n.Erase()
	NodePrivate{}.Erase()
	if !n.IsZero() || !held.IsZero() || !(NodePrivate{}).IsZero() {
		t.Error("an erased key does not say so")
	}
	if !bytes.Equal(inside, make([]byte, 64)) {
		t.Error("the bytes are still there")
	}
	defer func() {
		if recover() == nil {
			t.Error("an erased key signed")
		}
	}()
	Sign(held, NetworkID{}, TypePrepared, nil)
}

func TestSeeds(t *testing.T) {
	n, p, a := markedKeys(t)
	for _, s := range [][]byte{n.Seed(), p.Seed(), a.Seed()} {
		if !bytes.Equal(s, marker()) {
			t.Error("the seed does not come back")
		}
		clear(s)
	}
	if !bytes.Equal(n.Seed(), marker()) {
		t.Error("Seed is not a copy")
	}
	seed := marker()
	k, err := NodeFromSeed(seed)
	clear(seed)
	if err != nil || k.Public() != n.Public() {
		t.Error("the key aliases its seed", err)
	}
	for _, l := range []int{0, 31, 33, 64} {
		_, err1 := NodeFromSeed(make([]byte, l))
		_, err2 := PersonFromSeed(make([]byte, l))
		_, err3 := AuthorityFromSeed(make([]byte, l))
		if err1 == nil || err2 == nil || err3 == nil {
			t.Errorf("a seed of %d bytes", l)
		}
	}
}

func TestGeneratedKeysDiffer(t *testing.T) {
	n, p, a := GenerateNode(), GeneratePerson(), GenerateAuthority()
	if n.Public() == GenerateNode().Public() || p.Public() == GeneratePerson().Public() || a.Public() == GenerateAuthority().Public() {
		t.Error("two keys are one")
	}
	for _, b := range [][32]byte{n.Public(), p.Public(), a.Public()} {
		if err := CheckPublic(b); err != nil {
			t.Error(err)
		}
	}
	if n.ID() != n.Public().ID() || n.ID().IsZero() || a.Public().Network().IsZero() || p.Public().IsZero() {
		t.Error("ids")
	}
}

func TestTLSKeyIsTheNodesKey(t *testing.T) {
	n, _, _ := markedKeys(t)
	pub := n.Public()
	if got, ok := n.TLS().Public().(ed25519.PublicKey); !ok || !bytes.Equal(got, pub[:]) {
		t.Error("another key")
	}
}

// All eight points of low order, in their canonical encodings and in every
// other that decoders accept, and encodings that are no point.
func lowOrder() map[string]string {
	ff := strings.Repeat("ff", 30)
	zz := strings.Repeat("00", 30)
	return map[string]string{
		"order 1":                      "01" + zz + "00",
		"order 1, sign bit":            "01" + zz + "80",
		"order 1, p+1":                 "ee" + ff + "7f",
		"order 1, p+1, sign bit":       "ee" + ff + "ff",
		"order 2":                      "ec" + ff + "7f",
		"order 2, sign bit":            "ec" + ff + "ff",
		"order 4":                      "00" + zz + "00",
		"order 4, negative":            "00" + zz + "80",
		"order 4, p":                   "ed" + ff + "7f",
		"order 4, p, negative":         "ed" + ff + "ff",
		"order 8, first":               "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"order 8, first negative":      "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"order 8, second":              "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"order 8, second negative":     "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"a non-canonical y of a point": "f0" + ff + "7f",
		"another, negative":            "f0" + ff + "ff",
		"not on the curve":             "02" + zz + "00",
	}
}

func TestCheckPublicRefuses(t *testing.T) {
	canonical := 0
	for name, h := range lowOrder() {
		b := [32]byte(unhex(t, h))
		err := CheckPublic(b)
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		if strings.Contains(err.Error(), "low order") {
			canonical++
		}
	}
	if canonical != 8 {
		t.Errorf("%d canonical points of low order instead of 8", canonical)
	}
}

func TestTextForms(t *testing.T) {
	type textual interface {
		encoding.TextMarshaler
		fmt.Stringer
	}
	b := [32]byte(marker())
	for _, v := range []struct {
		value textual
		fresh func() encoding.TextUnmarshaler
	}{
		{NodePublic(b), func() encoding.TextUnmarshaler { return new(NodePublic) }},
		{PersonPublic(b), func() encoding.TextUnmarshaler { return new(PersonPublic) }},
		{AuthorityPublic(b), func() encoding.TextUnmarshaler { return new(AuthorityPublic) }},
		{NodeID(b), func() encoding.TextUnmarshaler { return new(NodeID) }},
		{NetworkID(b), func() encoding.TextUnmarshaler { return new(NetworkID) }},
		{Hash(b), func() encoding.TextUnmarshaler { return new(Hash) }},
	} {
		text, err := v.value.MarshalText()
		if err != nil || string(text) != v.value.String() {
			t.Errorf("%T: %s %v", v.value, text, err)
		}
		again := v.fresh()
		if err := again.UnmarshalText(text); err != nil {
			t.Errorf("%T: %v", v.value, err)
		}
		if back, err := again.(encoding.TextMarshaler).MarshalText(); err != nil || !bytes.Equal(back, text) {
			t.Errorf("%T comes back as %s", v.value, back)
		}
		for _, bad := range badTexts(string(text)) {
			if bad == string(text) {
				continue
			}
			if err := v.fresh().UnmarshalText([]byte(bad)); err == nil {
				t.Errorf("%T accepts %q", v.value, bad)
			}
		}
	}
}

func badTexts(s string) []string {
	last := s[len(s)-1]
	bad := []string{
		"", s[:len(s)-1], s + s[len(s)-1:], s + "=", s + "\n", "\n" + s, " " + s, s + " ",
		strings.ToUpper(s), s[:len(s)-1] + "1", s[:len(s)-1] + "!", s[:10] + "\n" + s[10:], s[:10] + s[11:] + "\r",
		strings.TrimPrefix(s, s[:strings.Index(s, "-")+1]) + "x",
	}
	if strings.Contains(s, "-") {
		// The last digit has one bit of the key and four that must be 0.
		for _, c := range "abcdefghijklmnopqrstuvwxyz234567" {
			if c != 'a' && c != 'q' && byte(c) != last {
				bad = append(bad, s[:len(s)-1]+string(c))
			}
		}
		for _, p := range []string{"node-", "nodekey-", "person-", "authority-", "network-", "Node-", ""} {
			prefix, rest, _ := strings.Cut(s, "-")
			if p != prefix+"-" {
				bad = append(bad, p+rest)
			}
		}
	}
	return bad
}

func TestNoTypeReadsTheTextOfAnother(t *testing.T) {
	b := [32]byte(marker())
	if _, err := ParseNodeID(NodeID(b).String()); err != nil {
		t.Error(err)
	}
	if _, err := ParsePerson(PersonPublic(b).String()); err != nil {
		t.Error(err)
	}
	if _, err := ParseHash(Hash(b).String()); err != nil {
		t.Error(err)
	}
	if id, err := ParseNodeID(NodePublic(b).String()); err == nil || !id.IsZero() {
		t.Error("a node's key is read as its id")
	}
	if p, err := ParsePerson(NodePublic(b).String()); err == nil || !p.IsZero() {
		t.Error("a node's key is read as a person's")
	}
	if h, err := ParseHash(strings.Repeat("AB", 32)); err == nil || !h.IsZero() {
		t.Error("upper case is read as a hash")
	}
	if h, err := ParseHash(strings.Repeat("a", 63) + "g"); err == nil || !h.IsZero() {
		t.Error("on error the hash is partly filled")
	}
	if got := NodeID(b).Short(); got != NodeID(b).String()[:13] || len(got) != 13 {
		t.Error(got)
	}
}

// The official vectors of BIP-39 for the entropies 0x7f7f... and 0x00...
func TestWords(t *testing.T) {
	want := strings.Fields(strings.Repeat("legal winner thank year wave sausage worth useful ", 3))[:23]
	if got := Words(Hash(bytes.Repeat([]byte{0x7f}, 32)), 23); !slices.Equal(got, want) {
		t.Error(got)
	}
	if got := Words(Hash{}, 6); !slices.Equal(got, slices.Repeat([]string{"abandon"}, 6)) {
		t.Error(got)
	}
	if got := NodeID(bytes.Repeat([]byte{0xff}, 32)).Fingerprint(); !slices.Equal(got, slices.Repeat([]string{"zoo"}, 8)) {
		t.Error(got)
	}
	for _, n := range []int{-1, 0, 24} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d words", n)
				}
			}()
			Words(Hash{}, n)
		}()
	}
}

func TestTRefusesForeignLabels(t *testing.T) {
	for _, d := range []string{"", "keymesh/v1", "keymesh/v2/id", " keymesh/v1/id"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("label %q", d)
				}
			}()
			T(d)
		}()
	}
}

// Where one part ends and the next begins is part of what is hashed.
func TestTSeparatesItsParts(t *testing.T) {
	seen := map[Hash]int{}
	for i, h := range []Hash{
		T("keymesh/v1/a"), T("keymesh/v1/a", nil), T("keymesh/v1/a", nil, nil), T("keymesh/v1/ab"),
		T("keymesh/v1/a", []byte("b")), T("keymesh/v1/a", []byte("b"), nil), T("keymesh/v1/a", nil, []byte("b")),
		T("keymesh/v1/a", []byte("bc")), T("keymesh/v1/a", []byte("b"), []byte("c")), T("keymesh/v1/a", []byte("c"), []byte("b")),
		T("keymesh/v1/a", []byte{0, 0, 0, 1, 'b'}), T("keymesh/v1/a", U64(1)), T("keymesh/v1/a", []byte{1}),
	} {
		if j, ok := seen[h]; ok {
			t.Errorf("tuples %d and %d have one hash", i, j)
		}
		seen[h] = i
	}
	if hex.EncodeToString(U64(0x0102030405060708)) != "0102030405060708" {
		t.Error("U64 is not big-endian")
	}
}

func FuzzText(f *testing.F) {
	b := [32]byte(marker())
	f.Add(NodeID(b).String())
	f.Add(PersonPublic(b).String())
	f.Add(Hash(b).String())
	f.Add("node-" + strings.Repeat("a", 51) + "b")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseNodeID(s); err == nil && id.String() != s {
			t.Fatal("a node id is not unique")
		}
		if p, err := ParsePerson(s); err == nil && p.String() != s {
			t.Fatal("a person is not unique")
		}
		if h, err := ParseHash(s); err == nil && h.String() != s {
			t.Fatal("a hash is not unique")
		}
		var a AuthorityPublic
		if a.UnmarshalText([]byte(s)) == nil && a.String() != s {
			t.Fatal("an authority is not unique")
		}
	})
}
