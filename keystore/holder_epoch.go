package keystore

import (
	"cmp"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// epochMsg is an EPOCH whose Epoch is verified.
type epochMsg struct {
	proof *share.OpenedEpoch
	dealt key.Hash   // the dealings that it is of; zero: not known here
	row   shamir.Row // this seat's row of it, judged by the step; nil: none can be made
	// rest is what is kept for seats that have not acknowledged, nil for nothing.
	rest  *custody.Dealings
	words []seatWord // Committed of distinct seats over its bundle, verified
}

// commitEpoch puts the row of a certified epoch in force, beside the old one,
// and takes in the words of others. It signs Committed over H(bundle).
func (s *secretState) commitEpoch(f holderFacts, q epochMsg) stepResult {
	e, why := s.refreshed(f, q.proof.Manifest)
	if e == nil {
		return refuse(custody.Refused, "%s", why)
	}
	next := s.clone()
	mine := *e
	next.committed = &mine
	var w writes
	moved, res := mine.enforce(q, f.now, &w)
	if res.outcome != custody.OK {
		if res.next == nil && !moved {
			return res
		}
		res.next, res.writes = next, w.list // what is ahead is remembered
		return res
	}
	if mine.hear(q.words) {
		moved = true
	}
	if next.finish(&w) {
		moved = true
	}
	out := stepResult{outcome: custody.OK, sign: mine.epochReceipt()}
	if moved {
		out.next, out.writes = next, w.list
	}
	return out
}

// epochReceipt is the word that the row of an epoch is in force here.
func (e *stored) epochReceipt() *promise {
	return &promise{key.TypeCommitted, share.Receipt{Manifest: e.proof.Bundle, Epoch: e.epoch, X: e.x, Time: e.since}}
}

// enforce makes the row of a certified epoch the one in force, in a version that
// is the caller's to change. It reports whether anything changed.
func (e *stored) enforce(q epochMsg, now uint64, w *writes) (bool, stepResult) {
	r, n := e.refresh, q.proof.Number()
	over := r == nil || r.base == nil
	switch {
	case e.proof != nil && n == e.epoch && q.proof.Bundle == e.proof.Bundle:
		return false, stepResult{outcome: custody.OK} // the same again
	case n < e.epoch || n == e.epoch && (over || q.proof.Round <= e.proof.Round):
		return false, refuse(custody.Conflict, "epoch %d is in force here", e.epoch)
	case r != nil && r.epoch == n && q.proof.Round < r.round && len(q.words) < int(e.W):
		// With w words it is decided: no later round can have an Epoch any more.
		return false, refuse(custody.Conflict, "round %d was acknowledged here", r.round)
	case n > e.epoch+1 || q.row == nil || !rowGood(e.version, q.proof, e.x, q.row):
		return e.lag(q.proof)
	}
	if n == e.epoch {
		e.change(q, w)
	} else {
		e.advance(q, w)
	}
	e.since = now
	return true, stepResult{outcome: custody.OK}
}

// lag remembers an epoch of which no row can be made here.
func (e *stored) lag(proof *share.OpenedEpoch) (bool, stepResult) {
	res := refuse(custody.Refused, "no row of epoch %d can be made here", proof.Number())
	r := e.refresh
	if r != nil && r.ahead != nil && cmp.Or(cmp.Compare(r.ahead.Number(), proof.Number()), cmp.Compare(r.ahead.Round, proof.Round)) >= 0 {
		return false, res
	}
	if r == nil {
		r = &refreshing{epoch: e.epoch + 1}
	}
	e.refresh = r.clone()
	e.refresh.ahead = proof
	return true, res
}

// advance goes from one epoch to the next. The row in force becomes the base. A
// base that is still there goes: w seats had gone on from it when they
// acknowledged what comes now.
func (e *stored) advance(q epochMsg, w *writes) {
	old := e.refresh
	base := &baseRow{epoch: e.epoch, proof: e.proof}
	r := &refreshing{epoch: q.proof.Number(), round: q.proof.Round, bundle: q.proof.Bundle, base: base}
	if old != nil && old.epoch == r.epoch {
		r = old.clone()
		r.base, r.ahead = base, nil
		if q.proof.Round > r.round {
			r.round, r.bundle = q.proof.Round, q.proof.Bundle
		}
	} else {
		w.dropRefresh(e, false)
	}
	e.refresh, e.epoch, e.proof = r, r.epoch, q.proof
	e.install(q, w)
}

// change goes over to another bundle of the same epoch that has an Epoch of a
// higher round. The base stays; the row that was in force goes, for it can be made
// of the base again, or rebuilt, should its dealings win in a later round.
func (e *stored) change(q epochMsg, w *writes) {
	r := e.refresh.clone()
	e.refresh = r
	r.ahead = nil
	if q.proof.Round > r.round {
		r.round, r.bundle = q.proof.Round, q.proof.Bundle
	}
	e.proof = q.proof
	e.install(q, w)
}

// install writes the row in force and notes its dealings. Nobody's word is about
// it yet.
func (e *stored) install(q epochMsg, w *writes) {
	r := e.refresh
	r.committed = nil
	if r.now.Dealt != q.dealt && !r.now.Dealt.IsZero() {
		w.put(dealingsPlace(e, r.now), nil)
	}
	d := dealtRow{Dealt: q.dealt, Bundle: q.proof.Bundle}
	if have := r.of(q.dealt); have != nil {
		d.Size = have.Size
		w.put(dealtPlace(e, *have), nil)
		r.dealt = slices.DeleteFunc(r.dealt, func(o dealtRow) bool { return o.Dealt == q.dealt })
	}
	if q.rest != nil {
		rec := key.Marshal(q.rest)
		d.Size = uint64(len(rec))
		w.put(dealingsPlace(e, d), rec)
	}
	r.now = d
	w.put(rowPlace(e), q.row.Encode())
}

// hear takes in the words of other seats that the row in force is in force there
// too, and reports whether one is new.
func (e *stored) hear(words []seatWord) bool {
	if e.refresh == nil || e.refresh.now.Dealt.IsZero() {
		return false
	}
	news := false
	for _, word := range words {
		if word.X == e.x || slices.ContainsFunc(e.refresh.committed, func(o seatWord) bool { return o.X == word.X }) {
			continue
		}
		if !news {
			e.refresh = e.refresh.clone()
			news = true
		}
		e.refresh.committed = append(e.refresh.committed, word)
	}
	return news
}

// finish lets go of the old row once w seats have signed that the new one is in
// force, and of history with it; and of the dealings once all n have. It
// reports whether anything went.
func (s *secretState) finish(w *writes) bool {
	e := s.committed
	r := e.refresh
	if r == nil || r.now.Dealt.IsZero() {
		return false
	}
	have := 1 + len(r.committed)
	moved := false
	if r.base != nil && have >= int(e.W) {
		w.dropRefresh(e, true)
		r = r.clone()
		r.base, r.dealt = nil, nil
		e.refresh = r
		for _, h := range s.history {
			w.drop(h)
		}
		s.history, moved = nil, true
	}
	if r.base == nil && have == e.N() && r.ahead == nil {
		w.dropRefresh(e, false)
		e.refresh, moved = nil, true
	}
	return moved
}

// repairEpoch takes a row that was rebuilt from values of other seats for an
// epoch that others have and this seat has not (protocol.md section 9). The
// caller has checked that enough values lie on one polynomial.
func (s *secretState) repairEpoch(f holderFacts, proof *share.OpenedEpoch, row shamir.Row) stepResult {
	e := s.committed
	if e == nil || e.Hash != proof.Manifest || e.x == 0 || !e.row || e.refresh == nil || e.refresh.ahead == nil ||
		proof.Number() < e.refresh.ahead.Number() || !rowGood(e.version, proof, e.x, row) {
		return refuse(custody.Refused, "no such row is wanted here")
	}
	next := s.clone()
	mine := *e
	next.committed = &mine
	var w writes
	w.put(rowPlace(e), nil)
	w.dropRefresh(e, false)
	mine.epoch, mine.proof, mine.since = proof.Number(), proof, f.now
	mine.refresh = nil
	w.put(rowPlace(&mine), row.Encode())
	return stepResult{next: next, writes: w.list, outcome: custody.OK, sign: mine.epochReceipt()}
}

// rowGood is the one place where a row is judged: of epoch 0 by the owner's
// commitment, later by what other seats told of the values they share with it
// (protocol.md section 9).
func rowGood(v *version, proof *share.OpenedEpoch, x uint8, row shamir.Row) bool {
	if len(row) != int(v.K) {
		return false
	}
	enc := row.Encode()
	defer clear(enc)
	if proof == nil {
		seat := v.SeatAt(x)
		return seat != nil && v.CheckRow(*seat, enc)
	}
	return proof.Manifest == v.Hash && proof.CheckRow(x, enc, row.Help)
}
