package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"keymesh/crypto/key"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type boxVector struct{ Key, Aad, Plain, Box hexBytes }

type sealedVector struct{ Plain, Box hexBytes }

type infoVector struct {
	Purpose                 string
	Manifest, Request, Info key.Hash
	X                       uint8
	Epoch                   uint32
	Node                    hexBytes
}

func (v infoVector) info() key.Hash {
	return Info(v.Purpose, v.Manifest, v.X, v.Epoch, key.NodeID(v.Node), v.Request)
}

type vectors struct {
	Note     string
	Payloads []struct {
		DK, KC, CT, Hash hexBytes
		Ctx              key.Hash
		Length, Size     int
	}
	Boxes, Labels []boxVector
	Passphrases   []struct {
		Pass, Plain, Box hexBytes
		T, P             uint8
		KiB              uint32
	}
	HPKE struct {
		infoVector
		Private, Public hexBytes
		Theirs, Ours    sealedVector
	}
	Infos []infoVector
}

func load(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if len(v.Payloads) == 0 || len(v.Boxes) == 0 || len(v.Labels) == 0 || len(v.Passphrases) == 0 || len(v.Infos) == 0 || len(v.HPKE.Ours.Box) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func TestVectorsOfPayloads(t *testing.T) {
	for _, c := range load(t).Payloads {
		k, err := Derive(c.DK, c.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !k.Check([32]byte(c.KC)) {
			t.Errorf("kc is %x", k.KC())
		}
		ct, err := k.Seal(count(c.Length))
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.Sum256(ct)
		if len(ct) != c.Size || !bytes.Equal(hash[:], c.Hash) || len(c.CT) > 0 && !bytes.Equal(ct, c.CT) {
			t.Errorf("%d bytes are sealed to others", c.Length)
		}
		if got, err := k.Open(ct); err != nil || !bytes.Equal(got, count(c.Length)) {
			t.Errorf("%d bytes do not come back: %v", c.Length, err)
		}
	}
}

func TestVectorsOfBoxesAndLabels(t *testing.T) {
	v := load(t)
	for _, c := range v.Boxes {
		k := [32]byte(c.Key)
		if got, err := Unbox(&k, c.Aad, c.Box); err != nil || !bytes.Equal(got, c.Plain) {
			t.Errorf("a box of %d bytes: %v", len(c.Plain), err)
		}
		if box := Box(&k, c.Aad, c.Plain); len(box) != len(c.Box) || len(box) != len(c.Plain)+BoxOverhead {
			t.Errorf("a box of %d bytes has %d", len(c.Plain), len(box))
		}
	}
	for _, c := range v.Labels {
		k := [32]byte(c.Key)
		if got, err := OpenLabel(&k, c.Aad, c.Box); err != nil || !bytes.Equal(got, c.Plain) {
			t.Errorf("a label of %d bytes: %v", len(c.Plain), err)
		}
		if box, err := SealLabel(&k, c.Aad, c.Plain); err != nil || len(box) != len(c.Box) {
			t.Errorf("a label of %d bytes has %d: %v", len(c.Plain), len(box), err)
		}
	}
}

func TestVectorsOfPassphrases(t *testing.T) {
	for _, c := range load(t).Passphrases {
		if got, err := OpenPassphrase(c.Pass, c.Box); err != nil || !bytes.Equal(got, c.Plain) {
			t.Errorf("t %d: %v", c.T, err)
		}
		if p, err := PassphraseParams(c.Box); err != nil || p != (KDFParams{c.T, c.KiB, c.P}) {
			t.Errorf("%+v %v", p, err)
		}
	}
}

func TestVectorsOfInfo(t *testing.T) {
	for _, c := range load(t).Infos {
		if got := c.info(); got != c.Info {
			t.Errorf("%s: %v", c.Purpose, got)
		}
	}
}

// What another implementation of HPKE with X-Wing sealed, and what we did and
// it opened.
func TestVectorsOfHPKE(t *testing.T) {
	c := load(t).HPKE
	k, err := ParsePrivateKey(c.Private)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.Public(), c.Public) || !bytes.Equal(k.Bytes(), c.Private) || c.info() != c.Info {
		t.Error("key or info differ")
	}
	for _, s := range []sealedVector{c.Theirs, c.Ours} {
		if got, err := k.Open(c.Info, s.Box); err != nil || !bytes.Equal(got, s.Plain) {
			t.Error(err)
		}
		if len(s.Box) != len(s.Plain)+Overhead {
			t.Errorf("%d bytes for %d", len(s.Box), len(s.Plain))
		}
	}
}
