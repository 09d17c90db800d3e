package keystore

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	// healFirst is how long a seat waits for the writer to bring its row.
	healFirst = 15 * time.Second
	// healEvery is how often the list is looked at.
	healEvery = 5 * time.Second
	// healAtOnce is how many seats are repaired at the same time.
	healAtOnce = 4
	// maxHealing bounds the list.
	maxHealing = 1 << 16
	healPause  = 30 * time.Second // after a failure, doubled each time up to
	healMost   = time.Hour
	// healOrdered takes the place of healPause where a repair was ordered.
	healOrdered = time.Second
	// healStraggler is how long the others are waited for once enough values
	// are here: who lies is named only when it has answered.
	healStraggler = time.Second
)

// healing is the list of secrets whose seat here may need its row, or is to be
// left. Safe for concurrent use.
type healing struct {
	mu     sync.Mutex
	want   map[key.Hash]*healTry
	paused bool
	budget budget
	orders map[key.PersonPublic]*budget // of seats that their owners gave to this node
	owed   Limits                       // what one owner may order here in an hour
	wake   chan struct{}                // holds a token when something was ordered
}

type healTry struct {
	at    time.Time
	tries int
	busy  bool
	again bool // ordered once more while it was busy
	// ordered: somebody waits, and the helpers may hear of it a moment later.
	ordered bool
}

func newHealing(l Limits) *healing {
	return &healing{
		want: map[key.Hash]*healTry{}, budget: budget{seats: l.RepairSeats, bytes: l.RepairBytes},
		orders: map[key.PersonPublic]*budget{}, owed: l, wake: make(chan struct{}, 1),
	}
}

// budget is what repairs may cost this node in an hour.
type budget struct {
	seats     int
	bytes     int64
	hour      time.Time // when the hour began
	usedSeats int
	usedBytes int64
}

// spend reports whether one more seat of size bytes may be repaired now. A seat
// larger than the budget is repaired alone in its hour.
func (b *budget) spend(size int64) bool {
	if now := time.Now(); b.hour.IsZero() || now.Sub(b.hour) >= time.Hour {
		b.hour, b.usedSeats, b.usedBytes = now, 0, 0
	}
	if b.usedSeats >= b.seats || b.usedSeats > 0 && b.usedBytes+size > b.bytes {
		return false
	}
	b.usedSeats++
	b.usedBytes += size
	return true
}

// look puts a secret on the list, to be looked at after d or when it was to be
// already.
func (h *healing) look(id key.Hash, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := time.Now().Add(d)
	if t := h.want[id]; t == nil {
		if len(h.want) >= maxHealing {
			return // found again by the next round of audits
		}
		h.want[id] = &healTry{at: at}
	} else if at.Before(t.at) && t.tries == 0 {
		t.at = at
	}
}

// order is look for a secret that somebody waits for: earlier failures do not
// count.
func (h *healing) order(id key.Hash) {
	h.look(id, 0)
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.want[id]; t != nil {
		t.at, t.tries, t.again, t.ordered = time.Now(), 0, t.busy, true
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// due takes up to n secrets whose time has come; none while paused.
func (h *healing) due(n int) []key.Hash {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []key.Hash
	if h.paused {
		return nil
	}
	for id, t := range h.want {
		if len(out) == n {
			break
		}
		if !t.busy && !time.Now().Before(t.at) {
			t.busy = true
			out = append(out, id)
		}
	}
	return out
}

// done notes the outcome of one look.
func (h *healing) done(id key.Hash, o healOutcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.want[id]
	if t == nil {
		return
	}
	t.busy = false
	switch {
	case t.again:
		t.at, t.again = time.Now(), false
		return
	case o == healOver:
		delete(h.want, id)
	case o == healLater:
		t.at = h.budget.hour.Add(time.Hour)
	default:
		pause := min(healPause<<min(t.tries, 8), healMost)
		if t.ordered {
			pause = min(healOrdered<<min(t.tries, 12), healMost)
		}
		t.tries++
		t.at = time.Now().Add(pause/2 + rand.N(pause))
	}
}

// maxOrders bounds the owners whose orders have a budget of their own.
const maxOrders = 1024

// spend takes a repair of size bytes out of the budget of the hour. A seat that
// its owner gave to this node costs the owner's: as much as the owner may have
// here at all, so that it never throttles a move, and never more than that.
func (h *healing) spend(owner key.PersonPublic, ordered bool, size int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !ordered {
		return h.budget.spend(size)
	}
	b := h.orders[owner]
	if b == nil {
		if len(h.orders) >= maxOrders {
			maps.DeleteFunc(h.orders, func(_ key.PersonPublic, b *budget) bool { return time.Since(b.hour) >= time.Hour })
		}
		if len(h.orders) >= maxOrders {
			return h.budget.spend(size)
		}
		b = &budget{seats: h.owed.Secrets, bytes: h.owed.Bytes}
		h.orders[owner] = b
	}
	return b.spend(size)
}

// healOutcome says what one look at a secret led to.
type healOutcome int

const (
	healOver  healOutcome = iota // nothing is to be done any more
	healAgain                    // it did not work
	healLater                    // the budget of the hour is used up
)

// heal repairs the seats on the list until ctx ends.
func (c *custodian) heal(ctx context.Context) {
	t := time.NewTicker(healEvery)
	defer t.Stop()
	var g sync.WaitGroup
	defer g.Wait()
	slots := make(chan struct{}, healAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-c.healing.wake:
		}
		for ids := c.healing.due(healAtOnce); len(ids) > 0 && ctx.Err() == nil; ids = c.healing.due(healAtOnce) {
			for _, id := range ids {
				slots <- struct{}{}
				g.Go(func() {
					defer func() { <-slots }()
					c.healing.done(id, c.healOne(ctx, id))
				})
			}
		}
	}
}

// damaged notes that this node's row of a secret cannot be read or is not the
// one committed to: the seat repairs itself.
func (c *custodian) damaged(id key.Hash, err error) {
	c.log.Error("a row is damaged and will be repaired", "secret", id.String()[:8], "err", err)
	c.healing.look(id, 0)
}

// healOne looks at one secret: repairs the seat here, or lets go of one that
// was given to another node.
func (c *custodian) healOne(ctx context.Context, id key.Hash) healOutcome {
	s, err := c.peek(ctx, id)
	if err != nil {
		return healOver // damaged as a whole: nothing says what is to be here
	}
	f := c.facts(c.self)
	if e, to := s.leaving(f); e != nil {
		return c.leaveTo(ctx, s, e, to)
	}
	e, x := s.lacking(f)
	if e == nil {
		return healOver
	}
	if e.row && e.refresh != nil && e.refresh.ahead != nil {
		return c.catchUp(ctx, s, e)
	}
	seat := e.asSeat(x, nil)
	row, payload := e.row && c.hasRow(seat), e.row && c.hasPayload(seat)
	if row && payload {
		return healOver
	}
	size := int64(e.K) * share.DataKeySize
	if !payload {
		size += int64(e.Length)
	}
	last := s.placement(e.version).Last(x)
	if !c.healing.spend(e.Owner, last != nil && last.ByOwner, size) {
		return healLater
	}
	return c.repairSeat(ctx, s, e, x, !payload)
}

func (c *custodian) hasRow(e *stored) bool {
	b, err := c.loadRow(e)
	clear(b)
	return err == nil
}

func (c *custodian) hasPayload(e *stored) bool {
	ct, err := c.cfg.Shelf.Load(payloadPlace(e))
	return err == nil && e.payloadFits(ct)
}

// repairSeat gets the row, and the ciphertext where it is missing, and commits.
func (c *custodian) repairSeat(ctx context.Context, s *secretState, e *stored, x uint8, payload bool) healOutcome {
	seat, row, liars, err := c.fetchRow(ctx, s, e.asSeat(x, e.proof))
	if err != nil {
		c.log.Warn("a seat cannot be repaired now", "secret", e.ID.String()[:8], "err", err)
		return healAgain
	}
	defer clear(row)
	msg := healMsg{manifest: e.Hash, epoch: e.epoch, proof: seat.proof, x: x, row: row}
	if payload {
		if msg.payload = c.fetchPayload(ctx, s, seat, x); msg.payload == nil {
			return healAgain
		}
	}
	r, _, _, err := c.step(ctx, e.ID, c.facts(c.self), func(s *secretState, f holderFacts) stepResult { return s.heal(f, msg) })
	if err != nil || r.outcome == custody.Full || r.outcome == custody.Failed {
		return healAgain
	}
	if r.outcome == custody.OK {
		c.note(ctx, AuditRecord{Kind: "repair", ID: e.ID, Node: c.self, Detail: fmt.Sprintf("seat %d of generation %d has its row again%s", x, e.Gen, butLiars(liars))})
		c.passing.add(r.next, c.self)
	}
	c.healing.look(e.ID, healFirst) // whether anything is left
	return healOver
}

func butLiars(liars []key.NodeID) string {
	if len(liars) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d holders sent wrong values", len(liars))
}

// repairAnswer is what one helper said.
type repairAnswer struct {
	x     uint8
	node  key.NodeID
	reply custody.RepairReply
	err   error
}

// fetchRow asks the holders of the other seats for their values and rebuilds the
// row of the seat, of the epoch that most have gone on to if that is a later one.
// Whoever sent a wrong value is returned and suspect from then on.
func (c *custodian) fetchRow(ctx context.Context, s *secretState, seat *stored) (*stored, []byte, []key.NodeID, error) {
	for {
		var got values
		c.askHelpers(ctx, s, seat, &got)
		row, liars, err := c.rebuilt(ctx, seat, &got)
		got.erase()
		if err == nil || got.ahead == nil {
			return seat, row, liars, err
		}
		seat = seat.asSeat(seat.x, got.ahead) // higher each time
	}
}

// askHelpers asks all at once. It waits for all while too few values are here,
// and then a little longer.
func (c *custodian) askHelpers(ctx context.Context, s *secretState, e *stored, got *values) {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	seats := s.placement(e.version).Seats()
	answers := make(chan repairAnswer, len(seats))
	asked := 0
	online := c.members.get(c.cfg.Network).online
	for _, seat := range seats {
		if seat.X == e.x || seat.Node == c.self || !online[seat.Node] {
			continue
		}
		asked++
		go func() {
			a := repairAnswer{x: seat.X, node: seat.Node}
			a.err = c.call(ctx, seat.Node, custody.VerbRepair, &custody.Repair{ID: e.ID, Manifest: e.Hash, Epoch: e.epoch, X: e.x}, &a.reply)
			answers <- a
		}()
	}
	defer func() { // every goroutine ends with this call
		cancel()
		for ; asked > 0; asked-- {
			<-answers
		}
	}()
	var late <-chan time.Time
	for asked > 0 {
		select {
		case a := <-answers:
			asked--
			c.hear(ctx, s, e, a, got)
		case <-late:
			return
		}
		if late == nil && len(got.xs) >= int(e.W) {
			late = time.After(healStraggler)
		}
	}
}

// values are what helpers sent.
type values struct {
	xs     []byte
	values [][]byte
	nodes  []key.NodeID
	ahead  *share.OpenedEpoch // the latest that a helper has, when it is beyond
}

func (v *values) erase() {
	for _, b := range v.values {
		clear(b)
	}
}

// hear takes in one helper's answer.
func (c *custodian) hear(ctx context.Context, s *secretState, e *stored, a repairAnswer, got *values) {
	switch {
	case a.err != nil:
	case a.reply.Outcome == custody.OK:
		got.xs, got.values, got.nodes = append(got.xs, a.x), append(got.values, a.reply.Value), append(got.nodes, a.node)
	case a.reply.Outcome == custody.Moved:
		if moves, err := c.openMoves(a.reply.Reassigns, e.version); err == nil {
			_ = c.takeMoves(ctx, c.facts(a.node), e.ID, moves)
		}
	case len(a.reply.Epoch) > 0:
		if p, err := share.OpenEpoch(c.cfg.ID, a.reply.Epoch, e.SignedManifest, s.holds(e.version)); err == nil && p.Number() > e.epoch &&
			(got.ahead == nil || p.Number() > got.ahead.Number()) {
			got.ahead = p
		}
	}
}

// rebuilt makes the row of what came and names who lied.
func (c *custodian) rebuilt(ctx context.Context, e *stored, got *values) ([]byte, []key.NodeID, error) {
	row, bad, err := e.rebuild(got.xs, got.values)
	var liars []key.NodeID
	for _, b := range bad {
		node := got.nodes[slices.Index(got.xs, b)]
		liars = append(liars, node)
		if c.possess.accuse(node, seatKey{e.ID, b}, e.Hash, c.clock.now()) {
			c.note(ctx, AuditRecord{Kind: "suspect", ID: e.ID, Node: node, Detail: fmt.Sprintf("seat %d sent a wrong value for the repair of seat %d", b, e.x)})
		}
	}
	return row, liars, err
}

// fetchPayload asks the other seats for the ciphertext, one after the other.
func (c *custodian) fetchPayload(ctx context.Context, s *secretState, e *stored, x uint8) []byte {
	seats := s.placement(e.version).Seats()
	online := c.members.get(c.cfg.Network).online
	rand.Shuffle(len(seats), func(i, j int) { seats[i], seats[j] = seats[j], seats[i] })
	for _, seat := range seats {
		if seat.Node == c.self || !online[seat.Node] || ctx.Err() != nil {
			continue
		}
		var reply custody.RepairReply
		q := &custody.Repair{ID: e.ID, Manifest: e.Hash, Epoch: e.epoch, X: x, Payload: true}
		if c.call(ctx, seat.Node, custody.VerbRepair, q, &reply) == nil && reply.Outcome == custody.OK && e.payloadFits(reply.Payload) {
			return reply.Payload
		}
	}
	return nil
}

// PauseRepair stops or goes on with the repair of this node's own seats. What is
// under way ends; helping others goes on. It is in the audit log and does not
// outlive the process.
func (s *Store) PauseRepair(ctx context.Context, paused bool) {
	h := s.cust.healing
	h.mu.Lock()
	changed := h.paused != paused
	h.paused = paused
	h.mu.Unlock()
	if changed {
		detail := "repairs go on"
		if paused {
			detail = "repairs are paused"
		}
		s.cust.note(ctx, AuditRecord{Kind: "repair", Node: s.self, Detail: detail})
	}
}
