package keystore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Repair at a holder (protocol.md section 8): a seat without its row gets it
// from what the other seats' rows have in common with it. The secret and every
// other row exist nowhere.

// helpMsg is a REPAIR.
type helpMsg struct {
	from     key.NodeID
	manifest key.Hash
	epoch    uint32
	x        uint8
}

// help decides whether this node gives its value for a seat, or the ciphertext,
// to the node that asks: only to who holds that seat now. tell says that a
// refusal is worth an entry in the audit log: it is about a secret that is here.
func (s *secretState) help(f holderFacts, q helpMsg) (e *stored, r stepResult, tell bool) {
	v := s.knownVersion(q.manifest)
	if v == nil {
		return nil, refuse(custody.Refused, ""), false
	}
	switch {
	case v.SeatAt(q.x) == nil:
		return nil, refuse(custody.Refused, "x = %d is no seat", q.x), true
	case s.holderOf(v, q.x) == q.from:
	case s.planned(v).Holder(q.x) == q.from:
		return nil, refuse(custody.Wait, "the owner may still veto that the seat goes to this node"), false
	case s.hadSeat(v, q.x, q.from):
		return nil, refuse(custody.Moved, "seat %d was given to another node", q.x), false
	default:
		return nil, refuse(custody.Refused, "the node does not hold seat %d", q.x), true
	}
	e = s.find(q.manifest)
	switch {
	case e == nil || !e.row || e.x == 0:
		return nil, refuse(custody.Refused, "the row is not here"), false
	case e.x == q.x:
		return nil, refuse(custody.Refused, "seat %d is this node's own", q.x), true
	case s.covered(e.Gen) || e.expired(f.now):
		return nil, refuse(custody.Refused, "deleted or expired"), false
	case slices.Contains(s.history, e):
		// Who holds its seats is forgotten, and no row of it is repaired.
		return nil, refuse(custody.Refused, "a later generation is in force"), false
	case e.epoch != q.epoch:
		r = refuse(custody.Refused, "epoch %d is here", e.epoch)
		r.epoch = e.proof
		return nil, r, false
	}
	return e, stepResult{outcome: custody.OK}, false
}

// hadSeat reports whether the node held the seat before a Reassign.
func (s *secretState) hadSeat(v *version, x uint8, node key.NodeID) bool {
	return slices.ContainsFunc(s.moves, func(m *move) bool { return m.Manifest == v.Hash && m.X == x && m.Old == node })
}

// movedAway reports whether the node had a seat of the version and has none now.
func (s *secretState) movedAway(v *version, node key.NodeID) bool {
	seat := v.SeatOf(node)
	return s.seatAt(v, node) == 0 && (seat != nil || slices.ContainsFunc(s.moves, func(m *move) bool { return m.Manifest == v.Hash && m.New == node }))
}

// lacking is the version whose row this node should have and has not, with its
// seat; nil: there is none. Whether a row that is here is whole is for the
// caller to see.
func (s *secretState) lacking(f holderFacts) (*stored, uint8) {
	for _, e := range []*stored{s.kept, s.committed} {
		if e == nil || e == s.committed && !e.row || s.covered(e.Gen) || e.expired(f.now) {
			continue
		}
		if x := s.ownSeat(e.version, f.self); x != 0 && (e.x == x || !e.row) {
			return e, x
		}
	}
	return nil, 0
}

// asSeat is the version as seat x has it once its row of an epoch is here; nil:
// of the epoch that is here.
func (s *stored) asSeat(x uint8, proof *share.OpenedEpoch) *stored {
	e := *s
	e.x, e.row = x, true
	if proof != nil {
		e.epoch, e.proof = proof.Number(), proof
	}
	return &e
}

// errFew: too few seats sent a value, or too few that fit together.
var errFew = errors.New("too few values from other seats")

// rebuild makes the row of the seat from the values of other seats, and names
// those who sent wrong ones. Past epoch 0 a seat that acknowledged nothing has
// no commitment of its own: w values MUST lie on one polynomial then
// (protocol.md section 9).
func (s *stored) rebuild(helpers []byte, values [][]byte) (row []byte, liars []byte, err error) {
	need := int(s.K)
	if s.proof != nil && s.proof.Ack(s.x) == nil {
		need = min(int(s.W), s.N()-1)
	}
	if len(helpers) < need {
		return nil, nil, fmt.Errorf("%w: %d of %d", errFew, len(helpers), need)
	}
	r, liars, err := shamir.Repair(int(s.K), s.x, helpers, values, func(r shamir.Row) bool { return rowGood(s.version, s.proof, s.x, r) })
	if err != nil {
		return nil, nil, err
	}
	defer r.Erase()
	if len(helpers)-len(liars) < need {
		return nil, liars, fmt.Errorf("%w: %d of %d agree", errFew, len(helpers)-len(liars), need)
	}
	return r.Encode(), liars, nil
}

// healMsg is a row that was rebuilt, and the ciphertext that was fetched; nil:
// the one here is good.
type healMsg struct {
	manifest key.Hash
	epoch    uint32 // of what is here
	proof    *share.OpenedEpoch
	x        uint8
	row      []byte
	payload  []byte
}

// heal takes a rebuilt row. A version whose certificate waited for it is
// committed then (W2). A row of a later epoch takes the place of the one here.
func (s *secretState) heal(f holderFacts, h healMsg) stepResult {
	e, x := s.lacking(f)
	if e == nil || e.Hash != h.manifest || e.epoch != h.epoch || x != h.x || h.proof != nil && h.proof.Number() < e.epoch {
		return refuse(custody.Refused, "not needed any more")
	}
	seat := e.asSeat(x, h.proof)
	if !seat.rowFits(h.row) || h.payload != nil && !seat.payloadFits(h.payload) || h.payload == nil && e == s.kept {
		return refuse(custody.Refused, "not the row or payload of the manifest")
	}
	if why := f.full(demand{e.operator, e.Owner, seat.size() - e.size(), true}); why != "" {
		return refuse(custody.Full, "%s", why)
	}
	next := s.clone()
	var w writes
	if seat.epoch != e.epoch {
		if e.row {
			w.put(rowPlace(e), nil)
		}
		w.dropRefresh(e, false)
		seat.refresh, seat.since = nil, f.now
	}
	w.put(rowPlace(seat), h.row)
	if h.payload != nil {
		w.put(payloadPlace(seat), h.payload)
	}
	if e == s.kept {
		next.pending = slices.DeleteFunc(next.pending, func(p *stored) bool { return p.Hash == e.Hash })
		next.pending = append(next.pending, seat)
		next.certified(f, e, &w)
	} else {
		next.committed = seat
	}
	return stepResult{next: next, writes: w.list, outcome: custody.OK}
}

// payloadFits reports whether ct is the ciphertext of the version.
func (s *stored) payloadFits(ct []byte) bool {
	return uint64(len(ct)) == s.Length && sha256.Sum256(ct) == s.Payload
}

// leaving is the seat whose row is still here although a Reassign gave it to
// another node; nil: there is none.
func (s *secretState) leaving(f holderFacts) (*stored, key.NodeID) {
	e := s.committed
	if e == nil || !e.row || e.x == 0 {
		return nil, key.NodeID{}
	}
	if last := s.placement(e.version).Last(e.x); last != nil && last.New != f.self {
		return e, last.New
	}
	return nil, key.NodeID{}
}
