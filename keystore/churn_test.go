package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// churn puts secrets on the first five of n nodes.
func churn(t *testing.T, n, secrets int, test func(t *testing.T, f *fakeNet, p Person)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, n)
		p := newPerson()
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		for i := range secrets {
			mustPut(t, f.nodes[0].store, p, fmt.Sprintf("s/%03d", i), fmt.Appendf(nil, "value %d", i), PutOptions{Holders: seats})
		}
		for i := range secrets {
			settle(t, f, p, fmt.Sprintf("s/%03d", i), 1)
		}
		test(t, f, p)
	})
}

func mustMove(t *testing.T, s *Store, p Person, from, to key.NodeID) *Moved {
	t.Helper()
	m, err := s.Move(context.Background(), p, from, to, nil)
	if err != nil {
		t.Fatal(explain(err))
	}
	return m
}

// allGood checks that every secret has five proven seats, none of them at a
// node, and its value.
func allGood(t *testing.T, f *fakeNet, p Person, secrets int, not *fakeNode) {
	t.Helper()
	for i := range secrets {
		name := fmt.Sprintf("s/%03d", i)
		v := mustVerify(t, f.nodes[0].store, p, name)
		if v.Good != 5 || slices.ContainsFunc(v.Seats, func(st SeatState) bool { return st.Node == not.id }) {
			t.Fatalf("%s: %+v", name, v)
		}
		mustGet(t, f.nodes[1].store, p, name, fmt.Appendf(nil, "value %d", i))
	}
}

// A node that never returns: all its seats go to another node, in little time,
// and what is said of the secrets afterwards is true.
func TestMoveDead(t *testing.T) {
	const secrets = 30
	churn(t, 6, secrets, func(t *testing.T, f *fakeNet, p Person) {
		old, fresh := f.nodes[4], f.nodes[5]
		old.stop()
		sum, err := f.nodes[0].store.Summary(context.Background(), p)
		if err != nil || sum.AtRisk != 0 || sum.Below != 0 {
			t.Fatal(sum, err)
		}
		var at []MoveProgress
		m, err := f.nodes[0].store.Move(context.Background(), p, old.id, fresh.id, func(p MoveProgress) { at = append(at, p) })
		if err != nil || m.Moved != secrets || m.NotMoved != 0 || m.Still != 0 || len(m.Failed) != 0 {
			t.Fatalf("%+v %v", m, err)
		}
		if m.Bytes < secrets*96 || m.Took > 20*time.Second || fresh.shelf.count(share.BucketRow) != secrets {
			t.Fatalf("%+v, %d rows", m, fresh.shelf.count(share.BucketRow))
		}
		if len(at) < secrets || at[len(at)-1].Done != secrets || at[0].Found != secrets || at[0].AtRisk != 0 || at[len(at)-1].Bytes != m.Bytes {
			t.Fatalf("%+v", at)
		}
		allGood(t, f, p, secrets, old)
		page, err := f.nodes[1].store.List(context.Background(), p, ListOptions{Limit: 100})
		if err != nil || len(page.Items) != secrets {
			t.Fatal(page, err)
		}
		for _, it := range page.Items {
			if it.Margin != 2 || it.Acked != 5 {
				t.Fatalf("%+v", it)
			}
		}
		// Whoever has moved is counted, and who has lost a row is not.
		fresh.wipe(share.BucketRow)
		f.nodes[3].stop()
		fresh.stop()
		if sum, err := f.nodes[1].store.Summary(context.Background(), p); err != nil || sum.Secrets != 30 || sum.AtRisk != 30 || sum.Below != 0 {
			t.Fatal(sum, err)
		}
		f.nodes[3].start()
		fresh.start()
		// It was done already.
		if m := mustMove(t, f.nodes[0].store, p, old.id, key.NodeID{}); m.Moved != 0 || m.NotMoved != 0 {
			t.Fatalf("%+v", m)
		}
		// The old node, when it returns, is fenced: it deletes its rows and says so.
		old.audit = &fakeAudit{}
		old.start()
		time.Sleep(2 * time.Hour)
		if n := old.shelf.count(share.BucketRow) + old.shelf.count(share.BucketPayload); n != 0 || old.audit.count("leave") != secrets {
			t.Fatalf("%d records, %v", n, old.audit.kinds())
		}
		for i := range 10 { // and gets none again from those who drained it
			name := fmt.Sprintf("t/%d", i)
			r := mustPut(t, f.nodes[0].store, p, name, nil, PutOptions{})
			if slices.ContainsFunc(r.Seats, func(st SeatState) bool { return st.Node == old.id }) {
				t.Fatalf("%+v", r.Seats)
			}
		}
	})
}

// A node is emptied while puts and gets of the same secrets run: none fails, and
// it holds nothing afterwards.
func TestMoveDrain(t *testing.T) {
	const secrets = 12
	churn(t, 6, secrets, func(t *testing.T, f *fakeNet, p Person) {
		old := f.nodes[2]
		var g sync.WaitGroup
		stop := make(chan struct{})
		puts, gets := 0, 0
		g.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				name := fmt.Sprintf("s/%03d", i%secrets)
				mustPut(t, f.nodes[0].store, p, name, fmt.Appendf(nil, "value %d", i%secrets), PutOptions{})
				puts++
			}
		})
		g.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(30 * time.Millisecond):
				}
				mustGet(t, f.nodes[3].store, p, fmt.Sprintf("s/%03d", i%secrets), fmt.Appendf(nil, "value %d", i%secrets))
				gets++
			}
		})
		time.Sleep(200 * time.Millisecond)
		m := mustMove(t, f.nodes[0].store, p, old.id, key.NodeID{})
		time.Sleep(time.Second)
		close(stop)
		g.Wait()
		if m.NotMoved != 0 || puts < 10 || gets < 10 {
			t.Fatalf("%+v; %d puts, %d gets", m, puts, gets)
		}
		time.Sleep(time.Minute)
		if n := old.shelf.count(share.BucketRow) + old.shelf.count(share.BucketPayload); n != 0 {
			t.Fatalf("%d records, %+v", n, m)
		}
		allGood(t, f, p, secrets, old)
	})
}

// The node that is drained is the one that does it: it takes nothing from
// anybody any more, also after a restart, until it is told otherwise.
func TestMoveSelf(t *testing.T) {
	churn(t, 6, 3, func(t *testing.T, f *fakeNet, p Person) {
		old := f.nodes[0]
		mustMove(t, old.store, p, old.id, key.NodeID{})
		if n := old.shelf.count(share.BucketRow); n != 0 {
			t.Fatalf("%d rows", n)
		}
		old.stop()
		old.start()
		if old.store.Accepting() {
			t.Fatal("it takes seats")
		}
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		r := mustPut(t, f.nodes[1].store, p, "u", nil, PutOptions{Holders: seats})
		time.Sleep(time.Minute)
		if r.Acked != 4 || old.shelf.count(share.BucketRow) != 0 {
			t.Fatalf("%+v", r)
		}
		if nodes, err := old.store.cust.drains.of(p.Key.Public()); err != nil || !old.store.Closed() || !slices.Equal(nodes, []key.NodeID{old.id}) {
			t.Fatal(nodes, err)
		}
		if err := old.store.Drain(context.Background(), p, old.id, false); err != nil || !old.store.Accepting() {
			t.Fatal(err)
		}
		old.stop()
		old.start()
		if nodes, err := old.store.cust.drains.of(p.Key.Public()); err != nil || old.store.Closed() || len(nodes) != 0 {
			t.Fatal(nodes, err)
		}
	})
}

// What cannot be moved is said with its reason: nobody is left to take it, or
// too few others have their rows.
func TestMoveCannot(t *testing.T) {
	churn(t, 5, 2, func(t *testing.T, f *fakeNet, p Person) {
		m := mustMove(t, f.nodes[0].store, p, f.nodes[4].id, key.NodeID{})
		if m.Moved != 0 || m.NotMoved != 2 || len(m.Failed) != 2 || m.Failed[0].Name != "s/000" || !strings.Contains(m.Failed[0].Why, "no node can take the seat") {
			t.Fatalf("%+v", m)
		}
		mustPut(t, f.nodes[0].store, p, "s/000", []byte("w"), PutOptions{}) // it is needed yet
		f.add("fresh", "op1", "z6").start()                                 // of the operator of another seat
		if m := mustMove(t, f.nodes[0].store, p, f.nodes[4].id, f.nodes[5].id); m.NotMoved != 2 || !strings.Contains(m.Failed[0].Why, "operator") {
			t.Fatalf("%+v", m)
		}
		f.add("fresher", "op7", "z7").start()
		f.nodes[1].stop()
		f.nodes[2].stop()
		if m := mustMove(t, f.nodes[0].store, p, f.nodes[4].id, key.NodeID{}); m.NotMoved != 2 || !strings.Contains(m.Failed[0].Why, "are needed") || f.nodes[4].shelf.count(share.BucketRow) != 2 {
			t.Fatalf("%+v", m)
		}
		f.nodes[1].start()
		if m := mustMove(t, f.nodes[0].store, p, f.nodes[4].id, key.NodeID{}); m.Moved != 2 {
			t.Fatalf("%+v", m)
		}
	})
}

// The node chosen is full: another one gets the seat. A move that was broken off
// is gone on with.
func TestMoveFullAndAgain(t *testing.T) {
	churn(t, 7, 3, func(t *testing.T, f *fakeNet, p Person) {
		old, full := f.nodes[4], f.nodes[5]
		old.stop()
		full.store.PauseRepair(context.Background(), true)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m, err := f.nodes[0].store.Move(ctx, p, old.id, full.id, nil)
		if !errors.Is(err, context.DeadlineExceeded) || m == nil || m.Moved != 0 {
			t.Fatalf("%+v %v", m, err)
		}
		full.stop()
		if m := mustMove(t, f.nodes[0].store, p, old.id, key.NodeID{}); m.Moved != 3 {
			t.Fatalf("%+v", m)
		}
		allGood(t, f, p, 3, old)
		if f.nodes[6].shelf.count(share.BucketRow) != 3 {
			t.Fatal("they are elsewhere")
		}
	})
}

// Ending the draining of a node ends its move.
func TestMoveStopped(t *testing.T) {
	churn(t, 6, 20, func(t *testing.T, f *fakeNet, p Person) {
		s, old := f.nodes[0].store, f.nodes[4]
		m, err := s.Move(context.Background(), p, old.id, key.NodeID{}, func(at MoveProgress) {
			if at.Done == 1 {
				if err := s.Drain(context.Background(), p, old.id, false); err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil || m.Moved == 0 || m.Moved == 20 || len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "ended") {
			t.Fatalf("%+v %v", m, err)
		}
	})
}

// Orders that make no sense change nothing.
func TestMoveInput(t *testing.T) {
	churn(t, 6, 1, func(t *testing.T, f *fakeNet, p Person) {
		s, a, b := f.nodes[0].store, f.nodes[4].id, f.nodes[5].id
		for what, c := range map[string][2]key.NodeID{"nobody": {{9}, b}, "to nobody": {a, {9}}, "itself": {a, a}} {
			if _, err := s.Move(context.Background(), p, c[0], c[1], nil); !errors.Is(err, ErrInput) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if nodes, err := s.cust.drains.of(p.Key.Public()); err != nil || len(nodes) != 0 {
			t.Fatal(nodes, err)
		}
		mustMove(t, s, p, a, b)
		if _, err := s.Move(context.Background(), p, b, a, nil); !errors.Is(err, ErrInput) {
			t.Errorf("to one that is drained: %v", err)
		}
		other := newPerson() // owns nothing there
		if m := mustMove(t, s, other, f.nodes[1].id, key.NodeID{}); m.Moved+m.NotMoved != 0 {
			t.Fatalf("%+v", m)
		}
	})
}

// An owner's orders cost a budget of their own, as much as the owner may have at
// the holder, and the shared one stays for damage.
func TestOrderedBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealing(Limits{RepairSeats: 1, RepairBytes: 100, Secrets: 3, Bytes: 1000})
		a, b := newPerson().Key.Public(), newPerson().Key.Public()
		for i, c := range []struct {
			owner   key.PersonPublic
			ordered bool
			size    int64
			ok      bool
		}{
			{a, true, 300, true}, {a, true, 300, true}, {a, true, 300, true}, {a, true, 1, false},
			{b, true, 10, true}, {a, false, 10, true}, {b, false, 10, false}, {b, true, 2000, false},
		} {
			if h.spend(c.owner, c.ordered, c.size) != c.ok {
				t.Errorf("%d: %+v", i, c)
			}
		}
		time.Sleep(time.Hour)
		if !h.spend(a, true, 1) || !h.spend(a, false, 1) {
			t.Error("nothing in the next hour")
		}
	})
}
