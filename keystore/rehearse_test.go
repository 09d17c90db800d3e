package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
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

func mustRehearse(t *testing.T, s *Store, p Person, name string) Rehearsal {
	t.Helper()
	r, err := s.Rehearse(context.Background(), p, name)
	if err != nil {
		t.Fatal(explain(err))
	}
	return r
}

func (r Rehearsal) state(name string) string {
	for _, st := range r.Seats {
		if st.Name == name {
			return st.State
		}
	}
	return "none"
}

func TestRehearse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		p := newPerson()
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", put.Gen)
		r := mustRehearse(t, f.nodes[0].store, p, "a")
		if !r.OK || r.Proven != 5 || r.Margin != 2 || r.Payload != 5 || r.K != 3 || len(r.Missing) != 0 {
			t.Fatalf("%+v", r)
		}
		f.nodes[3].member.LastSeen = time.Now()
		f.nodes[3].stop()
		time.Sleep(2 * time.Hour)
		for pl := range f.nodes[4].shelf.dump(share.BucketRow) {
			if err := f.nodes[4].shelf.Commit(context.Background(), share.Record{Place: pl}); err != nil {
				t.Fatal(err)
			}
		}
		r = mustRehearse(t, f.nodes[0].store, p, "a")
		if !r.OK || r.Proven != 3 || r.Margin != 0 || r.state("n4") != "unreachable" || r.state("n5") != "bad" {
			t.Fatalf("%+v", r)
		}
		for _, st := range r.Seats {
			if (st.Name == "n4") != (st.Silent >= 2*time.Hour) {
				t.Fatalf("%+v", st)
			}
		}
		f.nodes[2].stop()
		if r = mustRehearse(t, f.nodes[0].store, p, "a"); r.OK || r.Proven != 0 || r.Why == "" {
			t.Fatalf("two rows of three are enough: %+v", r)
		}
	})
}

// proofs makes a node answer rehearsals with proofs of its own making.
func (n *fakeNode) proofs(forge func(m *share.SignedManifest, r *share.SignedRequest) *custody.Proof, m *share.SignedManifest) {
	n.lies(func(_ context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
		var q custody.Recover
		if verb != custody.VerbRecover || key.Unmarshal(body, &q) != nil {
			return call()
		}
		r, err := share.ReadRequest(n.net.id, q.Request)
		if err != nil || r.Verb != share.VerbRehearse {
			return call()
		}
		x := m.SeatOf(n.id).X
		box, err := seal.To(r.Ephemeral, seal.Info(purposeRehearse, m.Hash, x, 0, n.id, r.Hash), key.Marshal(forge(m, r)))
		if err != nil {
			return nil, err
		}
		return key.Marshal(&custody.RecoverReply{Outcome: custody.OK, Box: box}), nil
	})
}

// Seats without their rows, alone or lying together, prove nothing.
func TestRehearsalLiars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		p := newPerson()
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", put.Gen)
		held, err := f.nodes[0].store.cust.peek(context.Background(), put.ID)
		if err != nil || held.committed == nil {
			t.Fatalf("%+v %v", held, err)
		}
		m := held.committed.SignedManifest
		conspire := make([]byte, 32)
		rand.Read(conspire)
		forge := func(self *fakeNode) func(*share.SignedManifest, *share.SignedRequest) *custody.Proof {
			return func(m *share.SignedManifest, r *share.SignedRequest) *custody.Proof {
				x := m.SeatOf(self.id).X
				out := new(custody.Proof)
				for _, seat := range m.Seats {
					if seat.X != x { // agrees with every other liar
						out.Pairs = append(out.Pairs, custody.PairTag{X: seat.X, Tag: pairTag(conspire, m.Hash, 0, r.Hash, x, seat.X)})
					}
				}
				return out
			}
		}
		f.nodes[3].proofs(forge(f.nodes[3]), m)
		f.nodes[4].proofs(forge(f.nodes[4]), m)
		r := mustRehearse(t, f.nodes[0].store, p, "a")
		if !r.OK || r.Proven != 3 || r.state("n4") != "unproven" || r.state("n5") != "unproven" {
			t.Fatalf("%+v", r)
		}
		f.nodes[3].proofs(func(*share.SignedManifest, *share.SignedRequest) *custody.Proof { return new(custody.Proof) }, m)
		f.nodes[4].lies(nil)
		if r := mustRehearse(t, f.nodes[0].store, p, "a"); r.Proven != 4 || r.state("n4") != "bad" {
			t.Fatalf("%+v", r)
		}
		f.nodes[1].stop()
		f.nodes[4].proofs(forge(f.nodes[4]), m)
		f.nodes[3].proofs(forge(f.nodes[3]), m)
		if r := mustRehearse(t, f.nodes[0].store, p, "a"); r.OK || r.Proven != 0 {
			t.Fatalf("two liars made up for a row: %+v", r)
		}
	})
}

// A rehearsal releases nothing, leaves nothing, and what it shows is not of the
// row, whatever is signed for it.
func TestRehearsalReleasesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		seatNode := p.nodes[2]
		k, err := seal.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		now := unix()
		ask := func(by Person, life uint64) (*share.SignedRequest, *custody.RecoverReply) {
			body := share.Request{ID: p.id, Ephemeral: k.Public(), Verb: share.VerbRehearse, Created: now, Expires: now + life}
			rand.Read(body.Nonce[:])
			r := share.SignRequest(by.Key, p.fakeNet.id, body)
			b, err := seatNode.store.Answer(ctx, p.nodes[1].id, custody.VerbRecover, key.Marshal(&custody.Recover{Request: r.Object.Encode(), Payload: true}))
			reply := new(custody.RecoverReply)
			if err != nil || key.Unmarshal(b, reply) != nil {
				t.Fatal(err)
			}
			return r, reply
		}
		before := len(seatNode.shelf.dump())
		r, reply := ask(p.owner, 60)
		if reply.Outcome != custody.OK || len(reply.Release) != 0 || len(reply.Payload) != 0 {
			t.Fatalf("%+v", reply)
		}
		m, err := share.OpenManifest(p.fakeNet.id, reply.State.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		x := m.SeatOf(seatNode.id).X
		if _, err := k.Open(seal.Info(seal.PurposeRelease, m.Hash, x, 0, seatNode.id, r.Hash), reply.Box); err == nil {
			t.Fatal("the box passes for that of a row")
		}
		plain, err := k.Open(seal.Info(purposeRehearse, m.Hash, x, 0, seatNode.id, r.Hash), reply.Box)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range seatNode.shelf.dump(share.BucketRow) {
			for i := 0; i+8 <= len(row); i++ {
				if bytes.Contains(plain, row[i:i+8]) {
					t.Fatal("bytes of the row are in the proof")
				}
			}
		}
		// A word on it makes nothing of it.
		r, _ = ask(p.a, 60)
		word := share.SignApproval(p.b.Key, p.fakeNet.id, share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Expires}).Encode()
		b, err := seatNode.store.Answer(ctx, p.nodes[1].id, custody.VerbApprove, key.Marshal(&custody.Approve{Request: r.Object.Encode(), Approval: word}))
		var said custody.ApproveReply
		if err != nil || key.Unmarshal(b, &said) != nil || said.Outcome == custody.OK {
			t.Fatalf("%+v %v", said, err)
		}
		if _, reply := ask(p.a, 60); reply.Outcome != custody.OK || reply.Progress == nil || reply.Progress.Kept || reply.Progress.Need != 2 {
			t.Fatalf("%+v", reply)
		}
		if _, reply := ask(newPerson(), 60); reply.Outcome != custody.Denied || len(reply.Box) != 0 || len(reply.State.Manifest) != 0 {
			t.Fatalf("a stranger rehearsed: %+v", reply)
		}
		if _, reply := ask(p.owner, share.RequestLife); reply.Outcome != custody.Refused || len(reply.Box) != 0 {
			t.Fatalf("a rehearsal lives on: %+v", reply)
		}
		if after := len(seatNode.shelf.dump()); after != before {
			t.Fatalf("it left %d records", after-before)
		}
	})
}

func TestRehearsalNamesApprovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return policy.All(policy.Owner(), p.twoOfThree()) })
		r := mustRehearse(t, p.nodes[0].store, p.owner, "mail/imap")
		if !r.OK || r.Have != 1 || r.Need != 3 || len(r.Missing) == 0 || len(r.Approvers) != 3 || !strings.Contains(r.Policy, "owner") {
			t.Fatalf("%+v", r)
		}
		p.nodes[1].stop()
		p.nodes[2].stop()
		if r = mustRehearse(t, p.nodes[0].store, p.owner, "mail/imap"); r.OK || r.Proven != 3 || !strings.Contains(r.Why, "approve") {
			t.Fatalf("%+v", r)
		}
	})
}
