package keystore

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// simWrite is driver.run with a queue in place of goroutines. What it decides
// by is the write's own.
type simWrite struct {
	driver
	s         *sim
	n         *simNode
	inc       int
	verdictOf func(*outcome) // nil once it was given, or when nobody waits
	gaveUp    func() bool
	waits     bool // for more refusals
	stopped   bool // cancelled: answers no longer count
	left      bool
}

func (x *simWrite) begin() {
	if !x.journaled {
		record, place := x.record(), x.place()
		x.inflight++
		x.writing = true
		x.s.after(x.n, "journal", x.s.rand.IntN(6), func() {
			if x.n.journaled(share.Record{Place: place, Value: record}) {
				x.writing = false
				x.take(event{})
				x.refuse()
			}
		})
	}
	if x.hasty {
		x.s.after(x.n, "hasty", 30, func() { x.hasty = false; x.advance() })
	}
	if x.cert != nil {
		x.certified.Store(true)
	}
	for _, id := range x.nodes {
		p := x.progress[id]
		switch {
		case p.committed && p.gone:
		case x.cert != nil:
			x.settle(id)
		default:
			p.busy, p.state = true, "sent"
			x.inflight++
			x.prepare(id, false, x.take)
		}
	}
	if x.verdictOf != nil {
		x.s.after(x.n, "deadline", 60+x.s.rand.IntN(100), func() { x.verdict(true) })
	}
	x.rest()
}

// take is one turn of driver.run.
func (x *simWrite) take(e event) {
	x.inflight--
	if x.left {
		return
	}
	if !x.stopped || e.node.IsZero() {
		x.apply(e)
		x.advance()
		x.verdict(x.gaveUp != nil && x.gaveUp())
	}
	x.rest()
}

// rest ends the run when nothing is under way.
func (x *simWrite) rest() {
	if x.inflight > 0 || x.left {
		return
	}
	x.verdict(true)
	x.left = true
	x.leave(true)
}

func (x *simWrite) verdict(final bool) {
	if x.verdictOf == nil || x.refused != nil {
		return
	}
	out := x.judge(final)
	switch {
	case out == nil:
		return
	case out.undecided && !final:
		if !x.waits {
			x.waits = true
			x.s.after(x.n, "refusals", 10+x.s.rand.IntN(20), func() { x.verdict(true) })
		}
		return
	}
	x.answered, x.abandoned = x.answered || out.ok, out.notStored
	if x.cert == nil && (!final || x.waits) {
		x.stopped = true
	}
	if out.notStored {
		x.refused, x.stopped = out, true
		x.refuse()
		return
	}
	x.told.Store(true)
	told := x.verdictOf
	x.verdictOf = nil
	told(out)
}

// refuse is the end of driver.run for what is not stored, and driver.refuse.
func (x *simWrite) refuse() {
	if x.refused == nil || x.writing || x.verdictOf == nil {
		return
	}
	x.left = true
	x.leave(x.inflight == 0)
	if !x.n.journaled() { // a crash before or after
		return
	}
	x.n.flush()
	told := x.verdictOf
	x.verdictOf = nil
	told(x.refused)
}

func (x *simWrite) advance() {
	if x.refused != nil {
		return
	}
	if x.cert == nil && x.driver.journaled && x.certifiable() && !x.unheard() {
		x.cert = &certified{m: x.m, cert: x.receipts().Encode(), before: x.before}
		x.certified.Store(true)
		x.s.note("%s has the certificate of generation %d", x.n.name(), x.m.Gen)
	}
	if x.cert == nil || !x.driver.journaled {
		return
	}
	for _, id := range x.nodes {
		p := x.progress[id]
		if !p.busy && !(p.gone && (p.committed || x.m.SeatOf(id) == nil)) && p.tries < 1 && p.state != "unreachable" {
			x.settle(id)
		}
	}
}

// settle is driver.settle.
func (x *simWrite) settle(id key.NodeID) {
	p := x.progress[id]
	p.busy = true
	x.inflight++
	if x.m.SeatOf(id) == nil || prepared(p) || len(x.rows[id]) == 0 {
		x.commit(id, x.take)
		return
	}
	x.bring(id)
}

// bring is write.bring.
func (x *simWrite) bring(id key.NodeID) {
	x.prepare(id, false, func(e event) {
		if e.err != nil {
			x.take(e)
			return
		}
		p := e.prepared
		finish := func(e event) {
			if p != nil {
				e.prepared = p
			}
			x.take(e)
		}
		x.commit(id, func(e event) {
			if e.err != nil || e.done || p != nil || e.outcome != custody.Refused {
				finish(e)
				return
			}
			x.prepare(id, false, func(again event) {
				if p = again.prepared; p == nil {
					finish(e)
					return
				}
				x.commit(id, finish)
			})
		})
	})
}

// prepare is write.prepare: the call, the second one with what a node asks to
// be brought along, and the check of the receipt.
func (x *simWrite) prepare(id key.NodeID, brought bool, done func(event)) {
	s, o := x.s, x.s.node(id)
	msg := prepareMsg{m: s.values[x.m.Hash]}
	if x.m.SeatOf(id) != nil {
		msg.row, msg.payload = x.rows[id], x.ct
	}
	what := fmt.Sprintf("PREPARE %d", x.m.Gen)
	if brought {
		x.along(&msg)
		what += " with what was before"
	}
	unsure := brought && x.progress[id].promised
	s.call(x.n, o, what, func(o *simNode) any { return o.prepare(x.n, msg) }, func(reply any) {
		r, ok := reply.(*custody.PrepareReply)
		if !ok || r == nil {
			done(event{node: id, err: errFakeLink})
			return
		}
		e := event{node: id, outcome: r.Outcome, why: r.Why, unsure: unsure}
		if r.Outcome == custody.OK {
			rec, _, err := x.receipt(key.TypePrepared, id, r.Receipt)
			if err != nil {
				s.broken("a receipt of %s does not verify: %v", o.name(), err)
			}
			e.prepared = &rec
			done(e)
			return
		}
		e.there, e.never = &r.There, r.Outcome == custody.Refused && x.write.refused(id, r.Receipt)
		if brought || !r.NeedPrev || x.prev == nil && len(x.tomb)+len(x.m.Force) == 0 {
			done(e)
			return
		}
		x.prepare(id, true, done)
	})
}

// along is write.bringAlong.
func (x *simWrite) along(msg *prepareMsg) {
	if len(x.tomb) > 0 {
		msg.tomb = x.s.tombOf(x.tomb)
	}
	for _, b := range x.before {
		if slices.Contains(x.m.Force, b.Hash) {
			msg.forced = append(msg.forced, x.s.values[b.Hash])
		}
	}
	if x.prev == nil {
		return
	}
	cert, err := share.DecodeCert(x.prev.cert)
	if err != nil {
		x.s.broken("%v", err)
	}
	msg.prev = &certificate{of: x.s.values[x.prev.m.Hash], cert: cert, bytes: x.prev.cert}
	for _, b := range x.prev.before {
		msg.prev.before = append(msg.prev.before, x.s.values[b.Hash])
	}
}

// commit is write.commit.
func (x *simWrite) commit(id key.NodeID, done func(event)) {
	s, o := x.s, x.s.node(id)
	if s.fault.skips(&x.m.Manifest, id) {
		s.after(x.n, "not told", 0, func() { done(event{node: id, commit: true, outcome: custody.OK, gone: true, done: true}) })
		return
	}
	cert, err := share.DecodeCert(x.cert.cert)
	if err != nil {
		s.broken("%v", err)
	}
	msg := &certificate{of: s.values[x.m.Hash], cert: cert, bytes: x.cert.cert}
	for _, b := range x.cert.before {
		msg.before = append(msg.before, s.values[b.Hash])
	}
	s.call(x.n, o, fmt.Sprintf("COMMIT %d", x.m.Gen), func(o *simNode) any { return o.commit(x.n, msg) }, func(reply any) {
		r, ok := reply.(*custody.CommitReply)
		if !ok || r == nil {
			done(event{node: id, commit: true, err: errFakeLink})
			return
		}
		e := event{node: id, commit: true, outcome: r.Outcome, why: r.Why}
		if r.Outcome != custody.OK {
			e.there, e.gone = &r.There, r.PrevGone
		} else if _, _, err := x.receipt(key.TypeCommitted, id, r.Receipt); err != nil {
			s.broken("a receipt of %s does not verify: %v", o.name(), err)
		} else {
			e.done, e.gone = true, r.PrevGone
		}
		done(e)
	})
}

// finish goes on with one record of the journal: finisher.try.
func (n *simNode) finish() {
	if !n.up || n.busy != nil {
		return
	}
	places := n.store.finish.places(n.s.w.id)
	if len(places) == 0 {
		return
	}
	slices.SortFunc(places, func(a, b share.Place) int {
		if a.Gen != b.Gen {
			return int(a.Gen) - int(b.Gen)
		}
		return slices.Compare(a.Sub[:], b.Sub[:])
	})
	n.finishOne(simPick(n.s, places))
}

func (n *simNode) finishOne(p share.Place) {
	s, f := n.s, n.store.finish
	b, err := f.load(p)
	if err != nil || b == nil {
		return
	}
	if d, err := n.store.loadDelete(b); err == nil {
		newSimDelete(&simOp{kind: "finish delete", node: n}).pass(d, nil)
		return
	}
	w, err := n.store.loadWrite(b)
	if err != nil {
		s.broken("%s: the journal: %v", n.name(), err)
	}
	if f.overtaken(p) && !w.doubted() {
		f.forget(p)
		return
	}
	s.note("%s goes on with generation %d from its journal", n.name(), w.m.Gen)
	(&simWrite{driver: driver{write: w}, s: s, n: n, inc: n.inc}).begin()
}
