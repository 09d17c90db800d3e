package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

var updateJournal = flag.Bool("update-journal", false, "write the vectors of the journal anew")

// journalWrite is a write of 2 of 3 with fixed keys and fixed rows.
func journalWrite(t testing.TB) *write {
	seed := func(i byte) []byte { return bytes.Repeat([]byte{i}, 32) }
	owner, err := key.PersonFromSeed(seed(1))
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{cfg: Config{ID: key.NetworkID{9}}, known: newMemory()}
	s.cfg.Network = noNetwork{}
	s.cfg.Shelf = newMapShelf()
	s.cust = &custodian{drains: newDrains(s.cfg.Shelf)}
	m := share.Manifest{Owner: owner.Public(), Salt: key.T("keymesh/v1/salt"), Gen: 1, Suite: share.SuiteShamir, K: 2, W: 3,
		KC: key.Hash{3}, Length: 272, Label: []byte{1}, Policy: []byte{0xa1}, Created: 1_700_000_000}
	m.ID = share.ID(m.Owner, m.Salt)
	ct := bytes.Repeat([]byte{0xc7}, 272)
	m.Payload = sha256.Sum256(ct)
	rows := map[key.NodeID][]byte{}
	for i := range byte(3) {
		n, err := key.NodeFromSeed(seed(10 + i))
		if err != nil {
			t.Fatal(err)
		}
		row := bytes.Repeat([]byte{0x50 + i}, 64)
		rows[n.ID()] = row
		m.Seats = append(m.Seats, share.Seat{X: 2 * (i + 1), Node: n.ID(), C: share.RowCommitment(m.Context(), 2*(i+1), 2, row)})
	}
	signed, err := share.SignManifest(owner, s.cfg.ID, m)
	if err != nil {
		t.Fatal(err)
	}
	w := s.newWrite(signed, nil)
	w.rows, w.ct, w.digest = rows, ct, key.Hash{0xd1}
	return w
}

// noNetwork has nobody in it.
type noNetwork struct{ Network }

func (noNetwork) Members() []Member { return nil }
func (noNetwork) Self() Member      { return Member{} }

func journalVectors(t testing.TB) map[string][]byte {
	w := journalWrite(t)
	out := map[string][]byte{"put": w.record()}
	for _, seat := range w.m.Seats[:2] {
		w.progress[seat.Node].committed = true
	}
	w.answered = true
	out["put after two commits"] = w.record()
	owner, _ := key.PersonFromSeed(bytes.Repeat([]byte{1}, 32))
	tomb := share.Tombstone{ID: w.m.ID, Gen: 1, Scope: share.ScopeAll, Time: 1_700_000_001, Owner: w.m.Owner, Salt: w.m.Salt}
	obj := share.SignTombstone(owner, w.s.cfg.ID, tomb)
	d := newDeletion(&tombstone{Tombstone: tomb, hash: obj.Hash(w.s.cfg.ID), bytes: obj.Encode()}, roster{})
	d.concern(&w.m.Manifest, true)
	d.state[w.m.Seats[1].Node] = "deleted"
	out["delete"] = d.record()
	out["mark"] = key.Marshal(&readerMark{Gen: 7, Manifest: w.m.Hash})
	return out
}

func TestJournalVectors(t *testing.T) {
	path := filepath.Join("testdata", "journal.txt")
	got := journalVectors(t)
	var b strings.Builder
	for _, name := range []string{"put", "put after two commits", "delete", "mark"} {
		fmt.Fprintf(&b, "%s\n%s\n\n", name, hex.EncodeToString(got[name]))
	}
	if *updateJournal {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Error("the journal's bytes have changed: that is a change of the format on disk")
	}
}

// What is loaded is what was written, and what was changed anywhere in the
// signed parts is refused.
func TestJournalRoundTrip(t *testing.T) {
	w := journalWrite(t)
	w.progress[w.m.Seats[1].Node].committed = true
	b := w.record()
	got, err := w.s.loadWrite(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.m.Hash != w.m.Hash || !bytes.Equal(got.ct, w.ct) || got.digest != w.digest || !got.journaled || len(got.rows) != 2 {
		t.Fatalf("%+v", got)
	}
	for i, seat := range w.m.Seats {
		p := got.progress[seat.Node]
		if p.committed != (i == 1) || (i != 1) != bytes.Equal(got.rows[seat.Node], w.rows[seat.Node]) {
			t.Errorf("seat %d: %+v", i, p)
		}
	}
	if bytes.Contains(b, w.rows[w.m.Seats[1].Node]) {
		t.Error("the row of a seat that has committed is still in the journal")
	}
	at := bytes.Index(b, w.m.Object.Body)
	for i := at; i < at+len(w.m.Object.Body); i += 7 {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := w.s.loadWrite(bad); err == nil {
			t.Fatalf("a manifest changed at %d is taken", i-at)
		}
	}
	if _, err := w.s.loadDelete(b); err == nil {
		t.Error("a put is taken for a delete")
	}
	del := journalVectors(t)["delete"]
	if _, err := w.s.loadWrite(del); err == nil {
		t.Error("a delete is taken for a put")
	}
	d, err := w.s.loadDelete(del)
	if err != nil || len(d.seats) != 2 || !bytes.Equal(d.record(), del) {
		t.Errorf("%+v %v", d, err)
	}
}

// The digest tells values, options, names and owners apart, also where one
// runs into the other.
func TestDigest(t *testing.T) {
	h := &secret{index: [32]byte{1}, id: key.Hash{2}}
	seen := map[key.Hash]string{}
	for _, c := range []struct {
		h             *secret
		value, wishes string
	}{
		{h, "", ""}, {h, "a", ""}, {h, "", "a"}, {h, "ab", "c"}, {h, "a", "bc"}, {h, "abc", ""}, {h, "c", "ab"},
		{&secret{index: [32]byte{9}, id: h.id}, "a", ""}, {&secret{index: h.index, id: key.Hash{9}}, "a", ""},
	} {
		d := c.h.digest([]byte(c.value), []byte(c.wishes))
		name := fmt.Sprintf("%v %q %q", c.h.id[0], c.value, c.wishes)
		if seen[d] != "" {
			t.Errorf("%s and %s have one digest", name, seen[d])
		}
		seen[d] = name
		if c.value != "" && d == sha256.Sum256([]byte(c.value)) {
			t.Error("the digest is a plain hash")
		}
	}
	gen := uint64(1)
	options := []PutOptions{{}, {N: 5, K: 3}, {W: 4}, {Policy: []byte{1}}, {Labels: map[string]string{"a": "b"}}, {Description: "x"},
		{TTL: new(time.Duration)}, {TTL: new(time.Second)}, {Keep: new(0)}, {Keep: new(1)}, {Repair: new(uint8(share.RepairOwner))}, {Repair: new(uint8(share.RepairQuorum))}, {AllowColocated: true}, {IfGen: &gen}, {IfAbsent: true}, {Holders: []key.NodeID{{1}}}}
	wishes := map[string]int{}
	for i, o := range options {
		w := string(o.wishes())
		if j, ok := wishes[w]; ok {
			t.Errorf("options %d and %d are taken for the same", i, j)
		}
		wishes[w] = i
	}
}

func FuzzJournal(f *testing.F) {
	for _, v := range journalVectors(f) {
		f.Add(v)
	}
	w := journalWrite(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		j := new(journal)
		if key.Unmarshal(b, j) == nil && !bytes.Equal(key.Marshal(j), b) {
			t.Error("accepted bytes do not encode to themselves")
		}
		if got, err := w.s.loadWrite(b); err == nil {
			if got.m.Check() != nil {
				t.Error("a bad manifest is taken")
			}
			got.record()
		}
		if d, err := w.s.loadDelete(b); err == nil {
			d.record()
		}
	})
}
