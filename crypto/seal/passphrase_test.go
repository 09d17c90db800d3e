package seal

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
)

func TestPassphraseBoxesRefuseEveryChange(t *testing.T) {
	pass := []byte("a passphrase")
	box, err := UnderPassphrase(pass, []byte("seed"), LeastKDF())
	if err != nil {
		t.Fatal(err)
	}
	if len(box) != 4+PassphraseOverhead {
		t.Errorf("%d bytes", len(box))
	}
	tamper(t, box, func(b []byte) ([]byte, error) { return OpenPassphrase(pass, b) })
	for _, other := range []string{"", "a passphrasf", "a passphrase ", "A passphrase"} {
		if _, err := OpenPassphrase([]byte(other), box); !errors.Is(err, ErrOpen) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestDefaultCost(t *testing.T) {
	box, err := UnderPassphrase([]byte("p"), nil, KDFParams{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := PassphraseParams(box); err != nil || p != (KDFParams{3, 64 << 10, 4}) || p != DefaultKDF() {
		t.Errorf("%+v %v", p, err)
	}
	if got, err := OpenPassphrase([]byte("p"), box); err != nil || len(got) != 0 {
		t.Error(err)
	}
}

func TestEmptyPassphrase(t *testing.T) {
	for _, pass := range [][]byte{nil, {}} {
		if box, err := UnderPassphrase(pass, []byte("seed"), LeastKDF()); !errors.Is(err, ErrPassphrase) || box != nil {
			t.Error(err)
		}
	}
}

// Parameters outside the limits cost their reader nothing, on both sides.
func TestLimitsOfTheParameters(t *testing.T) {
	for _, p := range []KDFParams{
		{0, 64 << 10, 4}, {1, 64 << 10, 4}, {11, 64 << 10, 4}, {255, 64 << 10, 4},
		{3, 0, 4}, {3, 8, 1}, {3, 19<<10 - 1, 4}, {3, 1<<20 + 1, 4}, {3, 1<<32 - 1, 4},
		{3, 64 << 10, 0}, {3, 64 << 10, 17}, {3, 64 << 10, 255},
	} {
		if box, err := UnderPassphrase([]byte("p"), nil, p); !errors.Is(err, ErrKDF) || box != nil {
			t.Errorf("written with %+v: %v", p, err)
		}
		box := append(header{params: p}.encode(), make([]byte, tagSize)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := OpenPassphrase([]byte("p"), box)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrKDF) || after.TotalAlloc-before.TotalAlloc > 1<<20 {
			t.Errorf("read with %+v: %v, %d bytes allocated", p, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
	for _, p := range []KDFParams{LeastKDF(), DefaultKDF(), {10, 1 << 20, 16}} {
		if err := p.check(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func FuzzOpenPassphraseHeader(f *testing.F) {
	for _, c := range load(f).Passphrases {
		f.Add([]byte(c.Box))
	}
	f.Add(append(header{params: KDFParams{3, 1<<32 - 1, 1}}.encode(), make([]byte, 64)...))
	f.Add([]byte{Suite, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Fatal("an accepted header does not re-encode to itself")
		}
		if h.params.check() != nil || len(b) < PassphraseOverhead {
			t.Fatalf("accepted %+v of %d bytes", h.params, len(b))
		}
	})
}

func BenchmarkDefaultKDF(b *testing.B) {
	for b.Loop() {
		UnderPassphrase([]byte("p"), nil, KDFParams{})
	}
}

func BenchmarkLeastKDF(b *testing.B) {
	for b.Loop() {
		UnderPassphrase([]byte("p"), nil, LeastKDF())
	}
}
