package keystore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Verified says how the seats of a secret stand, by proofs.
type Verified struct {
	Name     string
	ID       key.Hash
	Manifest key.Hash
	Gen      uint64
	Epoch    uint32
	N, K, W  int
	// Seats by x. State is one of: good (the seat has proven its row and the
	// ciphertext), stale (an older generation is there), corrupt (row or
	// ciphertext is damaged, or what it shows proves nothing), missing,
	// unreachable, unproven (too few seats answered to tell).
	Seats []SeatState
	Good  int
}

// Verify asks each seat of the latest generation to prove that its row and the
// ciphertext are there, and that the row is the one that the owner committed
// to: by tags that only two seats' rows give (SPEC.md of package custody,
// "Rehearsal"). A seat's own word is never enough to be called good. Nothing is
// released. timeout 0 is [DefaultTimeout].
//
// Errors: those of [Store.Recover] up to the point where seats are asked.
func (s *Store) Verify(ctx context.Context, p Person, name string, timeout time.Duration) (*Verified, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return nil, err
	}
	defer h.done()
	asked := ctx
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	r, err := s.proofs(ctx, p, h)
	if err != nil {
		if ctx.Err() != nil && asked.Err() == nil && !r.stated(err) {
			err = fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		return nil, err
	}
	out := r.verified(name)
	if out.Good == out.N {
		s.touch(out.ID, func(m *readerMark) *uint64 { return &m.LastVerified })
	}
	return out, nil
}

// proofs asks all nodes what they have and then the seats of the latest
// generation for their proofs.
func (s *Store) proofs(ctx context.Context, p Person, h *secret) (*rehearsing, error) {
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	r := &rehearsing{reading: g, proofs: make(map[key.NodeID]*custody.Proof), seats: make(map[key.NodeID]SeatState)}
	if err := g.ask(ctx); err != nil {
		return r, err
	}
	for range maxSwitches {
		next, err := r.ask(ctx)
		if err != nil {
			return r, err
		}
		if next == nil {
			break
		}
		g.use, g.roster = g.view.placed(next.m), s.roster()
	}
	return r, nil
}

// verified says what the proofs showed.
func (r *rehearsing) verified(name string) *Verified {
	m := &r.use.Manifest
	out := &Verified{Name: name, ID: m.ID, Manifest: r.use.Hash, Gen: m.Gen, Epoch: r.epoch(), N: m.N(), K: int(m.K), W: int(m.W)}
	proven := make(map[key.NodeID]bool)
	for _, seat := range r.proven() {
		proven[seat.Node] = true
	}
	payload := r.payload(proven)
	for _, seat := range m.Seats {
		st := r.seats[seat.Node]
		st.State, st.Why = r.standing(seat, len(proven) > 0, proven[seat.Node], payload)
		out.Good += btoi(st.State == "good")
		out.Seats = append(out.Seats, r.view.withSuspicion(r.use, st))
	}
	return out
}

// epoch is the epoch of the seats that have proven their rows, 0 when none has.
func (r *rehearsing) epoch() uint32 {
	for _, seat := range r.proven() {
		return r.proofs[seat.Node].Epoch
	}
	return 0
}

// payload is what proven seats with the right ciphertext show: the tag that
// this node makes itself when it has it, else the one that most show.
func (r *rehearsing) payload(proven map[key.NodeID]bool) key.Hash {
	if s, err := r.s.cust.peek(r.s.life, r.h.id); err == nil {
		if e := s.find(r.use.Hash); e != nil && e.row {
			if ct, err := r.s.cfg.Shelf.Load(payloadPlace(e)); err == nil && sha256.Sum256(ct) == r.use.Payload {
				return payloadTag(r.request.Hash, ct)
			}
		}
	}
	votes := make(map[key.Hash]int)
	var best key.Hash
	for node := range proven {
		if t := r.proofs[node].Payload; !t.IsZero() {
			if votes[t]++; votes[t] > votes[best] {
				best = t
			}
		}
	}
	return best
}

// standing is the state of one seat and why. any: enough seats proved their
// rows to one another for proofs to tell.
func (r *rehearsing) standing(seat share.Seat, any, proven bool, payload key.Hash) (state, why string) {
	st := r.seats[seat.Node]
	proof := r.proofs[seat.Node]
	switch {
	case proven && proof.Payload == payload && !payload.IsZero():
		return "good", ""
	case proven && proof.Payload.IsZero():
		return "corrupt", "its row is there and its ciphertext is not"
	case proven:
		return "corrupt", "its row is there and its ciphertext is another"
	case proof != nil && any && proof.Epoch < r.epoch():
		return "stale", fmt.Sprintf("is at epoch %d", proof.Epoch)
	case proof != nil && any:
		return "corrupt", st.Why
	case proof != nil:
		return "unproven", "too few seats answered to compare its proof with"
	case st.State == "bad":
		return "corrupt", st.Why
	case st.State == "unreachable":
		return "unreachable", st.Why
	}
	if h := r.view.held[seat.Node]; h != nil && h.gen < r.use.Gen && h.gen > 0 {
		return "stale", fmt.Sprintf("is at generation %d", h.gen)
	}
	return "missing", st.Why
}
