package keystore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// storesRun is one schedule of whole Stores, with everything that runs in the
// background, over virtual time: audits, repair and refresh too. What becomes of
// a message is a hash of the seed, its ends, its verb and its number, so that a
// seed repeats as far as the order of goroutines lets it.
type storesRun struct {
	*testing.T
	f    *fakeNet
	p    Person
	seed uint64
	rand *rand.Rand

	mu     sync.Mutex
	count  map[string]uint64
	lossy  bool
	put    map[string]bool   // values that were put
	seen   map[uint64]string // value of a generation, once somebody knows it
	acked  uint64            // the highest generation acknowledged
	events map[string]int
}

// fate is a number out of the seed for the next message of its kind.
func (r *storesRun) fate(way string, from, to key.NodeID, verb uint64) uint64 {
	k := fmt.Sprint(way, r.f.node(from).member.Name, r.f.node(to).member.Name, verb)
	r.mu.Lock()
	r.count[k]++
	n := r.count[k]
	r.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprint(h, r.seed, k, n)
	return h.Sum64()
}

func (r *storesRun) network() {
	way := func(name string) func(from, to key.NodeID, verb uint64) error {
		return func(from, to key.NodeID, verb uint64) error {
			x := r.fate(name, from, to, verb)
			time.Sleep(time.Duration(x%40) * time.Millisecond)
			r.mu.Lock()
			lossy := r.lossy
			r.mu.Unlock()
			if lossy && x>>32%100 < 8 {
				return errFakeLink
			}
			return nil
		}
	}
	r.f.set(way("q"), way("a"))
}

// did notes how an operation ended.
func (r *storesRun) did(what string, err error) {
	var d *InDoubtError
	var c *ConflictError
	var q *QuorumError
	state := "done"
	switch {
	case err == nil:
	case errors.As(err, &d):
		state = "in doubt"
	case errors.As(err, &c):
		state = "conflict"
	case errors.As(err, &q):
		state = "too few"
	default:
		state = "other"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[what+": "+state]++
}

func (r *storesRun) write(s *Store, i int, o PutOptions) {
	v := fmt.Sprintf("value %d of %d", i, r.seed)
	r.mu.Lock()
	r.put[v] = true
	r.mu.Unlock()
	out, err := s.Put(context.Background(), r.p, "a", []byte(v), o)
	r.did("put", err)
	if err == nil {
		r.known(out.Gen, v)
		r.mu.Lock()
		r.acked = max(r.acked, out.Gen)
		r.mu.Unlock()
	}
}

// known: nothing ever changes the value of a generation.
func (r *storesRun) known(gen uint64, v string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.put[v] {
		r.Errorf("seed %d: generation %d is %q, which nobody put", r.seed, gen, v)
	}
	if old := r.seen[gen]; old != "" && old != v {
		r.Errorf("seed %d: generation %d was %q and is %q", r.seed, gen, old, v)
	}
	r.seen[gen] = v
}

func (r *storesRun) read(s *Store) (Recovered, error) {
	r.mu.Lock()
	floor := r.acked
	r.mu.Unlock()
	out, err := s.Recover(context.Background(), r.p, "a", RecoverOptions{Timeout: 10 * time.Second})
	r.did("get", err)
	if err == nil {
		r.known(out.Gen, string(out.Value))
		if out.Gen < floor {
			r.Errorf("seed %d: generation %d is read; %d was acknowledged before", r.seed, out.Gen, floor)
		}
	}
	return out, err
}

// act lets one thing happen; what takes time goes on beside the next.
func (r *storesRun) act(i int, g *sync.WaitGroup) {
	n := r.f.nodes[r.rand.IntN(len(r.f.nodes))]
	s := n.up()
	what := r.rand.IntN(20)
	switch {
	case s == nil && what < 14:
		n.start()
	case s == nil:
	case what < 5:
		o := PutOptions{N: 5, K: 3, Timeout: 8 * time.Second}
		if what == 0 {
			for _, at := range r.rand.Perm(len(r.f.nodes))[:5] {
				o.Holders = append(o.Holders, r.f.nodes[at].id)
			}
		}
		g.Go(func() { r.write(s, i, o) })
	case what < 10:
		g.Go(func() { r.read(s) })
	case what < 13:
		g.Go(func() { _, err := s.Refresh(context.Background(), r.p, "a", 15*time.Second); r.did("refresh", err) })
	case what < 14:
		g.Go(func() {
			_, err := s.Reshare(context.Background(), r.p, "a", PutOptions{N: 5, K: 3, Timeout: 8 * time.Second})
			r.did("reshare", err)
		})
	case what < 17:
		n.stop()
		if what == 14 {
			r.loseRow(n)
		}
	case what < 18:
		r.f.separate(n, r.f.nodes[r.rand.IntN(len(r.f.nodes))])
	default:
		r.f.heal()
	}
}

// loseRow damages the disk of a stopped node: its rows are gone. One node of a
// schedule, f of 3-of-5.
func (r *storesRun) loseRow(n *fakeNode) {
	if n != r.f.nodes[r.seed%uint64(len(r.f.nodes))] {
		return
	}
	n.shelf.mu.Lock()
	defer n.shelf.mu.Unlock()
	for p := range n.shelf.recs {
		if p.Bucket == share.BucketRow {
			delete(n.shelf.recs, p)
			r.events["row lost"]++
		}
	}
}

// rest ends the faults: every node reads the same, and every seat has its row.
func (r *storesRun) rest() {
	r.mu.Lock()
	r.lossy = false
	r.mu.Unlock()
	r.f.heal()
	for _, n := range r.f.nodes {
		if n.up() == nil {
			n.start()
		}
	}
	time.Sleep(3 * time.Hour) // audits are hourly
	var first Recovered
	for i, n := range r.f.nodes {
		out, err := r.read(n.up())
		switch {
		case err != nil:
			r.Errorf("seed %d: at rest %s: %v; generation %d was acknowledged", r.seed, n.member.Name, explain(err), r.acked)
		case i == 0:
			first = out
		case out.Gen != first.Gen || string(out.Value) != string(first.Value):
			r.Errorf("seed %d: at rest %s reads generation %d, %s %d", r.seed, r.f.nodes[0].member.Name, first.Gen, n.member.Name, out.Gen)
		}
	}
	v, err := r.f.nodes[0].up().Verify(context.Background(), r.p, "a", time.Minute)
	if err != nil || v.Good != v.N {
		r.Errorf("seed %d: at rest %+v %v", r.seed, v, err)
	}
}

// TestStoresSimulation runs whole Stores: puts on the same and on other seats,
// gets, refreshes, reshares, kills, cut links, lost messages and a lost row.
// Refresh and repair never lose or change a secret.
//
//	KEYMESH_STORES=500 go test ./keystore -run TestStoresSimulation -timeout 60m
func TestStoresSimulation(t *testing.T) {
	total := map[string]int{}
	for seed := uint64(1); seed <= uint64(storesCount(t)) && !t.Failed(); seed++ {
		bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
			r := &storesRun{T: t, f: f, p: p, seed: seed, rand: rand.New(rand.NewPCG(seed, 2)), count: map[string]uint64{},
				put: map[string]bool{}, seen: map[uint64]string{}, events: total}
			r.network()
			var g sync.WaitGroup
			r.write(f.nodes[0].up(), 0, PutOptions{N: 5, K: 3})
			if r.acked == 0 {
				t.Fatalf("seed %d: the first put", seed)
			}
			r.mu.Lock()
			r.lossy = seed%2 == 0
			r.mu.Unlock()
			for i := range 40 {
				r.act(i+1, &g)
				time.Sleep(time.Duration(r.rand.IntN(4000)) * time.Millisecond)
			}
			g.Wait()
			r.rest()
		})
	}
	t.Logf("%v", total)
	for _, must := range []string{"put: done", "get: done", "refresh: done", "row lost"} {
		if total[must] == 0 && !testing.Short() {
			t.Errorf("never: %s", must)
		}
	}
}

func storesCount(t *testing.T) int {
	if n := simEnv(t, "KEYMESH_STORES"); n > 0 {
		return int(n)
	}
	if testing.Short() {
		return 2
	}
	return 12
}
