package keystore

import (
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Refresh at a holder (protocol.md section 9, custody/SPEC.md "Refresh"): how the
// rows of a committed version become others of the same value without anybody
// knowing it. The order of what follows was model-checked (models/refresh2.pml,
// epochack.pml): every seat keeps its old row until w seats have signed that the
// new one is in force; it acknowledges one bundle a round, in rising rounds; an
// acknowledgement forbids committing earlier rounds; and a seat that committed
// acknowledges only the same dealings again, until an Epoch of a higher round
// shows it that others have won.

// Rounds are bounded by time: one a second since the manifest was made, and some.
// A dealer signs for any, and a seat that has acknowledged a high one takes no
// lower one any more: a liar could use all of them up for ever. What it can use
// up so is used up for [roundSlack].
const (
	freeRounds = 1024
	roundSlack = 600 // seconds by which honest clocks differ
)

// lastRound is the highest round that a coordinator proposes or believes.
func (v *version) lastRound(now uint64) uint64 {
	return freeRounds + max(now, v.Created) - v.Created
}

// maxDealt is how many new rows of rounds that are not over are kept.
const maxDealt = 4

// refreshing is a refresh of a version that is not over here. Immutable: a step
// copies what it changes.
type refreshing struct {
	epoch  uint32   // that its rounds lead to
	round  uint64   // the highest acknowledged or committed in
	bundle key.Hash // H(bundle) acknowledged in that round; zero: committed without
	// dealt are the rows here that are not in force, oldest first.
	dealt []dealtRow
	// now are the dealings of the row in force; zero until it is of this epoch.
	now dealtRow
	// base is what was in force before and is kept until w seats have committed.
	base *baseRow
	// ahead is an Epoch that others have and of which no row can be made here.
	ahead *share.OpenedEpoch
	// committed are the words of other seats that now is in force, by seat.
	committed []seatWord
}

// dealtRow is a row that bundles with these dealings lead to.
type dealtRow struct {
	_      struct{} `cbor:",toarray"`
	Dealt  key.Hash // share.DealtHash
	Bundle key.Hash // H(bundle) in which it was proposed last
	Size   uint64   // of what is kept to pass on, bytes
}

type baseRow struct {
	epoch uint32
	proof *share.OpenedEpoch // nil for epoch 0
}

// seatWord is a Committed over H(bundle).
type seatWord struct {
	_    struct{} `cbor:",toarray"`
	X    uint8
	Word []byte
}

func (r *refreshing) clone() *refreshing {
	c := *r
	c.dealt, c.committed = slices.Clone(r.dealt), slices.Clone(r.committed)
	return &c
}

// of returns the row that dealings lead to, if it is here beside the one in
// force.
func (r *refreshing) of(dealt key.Hash) *dealtRow {
	if r == nil {
		return nil
	}
	for i := range r.dealt {
		if r.dealt[i].Dealt == dealt {
			return &r.dealt[i]
		}
	}
	return nil
}

// size is what the refresh of a version is charged with, in bytes.
func (s *stored) refreshSize() int64 {
	n := int64(0)
	if s.proof != nil {
		n += int64(len(s.proof.Bytes))
	}
	r := s.refresh
	if r == nil {
		return n
	}
	row := int64(s.K) * share.DataKeySize
	for _, d := range r.dealt {
		n += row + int64(d.Size)
	}
	n += int64(r.now.Size)
	if r.base != nil {
		n += row
		if r.base.proof != nil {
			n += int64(len(r.base.proof.Bytes))
		}
	}
	for _, w := range r.committed {
		n += int64(len(w.Word))
	}
	return n
}

// Places of what a refresh keeps beside the row in force.
func basePlace(e *stored) share.Place {
	return share.Place{Bucket: share.BucketRow, ID: e.ID, Gen: e.Gen, Epoch: e.refresh.base.epoch, X: e.x, Sub: e.Hash}
}

func dealtPlace(e *stored, d dealtRow) share.Place {
	return share.Place{Bucket: share.BucketRow, ID: e.ID, Gen: e.Gen, Epoch: e.refresh.epoch, X: e.x, Sub: d.Dealt}
}

// dealingsPlace is of the bundle and boxes that are passed on.
func dealingsPlace(e *stored, d dealtRow) share.Place {
	return share.Place{Bucket: share.BucketPass, ID: e.ID, Gen: e.Gen, Epoch: e.refresh.epoch, X: e.x, Sub: d.Dealt}
}

// dropRefresh deletes what a refresh keeps beside the row in force, but for the
// dealings that the row in force is of when these are to stay.
func (w *writes) dropRefresh(e *stored, keepNow bool) {
	r := e.refresh
	if r == nil {
		return
	}
	for _, d := range r.dealt {
		w.put(dealtPlace(e, d), nil)
		w.put(dealingsPlace(e, d), nil)
	}
	if !r.now.Dealt.IsZero() && !keepNow {
		w.put(dealingsPlace(e, r.now), nil)
	}
	if r.base != nil {
		w.put(basePlace(e), nil)
	}
}

// holds is who holds a seat of a version, or held it, as this holder knows.
func (s *secretState) holds(v *version) share.Holds {
	return func(x uint8, node key.NodeID) bool {
		if v.Seated(x, node) {
			return true
		}
		return slices.ContainsFunc(s.moves, func(m *move) bool {
			return m.Manifest == v.Hash && m.active && m.X == x && m.New == node
		})
	}
}

// sits is who holds a seat now: whose words count before an old row goes. Of a
// seat that was given away they are the new holder's.
func (s *secretState) sits(v *version) share.Holds {
	return func(x uint8, node key.NodeID) bool { return s.holderOf(v, x) == node }
}

// isOrWas reports whether the node holds a seat of a version or held one.
func (s *secretState) isOrWas(v *version, node key.NodeID) bool {
	holds := s.holds(v)
	return slices.ContainsFunc(v.Seats, func(seat share.Seat) bool { return holds(seat.X, node) })
}

// refreshed is the committed version if its rows can be refreshed here, or why
// not.
func (s *secretState) refreshed(f holderFacts, manifest key.Hash) (*stored, string) {
	e := s.committed
	switch {
	case e == nil || e.Hash != manifest:
		return nil, "another generation is committed here"
	case s.kept != nil:
		return nil, "a newer generation is certified"
	case s.behind(f):
		return nil, "this node's disk was put back, and what it signed before is not known yet"
	case e.x == 0 || !e.row || s.seatAt(e.version, f.self) != e.x:
		return nil, "the row is not here"
	case s.covered(e.Gen) || e.expired(f.now):
		return nil, "the generation is deleted or has expired"
	}
	return e, ""
}

// standing is what this seat tells of itself to other seats. dealings are the
// kept bundle of the row in force.
func (s *secretState) standing(e *stored, dealings *custody.Dealings) *custody.Standing {
	out := &custody.Standing{Epoch: e.epoch, Over: true}
	if e.proof != nil {
		out.Proof = e.proof.Bytes
	}
	r := e.refresh
	if r == nil {
		return out
	}
	out.Over = r.base == nil
	if r.epoch > e.epoch || r.base != nil {
		out.Round = r.round
	}
	if r.ahead != nil {
		out.Proof = r.ahead.Bytes
	} else if dealings != nil && r.base != nil {
		out.Bundle = dealings.Bundle
	}
	return out
}

// ackMsg is a BUNDLE that was verified for this seat: its signatures, the
// dealings' rows for it, and the row that they make of the one in force.
type ackMsg struct {
	bundle *share.OpenedBundle
	bytes  []byte
	row    shamir.Row // the new row
	// proof is an Epoch of these dealings in an earlier round; may be nil.
	proof *share.OpenedEpoch
}

// acknowledge promises a bundle: the new row is on disk, and no earlier round is
// committed any more. The result has ack set.
func (s *secretState) acknowledge(f holderFacts, q ackMsg) stepResult {
	e, why := s.refreshed(f, q.bundle.Manifest)
	if e == nil {
		return refuse(custody.Refused, "%s", why)
	}
	for i, seat := range s.planned(e.version).Seats() {
		if q.bundle.Opened[0].Nodes[i] != seat.Node {
			return refuse(custody.Refused, "the seat x = %d was given to another node", seat.X)
		}
	}
	r, res := e.mayAcknowledge(f.now, q.bundle, q.proof)
	if res.outcome != custody.OK {
		return res
	}
	ack, err := e.ackOf(q.bundle.Hash, q.bundle.Epoch, q.bundle.Round, q.row)
	if err != nil {
		return refuse(custody.Failed, "the row here cannot be evaluated")
	}
	if r != nil && r.round == q.bundle.Round {
		return stepResult{outcome: custody.OK, ack: ack} // the same again
	}
	next := s.clone()
	mine := *e
	next.committed = &mine
	var w writes
	mine.promiseRow(r, q, &w)
	if grows := next.size() - s.size(); grows > 0 {
		if why := f.full(demand{mine.operator, mine.Owner, grows, true}); why != "" {
			return refuse(custody.Full, "%s", why)
		}
	}
	return stepResult{next: next, writes: w.list, outcome: custody.OK, ack: ack}
}

// mayAcknowledge says whether a bundle may be acknowledged, and returns the
// refresh that it belongs to, nil for a new one. Proof is an Epoch of its dealings
// in an earlier round, or nil.
func (e *stored) mayAcknowledge(now uint64, b *share.OpenedBundle, proof *share.OpenedEpoch) (*refreshing, stepResult) {
	r := e.refresh
	over := r == nil || r.base == nil
	switch {
	case over && b.Epoch != e.epoch+1:
		return nil, refuse(custody.Conflict, "epoch %d is in force here", e.epoch)
	case !over && b.Epoch != e.epoch:
		return nil, refuse(custody.Conflict, "the refresh to epoch %d is not over here", e.epoch)
	case !over && b.Dealt != r.now.Dealt && (proof == nil || proof.Round <= e.proof.Round):
		return nil, refuse(custody.Conflict, "other dealings are in force here")
	case r != nil && r.ahead != nil:
		return nil, refuse(custody.Conflict, "others have a row of epoch %d", r.ahead.Number())
	}
	if last := e.lastRound(now); b.Round > last+roundSlack {
		return nil, refuse(custody.Refused, "round %d is above %d, the last that time allows", b.Round, last)
	}
	if over && (r == nil || r.epoch != b.Epoch) {
		return nil, stepResult{outcome: custody.OK}
	}
	if b.Round < r.round || b.Round == r.round && b.Hash != r.bundle {
		return nil, refuse(custody.Conflict, "round %d was acknowledged here", r.round)
	}
	return r, stepResult{outcome: custody.OK}
}

// promiseRow notes the new row in a version that is the caller's to change.
func (e *stored) promiseRow(r *refreshing, q ackMsg, w *writes) {
	if r == nil {
		w.dropRefresh(e, false) // of the refresh before, which is over
		r = &refreshing{epoch: q.bundle.Epoch}
	}
	r = r.clone()
	e.refresh = r
	r.round, r.bundle = q.bundle.Round, q.bundle.Hash
	if r.now.Dealt == q.bundle.Dealt {
		r.now.Bundle = q.bundle.Hash
		return
	}
	if d := r.of(q.bundle.Dealt); d != nil {
		d.Bundle = q.bundle.Hash
		return
	}
	if len(r.dealt) >= maxDealt {
		w.put(dealtPlace(e, r.dealt[0]), nil)
		w.put(dealingsPlace(e, r.dealt[0]), nil)
		r.dealt = r.dealt[1:]
	}
	rec := key.Marshal(&custody.Dealings{Bundle: q.bytes})
	d := dealtRow{Dealt: q.bundle.Dealt, Bundle: q.bundle.Hash, Size: uint64(len(rec))}
	r.dealt = append(r.dealt, d)
	w.put(dealtPlace(e, d), q.row.Encode())
	w.put(dealingsPlace(e, d), rec)
}

// ackOf is the acknowledgement of a row for this seat.
func (e *stored) ackOf(bundle key.Hash, epoch uint32, round uint64, row shamir.Row) (*share.EpochAck, error) {
	enc := row.Encode()
	defer clear(enc)
	a := &share.EpochAck{Manifest: e.Hash, Bundle: bundle, Epoch: epoch, Round: round, X: e.x}
	a.C = share.RowCommitment(e.Context(), e.x, e.K, enc)
	for _, seat := range e.Seats {
		var t key.Hash
		if seat.X != e.x {
			v, err := row.Help(seat.X)
			if err != nil {
				return nil, err
			}
			t = share.PairTag(bundle, e.x, seat.X, v)
			clear(v)
		}
		a.Pairs = append(a.Pairs, t)
	}
	return a, nil
}
