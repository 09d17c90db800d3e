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
)

// answering makes a node answer one verb by itself.
func answering(verb uint64, f func(honest []byte) key.Body) func(context.Context, key.NodeID, uint64, []byte, func() ([]byte, error)) ([]byte, error) {
	return func(_ context.Context, _ key.NodeID, v uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
		out, err := call()
		if v != verb || err != nil {
			return out, err
		}
		return key.Marshal(f(out)), nil
	}
}

// Holders that lie about what there is: nothing of it is shown, and the lie
// neither hides a secret nor keeps a listing from ending.
func TestHostileListing(t *testing.T) {
	f := newFakeNet(t, 5)
	p, other := newPerson(), newPerson()
	s, ctx := f.nodes[0].store, context.Background()
	for _, name := range []string{"a", "b", "c"} {
		mustPut(t, s, p, name, []byte(name), PutOptions{})
		waitFor(t, f, p, name, 1)
	}
	mustPut(t, s, other, "foreign", []byte("x"), PutOptions{})
	waitFor(t, f, other, "foreign", 1)
	h, _ := s.secret(p, "a")
	honest := s.seatHere(ctx, h.id)
	foreign, _ := s.secret(other, "foreign")
	theirs := s.seatHere(ctx, foreign.id)
	// A higher generation that its owner signed and nobody certified.
	m := honest.m.Manifest
	m.Gen, m.Prev = 7, honest.m.Hash
	m.Label, _ = h.sealLabel(7, 1, nil, "")
	uncertified, err := share.SignManifest(p.Key, f.id, m)
	if err != nil {
		t.Fatal(err)
	}
	state := func(m *share.SignedManifest, c *certified) custody.State {
		return custody.State{Manifest: m.Bytes(), Cert: c.cert, Row: custody.RowGood, Floor: custody.Floor{Gen: 99}}
	}
	for name, items := range map[string][]custody.State{
		"nothing":               nil,
		"another person's":      {state(theirs.m, theirs)},
		"without a certificate": {state(uncertified, honest)},
		"garbage":               {{Manifest: []byte("x"), Cert: []byte("y")}, {Tombstone: []byte("z")}},
		"empty":                 {{}, {}},
	} {
		t.Run(name, func(t *testing.T) {
			lie := answering(custody.VerbList, func([]byte) key.Body {
				return &custody.ListReply{Outcome: custody.OK, Items: items, More: true, Next: key.Hash{}}
			})
			f.nodes[1].lies(lie)
			f.nodes[2].lies(lie)
			page, err := s.List(ctx, p, ListOptions{})
			if err != nil {
				t.Fatal(explain(err))
			}
			var got []string
			for _, it := range page.Items {
				got = append(got, it.Name)
				if it.Gen != 1 || it.Margin < 0 {
					t.Errorf("%+v", it)
				}
			}
			if !slices.Equal(got, []string{"a", "b", "c"}) {
				t.Errorf("%q", got)
			}
			s.counts = newSummaries()
			if n, err := s.Summary(ctx, p); err != nil || n.Secrets != 3 {
				t.Errorf("counted %d: %v", n.Secrets, err)
			}
		})
	}
	// A page that never ends, with a cursor that moves.
	var at key.Hash
	f.nodes[1].lies(answering(custody.VerbList, func([]byte) key.Body {
		at[31]++
		if at[31] == 0 {
			at[30]++
		}
		return &custody.ListReply{Outcome: custody.OK, More: true, Next: at}
	}))
	f.nodes[2].lies(nil)
	start := time.Now()
	page, err := s.List(ctx, p, ListOptions{Timeout: 300 * time.Millisecond})
	if err != nil || len(page.Items) != 3 || !slices.Contains(page.Silent, f.nodes[1].id) || time.Since(start) > 3*time.Second {
		t.Fatalf("%v %+v after %v", err, page, time.Since(start))
	}
}

// A LOCATE that lies: an uncertified higher generation, a certificate of
// another manifest, a tombstone of another secret or person.
func TestHostileLocate(t *testing.T) {
	f := newFakeNet(t, 5)
	p, other := newPerson(), newPerson()
	s, ctx := f.nodes[0].store, context.Background()
	mustPut(t, s, p, "a", []byte("v"), PutOptions{})
	waitFor(t, f, p, "a", 1)
	h, _ := s.secret(p, "a")
	b, _ := s.secret(p, "b")
	honest := s.seatHere(ctx, h.id)
	m := honest.m.Manifest
	m.Gen, m.Prev = 7, honest.m.Hash
	higher, err := share.SignManifest(p.Key, f.id, m)
	if err != nil {
		t.Fatal(err)
	}
	tomb := func(by Person, salt key.Hash, id key.Hash) []byte {
		return share.SignTombstone(by.Key, f.id, share.Tombstone{ID: id, Gen: 9, Scope: share.ScopeAll, Owner: by.Key.Public(), Salt: salt}).Encode()
	}
	foreign, _ := s.secret(other, "a")
	for name, st := range map[string]custody.State{
		"uncertified":              {Manifest: higher.Bytes(), Cert: honest.cert, Before: [][]byte{honest.m.Bytes()}, Row: custody.RowGood},
		"no certificate":           {Manifest: higher.Bytes(), Before: [][]byte{honest.m.Bytes()}},
		"tombstone of another":     {Tombstone: tomb(p, b.salt, b.id)},
		"tombstone by another":     {Tombstone: tomb(other, foreign.salt, foreign.id)},
		"tombstone with a lent id": {Tombstone: tomb(other, h.salt, h.id)},
		"pending without receipts": {Pending: []custody.Pending{{Manifest: higher.Bytes(), Receipt: []byte("x")}}},
		"a floor out of reach":     {Floor: custody.Floor{Gen: 1 << 60}},
	} {
		t.Run(name, func(t *testing.T) {
			reader := f.add("reader "+name, "op6", "z6")
			reader.member.Holder = false
			reader.start()
			lie := answering(custody.VerbLocate, func([]byte) key.Body { return &custody.LocateReply{Outcome: custody.OK, State: st} })
			f.nodes[1].lies(lie)
			f.nodes[2].lies(lie)
			if r := mustGet(t, reader.store, p, "a", []byte("v")); r.Gen != 1 {
				t.Fatalf("generation %d", r.Gen)
			}
			i, err := reader.store.Info(ctx, p, "a")
			if err != nil || i.Gen != 1 {
				t.Fatalf("%+v %v", i, explain(err))
			}
		})
	}
}

// Receipts of a delete count only when they are over this tombstone by this
// node.
func TestHostileDelete(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[1].lies(answering(custody.VerbDelete, func(honest []byte) key.Body {
			r := new(custody.DeleteReply)
			if key.Unmarshal(honest, r) != nil {
				t.Error("no honest answer")
			}
			o, _ := key.DecodeObject(r.Receipt)
			rc, err := share.OpenReceipt(f.id, key.TypeCommitted, o)
			if err != nil {
				t.Error(err)
			}
			rc.Manifest[5] ^= 1
			r.Receipt = share.SignReceipt(f.nodes[1].key, f.id, key.TypeCommitted, rc).Encode()
			return r
		}))
		f.nodes[2].lies(answering(custody.VerbDelete, func(honest []byte) key.Body {
			return &custody.DeleteReply{Outcome: custody.Refused, Why: "no"}
		}))
		r, err := f.nodes[0].store.Delete(context.Background(), p, "a", DeleteOptions{})
		if err != nil || r.Done || len(r.Missing) != 2 || names(r.Seats, "bad") != "n2" || names(r.Seats, "refused") != "n3" {
			t.Fatalf("%+v %v", r, explain(err))
		}
		f.nodes[1].lies(nil)
		f.nodes[2].lies(nil)
		time.Sleep(10 * time.Minute)
		if n := f.nodes[0].shelf.count(share.BucketJournal); n != 0 {
			t.Fatalf("%d journal records left", n)
		}
		// Nobody answers: that is in doubt, and goes on.
		mustPut(t, f.nodes[0].store, p, "b", []byte("v"), PutOptions{})
		settle(t, f, p, "b", 1)
		f.set(func(_, _ key.NodeID, verb uint64) error {
			if verb == custody.VerbDelete {
				return errLost
			}
			return nil
		}, nil)
		reader := f.add("client", "op6", "z6")
		reader.member.Holder = false
		reader.start()
		_, err = reader.store.Delete(context.Background(), p, "b", DeleteOptions{})
		var d *InDoubtError
		if !errors.As(err, &d) || d.Op != "delete" {
			t.Fatalf("%v", explain(err))
		}
		f.set(nil, nil)
		time.Sleep(10 * time.Minute)
		if _, err := f.nodes[3].store.Recover(context.Background(), p, "b", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%v", explain(err))
		}
	})
}
