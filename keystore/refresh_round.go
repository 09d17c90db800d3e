package keystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// A seat that coordinates a refresh (protocol.md section 9): it asks how the
// seats stand, has k of them deal, proposes the dealings, makes an Epoch of the
// acknowledgements and hands that to its own seat, which passes it on like every
// seat that has one. A coordinator is trusted with nothing: it can only waste a
// round. Several at a time do no harm, since a seat acknowledges once a round.

const (
	// refreshCall is the patience for one answer.
	refreshCall = 10 * time.Second
	// maxRounds is how many rounds one attempt makes.
	maxRounds = 8
)

// errRefresh: an attempt did not end with an epoch in force; the next one may.
var errRefresh = errors.New("the rows were not refreshed")

// round is an attempt under way. One goroutine owns it.
type round struct {
	c        *custodian
	id       key.Hash
	state    *secretState
	e        *stored // the committed version here when the attempt began
	seats    []share.Seat
	number   uint64 // the highest round that was heard of
	dropped  map[uint8]string
	standing map[uint8]*custody.Standing
	// best is the Epoch of the highest round that is not in force everywhere,
	// and its bundle where a seat showed it.
	best       *share.OpenedEpoch
	bestBundle []byte
}

// askSeats sends one call to each of the seats at the same time, this node's own
// included, and returns the answers of those that gave one.
func askSeats[R any, P interface {
	*R
	key.Body
}](ctx context.Context, r *round, verb uint64, body func(share.Seat) key.Body) map[uint8]P {
	var mu sync.Mutex
	var g sync.WaitGroup
	out := make(map[uint8]P, len(r.seats))
	online := r.c.members.get(r.c.cfg.Network).online
	for _, seat := range r.seats {
		if seat.Node != r.c.self && !online[seat.Node] {
			continue // told when it is back
		}
		q := body(seat)
		if q == nil {
			continue
		}
		g.Go(func() {
			reply := P(new(R))
			if err := r.c.callSeat(ctx, seat.Node, verb, q, reply); err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[seat.X] = reply
		})
	}
	g.Wait()
	return out
}

// callSeat is a call of another node, or of this one without the network.
func (c *custodian) callSeat(ctx context.Context, node key.NodeID, verb uint64, q, reply key.Body) error {
	ctx, cancel := context.WithTimeout(ctx, refreshCall)
	defer cancel()
	var b []byte
	var err error
	if node == c.self {
		b, err = c.answer(ctx, c.self, verb, key.Marshal(q))
	} else {
		b, err = c.cfg.Network.Call(ctx, node, verb, key.Marshal(q))
	}
	if err != nil {
		return err
	}
	if len(b) > maxAnswer {
		return errAnswer
	}
	return key.Unmarshal(b, reply)
}

// attempt refreshes the rows of a committed version once. It returns the
// dealers that were dropped; errors wrap errRefresh.
func (c *custodian) attempt(ctx context.Context, id, manifest key.Hash) (map[uint8]string, error) {
	r := &round{c: c, id: id, dropped: make(map[uint8]string)}
	if err := r.look(ctx, manifest); err != nil {
		return nil, err
	}
	if r.e.refresh != nil && r.e.refresh.base != nil {
		// An epoch is in force that others may not know: that comes first.
		if err := r.finish(ctx, manifest); err != nil || r.e.refresh == nil || r.e.refresh.base == nil {
			return r.dropped, err
		}
	}
	target := r.e.epoch + 1
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return r.dropped, fmt.Errorf("%w: %w", errRefresh, err)
		}
		proof, err := r.propose(ctx, target)
		if err != nil {
			return r.dropped, err
		}
		if proof {
			return r.dropped, nil
		}
		if err := r.look(ctx, manifest); err != nil {
			return r.dropped, err
		}
		if r.e.epoch >= target {
			return r.dropped, nil // another coordinator was faster
		}
	}
	return r.dropped, fmt.Errorf("%w: %d rounds did not bring it about", errRefresh, maxRounds)
}

// look asks all seats how they stand, and takes in what is ahead of this one.
func (r *round) look(ctx context.Context, manifest key.Hash) error {
	if err := r.reload(ctx, manifest); err != nil {
		return err
	}
	replies := askSeats[custody.DealReply](ctx, r, custody.VerbDeal, func(share.Seat) key.Body {
		return &custody.Deal{ID: r.id, Manifest: manifest, Epoch: r.e.epoch + 1}
	})
	r.standing = make(map[uint8]*custody.Standing)
	for x, reply := range replies {
		if reply.Outcome == custody.OK && reply.Standing != nil {
			r.standing[x] = reply.Standing
			r.passed(reply.Standing.Round)
		}
	}
	for _, st := range r.standing {
		if len(st.Proof) == 0 || r.e.proof != nil && string(st.Proof) == string(r.e.proof.Bytes) {
			continue
		}
		proof, err := share.OpenEpoch(r.c.cfg.ID, st.Proof, r.e.SignedManifest, r.state.holds(r.e.version))
		if err != nil || proof.Number() < r.e.epoch {
			continue
		}
		r.better(proof, st.Bundle)
		q := &custody.Epoch{ID: r.id, Manifest: manifest, Epoch: st.Proof, Bundle: st.Bundle}
		if err := r.c.callSeat(ctx, r.c.self, custody.VerbEpoch, q, new(custody.EpochReply)); err != nil {
			return fmt.Errorf("%w: %w", errRefresh, err)
		}
	}
	if err := r.reload(ctx, manifest); err != nil {
		return err
	}
	if kept := r.c.dealings(r.e); kept != nil {
		r.better(r.e.proof, kept.Bundle)
	}
	return nil
}

// passed notes that a seat says to have acknowledged a round. No more can have
// passed than time allows.
func (r *round) passed(number uint64) {
	r.number = max(r.number, min(number, r.e.lastRound(unix())))
}

// better notes an Epoch with its bundle if it is of a higher round than the one
// that is noted.
func (r *round) better(proof *share.OpenedEpoch, bundle []byte) {
	if len(bundle) == 0 || share.BundleHash(r.c.cfg.ID, bundle) != proof.Bundle {
		return
	}
	if b := r.best; b == nil || proof.Number() > b.Number() || proof.Number() == b.Number() && proof.Round > b.Round {
		r.best, r.bestBundle = proof, bundle
	}
}

// reload reads how this seat stands now.
func (r *round) reload(ctx context.Context, manifest key.Hash) error {
	s, err := r.c.peek(ctx, r.id)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefresh, err)
	}
	e, why := s.refreshed(r.c.facts(r.c.self), manifest)
	if e == nil {
		return fmt.Errorf("%w: %s", errRefresh, why)
	}
	if e.refresh != nil && e.refresh.ahead != nil {
		return fmt.Errorf("%w: this seat has no row of epoch %d, which others have", errRefresh, e.refresh.ahead.Number())
	}
	r.state, r.e = s, e
	r.seats = s.placement(e.version).Seats()
	return nil
}

// finish passes on the epoch that is in force here; when seats that acknowledged
// later rounds refuse it, its dealings are proposed again in a round above.
func (r *round) finish(ctx context.Context, manifest key.Hash) error {
	for range maxRounds {
		r.c.passEpoch(ctx, r.id)
		if err := r.look(ctx, manifest); err != nil {
			return err
		}
		if r.e.refresh == nil || r.e.refresh.base == nil {
			return nil
		}
		b := new(share.RefreshBundle)
		if r.best == nil || r.best.Number() != r.e.epoch || ctx.Err() != nil || key.Unmarshal(r.bestBundle, b) != nil {
			break
		}
		r.number++
		b.Round = r.number
		if _, err := r.bundle(ctx, b, nil); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: epoch %d is not in force at enough seats", errRefresh, r.e.epoch)
}

// propose makes one round: k dealings, a bundle, acknowledgements, an Epoch. It
// reports whether one came about.
func (r *round) propose(ctx context.Context, target uint32) (bool, error) {
	ready := 0
	for _, st := range r.standing {
		ready += btoi(st.Epoch == r.e.epoch && st.Over)
	}
	if ready < int(r.e.W) {
		return false, fmt.Errorf("%w: %d of %d seats that are needed can take part", errRefresh, ready, r.e.W)
	}
	r.number++
	deals := r.deals(ctx, target)
	if len(deals) < int(r.e.K) {
		return false, fmt.Errorf("%w: %d of %d dealings", errRefresh, len(deals), r.e.K)
	}
	b := &share.RefreshBundle{Manifest: r.e.Hash, Epoch: target, Round: r.number}
	for _, d := range deals {
		b.Dealings = append(b.Dealings, d.object)
	}
	return r.bundle(ctx, b, deals)
}

// dealt is one dealer's dealing with the boxes.
type dealtBy struct {
	x      uint8
	object key.Object
	boxes  [][]byte
}

// deals asks dealers until k dealings are here, those that were dropped last.
// Ascending by x.
func (r *round) deals(ctx context.Context, target uint32) []dealtBy {
	var order []share.Seat
	for _, seat := range r.seats {
		if st := r.standing[seat.X]; st != nil && st.Epoch == r.e.epoch && st.Over {
			order = append(order, seat)
		}
	}
	slices.SortStableFunc(order, func(a, b share.Seat) int {
		return cmp.Compare(len(r.dropped[a.X]), len(r.dropped[b.X]))
	})
	var out []dealtBy
	for len(order) > 0 && len(out) < int(r.e.K) {
		n := min(int(r.e.K)-len(out), len(order))
		now := &round{c: r.c, seats: order[:n]}
		order = order[n:]
		replies := askSeats[custody.DealReply](ctx, now, custody.VerbDeal, func(share.Seat) key.Body {
			return &custody.Deal{ID: r.id, Manifest: r.e.Hash, Epoch: target, Round: r.number}
		})
		for x, reply := range replies {
			if d, ok := r.dealing(x, target, reply); ok {
				out = append(out, d)
			}
		}
	}
	slices.SortFunc(out, func(a, b dealtBy) int { return int(a.x) - int(b.x) })
	return out
}

// dealing checks what can be checked of a dealing by who is not meant by it.
func (r *round) dealing(x uint8, target uint32, reply *custody.DealReply) (dealtBy, bool) {
	if reply.Outcome != custody.OK || len(reply.Boxes) != r.e.N() {
		return dealtBy{}, false
	}
	o, err := key.DecodeObject(reply.Dealing)
	if err != nil {
		return dealtBy{}, false
	}
	d, err := share.OpenDealing(r.c.cfg.ID, o, r.e.SignedManifest, r.state.holds(r.e.version))
	if err != nil || d.X != x || d.Epoch != target || d.Round != r.number {
		return dealtBy{}, false
	}
	for i, b := range reply.Boxes {
		if len(b) > share.MaxDealtBox || len(b) > 0 && share.BoxHash(b) != d.Boxes[i] || len(b) == 0 && !d.Boxes[i].IsZero() {
			return dealtBy{}, false
		}
	}
	return dealtBy{x: x, object: o, boxes: reply.Boxes}, true
}

// bundle proposes dealings to all seats and, when enough of them acknowledge,
// puts the Epoch into force here and passes it on. deals is nil for dealings
// that are proposed again.
func (r *round) bundle(ctx context.Context, b *share.RefreshBundle, deals []dealtBy) (bool, error) {
	bytes := b.Encode()
	boxes := func(x uint8) [][]byte {
		at := r.e.SeatIndex(x)
		var out [][]byte
		for _, d := range deals {
			out = append(out, d.boxes[at])
		}
		return out
	}
	var earlier []byte
	if deals == nil {
		earlier = r.best.Bytes
	}
	replies := askSeats[custody.BundleReply](ctx, r, custody.VerbBundle, func(seat share.Seat) key.Body {
		return &custody.Bundle{ID: r.id, Manifest: r.e.Hash, Bundle: bytes, Boxes: boxes(seat.X), Proof: earlier}
	})
	epoch := r.gather(b, share.BundleHash(r.c.cfg.ID, bytes), replies)
	if epoch == nil {
		return false, nil
	}
	q := &custody.Epoch{ID: r.id, Manifest: r.e.Hash, Epoch: epoch.Encode(), Bundle: bytes}
	for _, seat := range r.seats {
		acked := slices.ContainsFunc(epoch.Acks, func(o key.Object) bool { return key.NodePublic(o.Key).ID() == seat.Node })
		if !acked && deals != nil {
			q.Boxes = append(q.Boxes, custody.SeatBoxes{X: seat.X, Boxes: boxes(seat.X)})
		}
	}
	return true, r.enact(ctx, q)
}

// gather makes an Epoch of the acknowledgements that agree, nil when they are too
// few, and notes the dealers that seats complained of.
func (r *round) gather(b *share.RefreshBundle, hash key.Hash, replies map[uint8]*custody.BundleReply) *share.Epoch {
	var acks []*share.EpochAck
	objects := make(map[uint8]key.Object)
	for x, reply := range replies {
		if reply.Standing != nil {
			r.passed(reply.Standing.Round)
		}
		for _, bad := range reply.Bad[:min(len(reply.Bad), custody.MaxDealers)] {
			r.dropped[bad] += fmt.Sprintf("its dealing of round %d fails at x = %d; ", b.Round, x)
		}
		o, err := key.DecodeObject(reply.Ack)
		if reply.Outcome != custody.OK || err != nil {
			continue
		}
		a, err := share.OpenEpochAck(r.c.cfg.ID, o, r.e.SignedManifest, r.state.holds(r.e.version))
		if err != nil || a.X != x || a.Bundle != hash || a.Epoch != b.Epoch || a.Round != b.Round {
			continue
		}
		acks, objects[x] = append(acks, a), o
	}
	slices.SortFunc(acks, func(a, b *share.EpochAck) int { return int(a.X) - int(b.X) })
	acks = share.Agreeing(&r.e.Manifest, acks)
	if len(acks) < int(r.e.W) {
		return nil
	}
	out := &share.Epoch{Manifest: b.Manifest, Bundle: hash, Epoch: b.Epoch, Round: b.Round}
	for _, a := range acks {
		out.Acks = append(out.Acks, objects[a.X])
	}
	return out
}

// enact tells the epoch to the seats, this one first, and passes on what they
// say. It fails when the epoch is not in force here; whether enough others have
// it is for passing on, which never gives up.
func (r *round) enact(ctx context.Context, q *custody.Epoch) error {
	reply := new(custody.EpochReply)
	if err := r.c.callSeat(ctx, r.c.self, custody.VerbEpoch, q, reply); err != nil {
		return fmt.Errorf("%w: %w", errRefresh, err)
	}
	if reply.Outcome != custody.OK {
		// This seat was not among those that acknowledged: they must hear of it
		// all the same.
		askSeats[custody.EpochReply](ctx, r, custody.VerbEpoch, func(share.Seat) key.Body {
			own := *q // encoding sets its version
			return &own
		})
		return fmt.Errorf("%w here: %.200s", errRefresh, reply.Why)
	}
	r.c.passEpoch(ctx, r.id)
	return nil
}
