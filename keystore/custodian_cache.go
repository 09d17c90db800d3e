package keystore

import (
	"crypto/sha256"
	"sync"
	"time"

	"keymesh/crypto/key"
)

// young is a map bounded by age: what was not used while the newer half filled
// up, by number or by weight, is forgotten. Not safe for concurrent use.
type young[K comparable, V any] struct {
	half     int
	weight   int64 // of the newer half, at most
	weigh    func(V) int64
	held     int64 // by the newer half
	new, old map[K]V
}

func newYoung[K comparable, V any](size int) young[K, V] {
	return newHeavy[K](size, int64(size), func(V) int64 { return 1 })
}

// newHeavy is a young map that is also bounded by the weight of what is in it.
func newHeavy[K comparable, V any](size int, weight int64, weigh func(V) int64) young[K, V] {
	return young[K, V]{half: size / 2, weight: weight / 2, weigh: weigh, new: make(map[K]V)}
}

func (y *young[K, V]) get(k K) (V, bool) {
	if v, ok := y.new[k]; ok {
		return v, true
	}
	v, ok := y.old[k]
	if ok {
		y.put(k, v)
	}
	return v, ok
}

func (y *young[K, V]) put(k K, v V) {
	y.drop(k)
	w := y.weigh(v)
	if len(y.new) >= y.half || (len(y.new) > 0 && y.held+w > y.weight) {
		y.old, y.new, y.held = y.new, make(map[K]V), 0
	}
	y.new[k] = v
	y.held += w
}

func (y *young[K, V]) drop(k K) {
	if v, ok := y.new[k]; ok {
		y.held -= y.weigh(v)
	}
	delete(y.new, k)
	delete(y.old, k)
}

// Bounds of the caches: about 2 kB a manifest and 4 kB a state that shares its
// manifests with the first, 40 B a receipt. Manifests that nothing here needs,
// which cost their sender a signature, have a small cache of their own.
const (
	maxVersions     = 1024
	maxVersionBytes = 16 << 20
	maxStrays       = 128
	maxStrayBytes   = 1 << 20
	maxStates       = 512
	maxStateBytes   = 32 << 20
	maxReceipts     = 8192
)

// versionCache keeps verified manifests by the hash of the bytes they came in:
// those that a state here uses, and the last ones that none does.
type versionCache struct {
	mu     sync.Mutex
	m      young[[32]byte, *version]
	strays young[[32]byte, *version]
}

func newVersionCache() *versionCache {
	// A parsed manifest takes about twice the room of its bytes.
	weigh := func(v *version) int64 { return 2 * int64(len(v.Object.Body)) }
	return &versionCache{m: newHeavy[[32]byte](maxVersions, maxVersionBytes, weigh), strays: newHeavy[[32]byte](maxStrays, maxStrayBytes, weigh)}
}

// get returns the manifest, opened at most once while it is remembered.
func (c *versionCache) get(b []byte, open func() (*version, error)) (*version, error) {
	return c.getInto(&c.strays, b, open)
}

// getUsed is get for a manifest that a state here has.
func (c *versionCache) getUsed(b []byte, open func() (*version, error)) (*version, error) {
	return c.getInto(&c.m, b, open)
}

func (c *versionCache) getInto(cache *young[[32]byte, *version], b []byte, open func() (*version, error)) (*version, error) {
	h := sha256.Sum256(b)
	c.mu.Lock()
	v, ok := c.m.get(h)
	if !ok {
		v, ok = c.strays.get(h)
	}
	c.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := open()
	if err != nil {
		return nil, err
	}
	v.wire = h
	c.mu.Lock()
	defer c.mu.Unlock()
	cache.put(h, v)
	return v, nil
}

// use notes that a state here has these manifests now.
func (c *versionCache) use(vs []*version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range vs {
		if _, ok := c.strays.get(v.wire); ok {
			c.strays.drop(v.wire)
			c.m.put(v.wire, v)
		}
	}
}

// stateCache keeps the states of the secrets last used.
type stateCache struct {
	mu sync.Mutex
	m  young[key.Hash, heldState]
}

func newStateCache() *stateCache {
	return &stateCache{m: newHeavy[key.Hash](maxStates, maxStateBytes, func(h heldState) int64 { return h.size })}
}

func (c *stateCache) get(id key.Hash) (heldState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m.get(id)
}

func (c *stateCache) put(id key.Hash, h heldState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.put(id, h)
}

func (c *stateCache) drop(id key.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.drop(id)
}

// receiptCache remembers receipts whose signature is known to be good.
type receiptCache struct {
	mu sync.Mutex
	m  young[[32]byte, struct{}]
}

func newReceiptCache() *receiptCache {
	return &receiptCache{m: newYoung[[32]byte, struct{}](maxReceipts)}
}

// receiptKey covers all of the object: a receipt that differs anywhere is
// another one.
func receiptKey(o key.Object) [32]byte {
	h := sha256.New()
	h.Write(key.U64(uint64(o.Type)))
	h.Write(o.Key[:])
	h.Write(key.U64(uint64(len(o.Sig))))
	h.Write(o.Sig)
	h.Write(o.Body)
	return [32]byte(h.Sum(nil))
}

func (c *receiptCache) has(o key.Object) bool {
	k := receiptKey(o)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.m.get(k)
	return ok
}

func (c *receiptCache) add(o key.Object) {
	k := receiptKey(o)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.put(k, struct{}{})
}

// rosterAge is how old the view of the roster may be that a step judges by.
const rosterAge = time.Second

// memberView is what a step needs of the roster.
type memberView struct {
	operators map[key.NodeID]string
	revoked   map[key.NodeID]bool
	online    map[key.NodeID]bool
	persons   map[key.NodeID][]key.PersonPublic // bound to nodes that are not revoked
}

// operator is whose quota the node writes in: its own, as its certificate says.
// Empty when the node is not in the roster.
func (v *memberView) operator(id key.NodeID) string {
	op, ok := v.operators[id]
	if ok && op == "" {
		return id.String()
	}
	return op
}

func (v *memberView) isRevoked(id key.NodeID) bool { return v.revoked[id] }

func (v *memberView) isMember(id key.NodeID) bool {
	_, ok := v.operators[id]
	return ok
}

// memberCache rebuilds the view when it is old.
type memberCache struct {
	mu   sync.Mutex
	at   time.Time
	view *memberView
}

func (c *memberCache) get(n Network) *memberView {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.view != nil && time.Since(c.at) < rosterAge {
		return c.view
	}
	v := &memberView{operators: map[key.NodeID]string{}, revoked: map[key.NodeID]bool{}, online: map[key.NodeID]bool{}, persons: map[key.NodeID][]key.PersonPublic{}}
	for _, m := range append(n.Members(), n.Self()) {
		v.operators[m.ID] = m.Operator
		if m.Revoked {
			v.revoked[m.ID] = true
		}
		v.online[m.ID] = m.Online && !m.Revoked
		if len(m.Persons) > 0 && !m.Revoked {
			v.persons[m.ID] = m.Persons
		}
	}
	c.view, c.at = v, time.Now()
	return v
}
