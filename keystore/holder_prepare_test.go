package keystore

import (
	"bytes"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// TestPrepareSame: the same manifest again gives the same receipt, byte for
// byte, whatever the clock says and after a restart, and writes nothing.
func TestPrepareSame(t *testing.T) {
	w := newHWorld(t, 3)
	d := w.deal(t, hSpec{gen: 1})
	first := w.fresh().prepare(w.facts(0), w.msg(d, 0))
	s := w.must(t, w.fresh(), first)
	later := w.facts(0)
	later.now += 3600
	again := s.prepare(later, w.msg(d, 0))
	if again.outcome != custody.OK || again.next != nil {
		t.Fatalf("again: %d %s", again.outcome, again.why)
	}
	sign := func(p *promise) []byte { return share.SignReceipt(w.nodes[0], w.net, p.kind, p.receipt).Encode() }
	if !bytes.Equal(sign(first.sign), sign(again.sign)) {
		t.Fatal("the receipt differs")
	}
	s = w.must(t, s, s.commit(w.facts(0), w.cert(d, nil, 0, 1, 2)))
	if r := s.prepare(later, w.msg(d, 0)); r.outcome != custody.OK || !bytes.Equal(sign(r.sign), sign(first.sign)) {
		t.Fatalf("after the commit: %d %s", r.outcome, r.why)
	}
}

// TestPrepareOneAGeneration: two receipts for one generation are two
// certificates (models/cas.pml, SAMEGEN).
func TestPrepareOneAGeneration(t *testing.T) {
	w := newHWorld(t, 3)
	a, b := w.deal(t, hSpec{gen: 1, tag: "a"}), w.deal(t, hSpec{gen: 1, tag: "b"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(a, 0)))
	refused(t, s.prepare(w.facts(0), w.msg(b, 0)), custody.Conflict)
	// Naming the other does not help in the same generation.
	c := w.deal(t, hSpec{gen: 1, tag: "c", force: []*hDeal{a}})
	refused(t, s.prepare(w.facts(0), w.msg(c, 0)), custody.Conflict)
	// Nor after that generation was committed.
	s = w.must(t, s, s.commit(w.facts(0), w.cert(a, nil, 0, 1, 2)))
	refused(t, s.prepare(w.facts(0), w.msg(b, 0)), custody.Conflict)
}

// TestPrepareOneSuccessor: two live successors of one generation are a lost
// update (models/cas.pml, CAS); force passes a lower one and only by name.
func TestPrepareOneSuccessor(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	three := w.deal(t, hSpec{gen: 3, prev: one, tag: "three"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	refused(t, s.prepare(w.facts(0), w.msg(three, 0)), custody.Conflict)
	stranger := w.deal(t, hSpec{gen: 9, prev: one, tag: "nine"})
	wrong := w.deal(t, hSpec{gen: 3, prev: one, tag: "three", force: []*hDeal{stranger}})
	refused(t, s.prepare(w.facts(0), w.msg(wrong, 0)), custody.Conflict)
	forced := w.deal(t, hSpec{gen: 5, prev: one, tag: "five", force: []*hDeal{two}})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(forced, 0)))
	if len(s.pending) != 2 {
		t.Fatalf("%d pendings: one was replaced", len(s.pending))
	}
	// A lower one does not slip in under a higher, not even by naming it.
	low := w.deal(t, hSpec{gen: 4, prev: one, tag: "four", force: []*hDeal{two, forced}})
	refused(t, s.prepare(w.facts(0), w.msg(low, 0)), custody.Conflict)
	// The names must be complete for this seat.
	part := w.deal(t, hSpec{gen: 6, prev: one, tag: "six", force: []*hDeal{forced}})
	refused(t, s.prepare(w.facts(0), w.msg(part, 0)), custody.Conflict)
}

// TestPrepareFirstPuts: two first puts of different generations are successors
// of the same nothing.
func TestPrepareFirstPuts(t *testing.T) {
	w := newHWorld(t, 3)
	a, b := w.deal(t, hSpec{gen: 1, tag: "a"}), w.deal(t, hSpec{gen: 7, tag: "b"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(a, 0)))
	refused(t, s.prepare(w.facts(0), w.msg(b, 0)), custody.Conflict)
}

func TestPrepareFifthPending(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	var force []*hDeal
	for gen := uint64(2); gen <= 5; gen++ {
		d := w.deal(t, hSpec{gen: gen, prev: one, tag: "p", force: force})
		s = w.must(t, s, s.prepare(w.facts(0), w.msg(d, 0)))
		force = append(force, d)
	}
	fifth := w.deal(t, hSpec{gen: 6, prev: one, tag: "p", force: force})
	r := s.prepare(w.facts(0), w.msg(fifth, 0))
	refused(t, r, custody.Conflict)
	sign := func(p *promise) key.Object { return share.SignReceipt(w.nodes[0], w.net, p.kind, p.receipt) }
	if v := s.view(custody.RowGood, sign); len(v.Pending) != 4 {
		t.Fatalf("the conflict shows %d pendings", len(v.Pending))
	}
	// One certificate makes room.
	s = w.must(t, s, s.commit(w.facts(0), w.cert(force[3], append(force[:3:3], one), 0, 1, 2)))
	if len(s.pending) != 0 {
		t.Fatalf("%d pendings after a commit above them", len(s.pending))
	}
}

// TestPrepareGeneration: at or below what is there, or absurdly far above.
func TestPrepareGeneration(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	refused(t, s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 1, tag: "again"}), 0)), custody.Conflict)
	far := w.deal(t, hSpec{gen: 2 + maxJump, prev: one, tag: "far"})
	refused(t, s.prepare(w.facts(0), w.msg(far, 0)), custody.Refused)
	edge := w.deal(t, hSpec{gen: 1 + maxJump, prev: one, tag: "edge"})
	w.must(t, s, s.prepare(w.facts(0), w.msg(edge, 0)))
	over := w.deal(t, hSpec{gen: ^uint64(0), prev: one, tag: "over"})
	refused(t, s.prepare(w.facts(0), w.msg(over, 0)), custody.Refused)
}

// TestPreparePrev: a successor of something else than what is there would skip
// or undo a generation.
func TestPreparePrev(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three"})

	r := s.prepare(w.facts(0), w.msg(w.deal(t, hSpec{gen: 2, tag: "no prev"}), 0))
	refused(t, r, custody.Conflict)
	r = s.prepare(w.facts(0), w.msg(three, 0))
	refused(t, r, custody.Refused)
	if !r.needPrev {
		t.Fatal("an unknown prev is not asked for")
	}
	// Brought along without enough receipts.
	p := w.msg(three, 0)
	short := w.cert(two, []*hDeal{one}, 0, 1).certificate
	p.prev = &short
	refused(t, s.prepare(w.facts(0), p), custody.Refused)
	// Of another manifest than the one named.
	wrong := w.cert(one, nil, 0, 1, 2).certificate
	p.prev = &wrong
	refused(t, s.prepare(w.facts(0), p), custody.Conflict)
	// With its certificate: then it is what is there, and kept.
	good := w.cert(two, []*hDeal{one}, 0, 1, 2).certificate
	p.prev = &good
	s = w.must(t, s, s.prepare(w.facts(0), p))
	if s.floor.Manifest != two.Hash || s.kept == nil || s.kept.Hash != two.Hash || s.committed.Hash != one.Hash {
		t.Fatalf("floor %d, kept %v", s.floor.Gen, s.kept)
	}
	// From now on successors of 1 are refused.
	old := w.deal(t, hSpec{gen: 4, prev: one, tag: "four", force: []*hDeal{three}})
	refused(t, s.prepare(w.facts(0), w.msg(old, 0)), custody.Conflict)
}

// TestPreparePrevCommits: the certificate brought along commits the row that is
// pending here.
func TestPreparePrevCommits(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	three := w.deal(t, hSpec{gen: 3, prev: two, tag: "three"})
	p := w.msg(three, 0)
	c := w.cert(two, []*hDeal{one}, 0, 1, 2).certificate
	p.prev = &c
	r := s.prepare(w.facts(0), p)
	if !deleted(r, one) {
		t.Error("the row of generation 1 stays")
	}
	s = w.must(t, s, r)
	if s.committed.Hash != two.Hash || len(s.pending) != 1 {
		t.Fatalf("committed %d, %d pendings", s.committed.Gen, len(s.pending))
	}
}

// TestPrepareSeat: every row, payload and seat that is not the manifest's.
func TestPrepareSeat(t *testing.T) {
	w := newHWorld(t, 5)
	one := w.deal(t, hSpec{gen: 1, tag: "one"})
	good := w.msg(one, 0)
	for name, edit := range map[string]func(*prepareMsg){
		"no row":             func(p *prepareMsg) { p.row = nil },
		"another seat's row": func(p *prepareMsg) { p.row = one.rows[w.nodes[1].ID()] },
		"a flipped bit":      func(p *prepareMsg) { p.row = flip(p.row) },
		"a longer row":       func(p *prepareMsg) { p.row = append(bytes.Clone(p.row), 0) },
		"no payload":         func(p *prepareMsg) { p.payload = nil },
		"a flipped payload":  func(p *prepareMsg) { p.payload = flip(p.payload) },
		"a longer payload":   func(p *prepareMsg) { p.payload = append(bytes.Clone(p.payload), 0) },
	} {
		p := good
		edit(&p)
		if r := w.fresh().prepare(w.facts(0), p); r.outcome != custody.Refused || r.sign != nil || r.next != nil {
			t.Errorf("%s: outcome %d", name, r.outcome)
		}
	}
	lied := w.deal(t, hSpec{gen: 1, tag: "one", edit: func(m *share.Manifest) { m.Length++ }})
	refused(t, w.fresh().prepare(w.facts(0), w.msg(lied, 0)), custody.Refused)
	// A node without a seat, now or before, takes nothing.
	refused(t, w.fresh().prepare(w.facts(4), w.msg(one, 4)), custody.Refused)
	stray := w.msg(one, 4)
	stray.row, stray.payload = one.rows[w.nodes[0].ID()], one.payload
	refused(t, w.fresh().prepare(w.facts(4), stray), custody.Refused)
}

func flip(b []byte) []byte {
	c := bytes.Clone(b)
	c[len(c)/2] ^= 1
	return c
}

// TestPreparePrevSeatOnly: a seat of prev alone promises with x = 0, keeps no
// row, and holds the promise against others like any seat.
func TestPreparePrevSeatOnly(t *testing.T) {
	w := newHWorld(t, 6)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, seats: []int{3, 4, 5}, tag: "two"})
	withRow := w.msg(two, 0)
	withRow.row = two.rows[w.nodes[3].ID()]
	refused(t, s.prepare(w.facts(0), withRow), custody.Refused)
	r := s.prepare(w.facts(0), w.msg(two, 0))
	s = w.must(t, s, r)
	if r.sign.receipt.X != 0 || len(r.writes) != 0 {
		t.Fatalf("x = %d, %d rows written", r.sign.receipt.X, len(r.writes))
	}
	three := w.deal(t, hSpec{gen: 3, prev: one, tag: "three"})
	refused(t, s.prepare(w.facts(0), w.msg(three, 0)), custody.Conflict)
}

// TestPrepareForcedSeat: the seats of what is named count as prev's.
func TestPrepareForcedSeat(t *testing.T) {
	w := newHWorld(t, 6)
	a := w.deal(t, hSpec{gen: 1, seats: []int{3, 4, 5}, tag: "a"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(3), w.msg(a, 3)))
	b := w.deal(t, hSpec{gen: 2, force: []*hDeal{a}, tag: "b"})
	r := s.prepare(w.facts(3), w.msg(b, 3))
	w.must(t, s, r)
	if r.sign.receipt.X != 0 {
		t.Fatalf("x = %d", r.sign.receipt.X)
	}
	// Without those seats there is no certificate.
	if err := share.VerifyCert(w.net, w.cert(b, []*hDeal{a}, 0, 1, 2).cert, b.SignedManifest, signedOf([]*version{a.version}), nil); err == nil {
		t.Fatal("certified without the seats of what was forced")
	}
	if err := share.VerifyCert(w.net, w.cert(b, nil, 0, 1, 2).cert, b.SignedManifest, nil, nil); err == nil {
		t.Fatal("certified by leaving out what was forced")
	}
}

// TestPreparePolicyChange: a stolen owner key under a policy without the owner
// must not simply put a policy that it likes better.
func TestPreparePolicyChange(t *testing.T) {
	w := newHWorld(t, 3)
	both := policy.All(policy.Owner(), policy.Key(w.other.Public()))
	one := w.deal(t, hSpec{gen: 1, pol: both, tag: "one"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
	same := w.deal(t, hSpec{gen: 2, prev: one, pol: both, tag: "same"})
	w.must(t, s, s.prepare(w.facts(0), w.msg(same, 0)))

	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	for name, c := range map[string]*consent{
		"none":                nil,
		"owner alone":         w.request(t, w.owner, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}),
		"for another":         w.request(t, w.owner, share.Request{Verb: share.VerbPolicy, Payload: one.Hash[:]}, w.other.Public()),
		"of another verb":     w.request(t, w.owner, share.Request{Verb: share.VerbRecover, Payload: two.Hash[:]}, w.other.Public()),
		"approver alone":      w.request(t, w.other, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}),
		"approver twice":      w.request(t, w.other, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}, w.other.Public()),
		"stranger for owner":  w.request(t, hPerson(t, 9), share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}, w.other.Public()),
		"of another secret":   {SignedRequest: share.SignRequest(w.owner, w.net, share.Request{ID: key.Hash{1}, Verb: share.VerbPolicy, Payload: two.Hash[:]}), approvers: approvedBy(w.other.Public())},
		"an empty payload":    w.request(t, w.owner, share.Request{Verb: share.VerbPolicy}, w.other.Public()),
		"a stranger approves": w.request(t, w.owner, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}, hPerson(t, 9).Public()),
	} {
		p := w.msg(two, 0)
		p.consent = c
		if r := s.prepare(w.facts(0), p); r.outcome != custody.Refused || r.next != nil {
			t.Errorf("%s: outcome %d", name, r.outcome)
		}
	}
	p := w.msg(two, 0)
	p.consent = w.request(t, w.owner, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]}, w.other.Public())
	w.must(t, s, s.prepare(w.facts(0), p))
}

func TestPrepareBadPolicy(t *testing.T) {
	w := newHWorld(t, 3)
	for name, pol := range map[string]*policy.Policy{
		"unsatisfiable": policy.KOf(2, policy.Owner(), policy.Owner()),
		"free for all":  policy.Any(policy.Owner(), policy.Operator()),
	} {
		d := w.deal(t, hSpec{gen: 1, pol: pol})
		if r := w.fresh().prepare(w.facts(0), w.msg(d, 0)); r.outcome != custody.Refused || r.next != nil {
			t.Errorf("%s: outcome %d", name, r.outcome)
		}
	}
	junk := w.deal(t, hSpec{gen: 1, edit: func(m *share.Manifest) { m.Policy = []byte{1} }})
	refused(t, w.fresh().prepare(w.facts(0), w.msg(junk, 0)), custody.Refused)
}

func TestPrepareFull(t *testing.T) {
	w := newHWorld(t, 3)
	d := w.deal(t, hSpec{gen: 1})
	f := w.facts(0)
	f.full = func(c demand) string {
		if n := c.bytes; n < int64(len(d.payload)) {
			t.Errorf("asked for %d bytes only", n)
		}
		return "full"
	}
	refused(t, w.fresh().prepare(f, w.msg(d, 0)), custody.Full)
}

func TestPrepareExpired(t *testing.T) {
	w := newHWorld(t, 3)
	d := w.deal(t, hSpec{gen: 1, edit: func(m *share.Manifest) { m.Created, m.Expires = hNow-9, hNow }})
	refused(t, w.fresh().prepare(w.facts(0), w.msg(d, 0)), custody.Refused)
}

// TestPrepareAfterCertificate: the certificate came first, the writer brings
// the row: this holder is whole then.
func TestPrepareAfterCertificate(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	r := s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2))
	if r.outcome != custody.Refused || r.sign != nil || r.prevGone {
		t.Fatalf("committed without the row: %d", r.outcome)
	}
	s = w.reload(t, s, r)
	bad := w.msg(two, 0)
	bad.row = flip(bad.row)
	refused(t, s.prepare(w.facts(0), bad), custody.Refused)
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	if s.committed.Hash != two.Hash || s.kept != nil || len(s.pending) != 0 {
		t.Fatalf("committed %d", s.committed.Gen)
	}
	if r := s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)); r.outcome != custody.OK || r.sign == nil {
		t.Fatalf("the COMMIT after it: %d", r.outcome)
	}
}

// TestPrepareHeals: a manifest that names both sides of a fork is taken at
// either, with the certificate of the other.
func TestPrepareHeals(t *testing.T) {
	w := newHWorld(t, 6)
	a := w.deal(t, hSpec{gen: 1, tag: "a"})
	b := w.deal(t, hSpec{gen: 1, tag: "b", seats: []int{3, 4, 5}})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(a, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(a, nil, 0, 1, 2)))
	heal := w.deal(t, hSpec{gen: 2, prev: b, force: []*hDeal{a}, tag: "heal"})
	refused(t, s.prepare(w.facts(0), w.msg(heal, 0)), custody.Refused)
	p := w.msg(heal, 0)
	bad := w.cert(b, nil, 3, 4).certificate
	p.prev = &bad
	refused(t, s.prepare(w.facts(0), p), custody.Refused)
	good := w.cert(b, nil, 3, 4, 5).certificate
	p.prev = &good
	s = w.must(t, s, s.prepare(w.facts(0), p))
	c := w.cert(heal, []*hDeal{a, b}, 0, 1, 2, 3, 4, 5)
	w.must(t, s, s.commit(w.facts(0), c))
	half := w.cert(heal, []*hDeal{a, b}, 0, 1, 2)
	refused(t, s.commit(w.facts(0), half), custody.Refused)
}

// TestPassedIsBrought: a seat only of what is passed, which never saw that or
// let go of it, asks for it, promises with x = 0, and keeps it with the promise:
// else the write could neither be stored nor settled.
func TestPassedIsBrought(t *testing.T) {
	w := newHWorld(t, 6)
	one := w.deal(t, hSpec{gen: 1, tag: "one"})
	passed := w.deal(t, hSpec{gen: 2, prev: one, tag: "two", seats: []int{2, 3, 4}})
	m := w.deal(t, hSpec{gen: 3, prev: one, tag: "three", force: []*hDeal{passed}})
	c := w.cert(one, nil, 0, 1, 2).certificate
	msg := w.msg(m, 4)
	msg.prev = &c
	r := w.fresh().prepare(w.facts(4), msg)
	refused(t, r, custody.Refused)
	if !r.needPrev {
		t.Fatal("what is passed is not asked for")
	}
	other := w.deal(t, hSpec{gen: 2, prev: one, tag: "other", seats: []int{2, 3, 4}})
	msg.forced = []*version{other.version}
	refused(t, w.fresh().prepare(w.facts(4), msg), custody.Refused) // the force does not name it
	msg.forced = []*version{passed.version}
	r = w.fresh().prepare(w.facts(5), msg)
	refused(t, r, custody.Refused) // no seat of it
	if r.needPrev {
		t.Fatal("asks again for what came along")
	}
	r = w.fresh().prepare(w.facts(4), msg)
	s := w.must(t, w.fresh(), r)
	if e := s.find(m.Hash); e == nil || e.x != 0 || r.sign.receipt.X != 0 || s.knownVersion(passed.Hash) == nil {
		t.Fatal("what is passed is forgotten")
	}
	refused(t, s.prepare(w.facts(4), w.msg(passed, 4)), custody.Conflict) // it is passed
	if p := newPoll(w.facts(4), m.version, []*version{one.version, s.knownVersion(passed.Hash)}); !p.whole {
		t.Fatal("nobody can tell whose receipts it needs")
	}

	// A seat that knows it keeps it, too, when it dies here.
	s = w.must(t, w.fresh(), w.fresh().prepare(w.facts(2), w.msg(one, 2)))
	s = w.must(t, s, s.commit(w.facts(2), w.cert(one, nil, 0, 1, 2)))
	s = w.must(t, s, s.prepare(w.facts(2), w.msg(passed, 2)))
	s = w.must(t, s, s.prepare(w.facts(2), w.msg(m, 2)))
	s = w.must(t, s, s.settleDead(w.facts(2), w.sPoll(passed, []*hDeal{one}, nil, nil, []int{3, 4})))
	if s.find(passed.Hash) != nil || s.knownVersion(passed.Hash) == nil {
		t.Fatal("what is passed is forgotten with its death")
	}
}
