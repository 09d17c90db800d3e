package keystore

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// W3: certificates and tombstones are passed on to the other seats and to the
// seats of what was before, until each has answered. What is still to be passed
// on is in memory only: after a start everything that is held counts as such,
// and one question for thousands of secrets settles it.

const (
	passEvery   = 10 * time.Second
	passTimeout = 10 * time.Second
	// passAge is how long the writer itself has, who reaches all seats within
	// seconds.
	passAge = 5 * time.Second
	// passAtOnce is how many full messages are under way to one node.
	passAtOnce = 8
	// recheckRound is how many secrets of before the start are read a round.
	recheckRound = 2000
)

// passKey names what is passed on: the latest certificate of a secret, one of
// its tombstones, or a word on a request for it.
type passKey struct {
	id      key.Hash
	tomb    key.Hash // H(tombstone), or zero
	word    key.Hash // H(approval), or zero
	request key.Hash // that the word is on
	move    key.Hash // H(reassign), or zero
	veto    key.Hash // vetoHash, or zero
}

type passItem struct {
	hash key.Hash // H(manifest), H(tombstone) or H(approval)
	to   []key.NodeID
	at   time.Time
	// body is what a node passes on that keeps no certificate of it: one
	// without a seat.
	body *custody.Commit
}

// passing is what is still to be passed on. Safe for concurrent use.
type passing struct {
	mu    sync.Mutex
	items map[passKey]*passItem
	words map[key.Hash]bool // H(approval) of those that were noted
	again []key.Hash        // secrets of before the start, not looked at yet

	seatless int // items with a body
	bodies   int // bytes of those
}

func newPassing() *passing {
	return &passing{items: map[passKey]*passItem{}, words: map[key.Hash]bool{}}
}

func (p *passing) recheck(id key.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again = append(p.again, id)
}

// add notes the certificate in force, in place of the one before it.
func (p *passing) add(s *secretState, self key.NodeID) {
	c := s.current()
	if c == nil {
		return
	}
	p.put(passKey{id: s.id}, c.Hash, s.targetsOf(c, self))
	for _, m := range s.moves {
		p.putNew(passKey{id: s.id, move: m.Hash}, m.Hash, s.targetsOf(c, self))
	}
}

// tell notes the certificate in force for one more node.
func (p *passing) tell(s *secretState, node key.NodeID) {
	c := s.current()
	if c == nil {
		return
	}
	k := passKey{id: s.id}
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.items[k]
	if it == nil || it.hash != c.Hash {
		it = &passItem{hash: c.Hash, at: time.Now()}
		p.items[k] = it
	}
	if !slices.Contains(it.to, node) {
		it.to = append(it.to, node)
	}
}

// maxSeatless and maxBodies are how many certificates, and bytes of them, are
// kept in memory to be passed on by a node without a seat; the others are passed
// on by who has one.
const (
	maxSeatless = 4096
	maxBodies   = 16 << 20
)

// size of what is kept to be passed on, bytes.
func (it *passItem) size() int {
	if it.body == nil {
		return 0
	}
	n := len(it.body.Manifest) + len(it.body.Cert)
	for _, b := range it.body.Before {
		n += len(b)
	}
	return n
}

// addSeatless notes a certificate of a version in which this node has no seat,
// so that nothing of it stays here but its floor. Whoever brought it may have
// brought it to nobody else, and this node's word for it is gone.
func (p *passing) addSeatless(s *secretState, c *certificate, self key.NodeID) {
	if s.current() != nil || s.floor.Manifest != c.of.Hash {
		return
	}
	e := &stored{version: c.of, before: c.before}
	k := passKey{id: s.id}
	p.put(k, c.of.Hash, e.targets(self))
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.items[k]
	if it == nil || it.body != nil {
		return
	}
	full := passItem{body: &custody.Commit{Manifest: c.of.Bytes(), Cert: c.bytes, Before: bytesOf(c.before)}}
	if p.seatless >= maxSeatless || p.bodies+full.size() > maxBodies {
		p.forget(k)
		return
	}
	it.body = full.body
	p.seatless++
	p.bodies += it.size()
}

// forget is called with the lock held.
func (p *passing) forget(k passKey) {
	if it := p.items[k]; it != nil && it.body != nil {
		p.seatless--
		p.bodies -= it.size()
	}
	delete(p.items, k)
}

// seatlessBody is what [passing.addSeatless] noted, or nil.
func (p *passing) seatlessBody(k passKey, hash key.Hash) *custody.Commit {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it := p.items[k]; it != nil && it.hash == hash {
		return it.body
	}
	return nil
}

// addTombs notes the tombstones that the state has.
func (p *passing) addTombs(s *secretState) {
	for _, t := range s.tombs {
		p.put(passKey{id: s.id, tomb: t.hash}, t.hash, slices.Clone(t.seats))
	}
}

// addWords notes the words on a request: a veto must reach every seat, and an
// approver may have reached this one only.
func (p *passing) addWords(s *secretState, r *requestState, self key.NodeID) {
	c := s.current()
	if c == nil {
		return
	}
	for _, w := range r.words {
		p.putNew(passKey{id: s.id, word: w.hash, request: r.Hash}, w.hash, s.targetsOf(c, self))
	}
}

// vetoHash names the owner's veto of a Reassign among what is passed on.
func vetoHash(word []byte) key.Hash { return key.T("keymesh/v1/veto", word) }

// addVetoes notes the owner's vetoes: each is to reach every seat within the day
// in which a Reassign by seats waits, and its owner may have reached this one only.
func (p *passing) addVetoes(s *secretState, self key.NodeID) {
	c := s.current()
	if c == nil {
		return
	}
	for _, word := range s.vetoes {
		h := vetoHash(word)
		p.putNew(passKey{id: s.id, veto: h}, h, s.targetsOf(c, self))
	}
}

// passVeto sends a veto and reports whether the node answered, or there is
// nothing to send any more.
func (c *custodian) passVeto(ctx context.Context, node key.NodeID, s *secretState, d passDue) bool {
	i := slices.IndexFunc(s.vetoes, func(word []byte) bool { return vetoHash(word) == d.veto })
	if i < 0 {
		return true
	}
	var reply custody.PollReply
	return c.call(ctx, node, custody.VerbPoll, &custody.Poll{ID: s.id, Manifest: s.votesOf, Veto: s.vetoes[i]}, &reply) == nil && reply.Outcome != custody.Failed
}

// putNew is put for what is passed on once and does not change.
func (p *passing) putNew(k passKey, hash key.Hash, to []key.NodeID) {
	p.mu.Lock()
	known := p.words[hash]
	p.words[hash] = true
	p.mu.Unlock()
	if !known {
		p.put(k, hash, to)
	}
}

// forgetWords is for a request that is over.
func (p *passing) forgetWords(r *requestState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range r.words {
		delete(p.words, w.hash)
		delete(p.items, passKey{id: r.ID, word: w.hash, request: r.Hash})
	}
}

func (p *passing) put(k passKey, hash key.Hash, to []key.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.items[k]; old != nil && old.hash == hash {
		return
	}
	p.forget(k)
	if len(to) > 0 {
		p.items[k] = &passItem{hash: hash, to: to, at: time.Now()}
	}
}

// answered notes that a node needs no more of it.
func (p *passing) answered(k passKey, hash key.Hash, node key.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.items[k]
	if it == nil || it.hash != hash {
		return
	}
	if it.to = slices.DeleteFunc(it.to, func(n key.NodeID) bool { return n == node }); len(it.to) == 0 {
		p.forget(k)
	}
}

// due groups what is old enough by node; revoked nodes no longer count.
func (p *passing) due(revoked func(key.NodeID) bool) map[key.NodeID][]passDue {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[key.NodeID][]passDue{}
	for k, it := range p.items {
		if time.Since(it.at) < passAge {
			continue
		}
		it.to = slices.DeleteFunc(it.to, revoked)
		if len(it.to) == 0 {
			p.forget(k)
		}
		for _, n := range it.to {
			out[n] = append(out[n], passDue{k, it.hash})
		}
	}
	return out
}

type passDue struct {
	passKey
	hash key.Hash
}

// takeAgain takes secrets that were here before the start.
func (p *passing) takeAgain(n int) []key.Hash {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(p.again))
	out := p.again[:n]
	if p.again = p.again[n:]; len(p.again) == 0 {
		p.again = nil
	}
	return out
}

// passOn runs until ctx ends: one question a round to each node that is up,
// and the full message for what it has not. A node whose turn goes on into the
// next round is passed over there: one that dawdles delays itself only.
func (c *custodian) passOn(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	var g sync.WaitGroup
	defer g.Wait()
	var busy sync.Map // nodes whose turn goes on
	for {
		t.Reset(passEvery*4/5 + rand.N(passEvery*2/5))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		c.recheckSome(ctx)
		m := c.members.get(c.cfg.Network)
		for node, due := range c.passing.due(m.isRevoked) {
			if !m.online[node] {
				continue
			}
			if _, on := busy.LoadOrStore(node, true); on {
				continue
			}
			g.Go(func() {
				defer busy.Delete(node)
				c.passAll(ctx, node, due)
			})
		}
	}
}

func (c *custodian) recheckSome(ctx context.Context) {
	for _, id := range c.passing.takeAgain(recheckRound) {
		s, err := c.peek(ctx, id)
		if err != nil {
			continue // damaged: there is nothing to pass on
		}
		c.passing.add(s, c.self)
		c.passing.addTombs(s)
		c.passing.addVetoes(s, c.self)
		if s.kept != nil || len(s.moves) > 0 {
			c.healing.look(id, healFirst)
		}
		for _, r := range c.requests.of(id) {
			c.passing.addWords(s, r, c.self)
		}
	}
}

// peek reads the state between steps.
func (c *custodian) peek(ctx context.Context, id key.Hash) (*secretState, error) {
	release, err := c.locks.take(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	h, err := c.state(id)
	return h.secretState, err
}

// passAll tells one node everything that is due to it, until it fails to answer.
func (c *custodian) passAll(ctx context.Context, node key.NodeID, due []passDue) {
	for part := range slices.Chunk(due, custody.MaxPass) {
		if ctx.Err() != nil || !c.passTo(ctx, node, part) {
			return // asked again next round
		}
	}
}

// passTo asks one node what it misses, and sends that until one message is not
// answered.
func (c *custodian) passTo(ctx context.Context, node key.NodeID, due []passDue) bool {
	q := &custody.Pass{Items: make([]custody.PassItem, len(due))}
	for i, d := range due {
		q.Items[i] = custody.PassItem{ID: d.id, Hash: d.hash}
	}
	var reply custody.PassReply
	if err := c.call(ctx, node, custody.VerbPass, q, &reply); err != nil {
		return false
	}
	missing := make([]bool, len(due))
	for _, i := range reply.Missing {
		if int(i) < len(due) {
			missing[i] = true
		}
	}
	var g sync.WaitGroup
	var failed atomic.Bool
	slots := make(chan struct{}, passAtOnce)
	for i, d := range due {
		if !missing[i] {
			c.passing.answered(d.passKey, d.hash, node)
			continue
		}
		slots <- struct{}{}
		g.Go(func() {
			defer func() { <-slots }()
			switch {
			case failed.Load():
			case c.passFull(ctx, node, d):
				c.passing.answered(d.passKey, d.hash, node)
			default:
				failed.Store(true)
			}
		})
	}
	g.Wait()
	return !failed.Load()
}

func (c *custodian) call(ctx context.Context, node key.NodeID, verb uint64, q, reply key.Body) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	b, err := c.cfg.Network.Call(ctx, node, verb, key.Marshal(q))
	if err != nil {
		return err
	}
	return key.Unmarshal(b, reply)
}

// passFull sends a COMMIT or DELETE and reports whether the node answered, or
// there is nothing to send any more.
func (c *custodian) passFull(ctx context.Context, node key.NodeID, d passDue) bool {
	s, err := c.peek(ctx, d.id)
	if err != nil {
		return false
	}
	if !d.tomb.IsZero() {
		i := slices.IndexFunc(s.tombs, func(t *tomb) bool { return t.hash == d.tomb })
		if i < 0 {
			return true // a later one covers it and is passed on itself
		}
		t := s.tombs[i]
		q := &custody.Delete{Tombstone: t.object, Request: t.request, Approvals: t.approvals}
		if t.object == nil {
			q.Tombstone = t.body
		}
		var reply custody.DeleteReply
		return c.call(ctx, node, custody.VerbDelete, q, &reply) == nil && reply.Outcome != custody.Failed && reply.Outcome != custody.Wait
	}
	if !d.veto.IsZero() {
		return c.passVeto(ctx, node, s, d)
	}
	if !d.word.IsZero() {
		return c.passWord(ctx, node, d)
	}
	q := c.passing.seatlessBody(d.passKey, d.hash)
	moved := slices.ContainsFunc(s.moves, func(m *move) bool { return m.Hash == d.move })
	if e := s.current(); e != nil && (e.Hash == d.hash || moved) {
		q = &custody.Commit{Manifest: e.Bytes(), Cert: e.cert, Before: bytesOf(e.before), Reassigns: s.moveBytes(e.version)}
	}
	if q == nil {
		return true
	}
	var reply custody.CommitReply
	return c.call(ctx, node, custody.VerbCommit, q, &reply) == nil && reply.Outcome != custody.Failed
}

// passWord sends an APPROVE and reports whether the node answered, or there is
// nothing to send any more.
func (c *custodian) passWord(ctx context.Context, node key.NodeID, d passDue) bool {
	r := c.requests.get(d.id, d.request)
	if r == nil {
		return true
	}
	i := slices.IndexFunc(r.words, func(w *word) bool { return w.hash == d.word })
	if i < 0 {
		return true
	}
	var reply custody.ApproveReply
	err := c.call(ctx, node, custody.VerbApprove, &custody.Approve{Request: r.bytes, Approval: r.words[i].bytes}, &reply)
	return err == nil && reply.Outcome != custody.Failed
}

// pass serves PASS.
func (c *custodian) pass(_ context.Context, _ key.NodeID, q *custody.Pass) (key.Body, error) {
	reply := &custody.PassReply{}
	for i, it := range q.Items[:min(len(q.Items), custody.MaxPass)] {
		if !c.index.has(it.ID, it.Hash) && !c.requests.has(it.ID, it.Hash) {
			reply.Missing = append(reply.Missing, uint32(i))
		}
	}
	return reply, nil
}
