package keystore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

func mustRepair(t *testing.T, s *Store, p Person, name string, o RepairOptions) *Repaired {
	t.Helper()
	r, err := s.Repair(context.Background(), p, name, o)
	if err != nil {
		t.Fatal(explain(err))
	}
	return r
}

// moved is a network of seven with a secret 3-of-5 on the first five, of which
// the fifth is gone for good.
func gone5(t *testing.T, test func(t *testing.T, f *fakeNet, p Person, put PutResult)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 7)
		p := newPerson()
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: seats})
		settle(t, f, p, "a", put.Gen)
		f.nodes[4].stop()
		test(t, f, p, put)
	})
}

// The seat of a node that is gone goes to a standby, five good seats are back,
// everyone reads, and the next put goes on from there.
func TestRepairMoves(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		// Nobody knows yet that it is gone: nothing moves by itself.
		if r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{}); len(r.Moved) != 0 || r.Good != 4 {
			t.Fatalf("%+v", r)
		}
		f.nodes[4].revoke()
		tp := f.record()
		secret := never(t, &fakeNet{nodes: f.nodes[:4]}, put.ID, []byte("no value is so long"))
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{})
		if len(r.Moved) != 1 || r.Good != 5 || r.N != 5 || r.Moved[0].From != f.nodes[4].id {
			t.Fatalf("%+v", r)
		}
		for _, m := range tp.msgs {
			for what, b := range secret {
				if bytes.Contains(m, b) {
					t.Fatalf("%s is on the wire", what)
				}
			}
		}
		to := f.node(r.Moved[0].To)
		if to != f.nodes[5] && to != f.nodes[6] {
			t.Fatalf("moved to %s", to.member.Name)
		}
		mustGet(t, to.store, p, "a", []byte("v"))
		mustGet(t, f.nodes[6].store, p, "a", []byte("v"))
		for _, i := range []int{1, 2} { // its row counts
			f.nodes[i].store.PauseRepair(context.Background(), true)
			for pl := range f.nodes[i].shelf.dump(share.BucketRow) {
				if err := f.nodes[i].shelf.Commit(context.Background(), share.Record{Place: pl}); err != nil {
					t.Fatal(err)
				}
			}
		}
		// Its word that nothing is newer does not count: by its number then.
		var few *QuorumError
		if _, err := f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.As(err, &few) {
			t.Fatal(err)
		}
		g, err := f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{Gen: put.Gen})
		if err != nil || string(g.Value) != "v" {
			t.Fatal(explain(err))
		}
		if len(g.Used) != 3 || !containsNode(g.Used, to.id) {
			t.Fatalf("%+v", g.Used)
		}
		if _, err := VerifyReceipt(g.Receipt); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, 2} {
			f.nodes[i].store.PauseRepair(context.Background(), false)
		}
		good(t, f, p, "a", 5, time.Hour)
		info, err := f.nodes[0].store.Info(context.Background(), p, "a")
		if err != nil || names(info.Seats, "good") != "n1 n2 n3 n4 "+to.member.Name {
			t.Fatalf("%+v %v", info.Seats, err)
		}
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{})
		settle(t, f, p, "a", next.Gen)
		for _, n := range f.nodes {
			if n == f.nodes[4] {
				continue
			}
			mustGet(t, n.store, p, "a", []byte("w"))
			if n.shelf.count(share.BucketRow) > 1 {
				t.Fatalf("%s still has the row of before", n.member.Name)
			}
		}
		if s := to.state(t, put.ID); s.committed == nil || s.committed.Gen != next.Gen || len(s.moves) != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func containsNode(list []key.NodeID, id key.NodeID) bool {
	for _, n := range list {
		if n == id {
			return true
		}
	}
	return false
}

// The old holder, when it returns, sees that its seat was given away, deletes
// its row, says so, and is not asked any more.
func TestRepairOldReturns(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		if len(r.Moved) != 1 || r.Good != 5 || r.Moved[0].To != f.nodes[6].id {
			t.Fatalf("%+v", r)
		}
		old := f.nodes[4]
		old.audit = &fakeAudit{}
		old.start()
		if old.shelf.count(share.BucketRow) != 1 {
			t.Fatal("gone before it returned")
		}
		mustGet(t, old.store, p, "a", []byte("v"))
		time.Sleep(2 * time.Hour)
		if n := old.shelf.count(share.BucketRow) + old.shelf.count(share.BucketPayload); n != 0 || old.audit.count("leave") != 1 {
			t.Fatalf("%d records, %v", n, old.audit.kinds())
		}
		v := good(t, f, p, "a", 5, time.Hour)
		if v.state("n5") != "none" || v.state("n7") != "good" {
			t.Fatalf("%+v", v)
		}
		mustGet(t, old.store, p, "a", []byte("v"))
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{})
		if next.Acked < 4 {
			t.Fatalf("%+v", next)
		}
	})
}

// The row stays at its old holder as long as the new one has not shown that it
// has it.
func TestRepairOldKeepsUntilShown(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		f.nodes[6].store.PauseRepair(context.Background(), true)
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		if r.Good != 4 || len(r.Moved) != 1 {
			t.Fatalf("%+v", r)
		}
		f.nodes[4].start()
		time.Sleep(12 * time.Hour)
		if f.nodes[4].shelf.count(share.BucketRow) != 1 {
			t.Fatal("deleted, and nobody else has it")
		}
		f.nodes[6].store.PauseRepair(context.Background(), false)
		good(t, f, p, "a", 5, 3*time.Hour)
		time.Sleep(3 * time.Hour)
		if f.nodes[4].shelf.count(share.BucketRow) != 0 {
			t.Fatal("still there")
		}
	})
}

// Two at once: both go to other nodes.
func TestRepairMovesTwo(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		f.nodes[3].stop()
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[5].id, f.nodes[6].id}})
		if len(r.Moved) != 2 || r.Good != 5 || len(r.Notes) == 0 {
			t.Fatalf("%+v", r)
		}
		mustGet(t, f.nodes[5].store, p, "a", []byte("v"))
		// Both of the old ones are removed from the network: puts go on.
		f.nodes[3].revoke()
		f.nodes[4].revoke()
		time.Sleep(time.Minute)
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{})
		settle(t, f, p, "a", next.Gen)
		mustGet(t, f.nodes[6].store, p, "a", []byte("w"))
	})
}

// A node that has or had another seat never gets one, and one seat an operator
// holds for moves as for puts.
func TestRepairToUnfit(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		for name, to := range map[string]key.NodeID{"a seat": f.nodes[1].id, "nobody": {9}, "itself": f.nodes[4].id} {
			if _, err := f.nodes[0].store.Repair(context.Background(), p, "a", RepairOptions{To: []key.NodeID{to}}); !errors.Is(err, ErrInput) {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.nodes[5].member.Operator = "op1"
		if _, err := f.nodes[0].store.Repair(context.Background(), p, "a", RepairOptions{To: []key.NodeID{f.nodes[5].id}}); !errors.Is(err, ErrInput) {
			t.Errorf("the operator of another seat: %v", err)
		}
		if r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}}); r.Good != 5 {
			t.Fatalf("%+v", r)
		}
	})
}

// Forged, void, replayed and foreign Reassigns move nothing, nor does any of
// them make a helper give its value to a node that is not the holder.
func TestReassignForged(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		thief := f.nodes[6]
		c := f.nodes[0].state(t, put.ID).committed
		x := c.SeatOf(f.nodes[4].id).X
		base := share.Reassign{Manifest: c.Hash, X: x, Seq: 1, Old: f.nodes[4].id, New: thief.id, Time: unix()}
		edit := func(f func(*share.Reassign)) share.Reassign { r := base; f(&r); return r }
		join := func(o ...key.Object) []byte {
			b, err := share.JoinReassign(o...)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		owner := func(r share.Reassign) []byte { return join(share.SignReassign(p.Key, f.id, r)) }
		stranger := newPerson()
		var seats []key.Object
		for _, n := range f.nodes[:4] {
			seats = append(seats, share.SignReassign(n.key, f.id, base))
		}
		forged := map[string][]byte{
			"by a stranger":        join(share.SignReassign(stranger.Key, f.id, base)),
			"by the thief":         join(share.SignReassign(thief.key, f.id, base)),
			"by w seats":           join(seats...), // the owner allows no quorum
			"another network":      join(share.SignReassign(p.Key, key.NetworkID{1}, base)),
			"another manifest":     owner(edit(func(r *share.Reassign) { r.Manifest[3] ^= 1 })),
			"x = 0":                owner(edit(func(r *share.Reassign) { r.X = 0 })),
			"wrong previous":       owner(edit(func(r *share.Reassign) { r.Seq, r.Prev = 2, key.Hash{1} })),
			"not from the holder":  owner(edit(func(r *share.Reassign) { r.Old = f.nodes[3].id })),
			"to one with a seat":   owner(edit(func(r *share.Reassign) { r.New = f.nodes[3].id })),
			"a signature is wrong": flipLast(owner(base)),
		}
		send := func(b []byte) {
			for _, n := range []*fakeNode{f.nodes[0], f.nodes[1], f.nodes[2], f.nodes[3], thief} {
				q := &custody.Commit{Manifest: c.Bytes(), Cert: c.cert, Before: bytesOf(c.before), Reassigns: [][]byte{b}}
				for _, verb := range []uint64{custody.VerbReassign, custody.VerbCommit} {
					if _, err := n.store.Answer(context.Background(), f.nodes[5].id, verb, key.Marshal(q)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		steal := func(name string) {
			t.Helper()
			for _, n := range f.nodes[:4] {
				if len(n.state(t, put.ID).moves) != 0 {
					t.Errorf("%s: taken in by %s", name, n.member.Name)
				}
				out, err := n.store.Answer(context.Background(), thief.id, custody.VerbRepair, key.Marshal(&custody.Repair{ID: put.ID, Manifest: c.Hash, X: x}))
				var r custody.RepairReply
				if err != nil || key.Unmarshal(out, &r) != nil || r.Outcome == custody.OK || len(r.Value) != 0 {
					t.Errorf("%s: %s gave its value", name, n.member.Name)
				}
			}
		}
		for name, b := range forged {
			send(b)
			time.Sleep(time.Minute)
			steal(name)
		}
		if thief.shelf.count(share.BucketRow) != 0 {
			t.Fatal("the thief has a row")
		}
		// A good one of a generation that was overwritten is void.
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{Holders: []key.NodeID{f.nodes[0].id, f.nodes[1].id, f.nodes[2].id, f.nodes[3].id, f.nodes[5].id}})
		settle(t, f, p, "a", next.Gen)
		send(owner(base))
		time.Sleep(time.Hour)
		steal("of a generation before")
		if thief.shelf.count(share.BucketRow) != 0 {
			t.Fatal("the thief has a row of before")
		}
	})
}

func flipLast(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

// A seat that was given back and forth is where the last says; an old Reassign
// that is replayed changes nothing.
func TestReassignReplayed(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[5].id}})
		first := f.nodes[0].state(t, put.ID)
		old := first.moveBytes(first.committed.version)
		f.nodes[5].stop()
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		if r.Good != 5 || len(r.Moved) != 1 || r.Moved[0].From != f.nodes[5].id {
			t.Fatalf("%+v", r)
		}
		c := first.committed
		q := key.Marshal(&custody.Commit{Manifest: c.Bytes(), Cert: c.cert, Before: bytesOf(c.before), Reassigns: old})
		for _, n := range f.nodes[:4] {
			if _, err := n.store.Answer(context.Background(), f.nodes[6].id, custody.VerbReassign, q); err != nil {
				t.Fatal(err)
			}
			s := n.state(t, put.ID)
			if len(s.moves) != 2 || s.holderOf(s.committed.version, r.Moved[0].X) != f.nodes[6].id {
				t.Fatalf("%+v", s.moves)
			}
		}
		f.nodes[5].start()
		time.Sleep(4 * time.Hour)
		if f.nodes[5].shelf.count(share.BucketRow) != 0 {
			t.Fatal("the node in between keeps its row")
		}
	})
}

// A node that lies about a seat it was given is found out, and a helper asked by
// the old holder says where the seat is now.
func TestRepairMovedAnswer(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		out, err := f.nodes[0].store.Answer(context.Background(), f.nodes[4].id, custody.VerbRepair,
			key.Marshal(&custody.Repair{ID: put.ID, Manifest: put.Manifest, X: r.Moved[0].X}))
		var a custody.RepairReply
		if err != nil || key.Unmarshal(out, &a) != nil || a.Outcome != custody.Moved || len(a.Reassigns) != 1 || len(a.Value) != 0 {
			t.Fatalf("%+v %v", a, err)
		}
		// It lost its disk as well: what others tell it makes it no holder again.
		f.nodes[4].wipe(share.BucketState, share.BucketRow, share.BucketPayload)
		time.Sleep(4 * time.Hour)
		if f.nodes[4].shelf.count(share.BucketRow) != 0 {
			t.Fatal("a row of a seat that is another's")
		}
		info, err := f.nodes[0].store.Info(context.Background(), p, "a")
		if err != nil || !strings.Contains(info.StuckIf, "seats were moved") {
			t.Fatalf("%q %v", info.StuckIf, err)
		}
		if !strings.Contains(strings.Join(r.Notes, " "), "none is possible") {
			t.Fatalf("%v", r.Notes)
		}
	})
}

// A node that had a seat of the generation before, and let it go, can be given
// one of this generation.
func TestRepairToFormerHolder(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		var seats []key.NodeID
		for _, i := range []int{0, 1, 2, 5, 6} {
			seats = append(seats, f.nodes[i].id)
		}
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{Holders: seats})
		settle(t, f, p, "a", next.Gen)
		f.nodes[6].stop()
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[3].id}})
		if r.Good != 5 || r.Gen != next.Gen {
			t.Fatalf("%+v", r)
		}
	})
}
