package keystore

import (
	"context"
	"crypto/sha256"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// large is the manifest of a secret of its own, with everything an owner can
// put into it, that gives node 1 a seat.
func (m *hMesh) large(t testing.TB, i int) *hDeal {
	t.Helper()
	w := m.ownedBy(hPerson(t, 1000+i))
	return w.deal(t, hSpec{gen: 1, seats: []int{0, 1}, edit: func(mf *share.Manifest) {
		mf.Label = make([]byte, share.MaxLabel)
		mf.Ext = map[uint64][]byte{1: make([]byte, key.MaxExt-8)}
	}})
}

// TestRefusedManifestsAreForgotten: a signature is all that a manifest costs
// its sender, so those that nothing comes of take little memory, however many
// there are, and push out nothing that is used.
func TestRefusedManifestsAreForgotten(t *testing.T) {
	m := newHMesh(t, 2, Limits{})
	v := m.nodes[1].versions
	mine := m.deal(t, hSpec{gen: 1, seats: []int{0, 1}})
	if r := m.prepareAt(m.hWorld, 0, 1, mine); r.Outcome != custody.OK {
		t.Fatal(r.Why)
	}
	if _, ok := v.m.get(mine.wireSum()); !ok {
		t.Fatal("a manifest that is used is not kept")
	}
	for i := range 500 {
		var r custody.PrepareReply
		if m.ask(0, 1, custody.VerbPrepare, &custody.Prepare{Manifest: m.large(t, i).Bytes()}, &r); r.Outcome != custody.Refused {
			t.Fatalf("outcome %d", r.Outcome)
		}
	}
	total := 0
	for _, half := range []map[[32]byte]*version{v.strays.new, v.strays.old} {
		for _, s := range half {
			total += 2 * len(s.Object.Body)
		}
	}
	if total > maxStrayBytes || len(v.m.new)+len(v.m.old) != 1 {
		t.Errorf("%d bytes of refused manifests, %d of those that are used", total, len(v.m.new)+len(v.m.old))
	}
}

func (v *version) wireSum() [32]byte { return sha256.Sum256(v.Bytes()) }

// TestManifestsOfOutsidersAreNotOpened: a node that the roster does not know
// costs no signature check and no memory.
func TestManifestsOfOutsidersAreNotOpened(t *testing.T) {
	m := newHMesh(t, 2, Limits{})
	v := m.nodes[1].versions
	outsider := key.GenerateNode().ID()
	d := m.large(t, 1)
	for verb, q := range map[uint64]key.Body{
		custody.VerbPrepare: &custody.Prepare{Manifest: d.Bytes()},
		custody.VerbCommit:  &custody.Commit{Manifest: d.Bytes()},
	} {
		if _, err := m.nodes[1].answer(context.Background(), outsider, verb, key.Marshal(q)); err != nil {
			t.Fatal(err)
		}
		if n := len(v.m.new) + len(v.strays.new); n != 0 {
			t.Errorf("verb %d: %d manifests are kept", verb, n)
		}
	}
}

// TestCachesAreBoundedByBytes: by the room that things take, not by their number.
func TestCachesAreBoundedByBytes(t *testing.T) {
	y := newHeavy[int](1000, 100, func(n int) int64 { return int64(n) })
	total := func() int64 {
		var out int64
		for _, half := range []map[int]int{y.new, y.old} {
			for _, n := range half {
				out += int64(n)
			}
		}
		return out
	}
	for i := range 500 {
		y.put(i%70, 1+i%30)
		if total() > 100 {
			t.Fatalf("%d bytes", total())
		}
	}
	y.put(1, 2)
	if v, ok := y.get(1); !ok || v != 2 {
		t.Error("what was put last is not there")
	}
	y.drop(1)
	if _, ok := y.get(1); ok {
		t.Error("what was dropped is there")
	}
}
