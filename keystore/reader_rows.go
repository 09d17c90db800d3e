package keystore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// collect asks the seats of the manifest in use until k good rows, the payload
// and enough words that nothing is higher are here. When something higher shows
// up it is returned instead.
func (g *reading) collect(ctx context.Context) (*certified, error) {
	if err := g.prepare(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.erase()
	g.seats = make(map[key.NodeID]*seatRead, g.use.N())
	g.ct, g.need = nil, g.wordsNeeded()
	var order []key.NodeID
	for _, id := range g.asked() {
		g.seats[id] = &seatRead{state: "missing"}
		if g.roster[id].Revoked {
			g.seats[id].why = "revoked"
		}
		order = append(order, id)
	}
	order = g.s.fastest(order, g.roster)
	c := &collecting{g: g, order: order, answers: make(chan rowAnswer, 2*(2*share.MaxSeats+share.MaxReassigns))}
	defer g.s.reads.Add(-1)
	c.start(ctx, max(int(g.use.K), g.need)+btoi(g.s.reads.Add(1) <= fewReads))
	t := time.NewTimer(hedge)
	defer t.Stop()
	for !g.complete() {
		if c.inflight == 0 && !c.more(ctx) {
			return g.fewer(ctx)
		}
		select {
		case a := <-c.answers:
			c.inflight--
			g.seats[a.node].busy = false
			if next := g.take(a.node, a.reply, a.err); next != nil {
				return g.push(next)
			}
			c.moved()
			c.follow(ctx)
		case <-t.C:
			c.start(ctx, len(order))
		case <-ctx.Done():
			return g.fewer(ctx)
		}
	}
	return nil, nil
}

// asked are the nodes that hold the seats of the manifest in use, and those that
// it names and that held one: their words that nothing is newer count.
func (g *reading) asked() []key.NodeID {
	var out []key.NodeID
	for _, m := range []*share.SignedManifest{g.use, g.view.named(g.use)} {
		for _, seat := range m.Seats {
			if !slices.Contains(out, seat.Node) {
				out = append(out, seat.Node)
			}
		}
	}
	return out
}

// moved adds nodes that seats were given to, as an answer showed.
func (c *collecting) moved() {
	g := c.g
	if len(g.view.moves[g.use.Hash]) == 0 {
		return
	}
	g.use = g.view.placed(g.use)
	for _, seat := range g.use.Seats {
		if g.seats[seat.Node] == nil {
			g.seats[seat.Node] = &seatRead{state: "missing"}
			c.order = append(c.order, seat.Node)
		}
	}
}

type rowAnswer struct {
	node  key.NodeID
	reply *rowReply
	err   error
}

// collecting is who was asked.
type collecting struct {
	g        *reading
	order    []key.NodeID
	answers  chan rowAnswer // room for two answers of each seat
	inflight int
	ctAsked  key.NodeID
}

// start asks the seats that were not asked yet, up to n in all.
func (c *collecting) start(ctx context.Context, n int) {
	for _, id := range c.order[:min(n, len(c.order))] {
		if c.g.seats[id].asked == 0 {
			c.ask(ctx, id)
		}
	}
}

func (c *collecting) ask(ctx context.Context, id key.NodeID) {
	g, r := c.g, c.g.seats[id]
	payload := g.ct == nil && (c.ctAsked.IsZero() || !g.seats[c.ctAsked].busy)
	if payload {
		c.ctAsked = id
	}
	r.asked++
	r.busy = true
	c.inflight++
	use, req, k := g.use, g.request, g.key
	msg := g.message(payload)
	moves := slices.Clone(g.view.moves[use.Hash])
	patience := callTimeout
	if !g.roster[id].Online {
		patience = offlineTimeout
	}
	g.s.spawn(func() {
		if id == g.s.self {
			reply, err := g.s.ownRow(ctx, use, req, msg)
			c.answers <- rowAnswer{id, reply, err}
			return
		}
		reply, err := g.s.askRow(ctx, &opening{net: g.s.cfg.ID, use: use, node: id, req: req, key: k}, moves, patience, msg)
		c.answers <- rowAnswer{id, reply, err}
	})
}

// believed is how many seats must say that nothing higher than m is certified:
// n-k+1. A generation that was acknowledged after m is known to w of m's seats
// (section 6: w of prev's hold its row no more). Of the others, n-w, none has
// heard of it, and f = w-k of those that have may lie: n-k words prove nothing.
func believed(m *share.Manifest) int { return m.N() - int(m.K) + 1 }

// wordsNeeded is how many seats must say so for this reading. Whoever names the
// manifest needs none. Who has put or read this very one before loses nothing
// that he was ever shown: n-w+1 seats are enough then, so that k rows are
// worth something where n-k holders are lost.
func (g *reading) wordsNeeded() int {
	switch {
	case !g.latest():
		return 0
	case g.use.N() < 2*int(g.use.K) || !g.s.hasRead(g.use):
		return believed(&g.use.Manifest)
	}
	return g.use.N() - int(g.use.W) + 1
}

// follow asks one more seat for each that failed, and another seat for the
// payload when the one that was asked for it did not bring it.
func (c *collecting) follow(ctx context.Context) {
	g := c.g
	busy := 0
	for _, r := range g.seats {
		busy += btoi(r.busy)
	}
	good, current := g.counts()
	for _, id := range c.order {
		if good+busy >= int(g.use.K) && current+busy >= g.need {
			break
		}
		if g.seats[id].asked == 0 {
			c.ask(ctx, id)
			busy++
		}
	}
	if g.ct == nil && !g.seats[c.ctAsked].busy {
		c.again(ctx)
	}
}

// again asks a seat for the payload: one that was not asked for anything, else
// one that gave a good row and was asked once.
func (c *collecting) again(ctx context.Context) bool {
	for _, fits := range []func(*seatRead) bool{
		func(r *seatRead) bool { return r.asked == 0 },
		func(r *seatRead) bool { return r.asked == 1 && !r.busy && len(r.rows) > 0 },
	} {
		for _, id := range c.order {
			if id != c.ctAsked && fits(c.g.seats[id]) {
				c.ask(ctx, id)
				return true
			}
		}
	}
	return false
}

// more asks whatever is left when nobody is being asked; false: nothing is.
func (c *collecting) more(ctx context.Context) bool {
	c.start(ctx, len(c.order))
	if c.inflight == 0 && c.g.ct == nil {
		c.again(ctx)
	}
	return c.inflight > 0
}

// complete: k good rows, the payload, and enough seats that know of nothing
// higher.
func (g *reading) complete() bool {
	rows, current := g.counts()
	return g.ct != nil && rows >= int(g.use.K) && current >= g.need
}

// counts are the seats whose row is here, and the nodes that the manifest names
// that say that nothing is newer: a node that was given a seat later may not
// have been told.
func (g *reading) counts() (rows, current int) {
	for _, seat := range g.view.named(g.use).Seats {
		current += btoi(g.seats[seat.Node] != nil && g.seats[seat.Node].current)
	}
	_, rows = g.group()
	return rows, current
}

// take takes in one answer. It returns a certified manifest that is higher than
// the one in use.
func (g *reading) take(id key.NodeID, a *rowReply, err error) *certified {
	r := g.seats[id]
	if err != nil {
		if errors.Is(err, errAnswer) {
			g.lie(id, reason(err))
		} else if len(r.rows) == 0 {
			r.state, r.why = "unreachable", reason(err)
		}
		return nil
	}
	if a.state != nil {
		if err := g.view.merge(id, a.state); err != nil {
			g.lie(id, "shows what does not verify: "+reason(err))
			return nil
		}
	}
	if err := g.view.learnMoves(g.use.Hash, a.moves); err != nil {
		g.lie(id, "shows what does not verify: "+reason(err))
		return nil
	}
	if a.lie != "" {
		g.lie(id, a.lie)
		return nil
	}
	if g.latest() {
		if best, _ := g.view.latest(); best != nil && best.m.Gen > g.use.Gen {
			return best
		}
		r.current = a.of == g.use.Hash && a.state == nil || a.state != nil && g.view.nothingAbove(id, g.use.Gen)
	}
	g.hear(r, a)
	switch {
	case a.outcome != custody.OK:
		r.state, r.why = refusal(a)
	case a.of != g.use.Hash:
		r.state, r.why = "stale", "gave the row of another generation"
	default:
		r.rows, r.state, r.why = a.rows, "good", ""
		if a.payload != nil {
			g.ct, g.ctFrom = a.payload, id
		}
	}
	return nil
}

// lie drops a seat's answer and all it gave before.
func (g *reading) lie(id key.NodeID, why string) {
	r := g.seats[id]
	r.erase()
	r.held, r.current, r.state, r.why = nil, false, "bad", why
	g.bad[id] = why
}

// refusal says how a seat stands that gave no row.
func refusal(a *rowReply) (state, why string) {
	switch a.outcome {
	case custody.Denied:
		return "denied", quoted(a.why)
	case custody.Wait:
		return "denied", fmt.Sprintf("a delay of %d s runs", a.seconds)
	case custody.Failed:
		return "unreachable", "its store does not serve " + quoted(a.why)
	}
	return "missing", quoted(a.why)
}

// push goes over to a higher manifest.
func (g *reading) push(next *certified) (*certified, error) {
	if best, fork := g.view.latest(); fork != nil {
		return nil, forkError(best, fork)
	}
	if g.view.deleted(next.m.Gen) {
		return nil, ErrNotFound
	}
	g.roster = g.s.roster()
	return next, nil
}

// fewer ends a reading that did not get its rows: by giving seats that lag
// behind the certificate, or by asking all nodes if what was at hand may be out
// of date, once each; else with the error that says why.
func (g *reading) fewer(ctx context.Context) (*certified, error) {
	if used := g.catchUp(ctx); used != nil {
		return used, nil
	}
	if of := g.view.certs[g.use.Hash]; of != nil && g.showEpoch(ctx) {
		return of, nil
	}
	if err := g.waits(ctx); err != nil {
		return nil, err
	}
	if !g.wide && ctx.Err() == nil {
		states, seats := g.use, g.seats
		if err := g.ask(ctx); err != nil {
			return nil, err
		}
		moved := !slices.Equal(g.use.Seats, states.Seats)
		if best, _ := g.view.latest(); best != nil && (g.use.Hash != states.Hash || moved && g.latest()) {
			return best, nil
		}
		g.use, g.seats = states, seats
		// A seat that has committed nothing does not say so before it is asked.
		if used := g.catchUp(ctx); used != nil {
			return used, nil
		}
	}
	return nil, g.why()
}

// catchUp gives the certificate to seats that lag behind it, once for each, and
// returns it when the rows are worth asking for again.
func (g *reading) catchUp(ctx context.Context) *certified {
	used := g.view.certs[g.use.Hash]
	if used == nil || !g.lagging() || g.spread == g.use.Hash || ctx.Err() != nil {
		return nil
	}
	g.spread = g.use.Hash
	g.s.spread(ctx, used)
	return used
}

// lagging: a seat of the manifest in use shows something lower.
func (g *reading) lagging() bool {
	if !g.latest() {
		return false
	}
	for id := range g.seats {
		if h := g.view.held[id]; h != nil && h.committed != g.use.Hash && h.gen < g.use.Gen && !h.tombstone {
			return true
		}
	}
	return false
}

// why is the error of a reading that got fewer than k rows.
func (g *reading) why() error {
	rows, _ := g.counts()
	lied, denied, answered := 0, 0, 0
	for _, r := range g.seats {
		lied += btoi(r.state == "bad")
		denied += btoi(r.state == "denied")
		answered += btoi(r.state != "unreachable" && !r.busy && r.asked > 0)
	}
	switch {
	case expired(&g.use.Manifest):
		return ErrExpired
	case lied > 0 && rows < int(g.use.K) && rows+lied >= int(g.use.K):
		return &IntegrityError{Need: int(g.use.K), Have: rows, Bad: g.badRows()}
	case denied > max(1, g.use.N()-int(g.use.K)) || denied > max(1, g.use.F()) && denied == answered:
		return g.denied() // more than may lie, and the others cannot make up for them
	case rows >= int(g.use.K) && g.ct != nil:
		_, current := g.counts()
		return &QuorumError{Op: fmt.Sprintf("believing that nothing is newer than generation %d, which can be read by its number,", g.use.Gen),
			Need: g.need, Have: current, Seats: g.states()}
	case !g.latest() && rows == 0 && answered == len(g.seats):
		return ErrNotFound
	}
	return &QuorumError{Op: "get", Need: int(g.use.K), Have: rows, Seats: g.states()}
}

func (g *reading) states() []SeatState {
	out := make([]SeatState, 0, len(g.seats))
	for _, seat := range g.use.Seats {
		r := g.seats[seat.Node]
		if r == nil {
			continue
		}
		st := g.roster.seat(seat.Node, seat.X, r.state, r.why)
		if r.busy || r.state == "missing" && r.why == "" {
			st.State, st.Why = "unreachable", "no answer in time"
		}
		out = append(out, st)
	}
	sortSeats(out)
	return out
}

func (g *reading) badRows() []BadRow {
	out := make([]BadRow, 0, len(g.bad))
	for id, why := range g.bad {
		out = append(out, BadRow{Node: id, Name: g.roster.name(id), Why: why})
	}
	sortBad(out)
	return out
}

func sortBad(bad []BadRow) {
	slices.SortFunc(bad, func(a, b BadRow) int { return bytes.Compare(a.Node[:], b.Node[:]) })
}

// askRow asks one seat and checks everything about its answer that can be
// checked alone.
func (s *Store) askRow(ctx context.Context, o *opening, moves []*share.SignedReassign, patience time.Duration, msg *custody.Recover) (*rowReply, error) {
	reply := new(custody.RecoverReply)
	if err := s.callWithin(ctx, patience, o.node, custody.VerbRecover, key.Marshal(msg), reply); err != nil {
		return nil, err
	}
	out := &rowReply{outcome: reply.Outcome, seconds: reply.Seconds, why: reply.Why, held: reply.Progress, moves: reply.Reassigns}
	if stated(&reply.State) {
		out.state = &reply.State
	}
	if reply.Outcome != custody.OK || ctx.Err() != nil {
		return out, nil
	}
	o.holds = seating(o.net, o.use, moves, reply.Reassigns)
	out.open(o, reply, msg.Payload)
	return out, nil
}

// ownRow asks this node's own seat: the same decision, entry in the audit log
// and signed Release as for everybody, but a row that does not leave the process
// needs no box.
func (s *Store) ownRow(ctx context.Context, use *share.SignedManifest, req *share.SignedRequest, msg *custody.Recover) (*rowReply, error) {
	c := s.cust
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	if c.requests.get(req.ID, req.Hash) == nil {
		if err := req.CheckTime(unix()); err != nil {
			return &rowReply{outcome: custody.Refused, why: err.Error()}, nil
		}
	}
	e, d, reply, err := c.decide(ctx, arrival{SignedRequest: req, from: s.self, bytes: msg.Request, approvals: msg.Approvals, names: msg.Names}, msg.Known)
	if err != nil {
		return nil, err
	}
	out := &rowReply{outcome: reply.Outcome, seconds: reply.Seconds, why: reply.Why, held: reply.Progress, moves: reply.Reassigns}
	if stated(&reply.State) {
		out.state = &reply.State
	}
	if e == nil {
		return out, nil
	}
	if out.of = e.Hash; e.Hash != use.Hash {
		return out, nil
	}
	rows, err := c.rows(e)
	if err == nil && msg.Payload {
		if out.payload, err = s.cfg.Shelf.Load(payloadPlace(e)); err == nil && sha256.Sum256(out.payload) != use.Payload {
			err = errRow
		}
	}
	out.rows = make(map[epochKey]gotRow)
	for _, h := range rows {
		var release []byte
		if err == nil {
			release, err = c.signRelease(ctx, s.self, e, h.epoch(), req)
		}
		out.rows[keyOf(h.proof)] = gotRow{h.row, release, h.bytes()}
	}
	if err != nil {
		out.erase()
		return &rowReply{outcome: custody.Failed, why: reason(err)}, nil
	}
	c.given(ctx, d.held)
	return out, nil
}

// stated reports whether a seat said what it has.
func stated(st *custody.State) bool {
	return len(st.Manifest) > 0 || len(st.Tombstone) > 0 || len(st.Pending) > 0 || st.Floor.Gen > 0
}

// join combines k rows, checks the key and opens the payload.
func (g *reading) join() (Recovered, error) {
	value, used, of, err := g.open()
	if err != nil {
		// The rows are those that the owner committed to, or that w seats fitted
		// together: the dealing itself is not what its manifest says, or more
		// seats lie than the bound.
		return Recovered{}, fmt.Errorf("%w (the manifest and its rows contradict one another)", &IntegrityError{Need: int(g.use.K), Have: len(used), Bad: g.badRows()})
	}
	if c := g.view.certs[g.use.Hash]; c != nil && g.latest() {
		g.s.remember(c, true)
	}
	g.s.touch(g.h.id, func(m *readerMark) *uint64 { return &m.LastRead })
	name, _ := g.provenName()
	return Recovered{Name: name, ID: g.h.id, Manifest: g.use.Hash, Gen: g.use.Gen, Value: value, Used: used,
		Bad: g.badRows(), Policy: g.s.words(g.p, &g.use.Manifest, g.roster), Request: g.request.Hash, Approvals: g.approvals(), Receipt: g.receipt(used, of)}, nil
}

func (g *reading) openWith(shares []shamir.Share) ([]byte, error) {
	dk, err := shamir.Combine(shares)
	if err != nil {
		return nil, err
	}
	defer clear(dk)
	keys, err := seal.Derive(dk, g.use.Context())
	if err != nil {
		return nil, err
	}
	defer keys.Erase()
	if !keys.Check(g.use.KC) {
		return nil, seal.ErrKey
	}
	return keys.Open(g.ct)
}
