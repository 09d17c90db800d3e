package keystore

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	recallLook    = time.Second // how often it is asked at first whether the disk is an older copy
	recallFirst   = time.Minute // how long that is; then every recallLater
	recallLater   = 15 * time.Second
	recallTimeout = 3 * time.Second
	recallAtOnce  = 8
	recallPause   = 5 * time.Second // between two rounds, doubled up to
	recallMost    = 10 * time.Minute
	recallTurns   = 4 // how often more seats are asked when a newer manifest shows
)

// restoration counts how often this node's disk was put back. Safe for
// concurrent use.
type restoration struct {
	mu      sync.Mutex
	count   uint64 // on disk
	noticed bool   // in this run
	left    int    // secrets whose seats are still to be heard
}

// restoredRecord is on disk for as long as the store is.
type restoredRecord struct {
	key.Head
	Count uint64 `cbor:"1,keyasint"`
	Time  uint64 `cbor:"2,keyasint"` // of the last, unix seconds
}

func restoredPlace() share.Place {
	return share.Place{Bucket: share.BucketNode, ID: key.T("keymesh/v1/holder/restored")}
}

// loadRestored reads the count.
func (c *custodian) loadRestored() error {
	n, err := readRestored(c.cfg.Shelf)
	if err != nil {
		return err
	}
	c.restored.mu.Lock()
	defer c.restored.mu.Unlock()
	c.restored.count = n
	return nil
}

// restorations is the number of the last time that the disk was put back, 0:
// never. From the moment that it is noticed it counts, also before it is on
// disk.
func (c *custodian) restorations() uint64 {
	c.restored.mu.Lock()
	defer c.restored.mu.Unlock()
	n := c.restored.count
	if !c.restored.noticed && c.cfg.RolledBack != nil && c.cfg.RolledBack() {
		n++
	}
	return n
}

// markRestored notes durably that the disk was put back.
func (c *custodian) markRestored(ctx context.Context) error {
	c.restored.mu.Lock()
	defer c.restored.mu.Unlock()
	n, err := addRestored(ctx, c.cfg.Shelf)
	if err != nil {
		return err
	}
	c.restored.count, c.restored.noticed = n, true
	return nil
}

// addRestored counts one more time that the disk was put back.
func addRestored(ctx context.Context, shelf Shelf) (uint64, error) {
	n, err := readRestored(shelf)
	if err != nil {
		return 0, err
	}
	r := restoredRecord{Count: n + 1, Time: unix()}
	return r.Count, shelf.Commit(context.WithoutCancel(ctx), share.Record{Place: restoredPlace(), Value: key.Marshal(&r)})
}

func readRestored(shelf Shelf) (uint64, error) {
	b, err := shelf.Load(restoredPlace())
	if err != nil {
		if shelf.NotFound(err) {
			return 0, nil
		}
		return 0, err
	}
	var r restoredRecord
	err = key.Unmarshal(b, &r)
	return r.Count, err
}

// recallAll watches for the sign that the disk is an older copy, and asks about
// every secret that is behind, until ctx ends.
func (c *custodian) recallAll(ctx context.Context) {
	start := time.Now()
	t := time.NewTicker(recallLook)
	defer t.Stop()
	var pause time.Duration
	var next time.Time
	var done uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if time.Since(start) > recallFirst {
			t.Reset(recallLater)
		}
		c.noticeRestored(ctx)
		n := c.restorations()
		if n == done || time.Now().Before(next) {
			continue
		}
		if c.recallRound(ctx) {
			done, pause = n, 0
			continue
		}
		pause = min(max(2*pause, recallPause), recallMost)
		next = time.Now().Add(pause*4/5 + rand.N(pause*2/5))
	}
}

func (c *custodian) noticeRestored(ctx context.Context) {
	c.restored.mu.Lock()
	news := !c.restored.noticed && c.cfg.RolledBack != nil && c.cfg.RolledBack()
	c.restored.mu.Unlock()
	if !news {
		return
	}
	if err := c.markRestored(ctx); err != nil {
		c.log.Error("that the disk is an older copy is not on disk", "err", err)
		return
	}
	c.log.Warn("this node's disk is an older copy: it signs nothing of a secret before other seats have told what it missed")
	c.note(ctx, AuditRecord{Kind: "restored", Detail: "the disk is an older copy"})
}

// recallRound asks about every secret here that is behind, and reports whether
// none is left.
func (c *custodian) recallRound(ctx context.Context) bool {
	slots := make(chan struct{}, recallAtOnce)
	var g sync.WaitGroup
	var mu sync.Mutex
	left := 0
	for _, id := range c.cfg.Shelf.IDs(share.BucketState) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			g.Wait()
			return false
		}
		g.Go(func() {
			defer func() { <-slots }()
			s, err := c.peek(ctx, id)
			if err == nil && !s.behind(c.facts(c.self)) {
				return
			}
			if err == nil && c.recallOne(ctx, id, nil) {
				return
			}
			mu.Lock()
			left++
			mu.Unlock()
		})
	}
	g.Wait()
	c.restored.mu.Lock()
	defer c.restored.mu.Unlock()
	c.restored.left = left
	return left == 0
}

// recallOne asks the other seats of a secret what they have, takes that in, and
// reports whether enough have told; then this is on disk, if anything of the
// secret is.
func (c *custodian) recallOne(ctx context.Context, id key.Hash, extra []*version) bool {
	told := make(map[key.NodeID]bool)
	asked := make(map[key.NodeID]bool)
	nevers := make(nevers)
	for range recallTurns {
		s, err := c.peek(ctx, id)
		if err != nil {
			return false
		}
		nodes, by := s.recallFrom(c.self, extra)
		nodes = slices.DeleteFunc(nodes, func(n key.NodeID) bool { return asked[n] })
		if by == nil {
			return true // at most tombstones: its seats are known when something is put
		}
		if len(nodes) == 0 {
			return enoughTold(by, c.self, told) && c.takeNevers(ctx, id, nevers.said(by)) && c.cleared(ctx, id)
		}
		for n, r := range c.recallAsk(ctx, id, nodes) {
			told[n] = r == nil || c.takeRecalled(ctx, id, n, &r.State) && c.takeRecalledMoves(ctx, id, n, r.Moves)
			if r != nil {
				nevers.add(n, r.Never)
			}
		}
		for _, n := range nodes {
			asked[n] = true
		}
	}
	return false
}

func (c *custodian) cleared(ctx context.Context, id key.Hash) bool {
	_, _, _, err := c.step(ctx, id, c.facts(c.self), (*secretState).clear)
	return err == nil
}

// recallAsk asks nodes; nil is the word of one that has nothing.
func (c *custodian) recallAsk(ctx context.Context, id key.Hash, nodes []key.NodeID) map[key.NodeID]*custody.RecallReply {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	online := c.members.get(c.cfg.Network).online
	out := make(map[key.NodeID]*custody.RecallReply)
	var mu sync.Mutex
	var g sync.WaitGroup
	for _, n := range nodes {
		if !online[n] {
			continue
		}
		g.Go(func() {
			var reply custody.RecallReply
			if c.call(ctx, n, custody.VerbRecall, &custody.Recall{ID: id}, &reply) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch reply.Outcome {
			case custody.OK:
				out[n] = &reply
			case custody.Denied:
				out[n] = nil
			}
		})
	}
	g.Wait()
	return out
}

// takeRecalled takes in what a seat told, as the COMMIT, DELETE and promises
// that it stands for, and reports whether all of it is here now.
func (c *custodian) takeRecalled(ctx context.Context, id key.Hash, from key.NodeID, st *custody.State) bool {
	f := c.facts(from)
	if len(st.Tombstone) > 0 && len(st.Consent) == 0 {
		if t, err := c.openTomb(st.Tombstone); err == nil && t.ID == id {
			if _, _, _, err := c.step(ctx, id, f, func(s *secretState, f holderFacts) stepResult { return s.delete(f, deleteMsg{tomb: t}) }); err != nil {
				return false
			}
		}
	}
	if len(st.Cert) > 0 {
		cert, err := c.openCertificate(st.Manifest, st.Cert, st.Before)
		if err != nil || cert.of.ID != id {
			return false
		}
		r, _, _, err := c.step(ctx, id, f, func(s *secretState, f holderFacts) stepResult { return s.commit(f, commitMsg{*cert}) })
		if err != nil {
			return false
		}
		if r.next != nil {
			c.passing.add(r.next, c.self)
		}
	}
	whole := true
	for _, p := range st.Pending[:min(len(st.Pending), 2*maxPending)] {
		whole = c.takePromise(ctx, id, from, p) && whole
	}
	return whole
}

// refusedOnce is a manifest that a seat says it has signed Refused for.
type refusedOnce struct {
	hash key.Hash
	gen  uint64
}

// nevers is which seats say so. The Refused itself is not shown.
type nevers map[refusedOnce]map[key.NodeID]bool

func (v nevers) add(from key.NodeID, list [][]byte) {
	for _, b := range list[:min(len(list), custody.MaxNever)] {
		var k refusedOnce
		if len(b) != len(k.hash)+8 {
			continue
		}
		copy(k.hash[:], b)
		k.gen = binary.BigEndian.Uint64(b[len(k.hash):])
		if v[k] == nil {
			v[k] = map[key.NodeID]bool{}
		}
		v[k][from] = true
	}
}

// said are those that more seats of m name than may lie.
func (v nevers) said(m *version) []refusedOnce {
	var out []refusedOnce
	for k, seats := range v {
		n := 0
		for node := range seats {
			n += btoi(m.SeatOf(node) != nil)
		}
		if n > m.F() {
			out = append(out, k)
		}
	}
	return out
}

// takeNevers takes in that seats have signed Refused for manifests.
func (c *custodian) takeNevers(ctx context.Context, id key.Hash, list []refusedOnce) bool {
	for _, k := range list {
		if _, _, _, err := c.step(ctx, id, c.facts(c.self), func(s *secretState, _ holderFacts) stepResult { return s.heardNever(k.hash, k.gen) }); err != nil {
			return false
		}
	}
	return true
}

// takePromise takes in that a seat has promised a manifest.
func (c *custodian) takePromise(ctx context.Context, id key.Hash, from key.NodeID, p custody.Pending) bool {
	m, err := c.openManifest(p.Manifest)
	if err != nil || m.ID != id {
		return true // a lie, which binds nobody
	}
	if _, err := openReceipt(c.cfg.ID, key.TypePrepared, m.SignedManifest, from, p.Receipt); err != nil {
		return true
	}
	r, _, _, err := c.step(ctx, id, c.facts(from), func(s *secretState, f holderFacts) stepResult {
		return s.heard(f, m, s.versions())
	})
	return err == nil && r.outcome == custody.OK
}

// recalled lets a PREPARE of a secret that is behind ask first.
func (c *custodian) recalled(ctx context.Context, id key.Hash, extra ...*version) bool {
	s, err := c.peek(ctx, id)
	if err != nil || !s.behind(c.facts(c.self)) {
		return err == nil
	}
	return c.recallOne(ctx, id, extra)
}

// recall serves RECALL: to nodes that have or had a seat.
func (c *custodian) recall(ctx context.Context, from key.NodeID, q *custody.Recall) (key.Body, error) {
	s, err := c.peek(ctx, q.ID)
	if err != nil {
		return &custody.RecallReply{Outcome: custody.Failed}, ctx.Err()
	}
	if s.nothing() || !s.everSeat(from) {
		return &custody.RecallReply{Outcome: custody.Denied}, nil
	}
	reply := &custody.RecallReply{Outcome: custody.OK, State: s.view(s.rowState(), c.sign), Moves: s.recallMoves()}
	for _, k := range s.liveMarks() {
		if k.State != markNone && len(reply.Never) < custody.MaxNever {
			reply.Never = append(reply.Never, append(k.Hash[:], key.U64(k.Gen)...))
		}
	}
	return reply, nil
}

// Recalling is how many secrets here wait for other seats to tell what this
// node's disk has forgotten; counted when they are asked.
func (s *Store) Recalling() int {
	s.cust.restored.mu.Lock()
	defer s.cust.restored.mu.Unlock()
	return s.cust.restored.left
}

// MarkRestored notes in a store that no node runs on that it is an earlier state
// of its node's, as a restored backup is, or empty: the node will sign nothing of
// a secret before other seats have told what is missing. Durable once it returns
// nil.
func MarkRestored(ctx context.Context, shelf Shelf) error {
	_, err := addRestored(ctx, shelf)
	return err
}
