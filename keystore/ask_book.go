package keystore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

// Records of requests in [share.BucketRequest], told apart by X; 0 is the
// holder's. Never reused.
const (
	placeAsked = 1 // persons here asked
	placeInbox = 2 // persons here are asked, or are told
)

func askPlace(id, request key.Hash) share.Place {
	return share.Place{Bucket: share.BucketRequest, ID: id, X: placeAsked, Sub: request}
}

func inboxPlace(id, request key.Hash) share.Place {
	return share.Place{Bucket: share.BucketRequest, ID: id, X: placeInbox, Sub: request}
}

// ask is a request that a person here made and that outlives the call. What
// does not change is read without the book's lock.
type ask struct {
	request *share.SignedRequest
	key     *seal.PrivateKey
	m       *share.SignedManifest // whose policy it was made under
	name    string                // proven, or empty
	tag     key.Hash
	made    time.Time // in this run

	words []*heardWord  // guarded by the book; immutable slices
	wait  time.Duration // guarded: what was last left of a delay
	at    time.Time     // guarded: when that was
}

// heardWord is a verified word on a request.
type heardWord struct {
	*share.Approval
	bytes []byte
}

// over reports whether the request has expired.
func (a *ask) over() bool { return a.request.CheckTime(unix()) != nil }

// askRecord is the record of an ask.
type askRecord struct {
	key.Head
	Request  []byte   `cbor:"1,keyasint"`
	Key      []byte   `cbor:"2,keyasint"` // the ephemeral key's seed
	Manifest []byte   `cbor:"3,keyasint"`
	Name     string   `cbor:"4,keyasint"`
	Tag      key.Hash `cbor:"5,keyasint"`
}

// maxAsks bounds the requests of persons here that wait.
const maxAsks = 1024

// book is what this node knows of requests under way: those that persons here
// made, and those they are told of. Safe for concurrent use.
type book struct {
	s *Store

	once    sync.Once
	loadErr error

	writing sync.Mutex // one change at a time; held while it goes to disk

	mu    sync.Mutex
	asked map[key.Hash]*ask
	inbox map[key.Hash]*told

	feed *feed
}

func newBook(s *Store) *book {
	return &book{s: s, asked: make(map[key.Hash]*ask), inbox: make(map[key.Hash]*told), feed: newFeed()}
}

// load reads the records of an earlier run, once.
func (b *book) load() error {
	b.once.Do(func() {
		shelf := b.s.cfg.Shelf
		for _, id := range shelf.IDs(share.BucketRequest) {
			for _, p := range shelf.Places(share.BucketRequest, id) {
				if p.X != placeAsked && p.X != placeInbox {
					continue
				}
				if err := b.loadOne(p); err != nil {
					b.s.log.Error("a record of a request is not usable", "id", p.ID, "err", err)
				}
			}
		}
	})
	return b.loadErr
}

func (b *book) loadOne(p share.Place) error {
	raw, err := b.s.cfg.Shelf.Load(p)
	if err != nil {
		return err
	}
	defer clear(raw)
	if p.X == placeInbox {
		n, err := b.s.readTold(raw)
		if err != nil || n.request.ID != p.ID || n.request.Hash != p.Sub {
			return fmt.Errorf("%w: an inbox record (%v)", key.ErrEncoding, err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.inbox[p.Sub] = n
		return nil
	}
	a, err := b.s.readAsk(raw)
	if err != nil || a.request.ID != p.ID || a.request.Hash != p.Sub {
		return fmt.Errorf("%w: an asker's record (%v)", key.ErrEncoding, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[p.Sub] = a
	return nil
}

// readAsk reads a record that this node wrote; it is verified all the same.
func (s *Store) readAsk(raw []byte) (*ask, error) {
	var r askRecord
	if err := key.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	defer clear(r.Key)
	a := &ask{name: r.Name, tag: r.Tag}
	var err error
	if a.request, err = share.ReadRequest(s.cfg.ID, r.Request); err != nil {
		return nil, err
	}
	if a.m, err = share.OpenManifest(s.cfg.ID, r.Manifest); err != nil {
		return nil, err
	}
	a.key, err = seal.ParsePrivateKey(r.Key)
	return a, err
}

// keep makes a request durable, before anybody sees it.
func (b *book) keep(ctx context.Context, a *ask) error {
	if err := b.load(); err != nil {
		return err
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	full := len(b.asked) >= maxAsks
	b.mu.Unlock()
	if full {
		return fmt.Errorf("%w: %d requests wait at this node", ErrFull, maxAsks)
	}
	seed := a.key.Bytes()
	defer clear(seed)
	raw := key.Marshal(&askRecord{Request: a.request.Object.Encode(), Key: seed, Manifest: a.m.Bytes(), Name: a.name, Tag: a.tag})
	defer clear(raw)
	rec := share.Record{Place: askPlace(a.request.ID, a.request.Hash), Value: raw}
	if err := b.s.cfg.Shelf.Commit(context.WithoutCancel(ctx), rec); err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[a.request.Hash] = a
	return nil
}

// forget ends a request: nothing that is sealed to its key opens any more.
func (b *book) forget(ctx context.Context, a *ask) {
	b.mu.Lock()
	delete(b.asked, a.request.Hash)
	b.mu.Unlock()
	b.drop(ctx, askPlace(a.request.ID, a.request.Hash))
}

func (b *book) drop(ctx context.Context, p share.Place) {
	b.writing.Lock()
	defer b.writing.Unlock()
	if err := b.s.cfg.Shelf.Commit(context.WithoutCancel(ctx), share.Record{Place: p}); err != nil {
		b.s.log.Error("the record of a request was not removed", "id", p.ID, "err", err)
	}
}

// own returns a request that this person made.
func (b *book) own(p Person, request key.Hash) (*ask, error) {
	if err := b.load(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.asked[request]
	if a == nil || a.request.Person != p.Key.Public() {
		return nil, ErrNoRequest
	}
	return a, nil
}

// same returns a request of the person that still waits for just what the
// reading wants, the youngest, or nil: asking twice is no second request.
func (b *book) same(g *reading) *ask {
	if b.load() != nil {
		return nil
	}
	person := g.p.Key.Public()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out *ask
	for _, a := range b.asked {
		r := &a.request.Request
		fits := r.Person == person && r.ID == g.h.id && r.Gen == g.o.Gen && r.Manifest == g.o.Manifest && r.Purpose == g.o.Reason
		if fits && !a.over() && (out == nil || r.Created > out.request.Created) {
			out = a
		}
	}
	return out
}

// heard adds verified words to a request, each person's verdicts once.
func (b *book) heard(a *ask, words []*heardWord, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.words, a.wait, a.at = merged(a.words, words), wait, time.Now()
}

// heardOf is what is known of a request.
func (b *book) heardOf(a *ask) ([]*heardWord, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return a.words, max(0, a.wait-time.Since(a.at))
}

// maxHeard bounds the words kept on one request: two of each that a policy can
// name.
const maxHeard = 128

// merged returns old with what is new in more.
func merged(old, more []*heardWord) []*heardWord {
	out := old[:len(old):len(old)]
	for _, w := range more {
		known := false
		for _, o := range out {
			known = known || o.Person == w.Person && o.Verdict == w.Verdict
		}
		if !known && len(out) < maxHeard {
			out = append(out, w)
		}
	}
	return out
}

// openWords verifies words on a request and passes over what does not verify or
// is by nobody whom the policy names.
func (s *Store) openWords(r *share.SignedRequest, v *version, words [][]byte) []*heardWord {
	var out []*heardWord
	for _, b := range words {
		if len(out) >= maxHeard {
			break
		}
		o, err := key.DecodeObject(b)
		if err != nil || !(v.isParty(o.Key) || key.PersonPublic(o.Key) == r.Person) {
			continue // a stranger's costs no verification
		}
		if a, err := share.ReadApproval(s.cfg.ID, b); err == nil && a.Subject == r.Hash {
			out = append(out, &heardWord{a, b})
		}
	}
	return out
}

// nameOf is the proven name that came with an earlier request for the secret.
func (b *book) nameOf(m *share.Manifest) (string, key.Hash) {
	if b.load() != nil {
		return "", key.Hash{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.inbox {
		if n.request.ID == m.ID && n.name != "" {
			return n.name, n.tag
		}
	}
	return "", key.Hash{}
}
