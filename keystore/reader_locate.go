package keystore

import (
	"context"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// maxAtOnce bounds the calls of one question to many nodes.
const maxAtOnce = 64

// offlineGrace is how long nodes without a link are waited for once every node
// that has one has answered: the mesh may be about to reach them.
const offlineGrace = time.Second

// stragglerGrace is how long the others are waited for at least once more than
// half of the nodes have answered, or as long again as that took: a node that hangs must not make every question last
// as long as its call may.
const stragglerGrace = 2 * time.Second

// gather asks nodes at the same time and hands the answers to take, in the
// caller's goroutine, until take says that they are enough, all have answered,
// only stragglers are left or ctx ends. Calls that are not needed any more are
// cancelled.
func gather[R any](ctx context.Context, s *Store, r roster, nodes []key.NodeID, ask func(context.Context, key.NodeID) (R, error), take func(key.NodeID, R, error) (enough bool)) {
	type answer struct {
		node key.NodeID
		r    R
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	answers := make(chan answer, len(nodes)) // never blocks a goroutine
	slots := make(chan struct{}, maxAtOnce)
	linked := 0
	for _, id := range nodes {
		linked += btoi(r[id].Online)
		s.spawn(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
			}
			out, err := ask(ctx, id)
			answers <- answer{id, out, err}
		})
	}
	var offline, late <-chan time.Time
	for left := len(nodes); left > 0; left-- {
		if linked == 0 && offline == nil {
			offline = time.After(offlineGrace)
		}
		if late == nil && 2*left < len(nodes) {
			late = time.After(max(stragglerGrace, time.Since(start)))
		}
		select {
		case a := <-answers:
			linked -= btoi(r[a.node].Online)
			if take(a.node, a.r, a.err) {
				return
			}
		case <-offline:
			return
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// located is what asking many nodes for a secret brought.
type located struct {
	view     *view
	roster   roster
	answered map[key.NodeID]bool
	failed   map[key.NodeID]string // why not; bounded
	lied     []BadRow              // answered with what does not verify
}

// locate asks nodes what they have of a secret and merges it into v. enough may
// be nil: all are waited for.
func (s *Store) locate(ctx context.Context, p Person, v *view, r roster, nodes []key.NodeID, enough func(*located) bool) *located {
	l := &located{view: v, roster: r, answered: make(map[key.NodeID]bool), failed: make(map[key.NodeID]string)}
	for _, id := range nodes {
		l.failed[id] = "no answer in time"
	}
	ask := func(ctx context.Context, id key.NodeID) (*custody.LocateReply, error) {
		msg := &custody.Locate{ID: v.id, Query: s.queries.get(s.cfg.ID, p, id)}
		reply := new(custody.LocateReply)
		return reply, s.callWithin(ctx, callTimeout, id, custody.VerbLocate, key.Marshal(msg), reply)
	}
	gather(ctx, s, r, nodes, ask, func(id key.NodeID, reply *custody.LocateReply, err error) bool {
		l.take(id, reply, err)
		return enough != nil && enough(l)
	})
	return l
}

func (l *located) take(id key.NodeID, reply *custody.LocateReply, err error) {
	if err != nil {
		l.failed[id] = reason(err)
		return
	}
	switch reply.Outcome {
	case custody.OK:
		err := l.view.merge(id, &reply.State)
		if h := l.view.held[id]; err == nil && h != nil {
			l.view.suspect(id, h.committed, reply.Suspects)
			err = l.view.learnMoves(h.committed, reply.Reassigns)
		}
		if err != nil {
			l.lied = append(l.lied, BadRow{Node: id, Name: l.roster.name(id), Why: "shows what does not verify: " + reason(err)})
		}
	case custody.Denied: // nothing is there, or nothing that it tells this person
	default:
		l.failed[id] = "its store serves nothing"
		return
	}
	l.answered[id] = true
	delete(l.failed, id)
}

// everyone are the nodes that may know of a secret: all of the roster that are
// not revoked, holders or not, since roles change.
func (r roster) everyone() []key.NodeID {
	out := make([]key.NodeID, 0, len(r))
	for id, m := range r {
		if !m.Revoked {
			out = append(out, id)
		}
	}
	return out
}

// silent are the nodes that did not answer, with reasons.
func (l *located) silent() []SeatState {
	var out []SeatState
	for id, why := range l.failed {
		out = append(out, l.roster.seat(id, 0, "unreachable", why))
	}
	sortSeats(out)
	return out
}

// atHand adds what is known of a secret without asking anybody: the higher of
// what is in memory and what this node's own seat has.
func (s *Store) atHand(ctx context.Context, v *view) {
	known, here := s.known.get(v.id), s.seatHere(ctx, v.id)
	if here != nil && (known == nil || here.m.Gen > known.m.Gen) {
		known = here
	}
	v.add(known)
}

// seatHere is what this node's own seat has certified, or nil. It was verified
// when it came.
func (s *Store) seatHere(ctx context.Context, id key.Hash) *certified {
	select {
	case <-s.cust.loaded:
	default:
		return nil
	}
	release, err := s.cust.locks.take(ctx, id)
	if err != nil {
		return nil
	}
	h, err := s.cust.state(id)
	release()
	if err != nil || h.current() == nil {
		return nil
	}
	c := h.current()
	return &certified{m: c.SignedManifest, cert: c.cert, before: signedOf(c.before), moves: h.moveBytes(c.version)}
}
