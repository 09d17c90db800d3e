package keystore

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

var updateVectors = flag.Bool("update-vectors", false, "write testdata/custodian.txt")

// TestCustodianVectors fixes a whole exchange between a writer and a holder,
// and the record on the holder's disk after each step (SPEC.md of package
// custody explains it). Keys, rows and the clock are the same in every run.
func TestCustodianVectors(t *testing.T) {
	var out strings.Builder
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		from, at := m.hWorld.nodes[0].ID(), m.nodes[1]
		call := func(name string, verb uint64, q key.Body) []byte {
			body := key.Marshal(q)
			reply, err := at.answer(context.Background(), from, verb, body)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s %x\n%s-reply %x\n%s-record %x\n", name, body, name, reply, name, at.shelf.recs[statePlace(m.id)])
			return reply
		}
		one := m.deal(t, hSpec{gen: 1})
		fmt.Fprintf(&out, "network %x\nmanifest-hash %x\n", m.net[:], one.Hash[:])
		call("prepare", custody.VerbPrepare, &custody.Prepare{Manifest: one.Bytes(), Row: one.rows[at.self], Payload: one.payload})
		c := m.cert(one, nil, 0, 1, 2)
		call("commit", custody.VerbCommit, &custody.Commit{Manifest: one.Bytes(), Cert: c.bytes})
		two := m.deal(t, hSpec{gen: 2, tag: "two"})
		call("conflict", custody.VerbPrepare, &custody.Prepare{Manifest: two.Bytes(), Row: two.rows[at.self], Payload: two.payload})
		call("delete", custody.VerbDelete, &custody.Delete{Tombstone: m.tomb(t, 1, share.ScopeAll).object})
	})
	const file = "testdata/custodian.txt"
	if *updateVectors {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, old := strings.Split(out.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(old)) {
		if i >= len(got) || i >= len(old) || got[i] != old[i] {
			t.Fatalf("line %d differs:\n%s", i+1, got[min(i, len(got)-1)])
		}
	}
}

// FuzzAnswer: no body makes a custodian panic, and what it refuses writes
// nothing.
func FuzzAnswer(f *testing.F) {
	w := newHWorld(f, 3)
	d := w.deal(f, hSpec{gen: 1})
	c := w.cert(d, nil, 0, 1, 2)
	grave := w.tomb(f, 1, share.ScopeAll)
	f.Add(custody.VerbPrepare, key.Marshal(&custody.Prepare{Manifest: d.Bytes(), Row: d.rows[w.nodes[1].ID()], Payload: d.payload}))
	f.Add(custody.VerbCommit, key.Marshal(&custody.Commit{Manifest: d.Bytes(), Cert: c.bytes, Before: [][]byte{d.Bytes()}}))
	f.Add(custody.VerbDelete, key.Marshal(&custody.Delete{Tombstone: grave.object}))
	f.Add(custody.VerbLocate, key.Marshal(&custody.Locate{ID: w.id}))
	f.Add(custody.VerbList, key.Marshal(&custody.List{Limit: 1}))
	f.Add(custody.VerbRecover, key.Marshal(&custody.Recover{Request: d.Bytes(), Approvals: [][]byte{nil}}))
	f.Add(custody.VerbPass, key.Marshal(&custody.Pass{Items: []custody.PassItem{{ID: w.id}}}))
	m := newHMesh(f, 3, Limits{})
	f.Fuzz(func(t *testing.T, verb uint64, body []byte) {
		before := m.nodes[1].shelf.commits
		b, err := m.nodes[1].answer(context.Background(), w.nodes[0].ID(), verb, body)
		if err != nil && m.nodes[1].shelf.commits != before {
			t.Fatal("an error that wrote something")
		}
		if err == nil && len(b) == 0 {
			t.Fatal("an empty answer")
		}
	})
}
