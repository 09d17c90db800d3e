package keystore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// simDeal is a manifest with its rows, and what the world knows of it.
type simDeal struct {
	*version
	rows  map[key.NodeID][]byte
	ct    []byte
	value string
	op    *simOp

	prev     *simDeal
	before   []*simDeal          // prev and what force names
	promises map[key.NodeID]bool // honest nodes that gave a receipt
	refused  map[key.NodeID]bool // honest nodes that signed Refused
	acked    bool                // somebody was told that it is stored
	never    bool                // somebody was told that it never will be
	dead     bool                // settled: it never will be
	read     bool
}

// deal makes the next generation. Its data key and rows come out of the seed,
// by the formula of protocol.md section 3.
func (s *sim) deal(m share.Manifest, nodes []*simNode, op *simOp) *simDeal {
	d := &simDeal{rows: map[key.NodeID][]byte{}, op: op, promises: map[key.NodeID]bool{}, refused: map[key.NodeID]bool{}}
	d.value = fmt.Sprintf("value %d of schedule %d", len(s.deals), s.seed)
	ctx, k := m.Context(), int(m.K)
	grid := make([][][]byte, k)
	for u := range grid {
		grid[u] = make([][]byte, k)
		for v := range grid[u] {
			t := key.T("keymesh/v1/test", key.U64(s.seed), key.U64(uint64(len(s.deals))), []byte{byte(min(u, v)), byte(max(u, v))})
			grid[u][v] = t[:]
		}
	}
	keys, err := seal.Derive(grid[0][0], ctx)
	if err == nil {
		d.ct, err = keys.Seal([]byte(d.value))
	}
	if err != nil {
		s.broken("%v", err)
	}
	m.KC, m.Payload, m.Length = keys.KC(), sha256.Sum256(d.ct), uint64(len(d.ct))
	points := make([]byte, k)
	for u := range points {
		points[u] = byte(u)
	}
	m.Seats = nil
	for i, n := range nodes {
		x := byte(k + 1 + i)
		weights, err := shamir.Weights(points, x)
		if err != nil {
			s.broken("%v", err)
		}
		var row []byte
		for v := range k {
			column := make([][]byte, k)
			for u := range column {
				column[u] = grid[u][v]
			}
			y, err := shamir.Apply(weights, column)
			if err != nil {
				s.broken("%v", err)
			}
			row = append(row, y...)
		}
		d.rows[n.id] = row
		m.Seats = append(m.Seats, share.Seat{X: x, Node: n.id, C: share.RowCommitment(ctx, x, m.K, row)})
	}
	signed, err := share.SignManifest(s.w.owner, s.w.net, m)
	if err != nil {
		s.broken("%v", err)
	}
	d.version = newVersion(signed)
	s.values[d.Hash], s.byHash[d.Hash], s.deals = d.version, d, append(s.deals, d)
	for _, h := range append([]key.Hash{m.Prev}, m.Force...) {
		if b := s.byHash[h]; b != nil {
			d.before = append(d.before, b)
		}
	}
	d.prev = s.byHash[m.Prev]
	return d
}

// spoil is a writer whose memory or link damages rows on their way.
func (s *sim) spoil(w *write) {
	if !s.plan.badRows || s.rand.IntN(3) > 0 {
		return
	}
	for _, seat := range w.m.Seats {
		if s.rand.IntN(2) == 0 {
			w.rows[seat.Node] = bytes.Repeat([]byte{byte(s.rand.IntN(256))}, len(w.rows[seat.Node]))
			s.note("generation %d: the row of %s is damaged on its way", w.m.Gen, s.node(seat.Node).name())
		}
	}
}

// simOp is one operation of a person at a node.
type simOp struct {
	n           int
	kind        string // put, cas, absent, retry, get, delete
	node        *simNode
	want        uint64 // of cas
	value       string
	state       string // "": it runs; acked, not stored, in doubt, error, crashed; of a get value or none
	began, done int

	floor  uint64 // of a get: the highest generation acknowledged before it began
	buried uint64 // deleted for good before it began
	gen    uint64
}

func (o *simOp) String() string { return fmt.Sprintf("%s #%d at %s", o.kind, o.n, o.node.name()) }

func (o *simOp) end(state string) {
	if o.state != "" {
		return
	}
	s := o.node.s
	o.state, o.done = state, s.t
	if o.node.busy == o {
		o.node.busy = nil
	}
	s.note("%v: %s %v", o, state, o.gen)
}

// begin starts an operation where none runs. Two nodes of the mesh are the
// owner's own and do most of it.
func (s *sim) begin(n *simNode) {
	if s.rand.IntN(3) > 0 {
		n = s.nodes[s.rand.IntN(2)]
	}
	if !n.up || n.busy != nil || len(s.ops) >= s.plan.ops || n.liar {
		return
	}
	kind := simPick(s, []string{"put", "put", "put", "cas", "cas", "absent", "get", "get", "get", "retry", "delete"})
	if kind == "delete" && !s.plan.tombs {
		kind = "put"
	}
	s.start(n, kind)
}

func (s *sim) start(n *simNode, kind string) *simOp {
	o := &simOp{n: len(s.ops), kind: kind, node: n, began: s.t}
	s.ops = append(s.ops, o)
	n.busy = o
	s.note("%v begins", o)
	switch kind {
	case "get":
		newSimGet(o).begin()
	case "delete":
		newSimDelete(o).begin()
	default:
		newSimPut(o).begin()
	}
	return o
}

// simPut is dealing.put.
type simPut struct {
	*simOp
	s       *sim
	view    *view
	own     []*share.SignedManifest
	attempt int
	hasty   bool
	gaveUp  bool
	again   int
}

func newSimPut(o *simOp) *simPut { return &simPut{simOp: o, s: o.node.s} }

func (p *simPut) conditional() bool { return p.kind == "cas" || p.kind == "absent" }

func (p *simPut) begin() {
	s := p.s
	s.after(p.node, "deadline", 40+s.rand.IntN(200), func() { p.gaveUp = true })
	if p.kind == "retry" {
		if w := p.unanswered(); w != nil {
			p.drive(w)
		} else {
			p.end("error")
		}
		return
	}
	p.view = p.node.view()
	best, _ := p.view.latest()
	if p.kind == "cas" {
		if best != nil {
			p.want = best.m.Gen
		}
		if s.rand.IntN(4) == 0 && len(s.deals) > 0 {
			p.want = simPick(s, s.deals).Gen
		}
	}
	switch {
	case best == nil && !p.conditional() && p.canBeHasty():
		p.hasty = true
		p.deal()
	case best == nil || p.kind == "absent" || s.rand.IntN(2) == 0:
		p.locate()
	default:
		p.deal()
	}
}

// view is what is known at a node without asking: dealing.find, Store.atHand.
func (n *simNode) view() *view {
	v := n.store.newView(n.s.w.id)
	v.add(n.store.known.get(n.s.w.id))
	if c := n.mem.current(); c != nil {
		v.add(&certified{m: c.SignedManifest, cert: c.cert, before: signedOf(c.before)})
	}
	return v
}

// canBeHasty is dealing.canBeHasty for what a schedule can have.
func (p *simPut) canBeHasty() bool {
	for _, n := range p.s.nodes {
		if m := (simNet{p.node}).member(n); !ready(m) || m.Revoked {
			return false
		}
	}
	mark, err := p.node.store.mark(p.s.w.id)
	return err == nil && mark.Gen == 0 && len(p.s.nodes) == 5 && len(p.own) == 0
}

// unanswered is dealing.unanswered, whatever the value is.
func (p *simPut) unanswered() *write {
	var best *write
	for _, place := range p.node.store.finish.places(p.s.w.id) {
		b, err := p.node.store.finish.load(place)
		if err != nil || b == nil {
			continue
		}
		w, err := p.node.store.loadWrite(b)
		if err == nil && !w.answered && (best == nil || w.m.Gen > best.m.Gen) {
			best = w
		}
	}
	return best
}

// simAsk asks all nodes what they have: Store.locate. then runs once all have
// answered, or later when enough is there or time is up.
func (s *sim) ask(n *simNode, v *view, what string, then func(answered map[key.NodeID]bool)) {
	answered, left, over := map[key.NodeID]bool{}, 0, false
	finish := func() {
		if !over {
			over = true
			then(answered)
		}
	}
	for _, o := range s.nodes {
		if s.revoked[o.id] {
			continue
		}
		left++
		s.call(n, o, what+": LOCATE", func(o *simNode) any { return o.locate() }, func(reply any) {
			left--
			if r, ok := reply.(*custody.LocateReply); ok && !over {
				l := &located{view: v, roster: n.store.roster(), answered: answered, failed: map[key.NodeID]string{}}
				l.take(o.id, r, nil)
			}
			if left == 0 {
				finish()
			}
		})
	}
	s.after(n, what+": no more answers are waited for", 10+s.rand.IntN(60), finish)
}

func (p *simPut) locate() {
	old := p.view
	p.view = p.node.store.newView(p.s.w.id)
	for _, c := range old.certs {
		p.view.add(c)
	}
	p.s.ask(p.node, p.view, p.String(), func(answered map[key.NodeID]bool) {
		if c := p.view.complete(); c != nil {
			p.s.spread(p.node, c, func() { p.found(answered) })
			return
		}
		p.found(answered)
	})
}

// found is what dealing.ask and dealing.allowed check.
func (p *simPut) found(answered map[key.NodeID]bool) {
	s := p.s
	best, fork := p.view.latest()
	silent := len(s.nodes) - len(answered) - len(s.revoked)
	mark, err := p.node.store.mark(s.w.id)
	switch {
	case err != nil:
		s.broken("%v", err)
	case fork != nil:
		p.end("error")
		return
	case best == nil && p.view.tomb() == nil && silent >= s.silence():
		p.end("error") // a first put among silent nodes
		return
	case mark.Gen != 0 && !p.view.deleted(mark.Gen) && (best == nil || best.m.Gen < mark.Gen):
		p.end("error")
		return
	}
	p.hasty = false
	p.deal()
}

// silence is how many silent nodes refuse a first put: w+k-n of the shape that
// lets the fewest.
func (s *sim) silence() int {
	least := len(s.nodes)
	for _, shape := range s.plan.shapes {
		k, n := shape[0], shape[1]
		least = min(least, share.DefaultW(n, k)+k-n)
	}
	return least
}

// allowed is dealing.allowed.
func (p *simPut) allowed() bool {
	best, _ := p.view.latest()
	have, base := uint64(0), uint64(0)
	if best != nil {
		base = best.m.Gen
		if !p.view.deleted(base) {
			have = base
		}
	}
	return p.kind == "put" || len(p.view.live(base)) == 0 && have == p.want
}

// deal is dealing.deal.
func (p *simPut) deal() {
	s := p.s
	if !p.allowed() {
		p.end("conflict")
		return
	}
	best, fork := p.view.latest()
	m := share.Manifest{ID: s.w.id, Owner: s.w.owner.Public(), Salt: s.w.salt, Suite: share.SuiteShamir, Policy: policy.Owner().Encode(), Keep: s.plan.keep, Created: s.now}
	live := p.live(best)
	if fork != nil || len(live) > share.MaxForce {
		p.end("error")
		return
	}
	if best != nil {
		m.Prev, m.Gen = best.m.Hash, best.m.Gen
	}
	for _, t := range p.view.tombs {
		m.Gen = max(m.Gen, t.Gen)
	}
	if mark, err := p.node.store.mark(s.w.id); err == nil {
		m.Gen = max(m.Gen, mark.Gen)
	}
	for _, o := range live {
		if o.Hash != m.Prev && !slices.Contains(m.Force, o.Hash) {
			m.Force = append(m.Force, o.Hash)
		}
		m.Gen = max(m.Gen, o.Gen)
	}
	m.Gen++
	if len(m.Force) > 0 {
		m.Gen += uint64(s.rand.IntN(5)) // the real step is larger; these meet more often
	}
	seats := p.seats(&m, best)
	if seats == nil {
		p.end("error")
		return
	}
	d := s.deal(m, seats, p.simOp)
	for _, o := range p.own {
		p.view.learn(o)
	}
	before, err := p.view.beforeOf(&d.Manifest)
	if err != nil {
		s.broken("%v", err)
	}
	w := p.node.store.newWrite(d.SignedManifest, before)
	for id, row := range d.rows {
		w.rows[id] = bytes.Clone(row)
	}
	w.ct, w.digest, w.prev, w.hasty, w.conditional = d.ct, key.T("keymesh/v1/test", d.Hash[:]), best, p.hasty, p.conditional()
	w.view.add(best)
	if t := p.view.tomb(); t != nil {
		w.tomb = t.bytes
	}
	s.spoil(w)
	s.note("%v deals generation %d of %d, prev %d, force %d, seats %v", p.simOp, m.Gen, m.K, w.prevGen(), len(m.Force), s.names(func(n *simNode) bool { return d.SeatOf(n.id) != nil }))
	p.drive(w)
}

// live is dealing.live.
func (p *simPut) live(best *certified) []*share.SignedManifest {
	d := &dealing{s: p.node.store, view: p.view, own: p.own}
	return d.live(best)
}

// seats are those of prev, or others, of nodes that take seats now. The others
// count as away.
func (p *simPut) seats(m *share.Manifest, best *certified) []*simNode {
	s := p.s
	shape := simPick(s, s.plan.shapes)
	if best != nil && (!s.plan.moves || s.rand.IntN(2) == 0) {
		shape = [2]int{int(best.m.K), best.m.N()}
	}
	m.K, m.W = uint8(shape[0]), uint8(share.DefaultW(shape[1], shape[0]))
	var ready, away []*simNode
	for _, i := range s.rand.Perm(len(s.nodes)) {
		n := s.nodes[i]
		kept := best != nil && best.m.SeatOf(n.id) != nil && (!s.plan.moves || s.rand.IntN(2) == 0)
		switch {
		case s.revoked[n.id]:
		case !n.up || n.full || !s.linked(p.node, n):
			away = append(away, n)
		case kept:
			ready = slices.Insert(ready, 0, n)
		default:
			ready = append(ready, n)
		}
	}
	all := append(ready, away...)
	if len(ready) < int(m.W) || len(all) < shape[1] {
		return nil
	}
	return all[:shape[1]]
}

// drive runs a write until its verdict: dealing.drive and what dealing.put and
// dealing.lost make of it.
func (p *simPut) drive(w *write) {
	d := p.s.byHash[w.m.Hash]
	x := &simWrite{driver: driver{write: w}, s: p.s, n: p.node, inc: p.node.inc}
	x.verdictOf = func(out *outcome) { p.decided(w, d, out) }
	x.gaveUp = func() bool { return p.gaveUp }
	x.begin()
}

func (p *simPut) decided(w *write, d *simDeal, out *outcome) {
	s := p.s
	s.verdict(d, out)
	p.gen = w.m.Gen
	conditional := w.conditional
	switch {
	case out.ok:
		p.end("acked")
	case conditional && out.conflict && !out.notStored && !out.stale && p.again < maxAttempts/2 && !p.gaveUp:
		p.again++
		s.after(p.node, "backoff", s.rand.IntN(20), func() { p.drive(w.again()) })
	case conditional && !out.notStored && out.have < w.m.Gen && w.below(w.m.Gen) > 0:
		p.look(w, d)
	case conditional || !out.conflict || p.attempt == maxAttempts || p.gaveUp || p.kind == "retry":
		p.end(map[bool]string{true: "not stored", false: "in doubt"}[out.notStored])
	default:
		p.attempt++
		p.own = append(p.own, w.m)
		if p.view == nil {
			p.view = p.node.view()
		}
		for _, c := range out.shown {
			p.view.add(c)
		}
		s.after(p.node, "backoff", s.rand.IntN(20), p.locate)
	}
}

// look is dealing.look.
func (p *simPut) look(w *write, d *simDeal) {
	v := p.node.store.newView(p.s.w.id)
	p.s.ask(p.node, v, p.String(), func(map[key.NodeID]bool) {
		for _, c := range v.certs {
			w.view.add(c)
		}
		w.superseded()
		out := w.judge(true)
		if out.ok || out.conflict {
			p.s.verdict(d, out)
		}
		switch {
		case out.ok:
			p.end("acked")
		case out.notStored:
			p.end("not stored")
		default:
			p.end("in doubt")
		}
	})
}

// spread is Store.spread.
func (s *sim) spread(n *simNode, c *certified, then func()) {
	cert, err := share.DecodeCert(c.cert)
	if err != nil {
		s.broken("%v", err)
	}
	msg := &certificate{of: s.values[c.m.Hash], cert: cert, bytes: c.cert}
	var to []*simNode
	for _, m := range append([]*share.SignedManifest{c.m}, c.before...) {
		if m != c.m {
			msg.before = append(msg.before, s.values[m.Hash])
		}
		for _, seat := range m.Seats {
			if o := s.node(seat.Node); !slices.Contains(to, o) && !s.revoked[o.id] && !s.fault.skips(&c.m.Manifest, o.id) {
				to = append(to, o)
			}
		}
	}
	left, need := len(to), int(c.m.W)
	for _, o := range to {
		s.call(n, o, fmt.Sprintf("spread %d", c.m.Gen), func(o *simNode) any { return o.commit(n, msg) }, func(reply any) {
			left--
			if r, ok := reply.(*custody.CommitReply); ok && r.Outcome == custody.OK && c.m.SeatOf(o.id) != nil {
				need--
			}
			if then != nil && (left == 0 || need <= 0) {
				n.store.remember(c, false)
				then()
				then = nil
			}
		})
	}
}

// journaled writes a record of the journal, or crashes before or after it.
func (n *simNode) journaled(recs ...share.Record) bool {
	crash := !n.s.calm && n.s.rand.IntN(1000) < n.s.plan.crash
	if crash && n.s.rand.IntN(2) == 0 {
		n.crash(" before the journal is durable")
		return false
	}
	if err := n.shelf.Commit(context.Background(), recs...); err != nil {
		n.s.broken("%v", err)
	}
	if crash {
		n.crash(" after the journal is durable")
	}
	return !crash
}
