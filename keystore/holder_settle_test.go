package keystore

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// sPoll is what these nodes say of d; no node may be named twice.
func (w *hWorld) sPoll(d *hDeal, before []*hDeal, prepared, none, refused []int) *poll {
	var vs []*version
	for _, b := range before {
		vs = append(vs, b.version)
	}
	p := newPoll(w.facts(0), d.version, vs)
	for _, n := range prepared {
		p.prepared[w.nodes[n].ID()] = w.receipt(d, n)
	}
	for _, n := range none {
		p.none[w.nodes[n].ID()] = true
	}
	for _, n := range refused {
		p.refused[w.nodes[n].ID()] = key.Object{}
	}
	return p
}

// sWorld is a 3-of-5 with generation 1 committed at a node, and two successors.
func sWorld(t *testing.T, node int) (w *hWorld, s *secretState, one, two, three *hDeal) {
	t.Helper()
	w = newHWorld(t, 9)
	all := []int{0, 1, 2, 3, 4}
	one = w.deal(t, hSpec{gen: 1, k: 3, seats: all, tag: "one"})
	two = w.deal(t, hSpec{gen: 2, k: 3, seats: all, tag: "two", prev: one})
	three = w.deal(t, hSpec{gen: 3, k: 3, seats: all, tag: "three", prev: one})
	s = w.must(t, w.fresh(), w.fresh().prepare(w.facts(node), w.msg(one, node)))
	s = w.must(t, s, s.commit(w.facts(node), w.cert(one, nil, 0, 1, 2, 3)))
	return w, s, one, two, three
}

func (w *hWorld) asked(d *hDeal, before ...*hDeal) settleMsg {
	q := settleMsg{m: d.version, ripe: true}
	for _, b := range before {
		q.before = append(q.before, b.version)
	}
	return q
}

// TestThresholds: in every group of every shape either so many may be without a
// promise that it is dead, or so many promised that it can be completed: never
// both, and always one once all have spoken. What is dead has n-w+1 honest
// refusals even if f of them lie, also after a holder of prev is revoked and
// nobody lies; what is completed has k rows.
func TestThresholds(t *testing.T) {
	w := newHWorld(t, share.MaxSeats)
	for n := 2; n <= 12; n++ {
		for k := 2; k <= n; k++ {
			for q := share.MinW(n, k); q <= n; q++ {
				seats := make([]int, n)
				for i := range seats {
					seats[i] = i
				}
				d := w.deal(t, hSpec{gen: 1, k: uint8(k), w: uint8(q), seats: seats})
				next := w.deal(t, hSpec{gen: 2, k: uint8(k), w: uint8(q), seats: seats, prev: d})
				p := newPoll(w.facts(0), next.version, []*version{d.version})
				for i, g := range p.groups {
					f := q - k
					least := g.need
					if i > 0 {
						least = share.PrevNeed(&d.Manifest, func(key.NodeID) bool { return true })
					}
					if g.some+g.dead != n+1 || g.dead > n || g.some < 1 || g.some > g.need {
						t.Errorf("%d of %d, w %d, group %d: %+v", k, n, q, i, g)
					}
					if n-(g.dead-f) >= g.need || n-g.dead >= least {
						t.Errorf("%d of %d, w %d, group %d: %d refusals are not death: %d", k, n, q, i, g.dead, least)
					}
					if i == 0 && g.some != k {
						t.Errorf("%d of %d: completed with %d rows", k, n, g.some)
					}
				}
			}
		}
	}
}

// TestNoneIsKept: who said none takes the manifest from its writer never more,
// also after a restart, and by repair only when so many have promised it that
// it cannot be dead any more.
func TestNoneIsKept(t *testing.T) {
	w, s, one, two, _ := sWorld(t, 4)
	f := w.facts(4)
	early := w.asked(two, one)
	early.ripe = false
	refused(t, s.settleWord(f, early), custody.Wait)
	r := s.settleWord(f, w.asked(two, one))
	if r.word != custody.WordNone || r.next == nil || r.sign != nil {
		t.Fatalf("%+v", r)
	}
	s = w.must(t, s, r)
	if r := s.settleWord(f, w.asked(two, one)); r.word != custody.WordNone || r.next != nil {
		t.Error("said once more, and written once more")
	}
	refused(t, s.prepare(f, w.msg(two, 4)), custody.Wait)
	few := w.sPoll(two, []*hDeal{one}, []int{0, 1}, []int{4}, nil)
	refused(t, s.settlePromise(f, w.msg(two, 4), few), custody.Refused)
	unknown := w.sPoll(two, nil, []int{0, 1, 2, 3}, []int{4}, nil)
	refused(t, s.settlePromise(f, w.msg(two, 4), unknown), custody.Refused)
	enough := w.sPoll(two, []*hDeal{one}, []int{0, 1, 2}, []int{4}, nil)
	refused(t, w.fresh().settlePromise(f, w.msg(two, 4), enough), custody.Refused)
	wrong := w.msg(two, 4)
	wrong.row = flip(wrong.row)
	refused(t, s.settlePromise(f, wrong, enough), custody.Refused)
	r = s.settlePromise(f, w.msg(two, 4), enough)
	s = w.must(t, s, r)
	if r.sign == nil || len(s.pending) != 1 || s.markOf(two.Hash) != nil {
		t.Fatalf("%+v", s)
	}
	if r := s.settleWord(f, w.asked(two, one)); r.word != custody.WordPrepared || r.sign == nil {
		t.Errorf("%+v", r)
	}
}

// TestRefusedIsForEver: signed only when n-k+1 have promised nothing, by a seat
// that has not either, and then nothing makes it promise.
func TestRefusedIsForEver(t *testing.T) {
	w, s, one, two, _ := sWorld(t, 4)
	f := w.facts(4)
	hopeless := w.sPoll(two, []*hDeal{one}, []int{0}, []int{2, 3, 4}, nil)
	refused(t, s.settleRefuse(f, hopeless), custody.Refused) // it never said none itself
	s = w.must(t, s, s.settleWord(f, w.asked(two, one)))
	refused(t, s.settleRefuse(f, w.sPoll(two, []*hDeal{one}, []int{0, 1}, []int{3, 4}, nil)), custody.Refused)
	refused(t, s.settleRefuse(f, w.sPoll(two, []*hDeal{one}, nil, []int{4, 5, 6, 7}, []int{8})), custody.Refused)
	r := s.settleRefuse(f, hopeless)
	if r.sign == nil || r.sign.kind != key.TypeRefused || r.sign.receipt.X != two.SeatOf(f.self).X {
		t.Fatalf("%+v", r)
	}
	first := key.Marshal(&r.sign.receipt)
	s = w.must(t, s, r)
	f.now += 1000
	for what, r := range map[string]stepResult{
		"asked":      s.settleWord(f, w.asked(two, one)),
		"its writer": s.prepare(f, w.msg(two, 4)),
		"again":      s.settleRefuse(f, hopeless),
	} {
		if r.sign == nil || !bytes.Equal(key.Marshal(&r.sign.receipt), first) || r.next != nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	refused(t, s.settlePromise(f, w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1, 2, 3}, nil, nil)), custody.Refused)
	// A seat that promised says so, whatever the others say.
	_, s, _, _, _ = sWorld(t, 0)
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	refused(t, s.settleRefuse(w.facts(0), hopeless), custody.Refused)
}

// TestDeadLetsGo: n-w+1 refusals, of which f may be lies, let go of nothing;
// n-w+1+f do: the row goes, and the hold on what is before it.
func TestDeadLetsGo(t *testing.T) {
	w, s, one, two, three := sWorld(t, 0)
	f := w.facts(0)
	s = w.must(t, s, s.prepare(f, w.msg(two, 0)))
	refused(t, s.prepare(f, w.msg(three, 0)), custody.Conflict)
	refused(t, s.settleDead(f, w.sPoll(two, []*hDeal{one}, []int{0}, []int{1}, []int{3, 4})), custody.Refused)
	refused(t, s.settleDead(f, w.sPoll(two, []*hDeal{one}, nil, []int{1, 2, 3, 4}, nil)), custody.Refused)
	refused(t, s.settleDead(f, w.sPoll(two, []*hDeal{one}, nil, nil, []int{4, 5, 6, 7, 8})), custody.Refused)
	r := s.settleDead(f, w.sPoll(two, []*hDeal{one}, nil, nil, []int{2, 3, 4}))
	if !deleted(r, two) {
		t.Fatal("the row stays")
	}
	s = w.must(t, s, r)
	if len(s.pending) != 0 {
		t.Fatal("the promise stays")
	}
	if r := s.settleWord(f, w.asked(two, one)); r.word != custody.WordDead || r.sign != nil {
		t.Errorf("%+v", r) // it must not sign that it never promised
	}
	if r := s.settleRefuse(f, w.sPoll(two, []*hDeal{one}, nil, nil, []int{2, 3, 4})); r.sign != nil || r.next != nil {
		t.Errorf("it signs that it never promised what it did: %+v", r)
	}
	refused(t, s.prepare(f, w.msg(two, 0)), custody.Refused)
	s = w.must(t, s, s.prepare(f, w.msg(three, 0)))
	if len(s.pending) != 1 || s.pending[0].Hash != three.Hash {
		t.Fatal("the other successor is not promised")
	}
}

// TestDeadBySeatsBefore: what moves to other seats dies also by those before it.
func TestDeadBySeatsBefore(t *testing.T) {
	w := newHWorld(t, 9)
	one := w.deal(t, hSpec{gen: 1, k: 3, seats: []int{0, 1, 2, 3, 4}, tag: "one"})
	two := w.deal(t, hSpec{gen: 2, k: 3, seats: []int{4, 5, 6, 7, 8}, tag: "two", prev: one})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2, 3)))
	s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
	refused(t, s.settleDead(w.facts(0), w.sPoll(two, []*hDeal{one}, nil, nil, []int{1, 2, 8})), custody.Refused)
	refused(t, s.settleDead(w.facts(0), w.sPoll(two, nil, nil, nil, []int{1, 2, 3})), custody.Refused)
	p := w.sPoll(two, []*hDeal{one}, []int{0, 5, 6, 7, 8}, []int{1, 2, 3}, nil)
	if p.completable() || p.certifiable() || !p.hopeless() {
		t.Error("completed without the seats before it")
	}
	s = w.must(t, s, s.settleDead(w.facts(0), w.sPoll(two, []*hDeal{one}, nil, nil, []int{1, 2, 3})))
	if len(s.pending) != 0 || s.committed == nil || !s.committed.row {
		t.Fatal("it stays, or what was before it goes")
	}
}

// TestExcluded: a certificate of another successor of the same prev is death
// too, unless one of the two names the other.
func TestExcluded(t *testing.T) {
	for name, c := range map[string]struct{ forces, dead bool }{"apart": {false, true}, "forced": {true, false}} {
		t.Run(name, func(t *testing.T) {
			w, s, one, two, _ := sWorld(t, 0)
			spec := hSpec{gen: 9, k: 3, seats: []int{0, 1, 2, 3, 4}, tag: "nine", prev: one}
			if c.forces {
				spec.force = []*hDeal{two}
			}
			nine := w.deal(t, spec)
			msg := w.msg(nine, 0)
			if c.forces {
				s = w.must(t, s, s.prepare(w.facts(0), w.msg(two, 0)))
			}
			s = w.must(t, s, s.prepare(w.facts(0), msg))
			// Two is certified at a seat that had no part in it.
			if r := s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2, 3)); r.outcome != custody.OK && r.next == nil {
				t.Fatalf("%+v", r)
			} else {
				s = w.reload(t, s, r)
			}
			r := s.settleDead(w.facts(0), w.sPoll(nine, []*hDeal{one, two}, []int{0}, nil, nil))
			if (r.next != nil) != c.dead {
				t.Fatalf("dead %v: %s", r.next != nil, r.why)
			}
		})
	}
}

// TestMarks: bounded; a Refused is not forgotten for others; what a higher
// certificate overtakes is.
func TestMarks(t *testing.T) {
	w, s, one, two, _ := sWorld(t, 4)
	f := w.facts(4)
	s = w.must(t, s, s.settleWord(f, w.asked(two, one)))
	s = w.must(t, s, s.settleRefuse(f, w.sPoll(two, []*hDeal{one}, nil, []int{2, 3, 4}, nil)))
	for i := range 2 * maxMarks {
		d := w.deal(t, hSpec{gen: 3, k: 3, seats: []int{0, 1, 2, 3, 4}, tag: fmt.Sprint("other", i), prev: one})
		s = w.must(t, s, s.settleWord(f, w.asked(d, one)))
	}
	if len(s.marks) != maxMarks || s.markOf(two.Hash) == nil {
		t.Fatalf("%d marks", len(s.marks))
	}
	if r := s.prepare(f, w.msg(two, 4)); r.outcome != custody.Refused || r.sign == nil {
		t.Errorf("%+v", r)
	}
	high := w.deal(t, hSpec{gen: 4, k: 3, seats: []int{0, 1, 2, 3, 4}, tag: "high", prev: one})
	s = w.must(t, s, s.prepare(f, w.msg(high, 4)))
	s = w.must(t, s, s.commit(f, w.cert(high, []*hDeal{one}, 0, 1, 2, 3)))
	if len(s.marks) != 0 {
		t.Error("marks of what is overtaken stay")
	}
	if r := s.settleWord(f, w.asked(two, one)); r.outcome != custody.Conflict || r.next != nil {
		t.Errorf("%+v", r)
	}
}

// TestSettleStrangers: who has no seat says nothing and keeps nothing; a node
// that nobody admitted makes no record.
func TestSettleStrangers(t *testing.T) {
	w, _, one, two, _ := sWorld(t, 0)
	refused(t, w.fresh().settleWord(w.facts(7), w.asked(two, one)), custody.Refused)
	outside := w.facts(1)
	outside.operator = ""
	refused(t, w.fresh().settleWord(outside, w.asked(two, one)), custody.Refused)
	early := w.asked(two, one)
	early.ripe = false
	for _, q := range []settleMsg{early, w.asked(two, one)} { // nor is it remembered
		refused(t, w.fresh().settleWord(w.facts(1), q), custody.Refused)
	}
	shown := w.asked(two, one)
	shown.shown = promiser{true, "other"}
	full := w.facts(1)
	full.full = func(d demand) string { return d.operator }
	if r := w.fresh().settleWord(full, shown); r.outcome != custody.Full || r.why != poolSettling+"other" {
		t.Errorf("%+v", r)
	}
	s := w.must(t, w.fresh(), w.fresh().settleWord(w.facts(1), shown))
	if len(s.marks) != 1 || s.owner != w.owner.Public() || s.operator != poolSettling+"other" {
		t.Errorf("%+v", s)
	}
	// What was said opens no way in for a certificate of nodes nobody admitted.
	forged := w.cert(two, []*hDeal{one}, 0, 1, 2, 3)
	strange := w.facts(1)
	strange.member = func(key.NodeID) bool { return false }
	refused(t, s.commit(strange, forged), custody.Refused)
	strange.member, strange.full = nil, func(demand) string { return "no room" }
	refused(t, s.commit(strange, forged), custody.Full)
}

// TestSettlePolicy: a change of policy is completed without the consent that
// its seats have judged only when more than may lie have promised it.
func TestSettlePolicy(t *testing.T) {
	w := newHWorld(t, 9)
	all := []int{0, 1, 2, 3, 4}
	guarded := policy.Key(w.other.Public())
	one := w.deal(t, hSpec{gen: 1, k: 2, seats: all, tag: "one", pol: guarded}) // w = 4, f = 2
	two := w.deal(t, hSpec{gen: 2, k: 2, seats: all, tag: "two", prev: one})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(4), w.msg(one, 4)))
	s = w.must(t, s, s.commit(w.facts(4), w.cert(one, nil, 0, 1, 2, 3)))
	s = w.must(t, s, s.settleWord(w.facts(4), w.asked(two, one)))
	refused(t, s.settlePromise(w.facts(4), w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1}, []int{4}, nil)), custody.Refused)
	w.must(t, s, s.settlePromise(w.facts(4), w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1, 2}, []int{4}, nil)))
}

// TestSettlePolicyOfOtherSeats: whoever signs a change of policy chooses its
// seats; that these promise it says nothing of consent.
func TestSettlePolicyOfOtherSeats(t *testing.T) {
	w := newHWorld(t, 9)
	guarded := policy.Key(w.other.Public())
	one := w.deal(t, hSpec{gen: 1, k: 2, seats: []int{0, 1, 2, 3, 4}, tag: "one", pol: guarded}) // w = 4, f = 2
	two := w.deal(t, hSpec{gen: 2, k: 3, seats: []int{4, 5, 6, 7, 8}, tag: "two", prev: one})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(4), w.msg(one, 4)))
	s = w.must(t, s, s.commit(w.facts(4), w.cert(one, nil, 0, 1, 2, 3)))
	s = w.must(t, s, s.settleWord(w.facts(4), w.asked(two, one)))
	few := w.sPoll(two, []*hDeal{one}, []int{0, 1, 5, 6, 7, 8}, []int{4}, nil)
	if !few.completable() {
		t.Fatal("it would be refused all the same")
	}
	refused(t, s.settlePromise(w.facts(4), w.msg(two, 4), few), custody.Refused)
	w.must(t, s, s.settlePromise(w.facts(4), w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1, 2, 5, 6, 7}, []int{4}, nil)))
}

// TestSettleHolds: what is promised elsewhere is not promised by repair either.
func TestSettleHolds(t *testing.T) {
	w, s, one, two, three := sWorld(t, 4)
	f := w.facts(4)
	s = w.must(t, s, s.prepare(f, w.msg(three, 4)))
	s = w.must(t, s, s.settleWord(f, w.asked(two, one)))
	enough := w.sPoll(two, []*hDeal{one}, []int{0, 1, 2}, []int{4}, nil)
	refused(t, s.settlePromise(f, w.msg(two, 4), enough), custody.Conflict)
	s = w.must(t, s, s.settleDead(f, w.sPoll(three, []*hDeal{one}, nil, nil, []int{0, 1, 2})))
	s = w.must(t, s, s.settlePromise(f, w.msg(two, 4), enough))
	if !slices.ContainsFunc(s.pending, func(e *stored) bool { return e.Hash == two.Hash && e.row }) {
		t.Fatal("not promised")
	}
}

// TestForceOfTheDead: a seat of what died still signs for a successor that names
// it: its certificate asks for such seats. What died is brought along, so that
// it is kept with the promise.
func TestForceOfTheDead(t *testing.T) {
	w := newHWorld(t, 9)
	one := w.deal(t, hSpec{gen: 1, tag: "one"})
	moved := w.deal(t, hSpec{gen: 2, tag: "moved", prev: one, seats: []int{5, 6, 7}})
	msg := w.msg(moved, 5)
	c := w.cert(one, nil, 0, 1, 2).certificate
	msg.prev = &c
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(5), msg))
	s = w.must(t, s, s.settleDead(w.facts(5), w.sPoll(moved, []*hDeal{one}, nil, nil, []int{6, 7})))
	next := w.deal(t, hSpec{gen: 3, tag: "next", prev: one, force: []*hDeal{moved}})
	msg = w.msg(next, 5)
	msg.prev = &c
	r := s.prepare(w.facts(5), msg)
	refused(t, r, custody.Refused)
	if !r.needPrev {
		t.Fatal("what died is not asked for")
	}
	msg.forced = []*version{moved.version}
	s = w.must(t, s, s.prepare(w.facts(5), msg))
	if s.knownVersion(moved.Hash) == nil {
		t.Fatal("what died is forgotten")
	}
}

// TestSettleRestored: a seat that may have promised and forgot it says nothing
// by itself, and takes the row by repair when the others can complete it.
func TestSettleRestored(t *testing.T) {
	w, s, one, two, _ := sWorld(t, 4)
	f := w.facts(4)
	f.restored = 1
	few := w.sPoll(two, []*hDeal{one}, []int{0}, []int{1, 2, 3}, nil)
	refused(t, s.settleWord(f, w.asked(two, one)), custody.Refused)
	s = w.must(t, s, s.heard(f, two.version, []*version{one.version}))
	refused(t, s.settlePromise(f, w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1, 2}, nil, nil)), custody.Wait)
	s = w.must(t, s, s.clear(f))
	refused(t, s.settleWord(f, w.asked(two, one)), custody.Refused)
	refused(t, s.settleRefuse(f, few), custody.Refused)
	refused(t, s.settlePromise(f, w.msg(two, 4), few), custody.Refused)
	s = w.must(t, s, s.settlePromise(f, w.msg(two, 4), w.sPoll(two, []*hDeal{one}, []int{0, 1, 2}, nil, nil)))
	if len(s.pending) != 1 || s.pending[0].promised == 0 || !s.pending[0].row {
		t.Fatalf("%+v", s.pending)
	}
}

// TestSettlePassed: a seat only of what is passed, which never saw it, promises
// by repair with what the others show.
func TestSettlePassed(t *testing.T) {
	w := newHWorld(t, 6)
	passed := w.deal(t, hSpec{gen: 1, tag: "one", seats: []int{2, 3, 4}})
	m := w.deal(t, hSpec{gen: 2, tag: "two", force: []*hDeal{passed}})
	s, f := w.fresh(), w.facts(4)
	q := w.asked(m, passed)
	q.shown = promiser{true, "op"}
	s = w.must(t, s, s.settleWord(f, q))
	few := w.sPoll(m, []*hDeal{passed}, []int{0, 1}, []int{4}, nil)
	refused(t, s.settlePromise(f, w.msg(m, 4), few), custody.Refused)
	s = w.must(t, s, s.settlePromise(f, w.msg(m, 4), w.sPoll(m, []*hDeal{passed}, []int{0, 1, 2, 3}, []int{4}, nil)))
	if e := s.find(m.Hash); e == nil || e.x != 0 || s.knownVersion(passed.Hash) == nil {
		t.Fatal("not promised, or what is passed is forgotten")
	}
}
