package share

import (
	"bytes"
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

type vectors struct {
	Note            string
	Network         hexBytes
	Owner, Approver struct{ Seed, Public hexBytes }
	Nodes           []struct{ Seed, ID hexBytes }
	Names           []struct {
		Seed, Network         hexBytes
		Name                  string
		Index, Tag, Owner, ID hexBytes
		Salt                  key.Hash
	}
	Contexts []struct {
		ID  key.Hash
		Gen uint64 `json:",string"`
		// Suite is 1 in what is stored; the function takes any.
		Suite uint64 `json:",string"`
		Ctx   key.Hash
	}
	Rows []struct {
		Ctx  key.Hash
		X, K uint8
		Row  hexBytes
		C    key.Hash
	}
	AADs []struct {
		ID  key.Hash
		Gen uint64 `json:",string"`
		AAD hexBytes
	}
	Objects []struct {
		Name, Type string
		Number     key.Type
		Hash       key.Hash
		Object     hexBytes
	}
	Bodies []struct {
		Name string
		Body hexBytes
	}
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
	if len(v.Names) != 4 || len(v.Contexts) != 4 || len(v.Rows) != 5 || len(v.AADs) != 3 || len(v.Objects) != 15 || len(v.Bodies) != 5 {
		t.Fatal("vectors are missing")
	}
	return v
}

func TestVectorsOfKeys(t *testing.T) {
	v := load(t)
	if !bytes.Equal(v.Network, testNet[:]) {
		t.Error("network")
	}
	o, a := owner().Public(), approver().Public()
	if !bytes.Equal(v.Owner.Public, o[:]) || !bytes.Equal(v.Approver.Public, a[:]) {
		t.Error("persons")
	}
	for i, n := range v.Nodes {
		if id := node(i).ID(); !bytes.Equal(n.ID, id[:]) {
			t.Errorf("node %d", i)
		}
	}
}

func TestVectorsOfNames(t *testing.T) {
	for _, c := range load(t).Names {
		p, err := key.PersonFromSeed(c.Seed)
		if err != nil {
			t.Fatal(err)
		}
		index := IndexKey(p, key.NetworkID(c.Network))
		tag := Tag(&index, c.Name)
		salt := Salt(tag, c.Name)
		id := ID(p.Public(), salt)
		if !bytes.Equal(index[:], c.Index) || !bytes.Equal(tag[:], c.Tag) || salt != c.Salt || !bytes.Equal(id[:], c.ID) {
			t.Errorf("%q: index %x tag %x salt %v id %v", c.Name, index, tag, salt, id)
		}
	}
}

func TestVectorsOfContextsAndRows(t *testing.T) {
	v := load(t)
	for _, c := range v.Contexts {
		if got := Context(c.ID, c.Gen, c.Suite); got != c.Ctx {
			t.Errorf("context of gen %d suite %d: %v", c.Gen, c.Suite, got)
		}
	}
	for _, c := range v.Rows {
		if got := RowCommitment(c.Ctx, c.X, c.K, c.Row); got != c.C {
			t.Errorf("row of x = %d, k = %d: %v", c.X, c.K, got)
		}
	}
	for _, c := range v.AADs {
		id := c.ID
		if got := LabelAAD(c.ID, c.Gen); !bytes.Equal(got, c.AAD) || c.ID != id {
			t.Errorf("aad of gen %d: %x", c.Gen, got)
		}
	}
}

func TestVectorsOfObjects(t *testing.T) {
	all := wires(t)
	for _, c := range load(t).Objects {
		w, ok := all[c.Name]
		if !ok || w.typ != c.Number || w.typ.String() != c.Type {
			t.Fatalf("%s is no %s", c.Name, c.Type)
		}
		delete(all, c.Name)
		if got := w.object.Encode(); !bytes.Equal(got, c.Object) {
			t.Errorf("%s is written as %x", c.Name, got)
		}
		if got := w.object.Hash(testNet); got != c.Hash {
			t.Errorf("%s has the hash %v", c.Name, got)
		}
		body, err := w.open(testNet, c.Object)
		if err != nil || !bytes.Equal(body, w.object.Body) {
			t.Errorf("%s is read as %x, %v", c.Name, body, err)
		}
	}
	if len(all) != 0 {
		t.Errorf("no vectors of %v", sortedNames(all))
	}
}

func TestVectorsOfBodies(t *testing.T) {
	l := newLine(t)
	want := map[string][]byte{
		"certFirst":  firstCert(l).Encode(),
		"certSecond": secondCert(l).Encode(),
		"label":      key.Marshal(fixedLabel()),
		"bundle":     bundleOf(l.first).Encode(),
		"epoch":      epochOf(l.first).Encode(),
	}
	for _, c := range load(t).Bodies {
		if !bytes.Equal(want[c.Name], c.Body) {
			t.Errorf("%s is written as %x", c.Name, want[c.Name])
		}
		switch c.Name {
		case "bundle":
			b, err := OpenRefreshBundle(testNet, c.Body, l.first, l.first.Seated)
			if err != nil || b.Hash != vectorHash(t, "4119ed778baf8821cdc4e47457bf3878a31c79d14a43a1aefcdd6ce3e026ff5c") || b.Dealt != vectorHash(t, "104ca1002767158ab12be7b21ee0f3f6e97de446268465f5ec01efe63fe750e0") ||
				b.Opened[1].Seed(l.first.Xs()) != vectorHash(t, "2574c78b667c3b34042e4dfad43ac4e63c9932c61434ebcf26eb24da3d6bc529") {
				t.Errorf("the bundle is read as %+v, %v", b, err)
			}
		case "epoch":
			if _, err := OpenEpoch(testNet, c.Body, l.first, l.first.Seated); err != nil {
				t.Errorf("the epoch: %v", err)
			}
		case "label":
			var got Label
			if err := key.Unmarshal(c.Body, &got); err != nil || got.Name != "mail/imap" || got.Labels[1] != [2]string{"team", "grüße"} || got.Size != 1<<20-1 {
				t.Errorf("the label is read as %+v, %v", got, err)
			}
		case "certFirst":
			verifyBytes(t, c.Body, l.first, nil)
		case "certSecond":
			verifyBytes(t, c.Body, l.second, []*SignedManifest{l.first, l.passed})
		}
	}
}

func verifyBytes(t *testing.T, b []byte, m *SignedManifest, before []*SignedManifest) {
	t.Helper()
	c, err := DecodeCert(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyCert(testNet, c, m, before, nil); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(c.Encode(), b) {
		t.Error("the certificate does not re-encode to itself")
	}
}

func TestSignedManifestCarriesItsObject(t *testing.T) {
	l := newLine(t)
	got, err := OpenManifest(testNet, l.second.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash != l.second.Hash || got.Hash != got.Object.Hash(testNet) || !bytes.Equal(got.Bytes(), l.second.Bytes()) {
		t.Error("hash or bytes differ")
	}
	if !bytes.Equal(got.Ext[7], []byte{1, 2}) || !got.Colocated || got.N() != 5 || got.F() != 1 {
		t.Errorf("%+v", got.Manifest)
	}
	r, err := OpenRequest(testNet, wires(t)["request"].object.Encode(), created)
	if err != nil || r.Hash != r.Object.Hash(testNet) || r.Hash != SignRequest(approver(), testNet, fixedRequest()).Hash {
		t.Error("the request's hash", err)
	}
	_, h, err := OpenTombstone(testNet, wires(t)["tombstone"].object.Encode())
	if err != nil || h != wires(t)["tombstone"].object.Hash(testNet) {
		t.Error("the tombstone's hash", err)
	}
}

func vectorHash(t *testing.T, text string) key.Hash {
	t.Helper()
	h, err := key.ParseHash(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
