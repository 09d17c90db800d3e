package keystore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
)

// row is a row of a secret as it stands on a node's shelf.
type shelfRow struct {
	place share.Place
	row   []byte
}

// rowsOf are all rows on the node's shelf, of every epoch.
func (n *fakeNode) shelfRows() (out []shelfRow) {
	for p, v := range n.shelf.dump(share.BucketRow) {
		out = append(out, shelfRow{p, bytes.Clone(v)})
	}
	return out
}

// held is the committed version at a node.
func (n *fakeNode) held(t testing.TB, id key.Hash) *stored {
	t.Helper()
	s, err := n.store.cust.peek(context.Background(), id)
	if err != nil || s.committed == nil {
		t.Fatalf("%s: nothing is committed: %v", n.member.Name, err)
	}
	return s.committed
}

// settled waits in a bubble until all of the nodes that are up have one row each,
// of this epoch, and nothing is under way.
func settledAt(t testing.TB, f *fakeNet, id key.Hash, epoch uint32, nodes []*fakeNode) {
	t.Helper()
	why := ""
	for range 300 {
		why = ""
		for _, n := range nodes {
			if n.up() == nil {
				continue
			}
			e := n.held(t, id)
			if rows := n.shelfRows(); e.epoch != epoch || e.refresh != nil && e.refresh.base != nil || len(rows) != 1 {
				why += fmt.Sprintf("%s: epoch %d, %d rows, %+v; ", n.member.Name, e.epoch, len(rows), e.refresh)
			}
		}
		if why == "" {
			return
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("not settled at epoch %d: %s", epoch, why)
}

// opens reports whether any k of the rows, whatever their seats and epochs, give
// the data key of the manifest.
func opens(t testing.TB, m *share.SignedManifest, rows []shelfRow) bool {
	t.Helper()
	found := false
	choose(len(rows), int(m.K), func(pick []int) bool {
		var shares []shamir.Share
		for _, i := range pick {
			shares = append(shares, shamir.Share{X: rows[i].place.X, Y: rows[i].row[:share.DataKeySize]})
		}
		dk, err := shamir.Combine(shares)
		if err != nil {
			return true // two rows of one seat
		}
		keys, err := seal.Derive(dk, m.Context())
		if err != nil {
			t.Fatal(err)
		}
		found = keys.Check(m.KC)
		return !found
	})
	return found
}

func mustRefresh(t testing.TB, s *Store, p Person, name string) *Refreshed {
	t.Helper()
	r, err := s.Refresh(context.Background(), p, name, 0)
	if err != nil {
		t.Fatalf("refresh: %v", explain(err))
	}
	return r
}

func TestRefresh(t *testing.T) {
	for _, shape := range [][2]int{{5, 3}, {3, 2}, {7, 4}} {
		t.Run(fmt.Sprintf("%d of %d", shape[1], shape[0]), func(t *testing.T) {
			bubble(t, shape[0], func(t *testing.T, f *fakeNet, p Person) {
				v := []byte("the same before and after")
				put := mustPut(t, f.nodes[0].store, p, "a", v, PutOptions{N: shape[0], K: shape[1]})
				settle(t, f, p, "a", 1)
				m := f.nodes[0].held(t, put.ID).SignedManifest
				for epoch := uint32(1); epoch <= 3; epoch++ {
					var before []shelfRow
					for _, n := range f.nodes {
						before = append(before, n.shelfRows()...)
					}
					if !opens(t, m, before) {
						t.Fatal("the test cannot open what it must")
					}
					r := mustRefresh(t, f.nodes[int(epoch)%len(f.nodes)].store, p, "a")
					if r.Epoch != epoch || r.Gen != 1 || len(r.Seats) != shape[0] || len(r.Dropped) != 0 {
						t.Fatalf("%+v", r)
					}
					settledAt(t, f, put.ID, epoch, f.nodes)
					for _, n := range f.nodes {
						mustGet(t, n.store, p, "a", v)
						for _, now := range n.shelfRows() {
							for _, was := range before {
								if bytes.Equal(now.row, was.row) {
									t.Fatalf("%s has a row of before", n.member.Name)
								}
							}
							if opens(t, m, append(slices.Clone(before[:shape[1]-1]), now)) {
								t.Fatal("k-1 old rows and a new one open the secret")
							}
						}
					}
				}
			})
		})
	}
}

// 30 refreshes with a random holder killed in each, at a random moment: the
// secret is unchanged, old rows are gone from every disk, and k-1 rows of each
// epoch that was, with one of each other, open nothing.
func TestThirtyRefreshesWithAHolderKilledInEach(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		r := rand.New(rand.NewPCG(4, 9))
		v := []byte("thirty times")
		put := mustPut(t, f.nodes[0].store, p, "a", v, PutOptions{})
		settle(t, f, p, "a", 1)
		m := f.nodes[0].held(t, put.ID).SignedManifest
		f.set(func(_, _ key.NodeID, _ uint64) error { time.Sleep(5 * time.Millisecond); return nil }, nil)
		epoch := uint32(0)
		var stolen [][]shelfRow // k-1 rows of each epoch
		for i := range 30 {
			var before []shelfRow
			for _, n := range f.nodes {
				before = append(before, n.shelfRows()...)
			}
			r.Shuffle(len(before), func(a, b int) { before[a], before[b] = before[b], before[a] })
			stolen = append(stolen, before[:m.K-1])
			victim := f.nodes[r.IntN(5)]
			when := time.Duration(r.IntN(60)) * time.Millisecond
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				time.Sleep(when)
				victim.stop()
			}()
			at := f.nodes[(slices.Index(f.nodes, victim)+1)%5]
			_, err := at.store.Refresh(context.Background(), p, "a", 0)
			<-killed
			mustGet(t, at.store, p, "a", v)
			victim.start()
			mustGet(t, victim.store, p, "a", v)
			if err != nil {
				t.Logf("refresh %d: %v", i+1, explain(err))
			}
			now := at.held(t, put.ID).epoch
			for _, n := range f.nodes {
				now = max(now, n.held(t, put.ID).epoch)
			}
			if now == epoch { // the victim coordinated and took it along
				mustRefresh(t, at.store, p, "a")
				now++
			}
			epoch = now
			settledAt(t, f, put.ID, epoch, f.nodes)
			for _, n := range f.nodes {
				for _, row := range n.shelfRows() {
					for _, was := range before {
						if bytes.Equal(row.row, was.row) {
							t.Fatalf("refresh %d: %s has a row of before", i+1, n.member.Name)
						}
					}
				}
			}
		}
		if epoch < 30 {
			t.Fatalf("%d epochs", epoch)
		}
		for i, some := range stolen {
			for j, other := range stolen {
				for _, one := range other {
					if i != j && opens(t, m, append(slices.Clone(some), one)) {
						t.Fatalf("k-1 rows of epoch %d and one of epoch %d open the secret", i, j)
					}
				}
			}
			for _, n := range f.nodes {
				if opens(t, m, append(slices.Clone(some), n.shelfRows()...)) {
					t.Fatalf("k-1 rows of epoch %d and one of now open the secret", i)
				}
			}
		}
	})
}
