package keystore

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// state is what a node has of a secret.
func (n *fakeNode) state(t *testing.T, id key.Hash) *secretState {
	t.Helper()
	s, err := n.up().cust.peek(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// suspects is why a node suspects another's seat of a secret; empty: it does not.
func (n *fakeNode) suspects(t *testing.T, id key.Hash, other *fakeNode) string {
	t.Helper()
	s := n.state(t, id)
	c := n.up().cust
	return c.possess.suspect(other.id, id, s.committed.Hash, s.seatAt(s.committed.version, other.id), c.clock.now())
}

// seatsOf5 stores a secret 3-of-5 and waits until all seats have it.
func seatsOf5(t *testing.T, f *fakeNet, p Person) key.Hash {
	t.Helper()
	put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
	settle(t, f, p, "a", put.Gen)
	return put.ID
}

// Honest seats are never suspect; one that answers without its row is after
// three rounds, for all others; and it is good again once it has its row.
func TestAuditSuspects(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		id := seatsOf5(t, f, p)
		time.Sleep(6 * time.Hour)
		for _, a := range f.nodes {
			for _, b := range f.nodes {
				if a != b && a.suspects(t, id, b) != "" {
					t.Fatalf("%s suspects %s", a.member.Name, b.member.Name)
				}
			}
		}
		f.nodes[4].audits(func(_ *custody.Audit, r *custody.AuditReply) {
			for i := range r.Tags {
				r.Tags[i].Tag[3] ^= 1
			}
		})
		time.Sleep(90 * time.Minute)
		if why := f.nodes[0].suspects(t, id, f.nodes[4]); why != "" {
			t.Fatal("suspect after one failure", why)
		}
		time.Sleep(150 * time.Minute)
		for _, a := range f.nodes[:4] {
			if a.suspects(t, id, f.nodes[4]) == "" || a.suspects(t, id, f.nodes[(1+btoi(a == f.nodes[1]))]) != "" {
				t.Fatalf("%s: %q", a.member.Name, a.suspects(t, id, f.nodes[4]))
			}
		}
		f.nodes[0].stop() // and it remembers
		f.nodes[0].start()
		<-f.nodes[0].store.cust.loaded
		if f.nodes[0].suspects(t, id, f.nodes[4]) == "" {
			t.Fatal("forgotten by a restart")
		}
		info, err := f.nodes[0].store.Info(context.Background(), p, "a")
		if err != nil || !strings.Contains(seatWhy(info.Seats, "n5"), "suspect") || strings.Contains(seatWhy(info.Seats, "n4"), "suspect") {
			t.Fatalf("%+v %v", info.Seats, err)
		}
		f.nodes[4].lies(nil)
		time.Sleep(2 * time.Hour)
		if why := f.nodes[0].suspects(t, id, f.nodes[4]); why != "" {
			t.Fatal("still suspect", why)
		}
	})
}

func seatWhy(seats []SeatState, name string) string {
	for _, s := range seats {
		if s.Name == name {
			return s.Why
		}
	}
	return ""
}

// audits edits what a node answers to audits.
func (n *fakeNode) audits(edit func(*custody.Audit, *custody.AuditReply)) {
	n.lies(func(_ context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
		out, err := call()
		var q custody.Audit
		var r custody.AuditReply
		if verb != custody.VerbAudit || err != nil || key.Unmarshal(body, &q) != nil || key.Unmarshal(out, &r) != nil {
			return out, err
		}
		edit(&q, &r)
		return key.Marshal(&r), nil
	})
}

// A node that is silent is suspect after 24 h of the others' running time, not
// before, and not for the time in which they were off themselves.
func TestAuditSilence(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		id := seatsOf5(t, f, p)
		time.Sleep(time.Hour + 10*time.Minute)
		f.nodes[4].stop()
		time.Sleep(12 * time.Hour)
		f.nodes[0].stop()
		time.Sleep(8 * time.Hour)
		f.nodes[0].start()
		<-f.nodes[0].store.cust.loaded
		time.Sleep(7 * time.Hour)
		if why := f.nodes[0].suspects(t, id, f.nodes[4]); why != "" {
			t.Fatal("its own time off counts", why)
		}
		if f.nodes[1].suspects(t, id, f.nodes[4]) == "" {
			t.Fatal("27 h of silence and not suspect")
		}
		time.Sleep(7 * time.Hour)
		if f.nodes[0].suspects(t, id, f.nodes[4]) == "" {
			t.Fatal("26 h of its running time and not suspect")
		}
		f.nodes[4].start()
		time.Sleep(2 * time.Hour)
		if why := f.nodes[0].suspects(t, id, f.nodes[4]); why != "" {
			t.Fatal("answers again and is suspect", why)
		}
	})
}

// auditAttack is a node without its row that tries to show it all the same.
func auditAttack(t *testing.T, cheat func(f *fakeNet, id key.Hash, victim *fakeNode) func(*custody.Audit, *custody.AuditReply)) {
	t.Helper()
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		id := seatsOf5(t, f, p)
		f.nodes[4].audits(cheat(f, id, f.nodes[0]))
		time.Sleep(5 * time.Hour)
		if f.nodes[0].suspects(t, id, f.nodes[4]) == "" {
			t.Fatal("the attack works")
		}
	})
}

// What was shown once shows nothing again.
func TestAuditReplayed(t *testing.T) {
	auditAttack(t, func(_ *fakeNet, _ key.Hash, _ *fakeNode) func(*custody.Audit, *custody.AuditReply) {
		old := map[uint8]custody.AuditTag{}
		return func(q *custody.Audit, r *custody.AuditReply) {
			for i, it := range q.Items {
				if t, ok := old[it.Verifier]; ok {
					r.Tags[i] = t
				} else {
					old[it.Verifier] = r.Tags[i]
				}
			}
		}
	})
}

// The verifier does not answer its own question, whichever way round it is put.
func TestAuditReflected(t *testing.T) {
	auditAttack(t, func(f *fakeNet, id key.Hash, victim *fakeNode) func(*custody.Audit, *custody.AuditReply) {
		return func(q *custody.Audit, r *custody.AuditReply) {
			for i, it := range q.Items {
				r.Tags[i] = custody.AuditTag{State: custody.AuditShown}
				for _, swap := range []bool{true, false} {
					back := *q
					back.Items = []custody.AuditItem{it}
					if swap {
						back.Items[0].Prover, back.Items[0].Verifier = it.Verifier, it.Prover
					}
					out, err := victim.up().Answer(context.Background(), f.nodes[4].id, custody.VerbAudit, key.Marshal(&back))
					var got custody.AuditReply
					if err == nil && key.Unmarshal(out, &got) == nil && got.Tags[0].State == custody.AuditShown {
						r.Tags[i].Tag = got.Tags[0].Tag
					}
				}
			}
		}
	})
}

// Keys that an earlier audit needed are worth nothing in the next: only what
// two rows have in common is, and that is as much as the row.
func TestAuditKeptHashes(t *testing.T) {
	common := make([]byte, 32)
	a := auditTag(common, key.Hash{1}, 0, [32]byte{1}, 1, 2)
	for name, b := range map[string]key.Hash{
		"nonce":    auditTag(common, key.Hash{1}, 0, [32]byte{2}, 1, 2),
		"manifest": auditTag(common, key.Hash{2}, 0, [32]byte{1}, 1, 2),
		"epoch":    auditTag(common, key.Hash{1}, 1, [32]byte{1}, 1, 2),
		"reversed": auditTag(common, key.Hash{1}, 0, [32]byte{1}, 2, 1),
		"prover":   auditTag(common, key.Hash{1}, 0, [32]byte{1}, 3, 2),
		"verifier": auditTag(common, key.Hash{1}, 0, [32]byte{1}, 1, 3),
		"row":      auditTag(append([]byte{1}, common[1:]...), key.Hash{1}, 0, [32]byte{1}, 1, 2),
	} {
		if a == b {
			t.Errorf("the tag does not depend on the %s", name)
		}
	}
	auditAttack(t, func(_ *fakeNet, _ key.Hash, _ *fakeNode) func(*custody.Audit, *custody.AuditReply) {
		return func(q *custody.Audit, r *custody.AuditReply) {
			for i := range q.Items {
				r.Tags[i].Tag = key.T("keymesh/v1/test", q.Nonce[:], r.Tags[i].Tag[:])
			}
		}
	})
}

// A prover shows nothing to anybody but the holder of the verifier's seat, of
// this very manifest and epoch.
func TestAuditShowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 6)
		p := newPerson()
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{N: 5, K: 3, Holders: []key.NodeID{f.nodes[0].id, f.nodes[1].id, f.nodes[2].id, f.nodes[3].id, f.nodes[4].id}})
		settle(t, f, p, "a", put.Gen)
		m := f.nodes[0].state(t, put.ID).committed
		x := func(i int) uint8 { return m.SeatOf(f.nodes[i].id).X }
		good := custody.AuditItem{ID: put.ID, Manifest: m.Hash, Prover: x(0), Verifier: x(1)}
		ask := func(from int, it custody.AuditItem) custody.AuditTag {
			out, err := f.nodes[0].store.Answer(context.Background(), f.nodes[from].id, custody.VerbAudit, key.Marshal(&custody.Audit{Items: []custody.AuditItem{it}}))
			var r custody.AuditReply
			if err != nil || key.Unmarshal(out, &r) != nil || len(r.Tags) != 1 {
				t.Fatal(err, r)
			}
			return r.Tags[0]
		}
		if got := ask(1, good); got.State != custody.AuditShown || got.Tag.IsZero() {
			t.Fatalf("%+v", got)
		}
		edit := func(f func(*custody.AuditItem)) custody.AuditItem { it := good; f(&it); return it }
		for name, a := range map[string]struct {
			from int
			it   custody.AuditItem
		}{
			"another seat asks":    {2, good},
			"a stranger asks":      {5, good},
			"another manifest":     {1, edit(func(i *custody.AuditItem) { i.Manifest[0] ^= 1 })},
			"another secret":       {1, edit(func(i *custody.AuditItem) { i.ID[0] ^= 1 })},
			"another epoch":        {1, edit(func(i *custody.AuditItem) { i.Epoch = 1 })},
			"the share":            {1, edit(func(i *custody.AuditItem) { i.Verifier = 0 })},
			"another's own x":      {1, edit(func(i *custody.AuditItem) { i.Verifier = x(2) })},
			"its own x":            {0, edit(func(i *custody.AuditItem) { i.Verifier = x(0) })},
			"a prover that is not": {1, edit(func(i *custody.AuditItem) { i.Prover = x(3) })},
		} {
			if got := ask(a.from, a.it); got.State == custody.AuditShown || !got.Tag.IsZero() {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}

// More than a bound is refused, and one node has one audit at a time.
func TestAuditBounds(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeNet, p Person) {
		c := f.nodes[0].store.cust
		<-c.loaded
		for _, n := range []int{0, custody.MaxAudit + 1} {
			r, err := c.possessed(context.Background(), f.nodes[1].id, &custody.Audit{Items: make([]custody.AuditItem, n)})
			if err != nil || r.(*custody.AuditReply).Outcome != custody.Refused {
				t.Fatalf("%d items: %+v %v", n, r, err)
			}
		}
		if !c.possess.enter(f.nodes[1].id) || c.possess.enter(f.nodes[1].id) || !c.possess.enter(f.nodes[2].id) {
			t.Fatal("turns")
		}
		r, err := c.possessed(context.Background(), f.nodes[1].id, &custody.Audit{Items: make([]custody.AuditItem, 1)})
		if err != nil || r.(*custody.AuditReply).Outcome != custody.Wait {
			t.Fatalf("%+v %v", r, err)
		}
		w := newPossession()
		w.watch(1, map[key.NodeID][]pair{{1}: {{}}})
		for i := range maxWatched + 10 {
			w.showed(key.NodeID{1}, seatKey{key.T("keymesh/v1/test", key.U64(uint64(i))), 1}, key.Hash{1}, false)
		}
		if n := len(w.peers[key.NodeID{1}].seats); n != maxWatched {
			t.Fatal(n)
		}
		if n := len(w.unsaved()); n != 1 {
			t.Fatal(n)
		}
	})
}
