package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"keymesh/crypto/key"
)

type array struct {
	_    struct{} `cbor:",toarray"`
	Kind uint64
	Call uint64
	Verb uint64
	Body []byte
}

// vectors are the bytes of SPEC.md; they never change.
var vectors = []struct {
	kind       Kind
	call, verb uint64
	body, want string
}{
	{Request, 1, 2, "", "000000058401010240"},
	{Reply, 23, 24, "abc", "0000000984021718184361" + "6263"},
	{Push, 0, 255, "\x00", "0000000784030018ff4100"},
	{Failed, 256, 65536, "\x82\x02\x60", "0000000e84041901001a0001000043820260"},
	{Request, math.MaxUint64, math.MaxUint64, "", "0000001584011bffffffffffffffff1bffffffffffffffff40"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		b := Append(nil, v.kind, v.call, v.verb, []byte(v.body))
		if got := hex.EncodeToString(b); got != v.want {
			t.Errorf("frame %d %d %d %q is %s, want %s", v.kind, v.call, v.verb, v.body, got, v.want)
		}
		h, body, err := Decode(b)
		if err != nil || h != (Head{v.kind, v.call, v.verb, len(v.body)}) || string(body) != v.body {
			t.Errorf("%s decodes to %v %q %v", v.want, h, body, err)
		}
		if c := key.Encode(array{Kind: uint64(v.kind), Call: v.call, Verb: v.verb, Body: []byte(v.body)}); !bytes.Equal(c, b[4:]) {
			t.Errorf("the hand-written encoding %x differs from the library's %x", b[4:], c)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty":                 "",
		"length only":           "00000000",
		"short":                 "000000058401010",
		"trailing byte":         "00000005840101024000",
		"length too small":      "000000048401010240",
		"kind 0":                "000000058400010240",
		"kind 5":                "000000058405010240",
		"request with call 0":   "000000058401000240",
		"push with a call id":   "000000058403010240",
		"long form of 1":        "0000000684011801" + "0240",
		"long form of size":     "00000006840101025800",
		"indefinite body":       "000000068401010" + "25fff",
		"indefinite array":      "000000069f01010240ff",
		"text body":             "000000058401010260",
		"array of three":        "0000000483010102",
		"negative verb":         "000000058401012240",
		"body longer than said": "00000006840101024161" + "61",
		"body shorter":          "000000058401010241",
	} {
		b, err := hex.DecodeString(strings.TrimSpace(s[:len(s)/2*2]))
		if err != nil {
			t.Fatal(name, err)
		}
		if h, _, err := Decode(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: accepted as %v, error %v", name, h, err)
		}
	}
}

func TestReader(t *testing.T) {
	big := bytes.Repeat([]byte{7}, 100_000)
	stream := Append(nil, Request, 1, 40, []byte("first"))
	stream = Append(stream, Push, 0, 41, big)
	stream = Append(stream, Reply, 2, 42, big)
	stream = Append(stream, Reply, 3, 43, nil)
	for name, src := range map[string]io.Reader{"whole": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream))} {
		r := NewReader(src, MaxSize)
		next := func(want Head) {
			t.Helper()
			if h, err := r.Next(); err != nil || h != want {
				t.Fatalf("%s: %v %v, want %v", name, h, err, want)
			}
		}
		next(Head{Request, 1, 40, 5})
		if b, err := r.Body(); err != nil || string(b) != "first" {
			t.Fatalf("%s: %q %v", name, b, err)
		}
		next(Head{Push, 0, 41, len(big)}) // skipped without Body
		next(Head{Reply, 2, 42, len(big)})
		if b, err := r.Body(); err != nil || !bytes.Equal(b, big) {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		next(Head{Reply, 3, 43, 0})
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("%s: %v at the end", name, err)
		}
	}
}

func TestReaderLimit(t *testing.T) {
	b := Append(nil, Request, 1, 1, make([]byte, MaxPreAuth))
	r := NewReader(bytes.NewReader(b), MaxPreAuth)
	if _, err := r.Next(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("8 KiB and a head were let in before authentication: %v", err)
	}
	r = NewReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0x84}), MaxSize)
	r.SetLimit(math.MaxInt)
	if _, err := r.Next(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("4 GiB announced: %v", err)
	}
	full := Append(nil, Request, math.MaxUint64, math.MaxUint64, make([]byte, MaxBody))
	if len(full) != MaxSize {
		t.Fatalf("the largest frame has %d bytes, want %d", len(full), MaxSize)
	}
	if _, err := NewReader(bytes.NewReader(full), MaxSize).Next(); err != nil {
		t.Fatalf("the largest frame: %v", err)
	}
}

func TestReaderCut(t *testing.T) {
	whole := Append(nil, Request, 9, 9, []byte("0123456789012345678901234567890123456789"))
	for i := 1; i < len(whole); i++ {
		r := NewReader(bytes.NewReader(whole[:i]), MaxSize)
		_, err := r.Next()
		if err == nil {
			_, err = r.Body()
		}
		if err == nil || err == io.EOF {
			t.Errorf("cut after %d bytes: %v", i, err)
		}
	}
}

func TestFailure(t *testing.T) {
	for _, f := range []Failure{{Code: CodeBusy}, {Code: CodeHandler, Text: "no such row"}} {
		if g, err := DecodeFailure(f.Encode()); err != nil || g != f {
			t.Errorf("%v became %v, %v", f, g, err)
		}
	}
	long := Failure{Code: CodeHandler, Text: strings.Repeat("ü", MaxText) + "\xff"}
	g, err := DecodeFailure(long.Encode())
	if err != nil || len(g.Text) > MaxText || !strings.HasPrefix(long.Text, g.Text) {
		t.Errorf("a long text became %d bytes, %v", len(g.Text), err)
	}
	for _, b := range [][]byte{nil, {0x80}, {0x82, 1, 0x61, 0xff}, {0x82, 0x18, 1, 0x60}, make([]byte, 4096)} {
		if f, err := DecodeFailure(b); err == nil {
			t.Errorf("%x accepted as %v", b[:min(len(b), 8)], f)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors {
		b, _ := hex.DecodeString(v.want)
		f.Add(b)
	}
	f.Add(Append(nil, Request, 300, 70000, make([]byte, 300)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := Decode(b)
		var a array
		lib := len(b) >= 4 && key.Decode(b[4:], &a) == nil
		if err != nil {
			return
		}
		if !lib || a.Call != h.Call || a.Verb != h.Verb || !bytes.Equal(a.Body, body) {
			t.Fatalf("the library disagrees about %x", b)
		}
		if again := Append(nil, h.Kind, h.Call, h.Verb, body); !bytes.Equal(again, b) {
			t.Fatalf("%x was accepted and is encoded as %x", b, again)
		}
		r := NewReader(bytes.NewReader(b), MaxSize)
		if h2, err := r.Next(); err != nil || h2 != h {
			t.Fatalf("the reader says %v %v, Decode %v", h2, err, h)
		}
		if body2, err := r.Body(); err != nil || !bytes.Equal(body, body2) {
			t.Fatalf("the reader has another body: %v", err)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add(Append(Append(nil, Request, 1, 2, []byte("x")), Push, 0, 9, []byte("y")))
	f.Add([]byte{0, 0, 0, 5, 0x84, 1, 1, 2, 0x40, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), MaxPreAuth)
		var again []byte
		for {
			h, err := r.Next()
			if err != nil {
				break
			}
			body, err := r.Body()
			if err != nil {
				break
			}
			again = Append(again, h.Kind, h.Call, h.Verb, body)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x was read as %x", b, again)
		}
	})
}
