package key

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// sample is a body of the shapes that the protocol's bodies have.
type sample struct {
	Head
	ID    Hash   `cbor:"1,keyasint"`
	List  []Hash `cbor:"2,keyasint"`
	Text  string `cbor:"3,keyasint"`
	N     uint64 `cbor:"4,keyasint"`
	Bytes []byte `cbor:"5,keyasint,omitempty"`
}

func newSample() *sample {
	return &sample{
		Head: Head{Ext: map[uint64][]byte{7: {1, 2}}},
		ID:   Hash(bytes.Repeat([]byte{0xaa}, 32)), List: []Hash{Hash(bytes.Repeat([]byte{0xbb}, 32))},
		Text: "héllo", N: 300,
	}
}

var (
	aa = "5820" + strings.Repeat("aa", 32)
	bb = "5820" + strings.Repeat("bb", 32)
)

// The five fields after the version, as they must be.
func fields() map[string]string {
	return map[string]string{
		"00": "01", "01": aa, "02": "81" + bb, "03": "6668c3a96c6c6f", "04": "19012c", "181f": "a107420102",
	}
}

func order() []string { return []string{"00", "01", "02", "03", "04", "181f"} }

// with returns the sample's bytes with the value of one key replaced.
func with(k, value string) string {
	f := fields()
	f[k] = value
	s := "a6"
	for _, n := range order() {
		s += n + f[n]
	}
	return s
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMarshalGivesTheBytesOfTheSpecification(t *testing.T) {
	want := with("00", "01")
	if got := hex.EncodeToString(Marshal(newSample())); got != want {
		t.Fatalf("%s\ninstead of\n%s", got, want)
	}
	var v sample
	if err := Unmarshal(unhex(t, want), &v); err != nil {
		t.Fatal(err)
	}
	if v.V != Version || v.ID[0] != 0xaa || v.List[0][31] != 0xbb || v.Text != "héllo" || v.N != 300 || !bytes.Equal(v.Ext[7], []byte{1, 2}) {
		t.Fatalf("%+v", v)
	}
}

type refusal struct {
	hex  string
	want error
}

func testRefusals(t *testing.T, cases map[string]refusal) {
	t.Helper()
	for name, c := range cases {
		var v sample
		if err := Unmarshal(unhex(t, c.hex), &v); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnmarshalRefusesOtherStructures(t *testing.T) {
	testRefusals(t, map[string]refusal{
		"nothing":                   {"", ErrEncoding},
		"a break alone":             {"ff", ErrEncoding},
		"a number":                  {"01", ErrEncoding},
		"null":                      {"f6", ErrEncoding},
		"an array":                  {"80", ErrEncoding},
		"an empty map":              {"a0", ErrEncoding},
		"a trailing byte":           {with("00", "01") + "00", ErrEncoding},
		"a second object":           {with("00", "01") + with("00", "01"), ErrEncoding},
		"the last byte missing":     {strings.TrimSuffix(with("00", "01"), "02"), ErrEncoding},
		"a duplicate key":           {"a7 0001" + with("00", "01")[2:], ErrEncoding},
		"a duplicate key, other":    {"a7 0002" + with("00", "01")[2:], ErrEncoding},
		"a duplicate in extensions": {with("181f", "a2 07420102 07420102"), ErrEncoding},
		"an indefinite map":         {"bf" + with("00", "01")[2:] + "ff", ErrEncoding},
		"an indefinite array":       {with("02", "9f"+bb+"ff"), ErrEncoding},
		"an indefinite byte string": {with("01", "5f"+aa+"ff"), ErrEncoding},
		"an indefinite text":        {with("03", "7f6668c3a96c6c6fff"), ErrEncoding},
		"a tag on the body":         {"d9d9f7" + with("00", "01"), ErrEncoding},
		"a tag on a field":          {with("04", "c119012c"), ErrEncoding},
		"a bignum":                  {with("04", "c242012c"), ErrEncoding},
		"invalid UTF-8":             {with("03", "6668c3286c6c6f"), ErrEncoding},
		"a UTF-16 surrogate":        {with("03", "63eda080"), ErrEncoding},
		"an overlong UTF-8":         {with("03", "62c080"), ErrEncoding},
		"a non-minimal integer":     {with("04", "1a0000012c"), ErrEncoding},
		"a non-minimal small one":   {with("04", "1817"), ErrEncoding},
		"a non-minimal key":         {with("00", "01")[:2] + "1800" + with("00", "01")[4:], ErrEncoding},
		"a non-minimal length":      {with("01", "5900"+aa[2:]), ErrEncoding},
		"a non-minimal map head":    {"b806" + with("00", "01")[2:], ErrEncoding},
		"unsorted keys":             {"a6 01" + aa + "0001" + with("00", "01")[len("a60001")+len("01"+aa):], ErrEncoding},
		"unsorted extensions":       {with("181f", "a2 094101 07420102"), ErrEncoding},
		"an unknown key":            {"a7" + with("00", "01")[2:len(with("00", "01"))-len("181fa107420102")] + "0601" + "181fa107420102", ErrEncoding},
		"a negative key":            {"a7" + with("00", "01")[2:] + "2001", ErrEncoding},
		"a text key":                {"a7" + with("00", "01")[2:] + "613101", ErrEncoding},
		"a byte-string key":         {"a7" + with("00", "01")[2:] + "413101", ErrEncoding},
		"a float key":               {"a7" + with("00", "01")[2:] + "f93c0001", ErrEncoding},
		"a missing key":             {"a5 0001 01" + aa + "02 81" + bb + "03 6668c3a96c6c6f 181fa107420102", ErrEncoding},
		"no version":                {"a5" + with("00", "01")[6:], ErrEncoding},
		"version 0":                 {with("00", "00"), ErrVersion},
		"version 2":                 {with("00", "02"), ErrVersion},
		"a huge version":            {with("00", "1bffffffffffffffff"), ErrVersion},
		"an even extension":         {with("181f", "a108420102"), ErrCritical},
		"extension 0":               {with("181f", "a10040"), ErrCritical},
		"an even one beside an odd": {with("181f", "a2 07420102 0840"), ErrCritical},
		"empty extensions":          {with("181f", "a0"), ErrEncoding},
		"null extensions":           {with("181f", "f6"), ErrEncoding},
		"an extension of null":      {with("181f", "a107f6"), ErrEncoding},
		"an extension of text":      {with("181f", "a107623132"), ErrEncoding},
		"an extension of an array":  {with("181f", "a107820102"), ErrEncoding},
		"a negative extension":      {with("181f", "a126420102"), ErrEncoding},
	})
}

func TestUnmarshalRefusesOtherValues(t *testing.T) {
	testRefusals(t, map[string]refusal{
		"33 bytes in a hash":         {with("01", "5821"+strings.Repeat("aa", 33)), ErrEncoding},
		"31 bytes in a hash":         {with("01", "581f"+strings.Repeat("aa", 31)), ErrEncoding},
		"no bytes in a hash":         {with("01", "40"), ErrEncoding},
		"an array as a hash":         {with("01", "9820"+strings.Repeat("01", 32)), ErrEncoding},
		"text as a hash":             {with("01", "7820"+strings.Repeat("61", 32)), ErrEncoding},
		"null as a hash":             {with("01", "f6"), ErrEncoding},
		"undefined as a hash":        {with("01", "f7"), ErrEncoding},
		"null as a list":             {with("02", "f6"), ErrEncoding},
		"null in a list":             {with("02", "81f6"), ErrEncoding},
		"bytes as a list":            {with("02", "40"), ErrEncoding},
		"null as text":               {with("03", "f6"), ErrEncoding},
		"bytes as text":              {with("03", "4568656c6c6f"), ErrEncoding},
		"null as a number":           {with("04", "f6"), ErrEncoding},
		"a negative number":          {with("04", "20"), ErrEncoding},
		"true as a number":           {with("04", "f5"), ErrEncoding},
		"a half float":               {with("04", "f95cb0"), ErrEncoding},
		"a single float":             {with("04", "fa43960000"), ErrEncoding},
		"a double float":             {with("04", "fb4072c00000000000"), ErrEncoding},
		"NaN":                        {with("04", "f97e00"), ErrEncoding},
		"an unassigned simple value": {with("04", "f0"), ErrEncoding},
		"a reserved head":            {with("04", "1c"), ErrEncoding},
		"a length beyond the end":    {with("181f", "a1075b7fffffffffffffff"), ErrEncoding},
		"a list beyond the end":      {with("02", "9b7fffffffffffffff"), ErrEncoding},
	})
}

// Within the limits both would be accepted.
func TestCounts(t *testing.T) {
	for n, want := range map[int]error{1 << 16: nil, 1<<16 + 1: ErrEncoding} {
		var got nest
		if err := Decode(Encode(make(nest, n)), &got); !errors.Is(err, want) {
			t.Errorf("an array of %d: %v", n, err)
		}
	}
	for n, want := range map[int]error{1 << 10: nil, 1<<10 + 1: ErrEncoding} {
		v := &sample{Head: Head{Ext: map[uint64][]byte{}}}
		for i := range n {
			v.Ext[uint64(2*i+1)] = nil
		}
		var got sample
		if err := Decode(Marshal(v), &got); !errors.Is(err, want) {
			t.Errorf("a map of %d: %v", n, err)
		}
	}
}

// TestExtensionsAreBounded: bytes that nobody understands are kept by whoever
// verifies a body, so there are few of them.
func TestExtensionsAreBounded(t *testing.T) {
	many := func(n, size int) map[uint64][]byte {
		out := map[uint64][]byte{}
		for i := range n {
			out[uint64(2*i+1)] = make([]byte, size)
		}
		return out
	}
	for name, c := range map[string]struct {
		ext  map[uint64][]byte
		want error
	}{
		"one at the limit":     {many(1, MaxExt-8), nil},
		"one above it":         {many(1, MaxExt-7), ErrExt},
		"many at the limit":    {many(128, 24), nil},
		"many above it":        {many(129, 24), ErrExt},
		"numbers alone":        {many(MaxExt/8, 0), nil},
		"too many of them":     {many(MaxExt/8+1, 0), ErrExt},
		"a mebibyte at a time": {many(1, 1<<20), ErrExt},
	} {
		var got sample
		if err := Unmarshal(Marshal(&sample{Head: Head{Ext: c.ext}}), &got); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The cases above say "unsorted" and "unknown" of what would else be accepted.
func TestTheCasesDifferFromTheSampleInOnePoint(t *testing.T) {
	for name, h := range map[string]string{
		"as it is":               with("00", "01"),
		"another odd one":        with("181f", "a109420102"),
		"two odd ones":           with("181f", "a2 07420102 0940"),
		"an empty list":          with("02", "80"),
		"empty text":             with("03", "60"),
		"the largest number":     with("04", "1bffffffffffffffff"),
		"no extensions":          "a5" + with("00", "01")[2:len(with("00", "01"))-len("181fa107420102")],
		"an optional field":      "a7" + with("00", "01")[2:len(with("00", "01"))-len("181fa107420102")] + "0541ff" + "181fa107420102",
		"a character of 4 bytes": with("03", "64f09f9880"),
	} {
		var v sample
		b := unhex(t, h)
		if err := Unmarshal(b, &v); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(Marshal(&v), b) {
			t.Errorf("%s does not re-encode to itself", name)
		}
	}
}

// nest is nothing but depth.
type nest []nest

func TestDepth(t *testing.T) {
	for depth, want := range map[int]error{1: nil, MaxDepth: nil, MaxDepth + 1: ErrEncoding, 10_000: ErrEncoding} {
		b := bytes.Repeat([]byte{0x81}, depth)
		b[depth-1] = 0x80
		var v nest
		if err := Decode(b, &v); !errors.Is(err, want) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestErrorsDoNotRepeatThePeersBytesAtLength(t *testing.T) {
	var v sample
	err := Unmarshal(unhex(t, "a7"+with("00", "01")[2:]+"7903e8"+strings.Repeat("61", 1000)+"01"), &v)
	if err == nil || len(err.Error()) > 300 {
		t.Fatal(err)
	}
}

func TestDecodedValuesAreCopies(t *testing.T) {
	v := newSample()
	v.Bytes = []byte("copied")
	b := Marshal(v)
	var got sample
	if err := Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if string(got.Bytes) != "copied" || !bytes.Equal(got.Ext[7], []byte{1, 2}) || got.Text != "héllo" {
		t.Fatalf("%+v", got)
	}
}

func TestEncodePanicsOnWhatCBORCannotHold(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Encode(make(chan int))
}

func TestBodiesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &sample{
			ID:    Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id")),
			Text:  rapid.String().Draw(t, "text"),
			N:     rapid.Uint64().Draw(t, "n"),
			Bytes: rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "extensions") {
			if v.Ext == nil {
				v.Ext = map[uint64][]byte{}
			}
			v.Ext[rapid.Uint64().Draw(t, "number")|1] = rapid.SliceOf(rapid.Byte()).Draw(t, "extension")
		}
		b := Marshal(v)
		var got sample
		if err := Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(Marshal(&got), b) || got.ID != v.ID || got.Text != v.Text || got.N != v.N ||
			!bytes.Equal(got.Bytes, v.Bytes) || len(got.Ext) != len(v.Ext) {
			t.Fatalf("%+v instead of %+v", got, v)
		}
	})
}

func TestEveryFlippedByteIsRefusedOrAnotherBody(t *testing.T) {
	b := Marshal(newSample())
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			var v sample
			if Unmarshal(c, &v) == nil && !bytes.Equal(Marshal(&v), c) {
				t.Fatalf("byte %d bit %d: accepted and not the same", i, bit)
			}
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(Marshal(newSample()))
	f.Add(Marshal(&sample{}))
	f.Add(unhex(f, with("181f", "a108420102")))
	f.Add(unhex(f, with("01", "9820"+strings.Repeat("01", 32))))
	f.Add(unhex(f, "bf0001ff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v sample
		if Unmarshal(b, &v) == nil && !bytes.Equal(Marshal(&v), b) {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x81, 0x80})
	f.Add([]byte{0x82, 0x80, 0x81, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v nest
		if Decode(b, &v) == nil && !bytes.Equal(Encode(v), b) {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
	})
}
