package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// settleLiar rewrites what a node answers to SETTLE.
func settleLiar(rewrite func(n *fakeNode, q *custody.Settle, r *custody.SettleReply)) func(n *fakeNode) {
	return func(n *fakeNode) {
		n.lies(func(_ context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			q, r := new(custody.Settle), new(custody.SettleReply)
			if err != nil || verb != custody.VerbSettle || key.Unmarshal(body, q) != nil || key.Unmarshal(out, r) != nil {
				return out, err
			}
			rewrite(n, q, r)
			return key.Marshal(r), nil
		})
	}
}

// sign is a liar's word of any type on the manifest.
func (n *fakeNode) sign(t key.Type, manifest []byte) []byte {
	m, err := share.OpenManifest(n.net.id, manifest)
	if err != nil {
		n.net.t.Error(err)
		return nil
	}
	r := share.Receipt{Manifest: m.Hash, Time: unix()}
	if seat := m.SeatOf(n.id); seat != nil {
		r.X = seat.X
	}
	return share.SignReceipt(n.key, n.net.id, t, r).Encode()
}

// TestSettleLiars: one lying seat of a 3-of-5, whatever it says, neither kills
// what is certified or can be, nor completes what has too few honest rows, nor
// makes a wrong row; what is acknowledged afterwards is what is read.
func TestSettleLiars(t *testing.T) {
	long(t)
	lies := map[string]func(n *fakeNode, q *custody.Settle, r *custody.SettleReply){
		"none of everything": func(_ *fakeNode, _ *custody.Settle, r *custody.SettleReply) {
			r.Word, r.Receipt = custody.WordNone, nil
		},
		"refuses everything": func(n *fakeNode, q *custody.Settle, r *custody.SettleReply) {
			r.Word, r.Receipt = custody.WordRefused, n.sign(key.TypeRefused, q.Manifest)
		},
		"promises everything": func(n *fakeNode, q *custody.Settle, r *custody.SettleReply) {
			r.Word, r.Receipt = custody.WordPrepared, n.sign(key.TypePrepared, q.Manifest)
		},
		"a wrong value": func(_ *fakeNode, _ *custody.Settle, r *custody.SettleReply) {
			r.Help = bytes.Repeat([]byte{5}, len(r.Help))
		},
		"a wrong ciphertext": func(_ *fakeNode, _ *custody.Settle, r *custody.SettleReply) {
			r.Payload = bytes.Repeat([]byte{5}, len(r.Payload))
		},
		"refusals of others": func(n *fakeNode, q *custody.Settle, r *custody.SettleReply) {
			for _, o := range n.net.nodes[:5] {
				forged := o.sign(key.TypeRefused, q.Manifest)
				forged[len(forged)-1] ^= 1
				r.Refused = append(r.Refused, forged, n.sign(key.TypeRefused, q.Manifest))
			}
		},
		"garbage": func(_ *fakeNode, _ *custody.Settle, r *custody.SettleReply) {
			r.Receipt, r.Before, r.There.Manifest, r.There.Cert = []byte("x"), [][]byte{{1}}, []byte("y"), []byte("z")
			r.Refused = make([][]byte, 3)
		},
		"something higher": func(_ *fakeNode, _ *custody.Settle, r *custody.SettleReply) {
			r.Outcome, r.There = custody.Conflict, custody.State{Floor: custody.Floor{Gen: 1 << 40}}
		},
	}
	for name, lie := range lies {
		for reached := range 6 {
			t.Run(fmt.Sprint(name, "/", reached), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					w := f.client("writer")
					mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
					settle(t, f, p, "s", 1)
					liar := f.nodes[2]
					settleLiar(lie)(liar)
					f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:reached]})
					vanish(t, w, p, "s", []byte("new"), PutOptions{})
					time.Sleep(10 * time.Minute)
					// What the liar may do is to leave it in doubt; only force passes that.
					r, err := f.nodes[0].store.Recover(context.Background(), p, "s", RecoverOptions{})
					want := "old"
					if reached >= 4 {
						want = "new" // a certificate's worth of honest promises, or all but the liar's
					}
					if err != nil || string(r.Value) != want && reached != 3 || string(r.Value) != "old" && string(r.Value) != "new" {
						t.Fatalf("%q %v", r.Value, explain(err))
					}
					mustPut(t, f.nodes[3].store, p, "s", []byte("next"), PutOptions{})
					mustGet(t, f.nodes[1].store, p, "s", []byte("next"))
				})
			})
		}
	}
}

// TestSettleHelp: a helper gives what its row has in common with the row of the
// node that asks, of this very manifest, and nothing else: none to who has no
// seat, and never its share.
func TestSettleHelp(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w := f.client("writer")
		mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
		settle(t, f, p, "s", 1)
		f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:3]})
		vanish(t, w, p, "s", []byte("new"), PutOptions{})
		h, _ := f.nodes[0].store.secret(p, "s")
		s, err := f.nodes[0].store.cust.peek(context.Background(), h.id)
		if err != nil || len(s.pending) != 1 {
			t.Fatalf("%+v %v", s, err)
		}
		m := s.pending[0]
		q := key.Marshal(&custody.Settle{Manifest: m.Bytes(), Help: true, Payload: true})
		ask := func(from key.NodeID) *custody.SettleReply {
			b, err := f.nodes[0].store.Answer(context.Background(), from, custody.VerbSettle, q)
			r := new(custody.SettleReply)
			if err != nil || key.Unmarshal(b, r) != nil {
				t.Fatal(err)
			}
			return r
		}
		outsider := f.client("outsider")
		for _, from := range []key.NodeID{outsider.id, f.nodes[0].id, {}} {
			if r := ask(from); len(r.Help)+len(r.Payload) != 0 || from != f.nodes[0].id && (r.Outcome != custody.Refused || len(r.There.Manifest) != 0) {
				t.Errorf("help for a node without a seat: %+v", r)
			}
		}
		b, err := f.nodes[0].shelf.Load(rowPlace(m))
		if err != nil {
			t.Fatal(err)
		}
		row, err := shamir.ParseRow(b, int(m.K), share.DataKeySize)
		if err != nil {
			t.Fatal(err)
		}
		r := ask(f.nodes[4].id)
		want, _ := row.Help(m.SeatOf(f.nodes[4].id).X)
		if !bytes.Equal(r.Help, want) || bytes.Equal(r.Help, row[0]) || len(r.Payload) == 0 {
			t.Error("not what the two rows have in common")
		}
		if again := f.nodes[4].shelf.count(share.BucketRow); again != 1 {
			t.Errorf("%d rows at a seat that was not asked yet", again)
		}
	})
}

// TestSettleKilled: seats that are killed at any moment of settling end where
// they would have: what they said is on disk before anyone hears it.
func TestSettleKilled(t *testing.T) {
	for reached := 1; reached <= 3; reached++ {
		for after := range 12 {
			t.Run(fmt.Sprint(reached, "/", after), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					w := f.client("writer")
					mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
					settle(t, f, p, "s", 1)
					f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:reached]})
					vanish(t, w, p, "s", []byte("new"), PutOptions{})
					time.Sleep(settleGrace + time.Duration(after)*2*time.Second)
					for _, n := range f.nodes[:5] {
						n.stop()
						n.start()
						time.Sleep(1100 * time.Millisecond)
					}
					time.Sleep(5 * time.Minute)
					h, _ := f.nodes[0].store.secret(p, "s")
					if n, _ := f.pendings(h.id); n != 0 {
						t.Fatalf("%d seats still hold a promise", n)
					}
					want := "old"
					if reached == 3 {
						want = "new"
					}
					mustGet(t, f.nodes[1].store, p, "s", []byte(want))
				})
			})
		}
	}
}

// TestWriterComesBack: a writer with its journal hears from the seats what
// became of its write: what is dead stays dead, and a retry is stored anew.
func TestWriterComesBack(t *testing.T) {
	for _, cas := range []bool{false, true} {
		for reached := 1; reached <= 4; reached++ {
			t.Run(fmt.Sprintf("cas=%v/%d", cas, reached), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					w := f.client("writer")
					mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
					settle(t, f, p, "s", 1)
					f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:reached]})
					o := PutOptions{Timeout: 5 * time.Second}
					if gen := uint64(1); cas {
						o.IfGen = &gen
					}
					_, err := w.store.Put(context.Background(), p, "s", []byte("new"), o)
					var doubt *InDoubtError
					if !errors.As(err, &doubt) {
						t.Fatal(explain(err))
					}
					w.stop()
					time.Sleep(3 * time.Minute)
					f.set(nil, nil)
					w.start()
					time.Sleep(30 * time.Second)
					want := "old"
					if reached >= 3 {
						want = "new"
					}
					mustGet(t, f.nodes[1].store, p, "s", []byte(want))
					if reached < 3 && w.shelf.count(share.BucketJournal) != 0 {
						t.Error("what is dead is still in the journal")
					}
					r, err := w.store.Put(context.Background(), p, "s", []byte("new"), o)
					if err != nil {
						t.Fatal(explain(err))
					}
					// A plain put that was completed meanwhile is in no journal any more.
					again := cas && reached >= 3
					if r.Gen != uint64(2+btoi(!cas && reached >= 3)) || (r.Manifest == doubt.Manifest) != again {
						t.Errorf("generation %d, the same manifest: %v", r.Gen, r.Manifest == doubt.Manifest)
					}
					mustGet(t, f.nodes[1].store, p, "s", []byte("new"))
				})
			})
		}
	}
}

// TestFifthPending: seats with four unfinished writes settle them sooner, and a
// fifth writer waits for that instead of failing.
func TestFifthPending(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
		settle(t, f, p, "s", 1)
		for i := range maxPending {
			w := f.client(fmt.Sprint("w", i))
			f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:2]})
			_, err := w.store.Put(context.Background(), p, "s", []byte{byte(i)}, PutOptions{Timeout: time.Second})
			if err == nil {
				t.Fatal("stored")
			}
			w.stop()
		}
		f.set(nil, nil)
		start := time.Now()
		mustPut(t, f.nodes[3].store, p, "s", []byte("fifth"), PutOptions{Timeout: 2 * time.Minute})
		if d := time.Since(start); d > 115*time.Second {
			t.Errorf("it took %v", d)
		}
		mustGet(t, f.nodes[1].store, p, "s", []byte("fifth"))
	})
}

// TestSettleTooSoon: a seat that asks the others about a write while its writer
// is on the way to them does not turn them against it.
func TestSettleTooSoon(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w := f.client("writer")
		liar := f.nodes[2]
		liar.lies(func(ctx context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
			q := new(custody.Prepare)
			if verb == custody.VerbPrepare && key.Unmarshal(body, q) == nil {
				for _, n := range f.nodes[:5] {
					if n == liar {
						continue
					}
					b, err := n.store.Answer(ctx, liar.id, custody.VerbSettle, key.Marshal(&custody.Settle{
						Manifest: q.Manifest, Promised: [][]byte{liar.sign(key.TypePrepared, q.Manifest)},
					}))
					r := new(custody.SettleReply)
					if err != nil || key.Unmarshal(b, r) != nil || r.Word != 0 && r.Word != custody.WordPrepared || r.Outcome != custody.Wait && r.Outcome != custody.OK {
						t.Errorf("a seat that was just asked says %d %d: %v", r.Outcome, r.Word, err)
					}
				}
			}
			return call()
		})
		f.set(func(from, to key.NodeID, verb uint64) error {
			if from == w.id && to != liar.id && verb == custody.VerbPrepare {
				time.Sleep(5 * time.Second)
			}
			return nil
		}, nil)
		mustPut(t, w.store, p, "s", []byte("v"), PutOptions{})
		mustGet(t, f.nodes[0].store, p, "s", []byte("v"))
	})
}

// TestManyToSettle: what a writer of many secrets left is settled in minutes,
// also while one seat takes all the time there is for each question.
func TestManyToSettle(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w := f.client("writer")
		const secrets = 60
		f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:2]})
		for i := range secrets {
			if _, err := w.store.Put(context.Background(), p, fmt.Sprint("s", i), []byte("v"), PutOptions{Timeout: time.Second, New: true}); err == nil {
				t.Fatal("stored")
			}
		}
		w.stop()
		f.nodes[1].lies(func(ctx context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
			if verb == custody.VerbSettle {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return call()
		})
		time.Sleep(5 * time.Minute)
		left := 0
		for i := range secrets {
			h, _ := f.nodes[0].store.secret(p, fmt.Sprint("s", i))
			for _, n := range []*fakeNode{f.nodes[0], f.nodes[2], f.nodes[3], f.nodes[4]} {
				st, err := n.store.cust.peek(context.Background(), h.id)
				if err != nil {
					t.Fatal(err)
				}
				left += len(st.pending)
			}
		}
		if left != 0 {
			t.Errorf("%d promises are left", left)
		}
	})
}
