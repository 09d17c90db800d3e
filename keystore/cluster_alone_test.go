package keystore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// consented5 is a network of seven with a secret 3-of-5 on the first five whose
// policy wants a and b, so not its owner, whose key is stolen.
func consented5(t *testing.T, test func(t *testing.T, f *fakeNet, p Person, by [2]Person, put PutResult)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 7)
		p, a, b := newPerson(), newPerson(), newPerson()
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		both := policy.All(policy.Key(a.Key.Public()), policy.Key(b.Key.Public()))
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: seats, Policy: both.Encode()})
		settle(t, f, p, "a", put.Gen)
		test(t, f, p, [2]Person{a, b}, put)
	})
}

// orders are the Reassigns of seats of c by its owner, each to another node.
func orders(t *testing.T, f *fakeNet, p Person, c *stored, to ...key.NodeID) [][]byte {
	t.Helper()
	var out [][]byte
	for i, node := range to {
		b, err := share.JoinReassign(share.SignReassign(p.Key, f.id, share.Reassign{Manifest: c.Hash, X: c.Seats[i].X, Seq: 1, Old: c.Seats[i].Node, New: node, Time: unix()}))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// tellMoves sends a node the certificate of c with Reassigns.
func tellMoves(t *testing.T, n *fakeNode, from key.NodeID, verb uint64, c *stored, moves ...[]byte) *custody.CommitReply {
	t.Helper()
	q := &custody.Commit{Manifest: c.Bytes(), Cert: c.cert, Before: bytesOf(c.before), Reassigns: moves}
	out, err := n.store.Answer(context.Background(), from, verb, key.Marshal(q))
	reply := new(custody.CommitReply)
	if err != nil || key.Unmarshal(out, reply) != nil {
		t.Fatal(err)
	}
	return reply
}

// askValue asks a helper for its value of a seat, as the node.
func askValue(t *testing.T, n *fakeNode, as key.NodeID, c *stored, x uint8) *custody.RepairReply {
	t.Helper()
	out, err := n.store.Answer(context.Background(), as, custody.VerbRepair, key.Marshal(&custody.Repair{ID: c.ID, Manifest: c.Hash, Epoch: c.epoch, X: x}))
	reply := new(custody.RepairReply)
	if err != nil || key.Unmarshal(out, reply) != nil {
		t.Fatal(err)
	}
	return reply
}

// Who has the owner's key alone, of a policy that wants others, gets no value of
// any seat, however it tells the holders that seats are its own now.
func TestReassignReads(t *testing.T) {
	consented5(t, func(t *testing.T, f *fakeNet, p Person, _ [2]Person, put PutResult) {
		c := f.nodes[0].state(t, put.ID).committed
		thieves := []key.NodeID{f.nodes[5].id, f.nodes[6].id, key.GenerateNode().ID()}
		moves := orders(t, f, p, c, thieves...)
		for i, thief := range thieves {
			for _, n := range f.nodes[:5] {
				for _, verb := range []uint64{custody.VerbCommit, custody.VerbReassign} {
					tellMoves(t, n, f.nodes[5].id, verb, c, moves[i])
					tellMoves(t, n, f.nodes[5].id, verb, c, moves...)
				}
				if r := askValue(t, n, thief, c, c.Seats[i].X); r.Outcome != custody.Refused || len(r.Value)+len(r.Payload) != 0 {
					t.Errorf("%s gave its value for seat %d: %+v", n.member.Name, c.Seats[i].X, r.Outcome)
				}
				if s := n.state(t, put.ID); len(s.moves) != 0 {
					t.Errorf("%s has taken in %d", n.member.Name, len(s.moves))
				}
			}
		}
		time.Sleep(3 * time.Hour)
		if rowsAt(f.nodes[5], f.nodes[6]) != 0 || rowsAt(f.nodes[:5]...) != 5 {
			t.Fatal("a row was moved")
		}
	})
}

// Nor does a holder that lies make a reader or a receipt believe one.
func TestReassignNotBelieved(t *testing.T) {
	consented5(t, func(t *testing.T, f *fakeNet, p Person, _ [2]Person, put PutResult) {
		c := f.nodes[0].state(t, put.ID).committed
		moves := orders(t, f, p, c, f.nodes[5].id)
		f.nodes[1].lies(func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			var r custody.LocateReply
			if verb != custody.VerbLocate || err != nil || key.Unmarshal(out, &r) != nil {
				return out, err
			}
			r.Reassigns = moves
			return key.Marshal(&r), nil
		})
		v := mustVerify(t, f.nodes[6].store, p, "a")
		if v.Good != 5 || v.state("n6") != "none" {
			t.Fatalf("%+v", v)
		}
		if holds := seating(f.id, c.SignedManifest, nil, moves); holds(c.Seats[0].X, f.nodes[5].id) || !holds(c.Seats[0].X, c.Seats[0].Node) {
			t.Fatal("a release of the thief's node would count")
		}
	})
}

// A receipt that shows a release of the thief's node proves nothing, though the
// words in it satisfy the policy.
func TestReceiptNotBelieved(t *testing.T) {
	consented5(t, func(t *testing.T, f *fakeNet, p Person, by [2]Person, put PutResult) {
		c := f.nodes[0].state(t, put.ID).committed
		raw := orders(t, f, p, c, f.nodes[5].id)[0]
		mv, err := share.OpenReassign(f.id, raw, c.SignedManifest)
		if err != nil {
			t.Fatal(err)
		}
		k, err := seal.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		r := share.SignRequest(by[0].Key, f.id, share.Request{ID: c.ID, Gen: c.Gen, Verb: share.VerbRecover, Ephemeral: k.Public(), Created: unix(), Expires: unix() + share.RequestLife})
		yes := share.SignApproval(by[1].Key, f.id, share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Expires}).Encode()
		receipt := func(first *fakeNode, moves ...*share.SignedReassign) []byte {
			var releases [][]byte
			for i, n := range []*fakeNode{first, f.node(c.Seats[1].Node), f.node(c.Seats[2].Node)} {
				releases = append(releases, share.SignRelease(n.key, f.id, share.Release{Request: r.Hash, Manifest: c.Hash, X: c.Seats[i].X}).Encode())
			}
			return share.PackBundle(f.id, c.SignedManifest, r, [][]byte{yes}, releases, moves...)
		}
		if _, err := VerifyReceipt(receipt(f.node(c.Seats[0].Node))); err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyReceipt(receipt(f.nodes[5], mv)); !errors.Is(err, share.ErrBundle) || !strings.Contains(err.Error(), "given seats away") {
			t.Error(err)
		}
	})
}

// The owner learns why it cannot move them, and what it can do.
func TestRepairNotAlone(t *testing.T) {
	consented5(t, func(t *testing.T, f *fakeNet, p Person, _ [2]Person, put PutResult) {
		refused := func(what string) {
			t.Helper()
			_, err := f.nodes[0].store.Repair(context.Background(), p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
			if !errors.Is(err, ErrNotAlone) || !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "reshare") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{}); r.Good != 5 || len(r.Moved) != 0 {
			t.Fatalf("%+v", r)
		}
		m, err := f.nodes[0].store.Move(context.Background(), p, f.nodes[3].id, key.NodeID{}, nil)
		if err != nil || m.Moved != 0 || len(m.Failed) != 1 || m.Denied != 1 || !strings.Contains(m.Failed[0].Why, "reshare") {
			t.Fatalf("%+v %v", m, err)
		}
		f.nodes[4].stop()
		refused("a holder is gone")
		if rowsAt(f.nodes[5], f.nodes[6]) != 0 {
			t.Fatal("a row was moved")
		}
	})
}

// The old holder of a seat gets no value for it of a generation that is history:
// who holds its seats is forgotten with the next one.
func TestRepairOldHolderHistory(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}})
		c := f.nodes[0].state(t, put.ID).committed
		keep := 1
		next := mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{Keep: &keep})
		settle(t, f, p, "a", next.Gen)
		kept := 0
		for _, n := range f.nodes[:4] {
			if s := n.state(t, put.ID); len(s.history) == 1 && s.history[0].row {
				kept++
			}
			if a := askValue(t, n, f.nodes[4].id, c, r.Moved[0].X); a.Outcome == custody.OK || len(a.Value) != 0 {
				t.Errorf("%s gave its value", n.member.Name)
			}
		}
		if kept == 0 {
			t.Fatal("nothing is kept")
		}
	})
}

// Signatures of nodes that never had a seat cost the holder nothing.
func TestReassignSignersBounded(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		c := f.nodes[0].state(t, put.ID).committed
		x := c.SeatOf(f.nodes[4].id).X
		r := share.Reassign{Manifest: c.Hash, X: x, Seq: 1, Old: f.nodes[4].id, New: c.Standby[0]}
		var strangers, seats []key.Object
		for range 4 {
			strangers = append(strangers, share.SignReassign(key.GenerateNode(), f.id, r))
		}
		for _, n := range f.nodes[:4] {
			seats = append(seats, share.SignReassign(n.key, f.id, r))
		}
		join := func(o ...key.Object) []byte {
			b, err := share.JoinReassign(o...)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		// Broken signatures show whether any was looked at.
		p1 := share.NewPlacement(c.SignedManifest, true)
		for name, b := range map[string][]byte{"of strangers": flipLast(join(strangers...)), "with strangers": flipLast(join(append(strangers, seats...)...)), "too few": flipLast(join(seats[:3]...))} {
			if got, err := p1.Open(f.id, b); got != nil || err != nil {
				t.Errorf("%s: %v %v", name, got, err)
			}
		}
		if got, err := p1.Open(f.id, flipLast(join(seats...))); got != nil || !errors.Is(err, share.ErrReassign) {
			t.Error("w seats with a broken signature", err)
		}
		if got, err := p1.Open(f.id, join(seats...)); got == nil || err != nil || p1.Holder(x) != c.Standby[0] {
			t.Error("w seats", err)
		}
		if got, err := p1.Open(f.id, join(seats...)); got != nil || err != nil {
			t.Error("again", err)
		}
		if reply := tellMoves(t, f.nodes[0], f.nodes[5].id, custody.VerbCommit, c, join(strangers...)); reply.Outcome != custody.OK || len(f.nodes[0].state(t, put.ID).moves) != 0 {
			t.Errorf("%+v", reply)
		}
	})
}
