package keystore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// quorum5 is a network of seven with a secret 3-of-5 that its seats may repair,
// of which the fifth holder is gone for good. The owner does nothing any more.
func quorum5(t *testing.T, test func(t *testing.T, f *fakeNet, p Person, put PutResult)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 7)
		p := newPerson()
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: seats, Repair: pointer(uint8(share.RepairQuorum))})
		settle(t, f, p, "a", put.Gen)
		time.Sleep(2 * time.Hour)
		f.nodes[4].stop()
		test(t, f, p, put)
	})
}

func pointer[T any](v T) *T { return &v }

// rows is how many of the nodes have a row.
func rowsAt(nodes ...*fakeNode) int {
	n := 0
	for _, node := range nodes {
		n += node.shelf.count(share.BucketRow)
	}
	return n
}

// With no owner online the seats give the seat of a holder that is silent for a
// day to a standby, a day later it has the row, and not before.
func TestQuorumMoves(t *testing.T) {
	long(t)
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		time.Sleep(22 * time.Hour)
		for _, n := range f.nodes[:4] {
			if s := n.state(t, put.ID); len(s.moves)+len(s.votes) != 0 {
				t.Fatal("moved before a day of silence")
			}
		}
		time.Sleep(5 * time.Hour)
		for _, n := range f.nodes[:4] {
			s := n.state(t, put.ID)
			if len(s.moves) != 1 || s.moves[0].active || len(s.votes) != 1 || s.holderOf(s.committed.version, s.moves[0].X) != f.nodes[4].id {
				t.Fatalf("%s: %+v %+v", n.member.Name, s.moves, s.votes)
			}
		}
		time.Sleep(18 * time.Hour)
		if rowsAt(f.nodes[5], f.nodes[6]) != 0 {
			t.Fatal("a value was given before the owner's day is over")
		}
		time.Sleep(9 * time.Hour)
		v := mustVerify(t, f.nodes[0].store, p, "a")
		if v.Good != 5 || rowsAt(f.nodes[5], f.nodes[6]) != 1 {
			t.Fatalf("%+v", v)
		}
		f.nodes[4].start()
		time.Sleep(28 * time.Hour) // it sees the Reassign as late as that
		if rowsAt(f.nodes[4]) != 0 {
			t.Fatal("the old holder keeps its row")
		}
		mustGet(t, f.nodes[0].store, p, "a", []byte("v"))
	})
}

// The owner's veto within the day keeps the row where it is.
func TestQuorumVeto(t *testing.T) {
	long(t)
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		time.Sleep(28 * time.Hour)
		stranger := newPerson()
		x := f.nodes[0].state(t, put.ID).moves[0]
		forged := share.SignApproval(stranger.Key, f.id, share.Approval{Subject: x.Hash, Verdict: share.VerdictVeto, Expires: unix() + 3600})
		out, err := f.nodes[0].store.Answer(context.Background(), f.nodes[6].id, custody.VerbPoll, key.Marshal(&custody.Poll{ID: put.ID, Veto: forged.Encode()}))
		var reply custody.PollReply
		if err != nil || key.Unmarshal(out, &reply) != nil || reply.Outcome != custody.Denied || len(f.nodes[0].state(t, put.ID).moves) != 1 {
			t.Fatalf("a stranger's veto: %+v %v", reply, err)
		}
		moves, at, err := f.nodes[1].store.VetoMoves(context.Background(), p, "a", 0)
		if err != nil || len(moves) != 1 || at < 4 {
			t.Fatalf("%+v %d %v", moves, at, err)
		}
		time.Sleep(72 * time.Hour)
		if rowsAt(f.nodes[5], f.nodes[6]) != 0 {
			t.Fatal("given in spite of the veto")
		}
		if r := mustRepair(t, f.nodes[0].store, p, "a", RepairOptions{To: []key.NodeID{f.nodes[6].id}}); r.Good != 5 {
			t.Fatalf("%+v", r)
		}
	})
}

// A seat signs one Reassign for each seat and seq, only what it would name
// itself, only of a seat it suspects, and only where the owner allows it.
func TestQuorumVotes(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		s := f.nodes[0].state(t, put.ID)
		e := s.committed
		x := e.SeatOf(f.nodes[4].id).X
		all := quorumFacts{suspect: func(uint8) bool { return true }, reached: func(key.NodeID) bool { return true }}
		facts := f.nodes[0].store.cust.facts(f.nodes[1].id)
		want := s.names(facts, all, x)
		if want == nil || want.New != e.Standby[0] || want.Time != 0 {
			t.Fatalf("%+v", want)
		}
		r, signed := s.vote(facts, all, x, 1, want.New)
		if r.outcome != custody.OK || signed == nil || r.next == nil {
			t.Fatalf("%+v", r)
		}
		if again, same := r.next.vote(facts, all, x, 1, want.New); again.outcome != custody.OK || again.next != nil || string(key.Marshal(same)) != string(key.Marshal(signed)) {
			t.Fatal("the same again")
		}
		second := quorumFacts{suspect: all.suspect, reached: func(n key.NodeID) bool { return n != want.New }}
		for name, got := range map[string]stepResult{
			"another of that seq":   first(r.next.vote(facts, second, x, 1, e.Standby[1])),
			"what it does not name": first(s.vote(facts, all, x, 1, e.Standby[1])),
			"another seq":           first(s.vote(facts, all, x, 2, want.New)),
			"its own seat":          first(s.vote(facts, all, e.x, 1, want.New)),
			"x = 0":                 first(s.vote(facts, all, 0, 1, want.New)),
			"a seat it trusts":      first(s.vote(facts, quorumFacts{suspect: func(uint8) bool { return false }, reached: all.reached}, x, 1, want.New)),
		} {
			if got.outcome == custody.OK || got.next != nil {
				t.Errorf("%s is signed", name)
			}
		}
		ask := func(from *fakeNode, q custody.Poll) custody.PollReply {
			out, err := f.nodes[0].store.Answer(context.Background(), from.id, custody.VerbPoll, key.Marshal(&q))
			var reply custody.PollReply
			if err != nil || key.Unmarshal(out, &reply) != nil {
				t.Fatal(err)
			}
			return reply
		}
		q := custody.Poll{ID: put.ID, Manifest: e.Hash, X: x, Seq: 1, New: want.New}
		if got := ask(f.nodes[6], q); got.Outcome != custody.Refused || len(got.Signed) != 0 {
			t.Errorf("a stranger's poll: %+v", got)
		}
		if got := ask(f.nodes[1], q); got.Outcome == custody.OK || len(got.Signed) != 0 {
			t.Errorf("of a seat that is not suspect: %+v", got)
		}
	})
}

func first(r stepResult, _ *share.Reassign) stepResult { return r }
