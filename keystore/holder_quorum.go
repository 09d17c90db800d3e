package keystore

import (
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Reassigns by w seats, where the manifest lets them (protocol.md section 8).
// Everything in the body follows from what the seats know, the time is 0: so
// whoever collects signatures collects them for the same Reassign.

// quorumFacts are what a seat observes itself.
type quorumFacts struct {
	suspect func(x uint8) bool         // the seat is suspect here
	reached func(node key.NodeID) bool // within the hour, and it takes seats
}

// names is the Reassign of seat x that this seat would sign, and for which node:
// the first standby that has and had no seat and was reached. nil: none.
func (s *secretState) names(f holderFacts, q quorumFacts, x uint8) *share.Reassign {
	e := s.committed
	if e == nil || e != s.current() || !e.row || e.Repair != share.RepairQuorum || e.SeatAt(x) == nil || e.x == x || !q.suspect(x) || s.covered(e.Gen) || s.behind(f) {
		return nil
	}
	p := s.planned(e.version)
	r := &share.Reassign{Manifest: e.Hash, Epoch: e.epoch, X: x, Seq: 1, Old: p.Holder(x)}
	if last := p.Last(x); last != nil {
		r.Seq, r.Prev = last.Seq+1, last.Hash
	}
	if s.namedToday(f, r) {
		return nil
	}
	i := slices.IndexFunc(e.Standby, func(n key.NodeID) bool {
		return !p.Had(n, x) && p.Holder(x) != n && !s.namedFor(e.Hash, n, x) && q.reached(n)
	})
	if i < 0 {
		return nil
	}
	r.New = e.Standby[i]
	return r
}

// namedToday reports whether another Reassign of the version than that of this
// x and seq was signed by this seat, or by w of them, within 24 hours: at most
// one is.
func (s *secretState) namedToday(f holderFacts, r *share.Reassign) bool {
	recent := func(at uint64) bool { return f.ran < at || f.ran-at < vetoTime }
	return slices.ContainsFunc(s.moves, func(m *move) bool { return !m.ByOwner && recent(m.seen) }) ||
		s.votesOf == r.Manifest && slices.ContainsFunc(s.votes, func(v vote) bool { return (v.X != r.X || v.Seq != r.Seq) && recent(v.At) })
}

// namedFor reports whether this seat signed that the node gets another seat than
// x: shown to different holders, two such Reassigns would give it two rows.
func (s *secretState) namedFor(manifest key.Hash, node key.NodeID, x uint8) bool {
	return s.votesOf == manifest && slices.ContainsFunc(s.votes, func(v vote) bool { return v.X != x && v.to == node })
}

// vote notes that this seat signs a Reassign: at most one for each x and seq,
// and what it would name itself.
func (s *secretState) vote(f holderFacts, q quorumFacts, x uint8, seq uint64, node key.NodeID) (stepResult, *share.Reassign) {
	r := s.names(f, q, x)
	if r == nil || r.Seq != seq || r.New != node {
		return refuse(custody.Refused, "this seat names another node, or none"), nil
	}
	hash := share.HashReassign(f.net, *r)
	if slices.Contains(s.vetoed, hash) {
		return refuse(custody.Refused, "the owner vetoed it"), nil
	}
	next := s.clone()
	next.aboutVotes()
	for _, v := range next.votes {
		if v.X == x && v.Seq == seq {
			if v.Hash == hash {
				return stepResult{outcome: custody.OK}, r
			}
			return refuse(custody.Refused, "another one of this seq is signed here"), nil
		}
	}
	if len(next.votes) >= share.MaxReassigns {
		return refuse(custody.Refused, "too many are signed here"), nil
	}
	next.votes = append(next.votes, vote{X: x, Seq: seq, Hash: hash, At: f.ran, to: node})
	return stepResult{next: next, outcome: custody.OK}, r
}

// aboutVotes begins anew what is kept of votes and vetoes when it is of another
// version than the one in force, in a state that is the caller's to change.
func (s *secretState) aboutVotes() {
	if c := s.current(); c != nil && s.votesOf != c.Hash {
		s.votesOf, s.votes, s.vetoed, s.vetoes = c.Hash, nil, nil, nil
	}
}

// veto takes in the owner's veto of a Reassign of w seats that is not in force
// yet; of one that nobody has shown here yet as well. word is its encoding.
func (s *secretState) veto(f holderFacts, owner key.PersonPublic, hash key.Hash, word []byte) stepResult {
	c := s.current()
	if c == nil || c.Owner != owner {
		return refuse(custody.Denied, "")
	}
	i := slices.IndexFunc(s.moves, func(m *move) bool { return m.Hash == hash })
	switch {
	case slices.Contains(s.vetoed, hash):
		return stepResult{outcome: custody.OK}
	case i >= 0 && s.moves[i].active:
		return refuse(custody.Refused, "it is in force already")
	case len(s.vetoed) >= share.MaxReassigns:
		return refuse(custody.Refused, "too many vetoes")
	}
	next := s.clone()
	next.aboutVotes()
	next.vetoed, next.vetoes = append(next.vetoed, hash), append(next.vetoes, word)
	if i >= 0 {
		x, seq := s.moves[i].X, s.moves[i].Seq
		next.moves = slices.DeleteFunc(next.moves, func(m *move) bool { return m.X == x && m.Seq >= seq })
	}
	next.unseat(f)
	return stepResult{next: next, outcome: custody.OK}
}

// unseat forgets a certificate that was kept for a seat that is not this node's.
func (s *secretState) unseat(f holderFacts) {
	if s.kept != nil && s.ownSeat(s.kept.version, f.self) == 0 {
		s.kept = nil
		s.settleMoves()
	}
}

// onlyFloor reports whether all that is here of m, which is what is there, is
// that: this node had no seat of it when its certificate came.
func (s *secretState) onlyFloor(m *version) bool {
	return s.floor.Manifest == m.Hash && s.floor.Gen == m.Gen && s.current() == nil
}

// ownSeat is the seat of this node in a version: the one that it holds, or that
// it is to hold once the owner's time for a veto is over.
func (s *secretState) ownSeat(v *version, self key.NodeID) uint8 {
	if x := s.seatAt(v, self); x != 0 {
		return x
	}
	return s.planned(v).SeatOf(self)
}
