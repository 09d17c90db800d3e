package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// refreshBubble is five nodes with a secret on all of them, 3 of 5.
func refreshBubble(t *testing.T, test func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte)) {
	t.Helper()
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		v := []byte("kept through it all")
		put := mustPut(t, f.nodes[0].store, p, "a", v, PutOptions{})
		settle(t, f, p, "a", 1)
		test(t, f, p, put.ID, v)
	})
}

// A seat that was away applies the bundle to its base row when it is back; one
// that missed two epochs has its row rebuilt.
func TestSeatAwayDuringARefresh(t *testing.T) {
	for _, epochs := range []uint32{1, 2, 3} {
		t.Run(fmt.Sprint(epochs), func(t *testing.T) {
			refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
				away := f.nodes[2]
				old := away.shelfRows()
				away.stop()
				for e := range epochs {
					if r := mustRefresh(t, f.nodes[4].store, p, "a"); r.Epoch != e+1 {
						t.Fatalf("%+v", r)
					}
					settledAt(t, f, id, e+1, f.nodes)
				}
				repairs := f.count(custody.VerbRepair)
				away.start()
				mustGet(t, away.store, p, "a", v)
				settledAt(t, f, id, epochs, f.nodes)
				if got := f.count(custody.VerbRepair) - repairs; (got > 0) != (epochs > 1) {
					t.Errorf("%d values of others were asked for after %d epochs", got, epochs)
				}
				if bytes.Equal(away.shelfRows()[0].row, old[0].row) {
					t.Fatal("its old row is there")
				}
				time.Sleep(time.Minute) // until all have heard that all have it
				f.nodes[0].stop()
				f.nodes[1].stop()
				mustGet(t, f.nodes[4].store, p, "a", v) // its row is one of the three
				for _, n := range f.nodes {
					if n.up() != nil && n.shelf.count(share.BucketPass) != 0 {
						t.Errorf("%s keeps a bundle though all have answered", n.member.Name)
					}
				}
			})
		})
	}
}

// The coordinating node is killed after each message of a refresh: rows of the
// old epoch or of the new one give the secret at once, and what began ends after
// the restart, or the next refresh does it.
func TestCoordinatorKilledAfterEachMessage(t *testing.T) {
	long(t)
	for after := 1; ; after++ {
		ended := false
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
				coordinator := f.nodes[1]
				var mu sync.Mutex
				var once sync.Once
				sent, killed := 0, make(chan struct{})
				f.set(nil, func(from, _ key.NodeID, verb uint64) error {
					if from != coordinator.id || verb < custody.VerbDeal || verb > custody.VerbEpoch {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					if sent++; sent < after {
						return nil
					}
					once.Do(func() {
						f.mu.Lock()
						f.down[coordinator.id] = true // nothing leaves any more
						f.mu.Unlock()
						go func() { coordinator.stop(); close(killed) }()
					})
					return errFakeLink
				})
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				_, err := coordinator.store.Refresh(ctx, p, "a", 0)
				mu.Lock()
				all := sent < after
				mu.Unlock()
				if all {
					if err != nil {
						t.Fatal(explain(err))
					}
					ended = true
					return
				}
				<-killed
				f.set(nil, nil)
				for _, n := range f.nodes {
					if n != coordinator {
						mustGet(t, n.store, p, "a", v)
					}
				}
				coordinator.start()
				mustGet(t, coordinator.store, p, "a", v)
				time.Sleep(2 * time.Minute)
				epoch := uint32(0)
				for _, n := range f.nodes {
					epoch = max(epoch, n.held(t, id).epoch)
				}
				if r := mustRefresh(t, f.nodes[3].store, p, "a"); r.Epoch != epoch+1 {
					t.Fatalf("%+v after epoch %d", r, epoch)
				}
				settledAt(t, f, id, epoch+1, f.nodes)
				for _, n := range f.nodes {
					mustGet(t, n.store, p, "a", v)
				}
			})
		})
		if ended || t.Failed() {
			if after < 15 {
				t.Errorf("a refresh of %d messages", after)
			}
			return
		}
	}
}

// While a refresh cannot go on, whatever step it has come to, the secret is read
// with any two nodes missing; and it ends once they are back.
func TestStalledRefreshRecovers(t *testing.T) {
	for _, verb := range []uint64{custody.VerbDeal, custody.VerbBundle, custody.VerbEpoch} {
		for lost := 1; lost <= 4; lost++ {
			t.Run(fmt.Sprintf("verb %d to %d", verb, lost), func(t *testing.T) {
				refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
					var deaf []key.NodeID
					for _, n := range f.nodes[:lost] {
						deaf = append(deaf, n.id)
					}
					f.set(func(_, to key.NodeID, v uint64) error {
						if v == verb && slices.Contains(deaf, to) {
							return errFakeLink
						}
						return nil
					}, nil)
					_, err := f.nodes[4].store.Refresh(context.Background(), p, "a", 0)
					if lost > 2 && verb != custody.VerbEpoch && err == nil {
						t.Error("a refresh without w seats is called done")
					}
					if verb == custody.VerbEpoch {
						f.set(nil, nil) // what was missed is not passed on yet
					}
					for i := range 5 {
						for j := range i {
							f.mu.Lock()
							f.down[f.nodes[i].id], f.down[f.nodes[j].id] = true, true
							f.mu.Unlock()
							k := slices.IndexFunc(f.nodes, func(n *fakeNode) bool { return n != f.nodes[i] && n != f.nodes[j] })
							mustGet(t, f.nodes[k].store, p, "a", v)
							f.mu.Lock()
							clear(f.down)
							f.mu.Unlock()
						}
					}
					f.set(nil, nil)
					time.Sleep(time.Minute)
					if err != nil || verb == custody.VerbEpoch {
						_, _ = f.nodes[4].store.Refresh(context.Background(), p, "a", 0)
					}
					epoch := f.nodes[4].held(t, id).epoch
					if epoch == 0 {
						t.Fatal("nothing was refreshed")
					}
					settledAt(t, f, id, epoch, f.nodes)
					for _, n := range f.nodes {
						mustGet(t, n.store, p, "a", v)
					}
				})
			})
		}
	}
}

// Puts while refreshes run, from other nodes: both go on, the last value is read,
// and nothing of the generation before stays.
func TestPutDuringARefresh(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		f.set(func(_, _ key.NodeID, _ uint64) error { time.Sleep(3 * time.Millisecond); return nil }, nil)
		for i := range 12 {
			done := make(chan error)
			go func() {
				_, err := f.nodes[i%5].store.Refresh(context.Background(), p, "a", 0)
				done <- err
			}()
			time.Sleep(time.Duration(i*3) * time.Millisecond)
			v = []byte(fmt.Sprintf("value %d", i))
			r := mustPut(t, f.nodes[(i+1)%5].store, p, "a", v, PutOptions{})
			<-done // it may fail: its generation has gone
			for _, n := range f.nodes {
				mustGet(t, n.store, p, "a", v)
			}
			settle(t, f, p, "a", r.Gen)
		}
		r := mustRefresh(t, f.nodes[2].store, p, "a")
		settledAt(t, f, id, r.Epoch, f.nodes)
		mustGet(t, f.nodes[0].store, p, "a", v)
	})
}

// All seats coordinate at once: at most one epoch comes of each round, whoever
// wins, and nothing is lost.
func TestConcurrentCoordinators(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		for i := range 6 {
			f.set(func(from, to key.NodeID, _ uint64) error {
				time.Sleep(time.Duration(1+(int(from[0])*7+int(to[0])*i)%9) * time.Millisecond)
				return nil
			}, nil)
			var g sync.WaitGroup
			for _, n := range f.nodes {
				g.Go(func() { _, _ = n.store.cust.refreshNow(context.Background(), id, n.held(t, id).Hash) })
			}
			g.Wait()
			for _, n := range f.nodes {
				mustGet(t, n.store, p, "a", v)
			}
			f.set(nil, nil)
			time.Sleep(15 * time.Minute)
			epoch := uint32(0)
			for _, n := range f.nodes {
				epoch = max(epoch, n.held(t, id).epoch)
			}
			for _, n := range f.nodes {
				if e := n.held(t, id); e.epoch != epoch || e.refresh != nil && e.refresh.base != nil {
					t.Fatalf("%s is at epoch %d of %d: %+v", n.member.Name, e.epoch, epoch, e.refresh)
				}
				mustGet(t, n.store, p, "a", v)
			}
		}
		before := f.nodes[0].held(t, id).epoch
		if r := mustRefresh(t, f.nodes[2].store, p, "a"); r.Epoch != before+1 || before == 0 {
			t.Fatalf("%+v after %d", r, before)
		}
	})
}

// It happens by itself, once in the time that is configured and a tenth.
func TestRefreshBySchedule(t *testing.T) {
	long(t)
	const every = 48 * time.Hour
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		for _, n := range f.nodes {
			n.stop()
			n.refresh = every
			n.start()
		}
		time.Sleep(every - time.Hour)
		if e := f.nodes[0].held(t, id).epoch; e != 0 {
			t.Fatalf("epoch %d before its time", e)
		}
		time.Sleep(time.Hour + every/10 + 2*time.Hour)
		settledAt(t, f, id, 1, f.nodes)
		f.nodes[1].stop() // whoever's turn it is
		time.Sleep(every + every/10 + 3*time.Hour)
		settledAt(t, f, id, 2, f.nodes)
		mustGet(t, f.nodes[0].store, p, "a", v)
	})
}

// Only the owner may ask for it, and only seats are dealt with.
func TestRefreshIsForTheOwnerAndSeats(t *testing.T) {
	bubble(t, 6, func(t *testing.T, f *fakeNet, p Person) {
		var holders []key.NodeID
		for _, n := range f.nodes[:5] {
			holders = append(holders, n.id)
		}
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: holders})
		settle(t, f, p, "a", 1)
		at, stranger := f.nodes[0], f.nodes[5]
		e := at.held(t, put.ID)
		other := newPerson()
		var reply custody.RefreshReply
		q := &custody.Refresh{ID: put.ID, Query: stranger.store.queries.get(f.id, other, at.id)}
		if err := stranger.store.call(context.Background(), at.id, custody.VerbRefresh, key.Marshal(q), &reply); err != nil || reply.Outcome != custody.Denied {
			t.Errorf("another person: %+v %v", reply, err)
		}
		q = &custody.Refresh{ID: put.ID, Query: stranger.store.queries.get(f.id, p, f.nodes[1].id)}
		if err := stranger.store.call(context.Background(), at.id, custody.VerbRefresh, key.Marshal(q), &reply); err != nil || reply.Outcome != custody.Refused {
			t.Errorf("a query for another node: %+v %v", reply, err)
		}
		var deal custody.DealReply
		d := &custody.Deal{ID: put.ID, Manifest: e.Hash, Epoch: 1, Round: 1}
		if err := stranger.store.call(context.Background(), at.id, custody.VerbDeal, key.Marshal(d), &deal); err != nil || deal.Outcome != custody.Refused || deal.Standing != nil || deal.Dealing != nil {
			t.Errorf("DEAL from a stranger: %+v %v", deal, err)
		}
		if err := f.nodes[1].store.call(context.Background(), at.id, custody.VerbDeal, key.Marshal(d), &deal); err != nil || deal.Outcome != custody.OK || deal.Dealing == nil {
			t.Errorf("DEAL from a seat: %+v %v", deal, err)
		}
		if _, err := stranger.store.Refresh(context.Background(), other, "a", 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("another person's name: %v", err)
		}
		if r := mustRefresh(t, stranger.store, p, "a"); r.Epoch != 1 { // the owner, at a node without a seat
			t.Errorf("%+v", r)
		}
	})
}

// Past epoch 0 a seat whose row is damaged or gone repairs itself as before, and
// a seat of a node that is gone is given to another one, whose row comes of the
// others' values; then the rows are exchanged once more, and the old holder,
// when it returns, deletes what is worth nothing by then.
func TestRepairPastEpochZero(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		f.nodes[4].start()
		time.Sleep(time.Minute)
		for e := range uint32(2) {
			if r := mustRefresh(t, f.nodes[6].store, p, "a"); r.Epoch != e+1 {
				t.Fatalf("%+v", r)
			}
			settledAt(t, f, put.ID, e+1, f.nodes[:5])
		}
		g := mustGet(t, f.nodes[6].store, p, "a", []byte("v"))
		if r, err := VerifyReceipt(g.Receipt); err != nil || r.Network != f.id {
			t.Fatal(err)
		}
		if v := mustVerify(t, f.nodes[6].store, p, "a"); v.Good != 5 {
			t.Fatalf("%+v", v)
		}
		lost := f.nodes[2]
		before := lost.shelfRows()
		lost.wipe(share.BucketRow)
		good(t, f, p, "a", 5, 30*time.Hour)
		if after := lost.shelfRows(); len(after) != 1 || !bytes.Equal(after[0].row, before[0].row) {
			t.Fatal("the row is not the one that was lost")
		}
		old := f.nodes[4]
		old.stop()
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		if len(r.Moved) != 1 || r.Good != 5 {
			t.Fatalf("%+v", r)
		}
		to := f.node(r.Moved[0].To)
		if e := to.held(t, put.ID); e.epoch != 2 {
			t.Fatalf("the new holder is at epoch %d", e.epoch)
		}
		now := append(slices.Clone(f.nodes[:4]), to)
		time.Sleep(3 * time.Hour) // a seat was given away: that is a reason
		settledAt(t, f, put.ID, 3, now)
		for _, n := range now {
			mustGet(t, n.store, p, "a", []byte("v"))
		}
		if v := mustVerify(t, f.nodes[0].store, p, "a"); v.Good != 5 {
			t.Fatalf("%+v", v)
		}
		if m := now[0].held(t, put.ID).SignedManifest; opens(t, m, append(old.shelfRows(), now[0].shelfRows()[0], now[1].shelfRows()[0])) {
			t.Fatal("the old holder's row opens the secret with two of now")
		}
		old.start()
		time.Sleep(3 * time.Hour)
		if rows := old.shelfRows(); len(rows) != 0 {
			t.Fatalf("the old holder keeps %d rows", len(rows))
		}
		mustGet(t, f.nodes[0].store, p, "a", []byte("v"))
	})
}
