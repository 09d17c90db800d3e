package keystore

import (
	"context"
	"fmt"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// invented is a certified manifest of a secret that nobody prepared, on seats
// of nodes that were made up, and one here.
func (m *hMesh) invented(t testing.TB, i int, victim key.NodeID) *custody.Commit {
	t.Helper()
	w := m.ownedBy(hPerson(t, 2000+i))
	var fakes []key.NodePrivate
	d := w.deal(t, hSpec{gen: 1, seats: []int{0, 1, 0}, k: 2, w: 2, edit: func(mf *share.Manifest) {
		mf.Seats = mf.Seats[:0]
		for x := range uint8(2) {
			fakes = append(fakes, key.GenerateNode())
			mf.Seats = append(mf.Seats, share.Seat{X: x + 1, Node: fakes[x].ID()})
		}
		mf.Seats = append(mf.Seats, share.Seat{X: 3, Node: victim})
	}})
	cert := &share.CommitCert{Manifest: d.Hash}
	for x, f := range fakes {
		cert.Prepared = append(cert.Prepared, share.SignReceipt(f, m.net, key.TypePrepared, share.Receipt{Manifest: d.Hash, X: uint8(x + 1), Time: 1}))
	}
	return &custody.Commit{Manifest: d.Bytes(), Cert: cert.Encode()}
}

// TestInventedCertificatesAreNotKept: keys are free, so certificates of nodes
// that nobody admitted make nobody remember anything, whoever sends them.
func TestInventedCertificatesAreNotKept(t *testing.T) {
	m := newHMesh(t, 3, Limits{})
	v := m.nodes[1]
	for i := range 10 {
		for _, from := range []key.NodeID{key.GenerateNode().ID(), m.hWorld.nodes[0].ID()} {
			if _, err := v.answer(context.Background(), from, custody.VerbCommit, key.Marshal(m.invented(t, i, v.self))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(v.shelf.dump()); n != 0 || len(v.passing.items) != 0 {
		t.Errorf("%d records, %d to be passed on", n, len(v.passing.items))
	}
}

// TestCommitKeepsToTheQuota: a certificate of what was not prepared here takes
// room like anything else.
func TestCommitKeepsToTheQuota(t *testing.T) {
	m := newHMesh(t, 3, Limits{Secrets: 2})
	commit := func(from, owner int, secret string) uint8 {
		w := m.ownedBy(hPerson(t, 100+owner)).secret(secret)
		return m.commitAt(from, 1, w.cert(w.deal(t, hSpec{gen: 1}), nil, 0, 1, 2)).Outcome
	}
	for i := range 2 {
		if got := commit(0, 0, fmt.Sprint(i)); got != custody.Refused { // kept, without its row
			t.Fatalf("certificate %d: %d", i, got)
		}
	}
	if got := commit(0, 0, "third"); got != custody.Full {
		t.Errorf("a third certificate of one owner: %d", got)
	}
	for i := 2; i < passedShare*2; i++ {
		if got := commit(i%3, i, "x"); got != custody.Refused {
			t.Fatalf("certificate %d: %d", i, got)
		}
	}
	if got := commit(2, 99, "x"); got != custody.Full {
		t.Errorf("one more than the pool takes: %d", got)
	}
	for i := range 3 {
		if u := m.nodes[1].index.used[payer{operator: fmt.Sprint("op", i)}]; u != (usage{}) {
			t.Errorf("op%d pays %+v for what it passed on", i, u)
		}
	}
	m.nodes[2].shelf.full = true
	w := m.ownedBy(hPerson(t, 100))
	if r := m.commitAt(0, 2, w.cert(w.deal(t, hSpec{gen: 1}), nil, 0, 1, 2)); r.Outcome != custody.Full {
		t.Errorf("on a full disk: %d", r.Outcome)
	}
}

// TestTombstonesAreCharged: they stay for ever, so their bytes count, and
// padded ones are not taken.
func TestTombstonesAreCharged(t *testing.T) {
	m := newHMesh(t, 2, Limits{Bytes: 4096})
	ok := 0
	for i := range 50 {
		var r custody.DeleteReply
		m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: m.ownedBy(hPerson(t, 100+i)).tomb(t, 1, share.ScopeAll).object}, &r)
		ok += btoi(r.Outcome == custody.OK)
	}
	if u := m.nodes[1].index.used[payer{operator: "op0"}]; ok == 0 || ok == 50 || u.bytes > 4096 || u.bytes < 2048 || u.records != ok {
		t.Errorf("%d tombstones taken, charged %+v", ok, u)
	}
}

// TestDeleteTellsAStrangerNothing: a request by nobody concerned is denied in
// the same words whether the secret is here or not.
func TestDeleteTellsAStrangerNothing(t *testing.T) {
	m := newHMesh(t, 3, Limits{})
	d := m.deal(t, hSpec{gen: 1})
	m.commitAll(m.put(m.hWorld, d, nil, 0, 1, 2), 0, 1, 2)
	ask := func(w *hWorld) custody.DeleteReply {
		body := key.Marshal(&share.Tombstone{ID: w.id, Gen: 1, Scope: share.ScopeAll, Time: unix(), Owner: w.owner.Public(), Salt: w.salt})
		req := share.SignRequest(hPerson(t, 99), m.net, share.Request{ID: w.id, Verb: share.VerbDelete, Payload: body, Created: unix(), Expires: unix() + 600})
		var r custody.DeleteReply
		m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: body, Request: req.Object.Encode()}, &r)
		return r
	}
	known, unknown := ask(m.hWorld), ask(m.secret("unknown"))
	if known.Outcome != custody.Denied || known.Outcome != unknown.Outcome || known.Why != unknown.Why {
		t.Errorf("known %d %q, unknown %d %q", known.Outcome, known.Why, unknown.Outcome, unknown.Why)
	}
}
