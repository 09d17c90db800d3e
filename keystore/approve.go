package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Approve signs this person's approval of exactly this request and brings it to
// the seats, who pass it on. Seats that cannot be reached are told later.
//
// Errors: [ErrInput] when the note is too long or this person's approval counts
// nowhere; [ErrNoRequest]; [ErrEnded] when the request is over; [ErrStopped] when
// the store or the audit log has failed, and nothing was said; [QuorumError] when
// no seat has taken it yet: it is sent again until the request ends.
func (s *Store) Approve(ctx context.Context, p Person, request key.Hash, note string) error {
	return s.say(ctx, p, request, share.VerdictApprove, note, func(n *told, me key.PersonPublic) bool {
		return slices.Contains(n.v.policy.Approvers(n.v.Owner), me)
	})
}

// Deny signs this person's denial: it takes back the person's approval, and
// where a delay names the person as one who may veto, it is a veto.
//
// Errors: those of [Store.Approve]; for a veto those of [Store.Veto].
func (s *Store) Deny(ctx context.Context, p Person, request key.Hash, note string) error {
	return s.say(ctx, p, request, share.VerdictVeto, note, func(n *told, me key.PersonPublic) bool {
		return slices.Contains(n.v.audience(), me)
	})
}

// Veto ends a request for good at every seat that hears of it.
//
// Errors: those of [Store.Approve]; [ErrInput] when no delay of the policy
// names this person; [QuorumError] naming the seats that have not taken it when
// these are enough to go on without: they are told again, and pass it on to one
// another.
func (s *Store) Veto(ctx context.Context, p Person, request key.Hash, note string) error {
	return s.say(ctx, p, request, share.VerdictVeto, note, func(n *told, me key.PersonPublic) bool { return n.v.mayVeto(me) })
}

// say signs a word, keeps it and brings it to the seats.
func (s *Store) say(ctx context.Context, p Person, request key.Hash, verdict uint8, note string, may func(*told, key.PersonPublic) bool) error {
	if p.Key.IsZero() || len(note) > share.MaxNote {
		return fmt.Errorf("%w: no person, or a note of more than %d bytes", ErrInput, share.MaxNote)
	}
	me := p.Key.Public()
	n := s.asks.find(request)
	switch {
	case n == nil || !slices.Contains(n.v.audience(), me):
		return ErrNoRequest
	case n.request.Person == me:
		return fmt.Errorf("%w: the one who asks has signed already", ErrInput)
	case !may(n, me):
		return fmt.Errorf("%w: the policy does not give this person that word", ErrInput)
	case n.request.CheckTime(unix()) != nil && n.v.policy.LongestWait() == 0:
		return fmt.Errorf("%w: it has expired", ErrEnded)
	case closedBy(n.request, n.v, n.words) != custody.Open:
		return fmt.Errorf("%w: it was vetoed or withdrawn", ErrEnded)
	}
	kind := "approved"
	if verdict == share.VerdictVeto {
		kind = "denied"
	}
	if err := s.recordOwn(ctx, kind, n.request, p, note); err != nil {
		return err
	}
	a := share.Approval{Subject: request, Verdict: verdict, Expires: n.request.Expires, Note: note}
	b := share.SignApproval(p.Key, s.cfg.ID, a).Encode()
	w := &heardWord{&a, b}
	a.Person = me
	n, err := s.asks.say(ctx, n, w)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return s.bring(ctx, n, w)
}

// say keeps a word of a person here, to be brought to every seat.
func (b *book) say(ctx context.Context, n *told, w *heardWord) (*told, error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	if now := b.inbox[n.request.Hash]; now != nil {
		n = now
	}
	b.mu.Unlock()
	next := n.clone()
	// A person's later word replaces the earlier one here; seats keep both, and
	// with both a denial counts.
	next.words = slices.DeleteFunc(slices.Clone(n.words), func(o *heardWord) bool { return o.Person == w.Person && o.Verdict == w.Verdict })
	next.words = append(next.words, w)
	next.unsent[w.Person] = n.v.seatNodes()
	return next, b.put(ctx, next, true)
}

func (v *version) seatNodes() []key.NodeID {
	out := make([]key.NodeID, 0, v.N())
	for _, seat := range v.Seats {
		out = append(out, seat.Node)
	}
	return out
}

// bring sends a word to the seats that have not acknowledged it.
func (s *Store) bring(ctx context.Context, n *told, w *heardWord) error {
	r := s.roster()
	left := slices.DeleteFunc(slices.Clone(n.unsent[w.Person]), r.gone)
	acked, seats := s.carry(ctx, n.request, n.v, left, w.bytes)
	s.asks.carried(ctx, n, w.Person, acked)
	have, need, op := len(n.v.Seats)-len(left)+len(acked), 1, "approve"
	if w.Verdict == share.VerdictVeto {
		op = "deny"
		if n.v.mayVeto(w.Person) {
			need, op = n.v.N()-int(n.v.K)+1, "veto"
		}
	}
	if have < need {
		return &QuorumError{Op: op, Need: need, Have: have, Seats: seats}
	}
	return nil
}

// carry brings one word to nodes and says which have taken it.
func (s *Store) carry(ctx context.Context, r *share.SignedRequest, v *version, nodes []key.NodeID, word []byte) ([]key.NodeID, []SeatState) {
	body := key.Marshal(&custody.Approve{Request: r.Object.Encode(), Approval: word})
	members := s.roster()
	var acked []key.NodeID
	var seats []SeatState
	for _, id := range nodes {
		seats = append(seats, members.seat(id, v.SeatOf(id).X, "unreachable", "no answer in time"))
	}
	set := func(id key.NodeID, state, why string) {
		i := slices.IndexFunc(seats, func(st SeatState) bool { return st.Node == id })
		seats[i].State, seats[i].Why = state, why
	}
	gather(ctx, s, members, nodes, func(ctx context.Context, id key.NodeID) (*custody.ApproveReply, error) {
		reply := new(custody.ApproveReply)
		return reply, s.callWithin(ctx, callTimeout, id, custody.VerbApprove, body, reply)
	}, func(id key.NodeID, reply *custody.ApproveReply, err error) bool {
		switch {
		case err != nil:
			set(id, "unreachable", reason(err))
		case reply.Outcome != custody.OK:
			set(id, "refused", quoted(reply.Why))
		default:
			acked = append(acked, id)
			set(id, "committed", "")
		}
		return false
	})
	sortSeats(seats)
	return acked, seats
}

// carried notes who has a word.
func (b *book) carried(ctx context.Context, n *told, p key.PersonPublic, acked []key.NodeID) {
	if len(acked) == 0 {
		return
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	now := b.inbox[n.request.Hash]
	b.mu.Unlock()
	if now == nil {
		return
	}
	next := now.clone()
	left := slices.DeleteFunc(slices.Clone(now.unsent[p]), func(id key.NodeID) bool { return slices.Contains(acked, id) })
	if next.unsent[p] = left; len(left) == 0 {
		delete(next.unsent, p)
	}
	if err := b.put(ctx, next, true); err != nil {
		b.s.log.Error("the record of a request was not written", "err", err)
	}
}

// Cancel ends a request that this person made: its key is destroyed here first,
// so that nothing opens what may still be released, and the seats are told.
//
// Errors: [ErrInput]; [ErrNoRequest].
func (s *Store) Cancel(ctx context.Context, p Person, request key.Hash) error {
	if p.Key.IsZero() {
		return fmt.Errorf("%w: no person", ErrInput)
	}
	a, err := s.asks.own(p, request)
	if errors.Is(err, ErrNoRequest) {
		return s.withdraw(ctx, p, request)
	}
	if err != nil {
		return err
	}
	if err := s.recordOwn(ctx, "cancelled", a.request, p, ""); err != nil {
		return err
	}
	s.asks.forget(ctx, a)
	w := share.Approval{Subject: request, Verdict: share.VerdictVeto, Expires: a.request.Expires}
	v := newVersion(a.m)
	s.carry(ctx, a.request, v, v.seatNodes(), share.SignApproval(p.Key, s.cfg.ID, w).Encode())
	return nil
}

// Times of the book's own work.
const (
	resendEvery  = 15 * time.Second
	resendWithin = 30 * time.Second
	expireEvery  = 10 * time.Minute
	resendAtOnce = 4
)

// run brings words to seats that have not acknowledged them, and drops what has
// expired, until ctx ends.
func (b *book) run(ctx context.Context) {
	if b.load() != nil {
		return
	}
	t := time.NewTicker(resendEvery)
	defer t.Stop()
	expired := time.Time{}
	for {
		if time.Since(expired) > expireEvery {
			b.expire(ctx)
			expired = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			b.resend(ctx)
		}
	}
}

// resend brings every word that is not everywhere to those that lack it.
func (b *book) resend(ctx context.Context) {
	type work struct {
		n *told
		w *heardWord
	}
	r := b.s.roster()
	var todo []work
	b.mu.Lock()
	for _, n := range b.inbox {
		for _, w := range n.words {
			if slices.ContainsFunc(n.unsent[w.Person], func(id key.NodeID) bool { return r[id].Online && !r[id].Revoked }) {
				todo = append(todo, work{n, w})
			}
		}
	}
	b.mu.Unlock()
	var all sync.WaitGroup
	slots := make(chan struct{}, resendAtOnce)
	for _, w := range todo {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, resendWithin)
			defer cancel()
			// What it says goes to those who ask; here it is tried again.
			_ = b.s.bring(ctx, w.n, w.w)
		})
	}
	all.Wait()
}

// expire drops requests whose time is over: told ones a day later, so that
// their end is seen, and those with a delay when no holder can still count.
func (b *book) expire(ctx context.Context) {
	now := unix()
	var asks []*ask
	var tolds []*told
	b.mu.Lock()
	for _, a := range b.asked {
		if a.over() {
			asks = append(asks, a)
		}
	}
	for _, n := range b.inbox {
		if now > n.request.Expires && now-n.request.Expires > 24*60*60 {
			tolds = append(tolds, n)
		}
	}
	b.mu.Unlock()
	for _, a := range asks {
		b.forget(ctx, a)
	}
	for _, n := range tolds {
		b.mu.Lock()
		delete(b.inbox, n.request.Hash)
		b.mu.Unlock()
		b.drop(ctx, inboxPlace(n.request.ID, n.request.Hash))
	}
}
