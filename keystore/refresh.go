package keystore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	// DefaultRefresh is how often rows are exchanged for others.
	DefaultRefresh = 30 * 24 * time.Hour
	// refreshLook is how often a node looks for what is due.
	refreshLook = time.Minute
	// takeOver is how long each seat waits for those before it in the order.
	takeOver = 15 * time.Minute
	// stuckAfter is how long an epoch may take until a seat proposes its dealings
	// again.
	stuckAfter = 2 * time.Minute
	// refreshAgain is the pause after an attempt that failed, doubled up to
	// refreshPause.
	refreshAgain = 10 * time.Minute
	refreshPause = 6 * time.Hour
	// refreshLimit bounds one attempt.
	refreshLimit = 2 * time.Minute
	// passPause is about the time between two rounds of passing epochs on.
	passPause = 15 * time.Second
)

// refreshes are the secrets whose epoch is still to be passed on, and when the
// next attempt of those that failed may be. Safe for concurrent use.
type refreshes struct {
	mu    sync.Mutex
	open  map[key.Hash]bool
	pause map[key.Hash]refreshFail
	busy  map[key.Hash]bool
	wake  chan struct{}
}

type refreshFail struct {
	until time.Time
	last  time.Duration
}

func newRefreshes() *refreshes {
	return &refreshes{open: map[key.Hash]bool{}, pause: map[key.Hash]refreshFail{}, busy: map[key.Hash]bool{}, wake: make(chan struct{}, 1)}
}

// add notes that an epoch of the secret may have to be passed on.
func (r *refreshes) add(id key.Hash) {
	r.mu.Lock()
	r.open[id] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *refreshes) done(id key.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

func (r *refreshes) all() []key.Hash {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]key.Hash, 0, len(r.open))
	for id := range r.open {
		out = append(out, id)
	}
	slices.SortFunc(out, compareIDs)
	return out
}

// take lets one attempt at a time coordinate a secret from here.
func (r *refreshes) take(id key.Hash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[id] {
		return false
	}
	r.busy[id] = true
	return true
}

// ended notes how an attempt ended.
func (r *refreshes) ended(id key.Hash, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, id)
	if err == nil {
		delete(r.pause, id)
		return
	}
	d := min(max(2*r.pause[id].last, refreshAgain), refreshPause)
	r.pause[id] = refreshFail{until: time.Now().Add(d/2 + rand.N(d/2)), last: d}
}

func (r *refreshes) resting(id key.Hash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.pause[id].until)
}

// runRefresh passes epochs on and refreshes what is due, one secret at a time,
// until ctx ends.
func (c *custodian) runRefresh(ctx context.Context) {
	pass, look := time.NewTimer(0), time.NewTimer(refreshLook/2+rand.N(refreshLook))
	defer pass.Stop()
	defer look.Stop()
	soon := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.refreshes.wake:
			// A coordinator elsewhere tells the seats at once; what it does not
			// reach is told after a while.
			if !soon {
				soon = true
				pass.Reset(passPause/2 + rand.N(passPause))
			}
		case <-pass.C:
			soon = false
			pass.Reset(passPause*4/5 + rand.N(passPause*2/5))
			for _, id := range c.refreshes.all() {
				if ctx.Err() != nil {
					return
				}
				c.passEpoch(ctx, id)
			}
		case <-look.C:
			look.Reset(refreshLook*4/5 + rand.N(refreshLook*2/5))
			c.refreshStuck(ctx)
			c.refreshDue(ctx)
		}
	}
}

// refreshStuck goes on with epochs that passing on alone does not bring into
// force: seats have acknowledged later rounds.
func (c *custodian) refreshStuck(ctx context.Context) {
	for _, id := range c.refreshes.all() {
		s, err := c.peek(ctx, id)
		if err != nil || s.committed == nil || c.refreshes.resting(id) || ctx.Err() != nil {
			continue
		}
		e := s.committed
		wait := uint64(stuckAfter/time.Second) * uint64(1+s.turn(c.self))
		if e.refresh == nil || e.refresh.base == nil || unix() < e.since+wait {
			continue
		}
		if _, err := c.refreshNow(ctx, id, e.Hash); err != nil {
			c.log.Warn("a refresh cannot be ended now", "secret", id.String()[:8], "err", err)
		}
	}
}

// refreshDue attempts what is due here.
func (c *custodian) refreshDue(ctx context.Context) {
	if c.cfg.RefreshEvery < 0 {
		return
	}
	now := unix()
	ids := c.index.aged(now-min(now, uint64(c.cfg.RefreshEvery/time.Second)), now)
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		s, err := c.peek(ctx, id)
		if err != nil || s.committed == nil || !c.due(s, now) || c.refreshes.resting(id) {
			continue
		}
		if _, err := c.refreshNow(ctx, id, s.committed.Hash); err != nil {
			c.log.Warn("rows could not be refreshed; it is tried again", "secret", id, "err", err)
		}
	}
}

// refreshNow makes one attempt, unless another one from here is under way.
func (c *custodian) refreshNow(ctx context.Context, id, manifest key.Hash) (map[uint8]string, error) {
	if !c.refreshes.take(id) {
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	dropped, err := c.attempt(ctx, id, manifest)
	c.refreshes.ended(id, err)
	return dropped, err
}

var errBusy = errors.New("a refresh of it is under way from this node")

// due reports whether it is this seat's turn to refresh: the time has come, and
// the seats before it in the order had theirs.
func (c *custodian) due(s *secretState, now uint64) bool {
	e := s.committed
	f := c.facts(c.self)
	if ok, _ := s.refreshed(f, e.Hash); ok == nil {
		return false
	}
	every := uint64(c.cfg.RefreshEvery / time.Second)
	turn := uint64(s.turn(c.self)) * uint64(takeOver/time.Second)
	if s.movedSince(e) {
		return now >= e.age()+turn
	}
	return now >= e.age()+e.dueAfter(every)+turn
}

// movedSince reports whether a seat was given to another node since the row here
// came into force: what the old holder has is to be worth nothing.
func (s *secretState) movedSince(e *stored) bool {
	return slices.ContainsFunc(s.moves, func(m *move) bool { return m.Manifest == e.Hash && m.active && m.Epoch >= e.epoch })
}

// age is when the row in force came into force, unix seconds.
func (e *stored) age() uint64 { return max(e.since, e.committedAt) }

// dueAfter is how many seconds after that the next refresh is due: a tenth more
// at most, the same at every seat and another one each epoch, so that secrets
// written together are not refreshed together.
func (e *stored) dueAfter(every uint64) uint64 {
	h := key.T("keymesh/v1/refresh/due", e.Hash[:], key.U64(uint64(e.epoch)))
	return every + binary.BigEndian.Uint64(h[:8])%(every/10+1)
}

// turn is this seat's place in the order of those that may coordinate: another
// order each epoch.
func (s *secretState) turn(self key.NodeID) int {
	e := s.committed
	rank := func(n key.NodeID) key.Hash {
		return key.T("keymesh/v1/refresh/turn", e.Hash[:], key.U64(uint64(e.epoch)), n[:])
	}
	mine, before := rank(self), 0
	for _, seat := range s.placement(e.version).Seats() {
		h := rank(seat.Node)
		before += btoi(bytes.Compare(h[:], mine[:]) < 0)
	}
	return before
}

// passEpoch tells the epoch in force here to the seats that have not signed that
// it is in force there, and takes in what they sign; once w have, it tells that
// too, so that old rows go.
func (c *custodian) passEpoch(ctx context.Context, id key.Hash) {
	for range 2 {
		s, err := c.peek(ctx, id)
		if err != nil {
			return
		}
		e := s.committed
		if e == nil || e.refresh == nil || e.proof == nil || e.refresh.now.Dealt.IsZero() {
			c.refreshes.done(id)
			return
		}
		had := len(e.refresh.committed)
		words := c.tellEpoch(ctx, s, e)
		if len(words) == 0 {
			return
		}
		r, _, _, err := c.step(ctx, id, c.facts(c.self), func(s *secretState, f holderFacts) stepResult {
			return s.commitEpoch(f, epochMsg{proof: e.proof, words: words})
		})
		if err != nil || r.next == nil {
			return
		}
		now := r.next.committed.refresh
		if now != nil && len(now.committed) == had {
			return
		}
		if have := 1 + had + len(words); have < int(e.W) {
			return
		}
		c.tellWords(ctx, r.next, e, append(slices.Clone(e.refresh.committed), words...))
	}
}

// epochCall is the EPOCH to a seat: with what it takes to make its row when it
// did not acknowledge.
func (c *custodian) epochCall(e *stored, x uint8, kept *custody.Dealings, words []seatWord) *custody.Epoch {
	q := &custody.Epoch{ID: e.ID, Manifest: e.Hash, Epoch: e.proof.Bytes}
	if e.proof.Ack(x) == nil && kept != nil {
		q.Bundle, q.Boxes = kept.Bundle, kept.Boxes
	}
	own := c.sign(e.epochReceipt())
	q.Committed = append(q.Committed, own.Encode())
	for _, w := range words {
		q.Committed = append(q.Committed, w.Word)
	}
	return q
}

// tellEpoch asks the seats that have not signed yet, and returns their words.
func (c *custodian) tellEpoch(ctx context.Context, s *secretState, e *stored) []seatWord {
	kept := c.dealings(e)
	r := &round{c: c}
	for _, seat := range s.placement(e.version).Seats() {
		signed := slices.ContainsFunc(e.refresh.committed, func(w seatWord) bool { return w.X == seat.X })
		if seat.Node != c.self && !signed {
			r.seats = append(r.seats, seat)
		}
	}
	replies := askSeats[custody.EpochReply](ctx, r, custody.VerbEpoch, func(seat share.Seat) key.Body {
		return c.epochCall(e, seat.X, kept, e.refresh.committed)
	})
	var out []seatWord
	for x, reply := range replies {
		if reply.Outcome != custody.OK {
			c.takeAhead(ctx, e, reply.Standing)
			continue
		}
		if w, ok := c.openWord(e.proof, s.sits(e.version), reply.Receipt); ok && w.X == x {
			out = append(out, w)
		}
	}
	return out
}

// takeAhead takes in an epoch beyond the one here that a seat showed.
func (c *custodian) takeAhead(ctx context.Context, e *stored, st *custody.Standing) {
	if st == nil || len(st.Proof) == 0 || bytes.Equal(st.Proof, e.proof.Bytes) {
		return
	}
	q := &custody.Epoch{ID: e.ID, Manifest: e.Hash, Epoch: st.Proof, Bundle: st.Bundle}
	if err := c.callSeat(ctx, c.self, custody.VerbEpoch, q, new(custody.EpochReply)); err != nil {
		c.log.Debug("an epoch that was shown was not taken in", "err", err)
	}
}

// tellWords tells all seats who has signed, so that they let go of old rows.
func (c *custodian) tellWords(ctx context.Context, s *secretState, e *stored, words []seatWord) {
	r := &round{c: c}
	for _, seat := range s.placement(e.version).Seats() {
		if seat.Node != c.self {
			r.seats = append(r.seats, seat)
		}
	}
	askSeats[custody.EpochReply](ctx, r, custody.VerbEpoch, func(seat share.Seat) key.Body {
		return c.epochCall(e, seat.X, nil, words)
	})
}

// refresh serves REFRESH: the owner wants it now.
func (c *custodian) refresh(ctx context.Context, from key.NodeID, q *custody.Refresh) (key.Body, error) {
	query, err := share.OpenQuery(c.cfg.ID, q.Query, c.self, unix())
	if err != nil {
		return &custody.RefreshReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	s, err := c.visible(ctx, q.ID, query.Person)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &custody.RefreshReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	case s == nil || query.Person != s.owner:
		c.refusals.stranger(from)
		return &custody.RefreshReply{Outcome: custody.Denied}, nil
	case s.committed == nil:
		return &custody.RefreshReply{Outcome: custody.Refused, Why: "nothing is committed here"}, nil
	}
	dropped, err := c.refreshNow(ctx, q.ID, s.committed.Hash)
	reply := &custody.RefreshReply{Outcome: custody.OK, Gen: s.committed.Gen}
	if err != nil {
		reply.Outcome, reply.Why = custody.Refused, bounded(err.Error())
	}
	for x, why := range dropped {
		reply.Dropped, reply.Said = append(reply.Dropped, x), append(reply.Said, bounded(why))
	}
	now, err := c.peek(ctx, q.ID)
	if err != nil || now.committed == nil || now.committed.Hash != s.committed.Hash {
		return reply, nil
	}
	reply.Epoch, reply.Seats = now.committed.epoch, now.committed.inForce()
	return reply, nil
}

// inForce are the seats that have signed that the row in force here is in force
// there, as far as it is still kept; all when it is over.
func (e *stored) inForce() []byte {
	if e.refresh == nil || e.refresh.now.Dealt.IsZero() {
		return e.Xs()
	}
	out := []byte{e.x}
	for _, w := range e.refresh.committed {
		out = append(out, w.X)
	}
	slices.Sort(out)
	return out
}
