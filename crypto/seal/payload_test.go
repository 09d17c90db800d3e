package seal

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
)

func derive(t testing.TB, dk []byte, ctx key.Hash) *Keys {
	t.Helper()
	k, err := Derive(dk, ctx)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPayloadsRefuseEveryChange(t *testing.T) {
	dk, ctx := count(32), key.Hash{1}
	ct, err := derive(t, dk, ctx).Seal([]byte("the secret"))
	if err != nil {
		t.Fatal(err)
	}
	k := derive(t, dk, ctx)
	if got, err := k.Open(ct); err != nil || string(got) != "the secret" {
		t.Fatal(err)
	}
	for i := range ct {
		for bit := range 8 {
			c := bytes.Clone(ct)
			c[i] ^= 1 << bit
			if got, err := k.Open(c); !errors.Is(err, ErrOpen) || got != nil {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
		}
		if _, err := k.Open(ct[:i]); !errors.Is(err, ErrOpen) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
	for _, c := range [][]byte{nil, append(bytes.Clone(ct), 0), make([]byte, MaxPayload+1)} {
		if _, err := k.Open(c); !errors.Is(err, ErrOpen) {
			t.Errorf("%d bytes: %v", len(c), err)
		}
	}
}

// A generation's ciphertext opens in no other, and its key check fits no other.
func TestPayloadsRefuseEveryOtherContext(t *testing.T) {
	dk, ctx := count(32), key.T("keymesh/v1/ctx", make([]byte, 32), key.U64(1), key.U64(1))
	right := derive(t, dk, ctx)
	ct, err := right.Seal([]byte("the secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range dk {
		other := bytes.Clone(dk)
		other[i] ^= 1 << (i % 8)
		k := derive(t, other, ctx)
		if _, err := k.Open(ct); !errors.Is(err, ErrOpen) || k.Check(right.KC()) {
			t.Errorf("byte %d of the data key changed: %v", i, err)
		}
		c := ctx
		c[i] ^= 1 << (i % 8)
		k = derive(t, dk, c)
		if _, err := k.Open(ct); !errors.Is(err, ErrOpen) || k.Check(right.KC()) {
			t.Errorf("byte %d of the context changed: %v", i, err)
		}
		kc := right.KC()
		kc[i] ^= 1 << (i % 8)
		if right.Check(kc) {
			t.Errorf("byte %d of the check changed", i)
		}
	}
	if !right.Check(right.KC()) {
		t.Error("the right check")
	}
}

func TestDataKeyLengths(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 64} {
		if k, err := Derive(make([]byte, n), key.Hash{}); !errors.Is(err, ErrKey) || k != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	dk := count(32)
	k := derive(t, dk, key.Hash{})
	clear(dk)
	if !k.Check(derive(t, count(32), key.Hash{}).KC()) {
		t.Error("the keys alias the data key")
	}
}

func TestPayloadSizes(t *testing.T) {
	for n, want := range map[int]int{
		0: 256, 255: 256, 256: 1 << 10, 1023: 1 << 10, 1024: 4 << 10, 4096: 16 << 10,
		16384: 64 << 10, 65535: 64 << 10, 65536: 256 << 10, 262144: 1 << 20, MaxSecret: 1 << 20,
	} {
		ct, err := derive(t, count(32), key.Hash{}).Seal(make([]byte, n))
		if err != nil || len(ct) != want+tagSize || len(ct) > MaxPayload {
			t.Errorf("%d bytes have %d: %v", n, len(ct), err)
		}
	}
	k := derive(t, count(32), key.Hash{})
	if ct, err := k.Seal(make([]byte, MaxSecret+1)); !errors.Is(err, ErrSize) || ct != nil {
		t.Error("a longer secret:", err)
	}
	if _, err := k.Seal(nil); err != nil {
		t.Error("a refused secret used the key up:", err)
	}
}

// Two secrets under one key and nonce would give their difference away.
func TestADataKeySealsOnce(t *testing.T) {
	k := derive(t, count(32), key.Hash{})
	if _, err := k.Seal([]byte("one")); err != nil {
		t.Fatal(err)
	}
	twin := *k
	for _, k := range []*Keys{k, &twin} {
		if ct, err := k.Seal([]byte("two")); !errors.Is(err, ErrReuse) || ct != nil {
			t.Error(err)
		}
	}
}

func TestErasedKeysDoNothing(t *testing.T) {
	k := derive(t, count(32), key.Hash{})
	ct, err := k.Seal([]byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	twin, kc := *k, k.KC()
	k.Erase()
	for _, k := range []*Keys{k, &twin} {
		if _, err := k.Open(ct); !errors.Is(err, ErrOpen) || k.Check(kc) || k.Check([32]byte{}) || k.KC() != [32]byte{} {
			t.Error(err)
		}
		if _, err := k.Seal(nil); !errors.Is(err, ErrReuse) {
			t.Error(err)
		}
		m := k.material()
		if m.key != [32]byte{} || m.nonce != [nonceSize]byte{} {
			t.Error("the keys are still there")
		}
	}
}

// Authentic, but not as Seal pads: only a faulty writer with the key makes it.
func TestPayloadsOfAnotherPaddingAreRefused(t *testing.T) {
	k := derive(t, count(32), key.Hash{})
	m := k.material()
	for name, padded := range map[string][]byte{
		"no mark":       make([]byte, 256),
		"another mark":  append(make([]byte, 255), 0x81),
		"nothing":       {},
		"another size":  append(make([]byte, 299), 0x80),
		"a size larger": append([]byte{0x80}, make([]byte, 1023)...),
	} {
		ct := aead(m.key[:]).Seal(nil, m.nonce[:], padded, m.ctx[:])
		if got, err := k.Open(ct); !errors.Is(err, ErrPadding) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPadding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := []int{4, 8, 32}
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0x80, 1}), 0, 40).Draw(t, "bytes")
		padded, err := Pad(b, sizes)
		if len(b) >= 32 {
			if !errors.Is(err, ErrSize) || padded != nil {
				t.Fatal(err)
			}
			return
		}
		got, uerr := Unpad(padded, sizes)
		if err != nil || uerr != nil || !bytes.Equal(got, b) {
			t.Fatalf("%x is padded to %x and back to %x (%v, %v)", b, padded, got, err, uerr)
		}
		if len(padded) > 4 && len(b) < len(padded)/4 {
			t.Fatalf("%d bytes are padded to %d", len(b), len(padded))
		}
	})
	if _, err := Pad(nil, nil); !errors.Is(err, ErrSize) {
		t.Error("no sizes:", err)
	}
}

func FuzzUnpad(f *testing.F) {
	f.Add([]byte("abc\x80"))
	f.Add([]byte("\x80\x00\x00\x00"))
	f.Add([]byte("abcd\x80\x00\x00\x00"))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		sizes := []int{4, 8, 32}
		got, err := Unpad(b, sizes)
		if err != nil {
			return
		}
		if again, err := Pad(got, sizes); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted bytes do not pad to themselves")
		}
	})
}

func FuzzOpenPayload(f *testing.F) {
	c := load(f).Payloads[0]
	f.Add([]byte(c.CT))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		k := derive(t, c.DK, c.Ctx)
		if _, err := k.Open(b); err == nil {
			secret, _ := k.Open(b)
			if again, err := k.Seal(secret); err != nil || !bytes.Equal(again, b) {
				t.Fatal("accepted bytes do not re-encrypt to themselves")
			}
		}
	})
}
