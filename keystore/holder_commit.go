package keystore

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// commitMsg is a COMMIT whose manifest is verified; the certificate is not.
type commitMsg struct {
	certificate
}

// commit is W2: the certificate makes a version the committed one where its row
// is. Elsewhere it is kept, and what it replaces stays until the row is here:
// committing without the row loses secrets (models/drop.pml, NOROW).
func (s *secretState) commit(f holderFacts, c commitMsg) stepResult {
	m := c.of
	was := s
	s = s.expecting(f, m, c.moves)
	if r, done := s.commitAgain(f, m); done {
		return r
	}
	before, err := c.line(s)
	if err != nil {
		return refuse(custody.Refused, "%v", err)
	}
	if !s.concerned(f, m, before) {
		return refuse(custody.Refused, "no seat of this node in it or before it")
	}
	if why := s.unknown(f, m); why != "" {
		return refuse(custody.Refused, "%s", why)
	}
	if err := c.verify(f, before); err != nil {
		return refuse(custody.Refused, "%v", err)
	}
	given := s.given(f, m)
	next := s.clone()
	f.operator = s.chargedTo(f, m, given)
	next.charge(f, m.Owner)
	var w writes
	e := &stored{version: m, cert: c.bytes, before: before, committedAt: f.now, operator: f.operator}
	seat := s.ownSeat(m, f.self) != 0
	done := next.certified(f, e, &w)
	if why := was.roomFor(f, next, e, given); why != "" {
		return refuse(custody.Full, "%s", why)
	}
	r := stepResult{next: next, writes: w.list, outcome: custody.OK, prevGone: next.prevGone(m)}
	switch {
	case done:
		r.sign = next.committed.receipt()
	case seat:
		r.outcome, r.why = custody.Refused, "the row is missing here; the certificate is kept"
	default:
		r.sign = e.receipt()
	}
	return r
}

// commitAgain answers what needs no verification: it is committed or kept
// already, or something newer or a tombstone is here.
func (s *secretState) commitAgain(f holderFacts, m *version) (stepResult, bool) {
	seat := s.ownSeat(m, f.self) != 0
	switch {
	case s.covered(m.Gen):
		r := refuse(custody.Refused, "the generation is deleted")
		r.prevGone = s.prevGone(m)
		return r, true
	case s.committed != nil && s.committed.Hash == m.Hash:
		return stepResult{outcome: custody.OK, sign: s.committed.receipt(), prevGone: s.prevGone(m)}, true
	case seat && s.kept != nil && s.kept.Hash == m.Hash && !s.rowPending(m.Hash):
		r := refuse(custody.Refused, "the row is missing here; the certificate is kept")
		r.prevGone = s.prevGone(m)
		return r, true
	case !seat && s.floor.Manifest == m.Hash && s.floor.Gen == m.Gen:
		e := &stored{version: m, committedAt: f.now}
		return stepResult{outcome: custody.OK, sign: e.receipt(), prevGone: s.prevGone(m)}, true
	case m.Gen <= s.committedGen() || (m.Gen <= s.floor.Gen && !s.rowPending(m.Hash) && !s.onlyFloor(m)):
		r := refuse(custody.Conflict, "generation %d is here", s.floor.Gen)
		r.prevGone = s.prevGone(m)
		return r, true
	}
	return stepResult{}, false
}

// chargedTo is whose quota a certificate is in: of who brought the PREPARE.
// Without one whoever passes the certificate on is no more than its bearer, and
// all such have a pool of their own; so have seats that a Reassign gave to this
// node, unless who sent it asked for that.
func (s *secretState) chargedTo(f holderFacts, m *version, given bool) string {
	e := s.find(m.Hash)
	switch {
	case e != nil && e.promised != 0:
		return e.operator
	case given && f.ordered:
		return s.payer(f)
	case given:
		return givenAway
	}
	return poolPassed
}

func (s *secretState) rowPending(h key.Hash) bool {
	return slices.ContainsFunc(s.pending, func(e *stored) bool { return e.Hash == h && e.row })
}

// receipt is the word that a version is committed here.
func (s *stored) receipt() *promise {
	return &promise{key.TypeCommitted, share.Receipt{Manifest: s.Hash, X: s.x, Time: s.committedAt}}
}

// prevGone reports whether the rows of what is before m are here no more except
// as history.
func (s *secretState) prevGone(m *version) bool {
	gone := func(h key.Hash) bool {
		if s.committed != nil && s.committed.Hash == h && s.committed.row {
			return false
		}
		return !s.rowPending(h)
	}
	return gone(m.Prev) && !slices.ContainsFunc(m.Force, func(h key.Hash) bool { return !gone(h) })
}

// concerned: the certificate says something about what is or was here. Others
// may not make a node remember things.
func (s *secretState) concerned(f holderFacts, m *version, before []*version) bool {
	if m.SeatOf(f.self) != nil || s.ownSeat(m, f.self) != 0 || s.floor.Gen != 0 || len(s.pending) != 0 {
		return true
	}
	return slices.ContainsFunc(before, func(v *version) bool { return v.SeatOf(f.self) != nil })
}

// unknown says why a certificate of a secret of which nothing is here is not
// taken. Keys are free: receipts of nodes that nobody admitted prove nothing.
func (s *secretState) unknown(f holderFacts, m *version) string {
	if !s.nothing() {
		return ""
	}
	if f.operator == "" {
		return whyOutsider
	}
	members := 0
	for _, seat := range m.Seats {
		if f.member == nil || f.member(seat.Node) {
			members++
		}
	}
	if members < int(m.W) {
		return fmt.Sprintf("%d of its seats are in the roster, and it needs %d", members, m.W)
	}
	return ""
}

// certReceipt is more than a receipt without extensions takes in a certificate,
// in bytes.
const certReceipt = 256

// roomFor says why next, which took in the certificate of e, does not fit. What
// was promised is committed also where nothing more fits, or writes that others
// count on would be lost: an honest certificate of it is never refused. What it
// takes is charged all the same. A seat that this node was given without being
// asked is taken only with room for its row.
func (s *secretState) roomFor(f holderFacts, next *secretState, e *stored, given bool) string {
	grows := next.size() - s.size()
	if given {
		return f.full(demand{e.operator, e.Owner, grows + e.rowSize(), true})
	}
	if !s.nothing() {
		allowed := int64(certReceipt * len(e.targets(key.NodeID{})))
		for _, v := range append([]*version{e.version}, e.before...) {
			allowed += int64(len(v.Object.Body))
		}
		if grows <= allowed {
			return ""
		}
	}
	return f.full(demand{e.operator, e.Owner, grows, len(next.entries()) > 0})
}

// certified takes in a verified certificate, in a state that is the caller's to
// change, and reports whether its version is now the committed one.
func (s *secretState) certified(f holderFacts, e *stored, w *writes) bool {
	defer s.settleMoves()
	base, known := e.distanceTo(s.reference())
	s.raise(e.version)
	if s.ownSeat(e.version, f.self) == 0 && !s.rowPending(e.Hash) {
		if s.committedGen() < e.Gen {
			// No seat any more: only what keep covers stays, and the
			// certificate. The old row goes here on its word, so it must not be
			// the writer's alone: while no seat has it, this node passes it on.
			s.retire(e, base, known, w)
			s.committed = nil
			if s.kept == nil || e.Gen > s.kept.Gen {
				s.kept = e
			}
		}
		return false
	}
	i := slices.IndexFunc(s.pending, func(p *stored) bool { return p.Hash == e.Hash && p.row })
	if i < 0 {
		if s.kept == nil || e.Gen > s.kept.Gen {
			s.kept = e
		}
		return false
	}
	mine := *s.pending[i]
	mine.cert, mine.before, mine.committedAt = e.cert, e.before, e.committedAt
	s.pending = slices.Delete(s.pending, i, i+1)
	s.retire(&mine, base, known, w)
	s.committed = &mine
	if mine.Gen == s.floor.Gen {
		s.floor.Manifest = mine.Hash // of a fork, what is whole here is what is there
	}
	return true
}

// reference is what the distances in history are counted from.
func (s *secretState) reference() key.Hash {
	if s.committed != nil {
		return s.committed.Hash
	}
	return s.floor.Manifest
}

// retire makes room for e as the committed one: pendings up to its generation
// go, the committed one becomes history if e's keep covers it or goes, older
// history goes. The distances are those of [stored.distanceTo] from e to what
// [secretState.reference] was.
func (s *secretState) retire(e *stored, base int, known bool, w *writes) {
	s.pending = slices.DeleteFunc(s.pending, func(p *stored) bool {
		if p.Gen > e.Gen {
			return false
		}
		w.drop(p)
		return true
	})
	if s.kept != nil && s.kept.Gen <= e.Gen {
		s.kept = nil
	}
	old := s.history
	s.history = nil
	if s.committed != nil {
		old = append([]*stored{s.committed}, old...)
	}
	for _, h := range old {
		d := base + int(h.distance)
		if !known || d > int(e.Keep) || !h.row {
			w.drop(h)
			continue
		}
		moved := *h
		moved.distance = uint8(d)
		s.history = append(s.history, &moved)
	}
}

// distanceTo says how many generations before e the one with hash ref was: 1
// when it is e's prev, more when what e brought along leads to it.
func (e *stored) distanceTo(ref key.Hash) (int, bool) {
	h := e.Prev
	for d := 1; d <= share.MaxKeep && !h.IsZero(); d++ {
		if h == ref {
			return d, true
		}
		i := slices.IndexFunc(e.before, func(v *version) bool { return v.Hash == h })
		if i < 0 {
			return 0, false
		}
		h = e.before[i].Prev
	}
	return 0, false
}
