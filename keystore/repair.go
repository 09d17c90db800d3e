package keystore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// RepairOptions are the wishes of a repair.
type RepairOptions struct {
	// To are the nodes that take the seats of holders that are gone, in this
	// order; beyond them, or empty: the standbys of the manifest, then placement's
	// choice. With To the seats of all holders that cannot be reached are moved;
	// without, only of those that are revoked, or that more seats suspect than
	// may lie.
	To []key.NodeID
	// Timeout is how long to wait for the seats to be whole; 0: [DefaultTimeout].
	// What was begun goes on without the caller.
	Timeout time.Duration
}

// Move is a seat that was given to another node.
type Move struct {
	X        uint8
	From, To key.NodeID
}

// Repaired says how the seats of a secret stand after a repair.
type Repaired struct {
	Name     string
	ID       key.Hash
	Manifest key.Hash
	Gen      uint64
	Epoch    uint32
	N, K, W  int
	Seats    []SeatState // as of [Verified]
	Good     int
	Moved    []Move
	Liars    []BadRow // seats that showed what proves nothing
	Notes    []string // consequences, in words
}

// Repair brings the seats of the latest generation back: it tells holders that
// lack their row to get it from the others, and gives seats of holders that are
// gone to other nodes by the owner's Reassign (protocol.md section 8). The row
// comes into being at its holder alone; the secret is nowhere, and not here. It
// returns once all seats are good that can be, or the timeout ends.
//
// Errors: those of [Store.Verify]; [ErrInput] for a node of To that cannot take
// a seat; [ErrDenied] when seats have to move and the person is not the owner, or
// the policy wants more than the owner's word.
func (s *Store) Repair(ctx context.Context, p Person, name string, o RepairOptions) (*Repaired, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return nil, err
	}
	defer h.done()
	asked := ctx
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	release, err := s.locks.take(ctx, h.id)
	if err != nil {
		return nil, fmt.Errorf("%w: another change of it is under way", ErrTimeout)
	}
	defer release()
	r, err := s.proofs(ctx, p, h)
	if err != nil {
		if ctx.Err() != nil && asked.Err() == nil && !r.stated(err) {
			err = fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		return nil, err
	}
	f := &fixing{s: s, r: r, o: o, out: &Repaired{}}
	v := r.verified(name)
	if err := f.move(v); err != nil {
		return nil, err
	}
	if v.Good < v.N {
		v = f.heal(ctx, name, v)
	}
	return f.result(v), nil
}

// fixing is one repair under way.
type fixing struct {
	s     *Store
	r     *rehearsing
	o     RepairOptions
	from  key.NodeID // not zero: the seat of this node is to be moved, and no other
	moves [][]byte   // Reassigns that were signed here
	out   *Repaired
}

// move signs Reassigns for the seats of holders that are gone.
func (f *fixing) move(v *Verified) error {
	place := f.r.view.placement(f.r.use)
	var gone []SeatState
	for _, st := range v.Seats {
		if f.gone(st) {
			gone = append(gone, st)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if f.r.p.Key.Public() != f.r.use.Owner {
		return fmt.Errorf("%w: only the owner moves seats", ErrDenied)
	}
	if err := errNotAlone(&f.r.use.Manifest); err != nil {
		return err
	}
	for _, st := range gone {
		to, err := f.target(place, st)
		if err != nil {
			return err
		}
		if to.IsZero() {
			f.out.Notes = append(f.out.Notes, fmt.Sprintf("no node can take the seat of %s now", st.Name))
			continue
		}
		if err := f.give(place, st, to); err != nil {
			return err
		}
	}
	return nil
}

// errNotAlone says why the owner's word moves no seat of a version; nil: it does.
func errNotAlone(m *share.Manifest) error {
	switch {
	case ownerAlone(m):
		return nil
	case m.Repair == share.RepairQuorum:
		return fmt.Errorf("%w: its seats do, two days after a holder is gone, and the next generation (keyctl reshare or put) has other holders", ErrNotAlone)
	}
	return fmt.Errorf("%w: the next generation has other holders (keyctl reshare or put; for another policy those consent whom this one names)", ErrNotAlone)
}

// gone: the seat is to be moved.
func (f *fixing) gone(st SeatState) bool {
	if !f.from.IsZero() {
		return st.Node == f.from
	}
	if st.State != "unreachable" {
		return false
	}
	m, member := f.r.roster[st.Node]
	return len(f.o.To) > 0 || !member || m.Revoked || f.r.view.suspectedBy(f.r.use, st.X) > f.r.use.F()
}

// target is the node that takes the seat; zero: none can.
func (f *fixing) target(place *share.Placement, st SeatState) (key.NodeID, error) {
	if len(f.o.To) > 0 {
		id := f.o.To[0]
		f.o.To = f.o.To[1:]
		if why := f.unfit(place, st, id); why != "" {
			return key.NodeID{}, fmt.Errorf("%w: %s cannot take the seat of %s: %s", ErrInput, f.r.roster.name(id), st.Name, why)
		}
		return id, nil
	}
	return f.choice(place, st), nil
}

// choice is the standby or the node of the best rank that can take the seat;
// zero: none can.
func (f *fixing) choice(place *share.Placement, st SeatState) key.NodeID {
	pl := &placing{index: &f.r.h.index, id: f.r.h.id, self: f.s.self, roster: f.r.roster}
	candidates := slices.Clone(f.r.use.Standby)
	for _, m := range pl.ranked() {
		candidates = append(candidates, m.ID)
	}
	for _, id := range candidates {
		if f.unfit(place, st, id) == "" {
			return id
		}
	}
	return key.NodeID{}
}

// unfit says why a node cannot take the seat; empty: it can.
func (f *fixing) unfit(place *share.Placement, st SeatState, id key.NodeID) string {
	m, member := f.r.roster[id]
	switch {
	case !member || m.Revoked || !m.Holder || m.Lapsed:
		return "it is no holder of this network"
	case m.draining:
		return "it is being drained"
	case !ready(m):
		return "it cannot be reached or takes no seats"
	case place.Had(id, st.X):
		return "it has or had another seat of this secret"
	case f.r.use.Colocated:
		return ""
	}
	zones := 0
	for _, seat := range place.Seats() {
		other := f.r.roster[seat.Node]
		if other.ID = seat.Node; seat.X == st.X {
			continue
		}
		if operator(other) == operator(m) {
			return operator(m) + " holds a seat already"
		}
		zones += btoi(zone(other) == zone(m))
	}
	if limit := (shape{n: f.r.use.N(), k: int(f.r.use.K)}).zoneLimit(); zones >= limit {
		return fmt.Sprintf("%s holds %d seats already", zone(m), zones)
	}
	return ""
}

// give signs the Reassign.
func (f *fixing) give(place *share.Placement, st SeatState, to key.NodeID) error {
	named := f.r.view.named(f.r.use)
	m := share.Reassign{Manifest: named.Hash, Epoch: f.epoch(), X: st.X, Seq: 1, Old: place.Holder(st.X), New: to, Time: unix()}
	if last := place.Last(st.X); last != nil {
		m.Seq, m.Prev = last.Seq+1, last.Hash
	}
	b, err := share.JoinReassign(share.SignReassign(f.r.p.Key, f.s.cfg.ID, m))
	if err != nil {
		return err
	}
	signed, err := share.OpenReassign(f.s.cfg.ID, b, named)
	if err == nil {
		_, err = place.Add(signed)
	}
	if err != nil {
		return fmt.Errorf("giving a seat to %s: %w", f.r.roster.name(to), err)
	}
	f.moves = append(f.moves, b)
	f.out.Moved = append(f.out.Moved, Move{X: st.X, From: m.Old, To: to})
	return f.r.view.learnMoves(named.Hash, [][]byte{b})
}

// epoch is that of the seats, as far as they say.
func (f *fixing) epoch() uint32 { return f.r.epoch() }

// healPoll is how often the seats are asked while a repair waits for them.
const healPoll = 2 * time.Second

// heal tells the seats what is in force and asks them for proofs until all that
// can be reached are good.
func (f *fixing) heal(ctx context.Context, name string, v *Verified) *Verified {
	f.tell(ctx)
	for {
		select {
		case <-ctx.Done():
			return v
		case <-time.After(healPoll):
		}
		f.r.use, f.r.roster = f.r.view.placed(f.r.use), f.s.roster()
		if next, err := f.r.ask(ctx); err != nil || next != nil || ctx.Err() != nil {
			return v // something newer is there, or the time is over
		}
		if v = f.r.verified(name); !slices.ContainsFunc(v.Seats, func(st SeatState) bool {
			return st.State != "good" && st.State != "unreachable"
		}) {
			return v
		}
	}
}

// tell sends REASSIGN to all that hold or held a seat: the certificate, every
// Reassign, and that what is missing is to be repaired now.
func (f *fixing) tell(ctx context.Context) {
	c := f.r.view.certs[f.r.use.Hash]
	if c == nil {
		return
	}
	placed := f.r.view.placed(f.r.use)
	var nodes []key.NodeID
	for _, m := range []*share.SignedManifest{placed, c.m} {
		for _, seat := range m.Seats {
			if !slices.Contains(nodes, seat.Node) && !f.r.roster.gone(seat.Node) {
				nodes = append(nodes, seat.Node)
			}
		}
	}
	body := f.r.view.order(c)
	gather(ctx, f.s, f.r.roster, nodes, func(ctx context.Context, id key.NodeID) (*custody.CommitReply, error) {
		reply := new(custody.CommitReply)
		return reply, f.s.callWithin(ctx, callTimeout, id, custody.VerbReassign, body, reply)
	}, func(id key.NodeID, reply *custody.CommitReply, err error) bool {
		if err == nil {
			_ = f.r.view.learnMoves(c.m.Hash, reply.Reassigns)
		}
		if err == nil && reply.Outcome == custody.Full {
			f.out.Notes = append(f.out.Notes, f.r.roster.name(id)+" has no room for the seat")
		}
		return false
	})
}

// order is the REASSIGN that says what is in force.
func (v *view) order(c *certified) []byte {
	msg := &custody.Commit{Manifest: c.m.Bytes(), Cert: c.cert, Before: c.beforeBytes()}
	for _, m := range v.placement(c.m).Moves() {
		msg.Reassigns = append(msg.Reassigns, m.Bytes())
	}
	return key.Marshal(msg)
}

// result says what came of it.
func (f *fixing) result(v *Verified) *Repaired {
	o := f.out
	o.Name, o.ID, o.Manifest, o.Gen, o.Epoch, o.N, o.K, o.W = v.Name, v.ID, v.Manifest, v.Gen, v.Epoch, v.N, v.K, v.W
	o.Seats, o.Good = v.Seats, v.Good
	for _, st := range v.Seats {
		if st.State == "corrupt" && f.r.proofs[st.Node] != nil {
			o.Liars = append(o.Liars, BadRow{Node: st.Node, Name: st.Name, Why: st.Why})
		}
	}
	slices.SortFunc(o.Moved, func(a, b Move) int { return bytes.Compare([]byte{a.X}, []byte{b.X}) })
	if note := f.r.view.ordering(f.r.use, f.r.roster); note != "" {
		o.Notes = append(o.Notes, note)
	}
	return o
}

// orderers counts the nodes that the manifest itself names and that can be
// reached, and how many of them the next put needs; moved: others hold some of
// its seats now.
func (v *view) orderers(m *share.SignedManifest, r roster) (up, need int, moved bool) {
	named := v.named(m)
	for _, s := range named.Seats {
		up += btoi(r[s.Node].Online && !r.gone(s.Node))
	}
	return up, share.PrevNeed(&named.Manifest, r.gone), len(v.placement(m).Moves()) > 0
}

// ordering says in words how many of the nodes that the manifest itself names
// may still go before nothing can be put any more, when seats were moved.
func (v *view) ordering(m *share.SignedManifest, r roster) string {
	named := v.named(m)
	up, need, moved := v.orderers(m, r)
	if !moved {
		return ""
	}
	if up < need {
		return fmt.Sprintf("seats were moved: a put needs %d of the %d holders that generation %d was put with, and %d can be reached; remove those that are gone from the network (peer remove), or read it by its number, delete it and put it anew", need, named.N(), named.Gen, up)
	}
	return fmt.Sprintf("seats were moved: a put needs %d of the %d holders that generation %d was put with, and %d more may go before none is possible; a put or reshare makes the new holders count", need, named.N(), named.Gen, up-need)
}
