package keystore

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// W5 at a node: which promises wait for their writer for too long, and when the
// seats are asked about them again. What is asked and what follows from it is in
// custodian_settle_round.go. All of it is in memory: after a start the time of
// what is pending begins anew, by this node's running time.

const (
	settleFirst = 15 * time.Second // after a promise its seats are asked for the first time
	settleGrace = 45 * time.Second // after it was asked a seat says none: the writer has a minute
	settleAgain = 12 * time.Second // after a round that settled nothing; doubled then
	settleLast  = 10 * time.Minute // the longest pause
	settleSoon  = 2 * time.Second  // after something moved
	settleNear  = 5 * time.Second  // while only words of others are missing, for
	settleWhile = 5 * time.Minute  // this long

	settleEvery   = 5 * time.Second
	settleBatch   = 40 // that are asked about in one turn: SETTLE is metered
	settleAtOnce  = 8
	settleTimeout = 3 * time.Second

	maxSettles  = 1 << 16   // promises of this node in mind
	maxStranger = 1 << 12   // manifests that others asked about
	maxOfOne    = 1 << 10   // of these because of one operator's nodes
	maxShown    = 32 << 20  // bytes of what others have shown
	maxShownOne = 4 << 20   // of these, one operator's nodes
	strangerFor = time.Hour // a manifest of others is in mind; who promised it asks again
	settleOfOne = 16        // manifests in a turn because of one operator's nodes
)

// settleItem is a manifest whose seats are to be asked. The fields below busy
// belong to who set it.
type settleItem struct {
	since time.Time
	next  time.Time
	pause time.Duration
	busy  bool

	m       *version                  // nil: it is pending here
	before  []*version                // that others have shown
	refused map[key.NodeID]key.Object // verified
	shown   []key.Object              // Prepared, verified; at most MaxPromised
	by      string                    // operator because of which it is in mind
	size    int                       // bytes of what others have shown
}

type settleKey struct{ id, manifest key.Hash }

// settles are the manifests that are being settled. Safe for concurrent use.
type settles struct {
	mu       sync.Mutex
	items    map[settleKey]*settleItem
	bySecret map[key.Hash][]key.Hash // manifests in items
	strange  int                     // items that are not pending here
	bytes    int                     // that others have shown
	of       map[string]inMind       // by operator
	again    []key.Hash              // secrets with pendings of before the start
}

// inMind is what is in mind because of one operator's nodes.
type inMind struct{ items, bytes int }

func newSettles() *settles {
	return &settles{items: map[settleKey]*settleItem{}, bySecret: map[key.Hash][]key.Hash{}, of: map[string]inMind{}}
}

func (x *settles) recheck(id key.Hash, pendings int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if pendings > 0 {
		x.again = append(x.again, id)
	}
}

func (x *settles) takeAgain(n int) []key.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	n = min(n, len(x.again))
	out := x.again[:n]
	if x.again = x.again[n:]; len(x.again) == 0 {
		x.again = nil
	}
	return out
}

// note takes in what is pending now, and forgets what does not matter any more.
func (x *settles) note(s *secretState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	live := s.live()
	for _, h := range slices.Clone(x.bySecret[s.id]) {
		it := x.items[settleKey{s.id, h}]
		pending := slices.ContainsFunc(live, func(e *stored) bool { return e.Hash == h })
		if !pending && (it.m == nil || it.m.Gen <= s.top()) {
			x.drop(settleKey{s.id, h})
		}
	}
	now := time.Now()
	for _, e := range live {
		k := settleKey{s.id, e.Hash}
		it := x.items[k]
		if it == nil {
			if len(x.items) >= maxSettles {
				continue
			}
			x.put(k, &settleItem{since: now, next: now.Add(settleFirst + rand.N(settleFirst/4)), pause: settleAgain, by: e.operator})
		} else if it.m != nil { // promised by repair: this node's own from now on
			x.count(it, -1, 0)
			it.m = nil
		}
	}
}

// ripe reports whether this node has known for long enough that the manifest is
// being settled.
func (x *settles) ripe(k settleKey) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	it := x.items[k]
	return it != nil && time.Since(it.since) >= settleGrace
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// put, drop and count are called with the lock held.
func (x *settles) put(k settleKey, it *settleItem) {
	x.items[k] = it
	x.bySecret[k.id] = append(x.bySecret[k.id], k.manifest)
	x.count(it, 1, it.size)
}

func (x *settles) drop(k settleKey) {
	it := x.items[k]
	if it == nil {
		return
	}
	x.count(it, -1, -it.size)
	delete(x.items, k)
	left := slices.DeleteFunc(x.bySecret[k.id], func(h key.Hash) bool { return h == k.manifest })
	if x.bySecret[k.id] = left; len(left) == 0 {
		delete(x.bySecret, k.id)
	}
}

// count adds to what is in mind because of the item's operator.
func (x *settles) count(it *settleItem, items, bytes int) {
	x.bytes += bytes
	u := x.of[it.by]
	u.bytes += bytes
	if it.m != nil {
		x.strange += items
		u.items += items
	}
	if x.of[it.by] = u; u == (inMind{}) {
		delete(x.of, it.by)
	}
}

// room reports whether so much more may be kept in mind because of an operator.
func (x *settles) room(by string, bytes int) bool {
	return x.bytes+bytes <= maxShown && x.of[by].bytes+bytes <= maxShownOne
}

// hint is what came with a SETTLE, all of it verified.
type hint struct {
	before  []*version
	refused map[key.NodeID]key.Object
	shown   []key.Object // Prepared of members
	by      string       // operator of the first of them, or else of the sender
}

// asked notes that another seat settles the manifest, which may be none of this
// node's promises, with what it showed.
func (x *settles) asked(m *version, pending bool, h hint) {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := settleKey{m.ID, m.Hash}
	it := x.items[k]
	now := time.Now()
	if it == nil {
		size := len(m.Object.Body)
		if pending || x.of[h.by].items >= maxOfOne || !x.room(h.by, size) {
			return // its own time comes; or whoever settles it asks again
		}
		if x.strange >= maxStranger {
			x.makeRoom()
		}
		it = &settleItem{since: now, next: now.Add(settleGrace + rand.N(settleGrace/8)), pause: settleAgain, m: m, by: h.by, size: size}
		x.put(k, it)
	}
	if x.learn(it, m, h) && now.Sub(it.since) >= settleGrace {
		it.next = earlier(it.next, now.Add(settleSoon+rand.N(settleSoon)))
	}
}

// makeRoom forgets one that others asked about, of the operator that has most;
// whoever settles it asks again.
func (x *settles) makeRoom() {
	most := ""
	for by, u := range x.of {
		if u.items > x.of[most].items {
			most = by
		}
	}
	for k, it := range x.items {
		if it.m != nil && !it.busy && it.by == most {
			x.drop(k)
			return
		}
	}
}

// learn takes in what is new, as far as there is room, and reports whether
// something is.
func (x *settles) learn(it *settleItem, m *version, h hint) bool {
	news := false
	fits := func(bytes int) bool {
		if !x.room(it.by, bytes) {
			return false
		}
		it.size += bytes
		x.count(it, 0, bytes)
		return true
	}
	for _, v := range h.before {
		known := slices.ContainsFunc(it.before, func(o *version) bool { return o.Hash == v.Hash })
		if !known && slices.Contains(m.line(), v.Hash) && fits(len(v.Object.Body)) {
			it.before, news = append(it.before, v), true
		}
	}
	for node, o := range h.refused {
		if _, ok := it.refused[node]; ok || !fits(len(o.Body)) {
			continue
		}
		if it.refused == nil {
			it.refused = map[key.NodeID]key.Object{}
		}
		it.refused[node], news = o, true
	}
	for _, o := range h.shown {
		known := slices.ContainsFunc(it.shown, func(s key.Object) bool { return s.Key == o.Key })
		if !known && len(it.shown) < custody.MaxPromised && fits(len(o.Body)) {
			it.shown = append(it.shown, o) // no news: it is only passed on
		}
	}
	return news
}

// known is what others have shown of a manifest.
func (x *settles) known(k settleKey) hint {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := hint{refused: map[key.NodeID]key.Object{}}
	it := x.items[k]
	if it == nil {
		return h
	}
	for n, o := range it.refused {
		h.refused[n] = o
	}
	h.before, h.shown, h.by = slices.Clone(it.before), slices.Clone(it.shown), it.by
	return h
}

// due takes the items whose time has come, who waited longest first, and few
// because of any one operator.
func (x *settles) due() map[settleKey]*version {
	x.mu.Lock()
	defer x.mu.Unlock()
	var keys []settleKey
	now := time.Now()
	for k, it := range x.items {
		if !it.busy && !now.Before(it.next) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b settleKey) int { return x.items[a].next.Compare(x.items[b].next) })
	out := map[settleKey]*version{}
	turn := map[string]int{}
	for _, k := range keys {
		it := x.items[k]
		if len(out) == settleBatch {
			break
		}
		if it.m != nil {
			if turn[it.by]++; turn[it.by] > settleOfOne {
				continue
			}
		}
		it.busy = true
		out[k] = it.m
	}
	return out
}

// settled is how a turn ended.
type settled struct {
	over  bool // nothing is left to settle
	moved bool // something changed, so that the others are asked again soon
	near  bool // it is decided once others have acted
}

// done ends a turn.
func (x *settles) done(k settleKey, r settled) {
	x.mu.Lock()
	defer x.mu.Unlock()
	it := x.items[k]
	switch {
	case it == nil:
		return
	case r.over, it.m != nil && time.Since(it.since) >= strangerFor:
		x.drop(k)
		return
	}
	it.busy = false
	wait := it.pause
	it.pause = min(2*it.pause, settleLast)
	switch {
	case r.moved:
		wait, it.pause = settleSoon, settleAgain
	case r.near && time.Since(it.since) < settleGrace+settleWhile:
		wait = min(wait, settleNear)
	}
	it.next = time.Now().Add(wait*4/5 + rand.N(wait*2/5+1))
}

// settleAll runs until ctx ends.
func (c *custodian) settleAll(ctx context.Context) {
	t := time.NewTimer(rand.N(settleEvery))
	defer t.Stop()
	var g sync.WaitGroup
	defer g.Wait()
	slots := make(chan struct{}, settleAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		t.Reset(settleEvery*4/5 + rand.N(settleEvery*2/5))
		for _, id := range c.settles.takeAgain(recheckRound) {
			if s, err := c.peek(ctx, id); err == nil {
				c.settles.note(s)
			}
		}
		for k, m := range c.settles.due() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			g.Go(func() {
				defer func() { <-slots }()
				c.settles.done(k, c.settleOne(ctx, k, m))
			})
		}
	}
}

// settle serves SETTLE.
func (c *custodian) settle(ctx context.Context, from key.NodeID, q *custody.Settle) (key.Body, error) {
	no := func(why string) (key.Body, error) {
		return &custody.SettleReply{Outcome: custody.Refused, Why: bounded(why)}, nil
	}
	m, err := c.openManifest(q.Manifest)
	if err != nil {
		return no(err.Error())
	}
	s, err := c.peek(ctx, m.ID)
	if err != nil {
		return &custody.SettleReply{Outcome: custody.Failed, Why: c.failed(err).why}, ctx.Err()
	}
	before, err := c.openBefore(m, s, q.Before)
	if err != nil {
		return no(err.Error())
	}
	f := c.facts(from)
	p := newPoll(f, m, before)
	if !slices.Contains(p.seats(), from) {
		return no("the sending node has no seat in it or before it")
	}
	if len(q.Refused) > custody.MaxRefused {
		return no("too many refusals")
	}
	if len(q.Promised) > custody.MaxPromised {
		return no("too many promises")
	}
	c.takeRefused(p, q.Refused)
	h := hint{before: p.before(), refused: p.refused, by: f.operator}
	if s.nothing() {
		h.shown = c.openPromised(p, q.Promised)
	}
	return c.settleReply(ctx, f, p, q, h)
}

// openPromised are the Prepared that verify, of members with a seat that is
// asked.
func (c *custodian) openPromised(p *poll, objects [][]byte) []key.Object {
	m := c.members.get(c.cfg.Network)
	var out []key.Object
	for _, b := range objects {
		o, err := key.DecodeObject(b)
		if err != nil || o.Type != key.TypePrepared {
			continue
		}
		node := key.NodePublic(o.Key).ID()
		if !m.isMember(node) || !slices.Contains(p.seats(), node) {
			continue
		}
		if o, err = openReceipt(c.cfg.ID, key.TypePrepared, p.m.SignedManifest, node, b); err == nil {
			out = append(out, o)
		}
	}
	return out
}

// promiser is the member who signed the first of the Prepared.
func (c *custodian) promiser(shown []key.Object) promiser {
	m := c.members.get(c.cfg.Network)
	for _, o := range shown {
		if node := key.NodePublic(o.Key).ID(); m.isMember(node) {
			return promiser{true, m.operator(node)}
		}
	}
	return promiser{}
}
