package keystore

import (
	"slices"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// A disk that was put back to an earlier state has forgotten what its node
// signed since (protocol.md section 8). Until enough other seats of a secret
// have told what they have of it, the node signs no Prepared, Refused, Reassign
// or EpochAck of it, and releases only to its owner.

const whyRestored = "this holder's disk was put back to an earlier state, and too few seats have told it what it missed"

// behind reports whether the other seats are still to be heard about this
// secret.
func (s *secretState) behind(f holderFacts) bool { return s.cleared < f.restored }

// clear notes that enough of them were heard.
func (s *secretState) clear(f holderFacts) stepResult {
	if !s.behind(f) || s.nothing() {
		return stepResult{outcome: custody.OK}
	}
	next := s.clone()
	next.cleared = f.restored
	return stepResult{next: next, outcome: custody.OK}
}

// heard takes in a manifest without a certificate to which another seat has a
// promise. This seat may have promised it too: it counts as promised for
// everything that excludes it, without row and receipt, until its certificate or
// its death is shown.
func (s *secretState) heard(f holderFacts, m *version, before []*version) stepResult {
	ok := stepResult{outcome: custody.OK}
	if m.Gen <= s.top() || s.find(m.Hash) != nil || s.markOf(m.Hash) != nil {
		return ok
	}
	e := &stored{version: m, operator: s.payer(f)}
	if seat := m.SeatOf(f.self); seat != nil {
		e.x = seat.X
	} else if !slices.ContainsFunc(before, func(v *version) bool { return v.SeatOf(f.self) != nil }) {
		return ok // it could not have promised it
	}
	if len(s.live()) >= maxPending {
		return refuse(custody.Refused, "%d generations are pending", maxPending)
	}
	next := s.clone()
	next.charge(f, m.Owner)
	at := slices.IndexFunc(next.pending, func(a *stored) bool { return a.Gen > e.Gen })
	if at < 0 {
		at = len(next.pending)
	}
	next.pending = slices.Insert(next.pending, at, e)
	return stepResult{next: next, outcome: custody.OK}
}

// forgetHeard takes what was only heard of out of the way of a PREPARE for it:
// its writer brings the row, and the promise is given as if for the first time.
func (s *secretState) forgetHeard(h key.Hash) *secretState {
	i := slices.IndexFunc(s.pending, func(e *stored) bool { return e.Hash == h && e.promised == 0 })
	if i < 0 {
		return s
	}
	next := s.clone()
	next.pending = slices.Delete(next.pending, i, i+1)
	return next
}

// heardNever takes in that another seat has signed Refused for a manifest. This
// seat may have too, so that it promises it no more; nor does it sign Refused,
// since it may have promised it.
func (s *secretState) heardNever(h key.Hash, gen uint64) stepResult {
	if gen <= s.top() || s.nothing() || s.markOf(h) != nil || s.find(h) != nil {
		return stepResult{outcome: custody.OK}
	}
	next := s.clone()
	if !next.setMark(mark{Hash: h, Gen: gen, State: markDead}) {
		return refuse(custody.Refused, "%d manifests are refused here", maxMarks)
	}
	return stepResult{next: next, outcome: custody.OK}
}

// shown are the manifests that came with a PREPARE.
func (p prepareMsg) shown() []*version {
	out := []*version{p.m}
	if p.prev != nil {
		out = append(append(out, p.prev.of), p.prev.before...)
	}
	return out
}

// everSeat reports whether the node has or had a seat in anything here.
func (s *secretState) everSeat(node key.NodeID) bool {
	in := func(v *version) bool { return v.SeatOf(node) != nil }
	if slices.ContainsFunc(s.versions(), in) {
		return true
	}
	return slices.ContainsFunc(s.tombs, func(t *tomb) bool { return slices.Contains(t.seats, node) }) ||
		slices.ContainsFunc(s.moves, func(m *move) bool { return m.Old == node || m.New == node })
}

// recallFrom are the nodes that are asked about a secret, and of which manifest
// so many have to answer; extra are manifests that came along.
func (s *secretState) recallFrom(self key.NodeID, extra []*version) (nodes []key.NodeID, by *version) {
	if c := s.current(); c != nil {
		by = c.version
	}
	for _, v := range append(s.versions(), extra...) {
		for _, seat := range v.Seats {
			if seat.Node != self && !slices.Contains(nodes, seat.Node) {
				nodes = append(nodes, seat.Node)
			}
		}
		if by == nil {
			by = v
		}
	}
	for _, m := range s.moves {
		if m.New != self && !slices.Contains(nodes, m.New) {
			nodes = append(nodes, m.New)
		}
	}
	return nodes, by
}

// enoughTold: n-w+1+f other seats, which is n-k+1, have told.
func enoughTold(v *version, self key.NodeID, told map[key.NodeID]bool) bool {
	n := 0
	for _, seat := range v.Seats {
		n += btoi(seat.Node != self && told[seat.Node])
	}
	return n >= v.N()-int(v.K)+1
}
