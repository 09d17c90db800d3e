package storage

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

// A peer that rewrote its log and let it grow shows heads that do not contradict
// one another; an earlier one that is kept does not bear out its export.
func TestAuditEarlierHeads(t *testing.T) {
	peerDir := newAudit(t)
	peer, _ := openAudit(t, peerDir, 0)
	fillAudit(t, peer, 9)
	var export bytes.Buffer
	if err := peer.Export(t.Context(), &export, nil); err != nil {
		t.Fatal(err)
	}
	a, stop := openAudit(t, newAudit(t), 0)
	dir := a.dir
	lied := signHead(0, share.AuditHead{Seq: 5, Hash: key.Hash{5}, Time: 100})
	h := headOf(t, peer)
	now := signHead(0, h)
	other := auditNode(7).ID() // whose own log a is, for this test
	a.node = other
	for _, b := range [][]byte{lied, now} {
		if err := a.SaveWitness(auditNode(0).ID(), b); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Witnessed(auditNode(0).ID()); len(got) != 2 || !bytes.Equal(got[0], now) || !bytes.Equal(got[1], lied) {
		t.Fatalf("%d heads are kept", len(got))
	}
	if _, err := VerifyExport(bytes.NewReader(export.Bytes()), now); err != nil {
		t.Fatal("by the newest head alone:", err)
	}
	if _, err := a.VerifyExport(bytes.NewReader(export.Bytes())); !errors.Is(err, ErrRewritten) || !strings.Contains(err.Error(), "entry 5") {
		t.Errorf("by all that is kept: %v", err)
	}
	stop()
	a, _ = openAudit(t, dir, 0)
	if got := a.Witnessed(auditNode(0).ID()); len(got) != 2 || !bytes.Equal(got[1], lied) {
		t.Errorf("after a restart %d heads are kept", len(got))
	}
}

// Whoever shows a head a second for a day drives out none of the old ones.
func TestAuditEarlierHeadsAreSpaced(t *testing.T) {
	a, _ := openAudit(t, newAudit(t), 0)
	w := Witness{}
	head := func(seq, at uint64) *share.AuditHead {
		return &share.AuditHead{Node: auditNode(1).ID(), Seq: seq, Hash: key.Hash{1, byte(seq)}, Time: at}
	}
	seq := uint64(0)
	show := func(at uint64) {
		seq++
		h := head(seq, at)
		if _, err := a.weigh(&w, h, signHead(1, *h)); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []uint64{1000, 10_000, 20_000, 40_000, 60_000, 80_000} {
		show(at)
	}
	for i := range uint64(300) {
		show(100_000 + i)
	}
	var times []uint64
	for _, b := range append(slices.Clone(w.Earlier), w.Theirs) {
		times = append(times, a.known(b).Time)
	}
	if len(w.Earlier) != MaxEarlier || !slices.IsSorted(times) || times[0] != 1000 || times[len(times)-1] != 100_299 {
		t.Fatalf("kept: %v", times)
	}
	if old := slices.DeleteFunc(slices.Clone(times), func(at uint64) bool { return at >= 100_000 }); len(old) < 3 {
		t.Errorf("the flood drove out the old ones: %v", times)
	}
}

// A file of before there were earlier heads is read.
func TestAuditPeersWithoutEarlier(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	old := []oldWitness{{Peer: auditNode(1).ID(), Time: 5, Mine: []byte("m"), Theirs: []byte("t"), Proof: [][]byte{[]byte("p")}}}
	head := a.keys.peersHead()
	file := append(slices.Clone(head), seal.Box(&a.keys.box, append([]byte(peersAAD), head...), key.Encode(old))...)
	stop()
	overwrite(t, dir, auditPeers, file)
	a, _ = openAudit(t, dir, 0)
	w := a.Witnesses()
	if len(w) != 1 || w[0].Peer != auditNode(1).ID() || w[0].Time != 5 || string(w[0].Mine) != "m" || string(w[0].Theirs) != "t" || len(w[0].Proof) != 1 || len(w[0].Earlier) != 0 {
		t.Errorf("%+v", w)
	}
}
