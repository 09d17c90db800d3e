package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// TestCustodianReceiptAfterFsync: no receipt leaves before the records are
// durable, and none when they are not.
func TestCustodianReceiptAfterFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		d := m.deal(t, hSpec{gen: 1})
		gate := make(chan struct{})
		m.nodes[1].shelf.gate = gate
		done := make(chan *custody.PrepareReply, 1)
		go func() { done <- m.prepareAt(m.hWorld, 0, 1, d) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("answered before the fsync")
		default:
		}
		if len(m.nodes[1].shelf.recs) != 0 {
			t.Fatal("written before the fsync")
		}
		close(gate)
		if r := <-done; r.Outcome != custody.OK {
			t.Fatal(r.Why)
		}
	})
	for _, apply := range []bool{false, true} {
		m, one := stored1(t, nil)
		d := m.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
		m.nodes[1].shelf.fail = func([]share.Record) (bool, error) { return apply, errors.New("fake: fsync") }
		if r := m.prepareAt(m.hWorld, 0, 1, d); r.Outcome != custody.Failed || len(r.Receipt) != 0 {
			t.Fatalf("apply %v: outcome %d, receipt %d", apply, r.Outcome, len(r.Receipt))
		}
		// What is said afterwards is what is on the disk.
		var l custody.LocateReply
		m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: m.id, Query: m.query(m.owner, 1)}, &l)
		if got := len(l.State.Pending) == 1; l.Outcome != custody.OK || got != apply {
			t.Fatalf("apply %v: LOCATE says %d", apply, l.Outcome)
		}
	}
}

// TestCustodianImpatientCaller: a caller that goes away does not leave a step
// half done.
func TestCustodianImpatientCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		d := m.deal(t, hSpec{gen: 1})
		gate := make(chan struct{})
		m.nodes[1].shelf.gate = gate
		ctx, cancel := context.WithCancel(context.Background())
		q := key.Marshal(&custody.Prepare{Manifest: d.Bytes(), Row: d.rows[m.hWorld.nodes[1].ID()], Payload: d.payload})
		go func() { _, _ = m.nodes[1].answer(ctx, m.hWorld.nodes[0].ID(), custody.VerbPrepare, q) }()
		synctest.Wait()
		cancel()
		// Another step of the same secret waits for the first to end.
		fork := m.deal(t, hSpec{gen: 1, tag: "fork"})
		done := make(chan *custody.PrepareReply, 1)
		go func() { done <- m.prepareAt(m.hWorld, 0, 1, fork) }()
		synctest.Wait()
		close(gate)
		if r := <-done; r.Outcome != custody.Conflict {
			t.Fatalf("two manifests of one generation: outcome %d", r.Outcome)
		}
	})
}

// TestCustodianRestart: another process over the same shelf has the same
// promises, lists the same secrets and counts the same.
func TestCustodianRestart(t *testing.T) {
	m := newHMesh(t, 3, Limits{Secrets: 2})
	one := m.deal(t, hSpec{gen: 1})
	m.commitAll(m.put(m.hWorld, one, nil, 0, 1, 2), 0, 1, 2)
	two := m.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	first := m.prepareAt(m.hWorld, 0, 1, two)
	other := m.secret("other")
	m.prepareAt(other, 0, 1, other.deal(t, hSpec{gen: 1}))

	m.nodes[1] = m.start(1, m.nodes[1].shelf, Limits{Secrets: 2})
	if again := m.prepareAt(m.hWorld, 0, 1, two); again.Outcome != custody.OK || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Error("the receipt changed")
	}
	fork := m.deal(t, hSpec{gen: 2, prev: one, tag: "fork"})
	r := m.prepareAt(m.hWorld, 0, 1, fork)
	if r.Outcome != custody.Conflict || len(r.There.Pending) != 1 || !bytes.Equal(r.There.Pending[0].Receipt, first.Receipt) {
		t.Errorf("the promise is forgotten: %d", r.Outcome)
	}
	var l custody.ListReply
	m.ask(0, 1, custody.VerbList, &custody.List{Owner: m.owner.Public(), Limit: 9, Query: m.query(m.owner, 1)}, &l)
	if len(l.Items) != 1 {
		t.Errorf("%d secrets listed", len(l.Items))
	}
	third := m.secret("third")
	if r := m.prepareAt(third, 0, 1, third.deal(t, hSpec{gen: 1})); r.Outcome != custody.Full {
		t.Errorf("the quota is forgotten: %d", r.Outcome)
	}
}

// TestCustodianQuota: person keys are free, so space is the operator's, and
// below it the owner's.
func TestCustodianQuota(t *testing.T) {
	m := newHMesh(t, 3, Limits{Secrets: 3})
	put := func(from int, w *hWorld) uint8 {
		return m.prepareAt(w, from, 1, w.deal(t, hSpec{gen: 1})).Outcome
	}
	for i := range 3 {
		if got := put(0, m.ownedBy(hPerson(t, 100+i))); got != custody.OK {
			t.Fatalf("secret %d: %d", i, got)
		}
	}
	if got := put(0, m.ownedBy(hPerson(t, 200))); got != custody.Full {
		t.Fatalf("a fourth secret of one operator: %d", got)
	}
	if got := put(2, m.ownedBy(hPerson(t, 200))); got != custody.OK {
		t.Fatalf("the first secret of another operator: %d", got)
	}
	// A new generation of what is charged already is no new secret.
	w := m.ownedBy(hPerson(t, 100))
	one := w.deal(t, hSpec{gen: 1})
	m.commitAll(w.cert(one, nil, 0, 1, 2), 1)
	if r := m.prepareAt(w, 0, 1, w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})); r.Outcome != custody.OK {
		t.Fatalf("an update: %d %s", r.Outcome, r.Why)
	}
	// What is deleted makes room.
	grave := m.ownedBy(hPerson(t, 101)).tomb(t, 1, share.ScopeAll)
	var dr custody.DeleteReply
	m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: grave.object}, &dr)
	if got := put(0, m.ownedBy(hPerson(t, 201))); got != custody.OK {
		t.Fatalf("after a delete: %d", got)
	}
	if got := put(0, m.ownedBy(hPerson(t, 202))); got != custody.Full {
		t.Fatalf("one more: %d", got)
	}
}

func TestCustodianQuotaBytes(t *testing.T) {
	m := newHMesh(t, 3, Limits{Bytes: 4000})
	n := 0
	for i := range 20 {
		w := m.ownedBy(hPerson(t, 100+i))
		if m.prepareAt(w, 0, 1, w.deal(t, hSpec{gen: 1})).Outcome == custody.OK {
			n++
		}
	}
	if u := m.nodes[1].index.used[payer{operator: "op0"}]; n == 0 || n == 20 || u.bytes > 4000 || u.secrets != n {
		t.Fatalf("%d secrets of %+v", n, u)
	}
}

// TestCustodianQuotaTogether: steps side by side do not pass a limit together.
func TestCustodianQuotaTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{Secrets: 5})
		m.nodes[1].shelf.delay = time.Millisecond
		var mu sync.Mutex
		var g sync.WaitGroup
		n := 0
		for i := range 30 {
			w := m.ownedBy(hPerson(t, 100+i))
			d := w.deal(t, hSpec{gen: 1})
			g.Go(func() {
				if m.prepareAt(w, 0, 1, d).Outcome == custody.OK {
					mu.Lock()
					n++
					mu.Unlock()
				}
			})
		}
		g.Wait()
		if n != 5 {
			t.Fatalf("%d secrets within a limit of 5", n)
		}
	})
}

// TestCustodianRecordBound: tombstones stay for ever, but not without a bound.
func TestCustodianRecordBound(t *testing.T) {
	m := newHMesh(t, 3, Limits{Secrets: 2})
	got := map[uint8]int{}
	for i := range 25 {
		w := m.secret(fmt.Sprint("gone ", i))
		var r custody.DeleteReply
		m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: w.tomb(t, 1, share.ScopeAll).object}, &r)
		got[r.Outcome]++
	}
	if got[custody.OK] != 2*maxRecords || got[custody.Refused] != 25-2*maxRecords {
		t.Fatalf("outcomes %v", got)
	}
	// What is held can still be deleted.
	d := m.deal(t, hSpec{gen: 1})
	if r := m.prepareAt(m.hWorld, 2, 1, d); r.Outcome != custody.OK {
		t.Fatal(r.Why)
	}
	var r custody.DeleteReply
	m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: m.tomb(t, 1, share.ScopeAll).object}, &r)
	if r.Outcome != custody.OK {
		t.Fatalf("a delete of what is held: %d %s", r.Outcome, r.Why)
	}
}

// TestCustodianNoRoom: a full disk takes no rows; reads and deletes go on.
func TestCustodianNoRoom(t *testing.T) {
	m, d := stored1(t, nil)
	m.nodes[1].shelf.full = true
	two := m.deal(t, hSpec{gen: 2, prev: d, tag: "two"})
	if r := m.prepareAt(m.hWorld, 0, 1, two); r.Outcome != custody.Full || len(r.Receipt) != 0 {
		t.Fatalf("outcome %d", r.Outcome)
	}
	r, _ := m.requestNow(m.hWorld, m.owner, nil)
	if out, _ := m.recoverAt(1, r); out.Outcome != custody.OK {
		t.Fatalf("RECOVER: %d", out.Outcome)
	}
	var dr custody.DeleteReply
	m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: m.tomb(t, 1, share.ScopeAll).object}, &dr)
	if dr.Outcome != custody.OK || m.nodes[1].shelf.count(share.BucketRow) != 0 || m.nodes[1].shelf.count(share.BucketPayload) != 0 {
		t.Fatalf("DELETE: %d %s", dr.Outcome, dr.Why)
	}
}

// TestCustodianOutsider: a node that the roster does not know places nothing.
func TestCustodianOutsider(t *testing.T) {
	m := newHMesh(t, 3, Limits{})
	d := m.deal(t, hSpec{gen: 1})
	q := key.Marshal(&custody.Prepare{Manifest: d.Bytes(), Row: d.rows[m.hWorld.nodes[1].ID()], Payload: d.payload})
	b, err := m.nodes[1].answer(context.Background(), key.NodeID{66}, custody.VerbPrepare, q)
	var r custody.PrepareReply
	if err != nil || key.Unmarshal(b, &r) != nil || r.Outcome != custody.Refused {
		t.Fatal(r.Outcome, err)
	}
}

// TestCustodianForgedManifest: what the owner did not sign is not stored.
func TestCustodianForgedManifest(t *testing.T) {
	m := newHMesh(t, 3, Limits{})
	d := m.deal(t, hSpec{gen: 1})
	for name, o := range map[string]key.Object{
		"another person": key.Sign(hPerson(t, 66), m.net, key.TypeManifest, d.Object.Body),
		"a node":         key.Sign(m.hWorld.nodes[0], m.net, key.TypeManifest, d.Object.Body),
		"another net":    key.Sign(m.owner, key.NetworkID{9}, key.TypeManifest, d.Object.Body),
		"another type":   key.Sign(m.owner, m.net, key.TypeRequest, d.Object.Body),
		"no signature":   {Type: key.TypeManifest, Body: d.Object.Body, Key: d.Object.Key, Sig: make([]byte, key.SigSize)},
	} {
		q := &custody.Prepare{Manifest: o.Encode(), Row: d.rows[m.hWorld.nodes[1].ID()], Payload: d.payload}
		var r custody.PrepareReply
		if m.ask(0, 1, custody.VerbPrepare, q, &r); r.Outcome != custody.Refused || len(r.Receipt) != 0 {
			t.Errorf("%s: outcome %d", name, r.Outcome)
		}
	}
	// Nor is a manifest in the name of another's id.
	thief := hPerson(t, 66)
	if _, err := share.SignManifest(thief, m.net, d.Manifest); err == nil {
		t.Error("signed in another's name")
	}
	if len(m.nodes[1].shelf.recs) != 0 {
		t.Error("something was stored")
	}
}

// TestCustodianWhy: words for a peer are bounded and whole.
func TestCustodianWhy(t *testing.T) {
	for _, s := range []string{"", "short", string(bytes.Repeat([]byte("é"), 300)), string(bytes.Repeat([]byte{0xff}, 300))} {
		if b := bounded(s); len(b) > custody.MaxWhy || key.Decode(key.Encode(b), new(string)) != nil {
			t.Errorf("%q", b)
		}
	}
}

// run starts the background work of all nodes until the test's end.
func (m *hMesh) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	for _, n := range m.nodes {
		g.Go(func() { _ = n.run(ctx) })
	}
	t.Cleanup(func() { cancel(); g.Wait() })
}

// TestPassOn: W3. A seat that was away gets the certificate from the others,
// and takes the tombstone the same way; what all have costs one question a
// peer, not one a secret.
func TestPassOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		var last commitMsg
		var deals []*hDeal
		var worlds []*hWorld
		for i := range 20 {
			w := m.secret(fmt.Sprint("s", i))
			d := w.deal(t, hSpec{gen: 1})
			last = m.put(w, d, nil, 0, 1, 2)
			m.commitAll(last, 0, 1)
			if i > 0 {
				m.commitAll(last, 2)
			}
			worlds, deals = append(worlds, w), append(deals, d)
		}
		m.run(t)
		time.Sleep(time.Minute)
		if got := m.called(custody.VerbCommit); got < 1 || got > 2 {
			t.Errorf("%d COMMITs for one that was missing", got)
		}
		if got := m.called(custody.VerbPass); got > 3*2*2 {
			t.Errorf("%d questions in a minute for nothing new", got)
		}
		if s, err := m.nodes[2].peek(context.Background(), worlds[0].id); err != nil || s.committed == nil || s.committed.Hash != deals[0].Hash {
			t.Fatal("the seat that was away has no certificate")
		}
		p := m.nodes[0].passing
		p.mu.Lock()
		if n := len(p.items); n != 0 {
			t.Errorf("%d still to be passed on", n)
		}
		p.mu.Unlock()
		m.setDown(2, true)
		var dr custody.DeleteReply
		m.ask(0, 0, custody.VerbDelete, &custody.Delete{Tombstone: worlds[5].tomb(t, 1, share.ScopeAll).object}, &dr)
		time.Sleep(time.Minute)
		if m.vain != 0 {
			t.Errorf("%d calls to a node that is down", m.vain)
		}
		if s, _ := m.nodes[1].peek(context.Background(), worlds[5].id); s.committed != nil || len(s.tombs) != 1 {
			t.Error("the tombstone was not passed on")
		}
		m.setDown(2, false)
		time.Sleep(time.Minute)
		if s, _ := m.nodes[2].peek(context.Background(), worlds[5].id); s.committed != nil || len(s.tombs) != 1 {
			t.Error("the tombstone was not passed on to the node that was down")
		}
	})
}

// TestPassingDue: not before the writer had its time, and not to the revoked.
func TestPassingDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPassing(), passKey{id: key.Hash{1}}
		a, b := key.NodeID{1}, key.NodeID{2}
		p.put(k, key.Hash{9}, []key.NodeID{a, b})
		nobody := func(key.NodeID) bool { return false }
		if len(p.due(nobody)) != 0 {
			t.Error("due at once")
		}
		time.Sleep(passAge)
		if len(p.due(nobody)) != 2 {
			t.Error("not due")
		}
		p.answered(k, key.Hash{8}, a) // an answer to something older
		if due := p.due(func(n key.NodeID) bool { return n == b }); len(due) != 1 || len(due[a]) != 1 {
			t.Errorf("due %v", due)
		}
		p.answered(k, key.Hash{9}, a)
		if len(p.due(nobody)) != 0 || len(p.items) != 0 {
			t.Error("still due")
		}
	})
}

// TestPassOnAfterRestart: what was not passed on before the crash is passed on
// after it.
func TestPassOnAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		d := m.deal(t, hSpec{gen: 1})
		m.commitAll(m.put(m.hWorld, d, nil, 0, 1, 2), 0)
		w := m.secret("gone")
		gone := w.deal(t, hSpec{gen: 1})
		m.commitAll(m.put(w, gone, nil, 0, 1, 2), 0, 1, 2)
		var dr custody.DeleteReply
		m.ask(0, 0, custody.VerbDelete, &custody.Delete{Tombstone: w.tomb(t, 1, share.ScopeAll).object}, &dr)
		m.nodes[0] = m.start(0, m.nodes[0].shelf, Limits{})
		m.run(t)
		time.Sleep(time.Minute)
		for i := 1; i < 3; i++ {
			if s, _ := m.nodes[i].peek(context.Background(), m.id); s.committed == nil {
				t.Errorf("no certificate at %d", i)
			}
			if s, _ := m.nodes[i].peek(context.Background(), w.id); s.committed != nil {
				t.Errorf("no tombstone at %d", i)
			}
		}
	})
}

// TestSweep: expired rows go by themselves, later than the refusal.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newHMesh(t, 3, Limits{})
		now := uint64(time.Now().Unix())
		d := m.deal(t, hSpec{gen: 1, pol: policy.Owner(), edit: func(s *share.Manifest) { s.Created, s.Expires = now, now+60 }})
		m.commitAll(m.put(m.hWorld, d, nil, 0, 1, 2), 0, 1, 2)
		m.run(t)
		time.Sleep(time.Hour)
		r, _ := m.requestNow(m.hWorld, m.owner, nil)
		if out, _ := m.recoverAt(1, r); out.Outcome != custody.Refused {
			t.Errorf("released after it expired: %d", out.Outcome)
		}
		if m.nodes[1].shelf.count(share.BucketRow) != 1 {
			t.Error("removed within the grace")
		}
		time.Sleep(24 * time.Hour)
		if m.nodes[1].shelf.count(share.BucketRow) != 0 || m.nodes[1].shelf.count(share.BucketPayload) != 0 {
			t.Error("the row is still here a day later")
		}
	})
}
