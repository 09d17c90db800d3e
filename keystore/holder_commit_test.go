package keystore

import (
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// TestCommitCertificate: every way to be certified without being on w disks.
func TestCommitCertificate(t *testing.T) {
	w := newHWorld(t, 6)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two", seats: []int{0, 3, 4}})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	all := func() commitMsg { return w.cert(two, []*hDeal{one}, 0, 1, 2, 3, 4) }
	own := w.receipt(two, 0)
	for name, edit := range map[string]func(*commitMsg){
		"none":                       func(c *commitMsg) { c.cert.Prepared = nil },
		"no certificate":             func(c *commitMsg) { c.cert = nil },
		"one seat short":             func(c *commitMsg) { c.cert.Prepared = c.cert.Prepared[:4] },
		"one of prev short":          func(c *commitMsg) { c.cert.Prepared = append(c.cert.Prepared[:1], c.cert.Prepared[2:]...) },
		"one seat three times":       func(c *commitMsg) { c.cert.Prepared[3], c.cert.Prepared[4] = own, own },
		"receipts for another":       func(c *commitMsg) { c.cert.Prepared[4] = w.receipt(one, 4) },
		"the certificate of another": func(c *commitMsg) { c.cert.Manifest = one.Hash },
		"another kind of receipt": func(c *commitMsg) {
			c.cert.Prepared[4] = share.SignReceipt(w.nodes[4], w.net, key.TypeCommitted, share.Receipt{Manifest: two.Hash, X: 3})
		},
		"another seat's x": func(c *commitMsg) {
			c.cert.Prepared[4] = share.SignReceipt(w.nodes[4], w.net, key.TypePrepared, share.Receipt{Manifest: two.Hash, X: 2})
		},
		"x = 0 of a seat": func(c *commitMsg) {
			c.cert.Prepared[4] = share.SignReceipt(w.nodes[4], w.net, key.TypePrepared, share.Receipt{Manifest: two.Hash})
		},
		"a later epoch": func(c *commitMsg) {
			c.cert.Prepared[4] = share.SignReceipt(w.nodes[4], w.net, key.TypePrepared, share.Receipt{Manifest: two.Hash, X: 3, Epoch: 1})
		},
		"another network": func(c *commitMsg) {
			c.cert.Prepared[4] = share.SignReceipt(w.nodes[4], key.NetworkID{9}, key.TypePrepared, share.Receipt{Manifest: two.Hash, X: 3})
		},
		"signed by a node for another": func(c *commitMsg) {
			r := share.Receipt{Manifest: two.Hash, X: 3, Node: w.nodes[4].ID(), Time: hNow}
			c.cert.Prepared[4] = key.Sign(w.nodes[5], w.net, key.TypePrepared, key.Marshal(&r))
		},
		"a flipped signature": func(c *commitMsg) { c.cert.Prepared[4].Sig = flip(c.cert.Prepared[4].Sig) },
	} {
		c := all()
		edit(&c)
		r := s.commit(w.facts(0), c)
		if r.outcome != custody.Refused || r.sign != nil || r.next != nil {
			t.Errorf("%s: outcome %d (%s)", name, r.outcome, r.why)
		}
	}
	r := s.commit(w.facts(0), all())
	if !r.prevGone || !deleted(r, one) {
		t.Error("the row of generation 1 stays")
	}
	s = w.must(t, s, r)
	if s.committed.Hash != two.Hash || s.committed.x != 1 {
		t.Fatalf("committed %d", s.committed.Gen)
	}
}

// TestCommitRevoked: fewer seats of prev are needed when one of its holders is
// revoked, but never fewer than half and n-k+1.
func TestCommitRevoked(t *testing.T) {
	w := newHWorld(t, 10)
	one := w.deal(t, hSpec{gen: 1, k: 3, seats: []int{0, 1, 2, 3, 4}, tag: "one"})
	two := w.deal(t, hSpec{gen: 2, k: 3, prev: one, seats: []int{5, 6, 7, 8, 9}, tag: "two"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(5), func() prepareMsg {
		p := w.msg(two, 5)
		c := w.cert(one, nil, 0, 1, 2, 3).certificate
		p.prev = &c
		return p
	}()))
	three := w.cert(two, []*hDeal{one}, 0, 1, 2, 5, 6, 7, 8)
	refused(t, s.commit(w.facts(5), three), custody.Refused)
	f := w.facts(5)
	f.revoked = func(n key.NodeID) bool { return n == w.nodes[4].ID() }
	refused(t, s.commit(f, w.cert(two, []*hDeal{one}, 0, 1, 5, 6, 7, 8)), custody.Refused)
	w.must(t, s, s.commit(f, three))
}

// TestCommitOrder: committed never goes down, and the same again is the same.
func TestCommitOrder(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	c := w.cert(two, []*hDeal{one}, 0, 1, 2)
	s = w.must(t, s, s.commit(w.facts(0), c))
	again := s.commit(w.facts(0), c)
	if again.outcome != custody.OK || again.next != nil || again.sign == nil || !again.prevGone {
		t.Fatalf("again: %d %s", again.outcome, again.why)
	}
	refused(t, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)), custody.Conflict)
	// A certified fork of the same generation is not swallowed.
	fork := w.deal(t, hSpec{gen: 2, prev: one, tag: "fork"})
	refused(t, s.commit(w.facts(0), w.cert(fork, []*hDeal{one}, 0, 1, 2)), custody.Conflict)
}

// TestCommitLowerPending: a certificate for a higher generation whose row is
// not here does not keep a lower one with its row from being committed.
func TestCommitLowerPending(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	s = w.reload(t, s, s.commit(w.facts(0), w.cert(three, []*hDeal{two}, 0, 1, 2)))
	if s.floor.Gen != 3 || s.committed.Gen != 1 || len(s.pending) != 1 {
		t.Fatalf("floor %d, committed %d", s.floor.Gen, s.committed.Gen)
	}
	s = w.must(t, s, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)))
	if s.committed.Gen != 2 || s.floor.Gen != 3 || s.kept == nil {
		t.Fatalf("floor %d, committed %d", s.floor.Gen, s.committed.Gen)
	}
	// The reader is shown the highest, without a row.
	v := s.brief(s.rowState())
	if string(v.Manifest) != string(three.Bytes()) || v.Row != custody.RowNone {
		t.Fatal("a stale generation is shown as the latest")
	}
}

// TestCommitOldSeats: models/seats.pml. A seat of prev alone lets go of prev's
// row when the new generation is certified, keeps the floor and the certificate,
// on whose word the row is gone, and takes no successor of what is gone.
func TestCommitOldSeats(t *testing.T) {
	w := newHWorld(t, 7)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, seats: []int{3, 4, 5}, tag: "two"})
	c := w.cert(two, []*hDeal{one}, 0, 1, 2, 3, 4, 5)
	r := s.commit(w.facts(0), c)
	if !deleted(r, one) || !r.prevGone || r.sign == nil || r.sign.receipt.X != 0 {
		t.Fatalf("deleted %v, gone %v", deleted(r, one), r.prevGone)
	}
	s = w.must(t, s, r)
	if s.committed != nil || s.floor.Manifest != two.Hash {
		t.Fatalf("floor %d", s.floor.Gen)
	}
	if v := s.brief(s.rowState()); string(v.Cert) != string(c.bytes) || len(v.Before) != 1 || v.Row != custody.RowNone {
		t.Fatal("nobody may have the certificate any more")
	}
	if to := s.current().targets(w.nodes[0].ID()); len(to) != 5 {
		t.Fatalf("it is passed on to %d nodes", len(to))
	}
	refused(t, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 3, prev: one, tag: "three"}), 0)), custody.Refused)
	refused(t, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 3, tag: "three"}), 0)), custody.Conflict)
	// The same again is answered from the floor; the older one is refused.
	if r := s.commit(w.facts(0), c); r.outcome != custody.OK || r.next != nil {
		t.Fatalf("again: %d", r.outcome)
	}
	refused(t, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)), custody.Conflict)
	// A node that was never concerned does not remember anything.
	refused(t, w.fresh().commit(w.facts(6), c), custody.Refused)
	refused(t, s.prepare(w.facts(0), w.msg(two, 0)), custody.Conflict)
	// A successor of two finds this node a seat again.
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three"})
	w.must(t, s, s.prepare(w.facts(0), w.msg(three, 0)))
}

// TestCommitHistory: keep counts generations, not what happens to be here.
func TestCommitHistory(t *testing.T) {
	w := newHWorld(t, 3)
	keep := func(n uint8) func(*share.Manifest) { return func(m *share.Manifest) { m.Keep = n } }
	s, one := w.committed1(t, 0)
	step := func(d *hDeal, prev *hDeal) stepResult {
		t.Helper()
		s = w.must(t, s, s.prepare(w.facts(0), w.msg(d, 0)))
		r := s.commit(w.facts(0), w.cert(d, []*hDeal{prev}, 0, 1, 2))
		s = w.must(t, s, r)
		return r
	}
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two", edit: keep(2)})
	if r := step(two, one); deleted(r, one) || len(s.history) != 1 {
		t.Fatal("keep 2 did not keep generation 1")
	}
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three", edit: keep(2)})
	if r := step(three, two); deleted(r, one) || deleted(r, two) || len(s.history) != 2 {
		t.Fatal("keep 2 did not keep generations 1 and 2")
	}
	four := w.deal(t, hSpec{gen: 4, prev: three, tag: "four", edit: keep(2)})
	if r := step(four, three); !deleted(r, one) || deleted(r, two) || s.history[0].Gen != 3 {
		t.Fatal("keep 2 kept another number of generations")
	}
	// Generation 5 was missed: with keep 1, generation 4 is too old.
	five := w.deal(t, hSpec{gen: 5, prev: four, tag: "five"})
	six := w.deal(t, hSpec{gen: 6, prev: five, tag: "six", edit: keep(1)})
	p := w.msg(six, 0)
	c := w.cert(five, []*hDeal{four}, 0, 1, 2).certificate
	p.prev = &c
	s = w.must(t, s, s.prepare(w.facts(0), p))
	r := s.commit(w.facts(0), w.cert(six, []*hDeal{five}, 0, 1, 2))
	if !deleted(r, four) || !deleted(r, three) || !deleted(r, two) {
		t.Fatal("keep 1 kept a generation from before the one that was missed")
	}
	s = w.must(t, s, r)
	if len(s.history) != 0 {
		t.Fatalf("%d generations of history", len(s.history))
	}
}

// TestCommitKeptForLeavers: a holder without a seat keeps what keep covers.
func TestCommitKeptForLeavers(t *testing.T) {
	w := newHWorld(t, 6)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, seats: []int{3, 4, 5}, tag: "two", edit: func(m *share.Manifest) { m.Keep = 1 }})
	r := s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2, 3, 4, 5))
	s = w.must(t, s, r)
	if deleted(r, one) || len(s.history) != 1 || s.committed != nil {
		t.Fatal("history is gone")
	}
	// It goes with the next one, by its distance.
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three", edit: func(m *share.Manifest) { m.Keep = 1 }})
	p := w.msg(three, 0)
	c := w.cert(two, []*hDeal{one}, 0, 1, 2, 3, 4, 5).certificate
	p.prev = &c
	s = w.must(t, s, s.prepare(w.facts(0), p))
	r = s.commit(w.facts(0), w.cert(three, []*hDeal{two}, 0, 1, 2, 3, 4, 5))
	if !deleted(r, one) {
		t.Fatal("keep 1 kept the last but one")
	}
}

// TestDelete: a tombstone takes everything it covers and nothing comes back.
func TestDelete(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	grave := w.tomb(t, 2, share.ScopeAll)
	r := s.delete(w.facts(0), deleteMsg{tomb: grave})
	if !deleted(r, one) || !deleted(r, two) {
		t.Error("a row stays")
	}
	if r.sign == nil || r.sign.kind != key.TypeCommitted || r.sign.receipt.Manifest != grave.hash || r.sign.receipt.X != 1 {
		t.Fatalf("receipt %+v", r.sign)
	}
	s = w.must(t, s, r)
	again := s.delete(w.facts(0), deleteMsg{tomb: grave})
	if again.outcome != custody.OK || again.next != nil || again.sign.receipt.X != 1 {
		t.Fatalf("again: %d", again.outcome)
	}
	// Neither a late PREPARE nor a late COMMIT brings anything back.
	for _, d := range []*hDeal{one, two} {
		refused(t, s.prepare(w.facts(0), w.msg(d, 0)), custody.Conflict)
	}
	refused(t, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)), custody.Refused)
	refused(t, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)), custody.Refused)
	// Nor a certificate brought along.
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three"})
	p := w.msg(three, 0)
	c := w.cert(two, []*hDeal{one}, 0, 1, 2).certificate
	p.prev = &c
	refused(t, s.prepare(w.facts(0), p), custody.Conflict)
	// The name goes on above the tombstone, without prev.
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 3, tag: "new"}), 0)))
	// A lower tombstone changes nothing.
	low := s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 1, share.ScopeAll)})
	if low.outcome != custody.OK || low.next != nil {
		t.Fatalf("a lower tombstone: %d", low.outcome)
	}
}

// TestDeleteBeforePrepare: the tombstone overtakes the write.
func TestDeleteBeforePrepare(t *testing.T) {
	w := newHWorld(t, 3)
	s := w.must(t, w.fresh(), w.fresh().delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 4, share.ScopeAll)}))
	for gen := uint64(1); gen <= 4; gen++ {
		refused(t, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: gen}), 0)), custody.Conflict)
	}
	w.must(t, s, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 5}), 0)))
}

// TestPrepareBringsTombstone: a seat that missed the delete takes the first
// generation after it together with the tombstone, and lets the old row go.
func TestPrepareBringsTombstone(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	five := w.deal(t, hSpec{gen: 5, tag: "five"})
	r := s.prepare(w.facts(0), w.msg(five, 0))
	refused(t, r, custody.Conflict)
	if !r.needPrev {
		t.Fatal("the tombstone is not asked for")
	}
	p := w.msg(five, 0)
	p.tomb = w.tomb(t, 1, share.ScopeOne)
	refused(t, s.prepare(w.facts(0), p), custody.Conflict) // not "up to"
	p.tomb = w.tomb(t, 4, share.ScopeAll)
	p.tomb.ID = key.Hash{1} // of another secret
	refused(t, s.prepare(w.facts(0), p), custody.Conflict)
	p.tomb = w.tomb(t, 4, share.ScopeAll)
	r = s.prepare(w.facts(0), p)
	if !deleted(r, one) {
		t.Error("the old row stays")
	}
	s = w.must(t, s, r)
	if s.committed != nil || len(s.tombs) != 1 || len(s.pending) != 1 {
		t.Fatal("the tombstone was not taken")
	}
}

// TestDeleteOne: one generation goes; what was committed stays as a manifest
// without a row, so that the next generation is its successor.
func TestDeleteOne(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	r := s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 1, share.ScopeOne)})
	if !deleted(r, one) {
		t.Error("the row stays")
	}
	s = w.must(t, s, r)
	ask := w.request(t, w.owner, share.Request{Verb: share.VerbRecover})
	if e, outcome, why := s.release(w.facts(0), ask); e != nil || outcome != custody.Refused || why != "the generation is deleted" {
		t.Fatalf("released: %d %s", outcome, why)
	}
	refused(t, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 2, tag: "x"}), 0)), custody.Conflict)
	refused(t, s.prepare(w.facts(0), w.msg(one, 0)), custody.Conflict)
	refused(t, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)), custody.Refused)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	w.must(t, s, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)))
}

// TestDeleteHistory: the tombstone takes what was kept too.
func TestDeleteHistory(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two", edit: func(m *share.Manifest) { m.Keep = 1 }})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)))
	r := s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 1, share.ScopeOne)})
	if !deleted(r, one) || deleted(r, two) {
		t.Fatal("the wrong generation is deleted")
	}
	if s := w.must(t, s, r); len(s.history) != 0 || s.committed.Hash != two.Hash || !s.committed.row {
		t.Fatal("generation 1 is still here, or 2 is not")
	}
}

// TestPrepareMakesRoom: pendings that a higher certificate has overtaken make
// room, and no others.
func TestPrepareMakesRoom(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	var all []*hDeal
	for gen := uint64(2); gen <= 5; gen++ {
		d := w.deal(t, hSpec{gen: gen, prev: one, tag: "p", force: all})
		s = w.must(t, s, s.prepare(w.facts(0), w.msg(d, 0)))
		all = append(all, d)
	}
	// Generation 3 was certified on another line that this node has no row of.
	cert := w.deal(t, hSpec{gen: 3, prev: one, tag: "certified"})
	s = w.reload(t, s, s.commit(w.facts(0), w.cert(cert, []*hDeal{one}, 0, 1, 2)))
	six := w.deal(t, hSpec{gen: 6, prev: cert, tag: "six", force: all[2:]})
	r := s.prepare(w.facts(0), w.msg(six, 0))
	s = w.must(t, s, r)
	if !deleted(r, all[0]) || deleted(r, all[1]) || deleted(r, all[2]) || deleted(r, all[3]) || len(s.pending) != 4 {
		t.Fatalf("%d pendings", len(s.pending))
	}
}

func TestDeleteOneBound(t *testing.T) {
	w := newHWorld(t, 3)
	s, _ := w.committed1(t, 0)
	for gen := range uint64(maxTombs) {
		s = w.must(t, s, s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, gen+100, share.ScopeOne)}))
	}
	refused(t, s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 99, share.ScopeOne)}), custody.Refused)
	s = w.must(t, s, s.delete(w.facts(0), deleteMsg{tomb: w.tomb(t, 1000, share.ScopeAll)}))
	if len(s.tombs) != 1 {
		t.Fatalf("%d tombstones", len(s.tombs))
	}
}

// TestDeleteByRequest: without the owner's signature only the policy in force
// authorises a tombstone.
func TestDeleteByRequest(t *testing.T) {
	w := newHWorld(t, 3)
	pol := policy.Any(policy.Owner(), policy.All(policy.Key(w.other.Public()), policy.Key(hPerson(t, 3).Public())))
	one := w.deal(t, hSpec{gen: 1, pol: pol})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
	body := key.Marshal(&share.Tombstone{ID: w.id, Gen: 1, Scope: share.ScopeAll, Time: hNow, Owner: w.owner.Public(), Salt: w.salt})
	grave, err := newTomb(w.net, body)
	if err != nil {
		t.Fatal(err)
	}
	grave.body = body
	second := hPerson(t, 3).Public()
	for name, c := range map[string]*consent{
		"one of two":    w.request(t, w.other, share.Request{Verb: share.VerbDelete, Payload: body}),
		"another verb":  w.request(t, w.other, share.Request{Verb: share.VerbRecover, Payload: body}, second),
		"another grave": w.request(t, w.other, share.Request{Verb: share.VerbDelete, Payload: flip(body)}, second),
		"a stranger":    w.request(t, hPerson(t, 9), share.Request{Verb: share.VerbDelete, Payload: body}, second),
	} {
		if r := s.delete(w.facts(0), deleteMsg{tomb: grave, consent: c}); r.outcome != custody.Refused && r.outcome != custody.Denied || r.next != nil {
			t.Errorf("%s: outcome %d", name, r.outcome)
		}
	}
	c := w.request(t, w.other, share.Request{Verb: share.VerbDelete, Payload: body}, second)
	refused(t, w.fresh().delete(w.facts(0), deleteMsg{tomb: grave, consent: c}), custody.Denied)
	s = w.must(t, s, s.delete(w.facts(0), deleteMsg{tomb: grave, consent: c}))
	if s.committed == nil || s.committed.row || !s.empty() {
		t.Fatal("the row is still here, or nothing is left to judge the tombstone by")
	}
	// Its policy is what later holders, and those who brought the tombstone
	// again, judge it by; nothing else of it comes back.
	refused(t, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)), custody.Refused)
	refused(t, s.prepare(w.facts(0), w.msg(one, 0)), custody.Conflict)
	two := w.deal(t, hSpec{gen: 2, tag: "anew"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(two, nil, 0, 1, 2)))
	if s.committed.Hash != two.Hash || len(s.history) != 0 {
		t.Fatal("the name is not used again")
	}
}

// TestKeptIsJudgedToo: of a version whose row never came, the manifest stays
// hollow when a Request deletes it, and its row is not taken any more.
func TestKeptIsJudgedToo(t *testing.T) {
	w := newHWorld(t, 3)
	one := w.deal(t, hSpec{gen: 1})
	s := w.reload(t, w.fresh(), w.fresh().commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
	if s.kept == nil {
		t.Fatal("not kept")
	}
	body := key.Marshal(&share.Tombstone{ID: w.id, Gen: 1, Scope: share.ScopeAll, Time: hNow, Owner: w.owner.Public(), Salt: w.salt})
	grave, err := newTomb(w.net, body)
	if err != nil {
		t.Fatal(err)
	}
	grave.body = body
	c := w.request(t, w.owner, share.Request{Verb: share.VerbDelete, Payload: body})
	s = w.must(t, s, s.delete(w.facts(0), deleteMsg{tomb: grave, consent: c}))
	if s.kept != nil || s.committed == nil || s.committed.row {
		t.Fatal("the judged manifest does not stay hollow")
	}
	refused(t, s.prepare(w.facts(0), w.msg(one, 0)), custody.Conflict)
}

// TestPrepareBringsRequestedTombstone: a seat that missed a deletion by the
// policy takes it from the writer of the next first generation, and judges it.
func TestPrepareBringsRequestedTombstone(t *testing.T) {
	w := newHWorld(t, 3)
	pol := policy.Any(policy.Owner(), policy.Key(w.other.Public()))
	one := w.deal(t, hSpec{gen: 1, pol: pol})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
	body := key.Marshal(&share.Tombstone{ID: w.id, Gen: 1, Scope: share.ScopeAll, Time: hNow, Owner: w.owner.Public(), Salt: w.salt})
	grave, err := newTomb(w.net, body)
	if err != nil {
		t.Fatal(err)
	}
	grave.body = body
	two := w.deal(t, hSpec{gen: 2, tag: "anew", pol: pol})
	msg := w.msg(two, 0)
	if r := s.prepare(w.facts(0), msg); r.outcome != custody.Conflict || !r.needPrev {
		t.Fatalf("without it: %d %s", r.outcome, r.why)
	}
	msg.tomb = grave
	refused(t, s.prepare(w.facts(0), msg), custody.Conflict)
	msg.consent = w.request(t, hPerson(t, 9), share.Request{Verb: share.VerbDelete, Payload: body})
	refused(t, s.prepare(w.facts(0), msg), custody.Conflict)
	msg.consent = w.request(t, w.other, share.Request{Verb: share.VerbDelete, Payload: body})
	if s = w.must(t, s, s.prepare(w.facts(0), msg)); s.deletedUpTo() != 1 || len(s.pending) != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestExpire(t *testing.T) {
	w := newHWorld(t, 3)
	d := w.deal(t, hSpec{gen: 1, edit: func(m *share.Manifest) { m.Expires = hNow + 60 }})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(d, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(d, nil, 0, 1, 2)))
	f := w.facts(0)
	for now, want := range map[uint64]uint8{hNow + 59: custody.OK, hNow + 60: custody.Refused} {
		f.now = now
		if _, got, _ := s.release(f, w.request(t, w.owner, share.Request{Verb: share.VerbRecover})); got != want {
			t.Errorf("at %d: outcome %d", now-hNow, got)
		}
	}
	f.now = hNow + 60 + graceAfterExpiry - 1
	if r := s.expire(f); r.next != nil {
		t.Error("removed within the grace")
	}
	f.now++
	r := s.expire(f)
	if !deleted(r, d) {
		t.Error("the row stays")
	}
	s = w.must(t, s, r)
	if s.floor.Gen != 1 || s.committed == nil || s.committed.row {
		t.Error("what was there is forgotten")
	}
	f.now = 5
	if r := s.expire(f); r.next != nil {
		t.Error("a clock at the epoch removed something")
	}
}
