package keystore

import (
	"sync"
	"time"

	"keymesh/crypto/key"
)

// running is this node's running time in whole seconds: what it has run since
// its store was made, as far as that was saved. Only time that passed while the
// process ran is in it: a wall clock that jumps changes nothing, and what a
// crash takes back is less than the time between two saves. Safe for concurrent
// use.
type running struct {
	mu   sync.Mutex
	base uint64    // seconds at mark
	mark time.Time // with its monotonic reading
	kept uint64    // the last that is on disk

	looks map[key.Hash]uint64 // when a request is to be looked at again
}

func newRunning() *running { return &running{mark: time.Now(), looks: map[key.Hash]uint64{}} }

// start goes on from what was saved.
func (r *running) start(base uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.base, r.kept, r.mark = base, base, time.Now()
}

func (r *running) now() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.base + uint64(max(0, time.Since(r.mark))/time.Second)
}

// saved notes that this much is on disk.
func (r *running) saved(seconds uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = max(r.kept, seconds)
}

// unsaved reports whether more has passed than is on disk.
func (r *running) unsaved() bool {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	return now > r.kept
}

// look notes when the request is to be looked at again.
func (r *running) look(request key.Hash, at uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks[request] = at
}

// due reports whether that time has come.
func (r *running) due(request key.Hash, now uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now >= r.looks[request]
}

func (r *running) forget(request key.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.looks, request)
}
