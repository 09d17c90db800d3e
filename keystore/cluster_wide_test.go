package keystore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// The largest secret there is: 32 seats.
func TestManySeats(t *testing.T) {
	bubble(t, 34, func(t *testing.T, f *fakeNet, p Person) {
		v := bytes.Repeat([]byte{1, 2, 3}, 100)
		s := f.nodes[0].store
		r := mustPut(t, s, p, "a", v, PutOptions{N: 32, K: 20})
		if r.W != 26 || r.Acked < 26 {
			t.Fatalf("%+v", r)
		}
		settle(t, f, p, "a", 1)
		mustPut(t, f.nodes[33].store, p, "a", v[1:], PutOptions{Keep: new(3)})
		settle(t, f, p, "a", 2)
		down := 0
		for _, n := range f.nodes[1:33] {
			if c := n.store.seatHere(context.Background(), r.ID); c != nil && down < 12 {
				n.stop()
				down++
			}
		}
		mustGet(t, s, p, "a", v[1:])
		page, err := s.List(context.Background(), p, ListOptions{})
		if err != nil || len(page.Items) != 1 || page.Items[0].N != 32 || page.Items[0].Acked != 20 || page.Items[0].Margin != 0 || len(page.Silent) != 12 {
			t.Fatalf("%+v %v", page, err)
		}
	})
}

// A plan says what a put would do and changes nothing.
func TestPlan(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	s, ctx := f.nodes[0].store, context.Background()
	r, err := s.Plan(ctx, p, "a", 1000, PutOptions{W: 3, N: 5, K: 3})
	if err != nil || r.Gen != 1 || !r.Created || len(r.Seats) != 5 || names(r.Seats, "planned") != "n1 n2 n3 n4 n5" || len(r.Notes) != 4 {
		t.Fatalf("%+v %v", r, explain(err))
	}
	if f.count(custody.VerbPrepare)+f.count(custody.VerbCommit) != 0 || f.nodes[0].shelf.count(share.BucketJournal) != 0 {
		t.Fatal("a plan changed something")
	}
	mustPut(t, s, p, "a", nil, PutOptions{})
	if r, err = s.Plan(ctx, p, "a", 0, PutOptions{}); err != nil || r.Gen != 2 || r.Created {
		t.Fatalf("%+v %v", r, explain(err))
	}
	if _, err = s.Plan(ctx, p, "a", 1<<20, PutOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	var c *ConflictError
	if _, err = s.Plan(ctx, p, "a", 0, PutOptions{IfAbsent: true}); !errors.As(err, &c) {
		t.Fatal(err)
	}
}

// What has expired is neither read nor listed nor counted, and the name goes on.
func TestExpired(t *testing.T) {
	long(t)
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		s, ctx := f.nodes[0].store, context.Background()
		mustPut(t, s, p, "a", []byte("v"), PutOptions{TTL: new(time.Hour)})
		settle(t, f, p, "a", 1)
		mustGet(t, f.nodes[1].store, p, "a", []byte("v"))
		for _, later := range []time.Duration{2 * time.Hour, 48 * time.Hour} {
			time.Sleep(later)
			for _, n := range f.nodes[:2] {
				if _, err := n.store.Recover(ctx, p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
					t.Fatalf("after %v: %v", later, explain(err))
				}
				if _, err := n.store.Info(ctx, p, "a"); !errors.Is(err, ErrNotFound) {
					t.Fatalf("after %v: %v", later, explain(err))
				}
			}
			page, err := s.List(ctx, p, ListOptions{})
			if err != nil || len(page.Items) != 0 {
				t.Fatalf("%+v %v", page, err)
			}
			if n, err := s.Summary(ctx, p); err != nil || n != (Counts{}) {
				t.Fatal(n, err)
			}
		}
		if n := f.nodes[1].shelf.count(share.BucketRow); n != 0 {
			t.Errorf("%d rows of it are left", n)
		}
		if r := mustPut(t, s, p, "a", []byte("w"), PutOptions{}); r.Gen != 2 {
			t.Fatalf("%+v", r)
		}
		mustGet(t, f.nodes[1].store, p, "a", []byte("w"))
	})
}

// The consent to a change of policy lives a quarter of an hour; a seat that was
// away longer still gets its row.
func TestAwayDuringPolicyChange(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[4].stop()
		other := policy.Any(policy.Owner(), policy.Key(newPerson().Key.Public())).Encode()
		mustPut(t, s, p, "a", []byte("2"), PutOptions{Policy: other})
		time.Sleep(5 * time.Hour)
		f.nodes[4].start()
		settle(t, f, p, "a", 2)
		// And a retry of one in doubt after that time.
		f.set(loseTo(custody.VerbPrepare, f.nodes[3], f.nodes[4]), nil)
		third := policy.Any(policy.Owner(), policy.Key(newPerson().Key.Public())).Encode()
		_, err := s.Put(context.Background(), p, "a", []byte("3"), PutOptions{Policy: third, Timeout: 5 * time.Second})
		var d *InDoubtError
		if !errors.As(err, &d) {
			t.Fatalf("%v", explain(err))
		}
		time.Sleep(time.Hour)
		f.set(nil, nil)
		if r := mustPut(t, s, p, "a", []byte("3"), PutOptions{Policy: third}); r.Manifest != d.Manifest {
			t.Fatalf("another generation: %+v", r)
		}
	})
}

// A revoked holder of the generation before no longer counts, and the answer
// says what that means.
func TestRevokedHolder(t *testing.T) {
	bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		r := mustPut(t, s, p, "a", []byte("1"), PutOptions{N: 5, K: 3})
		settle(t, f, p, "a", 1)
		revoked := 0
		for _, seat := range r.Seats {
			if n := f.node(seat.Node); n != f.nodes[0] && revoked < 2 {
				n.stop()
				f.mu.Lock()
				n.member.Revoked = true
				f.mu.Unlock()
				revoked++
			}
		}
		time.Sleep(10 * time.Second)
		r = mustPut(t, s, p, "a", []byte("2"), PutOptions{})
		if r.Gen != 2 || !slices.ContainsFunc(r.Notes, func(n string) bool { return len(n) > 20 }) {
			t.Fatalf("%+v", r)
		}
		settle(t, f, p, "a", 2)
		mustGet(t, s, p, "a", []byte("2"))
	})
}
