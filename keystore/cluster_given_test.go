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

// charged is what an operator pays for at a node.
func charged(n *fakeNode, operator string) usage {
	x := n.store.cust.index
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.used[payer{operator: operator}]
}

// given6 is a network of seven with a secret of half a megabyte on the first
// five, and a Reassign by its owner of the first one's seat to the sixth.
func given6(t *testing.T, test func(t *testing.T, f *fakeNet, p Person, c *stored, moves [][]byte)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 7)
		p := newPerson()
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		put := mustPut(t, f.nodes[0].store, p, "a", make([]byte, 1<<19), PutOptions{Holders: seats})
		settle(t, f, p, "a", put.Gen)
		c := f.nodes[1].state(t, put.ID).committed
		b, err := share.JoinReassign(share.SignReassign(p.Key, f.id, share.Reassign{Manifest: c.Hash, X: c.SeatOf(f.nodes[0].id).X, Seq: 1, Old: f.nodes[0].id, New: f.nodes[5].id, Time: unix()}))
		if err != nil {
			t.Fatal(err)
		}
		test(t, f, p, c, [][]byte{b})
	})
}

// A seat that a node was given is in the quota of none of those who passed that
// on, and only as far as there is room for such seats: else it refuses it.
func TestGivenSeatQuota(t *testing.T) {
	for _, room := range []bool{true, false} {
		given6(t, func(t *testing.T, f *fakeNet, p Person, c *stored, moves [][]byte) {
			to := f.nodes[5]
			if !room {
				to.store.cust.index.limits.Bytes = 4 << 20 // a sixteenth is less than the secret
			}
			f.nodes[0].stop()
			if r := tellMoves(t, f.nodes[1], f.nodes[6].id, custody.VerbCommit, c, moves...); r.Outcome != custody.OK {
				t.Fatalf("%+v", r)
			}
			time.Sleep(3 * time.Hour)
			for _, operator := range []string{"op1", "op2", "op3", "op4", "op5", "op6", "op7"} {
				if u := charged(to, operator); u != (usage{}) {
					t.Errorf("%s pays %+v", operator, u)
				}
			}
			u := charged(to, givenAway)
			if room && (u.secrets != 1 || u.bytes < 1<<19 || rowsAt(to) != 1) {
				t.Errorf("%+v", u)
			}
			if !room && (u != (usage{}) || rowsAt(to) != 0) {
				t.Errorf("no room, and taken: %+v", u)
			}
			if room {
				return
			}
			// Whoever orders it pays for it, as for a PREPARE.
			if r := tellMoves(t, to, f.nodes[1].id, custody.VerbReassign, c, moves...); r.Outcome == custody.Full {
				t.Fatalf("%+v", r)
			}
			time.Sleep(time.Hour)
			if u := charged(to, "op2"); u.secrets != 1 || u.bytes < 1<<19 || rowsAt(to) != 1 {
				t.Errorf("%+v, %d rows", u, rowsAt(to))
			}
		})
	}
}

// A node that is being drained takes none.
func TestGivenSeatDrained(t *testing.T) {
	given6(t, func(t *testing.T, f *fakeNet, p Person, c *stored, moves [][]byte) {
		to := f.nodes[5]
		if err := to.store.Drain(context.Background(), p, to.id, true); err != nil {
			t.Fatal(err)
		}
		if r := tellMoves(t, to, f.nodes[1].id, custody.VerbReassign, c, moves...); r.Outcome != custody.Full || !to.state(t, c.ID).nothing() {
			t.Fatalf("%+v", r)
		}
		tellMoves(t, f.nodes[1], f.nodes[6].id, custody.VerbCommit, c, moves...)
		time.Sleep(3 * time.Hour)
		if rowsAt(to) != 0 || rowsAt(f.nodes[0]) != 1 {
			t.Fatal("it has taken it")
		}
	})
}

// A seat whose disk was put back signs no Reassign before it has heard what it
// may have signed.
func TestQuorumRestoredVotes(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		n := f.nodes[0]
		s := n.state(t, put.ID)
		x := s.committed.SeatOf(f.nodes[4].id).X
		facts := n.store.cust.facts(n.id)
		q := quorumFacts{suspect: func(uint8) bool { return true }, reached: func(key.NodeID) bool { return true }}
		want := s.names(facts, q, x)
		if want == nil {
			t.Fatal("it names nobody")
		}
		facts.restored = 1
		if got := s.names(facts, q, x); got != nil {
			t.Errorf("names %+v", got)
		}
		if r, signed := s.vote(facts, q, x, 1, want.New); r.outcome == custody.OK || signed != nil {
			t.Error("signs")
		}
	})
}

// A seat signs for one other seat a day, and never for two to the same node;
// also after it was started anew.
func TestQuorumVotesADay(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		n := f.nodes[0]
		s := n.state(t, put.ID)
		facts := n.store.cust.facts(n.id)
		q := quorumFacts{suspect: func(uint8) bool { return true }, reached: func(key.NodeID) bool { return true }}
		reload := func(s *secretState) *secretState {
			t.Helper()
			var r stateRecord
			if err := key.Unmarshal(key.Marshal(s.record()), &r); err != nil {
				t.Fatal(err)
			}
			out, err := stateOf(f.id, put.ID, &r, func(b []byte) (*version, error) { return readVersion(f.id, b) })
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		to := make(map[key.NodeID]uint8)
		signAll := func() (signed int) {
			for _, seat := range s.committed.Seats {
				w := s.names(facts, q, seat.X)
				if w == nil {
					continue
				}
				r, _ := s.vote(facts, q, seat.X, w.Seq, w.New)
				if r.outcome != custody.OK || r.next == nil {
					continue
				}
				signed++
				if other := to[w.New]; other != 0 {
					t.Errorf("seats %d and %d to one node", other, seat.X)
				}
				to[w.New] = seat.X
				s = reload(r.next)
			}
			return signed
		}
		for day := range 2 {
			if got := signAll(); got != 1 {
				t.Fatalf("day %d: %d signed", day, got)
			}
			facts.ran += vetoTime
		}
	})
}

// A veto that its owner brought to one seat only reaches the others within the
// day, also when that seat was started anew.
func TestQuorumVetoPassedOn(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		time.Sleep(28 * time.Hour)
		s := f.nodes[0].state(t, put.ID)
		if len(s.moves) != 1 || s.moves[0].active {
			t.Fatalf("%+v", s.moves)
		}
		f.nodes[3].stop()
		veto := share.SignApproval(p.Key, f.id, share.Approval{Subject: s.moves[0].Hash, Verdict: share.VerdictVeto, Expires: unix() + share.RequestLife})
		out, err := f.nodes[0].store.Answer(context.Background(), f.nodes[6].id, custody.VerbPoll, key.Marshal(&custody.Poll{ID: put.ID, Manifest: put.Manifest, Veto: veto.Encode()}))
		var reply custody.PollReply
		if err != nil || key.Unmarshal(out, &reply) != nil || reply.Outcome != custody.OK {
			t.Fatalf("%+v %v", reply, err)
		}
		time.Sleep(time.Minute)
		f.nodes[0].stop()
		f.nodes[0].start()
		f.nodes[3].start()
		time.Sleep(5 * time.Minute)
		for _, n := range f.nodes[:4] {
			if s := n.state(t, put.ID); len(s.vetoed) != 1 || len(s.moves) != 0 {
				t.Errorf("%s: %d vetoes, %d moves", n.member.Name, len(s.vetoed), len(s.moves))
			}
		}
	})
}

// A seat whose disk was put back hears again which Reassigns there are and which
// of them the owner vetoed.
func TestRecallMoves(t *testing.T) {
	for _, vetoed := range []bool{false, true} {
		quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
			n := f.nodes[0]
			old := n.shelf.dump()
			time.Sleep(28 * time.Hour)
			if vetoed {
				if _, at, err := f.nodes[1].store.VetoMoves(context.Background(), p, "a", 0); err != nil || at < 4 {
					t.Fatal(at, err)
				}
				time.Sleep(time.Minute)
			}
			n.putBack(old, true)
			time.Sleep(5 * time.Minute)
			s := n.state(t, put.ID)
			if s.behind(n.store.cust.facts(n.id)) {
				t.Fatal("it has not heard enough")
			}
			if len(s.vetoed) != btoi(vetoed) || len(s.moves) != btoi(!vetoed) || !vetoed && s.moves[0].active {
				t.Errorf("vetoed %v: %d vetoes, %d moves", vetoed, len(s.vetoed), len(s.moves))
			}
		})
	}
}

// What another seat has signed, such a seat has signed as well; what can be no
// vote of its own is passed over, and nobody else hears it.
func TestRecallVotes(t *testing.T) {
	quorum5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		n := f.nodes[0]
		s := n.state(t, put.ID)
		x := s.committed.SeatOf(f.nodes[4].id).X
		facts := n.store.cust.facts(n.id)
		var not key.NodeID
		q := quorumFacts{suspect: func(uint8) bool { return true }, reached: func(node key.NodeID) bool { return node != not }}
		other := f.nodes[1].state(t, put.ID)
		want := other.names(f.nodes[1].store.cust.facts(n.id), q, x)
		r, _ := other.vote(f.nodes[1].store.cust.facts(n.id), q, x, 1, want.New)
		if r.outcome != custody.OK {
			t.Fatalf("%+v", r)
		}
		told := r.next.recallMoves()
		if told == nil || len(told.Votes) != 1 {
			t.Fatalf("%+v", told)
		}
		for name, edit := range map[string]func(v *custody.RecallVote){
			"no seat":    func(v *custody.RecallVote) { v.X = 99 },
			"no standby": func(v *custody.RecallVote) { v.New = f.nodes[4].id },
			"a later":    func(v *custody.RecallVote) { v.Seq = 2 },
		} {
			lie := *told
			lie.Votes = []custody.RecallVote{told.Votes[0]}
			edit(&lie.Votes[0])
			behind := facts
			behind.restored = 1
			if r := s.heardVotes(behind, &lie); r.next != nil {
				t.Errorf("%s is taken in", name)
			}
		}
		if r := s.heardVotes(facts, told); r.next != nil {
			t.Error("taken in by a seat that has forgotten nothing")
		}
		behind := facts
		behind.restored = 1
		r = s.heardVotes(behind, told)
		if r.next == nil || len(r.next.votes) != 1 {
			t.Fatalf("%+v", r)
		}
		s = r.next.clear(behind).next
		not = want.New // it would name another one now
		second := s.names(behind, q, x)
		if second == nil || second.New == want.New {
			t.Fatalf("%+v", second)
		}
		if r, signed := s.vote(behind, q, x, 1, second.New); r.outcome == custody.OK || signed != nil {
			t.Error("it signs another one of that seq")
		}
	})
}
