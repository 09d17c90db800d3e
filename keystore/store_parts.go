package keystore

import (
	"cmp"
	"container/list"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// locks let one operation at a time change a secret from this node, so that
// callers of one API do not conflict with one another.
type locks struct {
	mu   sync.Mutex
	held map[key.Hash]*lock
}

type lock struct {
	turn  chan struct{} // holds one token while the lock is free
	users int
}

func newLocks() *locks { return &locks{held: make(map[key.Hash]*lock)} }

// take waits for the lock or for ctx.
func (l *locks) take(ctx context.Context, id key.Hash) (release func(), err error) {
	k := l.enter(id)
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; l.leave(id, k) }, nil
	case <-ctx.Done():
		l.leave(id, k)
		return nil, ctx.Err()
	}
}

// try takes the lock if it is free.
func (l *locks) try(id key.Hash) (release func(), ok bool) {
	k := l.enter(id)
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; l.leave(id, k) }, true
	default:
		l.leave(id, k)
		return nil, false
	}
}

func (l *locks) enter(id key.Hash) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[id]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[id] = k
	}
	k.users++
	return k
}

func (l *locks) leave(id key.Hash, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, id)
	}
}

// maxKnown bounds how many secrets' manifests are kept in memory, about 3 kB
// each. What falls out is asked for again.
const maxKnown = 1024

// lookEvery is how often all nodes are asked for another line of a secret in a
// network that is large enough to have been split.
const lookEvery = 10 * time.Minute

// memory keeps the highest certified manifest of the secrets last used.
type memory struct {
	mu    sync.Mutex
	byID  map[key.Hash]*list.Element
	order *list.List // of *remembered, last used first
}

type remembered struct {
	c      *certified
	read   bool      // its value was put or returned here
	looked time.Time // when all nodes were last asked for another line
}

func newMemory() *memory {
	return &memory{byID: make(map[key.Hash]*list.Element), order: list.New()}
}

func (m *memory) get(id key.Hash) *certified {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	return e.Value.(*remembered).c
}

// put keeps c unless something higher is kept, and reports whether that is
// news: nothing as high was kept, or its value was not read until now.
func (m *memory) put(c *certified, read bool) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[c.m.ID]; e != nil {
		r := e.Value.(*remembered)
		same := r.c.m.Hash == c.m.Hash
		news = r.c.m.Gen < c.m.Gen || same && read && !r.read
		if r.c.m.Gen <= c.m.Gen {
			r.c, r.read = c, read || same && r.read
		}
		m.order.MoveToFront(e)
		return news
	}
	m.byID[c.m.ID] = m.order.PushFront(&remembered{c: c, read: read})
	if m.order.Len() > maxKnown {
		last := m.order.Back()
		m.order.Remove(last)
		delete(m.byID, last.Value.(*remembered).c.m.ID)
	}
	return true
}

// hasRead reports whether the value of this manifest was put or returned here,
// as far as is kept.
func (m *memory) hasRead(id, manifest key.Hash) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	if e == nil {
		return false
	}
	r := e.Value.(*remembered)
	return r.read && r.c.m.Hash == manifest
}

// look reports whether it is time to ask all nodes for another line of the
// secret, and takes it that the caller does.
func (m *memory) look(id key.Hash) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	if e == nil {
		return true
	}
	r := e.Value.(*remembered)
	if time.Since(r.looked) < lookEvery {
		return false
	}
	r.looked = time.Now()
	return true
}

func (m *memory) drop(id key.Hash) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[id]; e != nil {
		m.order.Remove(e)
		delete(m.byID, id)
	}
}

// queries keeps signed Queries while they are good: one for each person and
// node serves many questions, since a Query names no secret.
type queries struct {
	mu   sync.Mutex
	kept map[queryKey]keptQuery
}

type queryKey struct {
	person key.PersonPublic
	node   key.NodeID
}

type keptQuery struct {
	bytes   []byte
	expires uint64 // unix seconds
}

// maxQueries bounds the kept Queries; when full they are all forgotten.
const maxQueries = 1024

// queryFresh is how long a Query must still live to be used again, in seconds.
const queryFresh = 120

func newQueries() *queries { return &queries{kept: make(map[queryKey]keptQuery)} }

func (q *queries) get(net key.NetworkID, p Person, node key.NodeID) []byte {
	k := queryKey{p.Key.Public(), node}
	now := unix()
	q.mu.Lock()
	defer q.mu.Unlock()
	if have, ok := q.kept[k]; ok && have.expires > now+queryFresh && have.expires <= now+share.QueryLife {
		return have.bytes
	}
	body := share.Query{Node: node, Expires: now + share.QueryLife}
	rand.Read(body.Nonce[:])
	b := share.SignQuery(p.Key, net, body).Encode()
	if len(q.kept) >= maxQueries {
		clear(q.kept)
	}
	q.kept[k] = keptQuery{b, body.Expires}
	return b
}

// pace remembers how fast nodes answer, so that fast ones are asked first.
type pace struct {
	mu  sync.Mutex
	avg map[key.NodeID]time.Duration // moving average
}

// maxPace bounds the nodes remembered; when full they are all forgotten.
const maxPace = 4096

// slowCall stands for a call that failed.
const slowCall = 2 * time.Second

func newPace() *pace { return &pace{avg: make(map[key.NodeID]time.Duration)} }

// took remembers a call. One that the caller gave up counts with the time it
// had: it may not have been the node's fault.
func (p *pace) took(ctx context.Context, id key.NodeID, d time.Duration, err error) {
	if err != nil && ctx.Err() == nil {
		d = max(d, slowCall)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.avg) >= maxPace {
		clear(p.avg)
	}
	if old, ok := p.avg[id]; ok {
		d = old + (d-old)/8
	}
	p.avg[id] = d
}

// fastest sorts nodes: this one first, then those online by their pace.
func (s *Store) fastest(nodes []key.NodeID, r roster) []key.NodeID {
	s.pace.mu.Lock()
	defer s.pace.mu.Unlock()
	rank := func(id key.NodeID) time.Duration {
		switch {
		case id == s.self:
			return -1
		case !r[id].Online:
			return time.Hour
		}
		return s.pace.avg[id]
	}
	out := slices.Clone(nodes)
	slices.SortStableFunc(out, func(a, b key.NodeID) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}
