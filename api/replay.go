package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"keymesh/api/apitype"
)

// Bounds of what is kept for Idempotency-Key.
const (
	maxReplays = 256
	replayTTL  = 10 * time.Minute
)

// replays remembers the answers to writes by Idempotency-Key, in memory only.
// Scopes and requests are kept as keyed hashes: a plain hash of a request would
// give a guessable value away. The oldest entry makes room for a new one.
type replays struct {
	key []byte

	mu      sync.Mutex
	entries map[[32]byte]*replay
	order   []*replay // by age, oldest first
}

// replay is one key. done is closed once the answer is known; kept says whether
// it is one to repeat.
type replay struct {
	scope, request [32]byte
	started        time.Time
	done           chan struct{}
	kept           bool
	answer         answer
}

func newReplays(key string) *replays {
	return &replays{key: []byte(key), entries: map[[32]byte]*replay{}}
}

// digest is a keyed hash over the parts, each preceded by its length.
func (r *replays) digest(parts ...[]byte) (out [32]byte) {
	h := hmac.New(sha256.New, r.key)
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

// do runs f, or returns the answer of an earlier run of the same request in the
// same scope, waiting for it when it is still under way. An answer that leaves
// the outcome open, and every problem, is not kept: repeating is then the way to
// go on.
func (r *replays) do(ctx context.Context, scope, request [32]byte, f func() (answer, error)) (answer, error) {
	for {
		e, mine, err := r.claim(scope, request)
		if err != nil {
			return answer{}, err
		}
		if mine {
			return r.run(e, f)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
		if e.kept {
			a := e.answer
			a.replayed = true
			return a, nil
		}
	}
}

func (r *replays) claim(scope, request [32]byte) (e *replay, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(time.Now())
	if e := r.entries[scope]; e != nil {
		if e.request != request {
			return nil, false, apitype.NewProblem(apitype.Unprocessable, "this %s was used for another request", apitype.HeaderIdem)
		}
		return e, false, nil
	}
	e = &replay{scope: scope, request: request, started: time.Now(), done: make(chan struct{})}
	r.entries[scope] = e
	r.order = append(r.order, e)
	return e, true, nil
}

func (r *replays) run(e *replay, f func() (answer, error)) (a answer, err error) {
	finished := false
	defer func() {
		keep := finished && err == nil
		r.mu.Lock()
		if keep {
			e.answer, e.kept = a, true
		} else {
			r.drop(e)
		}
		r.mu.Unlock()
		close(e.done)
	}()
	a, err = f()
	finished = true // and not a panic
	return a, err
}

// expire makes room; mu is held. One that is still running may go as well: its
// own request ends as usual, only a repetition would not find it.
func (r *replays) expire(now time.Time) {
	for len(r.order) > 0 && (len(r.order) >= maxReplays || now.Sub(r.order[0].started) > replayTTL) {
		delete(r.entries, r.order[0].scope)
		r.order[0] = nil
		r.order = r.order[1:]
	}
}

// drop forgets e; mu is held.
func (r *replays) drop(e *replay) {
	if r.entries[e.scope] != e {
		return
	}
	delete(r.entries, e.scope)
	for i, o := range r.order {
		if o == e {
			r.order = append(r.order[:i], r.order[i+1:]...)
			return
		}
	}
}
