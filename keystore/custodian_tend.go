package keystore

import (
	"context"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	// tendEvery is how often delays that run are looked at.
	tendEvery = 5 * time.Second
	// saveEvery is how much running time a crash may take back.
	saveEvery = 30 * time.Second
	// lookAgain is the longest time in which nobody looks at a request.
	lookAgain = time.Minute
	// countEvery is how often counts of refusals are written.
	countEvery = time.Minute
)

// tend lets delays pass, forgets what is over, saves the running time while
// anything is kept, and writes counts of refusals, until ctx ends. It does not
// fail: what could not be written is tried again.
func (c *custodian) tend(ctx context.Context) {
	t := time.NewTicker(tendEvery)
	defer t.Stop()
	saved, counted := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			c.saveClock(ctx)
			c.flushCounts(ctx)
			return
		case <-t.C:
		}
		for _, r := range c.requests.all() {
			c.tendOne(ctx, r)
		}
		if time.Since(saved) >= saveEvery {
			saved = time.Now()
			c.saveClock(ctx)
		}
		if time.Since(counted) >= countEvery {
			counted = time.Now()
			c.flushCounts(ctx)
		}
	}
}

func (c *custodian) saveClock(ctx context.Context) {
	if len(c.requests.all()) == 0 || !c.clock.unsaved() {
		return
	}
	ran := c.clock.now()
	rec := share.Record{Place: clockPlace(), Value: key.Marshal(&clockRecord{Seconds: ran})}
	if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), rec); err != nil {
		c.log.Error("the running time is not saved", "err", err)
		return
	}
	c.clock.saved(ran)
}

func (c *custodian) flushCounts(ctx context.Context) {
	if _, err := c.audit(ctx, c.refusals.flush()...); err != nil {
		c.log.Error("refusals are not in the audit log", "err", err)
	}
}

// tendOne forgets a request that is over, and settles one that delays run for.
func (c *custodian) tendOne(ctx context.Context, r *requestState) {
	f := c.facts(c.self)
	over := r.over(f)
	if !over && (!r.open() || !c.clock.due(r.Hash, f.ran)) {
		return
	}
	release, err := c.locks.take(ctx, r.ID)
	if err != nil {
		return
	}
	defer release()
	if r = c.requests.get(r.ID, r.Hash); r == nil || r.damaged {
		return
	}
	if over {
		if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), share.Record{Place: requestPlace(r.ID, r.Hash)}); err == nil {
			c.requests.drop(r.ID, r.Hash)
			c.notices.forget(r.Hash)
			c.passing.forgetWords(r)
			c.clock.forget(r.Hash)
		}
		return
	}
	s, err := c.state(r.ID)
	if err != nil {
		return
	}
	judges, why := s.judges(r.SignedRequest)
	if why != "" {
		return
	}
	next, verdicts, moved := r.settle(f, judges)
	if moved {
		if err := c.saveRequest(ctx, s.secretState, next, nil, nil); err != nil {
			c.failed(err)
			return
		}
	}
	if stage := next.stage(verdicts); stage > custody.StageAsked {
		c.notices.reach(r.Hash, stage)
	}
	c.clock.look(r.Hash, f.ran+nextLook(verdicts))
}

// nextLook is in how many seconds something may have changed: at half time or
// the end of a delay, and after a minute in any case, since the policy may be
// another.
func nextLook(verdicts []judged) uint64 {
	look := uint64(lookAgain / time.Second)
	for _, j := range verdicts {
		for _, t := range j.Delays {
			half := (t.Seconds + 1) / 2
			for _, at := range []uint64{half, t.Seconds} {
				if at > t.Waited {
					look = min(look, at-t.Waited)
				}
			}
		}
	}
	return look
}

// stage is what of the request is told.
func (r *requestState) stage(verdicts []judged) uint8 {
	switch {
	case r.closed != custody.Open:
		return custody.StageClosed
	case r.released:
		return custody.StageReleased
	}
	for _, j := range verdicts {
		for _, t := range j.Delays {
			if t.Waited > 0 && 2*t.Waited >= t.Seconds {
				return custody.StageHalf
			}
		}
	}
	return custody.StageAsked
}

// given notes that the row went out, so that those concerned are told. It is on
// disk with the next change: after a crash it is merely given and told again.
func (c *custodian) given(ctx context.Context, held *requestState) {
	if held == nil || held.released {
		return
	}
	release, err := c.locks.take(ctx, held.ID)
	if err != nil {
		return
	}
	defer release()
	r := c.requests.get(held.ID, held.Hash)
	if r == nil || r.released || r.damaged {
		return
	}
	next := r.clone()
	next.released = true
	c.requests.put(next, next.ID, next.Hash)
	c.notices.reach(next.Hash, custody.StageReleased)
}

// confirm is the word of this node's operator on a request that is kept here.
func (c *custodian) confirm(ctx context.Context, hash key.Hash) error {
	i := slices.IndexFunc(c.requests.all(), func(r *requestState) bool { return r.Hash == hash })
	if i < 0 {
		return ErrNotFound
	}
	r := c.requests.all()[i]
	release, err := c.locks.take(ctx, r.ID)
	if err != nil {
		return err
	}
	defer release()
	if r = c.requests.get(r.ID, hash); r == nil || r.closed != custody.Open || r.damaged {
		return ErrNotFound
	}
	if r.confirmed {
		return nil
	}
	s, err := c.state(r.ID)
	if err != nil {
		return err
	}
	next := r.clone()
	next.confirmed = true
	if judges, why := s.judges(r.SignedRequest); why == "" {
		next, _, _ = next.settle(c.facts(c.self), judges)
	}
	return c.saveRequest(ctx, s.secretState, next, nil, []AuditRecord{{Kind: "confirm", ID: r.ID, Person: r.Person, Node: c.self, Request: hash}})
}

// Confirm is the word of this node's operator on a request that this node keeps
// (policy clause operator). [ErrNotFound]: none such is open here.
func (s *Store) Confirm(ctx context.Context, request key.Hash) error {
	if err := s.cust.load(ctx); err != nil {
		return err
	}
	return s.cust.confirm(ctx, request)
}
