package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

var errLost = errors.New("fake: lost")

// loseTo loses requests or answers of one verb to some nodes.
func loseTo(verb uint64, nodes ...*fakeNode) func(from, to key.NodeID, v uint64) error {
	return func(_, to key.NodeID, v uint64) error {
		if v == verb && slices.ContainsFunc(nodes, func(n *fakeNode) bool { return n.id == to }) {
			return errLost
		}
		return nil
	}
}

// A put that is in doubt completes: by a retry, by the writer itself, and after
// a restart of the writer out of its journal.
func TestInDoubtCompletes(t *testing.T) {
	for _, how := range []string{"retry", "retry after restart", "by itself", "by itself after restart"} {
		for _, what := range []struct {
			name string
			lose func(f *fakeNet)
		}{
			{"PREPARE lost", func(f *fakeNet) { f.set(loseTo(custody.VerbPrepare, f.nodes[3], f.nodes[4]), nil) }},
			{"Prepared lost", func(f *fakeNet) { f.set(nil, loseTo(custody.VerbPrepare, f.nodes[2], f.nodes[3], f.nodes[4])) }},
			{"COMMIT lost", func(f *fakeNet) { f.set(loseTo(custody.VerbCommit, f.nodes[1], f.nodes[2]), nil) }},
			{"Committed lost", func(f *fakeNet) {
				f.set(nil, loseTo(custody.VerbCommit, f.nodes[1], f.nodes[2], f.nodes[3], f.nodes[4]))
			}},
		} {
			t.Run(how+"/"+what.name, func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					w := f.nodes[0]
					ctx := context.Background()
					mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
					settle(t, f, p, "a", 1)
					what.lose(f)
					_, err := w.store.Put(ctx, p, "a", []byte("new"), PutOptions{Timeout: 5 * time.Second})
					var d *InDoubtError
					if !errors.As(err, &d) || d.Gen != 2 || d.Need != 4 || d.Have >= 4 || len(d.Seats) != 5 {
						t.Fatalf("%v", explain(err))
					}
					if strings.Contains(how, "restart") {
						w.stop()
						f.set(nil, nil)
						w.start()
					}
					f.set(nil, nil)
					if strings.HasPrefix(how, "retry") {
						r := mustPut(t, w.store, p, "a", []byte("new"), PutOptions{})
						if r.Gen != 2 || r.Manifest != d.Manifest {
							t.Fatalf("the retry made another generation: %+v", r)
						}
					}
					settle(t, f, p, "a", 2)
					for _, n := range f.nodes {
						mustGet(t, n.store, p, "a", []byte("new"))
					}
					time.Sleep(time.Minute)
					if n := w.shelf.count(share.BucketJournal); n != 0 {
						t.Errorf("%d journal records left", n)
					}
				})
			})
		}
	}
}

// Another value, or other options, is another put: it passes the one in doubt.
func TestInDoubtPassed(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w := f.nodes[0]
		mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.set(loseTo(custody.VerbPrepare, f.nodes[3], f.nodes[4]), nil)
		_, err := w.store.Put(context.Background(), p, "a", []byte("doubtful"), PutOptions{Timeout: 5 * time.Second})
		var d *InDoubtError
		if !errors.As(err, &d) {
			t.Fatalf("%v", explain(err))
		}
		gen := uint64(1)
		if _, err := w.store.Put(context.Background(), p, "a", []byte("cas"), PutOptions{IfGen: &gen, Timeout: 5 * time.Second}); err == nil {
			t.Fatal("a compare-and-set passed a write that is not decided")
		}
		f.set(nil, nil)
		r := mustPut(t, f.nodes[4].store, p, "a", []byte("newer"), PutOptions{})
		if r.Gen <= d.Gen {
			t.Fatalf("%+v", r)
		}
		settle(t, f, p, "a", r.Gen)
		time.Sleep(25 * time.Hour) // the compare-and-set in doubt waits a day for its retry
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", []byte("newer"))
			if n.shelf.count(share.BucketRow) != 1 || n.shelf.count(share.BucketJournal) != 0 {
				t.Errorf("%s: %d rows, %d journal records", n.member.Name, n.shelf.count(share.BucketRow), n.shelf.count(share.BucketJournal))
			}
		}
	})
}

// A first put of which too little is known is refused before anything is sent.
func TestFirstPutAmongSilent(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		f.nodes[3].stop()
		f.nodes[4].stop()
		before := f.count(custody.VerbPrepare)
		_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("v"), PutOptions{})
		var q *QuorumError
		if !errors.As(err, &q) || names(q.Seats, "unreachable") != "n4 n5" {
			t.Fatalf("%v", explain(err))
		}
		if f.count(custody.VerbPrepare) != before {
			t.Fatal("something was sent")
		}
		// Nodes that happen to be off do not turn the default 3-of-5 into 2-of-3.
		_, err = f.nodes[0].store.Put(context.Background(), p, "b", []byte("v"), PutOptions{New: true})
		var pl *PlacementError
		if !errors.As(err, &pl) || pl.Want != 4 || pl.Have != 3 {
			t.Fatalf("%v", explain(err))
		}
		r := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{N: 3, K: 2, New: true})
		if r.N != 3 || r.K != 2 || r.W != 3 {
			t.Fatalf("%+v", r)
		}
	})
}

// A seat that was away during a put gets its row when it is back.
func TestAwaySeat(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[4].stop()
		r := mustPut(t, f.nodes[0].store, p, "a", []byte("2"), PutOptions{})
		if r.Gen != 2 || r.Acked != 4 || names(r.Seats, "unreachable") != "n5" {
			t.Fatalf("%+v", r)
		}
		time.Sleep(time.Hour)
		f.nodes[0].stop()
		f.nodes[0].start() // the journal remembers who lacks the row
		f.nodes[4].start()
		settle(t, f, p, "a", 2)
		f.nodes[0].stop()
		f.nodes[1].stop()
		mustGet(t, f.nodes[4].store, p, "a", []byte("2"))
	})
}

// A kill of every node at any moment: what was acknowledged is there.
func TestKilledAmongPuts(t *testing.T) {
	for round := range 12 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				for _, n := range f.nodes {
					n.shelf.slow(time.Millisecond)
				}
				f.set(func(from, to key.NodeID, _ uint64) error {
					time.Sleep(time.Duration(1+int(from[2]+to[3])%5) * time.Millisecond)
					return nil
				}, nil)
				acked := make(chan int, 100)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for i := range 20 {
						s := f.nodes[i%5].up()
						if s == nil {
							return
						}
						if _, err := s.Put(context.Background(), p, fmt.Sprintf("k%d", i%7), []byte(fmt.Sprintf("%07d", i)), PutOptions{Timeout: 2 * time.Second}); err == nil {
							acked <- i
						}
					}
				}()
				time.Sleep(time.Duration(7*round+3) * time.Millisecond)
				for _, n := range f.nodes {
					n.stop()
				}
				<-done
				for _, n := range f.nodes {
					n.start()
				}
				close(acked)
				last := map[string]int{}
				for i := range acked {
					last[fmt.Sprintf("k%d", i%7)] = i
				}
				time.Sleep(30 * time.Second)
				for name, i := range last {
					r, err := f.nodes[1].store.Recover(context.Background(), p, name, RecoverOptions{})
					if err != nil || string(r.Value) < fmt.Sprintf("%07d", i) {
						t.Errorf("%s: %q instead of at least %d: %v", name, r.Value, i, explain(err))
					}
				}
			})
		})
	}
}

// A shelf that applies and reports failure, at the writer and at a holder.
func TestShelfFails(t *testing.T) {
	for _, apply := range []bool{false, true} {
		for _, who := range []int{0, 1} {
			t.Run(fmt.Sprint(apply, who), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
					settle(t, f, p, "a", 1)
					time.Sleep(time.Second)
					f.nodes[who].shelf.failing(func([]share.Record) (bool, error) { return apply, errFakeStopped })
					_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("2"), PutOptions{Timeout: 5 * time.Second})
					if who == 1 {
						if err != nil {
							t.Fatalf("%v", explain(err))
						}
						mustGet(t, f.nodes[2].store, p, "a", []byte("2"))
						return
					}
					var d *InDoubtError
					if !errors.As(err, &d) || !errors.Is(err, ErrStopped) {
						t.Fatalf("%v", explain(err))
					}
					r, err := f.nodes[2].store.Recover(context.Background(), p, "a", RecoverOptions{})
					if err != nil || string(r.Value) != "1" && string(r.Value) != "2" {
						t.Fatalf("%q %v", r.Value, explain(err))
					}
				})
			})
		}
	}
}

// Holders without room say so, and the caller gets that.
func TestFullHolders(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		for _, n := range f.nodes[1:] {
			n.shelf.setFull(true)
		}
		_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("v"), PutOptions{N: 5, K: 3})
		var pl *PlacementError
		if !errors.As(err, &pl) || names(pl.Seats, "full") != "n2 n3 n4 n5" {
			t.Fatalf("%v", explain(err))
		}
		for _, n := range f.nodes {
			n.shelf.setFull(false)
			n.lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
				if verb == custody.VerbPrepare {
					return key.Marshal(&custody.PrepareReply{Outcome: custody.Full, Why: "quota"}), nil
				}
				return call()
			})
		}
		_, err = f.nodes[0].store.Put(context.Background(), p, "a", []byte("v"), PutOptions{N: 5, K: 3})
		if !errors.Is(err, ErrFull) {
			t.Fatalf("%v", explain(err))
		}
		time.Sleep(10 * time.Minute)
		for _, n := range f.nodes {
			n.lies(nil)
		}
		time.Sleep(10 * time.Minute)
		if _, err := f.nodes[2].store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("what was not stored is there: %v", explain(err))
		}
	})
}

// A new generation on other seats leaves the old value unrecoverable even at
// the old seats, and reachable at the new.
func TestNewSeats(t *testing.T) {
	bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
		ids := func(nodes ...int) (out []key.NodeID) {
			for _, i := range nodes {
				out = append(out, f.nodes[i].id)
			}
			return out
		}
		mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{N: 4, K: 2, Holders: ids(0, 1, 2, 3)})
		settle(t, f, p, "a", 1)
		r := mustPut(t, f.nodes[0].store, p, "a", []byte("new"), PutOptions{N: 4, K: 2, Holders: ids(2, 3, 4, 5)})
		if r.Gen != 2 || names(r.Seats, "committed")+names(r.Seats, "prepared") == "" {
			t.Fatalf("%+v", r)
		}
		settle(t, f, p, "a", 2)
		time.Sleep(time.Second) // the old seats are told at the same time
		for i, n := range f.nodes {
			want := btoi(i >= 2 && i <= 5)
			if rows := n.shelf.count(share.BucketRow); rows != want {
				t.Errorf("%s holds %d rows, not %d", n.member.Name, rows, want)
			}
			mustGet(t, n.store, p, "a", []byte("new"))
		}
		// Disjoint seats, with one old seat away: it may not bring the old back.
		f.nodes[2].stop()
		mustPut(t, f.nodes[0].store, p, "a", []byte("third"), PutOptions{N: 4, K: 2, Holders: ids(0, 1, 6, 7)})
		f.nodes[2].start()
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", []byte("third"))
		}
	})
}

// A policy can be changed by who satisfies the old one.
func TestPolicyChange(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
		other := policy.Any(policy.Owner(), policy.Key(newPerson().Key.Public())).Encode()
		i, err := f.nodes[0].store.Info(context.Background(), p, "a")
		if err != nil {
			t.Fatal(err)
		}
		first := i.Policy
		mustPut(t, f.nodes[1].store, p, "a", []byte("2"), PutOptions{Policy: other})
		i, err = f.nodes[0].store.Info(context.Background(), p, "a")
		if err != nil || i.Policy == first {
			t.Fatal(i.Policy, err)
		}
		mustPut(t, f.nodes[2].store, p, "a", []byte("3"), PutOptions{})
		if i, _ = f.nodes[0].store.Info(context.Background(), p, "a"); i.Policy == first {
			t.Fatal("a put without a policy changed it")
		}
		mustGet(t, f.nodes[0].store, p, "a", []byte("3"))
	})
}
