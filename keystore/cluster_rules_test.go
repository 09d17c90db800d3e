package keystore

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// A seat that hears of the certificate from other holders before the writer is
// back still gets its row from the writer's journal.
func TestCertificateBeforeRow(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[4].stop()
		mustPut(t, f.nodes[0].store, p, "a", []byte("2"), PutOptions{})
		time.Sleep(time.Second)
		f.nodes[0].stop()
		f.nodes[4].start()
		heard := false
		for range 300 {
			i, err := f.nodes[1].store.Info(context.Background(), p, "a")
			if err == nil && names(i.Seats, "missing") == "n5" {
				heard = true
				break
			}
			time.Sleep(time.Second)
		}
		if !heard {
			t.Fatal("the certificate was not passed on")
		}
		f.nodes[0].start()
		settle(t, f, p, "a", 2)
	})
}

// The writer is gone after w seats promised: whoever reads finds w receipts,
// forms the certificate, and sends it before using the value (W4).
func TestReaderCompletes(t *testing.T) {
	for _, first := range []bool{true, false} {
		bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
			reader := f.add("reader", "op6", "z6")
			reader.member.Holder = false
			reader.start()
			want := uint64(1)
			if !first {
				mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{})
				settle(t, f, p, "a", 1)
				want = 2
			}
			time.Sleep(time.Second)
			f.set(func(from, _ key.NodeID, verb uint64) error {
				if from == f.nodes[0].id && verb == custody.VerbCommit {
					return errLost
				}
				return nil
			}, nil)
			_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("new"), PutOptions{Timeout: time.Second})
			var d *InDoubtError
			if !errors.As(err, &d) || d.Gen != want {
				t.Fatalf("%v", explain(err))
			}
			f.nodes[0].stop()
			f.set(nil, nil)
			mustGet(t, reader.store, p, "a", []byte("new"))
			committed := 0
			for _, n := range f.nodes[1:5] {
				if c := n.store.seatHere(context.Background(), d.id(t, f, p)); c != nil && c.m.Hash == d.Manifest {
					committed++
				}
			}
			if committed < 3 {
				t.Fatalf("the value was used while %d seats had committed", committed)
			}
		})
	}
}

func (e *InDoubtError) id(t *testing.T, f *fakeNet, p Person) key.Hash {
	h, err := f.up().secret(p, "a")
	if err != nil {
		t.Fatal(err)
	}
	return h.id
}

// Two first puts on the two sides of a split mesh of 2w nodes: both certified,
// both reported, either readable by its manifest, and a put that names both
// heals.
func TestFork(t *testing.T) {
	bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
		ctx := context.Background()
		for i, a := range f.nodes {
			for j, b := range f.nodes {
				if i < 4 && j >= 4 {
					f.separate(a, b)
				}
			}
		}
		a := mustPut(t, f.nodes[0].store, p, "a", []byte("left"), PutOptions{N: 4, K: 2, New: true})
		b := mustPut(t, f.nodes[4].store, p, "a", []byte("right"), PutOptions{N: 4, K: 2, New: true})
		time.Sleep(time.Minute)
		f.heal()
		reader := f.add("reader", "op9", "z9")
		reader.member.Holder = false
		reader.start()
		time.Sleep(10 * time.Second) // until all nodes know it
		var c *ConflictError
		_, err := reader.store.Recover(ctx, p, "a", RecoverOptions{})
		if !errors.As(err, &c) || len(c.Fork) != 2 || !slices.Contains(c.Fork, a.Manifest) || !slices.Contains(c.Fork, b.Manifest) {
			t.Fatalf("a fork is not reported: %v", explain(err))
		}
		for h, want := range map[key.Hash]string{a.Manifest: "left", b.Manifest: "right"} {
			r, err := reader.store.Recover(ctx, p, "a", RecoverOptions{Manifest: h})
			if err != nil || string(r.Value) != want || r.Manifest != h {
				t.Fatalf("%q %v", r.Value, explain(err))
			}
		}
		if _, err := reader.store.Info(ctx, p, "a"); !errors.As(err, &c) {
			t.Fatalf("%v", explain(err))
		}
		if _, err := reader.store.Put(ctx, p, "a", []byte("x"), PutOptions{N: 5, K: 3}); !errors.As(err, &c) || len(c.Fork) != 2 {
			t.Fatalf("a put passed a fork without force: %v", explain(err))
		}
		r := mustPut(t, reader.store, p, "a", []byte("healed"), PutOptions{N: 8, K: 4, Force: true})
		settle(t, f, p, "a", r.Gen)
		time.Sleep(time.Minute)
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", []byte("healed"))
		}
	})
}

// The policy does not let the owner read alone: that waits for whom it lets,
// and is not "not found".
func TestDeniedOwner(t *testing.T) {
	f := newFakeNet(t, 5)
	p, other := newPerson(), newPerson()
	pol := policy.Any(policy.Key(other.Key.Public())).Encode()
	mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Policy: pol})
	for _, n := range f.nodes {
		var pend *PendingError
		if _, err := n.store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.As(err, &pend) || pend.Have != 0 || pend.Need != 1 {
			t.Fatalf("%v", explain(err))
		}
	}
	// f liars say denied although the policy allows: the rest is enough.
	mustPut(t, f.nodes[0].store, p, "b", []byte("v"), PutOptions{})
	deny := func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
		if verb == custody.VerbRecover {
			return key.Marshal(&custody.RecoverReply{Outcome: custody.Denied}), nil
		}
		return call()
	}
	f.nodes[1].lies(deny)
	f.nodes[2].lies(deny)
	waitFor(t, f, p, "b", 1)
	mustGet(t, f.nodes[0].store, p, "b", []byte("v"))
}

// Liars cannot make a put go wrong: bogus receipts do not count, and the caller
// hears of it.
func TestHostileReceipts(t *testing.T) {
	forge := func(f *fakeNet, n *fakeNode, change func(r *share.Receipt) key.NodePrivate) {
		n.lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			if verb != custody.VerbPrepare || err != nil {
				return out, err
			}
			reply := new(custody.PrepareReply)
			if key.Unmarshal(out, reply) != nil || reply.Outcome != custody.OK {
				return out, nil
			}
			o, _ := key.DecodeObject(reply.Receipt)
			r, err := share.OpenReceipt(f.id, key.TypePrepared, o)
			if err != nil {
				return nil, err
			}
			k := change(&r)
			reply.Receipt = share.SignReceipt(k, f.id, key.TypePrepared, r).Encode()
			return key.Marshal(reply), nil
		})
	}
	for name, change := range map[string]func(n *fakeNode) func(*share.Receipt) key.NodePrivate{
		"another node's": func(*fakeNode) func(*share.Receipt) key.NodePrivate {
			k := key.GenerateNode()
			return func(*share.Receipt) key.NodePrivate { return k }
		},
		"another manifest": func(n *fakeNode) func(*share.Receipt) key.NodePrivate {
			return func(r *share.Receipt) key.NodePrivate { r.Manifest[0] ^= 1; return n.key }
		},
		"another x": func(n *fakeNode) func(*share.Receipt) key.NodePrivate {
			return func(r *share.Receipt) key.NodePrivate { r.X ^= 0xff; return n.key }
		},
		"x = 0": func(n *fakeNode) func(*share.Receipt) key.NodePrivate {
			return func(r *share.Receipt) key.NodePrivate { r.X = 0; return n.key }
		},
		"another epoch": func(n *fakeNode) func(*share.Receipt) key.NodePrivate {
			return func(r *share.Receipt) key.NodePrivate { r.Epoch = 1; return n.key }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				forge(f, f.nodes[1], change(f.nodes[1]))
				mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
				forge(f, f.nodes[2], change(f.nodes[2]))
				_, err := f.nodes[0].store.Put(context.Background(), p, "b", []byte("v"), PutOptions{Timeout: 5 * time.Second})
				var d *InDoubtError
				if !errors.As(err, &d) || names(d.Seats, "refused") != "n2 n3" {
					t.Fatalf("%v", explain(err))
				}
			})
		})
	}
}

// A caller that gives up gets an answer at once, and what was begun goes on.
func TestCallerGivesUp(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		f.set(func(_, _ key.NodeID, _ uint64) error { time.Sleep(time.Second); return nil }, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := f.nodes[0].store.Put(ctx, p, "a", []byte("v"), PutOptions{})
		var d *InDoubtError
		if !errors.As(err, &d) || time.Since(start) > 1501*time.Millisecond {
			t.Fatalf("%v after %v", explain(err), time.Since(start))
		}
		f.set(nil, nil)
		settle(t, f, p, "a", 1)
		mustGet(t, f.nodes[3].store, p, "a", []byte("v"))
	})
}

// Two puts of one name through one node do not conflict with one another.
func TestSameNode(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		done := make(chan uint64, 20)
		for i := range 20 {
			go func() {
				r, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte{byte(i)}, PutOptions{})
				if err != nil {
					t.Error(explain(err))
				}
				done <- r.Gen
			}()
		}
		var gens []uint64
		for range 20 {
			gens = append(gens, <-done)
		}
		slices.Sort(gens)
		for i, g := range gens {
			if g != uint64(i+1) {
				t.Fatalf("%v", gens)
			}
		}
	})
}
