package keystore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// find learns what is there: from memory or this node's own seat, since every
// seat checks it again at PREPARE, else by asking all nodes. fresh asks the
// nodes in any case.
func (d *dealing) find(ctx context.Context, fresh bool) error {
	d.roster = d.s.rosterFor(d.p)
	if d.view == nil {
		d.view = d.s.newView(d.h.id)
		d.s.atHand(ctx, d.view)
	}
	best, fork := d.view.latest()
	if !fresh && best == nil && d.canBeHasty() {
		d.hasty = true
		return nil
	}
	d.hasty = false
	if fresh || best == nil || fork != nil {
		if err := d.ask(ctx); err != nil {
			return err
		}
	}
	if err := d.allowed(); err == nil || d.located {
		return err
	}
	// What is at hand may be old: a conflict is told only of what nodes say.
	if err := d.ask(ctx); err != nil {
		return err
	}
	return d.allowed()
}

// ask asks all nodes, and completes what has receipts enough: whoever holds
// them holds a certificate.
func (d *dealing) ask(ctx context.Context) error {
	old := d.view
	d.view = d.s.newView(d.h.id)
	for _, c := range old.certs {
		d.view.add(c)
	}
	l := d.s.locate(ctx, d.p, d.view, d.roster, d.roster.everyone(), d.enough)
	d.located = true
	if ctx.Err() != nil {
		return fmt.Errorf("%w: asking the holders what is there", ErrTimeout)
	}
	if c := d.view.complete(); c != nil && !d.dry {
		d.s.spread(ctx, c)
	}
	if d.o.New {
		return nil
	}
	best, _ := d.view.latest()
	if best == nil && d.view.tomb() == nil {
		if err := d.firstPut(l); err != nil {
			return err
		}
	}
	return d.notBehind(l, best)
}

// canBeHasty: a first put may skip asking what is there when every node of the
// network will be asked by its PREPARE: all of them are chosen, have a link and
// take seats. An older generation that was ever acknowledged has w seats among
// them, which refuse; so do pendings. The certificate waits for all of them
// (SPEC.md). Conditions ask first, for they leave nothing behind.
func (d *dealing) canBeHasty() bool {
	if d.dry || d.conditional() || len(d.own) > 0 || len(d.o.Holders) > 0 {
		return false
	}
	shape, err := d.o.choose(d.roster, nil)
	if err != nil || 2*shape.n >= 2*shape.w+shape.k || len(d.roster) != shape.n {
		return false
	}
	for _, m := range d.roster {
		if m.Revoked || m.Lapsed || !m.Holder || !ready(m) {
			return false
		}
	}
	mark, err := d.s.mark(d.h.id)
	return err == nil && mark.Gen == 0
}

// enough: all nodes with a link have answered, and the rest cannot hide so much
// that a first put would be refused.
func (d *dealing) enough(l *located) bool {
	for id := range l.failed {
		if l.roster[id].Online {
			return false
		}
	}
	return d.o.New || d.firstPut(l) == nil
}

// firstPut refuses a first generation while so many of those are silent who
// would hold an older one that its k rows may be among them: w+k-n or more of
// the first 3n ranked holders.
func (d *dealing) firstPut(l *located) error {
	shape, err := d.o.choose(d.roster, nil)
	if err != nil {
		return err
	}
	pl := &placing{shape: shape, index: &d.h.index, id: d.h.id, self: d.s.self, roster: d.roster}
	ranked := pl.ranked()
	var silent []SeatState
	for _, m := range ranked[:min(len(ranked), 3*shape.n)] {
		if !l.answered[m.ID] {
			silent = append(silent, d.roster.seat(m.ID, 0, "unreachable", l.failed[m.ID]))
		}
	}
	if len(silent) >= shape.w+shape.k-shape.n {
		return &QuorumError{Op: "a first put, which must know that there is nothing yet,",
			Need: len(ranked) - (shape.w + shape.k - shape.n) + 1, Have: len(ranked) - len(silent), Seats: silent}
	}
	return nil
}

// notBehind refuses to go on from something older than what was seen certified
// before: the newer one is at those that are silent, or was rolled back.
func (d *dealing) notBehind(l *located, best *certified) error {
	mark, err := d.s.mark(d.h.id)
	if err != nil {
		return err
	}
	if mark.Gen == 0 || d.view.deleted(mark.Gen) || best != nil && best.m.Gen >= mark.Gen {
		return nil
	}
	return &QuorumError{Op: fmt.Sprintf("a put after generation %d, which was seen certified and which no holder shows,", mark.Gen),
		Need: len(l.answered) + 1, Have: len(l.answered), Seats: l.silent()}
}

// allowed checks compare-and-set and if-absent against the view.
func (d *dealing) allowed() error {
	if !d.conditional() {
		return nil
	}
	best, _ := d.view.latest()
	have := uint64(0)
	if best != nil && !d.view.deleted(best.m.Gen) {
		have = best.m.Gen
	}
	if d.o.IfAbsent && have != 0 {
		return &ConflictError{Have: have, Why: fmt.Sprintf("the secret exists at generation %d", have)}
	}
	if d.o.IfGen != nil && *d.o.IfGen != have {
		return &ConflictError{Want: *d.o.IfGen, Have: have, Why: fmt.Sprintf("generation %d is there, not %d", have, *d.o.IfGen)}
	}
	base := uint64(0)
	if best != nil {
		base = best.m.Gen
	}
	if live := d.view.live(base); len(live) > 0 {
		return &ConflictError{Want: base, Have: live[len(live)-1].m.Gen,
			Why: fmt.Sprintf("generation %d is under way and not decided", live[len(live)-1].m.Gen)}
	}
	return nil
}

// spread sends a certificate to the seats and to those of what is before, and
// waits for the answers of those that are there.
func (s *Store) spread(ctx context.Context, c *certified) {
	r := s.roster()
	body := key.Marshal(&custody.Commit{Manifest: c.m.Bytes(), Cert: c.cert, Before: c.beforeBytes()})
	seen := make(map[key.NodeID]bool)
	var nodes []key.NodeID
	for _, m := range append([]*share.SignedManifest{c.m}, c.before...) {
		for _, seat := range m.Seats {
			if !seen[seat.Node] && !r[seat.Node].Revoked {
				seen[seat.Node] = true
				nodes = append(nodes, seat.Node)
			}
		}
	}
	left := int(c.m.W)
	gather(ctx, s, r, nodes, func(ctx context.Context, id key.NodeID) (*custody.CommitReply, error) {
		reply := new(custody.CommitReply)
		return reply, s.callWithin(ctx, callTimeout, id, custody.VerbCommit, body, reply)
	}, func(id key.NodeID, reply *custody.CommitReply, err error) bool {
		if err == nil && reply.Outcome == custody.OK && c.m.SeatOf(id) != nil {
			left--
		}
		return left <= 0
	})
	s.remember(c, false)
}

// settled waits while so many writes are pending that their seats take no other:
// they settle those first, sooner than usual (W5).
func (d *dealing) settled(ctx context.Context) error {
	for !d.conditional() && d.crowded() {
		if !sleep(ctx, crowdedPause) {
			return &ConflictError{Why: "its seats have more unfinished writes than they take, and are settling them"}
		}
		if err := d.find(ctx, true); err != nil {
			return err
		}
	}
	return nil
}

// crowdedPause is how long a put waits before it looks again whether the seats
// have settled what is pending.
const crowdedPause = 2 * time.Second

// crowded: too few seats of what is there would take another pending, or there
// are more than a manifest can name.
func (d *dealing) crowded() bool {
	best, _ := d.view.latest()
	live := d.live(best)
	if len(live) < maxPending {
		return false
	}
	full := 0
	for _, h := range d.view.held {
		n := 0
		for _, m := range live {
			n += btoi(slices.Contains(h.pendings, m.Hash))
		}
		full += btoi(n >= maxPending)
	}
	spare := 0
	if best != nil {
		spare = best.m.N() - int(best.m.W)
	}
	return len(live) > share.MaxForce || full > spare
}
