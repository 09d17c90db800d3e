package keystore

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	"keymesh/keystore/custody"
)

func mustPut(t *testing.T, s *Store, p Person, name string, value []byte, o PutOptions) PutResult {
	t.Helper()
	r, err := s.Put(context.Background(), p, name, value, o)
	if err != nil {
		t.Fatalf("put: %v", explain(err))
	}
	return r
}

func mustGet(t *testing.T, s *Store, p Person, name string, want []byte) Recovered {
	t.Helper()
	r, err := s.Recover(context.Background(), p, name, RecoverOptions{})
	if err != nil {
		t.Fatalf("get: %v", explain(err))
	}
	if !bytes.Equal(r.Value, want) {
		t.Fatalf("got %d bytes instead of the %d put", len(r.Value), len(want))
	}
	return r
}

// explain adds the seats to an error.
func explain(err error) error {
	var q *QuorumError
	var d *InDoubtError
	var b *IntegrityError
	var pl *PlacementError
	switch {
	case errors.As(err, &q):
		return fmt.Errorf("%w %+v", err, q.Seats)
	case errors.As(err, &d):
		return fmt.Errorf("%w %+v", err, d.Seats)
	case errors.As(err, &b):
		return fmt.Errorf("%w %+v", err, b.Bad)
	case errors.As(err, &pl):
		return fmt.Errorf("%w %+v", err, pl.Seats)
	}
	return err
}

func names(seats []SeatState, state string) string {
	var out []string
	for _, s := range seats {
		if s.State == state {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// settle waits in a bubble until every seat of the secret has it.
func settle(t *testing.T, f *fakeNet, p Person, name string, gen uint64) {
	t.Helper()
	for range 120 {
		info, err := f.up().Info(context.Background(), p, name)
		if err == nil && info.Gen == gen && info.Acked == info.N {
			return
		}
		time.Sleep(time.Second)
	}
	info, err := f.up().Info(context.Background(), p, name)
	t.Fatalf("not settled: %+v %v", info, err)
}

// up is the store of a node that runs.
func (f *fakeNet) up() *Store {
	for _, n := range f.nodes {
		if n.store != nil {
			return n.store
		}
	}
	f.t.Fatal("no node is up")
	return nil
}

func bubble(t *testing.T, n int, test func(t *testing.T, f *fakeNet, p Person)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFakeNet(t, n), newPerson()) })
}

func TestPutRecover(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	r := mustPut(t, f.nodes[0].store, p, "demo/db", []byte("hunter2"), PutOptions{})
	if r.Gen != 1 || r.N != 5 || r.K != 3 || r.W != 4 || r.Acked < 4 || !r.Created {
		t.Fatalf("%+v", r)
	}
	for _, n := range f.nodes {
		g := mustGet(t, n.store, p, "demo/db", []byte("hunter2"))
		if g.Gen != 1 || len(g.Used) != 3 || len(g.Bad) != 0 {
			t.Fatalf("%+v", g)
		}
	}
}

func TestSizes(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	values := map[string][]byte{"empty": {}, "one": {0}, "all": all}
	for _, n := range []int{255, 256, 1 << 10, 4<<10 - 1, 64 << 10, 256<<10 - 1, 256 << 10, 1<<20 - 1} {
		values[fmt.Sprint(n)] = bytes.Repeat([]byte{0x80}, n)
	}
	for name, v := range values {
		mustPut(t, f.nodes[0].store, p, name, v, PutOptions{})
		mustGet(t, f.nodes[1].store, p, name, v)
	}
	before := f.count(custody.VerbPrepare)
	if _, err := f.nodes[0].store.Put(context.Background(), p, "big", make([]byte, 1<<20), PutOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("1 MiB: %v", err)
	}
	if f.count(custody.VerbPrepare) != before {
		t.Fatal("something was sent")
	}
}

// Put is two round trips and get one when the manifest is known.
func TestRoundTrips(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		const hop = 10 * time.Millisecond
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.set(func(_, _ key.NodeID, _ uint64) error { time.Sleep(hop); return nil }, nil)
		took := func(f func()) time.Duration {
			start := time.Now()
			f()
			return time.Since(start)
		}
		if d := took(func() { mustPut(t, f.nodes[0].store, p, "a", []byte("2"), PutOptions{}) }); d != 2*hop {
			t.Errorf("an update took %v, not two round trips", d)
		}
		time.Sleep(time.Second)
		if d := took(func() { mustPut(t, f.nodes[1].store, p, "a", []byte("3"), PutOptions{}) }); d != 2*hop {
			t.Errorf("an update from another node took %v, not two round trips", d)
		}
		time.Sleep(time.Second)
		for i, n := range f.nodes {
			if d := took(func() { mustGet(t, n.store, p, "a", []byte("3")) }); d != hop {
				t.Errorf("a get at node %d took %v, not one round trip", i+1, d)
			}
		}
	})
}

func TestTwoDeadThreeDead(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		v := []byte("value")
		mustPut(t, f.nodes[0].store, p, "a", v, PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[3].stop()
		f.nodes[4].stop()
		for _, n := range f.nodes[:3] {
			mustGet(t, n.store, p, "a", v)
		}
		f.nodes[2].stop()
		start := time.Now()
		for _, n := range f.nodes[:2] {
			_, err := n.store.Recover(context.Background(), p, "a", RecoverOptions{})
			var q *QuorumError
			if !errors.As(err, &q) || q.Need != 3 || q.Have != 2 || names(q.Seats, "unreachable") != "n3 n4 n5" {
				t.Fatalf("%v", explain(err))
			}
		}
		if d := time.Since(start); d > 2*DefaultTimeout {
			t.Fatalf("it took %v to say so", d)
		}
		for _, i := range []int{4, 2, 3} {
			f.nodes[i].start()
		}
		f.nodes[0].stop()
		f.nodes[1].stop()
		mustGet(t, f.nodes[4].store, p, "a", v)
	})
}

// Nothing of a secret is on a node that did not hold it before: the owner's key
// and the network are enough to list and recover everything.
func TestNoLocalState(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		want := map[string]string{}
		for i := range 7 {
			name := fmt.Sprintf("team/%d", i)
			want[name] = fmt.Sprintf("value %d", i)
			mustPut(t, f.nodes[i%5].store, p, name, []byte(want[name]), PutOptions{Labels: map[string]string{"n": fmt.Sprint(i)}})
		}
		other := newPerson()
		mustPut(t, f.nodes[0].store, other, "team/secret of another", []byte("x"), PutOptions{})
		for i := range 7 {
			settle(t, f, p, fmt.Sprintf("team/%d", i), 1)
		}
		fresh := f.add("fresh", "op6", "z6")
		fresh.member.Holder = false
		fresh.start()
		page, err := fresh.store.List(context.Background(), p, ListOptions{})
		if err != nil || len(page.Items) != 7 || len(page.Silent) != 0 || page.Next != "" {
			t.Fatalf("%+v %v", page, err)
		}
		for i, it := range page.Items {
			if it.Name != fmt.Sprintf("team/%d", i) || it.Acked != 5 || it.Margin != 2 || it.Labels["n"] != fmt.Sprint(i) || it.Size != 7 {
				t.Errorf("%+v", it)
			}
			mustGet(t, fresh.store, p, it.Name, []byte(want[it.Name]))
		}
		if n := len(fresh.shelf.recs) - fresh.shelf.count(share.BucketReader); n != 0 {
			t.Errorf("%d records beside the reader's memory on a node that holds nothing", n)
		}
		_, err = fresh.store.Recover(context.Background(), p, "team/none", RecoverOptions{})
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("an unknown name: %v", err)
		}
		// Two silent nodes could hide a small secret: then it is not known.
		f.nodes[1].stop()
		if _, err = fresh.store.Recover(context.Background(), p, "team/none", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("an unknown name with one silent: %v", err)
		}
		f.nodes[2].stop()
		_, err = fresh.store.Recover(context.Background(), p, "team/none", RecoverOptions{})
		var q *QuorumError
		if !errors.As(err, &q) || names(q.Seats, "unreachable") != "n2 n3" {
			t.Fatalf("an unknown name with two silent: %v", explain(err))
		}
		page, err = fresh.store.List(context.Background(), p, ListOptions{Prefix: "team/"})
		if err != nil || len(page.Items) != 7 || len(page.Silent) != 2 || page.Items[0].Margin != 0 {
			t.Fatalf("%+v %v", page, err)
		}
	})
}

func TestListPages(t *testing.T) {
	f := newFakeNet(t, 3)
	p := newPerson()
	var all []string
	for i := range 23 {
		name := fmt.Sprintf("p/%02d", i*7%23)
		all = append(all, name)
		mustPut(t, f.nodes[0].store, p, name, nil, PutOptions{})
	}
	mustPut(t, f.nodes[0].store, p, "other", nil, PutOptions{})
	slices.Sort(all)
	if _, err := f.nodes[0].store.Delete(context.Background(), p, all[5], DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	all = slices.Delete(all, 5, 6)
	var got []string
	for o := (ListOptions{Prefix: "p/", Limit: 4}); ; {
		page, err := f.nodes[1].store.List(context.Background(), p, o)
		if err != nil || len(page.Items) > 4 {
			t.Fatalf("%v %+v", err, page)
		}
		for _, it := range page.Items {
			got = append(got, it.Name)
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			break
		}
	}
	if !slices.Equal(got, all) {
		t.Fatalf("%q instead of %q", got, all)
	}
	// A page among more names than are kept in mind.
	l := &listing{s: f.nodes[0].store, o: ListOptions{Limit: 1}, kept: map[key.Hash]*listItem{}, seen: map[[32]byte]key.Hash{}}
	for i := range 200 {
		id := key.Hash(sha256.Sum256([]byte{byte(i)}))
		l.kept[id] = &listItem{name: fmt.Sprint(1000 + i), id: id, view: l.s.newView(id)}
		l.shrink()
	}
	if len(l.kept) > 2+64 || l.sorted()[0].name != "1000" {
		t.Fatalf("%d kept", len(l.kept))
	}
	if page := l.page(); page.Next == "" {
		t.Fatal("the end of a listing that is not at its end")
	}
	if _, err := f.nodes[0].store.List(context.Background(), p, ListOptions{Limit: 1001}); !errors.Is(err, ErrInput) {
		t.Fatal(err)
	}
	sum, err := f.nodes[2].store.Summary(context.Background(), p)
	if err != nil || sum != (Counts{Secrets: 23}) {
		t.Fatal(sum, err)
	}
}

func TestInfo(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("1"), PutOptions{Keep: new(1), Description: "what it is"})
		settle(t, f, p, "a", 1)
		mustPut(t, s, p, "a", []byte("22"), PutOptions{Keep: new(1)})
		settle(t, f, p, "a", 2)
		f.nodes[4].stop()
		i, err := f.nodes[1].store.Info(context.Background(), p, "a")
		if err != nil {
			t.Fatal(err)
		}
		if i.Gen != 2 || i.Acked != 4 || i.Size != 2 || i.Margin != 1 || i.Loses != 2 || i.Leaks != 3 || i.Stuck != 1 || i.Description != "what it is" ||
			!slices.Equal(i.Generations, []uint64{1, 2}) || names(i.Seats, "good") != "n1 n2 n3 n4" || names(i.Seats, "unreachable") != "n5" {
			t.Fatalf("%+v", i)
		}
		for _, w := range []string{i.LosesIf, i.LeaksIf, i.StuckIf, i.Policy} {
			if len(w) < 10 {
				t.Errorf("%q", w)
			}
		}
		old, err := s.Recover(context.Background(), p, "a", RecoverOptions{Gen: 1})
		if err != nil || string(old.Value) != "1" {
			t.Fatalf("history: %q %v", old.Value, explain(err))
		}
		if _, err := s.Recover(context.Background(), p, "a", RecoverOptions{Gen: 7}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("a generation that never was: %v", explain(err))
		}
		if _, err := s.Info(context.Background(), p, "none"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		sum, err := s.Summary(context.Background(), p)
		if err != nil || sum != (Counts{Secrets: 1}) { // put a moment ago
			t.Fatal(sum, err)
		}
		time.Sleep(2 * settleTime * time.Second)
		if sum, err = s.Summary(context.Background(), p); err != nil || sum != (Counts{Secrets: 1, Short: 1}) {
			t.Fatal(sum, err)
		}
		f.nodes[3].stop()
		f.nodes[2].stop()
		time.Sleep(2 * summaryAge)
		sum, err = s.Summary(context.Background(), p)
		if err != nil || sum != (Counts{Secrets: 1, Short: 1, Below: 1}) {
			t.Fatal(sum, err)
		}
	})
}

func TestClusterDelete(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.nodes[4].stop()
		r, err := f.nodes[1].store.Delete(context.Background(), p, "a", DeleteOptions{})
		if err != nil || r.Done || r.Gen != 1 || !slices.Equal(r.Missing, []key.NodeID{f.nodes[4].id}) || names(r.Seats, "deleted") != "n1 n2 n3 n4" {
			t.Fatalf("%+v %v", r, explain(err))
		}
		for _, n := range f.nodes[:4] {
			if rows := n.shelf.count(share.BucketRow) + n.shelf.count(share.BucketPayload); rows != 0 {
				t.Errorf("%s still has %d records of it", n.member.Name, rows)
			}
			if _, err := n.store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", n.member.Name, explain(err))
			}
		}
		if _, err := s.Delete(context.Background(), p, "a", DeleteOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("deleted twice: %v", err)
		}
		// The tombstone outlives the writer's process, and reaches who was away.
		f.nodes[1].stop()
		f.nodes[1].start()
		f.nodes[4].start()
		for range 60 {
			if f.nodes[4].shelf.count(share.BucketRow) == 0 && f.nodes[1].shelf.count(share.BucketJournal) == 0 {
				break
			}
			time.Sleep(time.Second)
		}
		if f.nodes[4].shelf.count(share.BucketRow) != 0 || f.nodes[1].shelf.count(share.BucketJournal) != 0 {
			t.Fatal("the node that was away still has its row, or the journal its record")
		}
		again := mustPut(t, f.nodes[2].store, p, "a", []byte("2"), PutOptions{})
		if again.Gen <= r.Gen || !again.Created {
			t.Fatalf("%+v", again)
		}
		mustGet(t, f.nodes[4].store, p, "a", []byte("2"))
	})
}

func TestClusterDeleteGeneration(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeNet, p Person) {
		s, ctx := f.nodes[0].store, context.Background()
		for i := range 3 {
			mustPut(t, s, p, "a", []byte{byte(i)}, PutOptions{Keep: new(2)})
			settle(t, f, p, "a", uint64(i+1))
		}
		if r, err := s.Delete(ctx, p, "a", DeleteOptions{Gen: 1}); err != nil || !r.Done || r.Gen != 1 {
			t.Fatal(r, err)
		}
		if _, err := s.Recover(ctx, p, "a", RecoverOptions{Gen: 1}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%v", explain(err))
		}
		if r, err := s.Recover(ctx, p, "a", RecoverOptions{Gen: 2}); err != nil || r.Value[0] != 1 {
			t.Fatalf("%v", explain(err))
		}
		mustGet(t, s, p, "a", []byte{2})
		// The latest alone: there is no value, and what follows is its successor.
		if r, err := s.Delete(ctx, p, "a", DeleteOptions{Gen: 3}); err != nil || !r.Done {
			t.Fatal(r, err)
		}
		if _, err := s.Recover(ctx, p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%v", explain(err))
		}
		if r := mustPut(t, f.nodes[1].store, p, "a", []byte{9}, PutOptions{}); r.Gen != 4 || r.Created {
			t.Fatalf("%+v", r)
		}
		mustGet(t, s, p, "a", []byte{9})
	})
}

func TestConditions(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		ctx := context.Background()
		gen := func(n uint64) *uint64 { return &n }
		conflict := func(o PutOptions, i int) {
			t.Helper()
			_, err := f.nodes[i].store.Put(ctx, p, "a", []byte("no"), o)
			var c *ConflictError
			if !errors.As(err, &c) {
				t.Errorf("%+v: %v", o, explain(err))
			}
		}
		conflict(PutOptions{IfGen: gen(1)}, 0)
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{IfAbsent: true})
		conflict(PutOptions{IfAbsent: true}, 0)
		conflict(PutOptions{IfAbsent: true}, 1)
		mustPut(t, f.nodes[1].store, p, "a", []byte("2"), PutOptions{IfGen: gen(1)})
		conflict(PutOptions{IfGen: gen(1)}, 0) // whose memory is old
		conflict(PutOptions{IfGen: gen(3)}, 2)
		mustPut(t, f.nodes[0].store, p, "a", []byte("3"), PutOptions{IfGen: gen(2)})
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", []byte("3"))
		}
		if _, err := f.nodes[0].store.Delete(ctx, p, "a", DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		mustPut(t, f.nodes[3].store, p, "a", []byte("4"), PutOptions{IfAbsent: true})
	})
}

// Plain puts of many nodes at the same name all succeed, and the value of the
// highest generation is what everyone reads.
func TestConcurrentWriters(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		f.set(func(from, to key.NodeID, _ uint64) error {
			time.Sleep(time.Duration(1+(int(from[0])+3*int(to[0]))%7) * time.Millisecond)
			return nil
		}, nil)
		for round := range 5 {
			var mu sync.Mutex
			var high PutResult
			values := map[uint64]string{}
			var wg sync.WaitGroup
			for i, n := range f.nodes[:2+round%3] {
				wg.Go(func() {
					v := fmt.Sprintf("round %d writer %d", round, i)
					r, err := n.store.Put(context.Background(), p, "a", []byte(v), PutOptions{})
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Errorf("round %d writer %d: %v", round, i, explain(err))
						return
					}
					if values[r.Gen] != "" {
						t.Errorf("generation %d was acknowledged twice", r.Gen)
					}
					values[r.Gen] = v
					if r.Gen > high.Gen {
						high = r
					}
				})
			}
			wg.Wait()
			for _, n := range f.nodes {
				mustGet(t, n.store, p, "a", []byte(values[high.Gen]))
			}
			settle(t, f, p, "a", high.Gen)
		}
		time.Sleep(time.Minute)
		for _, n := range f.nodes {
			if n.shelf.count(share.BucketRow) != 1 {
				t.Errorf("%s holds %d rows", n.member.Name, n.shelf.count(share.BucketRow))
			}
			if j := n.shelf.count(share.BucketJournal); j != 0 {
				t.Errorf("%s has %d journal records left", n.member.Name, j)
			}
		}
	})
}

// Two compare-and-sets of one generation: never both.
func TestConcurrentConditions(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("0"), PutOptions{})
		gen := uint64(1)
		for round := range 10 {
			f.set(func(from, to key.NodeID, _ uint64) error {
				time.Sleep(time.Duration(1+(round*int(from[1])+5*int(to[1]))%9) * time.Millisecond)
				return nil
			}, nil)
			won := make([]error, 3)
			gens := make([]uint64, 3)
			var wg sync.WaitGroup
			for i := range won {
				wg.Go(func() {
					r, err := f.nodes[i].store.Put(context.Background(), p, "a", []byte{byte(i)}, PutOptions{IfGen: &gen, Timeout: 5 * time.Second})
					won[i], gens[i] = err, r.Gen
				})
			}
			wg.Wait()
			wins, doubts := 0, 0
			for _, err := range won {
				var c *ConflictError
				var d *InDoubtError
				switch {
				case err == nil:
					wins++
				case errors.As(err, &d):
					doubts++
				case !errors.As(err, &c):
					t.Errorf("%v", explain(err))
				}
			}
			if wins > 1 {
				t.Fatalf("%d compare-and-sets of generation %d succeeded: %v", wins, gen, gens)
			}
			t.Logf("round %d: %d won, %d in doubt", round, wins, doubts)
			// A plain put passes whatever is left over.
			gen = mustPut(t, f.nodes[round%5].store, p, "a", []byte("plain"), PutOptions{}).Gen
			settle(t, f, p, "a", gen)
		}
	})
}
