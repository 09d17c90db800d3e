package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// killer kills a node at one of the messages that it sends: from then on nothing
// leaves it, reaches it, or gets on its disk.
type killer struct {
	f    *fakeNet
	n    *fakeNode
	at   int  // the message
	sent bool // it still reaches its node

	mu    sync.Mutex
	count int
	dead  chan struct{}
}

func newKiller(f *fakeNet, n *fakeNode, at int, sent bool) *killer {
	k := &killer{f: f, n: n, at: at, sent: sent, dead: make(chan struct{})}
	f.set(func(from, to key.NodeID, _ uint64) error {
		if k.hit(from, !k.sent) {
			return errFakeLink
		}
		return nil
	}, func(from, to key.NodeID, _ uint64) error {
		k.hit(from, k.sent)
		return nil
	})
	return k
}

// hit counts the messages of the node and reports whether this is the one.
func (k *killer) hit(from key.NodeID, here bool) bool {
	if from != k.n.id || !here {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.count++; k.count != k.at {
		return false
	}
	k.n.shelf.mu.Lock()
	k.n.shelf.stopped = true
	k.n.shelf.mu.Unlock()
	k.f.mu.Lock()
	k.f.down[k.n.id] = true
	k.f.mu.Unlock()
	close(k.dead)
	return true
}

func (k *killer) killed() bool {
	select {
	case <-k.dead:
		return true
	default:
		return false
	}
}

// killedOp is an operation whose node is killed in the middle.
type killedOp struct {
	name string
	old  bool // there is a value before
	do   func(s *Store, p Person) error
	// good says whether a value may be read; none is nil.
	good func(v []byte) bool
}

var (
	killOld = []byte("the old value")
	killNew = []byte("the new value")
)

func killedOps(f *fakeNet) []killedOp {
	ctx := context.Background()
	either := func(v []byte) bool { return bytes.Equal(v, killOld) || bytes.Equal(v, killNew) }
	same := func(v []byte) bool { return bytes.Equal(v, killOld) }
	limit := 20 * time.Second
	return []killedOp{
		{"first put", false, func(s *Store, p Person) error {
			_, err := s.Put(ctx, p, "a", killNew, PutOptions{N: 5, K: 3, Timeout: limit})
			return err
		}, func(v []byte) bool { return v == nil || bytes.Equal(v, killNew) }},
		{"put", true, func(s *Store, p Person) error {
			_, err := s.Put(ctx, p, "a", killNew, PutOptions{Timeout: limit})
			return err
		}, either},
		{"put on other seats", true, func(s *Store, p Person) error {
			o := PutOptions{N: 5, K: 3, Timeout: limit}
			for _, n := range f.nodes[1:6] {
				o.Holders = append(o.Holders, n.id)
			}
			_, err := s.Put(ctx, p, "a", killNew, o)
			return err
		}, either},
		{"delete", true, func(s *Store, p Person) error {
			_, err := s.Delete(ctx, p, "a", DeleteOptions{Timeout: limit})
			return err
		}, func(v []byte) bool { return v == nil || bytes.Equal(v, killOld) }},
		{"reshare", true, func(s *Store, p Person) error {
			_, err := s.Reshare(ctx, p, "a", PutOptions{N: 3, K: 2, Timeout: limit})
			return err
		}, same},
		{"refresh", true, func(s *Store, p Person) error {
			_, err := s.Refresh(ctx, p, "a", limit)
			return err
		}, same},
	}
}

// TestKilledAfterEachMessage: the node that puts, deletes, reshares or refreshes
// is killed at each of its messages, before and after it arrives. What is read
// is old or new, never neither; once the node is back what it began completes or
// dies, and everybody reads the same.
func TestKilledAfterEachMessage(t *testing.T) {
	for i := range killedOps(&fakeNet{nodes: make([]*fakeNode, 6)}) {
		for _, sent := range []bool{false, true} {
			ended := false
			for at := 1; !ended; at++ {
				if testing.Short() && at%5 != 1 {
					continue
				}
				bubble(t, 6, func(t *testing.T, f *fakeNet, p Person) {
					op := killedOps(f)[i]
					name := fmt.Sprintf("%s, killed at message %d (arrived: %v)", op.name, at, sent)
					ended = killedAt(t, f, p, op, at, sent, name)
				})
				if t.Failed() || at > 200 {
					return
				}
			}
		}
	}
}

// killedAt runs one operation; true: it ended before its node was killed.
func killedAt(t *testing.T, f *fakeNet, p Person, op killedOp, at int, sent bool, name string) bool {
	if op.old {
		o := PutOptions{N: 5, K: 3}
		for _, n := range f.nodes[:5] {
			o.Holders = append(o.Holders, n.id)
		}
		mustPut(t, f.nodes[1].store, p, "a", killOld, o)
		settle(t, f, p, "a", 1)
	}
	w := f.nodes[0]
	k := newKiller(f, w, at, sent)
	err := op.do(w.up(), p)
	if !k.killed() {
		time.Sleep(time.Minute) // what goes on after the answer has messages too
	}
	ended := !k.killed()
	f.set(nil, nil)
	w.stop()
	seen := killedReads(t, f, p, op, name+", read at once")
	if ended && err == nil && op.name == "put" && !bytes.Equal(seen, killNew) {
		t.Errorf("%s: acknowledged, and %q is read", name, seen)
	}
	w.start()
	time.Sleep(10 * time.Minute)
	last := killedReads(t, f, p, op, name+", read at rest")
	if (op.name == "put" || op.name == "first put") && bytes.Equal(seen, killNew) && !bytes.Equal(last, killNew) {
		t.Errorf("%s: %q was read, then %q", name, seen, last)
	}
	if info, err := f.up().Info(context.Background(), p, "a"); err == nil && (len(info.Pending) > 0 || last != nil && info.Acked != info.N) {
		t.Errorf("%s: at rest %d pending, %d of %d seats have it", name, len(info.Pending), info.Acked, info.N)
	}
	for _, n := range f.nodes {
		// A reshare is a compare-and-set: its record waits a day for a retry.
		if j := n.shelf.count(share.BucketJournal); j != 0 && op.name != "reshare" {
			t.Errorf("%s: %s has %d journal records left", name, n.member.Name, j)
		}
	}
	return ended
}

// killedReads reads at every node that is up; the values must be good, and at
// rest the same.
func killedReads(t *testing.T, f *fakeNet, p Person, op killedOp, name string) []byte {
	var first []byte
	some := false
	for _, n := range f.nodes {
		s := n.up()
		if s == nil {
			continue
		}
		var v []byte
		r, err := s.Recover(context.Background(), p, "a", RecoverOptions{})
		switch {
		case err == nil:
			v = r.Value
		case !errors.Is(err, ErrNotFound):
			t.Errorf("%s at %s: %v", name, n.member.Name, explain(err))
			continue
		}
		if !op.good(v) {
			t.Errorf("%s at %s: %q", name, n.member.Name, v)
		}
		if some && !bytes.Equal(v, first) && f.up() == f.nodes[0].store {
			t.Errorf("%s: %q at one node, %q at %s", name, first, v, n.member.Name)
		}
		first, some = v, true
	}
	return first
}
