package keystore

import (
	"bytes"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// simGet is reading.run with a queue in place of goroutines.
type simGet struct {
	*simOp
	s        *sim
	g        *reading
	xs       map[key.NodeID]byte // the x that a row is used at
	round    int
	left     int // seats that are asked
	switches int
	gaveUp   bool
}

func newSimGet(o *simOp) *simGet {
	s := o.node.s
	for _, d := range s.acked {
		if !s.maybeDeleted(d.Gen) {
			o.floor = max(o.floor, d.Gen)
		}
	}
	for _, t := range s.tombs {
		if t.done {
			o.buried = max(o.buried, t.gen)
		}
	}
	return &simGet{simOp: o, s: s}
}

func (r *simGet) begin() {
	s, n := r.s, r.node
	r.g = &reading{s: n.store, h: &secret{id: s.w.id}, roster: n.store.roster(), view: n.view(), bad: map[key.NodeID]string{}}
	s.after(n, "deadline", 60+s.rand.IntN(100), func() {
		r.gaveUp = true
		r.end("error")
	})
	best, fork := r.g.view.latest()
	if best != nil && fork == nil && r.g.fresh(best) && !r.g.view.deleted(best.m.Gen) && s.rand.IntN(2) == 0 {
		r.collect(best.m)
		return
	}
	r.locate()
}

func (r *simGet) locate() {
	r.g.wide = true
	r.s.ask(r.node, r.g.view, r.String(), func(answered map[key.NodeID]bool) {
		if c := r.g.view.complete(); c != nil {
			r.s.spread(r.node, c, func() { r.choose(answered) })
			return
		}
		r.choose(answered)
	})
}

// choose is the end of reading.ask.
func (r *simGet) choose(answered map[key.NodeID]bool) {
	g := r.g
	l := &located{view: g.view, roster: g.s.roster(), answered: answered, failed: map[key.NodeID]string{}}
	for id := range g.roster {
		if !answered[id] && !r.s.revoked[id] {
			l.failed[id] = "no answer"
		}
	}
	best, fork := g.view.latest()
	switch {
	case fork != nil:
		r.end("fork")
	case best == nil || g.view.deleted(best.m.Gen):
		if g.notThere(l, best) == ErrNotFound {
			r.end("none")
			return
		}
		r.end("error")
	case g.notBehind(l, best) != nil:
		r.end("error")
	default:
		g.s.remember(best, false)
		r.collect(best.m)
	}
}

// collect is reading.collect: all seats at once.
func (r *simGet) collect(m *share.SignedManifest) {
	s, g := r.s, r.g
	g.use, g.seats, g.ct, g.need = m, map[key.NodeID]*seatRead{}, nil, 0
	g.need = g.wordsNeeded()
	r.xs = map[key.NodeID]byte{}
	r.round++
	round := r.round
	c := &consent{SignedRequest: &share.SignedRequest{Request: share.Request{ID: s.w.id, Created: s.now, Expires: s.now + 600, Person: s.w.owner.Public()}}}
	r.left = 0
	for _, seat := range m.Seats {
		g.seats[seat.Node] = &seatRead{state: "missing", busy: true, asked: 1}
		r.left++
	}
	for _, seat := range m.Seats {
		s.call(r.node, s.node(seat.Node), fmt.Sprintf("%v: RECOVER %d", r.simOp, m.Gen), func(o *simNode) any { return o.recover(c, m.Hash) }, func(reply any) {
			if r.state == "" && round == r.round {
				row, _ := reply.(*simRow)
				r.take(seat.Node, row)
			}
		})
	}
}

// take is one turn of reading.collect.
func (r *simGet) take(id key.NodeID, row *simRow) {
	g := r.g
	r.left--
	g.seats[id].busy = false
	var next *certified
	if row == nil {
		next = g.take(id, nil, errFakeLink)
	} else {
		a := &rowReply{state: row.state, outcome: row.outcome, why: row.why, of: row.of}
		r.open(id, row, a)
		next = g.take(id, a, nil)
	}
	switch {
	case next != nil:
		if r.switches++; r.switches > maxSwitches {
			r.end("error")
			return
		}
		switch _, err := g.push(next); {
		case err == ErrNotFound:
			r.end("none")
		case err != nil:
			r.end("fork")
		default:
			r.collect(next.m)
		}
	case g.complete():
		r.join()
	case r.left == 0:
		r.fewer()
	}
}

// open is rowReply.open, the box and the signature apart.
func (r *simGet) open(id key.NodeID, row *simRow, a *rowReply) {
	use := r.g.use
	if row.outcome != custody.OK || row.of != use.Hash {
		return
	}
	seat := use.SeatOf(id)
	switch {
	case row.x != seat.X && !r.s.fault.anyX:
		a.lie = "not its seat"
	case !use.CheckRow(*seat, row.row) && !r.s.fault.anyRow:
		a.lie = "its row is not the one committed to"
	case !bytes.Equal(row.payload, r.s.byHash[use.Hash].ct):
		a.lie = "its payload is not the one of the manifest"
	default:
		a.rows, a.payload = map[epochKey]gotRow{{}: {row: bytes.Clone(row.row)}}, row.payload
		r.xs[id] = row.x
	}
}

// fewer is reading.fewer.
func (r *simGet) fewer() {
	g := r.g
	used := g.view.certs[g.use.Hash]
	switch {
	case used != nil && g.lagging() && g.spread != g.use.Hash:
		g.spread = g.use.Hash
		r.s.spread(r.node, used, func() { r.collect(g.use) })
	case !g.wide:
		r.locate()
	default:
		r.end("error")
	}
}

// join is reading.join.
func (r *simGet) join() {
	g := r.g
	var shares []shamir.Share
	for _, seat := range g.use.Seats {
		if st := g.seats[seat.Node]; st.rows[epochKey{}].row != nil && len(shares) < int(g.use.K) {
			shares = append(shares, shamir.Share{X: r.xs[seat.Node], Y: st.rows[epochKey{}].row[:share.DataKeySize]})
		}
	}
	value, err := g.openWith(shares)
	if err != nil {
		r.end("error")
		return
	}
	if c := g.view.certs[g.use.Hash]; c != nil {
		g.s.remember(c, true)
	}
	r.value, r.gen = string(value), g.use.Gen
	r.end("value")
	r.s.returned(r.simOp, g.use.Hash)
}

// simTomb is a tombstone somebody signed.
type simTomb struct {
	*tomb
	gen  uint64
	done bool // somebody was told that it is done
}

func (s *sim) tombOf(b []byte) *tomb {
	for _, t := range s.tombs {
		if bytes.Equal(t.object, b) {
			return t.tomb
		}
	}
	s.broken("a tombstone out of nowhere")
	return nil
}

// simDelete is Store.Delete.
type simDelete struct {
	*simOp
	s *sim
}

func newSimDelete(o *simOp) *simDelete { return &simDelete{o, o.node.s} }

func (x *simDelete) begin() {
	s, n := x.s, x.node
	v := n.store.newView(s.w.id)
	s.ask(n, v, x.String(), func(map[key.NodeID]bool) { x.plan(v) })
}

// plan is Store.planDelete.
func (x *simDelete) plan(v *view) {
	s, n := x.s, x.node
	best, _ := v.latest()
	live := v.live(0)
	if best == nil && len(live) == 0 {
		x.end("error")
		return
	}
	gen := uint64(0)
	if best != nil {
		gen = best.m.Gen
	}
	for _, p := range live {
		gen = max(gen, p.m.Gen)
	}
	if mark, err := n.store.mark(s.w.id); err == nil {
		gen = max(gen, mark.Gen)
	}
	t := share.Tombstone{ID: s.w.id, Gen: gen, Scope: share.ScopeAll, Time: s.now, Owner: s.w.owner.Public(), Salt: s.w.salt}
	o := share.SignTombstone(s.w.owner, s.w.net, t)
	body, err := newTomb(s.w.net, o.Body)
	if err != nil {
		s.broken("%v", err)
	}
	body.object = o.Encode()
	st := &simTomb{tomb: body, gen: gen}
	s.tombs = append(s.tombs, st)
	x.gen = gen
	d := newDeletion(&tombstone{Tombstone: t, hash: o.Hash(s.w.net), bytes: o.Encode()}, n.store.roster())
	for _, c := range v.certs {
		d.concern(&c.m.Manifest, c == best)
	}
	for _, p := range live {
		d.concern(&p.m.Manifest, false)
	}
	for id, held := range v.held {
		if _, ok := d.seats[id]; !ok && (held.gen != 0 || len(held.pendings)+len(held.history) > 0) {
			d.seats[id] = 0
		}
	}
	if !n.journaled(share.Record{Place: d.place(), Value: d.record()}) {
		return
	}
	n.store.known.drop(s.w.id)
	x.pass(d, st)
}

// pass is Store.passOn.
func (x *simDelete) pass(d *deletion, st *simTomb) {
	s, n := x.s, x.node
	t := s.tombOf(d.tomb.bytes)
	missing := d.missing()
	left := len(missing)
	finish := func() {
		if rest := d.missing(); len(rest) > 0 {
			n.store.finish.write(d.place(), d.record())
			n.store.finish.later(d.place(), rest)
		} else {
			n.store.finish.forget(d.place())
		}
		r, err := d.result("")
		switch {
		case st == nil:
		case err != nil:
			x.end("in doubt")
		case r.Done:
			st.done = true
			x.end("acked")
		default:
			x.end("incomplete")
		}
	}
	if left == 0 {
		finish()
	}
	for _, id := range missing {
		s.call(n, s.node(id), fmt.Sprintf("DELETE %d", d.tomb.Gen), func(o *simNode) any { return o.delete(n, t) }, func(reply any) {
			if r, ok := reply.(*custody.DeleteReply); ok && r != nil {
				d.take(s.w.net, id, r, nil)
			} else {
				d.take(s.w.net, id, nil, errFakeLink)
			}
			if left--; left == 0 {
				finish()
			}
		})
	}
}

func (s *sim) maybeDeleted(gen uint64) bool {
	return slices.ContainsFunc(s.tombs, func(t *simTomb) bool { return t.Covers(gen) })
}
