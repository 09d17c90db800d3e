package keystore

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// Bounds of the finisher.
const (
	maxUnfinished = 1024                   // writes it keeps in mind; the rest waits in the journal
	maxDirty      = 4096                   // records waiting for the next batch
	batchPause    = 50 * time.Millisecond  // how long records wait for company
	finishTick    = time.Second            // how often it looks who is back
	rescanEvery   = time.Minute            // how often it looks for what did not fit
	firstRetry    = 500 * time.Millisecond // after a try; doubled, with jitter, up to
	lastRetry     = 5 * time.Minute
	finishAtOnce  = 4
	finishTimeout = 30 * time.Second
)

// finisher goes on with what the journal says is unfinished until every node
// has answered or something newer makes it needless. It also writes the small
// records for which nobody waits, many at a time.
type finisher struct {
	s    *Store
	wake chan struct{}

	writing sync.Mutex // held while a batch is written

	mu    sync.Mutex
	open  map[share.Place]*unfinished
	dirty map[share.Place][]byte // the next batch; nil: delete
	going map[share.Place][]byte // the batch that is being written
}

type unfinished struct {
	missing []key.NodeID // who has not answered; empty: not known
	next    time.Time
	pause   time.Duration
	busy    bool
}

func newFinisher(s *Store) *finisher {
	return &finisher{s: s, wake: make(chan struct{}, 1), open: make(map[share.Place]*unfinished), dirty: make(map[share.Place][]byte)}
}

func (f *finisher) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// write puts a record into the next batch; nil deletes. A full batch is
// written at once by whoever finds it full.
func (f *finisher) write(p share.Place, value []byte) {
	f.mu.Lock()
	f.dirty[p] = value
	full := len(f.dirty) >= maxDirty
	f.mu.Unlock()
	if full {
		f.flush(f.s.life)
	}
	f.poke()
}

// unwritten returns what the next batch holds for a place.
func (f *finisher) unwritten(p share.Place) ([]byte, bool) {
	b, ok := f.peek(p)
	return b, ok && b != nil
}

// peek looks into the batches; a nil value means that the record goes.
func (f *finisher) peek(p share.Place) (value []byte, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if value, ok = f.dirty[p]; !ok {
		value, ok = f.going[p]
	}
	return value, ok
}

// forget removes a finished write from the journal.
func (f *finisher) forget(p share.Place) {
	f.mu.Lock()
	delete(f.open, p)
	f.mu.Unlock()
	f.write(p, nil)
}

// keep takes over a write that is not finished.
func (f *finisher) keep(w *write) {
	if w.cert != nil {
		f.write(w.place(), w.record())
	}
	var missing []key.NodeID
	for _, id := range w.nodes {
		if p := w.progress[id]; !p.gone || (w.m.SeatOf(id) != nil && !p.committed) {
			missing = append(missing, id)
		}
	}
	f.later(w.place(), missing)
}

// later schedules the next try of a place.
func (f *finisher) later(p share.Place, missing []key.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.open[p]
	if u == nil {
		if len(f.open) >= maxUnfinished {
			return // a later scan of the journal finds it
		}
		u = &unfinished{pause: firstRetry}
		f.open[p] = u
	} else {
		u.pause = min(2*u.pause, lastRetry)
	}
	u.missing, u.busy = missing, false
	u.next = time.Now().Add(u.pause/2 + rand.N(u.pause))
}

// flush writes the batch, and waits for one that is being written. One batch is
// written at a time.
func (f *finisher) flush(ctx context.Context) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	batch := f.dirty
	f.dirty, f.going = make(map[share.Place][]byte), batch
	f.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	recs := make([]share.Record, 0, len(batch))
	for p, v := range batch {
		recs = append(recs, share.Record{Place: p, Value: v})
	}
	err := f.s.cfg.Shelf.Commit(context.WithoutCancel(ctx), recs...)
	if err != nil {
		// The shelf takes nothing any more. All of this is found out again:
		// journals are finished twice, marks seen again.
		f.s.log.Error("a batch of journal records was not written", "records", len(recs), "err", err)
	}
	return err
}

// run works until ctx ends.
func (f *finisher) run(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	slots := make(chan struct{}, finishAtOnce)
	tick := time.NewTicker(finishTick)
	defer tick.Stop()
	f.scan()
	scanned := time.Now()
	for {
		for _, p := range f.due() {
			select {
			case slots <- struct{}{}:
				tries.Go(func() { defer func() { <-slots }(); f.try(ctx, p) })
			case <-ctx.Done():
			}
		}
		select {
		case <-ctx.Done():
			f.flush(ctx)
			return
		case <-f.wake:
			sleep(ctx, batchPause)
			f.flush(ctx)
		case <-tick.C:
			f.flush(ctx)
		}
		if time.Since(scanned) > rescanEvery {
			f.scan()
			scanned = time.Now()
		}
	}
}

// scan takes up what is in the journal and not in mind.
func (f *finisher) scan() {
	for _, id := range f.s.cfg.Shelf.IDs(share.BucketJournal) {
		for _, p := range f.s.cfg.Shelf.Places(share.BucketJournal, id) {
			value, known := f.peek(p)
			f.mu.Lock()
			if f.open[p] == nil && len(f.open) < maxUnfinished && !(known && value == nil) {
				f.open[p] = &unfinished{pause: firstRetry, next: time.Now().Add(rand.N(firstRetry))}
			}
			f.mu.Unlock()
		}
	}
}

// due returns the places to try now and marks them busy: those whose time has
// come, and those for which someone missing is back.
func (f *finisher) due() []share.Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) == 0 {
		return nil
	}
	online := make(map[key.NodeID]bool)
	for _, m := range f.s.cfg.Network.Members() {
		online[m.ID] = m.Online
	}
	now := time.Now()
	var out []share.Place
	for p, u := range f.open {
		if u.busy {
			continue
		}
		some := len(u.missing) == 0 || slices.ContainsFunc(u.missing, func(id key.NodeID) bool { return online[id] || id == f.s.self })
		if some && !now.Before(u.next) {
			u.busy = true
			out = append(out, p)
		} else if !some {
			u.pause, u.next = firstRetry, now // at once when one is back
		}
	}
	return out
}

// try drives one unfinished write once.
func (f *finisher) try(ctx context.Context, p share.Place) {
	// While a caller works on this secret it does so alone. A caller that comes
	// later does not wait for this: two writers are safe, only noisy.
	release, ok := f.s.locks.try(p.ID)
	if !ok {
		f.again(p)
		return
	}
	release()
	b, err := f.load(p)
	if err != nil || b == nil {
		f.drop(p, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	if d, err := f.s.loadDelete(b); err == nil {
		f.s.passOn(ctx, d)
		return
	}
	w, err := f.s.loadWrite(b)
	if err != nil {
		f.drop(p, err)
		return
	}
	if f.overtaken(p) && !w.doubted() {
		f.forget(p)
		return
	}
	if w.unwanted() {
		if m, err := f.s.mark(p.ID); w.asked.lost() || err == nil && m.Gen >= p.Gen {
			f.forget(p)
		} else {
			f.rest(p)
		}
		return
	}
	w.run(ctx, ctx, nil)
}

// doubtKept is how long an overtaken compare-and-set that was called in doubt
// stays in the journal for its retry, in seconds.
const doubtKept = 24 * 60 * 60

// doubted: the caller may come back to ask what became of it, and only this
// record tells him.
func (w *write) doubted() bool {
	return w.conditional && !w.answered && unix() < w.m.Created+doubtKept && !w.abandoned && !w.excluded()
}

// load returns the record of a place, nil when there is none.
func (f *finisher) load(p share.Place) ([]byte, error) {
	if b, ok := f.peek(p); ok {
		return b, nil
	}
	b, err := f.s.cfg.Shelf.Load(p)
	if err != nil && f.s.cfg.Shelf.NotFound(err) {
		return nil, nil
	}
	return b, err
}

// overtaken reports whether the secret is known to be at a higher generation
// than this put, so that nobody needs it any more.
func (f *finisher) overtaken(p share.Place) bool {
	m, err := f.s.mark(p.ID)
	return err == nil && m.Gen > p.Gen
}

func (f *finisher) again(p share.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.open[p]; u != nil {
		u.busy, u.next = false, time.Now().Add(finishTick)
	}
}

// rest leaves a write alone for long: only the same put goes on with it.
func (f *finisher) rest(p share.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.open[p]; u != nil {
		u.busy, u.pause, u.next = false, lastRetry, time.Now().Add(lastRetry)
	}
}

// drop forgets a place in memory. What could not be read stays on disk, where
// the storage's scrub reports it.
func (f *finisher) drop(p share.Place, err error) {
	if err != nil {
		f.s.log.Error("a journal record is not usable", "id", p.ID, "gen", p.Gen, "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.open, p)
	} else if u := f.open[p]; u != nil {
		u.busy, u.pause, u.next = false, lastRetry, time.Now().Add(lastRetry)
	}
}

// places are the journal's records of one secret, in no order.
func (f *finisher) places(id key.Hash) []share.Place {
	seen := make(map[share.Place]bool)
	for _, p := range f.s.cfg.Shelf.Places(share.BucketJournal, id) {
		seen[p] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, batch := range []map[share.Place][]byte{f.going, f.dirty} {
		for p, v := range batch {
			if p.Bucket == share.BucketJournal && p.ID == id {
				seen[p] = v != nil
			}
		}
	}
	maps.DeleteFunc(seen, func(_ share.Place, there bool) bool { return !there })
	return slices.Collect(maps.Keys(seen))
}
