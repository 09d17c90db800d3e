package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	// moveTries is how often a secret is looked at again when a put came between
	// or the node chosen has no room.
	moveTries = 4
	// How often the new holder is asked whether it has its row.
	movePollFirst = 30 * time.Millisecond // doubled up to
	movePollMost  = time.Second
	// leaveWait is how long the old holder is waited for to delete its row.
	leaveWait = 3 * time.Second
)

// seatMove is the move of one seat.
type seatMove struct {
	*mover
	h    *secret
	full map[key.NodeID]bool // have no room
	f    *fixing
	c    *certified
	x    uint8
	to   key.NodeID
	over bool // there is nothing to move
}

// secret moves the seat that a secret has at the node.
func (m *mover) secret(ctx context.Context, it Listed) (movedSeat, error) {
	h, err := m.s.secret(m.p, it.Name)
	if err != nil {
		return movedSeat{}, err
	}
	defer h.done()
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	v := &seatMove{mover: m, h: h, full: make(map[key.NodeID]bool)}
	for range moveTries {
		if err := v.order(ctx); err != nil || v.over {
			return movedSeat{}, err
		}
		switch err := v.await(ctx); {
		case errors.Is(err, errMovedOn):
			continue
		case err != nil:
			return movedSeat{}, err
		}
		man := &v.c.m.Manifest
		m.s.cust.note(ctx, AuditRecord{Kind: "move", ID: h.id, Person: h.owner, Node: v.to,
			Detail: fmt.Sprintf("seat %d of generation %d is at this node and not at %s any more", v.x, man.Gen, m.from)})
		return movedSeat{to: v.to, bytes: int64(man.K)*share.DataKeySize + int64(man.Length), still: !v.left(ctx), keeps: man.Keep > 0}, nil
	}
	return movedSeat{}, errors.New("it is written all the time, or the nodes chosen have no room")
}

// errMovedOn: what was ordered does not hold any more, or cannot be done.
var errMovedOn = errors.New("something newer is there")

// order looks at what is there, signs the Reassign and tells the holders, with
// the lock of the secret: no put of this node is between.
func (v *seatMove) order(ctx context.Context) error {
	release, err := v.s.locks.take(ctx, v.h.id)
	if err != nil {
		return fmt.Errorf("%w: another change of it is under way", ErrTimeout)
	}
	defer release()
	g := &reading{s: v.s, p: v.p, h: v.h, roster: v.s.rosterFor(v.p), view: v.s.newView(v.h.id), bad: make(map[key.NodeID]string)}
	l := v.s.locate(ctx, v.p, g.view, g.roster, g.roster.everyone(), func(l *located) bool {
		for id := range l.failed {
			if l.roster[id].Online {
				return false
			}
		}
		return true
	})
	if ctx.Err() != nil {
		return fmt.Errorf("%w: asking the holders what is there", ErrTimeout)
	}
	best, fork := g.view.latest()
	switch {
	case fork != nil:
		return forkError(best, fork)
	case best == nil || g.view.deleted(best.m.Gen) || expired(&best.m.Manifest):
		v.over = true
		return nil
	}
	if err := g.notBehind(l, best); err != nil {
		return err
	}
	g.use = g.view.placed(best.m)
	v.c, v.f = best, &fixing{s: v.s, r: &rehearsing{reading: g}, from: v.from, out: &Repaired{}}
	signed, err := v.give(l)
	if err != nil || v.over {
		return err
	}
	if signed {
		v.s.known.put(&certified{m: best.m, cert: best.cert, before: best.before, moves: v.moves()}, false)
	}
	return v.spread(ctx)
}

// moves are the Reassigns that are known.
func (v *seatMove) moves() [][]byte {
	var out [][]byte
	for _, r := range v.f.r.view.placement(v.c.m).Moves() {
		out = append(out, r.Bytes())
	}
	return out
}

// give signs the Reassign, unless an earlier run has.
func (v *seatMove) give(l *located) (signed bool, err error) {
	place := v.f.r.view.placement(v.c.m)
	st := SeatState{Node: v.from, Name: v.f.r.roster.name(v.from), X: place.SeatOf(v.from)}
	if st.X == 0 {
		// An earlier run may have given it away, to a node that has no row yet or
		// no room.
		last := v.given(place)
		if last == nil || v.has(l, last.New) {
			v.over = true
			return false, nil
		}
		v.x, v.to = last.X, last.New
		if v.f.r.roster[last.New].Online && !v.full[last.New] {
			return false, nil
		}
		st = SeatState{Node: last.New, Name: v.f.r.roster.name(last.New), X: last.X}
	}
	good := 0
	for _, seat := range place.Seats() {
		good += btoi(seat.X != st.X && v.has(l, seat.Node))
	}
	if k := int(v.c.m.K); good < k {
		return false, fmt.Errorf("%d of its other holders can be reached and have their rows, and %d are needed to make one anew", good, k)
	}
	if v.f.r.p.Key.Public() != v.c.m.Owner {
		return false, fmt.Errorf("%w: only the owner moves seats", ErrDenied)
	}
	if err := errNotAlone(&v.c.m.Manifest); err != nil {
		return false, err
	}
	to, why := v.target(place, st)
	if to.IsZero() {
		return false, fmt.Errorf("%w%s", errNoNode, why)
	}
	v.x, v.to = st.X, to
	return true, v.f.give(place, st, to)
}

// given is the Reassign by which the seat of the node went on, or nil.
func (v *seatMove) given(place *share.Placement) *share.SignedReassign {
	for _, r := range place.Moves() {
		if r.Old == v.from {
			return place.Last(r.X)
		}
	}
	return nil
}

// has: the node says that it has its row.
func (v *seatMove) has(l *located, id key.NodeID) bool {
	h := v.f.r.view.held[id]
	return l.answered[id] && h != nil && h.committed == v.c.m.Hash && h.row == custody.RowGood
}

// target is who takes the seat; zero: nobody can, and why.
func (v *seatMove) target(place *share.Placement, st SeatState) (key.NodeID, string) {
	why := ""
	if to := v.mover.to; !to.IsZero() && !v.full[to] {
		if w := v.f.unfit(place, st, to); w == "" {
			return to, ""
		} else {
			why = fmt.Sprintf(": %s cannot, since %s", v.f.r.roster.name(to), w)
		}
	}
	for id := range v.full {
		m := v.f.r.roster[id]
		m.Accepting = false
		v.f.r.roster[id] = m
	}
	to := v.f.choice(place, st)
	if to.IsZero() {
		why += fmt.Sprintf("; each other holder has a seat of it, is full, or shares an operator or zone with one: add a holder, or reshare it to fewer than %d", v.c.m.N())
	}
	return to, why
}

// spread tells the holders that can be reached, the old one last: it has its row
// until the new one has one.
func (v *seatMove) spread(ctx context.Context) error {
	view := v.f.r.view
	body := view.order(v.c)
	seen := map[key.NodeID]bool{v.from: true}
	var nodes []key.NodeID
	for _, seats := range [][]share.Seat{view.placement(v.c.m).Seats(), v.c.m.Seats} {
		for _, seat := range seats {
			if m := v.f.r.roster[seat.Node]; !seen[seat.Node] && m.Online && !m.Revoked {
				nodes = append(nodes, seat.Node)
			}
			seen[seat.Node] = true
		}
	}
	gather(ctx, v.s, v.f.r.roster, nodes, func(ctx context.Context, id key.NodeID) (*custody.CommitReply, error) {
		return v.send(ctx, id, body)
	}, func(key.NodeID, *custody.CommitReply, error) bool { return false })
	return nil
}

func (v *seatMove) send(ctx context.Context, id key.NodeID, body []byte) (*custody.CommitReply, error) {
	reply := new(custody.CommitReply)
	return reply, v.s.callWithin(ctx, callTimeout, id, custody.VerbReassign, body, reply)
}

// await asks the new holder until it has signed that it has the row.
func (v *seatMove) await(ctx context.Context) error {
	body := v.f.r.view.order(v.c)
	why := "no answer in time"
	for pause := movePollFirst; ; pause = min(2*pause, movePollMost) {
		reply, err := v.send(ctx, v.to, body)
		switch {
		case err != nil:
			why = reason(err)
		case reply.Outcome == custody.OK && v.committed(reply.Receipt) == nil:
			return nil
		case reply.Outcome == custody.Full:
			v.full[v.to] = true
			return errMovedOn
		case reply.Outcome == custody.Conflict || v.superseded(reply):
			return errMovedOn
		default:
			why = quoted(reply.Why)
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%s has not made its row yet: %s; it goes on by itself", v.f.r.roster.name(v.to), why)
		}
	}
}

// superseded: the holder has another manifest in force.
func (v *seatMove) superseded(reply *custody.CommitReply) bool {
	return reply.There.Floor.Gen > v.c.m.Gen
}

// committed verifies that the new holder signed that it has the row of the seat.
func (v *seatMove) committed(b []byte) error {
	o, err := key.DecodeObject(b)
	if err != nil {
		return err
	}
	r, err := share.OpenReceipt(v.s.cfg.ID, key.TypeCommitted, o)
	if err != nil {
		return err
	}
	if r.Node != v.to || r.Manifest != v.c.m.Hash || r.X != v.x {
		return errors.New("its receipt is of another seat or manifest")
	}
	return nil
}

// left tells the old holder and waits a moment until its row is gone. One that
// cannot be reached learns it from the others when it is back.
func (v *seatMove) left(ctx context.Context) bool {
	if m := v.f.r.roster[v.from]; !m.Online || m.Revoked {
		return true
	}
	body := v.f.r.view.order(v.c)
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	for pause := movePollFirst; ; pause = min(2*pause, movePollMost) {
		if _, err := v.send(ctx, v.from, body); err == nil {
			view := v.s.newView(v.h.id)
			l := v.s.locate(ctx, v.p, view, v.f.r.roster, []key.NodeID{v.from}, nil)
			if h := view.held[v.from]; l.answered[v.from] && (h == nil || h.row == custody.RowNone) {
				return true
			}
		}
		if !sleep(ctx, pause) {
			return false
		}
	}
}
