package storage

import (
	"bytes"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// entry is a record in memory: 32 bytes, for 10,000 secrets have 30,000.
type entry struct {
	seq   uint64
	gen   uint64
	sub   *key.Hash // nil stands for zero
	epoch uint32
	x     uint8
}

func (e *entry) is(p *share.Place) bool {
	if e.gen != p.Gen || e.epoch != p.Epoch || e.x != p.X {
		return false
	}
	if e.sub == nil {
		return p.Sub.IsZero()
	}
	return *e.sub == p.Sub
}

func (e *entry) place(b share.Bucket, id key.Hash) share.Place {
	p := share.Place{Bucket: b, ID: id, Gen: e.gen, Epoch: e.epoch, X: e.x}
	if e.sub != nil {
		p.Sub = *e.sub
	}
	return p
}

// index says which sequence stands for a place. Its own lock guards it.
type index struct {
	mu      sync.RWMutex
	buckets map[share.Bucket]map[key.Hash][]entry
	n       int
	// flight is not nil while a transaction is being committed whose changes
	// are in the file, perhaps, but not here yet. It is closed when they are.
	flight chan struct{}
}

// get returns the sequence of a place, 0 when there is none, and the
// transaction under way, if any.
func (x *index) get(p share.Place) (uint64, <-chan struct{}) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.find(&p), x.flight
}

// find is get for who holds the lock.
func (x *index) find(p *share.Place) uint64 {
	for i, es := 0, x.buckets[p.Bucket][p.ID]; i < len(es); i++ {
		if es[i].is(p) {
			return es[i].seq
		}
	}
	return 0
}

// set makes seq the sequence of a place and 0 none; the caller holds the lock.
func (x *index) set(p share.Place, seq uint64) {
	ids := x.buckets[p.Bucket]
	es := ids[p.ID]
	i := slices.IndexFunc(es, func(e entry) bool { return e.is(&p) })
	switch {
	case seq == 0 && i < 0:
		return
	case seq == 0:
		x.n--
		if es = slices.Delete(es, i, i+1); len(es) == 0 {
			delete(ids, p.ID)
			return
		}
	case i >= 0:
		es[i].seq = seq
	default:
		x.n++
		es = append(es, newEntry(p, seq))
	}
	if ids == nil {
		if x.buckets == nil {
			x.buckets = map[share.Bucket]map[key.Hash][]entry{}
		}
		ids = map[key.Hash][]entry{}
		x.buckets[p.Bucket] = ids
	}
	ids[p.ID] = es
}

func newEntry(p share.Place, seq uint64) entry {
	e := entry{seq: seq, gen: p.Gen, epoch: p.Epoch, x: p.X}
	if !p.Sub.IsZero() {
		sub := p.Sub
		e.sub = &sub
	}
	return e
}

// begin marks a transaction as under way; end applies its changes.
func (x *index) begin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.flight = make(chan struct{})
}

func (x *index) end(changes map[share.Place]uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for p, seq := range changes {
		x.set(p, seq)
	}
	close(x.flight)
	x.flight = nil
}

func (x *index) places(b share.Bucket, id key.Hash) []share.Place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	es := x.buckets[b][id]
	if len(es) == 0 {
		return nil
	}
	out := make([]share.Place, len(es))
	for i := range es {
		out[i] = es[i].place(b, id)
	}
	return out
}

func (x *index) ids(b share.Bucket) []key.Hash {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.buckets[b]) == 0 {
		return nil
	}
	out := make([]key.Hash, 0, len(x.buckets[b]))
	for id := range x.buckets[b] {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b key.Hash) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func (x *index) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.n
}

// lookup is get for the writer, which is the only one to change the index.
func (x *index) lookup(p share.Place) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.find(&p)
}

// sequences returns the sequences of all records, sorted.
func (x *index) sequences() []uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]uint64, 0, x.n)
	for _, ids := range x.buckets {
		for _, es := range ids {
			for i := range es {
				out = append(out, es[i].seq)
			}
		}
	}
	slices.Sort(out)
	return out
}

// placeOf searches all records for a sequence.
func (x *index) placeOf(seq uint64) (share.Place, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for b, ids := range x.buckets {
		for id, es := range ids {
			for i := range es {
				if es[i].seq == seq {
					return es[i].place(b, id), true
				}
			}
		}
	}
	return share.Place{}, false
}
