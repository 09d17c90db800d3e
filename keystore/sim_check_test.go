package keystore

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// The oracle: it sees all disks and every word that was given.

// promised notes a receipt that an honest node has given.
func (s *sim) promised(n *simNode, m *version) {
	d := s.byHash[m.Hash]
	if n.liar || d.promises[n.id] {
		return
	}
	if s.buriedAt(n, m.Gen) {
		s.broken("%s promises generation %d, which is deleted there", n.name(), m.Gen)
	}
	for _, o := range s.deals {
		// With a certificate of d the promise to o is worth nothing any more.
		if o != d && o.Gen == d.Gen && o.promises[n.id] && !o.dead && !s.maybeDeleted(o.Gen) && !s.certifiable(d) {
			s.broken("%s gave two receipts for generation %d", n.name(), d.Gen)
		}
	}
	if d.refused[n.id] && !s.certifiable(d) { // as above
		s.broken("%s promises generation %d, for which it has signed Refused", n.name(), d.Gen)
	}
	d.promises[n.id] = true
}

func (s *sim) buriedAt(n *simNode, gen uint64) bool { return n.disk.covered(gen) }

// certifiable: a certificate of d exists, or could be made of receipts that
// were given and of what liars sign.
func (s *sim) certifiable(d *simDeal) bool {
	gone := func(id key.NodeID) bool { return s.revoked[id] }
	groups := []*simDeal{d}
	for _, b := range append(groups, d.before...) {
		need := int(d.W)
		if b != d {
			need = share.PrevNeed(&b.Manifest, gone)
		}
		for _, seat := range b.Seats {
			if n := s.node(seat.Node); d.promises[seat.Node] || n.liar {
				need--
			}
		}
		if need > 0 {
			return false
		}
	}
	return true
}

// shown: the certificate of d is on an honest disk that is left, or the receipts
// for it are.
func (s *sim) shown(d *simDeal) bool {
	have := map[key.NodeID]bool{}
	for _, n := range s.nodes {
		if n.dead || n.liar {
			continue
		}
		e := n.disk.find(d.Hash)
		if e != nil && len(e.cert) > 0 {
			return true
		}
		have[n.id] = e != nil && e.promised != 0
	}
	for _, b := range append([]*simDeal{d}, d.before...) {
		need := share.PrevNeed(&b.Manifest, func(id key.NodeID) bool { return b != d && s.node(id).dead })
		for _, seat := range b.Seats {
			need -= btoi(have[seat.Node] || s.node(seat.Node).liar)
		}
		if need > 0 {
			return false
		}
	}
	return true
}

// rows counts good rows of d on the disks that are left at honest nodes; old
// says whether history counts.
func (s *sim) rows(d *simDeal, old bool) int {
	have := 0
	for _, seat := range d.Seats {
		n := s.node(seat.Node)
		if n.liar || n.dead {
			continue
		}
		e := n.disk.find(d.Hash)
		if e == nil || !e.row || !old && slices.Contains(n.disk.history, e) {
			continue
		}
		if row := n.recs[rowPlace(e)]; row != nil && d.CheckRow(seat, row) {
			have++
		}
	}
	return have
}

// disks counts the seats of d that may have said that it is on their disk: it is
// there, or was; it has gone on from there; or its word counts for nothing.
func (s *sim) disks(d *simDeal) int {
	have := 0
	for _, seat := range d.Seats {
		n := s.node(seat.Node)
		e := n.disk.find(d.Hash)
		have += btoi(n.liar || n.dead || e != nil && e.row || n.disk.committedGen() > d.Gen || n.disk.floor.Gen > d.Gen || n.disk.covered(d.Gen))
	}
	return have
}

// verdict is what a writer was told.
func (s *sim) verdict(d *simDeal, out *outcome) {
	if out.ok {
		if !s.certifiable(d) {
			s.broken("generation %d is acknowledged without a certificate", d.Gen)
		}
		if d.never {
			s.broken("generation %d is acknowledged after it was called not stored", d.Gen)
		}
		if have := s.disks(d); !out.overtaken && have < int(d.W) {
			s.broken("generation %d is acknowledged on %d disks, not %d", d.Gen, have, d.W)
		}
		if !d.acked {
			d.acked = true
			s.acked = append(s.acked, d)
		}
	}
	d.never = d.never || out.notStored
	d.op.gen = d.Gen
	s.note("generation %d: %s", d.Gen, simOutcome(out))
}

func simOutcome(out *outcome) string {
	switch {
	case out.ok && out.overtaken:
		return "stored, and overtaken"
	case out.ok:
		return "stored"
	case out.notStored:
		return "not stored"
	}
	return fmt.Sprintf("in doubt (conflict %v, stale %v)", out.conflict, out.stale)
}

// returned is what a reader was given.
func (s *sim) returned(o *simOp, h key.Hash) {
	d := s.byHash[h]
	switch {
	case o.value != d.value:
		s.broken("%v returns %q for generation %d, which is %q", o, o.value, d.Gen, d.value)
	case d.Gen < o.floor:
		s.broken("%v returns generation %d; %d was acknowledged before it began", o, d.Gen, o.floor)
	case d.Gen <= o.buried:
		s.broken("%v returns generation %d; all up to %d was deleted before it began", o, d.Gen, o.buried)
	case d.never:
		s.broken("%v returns generation %d, which was called not stored", o, d.Gen)
	case !s.certifiable(d):
		s.broken("%v returns generation %d, which nothing certifies", o, d.Gen)
	}
	d.read = true
}

// check holds after every step.
func (s *sim) check() {
	for _, d := range s.deals {
		if s.maybeDeleted(d.Gen) {
			continue
		}
		if d.acked {
			s.recoverable(d)
		}
		if d.never && s.certifiable(d) {
			s.broken("generation %d was called not stored and has a certificate", d.Gen)
		}
		if d.dead && s.certifiable(d) && !s.overtaken(d) {
			s.broken("generation %d is dead and has a certificate", d.Gen)
		}
		s.alone(d)
	}
}

// overtaken: another successor of d's prev is certified, which is death too.
func (s *sim) overtaken(d *simDeal) bool {
	return slices.ContainsFunc(s.deals, func(e *simDeal) bool { return e != d && e.Gen > d.Gen && s.certifiable(e) })
}

// recoverable: what was acknowledged, or something above it, can be rebuilt from
// the honest disks that are left; and what was before can not.
func (s *sim) recoverable(d *simDeal) {
	if !slices.ContainsFunc(s.deals, func(e *simDeal) bool {
		return e.Gen >= d.Gen && s.rows(e, true) >= int(e.K) && s.shown(e)
	}) {
		s.broken("generation %d was acknowledged and is lost: %d rows are left", d.Gen, s.rows(d, true))
	}
	for _, b := range d.before {
		if have := s.rows(b, false); have >= int(b.K) && s.plan.liars == 0 && len(s.revoked) == 0 {
			s.broken("generation %d is acknowledged, and %d rows of generation %d are left", d.Gen, have, b.Gen)
		}
	}
}

// alone: no other manifest with a certificate stands where d stands. First puts
// of a split mesh are W4's exception, and reported as a fork.
func (s *sim) alone(d *simDeal) {
	if d.Prev.IsZero() || !s.certifiable(d) {
		return
	}
	for _, e := range s.deals {
		if e.Gen > d.Gen || e == d || s.maybeDeleted(e.Gen) || !s.certifiable(e) || e == d.prev || d.root() != e.root() {
			continue
		}
		switch {
		case e.Gen == d.Gen:
			s.broken("two certificates of generation %d", d.Gen)
		case e.Prev == d.Prev && !slices.Contains(d.Force, e.Hash):
			s.broken("generations %d and %d are both certified after the same one", e.Gen, d.Gen)
		}
	}
}

// root is the first of d's line.
func (d *simDeal) root() *simDeal {
	for d.prev != nil {
		d = d.prev
	}
	return d
}

// forked: two first lines are certified, which only a split mesh or the death
// of what was between makes.
func (s *sim) forked() bool {
	first := 0
	for _, d := range s.deals {
		if d.Prev.IsZero() && !s.maybeDeleted(d.Gen) && s.certifiable(d) && !slices.ContainsFunc(s.deals, func(e *simDeal) bool { return slices.Contains(e.Force, d.Hash) }) {
			first++
		}
	}
	return first > 1
}

// rest ends the faults that can end, and looks at what becomes of everything.
func (s *sim) rest() {
	s.note("---- the faults are over")
	s.calm = true
	s.heal()
	for _, n := range s.nodes {
		n.full = false
		if n.dead {
			s.revoked[n.id] = true
		} else if !n.up {
			n.start()
		}
	}
	s.drain()
	s.settleDown()
	if s.forked() {
		s.note("a fork")
		return
	}
	for _, n := range s.nodes {
		for _, e := range n.disk.live() {
			if s.plan.liars+s.lost == 0 && !s.undecidable(s.byHash[e.Hash]) {
				s.broken("at rest generation %d is still pending at %s", e.Gen, n.name())
			}
		}
	}
	s.readAll("at rest", false) // with holders gone, who finds receipts enough completes what nobody can settle
	s.settleDown()
	first := s.readAll("at rest", true)
	s.putMore(first)
}

// undecidable: what W5 leaves until the next plain put passes it. What d names
// as prev is deleted, or what it passes has its certificate all the same: the
// seats that took that cannot promise d any more, those that promised d cannot
// refuse it. Or, where n is 2k or more, a rival has k promises too; or both are
// first generations on different seats, which no seats before them tie. Or a seat
// that has not promised d cannot, because one of these stands in its way there:
// one that d does not pass, or the fourth.
func (s *sim) undecidable(d *simDeal, asked ...*simDeal) bool {
	if d.prev != nil && s.maybeDeleted(d.prev.Gen) {
		return true
	}
	rival := func(e *simDeal) bool { return e != d && e != d.prev && len(e.promises) > 0 }
	if d.N() >= 2*int(d.K) && slices.ContainsFunc(s.deals, rival) {
		return true
	}
	if d.prev == nil && slices.ContainsFunc(s.deals, func(e *simDeal) bool {
		same := !slices.ContainsFunc(e.Seats, func(seat share.Seat) bool { return d.SeatOf(seat.Node) == nil }) && e.N() == d.N()
		return rival(e) && e.prev == nil && !same
	}) {
		return true
	}
	if slices.ContainsFunc(d.before, func(b *simDeal) bool { return b != d.prev && s.certifiable(b) }) {
		return true
	}
	asked = append(slices.Clone(asked), d)
	return slices.ContainsFunc(s.nodes, func(n *simNode) bool {
		seat := func(b *simDeal) bool { return b.SeatOf(n.id) != nil }
		live := n.disk.live()
		return !n.dead && !d.promises[n.id] && (seat(d) || slices.ContainsFunc(d.before, seat)) && slices.ContainsFunc(live, func(e *stored) bool {
			stands := len(live) >= maxPending || !slices.Contains(d.Force, e.Hash)
			return stands && !slices.Contains(asked, s.byHash[e.Hash]) && s.undecidable(s.byHash[e.Hash], asked...)
		})
	})
}

// settleDown lets holders and finishers work until nothing changes.
func (s *sim) settleDown() {
	for quiet, round := 0, 0; quiet < 2; round++ {
		if round > 40 {
			s.broken("the holders change for ever")
		}
		before := s.changes
		for _, n := range s.nodes {
			if n.dead {
				continue
			}
			places := n.store.finish.places(s.w.id)
			slices.SortFunc(places, func(a, b share.Place) int { return slices.Compare(a.Sub[:], b.Sub[:]) })
			for _, p := range places {
				n.finishOne(p)
				s.drain()
			}
			n.flush()
			if n.liar {
				continue
			}
			if c := n.mem.current(); c != nil {
				for _, to := range s.fault.targets(c, n.id) {
					n.passTo(c, to)
				}
			}
			for _, it := range slices.Clone(n.settling()) {
				n.settleOne(it)
				s.drain()
			}
			for _, t := range n.mem.tombs {
				for _, to := range t.seats {
					n.bury(t, to)
				}
			}
			s.drain()
		}
		s.now += 60
		if quiet++; s.changes != before {
			quiet = 0
		}
	}
}

// readAll gets the value at every node. With same all must see the same.
func (s *sim) readAll(when string, same bool) *simOp {
	var first *simOp
	for _, n := range s.nodes {
		if n.dead || n.liar {
			continue
		}
		o := s.start(n, "get")
		s.drain()
		switch {
		case o.state == "error" && !s.enough():
		case o.state != "value" && o.state != "none":
			s.broken("%s %v ends with %q", when, o, o.state)
		case first == nil:
			first = o
		case same && (o.state != first.state || o.gen != first.gen):
			s.broken("%s %v ends with %s %d, %v with %s %d", when, first, first.state, first.gen, o, o.state, o.gen)
		}
	}
	for _, d := range s.acked {
		if first != nil && first.state == "none" && !s.maybeDeleted(d.Gen) {
			s.broken("%s nothing is there; generation %d was acknowledged", when, d.Gen)
		}
	}
	return first
}

// enough: there are honest seats enough to believe that nothing is newer. With
// n of 2k or more, fewer may be left that still have k rows.
func (s *sim) enough() bool {
	acked := uint64(0)
	for _, d := range s.acked {
		acked = max(acked, d.Gen)
	}
	for _, d := range s.deals {
		if d.Gen < acked || s.maybeDeleted(d.Gen) || !s.certifiable(d) {
			continue
		}
		left := 0
		for _, seat := range d.Seats {
			n := s.node(seat.Node)
			left += btoi(!n.dead && !n.liar)
		}
		if left < believed(&d.Manifest) {
			return false
		}
	}
	return true
}

// putMore: a plain put succeeds, whatever was left behind.
func (s *sim) putMore(last *simOp) {
	s.plan.badRows = false
	up := 0
	for _, n := range s.nodes {
		up += btoi(!n.dead)
	}
	for _, shape := range s.plan.shapes {
		if up < shape[1] {
			return // there are no longer seats enough for every shape
		}
	}
	if last == nil {
		return
	}
	i := slices.IndexFunc(s.nodes, func(n *simNode) bool { return !n.dead && !n.liar })
	o := s.start(s.nodes[i], "put")
	s.drain()
	if o.state != "acked" && s.blocked() {
		s.note("it cannot be stored before something is settled")
		return
	}
	if o.state != "acked" || o.gen <= last.gen {
		s.broken("at rest a put after generation %d ends with %q, generation %d", last.gen, o.state, o.gen)
	}
	s.settleDown()
	if r := s.readAll("after the last put", true); r != nil && r.gen != o.gen {
		s.broken("after the last put of generation %d a get returns %d", o.gen, r.gen)
	}
}

// blocked: liars may stop a write. So may four pendings at a holder that cannot
// be settled: because holders are gone, or one of them is undecidable.
func (s *sim) blocked() bool {
	for _, n := range s.nodes {
		live := n.disk.live()
		gone := s.plan.liars+s.lost > 0
		if gone && n.liar || len(live) >= maxPending && (gone || slices.ContainsFunc(live, func(e *stored) bool { return s.undecidable(s.byHash[e.Hash]) })) {
			return true
		}
	}
	return false
}

// tell counts what happened.
func (s *sim) tell(met map[string]int) {
	for _, o := range s.ops {
		state := o.state
		if state == "" {
			state = "running"
		}
		met[o.kind+": "+state]++
	}
	for _, d := range s.deals {
		if d.acked {
			met[fmt.Sprintf("stored: prev %v, force %v", d.prev != nil, len(d.Force) > 0)]++
		}
		if d.prev != nil && d.acked && !slices.EqualFunc(d.Seats, d.prev.Seats, func(a, b share.Seat) bool { return a.Node == b.Node }) {
			met["stored: on other seats"]++
		}
	}
	met["forks"] += btoi(s.forked())
	met["disks lost"] += s.lost
	met["liars"] += s.plan.liars
	met["steps"] += s.t
}

// simMust is what every set of schedules has to meet.
var simMust = []string{
	"put: acked", "put: in doubt", "put: not stored", "put: crashed", "cas: acked", "cas: conflict", "cas: in doubt", "absent: acked",
	"get: value", "get: none", "delete: acked", "retry: acked", "stored: prev true, force true", "stored: on other seats", "disks lost", "liars",
}
