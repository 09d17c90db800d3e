package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// custodian is the holder's side of a node: it verifies what arrives, drives
// the steps of holder.go one at a time a secret, and answers only with what is
// on disk. Steps of different secrets run side by side, so that they share the
// shelf's group commits. Safe for concurrent use.
type custodian struct {
	cfg  Config
	self key.NodeID
	log  *slog.Logger

	locks    *locks // one step at a time a secret
	versions *versionCache
	states   *stateCache
	receipts *receiptCache
	members  memberCache
	index    *index
	decoy    []byte // a state record like any other, for the work of denying
	passing  *passing
	possess  *possession
	healing  *healing
	settles  *settles
	helps    *helps
	drains   *drains

	clock    *running
	requests *requests
	refusals *refusals
	notices  *notices
	// refreshes is which secrets' epochs are still to be passed on.
	refreshes *refreshes
	// inbox takes in what persons at this node are told; nil: nobody is here.
	inbox func(ctx context.Context, from key.NodeID, q *custody.Notify) (*custody.NotifyReply, error)

	restored restoration

	loadOnce sync.Once
	loaded   chan struct{}
	loadErr  error // valid once loaded is closed
}

// newCustodian does no I/O and starts nothing; cfg was checked by [New].
func newCustodian(cfg Config) *custodian {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.RefreshEvery == 0 {
		cfg.RefreshEvery = DefaultRefresh
	}
	c := &custodian{
		cfg: cfg, self: cfg.Node.ID(), log: cfg.Log,
		locks: newLocks(), versions: newVersionCache(), states: newStateCache(), receipts: newReceiptCache(),
		index: newIndex(cfg.Limits), passing: newPassing(), possess: newPossession(), healing: newHealing(cfg.Limits), settles: newSettles(), helps: newHelps(), loaded: make(chan struct{}),
		clock: newRunning(), requests: newRequests(cfg.Limits.Secrets), refusals: newRefusals(), notices: newNotices(),
		refreshes: newRefreshes(), drains: newDrains(cfg.Shelf),
	}
	c.decoy = makeDecoy(cfg.ID)
	return c
}

// load builds the index from the shelf. It runs once; later calls wait for the
// first and return what it returned. A record that the shelf reports as corrupt
// is left out and its secret answers Failed: it is never taken for empty.
func (c *custodian) load(ctx context.Context) error {
	c.loadOnce.Do(func() {
		defer close(c.loaded)
		c.loadErr = c.buildIndex(ctx)
	})
	<-c.loaded
	return c.loadErr
}

func (c *custodian) buildIndex(ctx context.Context) error {
	bad := 0
	for _, id := range c.cfg.Shelf.IDs(share.BucketState) {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := c.cfg.Shelf.Load(statePlace(id))
		if err == nil {
			var r stateRecord
			if err = key.Unmarshal(b, &r); err == nil {
				c.index.replace(id, summary{}, summaryOf(&r))
				if len(r.Refreshes) > 0 {
					c.refreshes.add(id)
				}
				c.passing.recheck(id)
				c.settles.recheck(id, len(r.Pending))
				continue
			}
		} else if !c.cfg.Shelf.Corrupt(err) && !c.cfg.Shelf.NotFound(err) {
			return fmt.Errorf("loading what is held: %w", err)
		}
		bad++
	}
	if bad > 0 {
		c.log.Error("records of secrets are damaged and not served", "count", bad)
	}
	if err := c.loadRestored(); err != nil {
		return fmt.Errorf("whether the disk was put back: %w", err)
	}
	c.possess.load(c.cfg.Shelf)
	return c.buildRequests()
}

// run loads the index, then passes on what others may lack, removes expired
// rows, and tends requests until ctx ends. It returns after its last goroutine ended.
func (c *custodian) run(ctx context.Context) error {
	if err := c.load(ctx); err != nil {
		return err
	}
	var g sync.WaitGroup
	g.Go(func() { c.sweep(ctx) })
	g.Go(func() { c.tend(ctx) })
	g.Go(func() { c.tell(ctx) })
	g.Go(func() { c.showHeads(ctx) })
	g.Go(func() { c.watchSeats(ctx) })
	g.Go(func() { c.heal(ctx) })
	g.Go(func() { c.settleAll(ctx) })
	g.Go(func() { c.recallAll(ctx) })
	g.Go(func() { c.runRefresh(ctx) })
	c.passOn(ctx)
	g.Wait()
	return nil
}

// errVerb: the verb is none of a custodian's, or not of this version.
var errVerb = errors.New("unknown verb")

// answer serves one call. from is the node at the other end of the link. An
// error means that the body could not be read or the caller gave up; whatever
// the rules say is an answer.
func (c *custodian) answer(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
	select {
	case <-c.loaded:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.loadErr != nil {
		return nil, c.loadErr
	}
	switch verb {
	case custody.VerbPrepare:
		return serve(ctx, c, from, body, c.prepare)
	case custody.VerbCommit:
		return serve(ctx, c, from, body, c.commit)
	case custody.VerbDelete:
		return serve(ctx, c, from, body, c.delete)
	case custody.VerbLocate:
		return serve(ctx, c, from, body, c.locate)
	case custody.VerbList:
		return serve(ctx, c, from, body, c.list)
	case custody.VerbRecover:
		return serve(ctx, c, from, body, c.recover)
	case custody.VerbPass:
		return serve(ctx, c, from, body, c.pass)
	case custody.VerbApprove:
		return serve(ctx, c, from, body, c.approve)
	case custody.VerbNotify:
		return serve(ctx, c, from, body, c.notified)
	case custody.VerbAudit:
		return serve(ctx, c, from, body, c.possessed)
	case custody.VerbPoll:
		return serve(ctx, c, from, body, c.poll)
	case custody.VerbReassign:
		return serve(ctx, c, from, body, c.reassigned)
	case custody.VerbRepair:
		return serve(ctx, c, from, body, c.repair)
	case custody.VerbRecall:
		return serve(ctx, c, from, body, c.recall)
	case custody.VerbDeal:
		return serve(ctx, c, from, body, c.deal)
	case custody.VerbBundle:
		return serve(ctx, c, from, body, c.bundle)
	case custody.VerbEpoch:
		return serve(ctx, c, from, body, c.epoch)
	case custody.VerbRefresh:
		return serve(ctx, c, from, body, c.refresh)
	case custody.VerbHead:
		return serve(ctx, c, from, body, c.head)
	case custody.VerbSettle:
		return serve(ctx, c, from, body, c.settle)
	}
	return nil, fmt.Errorf("%w %d", errVerb, verb)
}

// serve decodes the body, calls the handler and encodes its reply.
func serve[Q any, PQ interface {
	*Q
	key.Body
}](ctx context.Context, _ *custodian, from key.NodeID, body []byte, handle func(context.Context, key.NodeID, PQ) (key.Body, error)) ([]byte, error) {
	q := PQ(new(Q))
	if err := key.Unmarshal(body, q); err != nil {
		return nil, err
	}
	reply, err := handle(ctx, from, q)
	if err != nil {
		return nil, err
	}
	return key.Marshal(reply), nil
}

// facts are those of this moment.
func (c *custodian) facts(from key.NodeID) holderFacts {
	m := c.members.get(c.cfg.Network)
	return holderFacts{
		net: c.cfg.ID, self: c.self, from: from, now: uint64(time.Now().Unix()), ran: c.clock.now(),
		operator: m.operator(from), restored: c.restorations(), revoked: m.isRevoked, known: c.known, member: m.isMember,
	}
}

// sign makes the receipt of a promise that is on disk, and remembers it: a
// certificate brings it back.
func (c *custodian) sign(p *promise) key.Object {
	o := share.SignReceipt(c.cfg.Node, c.cfg.ID, p.kind, p.receipt)
	if p.kind == key.TypePrepared {
		c.remember(o)
	}
	return o
}

// known reports whether the receipt was verified or made by this node before.
func (c *custodian) known(o key.Object) bool { return c.receipts.has(o) }

// remember notes that the signature of a receipt is good. Only for receipts
// that [share.OpenReceipt] accepted in this network or that this node made.
func (c *custodian) remember(o key.Object) { c.receipts.add(o) }

// openManifest verifies a manifest, once for each.
func (c *custodian) openManifest(b []byte) (*version, error) {
	return c.versions.get(b, func() (*version, error) {
		m, err := share.OpenManifest(c.cfg.ID, b)
		if err != nil {
			return nil, err
		}
		return newVersion(m), nil
	})
}

// readManifest parses a manifest out of this node's own records.
func (c *custodian) readManifest(b []byte) (*version, error) {
	return c.versions.getUsed(b, func() (*version, error) { return readVersion(c.cfg.ID, b) })
}

// state loads what is held of a secret. The caller holds its lock. A secret of
// which nothing is held has an empty state.
func (c *custodian) state(id key.Hash) (heldState, error) {
	if h, ok := c.states.get(id); ok {
		return h, nil
	}
	b, err := c.cfg.Shelf.Load(statePlace(id))
	switch {
	case err != nil && c.cfg.Shelf.NotFound(err):
		return heldState{secretState: &secretState{id: id}}, nil
	case err != nil:
		return heldState{}, err
	}
	h, err := c.decode(id, b)
	if err == nil {
		c.states.put(id, h)
	}
	return h, err
}

// heldState is a state with what the index says of it.
type heldState struct {
	*secretState
	summary summary
	size    int64 // of the record, bytes
}

func (c *custodian) decode(id key.Hash, b []byte) (heldState, error) {
	var r stateRecord
	if err := key.Unmarshal(b, &r); err != nil {
		return heldState{}, fmt.Errorf("the record of a secret: %w", err)
	}
	s, err := stateOf(c.cfg.ID, id, &r, c.readManifest)
	return heldState{s, summaryOf(&r), int64(len(b))}, err
}

// step runs one step of one secret: it loads the state, makes the step's
// records durable, and only then signs. The receipt is nil when there is none.
func (c *custodian) step(ctx context.Context, id key.Hash, f holderFacts, do func(*secretState, holderFacts) stepResult) (stepResult, *custody.State, []byte, error) {
	release, err := c.locks.take(ctx, id)
	if err != nil {
		return stepResult{}, nil, nil, err
	}
	defer release()
	old, err := c.state(id)
	if err != nil {
		return c.failed(err), nil, nil, nil
	}
	held := c.index.reservation(old.secretState)
	defer held.release()
	f.full = func(ask demand) string {
		if ask.version && old.nothing() && c.drains.isClosed() {
			return "this node is being drained"
		}
		return held.full(ask, c.cfg.Shelf)
	}
	r := do(old.secretState, f)
	now := old.secretState
	if r.next != nil {
		if err := c.apply(ctx, id, old, r); err != nil {
			return c.failed(err), nil, nil, nil
		}
		now = r.next
	}
	var there *custody.State
	if r.outcome == custody.Conflict || r.needPrev {
		v := now.shown(f, r.gen, c.sign)
		there = &v
	}
	if r.sign == nil {
		return r, there, nil, nil
	}
	return r, there, c.sign(r.sign).Encode(), nil
}

// apply makes the records of a step durable, after the audit log has what it has
// to say of it. The caller's patience does not
// count: a step is on disk or it is not, and a state that may be either is
// loaded again.
func (c *custodian) apply(ctx context.Context, id key.Hash, old heldState, r stepResult) error {
	if _, err := c.audit(ctx, c.changes(old.secretState, r.next)...); err != nil {
		return err
	}
	if r.next.blank() {
		return c.erase(ctx, id, old, r)
	}
	rec := r.next.record()
	state := key.Marshal(rec)
	recs := append(r.writes, share.Record{Place: statePlace(id), Value: state})
	if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), recs...); err != nil {
		c.states.drop(id)
		return err
	}
	now := heldState{r.next, summaryOf(rec), int64(len(state))}
	c.versions.use(r.next.versions())
	c.states.put(id, now)
	c.index.replace(id, old.summary, now.summary)
	c.settles.note(r.next)
	return nil
}

// erase makes the records of a step durable that leaves nothing of a secret.
func (c *custodian) erase(ctx context.Context, id key.Hash, old heldState, r stepResult) error {
	c.states.drop(id)
	if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), append(r.writes, share.Record{Place: statePlace(id)})...); err != nil {
		return err
	}
	c.index.replace(id, old.summary, summary{})
	c.settles.note(r.next)
	return nil
}

// failed is the answer of a store that cannot serve.
func (c *custodian) failed(err error) stepResult {
	c.log.Error("the store does not serve", "err", err)
	return refuse(custody.Failed, "this holder's store does not serve")
}

// bounded cuts words for a peer.
func bounded(s string) string {
	if len(s) > custody.MaxWhy {
		s = s[:custody.MaxWhy]
	}
	for len(s) > 0 && !validTail(s) {
		s = s[:len(s)-1]
	}
	return s
}
