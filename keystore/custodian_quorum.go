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

// observes is what this node observes of the seats of a secret.
func (c *custodian) observes(s *secretState) quorumFacts {
	now := c.clock.now()
	return quorumFacts{
		suspect: func(x uint8) bool {
			e := s.current()
			return e != nil && c.possess.suspect(s.holderOf(e.version, x), e.ID, e.Hash, x, now) != ""
		},
		reached: func(node key.NodeID) bool {
			for _, m := range append(c.cfg.Network.Members(), c.cfg.Network.Self()) {
				if m.ID == node {
					return m.Holder && !m.Revoked && !m.Lapsed && (m.Online && m.Accepting || node == c.self)
				}
			}
			return false
		},
	}
}

// reassignSuspects puts Reassigns of w seats into force whose time for a veto is
// over, and asks the other seats to give away those that are suspect.
func (c *custodian) reassignSuspects(ctx context.Context, s *secretState) {
	r, _, _, err := c.step(ctx, s.id, c.facts(c.self), (*secretState).mature)
	if err != nil {
		return
	}
	if r.next != nil {
		s = r.next
		c.healing.look(s.id, 0)
		for _, m := range s.moves {
			c.passing.tell(s, m.New)
		}
	}
	if s.committed == nil || s.committed.Repair != share.RepairQuorum {
		return
	}
	q, f := c.observes(s), c.facts(c.self)
	for _, seat := range s.committed.Seats {
		if want := s.names(f, q, seat.X); want != nil {
			c.collect(ctx, s, want)
			return // at most one in 24 h
		}
	}
}

// collect polls the seats and, when w name the same standby, collects their
// signatures.
func (c *custodian) collect(ctx context.Context, s *secretState, want *share.Reassign) {
	poll := custody.Poll{ID: s.id, Manifest: want.Manifest, X: want.X, Seq: want.Seq}
	named := 0
	for _, reply := range c.pollSeats(ctx, s, &poll) {
		named += btoi(reply.Named == want.New)
	}
	if named < int(s.committed.W) {
		return
	}
	poll.New = want.New
	var signed []key.Object
	var by []uint8 // one signature of each seat, and nobody else's
	place := s.planned(s.committed.version)
	for _, reply := range c.pollSeats(ctx, s, &poll) {
		o, err := key.DecodeObject(reply.Signed)
		if err != nil || string(o.Body) != string(key.Marshal(want)) || o.Verify(c.cfg.ID, key.TypeReassign) != nil {
			continue
		}
		if x := place.SeatOf(key.NodePublic(o.Key).ID()); x != 0 && !slices.Contains(by, x) {
			signed, by = append(signed, o), append(by, x)
		}
	}
	b, err := share.JoinReassign(signed...)
	if err != nil {
		return
	}
	m, err := share.OpenReassign(c.cfg.ID, b, s.committed.SignedManifest)
	if err != nil || place.Signed(m) < int(s.committed.W) {
		return
	}
	if err := c.takeMoves(ctx, c.facts(c.self), s.id, []*share.SignedReassign{m}); err != nil {
		c.log.Error("a reassignment is not taken in", "err", err)
	}
}

// pollSeats asks the holders of all seats, this node among them.
func (c *custodian) pollSeats(ctx context.Context, s *secretState, q *custody.Poll) []*custody.PollReply {
	var out []*custody.PollReply
	for _, seat := range s.placement(s.committed.version).Seats() {
		reply := new(custody.PollReply)
		if seat.Node == c.self {
			own, err := c.poll(ctx, c.self, q)
			if err != nil {
				continue
			}
			reply = own.(*custody.PollReply)
		} else if !c.members.get(c.cfg.Network).online[seat.Node] || c.call(ctx, seat.Node, custody.VerbPoll, q, reply) != nil {
			continue
		}
		if reply.Outcome == custody.OK {
			out = append(out, reply)
		}
	}
	return out
}

// poll serves POLL.
func (c *custodian) poll(ctx context.Context, from key.NodeID, q *custody.Poll) (key.Body, error) {
	if len(q.Veto) > 0 {
		return c.vetoed(ctx, q)
	}
	s, err := c.peek(ctx, q.ID)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || s.committed == nil || s.committed.Hash != q.Manifest || s.seatAt(s.committed.version, from) == 0 {
		return &custody.PollReply{Outcome: custody.Refused}, nil
	}
	facts := c.observes(s)
	if q.New.IsZero() {
		reply := &custody.PollReply{Outcome: custody.OK}
		if r := s.names(c.facts(from), facts, q.X); r != nil && r.Seq == q.Seq {
			reply.Named = r.New
		}
		return reply, nil
	}
	var signs *share.Reassign
	r, _, _, err := c.step(ctx, q.ID, c.facts(from), func(s *secretState, f holderFacts) stepResult {
		var r stepResult
		r, signs = s.vote(f, facts, q.X, q.Seq, q.New)
		return r
	})
	if err != nil {
		return nil, err
	}
	reply := &custody.PollReply{Outcome: r.outcome, Why: bounded(r.why)}
	if r.outcome == custody.OK {
		reply.Signed = share.SignReassign(c.cfg.Node, c.cfg.ID, *signs).Encode()
	}
	return reply, nil
}

// vetoed takes in the owner's veto of a Reassign.
func (c *custodian) vetoed(ctx context.Context, q *custody.Poll) (key.Body, error) {
	a, err := share.OpenApproval(c.cfg.ID, q.Veto, unix())
	if err != nil || a.Verdict != share.VerdictVeto {
		return &custody.PollReply{Outcome: custody.Refused, Why: "no veto that is good now"}, nil
	}
	r, _, _, err := c.step(ctx, q.ID, c.facts(c.self), func(s *secretState, f holderFacts) stepResult { return s.veto(f, a.Person, a.Subject, q.Veto) })
	if err != nil {
		return nil, err
	}
	if r.next != nil {
		c.passing.addVetoes(r.next, c.self)
		c.note(ctx, AuditRecord{Kind: "veto", ID: q.ID, Person: a.Person, Detail: "of a reassignment by the seats"})
	}
	return &custody.PollReply{Outcome: r.outcome, Why: bounded(r.why)}, nil
}

// VetoMoves vetoes every Reassign of this secret that its seats have signed and
// that is not in force yet: for 24 hours after the seats saw it no value is given
// to the new node, and none after the veto. It returns what was vetoed and at
// how many holders. Errors: those of [Store.Verify]; [ErrDenied] when the person
// is not the owner.
func (s *Store) VetoMoves(ctx context.Context, p Person, name string, timeout time.Duration) (moves []Move, at int, err error) {
	h, err := s.secret(p, name)
	if err != nil {
		return nil, 0, err
	}
	defer h.done()
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	if err := g.ask(ctx); err != nil {
		return nil, 0, err
	}
	if g.use.Owner != p.Key.Public() {
		return nil, 0, fmt.Errorf("%w: only the owner vetoes", ErrDenied)
	}
	for _, m := range g.view.placement(g.use).Moves() {
		if m.ByOwner {
			continue
		}
		veto := share.SignApproval(p.Key, s.cfg.ID, share.Approval{Subject: m.Hash, Verdict: share.VerdictVeto, Expires: unix() + share.RequestLife})
		body := key.Marshal(&custody.Poll{ID: h.id, Manifest: g.use.Hash, X: m.X, Seq: m.Seq, Veto: veto.Encode()})
		n := 0
		gather(ctx, s, g.roster, g.asked(), func(ctx context.Context, id key.NodeID) (*custody.PollReply, error) {
			reply := new(custody.PollReply)
			return reply, s.callWithin(ctx, callTimeout, id, custody.VerbPoll, body, reply)
		}, func(_ key.NodeID, reply *custody.PollReply, err error) bool {
			n += btoi(err == nil && reply.Outcome == custody.OK)
			return false
		})
		if n > 0 {
			moves, at = append(moves, Move{X: m.X, From: m.Old, To: m.New}), max(at, n)
		}
	}
	return moves, at, nil
}

// reassignRound looks at every secret whose seats may be given away by the seats.
func (c *custodian) reassignRound(ctx context.Context) {
	for _, id := range c.cfg.Shelf.IDs(share.BucketState) {
		s, err := c.peek(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if err == nil && s.current() != nil && s.current().Repair == share.RepairQuorum {
			c.reassignSuspects(ctx, s)
		}
	}
}
