package share

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// ErrReassign: the reassignment is not valid, or not the next of its seat.
var ErrReassign = errors.New("invalid reassignment")

// Limits of reassignments.
const (
	MaxReassign  = 8 << 10 // bytes of one with its signatures
	MaxReassigns = 64      // of one manifest
)

// Reassign gives seat X of a manifest to another node. The row stays the same;
// whose promises count for the order of generations stays the same too (SPEC.md,
// "Reassign").
type Reassign struct {
	key.Head
	Manifest key.Hash   `cbor:"1,keyasint"` // H(manifest)
	Epoch    uint32     `cbor:"2,keyasint"` // at its signers when they signed
	X        uint8      `cbor:"3,keyasint"`
	Seq      uint64     `cbor:"4,keyasint"` // 1 for the first of this x
	Prev     key.Hash   `cbor:"5,keyasint"` // H of the Reassign before of this x; zero: none
	Old      key.NodeID `cbor:"6,keyasint"` // who holds the seat until now
	New      key.NodeID `cbor:"7,keyasint"`
	Time     uint64     `cbor:"8,keyasint"` // unix seconds
}

// SignedReassign is a Reassign whose signatures were verified. Immutable.
type SignedReassign struct {
	Reassign
	Hash key.Hash
	// ByOwner: the owner of the manifest signed it. Else Signers are the nodes
	// that did; whether they are enough is for [Placement.Add] to say.
	ByOwner bool
	Signers []key.NodeID

	bytes []byte
}

// Bytes are the encoding that [OpenReassign] read. The caller does not change
// them.
func (r *SignedReassign) Bytes() []byte { return r.bytes }

// reassigned is how a Reassign travels: one body and those who signed it.
type reassigned struct {
	key.Head
	Body []byte        `cbor:"1,keyasint"`
	Sigs []reassignSig `cbor:"2,keyasint"` // ascending by key
}

type reassignSig struct {
	_   struct{} `cbor:",toarray"`
	Key [32]byte
	Sig []byte
}

// SignReassign signs r with the owner's key or a seat's node key.
func SignReassign(k key.Private, net key.NetworkID, r Reassign) key.Object {
	return key.Sign(k, net, key.TypeReassign, key.Marshal(&r))
}

// HashReassign is H of r: the same whoever signs it.
func HashReassign(net key.NetworkID, r Reassign) key.Hash {
	return key.HashBody(net, key.TypeReassign, key.Marshal(&r))
}

// JoinReassign is the encoding of a Reassign with these signatures over one
// body. It refuses none, more than [MaxSeats], and different bodies.
func JoinReassign(signed ...key.Object) ([]byte, error) {
	if len(signed) == 0 || len(signed) > MaxSeats {
		return nil, fmt.Errorf("%w: %d signatures", ErrReassign, len(signed))
	}
	w := &reassigned{Body: signed[0].Body}
	for _, o := range signed {
		if o.Type != key.TypeReassign || !bytes.Equal(o.Body, w.Body) {
			return nil, fmt.Errorf("%w: signatures over different bodies", ErrReassign)
		}
		w.Sigs = append(w.Sigs, reassignSig{Key: o.Key, Sig: o.Sig})
	}
	slices.SortFunc(w.Sigs, func(a, b reassignSig) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return key.Marshal(w), nil
}

// OpenReassign verifies that b is a Reassign of a seat of m with valid
// signatures, each by another key, ascending: one of m's owner, or of up to
// [MaxSeats] nodes.
func OpenReassign(net key.NetworkID, b []byte, m *SignedManifest) (*SignedReassign, error) {
	return openReassign(net, b, m, true)
}

// ReadReassign is [OpenReassign] for what a node keeps itself: the signatures
// were verified when it came.
func ReadReassign(net key.NetworkID, b []byte, m *SignedManifest) (*SignedReassign, error) {
	return openReassign(net, b, m, false)
}

func openReassign(net key.NetworkID, b []byte, m *SignedManifest, verify bool) (*SignedReassign, error) {
	if len(b) > MaxReassign {
		return nil, fmt.Errorf("%w: %d bytes", ErrReassign, len(b))
	}
	var w reassigned
	if err := key.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	out := &SignedReassign{Hash: key.HashBody(net, key.TypeReassign, w.Body), bytes: slices.Clone(b)}
	if err := key.Unmarshal(w.Body, &out.Reassign); err != nil {
		return nil, err
	}
	if err := out.check(m); err != nil {
		return nil, err
	}
	if len(w.Sigs) == 0 || len(w.Sigs) > MaxSeats {
		return nil, fmt.Errorf("%w: %d signatures", ErrReassign, len(w.Sigs))
	}
	if err := out.signed(net, &w, m, verify); err != nil {
		return nil, err
	}
	return out, nil
}

// signed takes in who signed.
func (out *SignedReassign) signed(net key.NetworkID, w *reassigned, m *SignedManifest, verify bool) error {
	for i, s := range w.Sigs {
		if i > 0 && bytes.Compare(w.Sigs[i-1].Key[:], s.Key[:]) >= 0 {
			return fmt.Errorf("%w: signatures out of order", ErrReassign)
		}
		o := key.Object{Type: key.TypeReassign, Body: w.Body, Key: s.Key, Sig: s.Sig}
		if verify {
			if err := o.Verify(net, key.TypeReassign); err != nil {
				return fmt.Errorf("%w: %w", ErrReassign, err)
			}
		}
		if s.Key == [32]byte(m.Owner) {
			out.ByOwner = true
			continue
		}
		out.Signers = append(out.Signers, key.NodePublic(s.Key).ID())
	}
	if out.ByOwner && len(w.Sigs) > 1 {
		return fmt.Errorf("%w: signed by the owner and others", ErrReassign)
	}
	return nil
}

// check applies the rules that need nothing but the manifest.
func (r *Reassign) check(m *SignedManifest) error {
	switch {
	case r.Manifest != m.Hash:
		return fmt.Errorf("%w: of another manifest", ErrReassign)
	case m.SeatAt(r.X) == nil:
		return fmt.Errorf("%w: x = %d is no seat", ErrReassign, r.X)
	case r.Seq == 0 || r.Seq > MaxReassigns || (r.Seq == 1) != r.Prev.IsZero():
		return fmt.Errorf("%w: seq %d", ErrReassign, r.Seq)
	case r.Old == r.New || r.Old.IsZero() || r.New.IsZero():
		return fmt.Errorf("%w: from a node to itself, or of no node", ErrReassign)
	}
	return nil
}

// SeatAt returns the seat with this x, or nil. The pointer is into m.
func (m *Manifest) SeatAt(x uint8) *Seat {
	for i := range m.Seats {
		if m.Seats[i].X == x && x != 0 {
			return &m.Seats[i]
		}
	}
	return nil
}

// Placement says who holds the seats of a manifest after its Reassigns. Not safe
// for concurrent use while it is added to.
type Placement struct {
	m     *SignedManifest
	alone bool
	moves []*SignedReassign // of all seats, each chain in order
}

// NewPlacement is the placement that the manifest itself gives. alone says that
// its owner's signature alone satisfies its policy: elsewhere no Reassign by the
// owner counts, or its key would read what the policy keeps from it (SPEC.md).
func NewPlacement(m *SignedManifest, alone bool) *Placement {
	return &Placement{m: m, alone: alone}
}

// Moves are the valid Reassigns, each seat's in order. Not to be changed.
func (p *Placement) Moves() []*SignedReassign { return p.moves }

// Last is the newest Reassign of a seat, or nil.
func (p *Placement) Last(x uint8) *SignedReassign {
	for _, r := range slices.Backward(p.moves) {
		if r.X == x {
			return r
		}
	}
	return nil
}

// Holder is the node that holds the seat now; zero when x is no seat.
func (p *Placement) Holder(x uint8) key.NodeID {
	if r := p.Last(x); r != nil {
		return r.New
	}
	if s := p.m.SeatAt(x); s != nil {
		return s.Node
	}
	return key.NodeID{}
}

// SeatOf is the seat that a node holds now, or 0.
func (p *Placement) SeatOf(node key.NodeID) uint8 {
	for _, s := range p.m.Seats {
		if p.Holder(s.X) == node {
			return s.X
		}
	}
	return 0
}

// Had reports whether the node has or had a seat other than x: it cannot be given
// x.
func (p *Placement) Had(node key.NodeID, x uint8) bool {
	return slices.ContainsFunc(p.m.Seats, func(s Seat) bool { return s.X != x && p.held(node, s.X) })
}

// held reports whether the node holds the seat or did before.
func (p *Placement) held(node key.NodeID, x uint8) bool {
	if s := p.m.SeatAt(x); s != nil && s.Node == node {
		return true
	}
	return slices.ContainsFunc(p.moves, func(r *SignedReassign) bool { return r.X == x && r.New == node })
}

// Seats are the manifest's with the nodes that hold them now. The result is
// the caller's.
func (p *Placement) Seats() []Seat {
	out := slices.Clone(p.m.Seats)
	for i := range out {
		out[i].Node = p.Holder(out[i].X)
	}
	return out
}

// Placed is the manifest with the nodes that hold the seats now; its object and
// hash are those of the original. It is for finding holders: certificates are
// judged by the original.
func (p *Placement) Placed() *SignedManifest {
	if len(p.moves) == 0 {
		return p.m
	}
	c := *p.m
	c.Seats = p.Seats()
	return &c
}

// Add takes in a Reassign that [OpenReassign] verified for this manifest: the
// next of its seat, by the owner where its word is enough, or by w seats where
// the manifest lets them.
// The node that gets the seat must never have had another one of this manifest:
// nobody may come to know two rows. Of two with the same seq the owner's is
// taken, else the one with the smaller hash; what came after the other goes. It
// reports whether anything changed; errors wrap [ErrReassign].
func (p *Placement) Add(r *SignedReassign) (bool, error) {
	if slices.ContainsFunc(p.moves, func(o *SignedReassign) bool { return o.Hash == r.Hash }) {
		return false, nil
	}
	rest := NewPlacement(p.m, p.alone)
	for _, o := range p.moves {
		if o.X == r.X && o.Seq >= r.Seq {
			if o.Seq == r.Seq && !before(r, o) {
				return false, fmt.Errorf("%w: seat %d has another one of seq %d", ErrReassign, r.X, r.Seq)
			}
			continue
		}
		rest.moves = append(rest.moves, o)
	}
	if err := rest.next(r); err != nil {
		return false, err
	}
	p.moves = append(rest.moves, r)
	return true, nil
}

// Open takes in a Reassign of these bytes. Its signatures are verified last: not
// of one that changes nothing here, or would be refused with good ones, and only
// of the owner or of nodes that hold or held a seat, so that nobody else makes a
// node verify. It returns nil for one that changes nothing or does not count
// here; an error, wrapping [ErrReassign], means bytes that nobody honest shows.
func (p *Placement) Open(net key.NetworkID, b []byte) (*SignedReassign, error) {
	if slices.ContainsFunc(p.moves, func(r *SignedReassign) bool { return bytes.Equal(r.bytes, b) }) {
		return nil, nil
	}
	r, err := ReadReassign(net, b, p.m)
	if err != nil {
		return nil, err
	}
	next := NewPlacement(p.m, p.alone)
	next.moves = p.moves
	if changed, err := next.Add(r); err != nil || !changed || !p.seated(r) {
		return nil, nil
	}
	if r, err = OpenReassign(net, b, p.m); err != nil {
		return nil, err
	}
	p.moves = next.moves
	return r, nil
}

// seated reports whether each of the nodes that are said to have signed holds or
// held a seat.
func (p *Placement) seated(r *SignedReassign) bool {
	return !slices.ContainsFunc(r.Signers, func(node key.NodeID) bool {
		return !slices.ContainsFunc(p.m.Seats, func(s Seat) bool { return p.held(node, s.X) })
	})
}

// before reports which of two Reassigns of one seat and seq counts.
func before(a, b *SignedReassign) bool {
	if a.ByOwner != b.ByOwner {
		return a.ByOwner
	}
	return bytes.Compare(a.Hash[:], b.Hash[:]) < 0
}

// next checks that r follows what is here.
func (p *Placement) next(r *SignedReassign) error {
	var seq uint64
	var prev key.Hash
	if last := p.Last(r.X); last != nil {
		seq, prev = last.Seq, last.Hash
	}
	switch {
	case r.Seq != seq+1 || r.Prev != prev:
		return fmt.Errorf("%w: seq %d does not follow %d", ErrReassign, r.Seq, seq)
	case r.Old != p.Holder(r.X):
		return fmt.Errorf("%w: seat %d is not held by the node it is taken from", ErrReassign, r.X)
	case len(p.moves) >= MaxReassigns:
		return fmt.Errorf("%w: more than %d of one manifest", ErrReassign, MaxReassigns)
	}
	if p.Had(r.New, r.X) {
		return fmt.Errorf("%w: the node has or had another seat", ErrReassign)
	}
	switch {
	case !r.ByOwner:
		return p.quorum(r)
	case !p.alone:
		return fmt.Errorf("%w: the policy wants more than the owner's word", ErrReassign)
	}
	return nil
}

// quorum checks that w seats signed, in a manifest that lets them.
func (p *Placement) quorum(r *SignedReassign) error {
	if p.m.Repair != RepairQuorum {
		return fmt.Errorf("%w: not signed by the owner", ErrReassign)
	}
	if have := p.Signed(r); have < int(p.m.W) {
		return fmt.Errorf("%w: signed by %d of %d seats", ErrReassign, have, p.m.W)
	}
	if !slices.Contains(p.m.Standby, r.New) {
		return fmt.Errorf("%w: the node is no standby of the owner's", ErrReassign)
	}
	moved := 0
	for _, o := range p.moves {
		moved += btoi(!o.ByOwner && o.Epoch == r.Epoch)
	}
	if moved >= p.m.N()-int(p.m.K) {
		return fmt.Errorf("%w: %d seats moved in this epoch already", ErrReassign, moved)
	}
	return nil
}

// Signed counts the seats whose holder, now or before, signed r: of a Reassign
// that came late, other seats may have gone on meanwhile. SPEC.md has the bound.
func (p *Placement) Signed(r *SignedReassign) int {
	n := 0
	for _, s := range p.m.Seats {
		n += btoi(slices.ContainsFunc(r.Signers, func(node key.NodeID) bool { return p.held(node, s.X) }))
	}
	return n
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
