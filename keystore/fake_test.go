package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

// mapShelf is a Shelf in memory. It can fail, and it can apply and report
// failure: then, like a real one, it takes nothing any more.
type mapShelf struct {
	mu      sync.Mutex
	recs    map[share.Place][]byte
	commits int
	full    bool
	stopped bool
	fail    func(recs []share.Record) (apply bool, err error)
	delay   time.Duration
}

var (
	errFakeNotFound = errors.New("fake: not found")
	errFakeStopped  = errors.New("fake: the shelf has stopped")
)

func newMapShelf() *mapShelf { return &mapShelf{recs: make(map[share.Place][]byte)} }

func (s *mapShelf) Load(p share.Place) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.recs[p]
	if !ok {
		return nil, errFakeNotFound
	}
	return slices.Clone(v), nil
}

func (s *mapShelf) Places(b share.Bucket, id key.Hash) []share.Place {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []share.Place
	for p := range s.recs {
		if p.Bucket == b && p.ID == id {
			out = append(out, p)
		}
	}
	return out
}

func (s *mapShelf) IDs(b share.Bucket) []key.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[key.Hash]bool)
	for p := range s.recs {
		if p.Bucket == b {
			ids[p.ID] = true
		}
	}
	return slices.SortedFunc(maps.Keys(ids), func(a, b key.Hash) int { return slices.Compare(a[:], b[:]) })
}

func (s *mapShelf) Commit(_ context.Context, recs ...share.Record) error {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	time.Sleep(delay) // in a bubble
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errFakeStopped
	}
	if s.fail != nil {
		if apply, err := s.fail(recs); err != nil {
			s.stopped = true
			if apply {
				s.apply(recs)
			}
			return err
		}
	}
	s.commits++
	s.apply(recs)
	return nil
}

func (s *mapShelf) apply(recs []share.Record) {
	for _, r := range recs {
		if r.Value == nil {
			delete(s.recs, r.Place)
		} else {
			s.recs[r.Place] = slices.Clone(r.Value)
		}
	}
}

func (s *mapShelf) Room(int) error {
	if s.isFull() {
		return errors.New("fake: full")
	}
	return nil
}
func (s *mapShelf) NotFound(err error) bool { return errors.Is(err, errFakeNotFound) }
func (s *mapShelf) Corrupt(error) bool      { return false }

// count is how many records of a bucket there are.
func (s *mapShelf) count(b share.Bucket) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for p := range s.recs {
		n += btoi(p.Bucket == b)
	}
	return n
}

// fakeNode is one node of a fakeNet: its keys and shelf outlive crashes.
type fakeNode struct {
	net     *fakeNet
	key     key.NodePrivate
	id      key.NodeID
	member  Member
	shelf   *mapShelf
	seal    *seal.PrivateKey
	audit   *fakeAudit    // nil: none
	log     Auditor       // instead of audit
	refresh time.Duration // Config.RefreshEvery
	rolled  bool          // peers know more of it than its disk

	store  *Store
	cancel context.CancelFunc
	ended  chan struct{}
	// lie answers instead of the store when it is set; call asks the store.
	lie func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error)
}

// fakeNet connects real stores. Between nodes it calls functions; nothing of it
// is slow unless a test says so.
type fakeNet struct {
	t     testing.TB
	id    key.NetworkID
	mu    sync.Mutex
	nodes []*fakeNode
	down  map[key.NodeID]bool
	cut   map[[2]key.NodeID]bool
	// watch sees every call before it is made; an error loses the request.
	watch func(from, to key.NodeID, verb uint64) error
	// lose sees every answer; an error loses it after the request took effect.
	lose  func(from, to key.NodeID, verb uint64) error
	calls map[uint64]int
	// tap sees every message between nodes, both ways; nil: nobody does.
	tap func(from, to key.NodeID, verb uint64, body []byte)
}

// set changes what is lost from now on; nil: nothing.
func (f *fakeNet) set(watch, lose func(from, to key.NodeID, verb uint64) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch, f.lose = watch, lose
}

// separate cuts the link between two nodes.
func (f *fakeNet) separate(a, b *fakeNode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[[2]key.NodeID{a.id, b.id}] = true
}

// heal mends every cut.
func (f *fakeNet) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cut)
}

// revoke takes the node's membership away.
func (n *fakeNode) revoke() {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.member.Revoked = true
}

// lies makes a node answer by itself; nil: honestly again.
func (n *fakeNode) lies(f func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error)) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.lie = f
}

func (s *mapShelf) failing(f func(recs []share.Record) (bool, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

func (s *mapShelf) setFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *mapShelf) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

func (s *mapShelf) slow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// dump copies the records of some buckets; none: of all.
func (s *mapShelf) dump(buckets ...share.Bucket) map[share.Place][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[share.Place][]byte)
	for p, v := range s.recs {
		if len(buckets) == 0 || slices.Contains(buckets, p.Bucket) {
			out[p] = v
		}
	}
	return out
}

var errFakeLink = errors.New("fake: no link")

// newFakeNet makes n nodes, each with an operator and a zone of its own, and
// starts them.
func newFakeNet(t testing.TB, n int) *fakeNet {
	t.Helper()
	f := &fakeNet{t: t, id: key.NetworkID{7}, down: make(map[key.NodeID]bool), cut: make(map[[2]key.NodeID]bool), calls: make(map[uint64]int)}
	for i := range n {
		f.add(fmt.Sprintf("n%d", i+1), fmt.Sprintf("op%d", i+1), fmt.Sprintf("z%d", i+1))
	}
	for _, node := range f.nodes {
		node.start()
	}
	t.Cleanup(func() {
		for _, node := range f.nodes {
			node.stop()
		}
	})
	return f
}

func (f *fakeNet) add(name, operator, zone string) *fakeNode {
	k := key.GenerateNode()
	node := &fakeNode{net: f, key: k, id: k.ID(), shelf: newMapShelf()}
	node.seal, _ = seal.GenerateKey()
	node.member = Member{ID: node.id, Name: name, Operator: operator, Zone: zone, Holder: true, Capacity: 1, SealingKey: node.seal.Public()}
	f.mu.Lock()
	f.nodes = append(f.nodes, node)
	f.mu.Unlock()
	return node
}

func (f *fakeNet) node(id key.NodeID) *fakeNode {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

func (f *fakeNet) reach(from, to key.NodeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.down[from] && !f.down[to] && !f.cut[[2]key.NodeID{from, to}] && !f.cut[[2]key.NodeID{to, from}]
}

func (f *fakeNet) count(verb uint64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[verb]
}

// netOf is the Network of one node.
type netOf struct{ n *fakeNode }

func (v netOf) Members() []Member {
	v.n.net.mu.Lock()
	nodes := slices.Clone(v.n.net.nodes)
	members := make([]Member, len(nodes))
	for i, o := range nodes {
		members[i] = o.member
	}
	v.n.net.mu.Unlock()
	var out []Member
	for i, o := range nodes {
		if o == v.n {
			continue
		}
		m := members[i]
		m.Online = v.n.net.reach(v.n.id, o.id)
		m.Accepting = m.Online && !o.shelf.isFull()
		out = append(out, m)
	}
	return out
}

func (v netOf) Self() Member { return v.n.member }

// noValues is a context as it is at the other end of a link.
type noValues struct{ context.Context }

func (noValues) Value(any) any { return nil }

func (v netOf) Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error) {
	f := v.n.net
	if to == v.n.id {
		f.t.Error("a node called itself over the network")
	}
	f.mu.Lock()
	f.calls[verb]++
	watch, lose, tap := f.watch, f.lose, f.tap
	f.mu.Unlock()
	if tap != nil {
		tap(v.n.id, to, verb, body)
	}
	o := f.node(to)
	if o == nil || !f.reach(v.n.id, to) {
		return nil, errFakeLink
	}
	if watch != nil {
		if err := watch(v.n.id, to, verb); err != nil {
			return nil, err
		}
	}
	out, err := o.answer(noValues{ctx}, v.n.id, verb, slices.Clone(body))
	if tap != nil && err == nil {
		tap(to, v.n.id, verb, out)
	}
	if lose != nil {
		if err := lose(v.n.id, to, verb); err != nil {
			return nil, err
		}
	}
	if !f.reach(v.n.id, to) {
		return nil, errFakeLink
	}
	return out, err
}

func (n *fakeNode) answer(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
	n.net.mu.Lock()
	store, lie := n.store, n.lie
	n.net.mu.Unlock()
	if store == nil {
		return nil, errFakeLink
	}
	call := func() ([]byte, error) { return store.Answer(ctx, from, verb, body) }
	if lie != nil {
		return lie(ctx, from, verb, body, call)
	}
	return call()
}

// up is the node's store, nil while it is stopped.
func (n *fakeNode) up() *Store {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.store
}

// start makes a store on the node's shelf and runs it.
func (n *fakeNode) start() {
	n.net.t.Helper()
	n.shelf.mu.Lock()
	n.shelf.stopped = false
	n.shelf.mu.Unlock()
	cfg := Config{Network: netOf{n}, Shelf: n.shelf, ID: n.net.id, Node: n.key}
	if n.audit != nil {
		cfg.Audit = n.audit
	}
	if n.log != nil {
		cfg.Audit = n.log
	}
	cfg.RefreshEvery = n.refresh
	cfg.RolledBack = func() bool { return n.rolled }
	cfg.Persons = func() []key.PersonPublic { return n.member.Persons }
	cfg.SealingKeys = func() []*seal.PrivateKey { return []*seal.PrivateKey{n.seal} }
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(testWriter{n.net.t}, nil)).With("node", n.member.Name)
	}
	s, err := New(cfg)
	if err != nil {
		n.net.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			n.net.t.Errorf("run: %v", err)
		}
	}()
	n.net.mu.Lock()
	n.store, n.cancel, n.ended = s, cancel, ended
	n.net.down[n.id] = false
	n.net.mu.Unlock()
}

// stop ends the store as a process that is killed: nothing of its memory stays.
func (n *fakeNode) stop() {
	n.net.mu.Lock()
	store, cancel, ended := n.store, n.cancel, n.ended
	n.store = nil
	n.net.down[n.id] = true
	n.net.mu.Unlock()
	if store == nil {
		return
	}
	n.shelf.mu.Lock()
	n.shelf.stopped = true // what was not on disk is lost
	n.shelf.mu.Unlock()
	cancel()
	<-ended
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// newPerson is a person with a recovery key.
func newPerson() Person {
	return Person{Key: key.GeneratePerson(), Recovery: key.GeneratePerson().Public()}
}

// long leaves a test out where -short asks for it: with the race detector, under
// which days of virtual time take minutes.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}
