package keystore

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// Reassigns at a holder (protocol.md section 8): who holds a seat of the version
// in force after what its owner, or w of its seats, have signed. A Reassign
// moves the row. Whose receipts and words count stays with the nodes that the
// manifest names (crypto/share/SPEC.md).

// vetoTime is how long after a holder saw a Reassign of w seats it still obeys
// the owner's veto and gives no value to the new node, in seconds of its running
// time.
const vetoTime = 24 * 60 * 60

// move is a Reassign as this holder has it.
type move struct {
	*share.SignedReassign
	seen   uint64 // running time when it was complete here, seconds
	active bool   // by the owner, or unvetoed for vetoTime
}

// vote is this holder's signature under a Reassign: one for each x and seq.
type vote struct {
	_    struct{} `cbor:",toarray"`
	X    uint8
	Seq  uint64
	Hash key.Hash // H(reassign)
	At   uint64   // running time

	to key.NodeID // the new node; zero in a record of before it was kept
}

// ownerAlone reports whether the owner's signature alone satisfies the policy.
// Only then do its Reassigns count: k of them, each to a node of its own, would
// else give it every row without a request (SPEC.md).
func ownerAlone(m *share.Manifest) bool {
	pol, err := policy.Parse(m.Policy)
	return err == nil && pol.Evaluate(policy.Evidence{Owner: m.Owner, Signers: []key.PersonPublic{m.Owner}}).OK
}

// placement is who holds the seats of a version, with every Reassign of it that
// is in force here.
func (s *secretState) placement(v *version) *share.Placement {
	return s.placed(v, func(m *move) bool { return m.active })
}

// planned is the placement with those that the owner may still veto.
func (s *secretState) planned(v *version) *share.Placement {
	return s.placed(v, func(*move) bool { return true })
}

func (s *secretState) placed(v *version, counts func(*move) bool) *share.Placement {
	p := share.NewPlacement(v.SignedManifest, v.alone)
	for _, m := range s.moves {
		if m.Manifest == v.Hash && counts(m) {
			_, _ = p.Add(m.SignedReassign) // refused only after one that does not count yet
		}
	}
	return p
}

// holderOf is the node that holds seat x of a version; zero: no such seat.
func (s *secretState) holderOf(v *version, x uint8) key.NodeID { return s.placement(v).Holder(x) }

// seatAt is the seat of a version that a node holds, or 0.
func (s *secretState) seatAt(v *version, node key.NodeID) uint8 { return s.placement(v).SeatOf(node) }

// targetsOf are the other nodes that what concerns e is passed on to: the seats
// of the version and of what was before it, and whom those were given to.
func (s *secretState) targetsOf(e *stored, self key.NodeID) []key.NodeID {
	out := e.targets(self)
	for _, m := range s.moves {
		if m.Manifest == e.Hash && m.New != self && !slices.Contains(out, m.New) {
			out = append(out, m.New)
		}
	}
	return out
}

// movedTo are the nodes that Reassigns gave seats which are void in next: nobody
// else may tell them of what came after.
func (s *secretState) movedTo(next *secretState) []key.NodeID {
	var out []key.NodeID
	for _, m := range s.moves {
		if c := next.current(); c == nil || c.Hash != m.Manifest {
			out = append(out, m.New)
		}
	}
	return out
}

// moveBytes are the Reassigns of a version as they are shown to others.
func (s *secretState) moveBytes(v *version) [][]byte {
	var out [][]byte
	for _, m := range s.moves {
		if m.Manifest == v.Hash {
			out = append(out, m.Bytes())
		}
	}
	return out
}

// settleMoves forgets Reassigns of a version that is not in force any more: they
// are void above their generation.
func (s *secretState) settleMoves() {
	c := s.current()
	s.moves = slices.DeleteFunc(s.moves, func(m *move) bool { return c == nil || m.Manifest != c.Hash })
	if c == nil || c.Hash != s.votesOf {
		s.votes, s.vetoed, s.vetoes, s.votesOf = nil, nil, nil, key.Hash{}
	}
}

// expecting is the state with the Reassigns that come with a certificate of v,
// which is not in force here yet. They stay only when it comes into force.
func (s *secretState) expecting(f holderFacts, v *version, moves []*share.SignedReassign) *secretState {
	if len(moves) == 0 || v.Gen < s.floor.Gen {
		return s
	}
	next := s.clone()
	for _, r := range moves {
		_, _ = next.addMove(f, v, r)
	}
	return next
}

// addMove takes in a Reassign that was verified for v, in a state that is the
// caller's to change, and reports whether it is new here.
func (s *secretState) addMove(f holderFacts, v *version, r *share.SignedReassign) (bool, error) {
	if slices.Contains(s.vetoed, r.Hash) && !r.ByOwner {
		return false, fmt.Errorf("%w: the owner vetoed it", share.ErrReassign)
	}
	// Rows are exchanged after a Reassign of their epoch; one of a made-up epoch
	// would have them exchanged without end.
	if c := s.current(); c != nil && uint64(r.Epoch) > uint64(c.epoch)+1 {
		return false, fmt.Errorf("%w: of epoch %d, and %d is in force here", share.ErrReassign, r.Epoch, c.epoch)
	}
	p := s.planned(v)
	changed, err := p.Add(r)
	if err != nil || !changed {
		return false, err
	}
	kept := s.moves
	s.moves = nil
	for _, o := range p.Moves() {
		i := slices.IndexFunc(kept, func(m *move) bool { return m.Hash == o.Hash })
		if i >= 0 {
			s.moves = append(s.moves, kept[i])
			continue
		}
		s.moves = append(s.moves, &move{SignedReassign: r, seen: f.ran, active: r.ByOwner})
	}
	return true, nil
}

// reassign takes in a Reassign of the version in force. Its new holder learns
// that it has a seat, without a row as yet; its old one keeps its row until the
// new one has shown that it has it (see [secretState.leave]).
func (s *secretState) reassign(f holderFacts, r *share.SignedReassign) stepResult {
	c := s.current()
	if c == nil || c.Hash != r.Manifest {
		return refuse(custody.Refused, "another generation is in force here")
	}
	next := s.clone()
	changed, err := next.addMove(f, c.version, r)
	switch {
	case err != nil:
		return refuse(custody.Refused, "%v", err)
	case !changed:
		return stepResult{outcome: custody.OK}
	}
	next.seated(f)
	if why := s.moveRoom(f, next); why != "" {
		return refuse(custody.Full, "%s", why)
	}
	return stepResult{next: next, outcome: custody.OK}
}

// moveRoom says why what a Reassign adds to the record does not fit.
func (s *secretState) moveRoom(f holderFacts, next *secretState) string {
	grows := next.size() - s.size()
	if k := next.kept; k != nil && s.kept == nil {
		return f.full(demand{k.operator, next.owner, grows + k.rowSize(), true})
	}
	if grows <= 0 {
		return ""
	}
	return f.full(demand{next.operator, next.owner, grows, false})
}

// seated turns what this node has of the version in force into a seat without
// its row when a Reassign in force gave it one.
func (s *secretState) seated(f holderFacts) {
	c := s.committed
	if c == nil || s.kept != nil || c.row || s.covered(c.Gen) || s.ownSeat(c.version, f.self) == 0 {
		return
	}
	k := *c
	k.x = 0
	s.committed, s.kept = nil, &k
}

// mature puts Reassigns of w seats into force that the owner has not vetoed in
// time.
func (s *secretState) mature(f holderFacts) stepResult {
	next := s.clone()
	moved := false
	for i, m := range next.moves {
		if !m.active && f.ran >= m.seen && f.ran-m.seen >= vetoTime {
			now := *m
			now.active = true
			next.moves[i], moved = &now, true
		}
	}
	if !moved {
		return stepResult{outcome: custody.OK}
	}
	next.seated(f)
	return stepResult{next: next, outcome: custody.OK}
}

// leave drops the row of a seat that this node held and that its new holder has
// shown to have: to is the node that signed Committed for it.
func (s *secretState) leave(f holderFacts, manifest key.Hash, x uint8, to key.NodeID) stepResult {
	c := s.committed
	if c == nil || c.Hash != manifest || !c.row || c.x != x || s.holderOf(c.version, x) != to || to == f.self {
		return stepResult{outcome: custody.OK}
	}
	next := s.clone()
	var w writes
	w.drop(c)
	next.committed = c.hollow(false)
	next.committed.x = 0
	return stepResult{next: next, writes: w.list, outcome: custody.OK}
}

// size is what the move is charged with, in bytes.
func (m *move) size() int64 { return int64(len(m.Bytes())) }

// reassignRecord is what the record of a secret has of Reassigns.
type reassignRecord struct {
	_      struct{} `cbor:",toarray"`
	Of     key.Hash // H(manifest) that votes and vetoes are about
	Moves  []moveRecord
	Votes  []vote
	Vetoed []key.Hash
}

// wordsRecord is what the record of a secret has beside that.
type wordsRecord struct {
	_      struct{}     `cbor:",toarray"`
	To     []key.NodeID // the new node of each vote, in their order
	Vetoes [][]byte     // Approvals
}

func (s *secretState) wordsRecord() *wordsRecord {
	if len(s.votes)+len(s.vetoes) == 0 {
		return nil
	}
	r := &wordsRecord{Vetoes: s.vetoes}
	for _, v := range s.votes {
		r.To = append(r.To, v.to)
	}
	return r
}

func (s *secretState) readWords(r *wordsRecord) {
	if r == nil {
		return
	}
	s.vetoes = r.Vetoes
	for i := range s.votes {
		if i < len(r.To) {
			s.votes[i].to = r.To[i]
		}
	}
}

type moveRecord struct {
	_      struct{} `cbor:",toarray"`
	Hash   key.Hash // H(reassign)
	Bytes  []byte
	Seen   uint64
	Active bool
}

func (s *secretState) reassignRecord() *reassignRecord {
	if len(s.moves)+len(s.votes)+len(s.vetoed) == 0 {
		return nil
	}
	r := &reassignRecord{Of: s.votesOf, Votes: s.votes, Vetoed: s.vetoed}
	for _, m := range s.moves {
		r.Moves = append(r.Moves, moveRecord{Hash: m.Hash, Bytes: m.Bytes(), Seen: m.seen, Active: m.active})
	}
	return r
}

// readMoves reads what the record has, once the versions are read.
func (s *secretState) readMoves(net key.NetworkID, r *reassignRecord) error {
	if r == nil {
		return nil
	}
	s.votesOf, s.votes, s.vetoed = r.Of, r.Votes, r.Vetoed
	c := s.current()
	if c == nil && len(r.Moves) > 0 {
		return fmt.Errorf("%w: of no manifest", share.ErrReassign)
	}
	for _, m := range r.Moves {
		o, err := share.ReadReassign(net, m.Bytes, c.SignedManifest)
		if err != nil {
			return err
		}
		if o.ByOwner && !c.alone {
			continue // kept before it counted for nothing
		}
		s.moves = append(s.moves, &move{SignedReassign: o, seen: m.Seen, active: m.Active})
	}
	return nil
}
