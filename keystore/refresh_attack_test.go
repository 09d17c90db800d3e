package keystore

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// TestRefreshRoundsOfALiar: one seat that says to have acknowledged the last
// round there is does not keep the others from refreshing.
func TestRefreshRoundsOfALiar(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		f.nodes[1].lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			var r custody.DealReply
			if verb != custody.VerbDeal || err != nil || key.Unmarshal(out, &r) != nil || r.Standing == nil {
				return out, err
			}
			r.Standing.Round = math.MaxUint64
			return key.Marshal(&r), nil
		})
		if _, err := f.nodes[0].store.cust.refreshNow(context.Background(), id, f.nodes[0].held(t, id).Hash); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, n := range f.nodes {
			if e := n.held(t, id); e.epoch != 1 {
				t.Errorf("%s is at epoch %d", n.member.Name, e.epoch)
			}
		}
		mustGet(t, f.nodes[3].store, p, "a", v)
	})
}

// TestRefreshRoundsUsedUp: a seat that has others acknowledge as high a round as
// they will, and goes away, holds refreshes up for ten minutes and not for ever.
func TestRefreshRoundsUsedUp(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		ctx := context.Background()
		evil := f.nodes[1]
		e := evil.held(t, id)
		burn := func(number uint64) (burnt int) {
			b := &share.RefreshBundle{Manifest: e.Hash, Epoch: 1, Round: number}
			boxes := map[byte][][]byte{}
			three := slices.Clone(e.Seats[:3])
			slices.SortFunc(three, func(a, b share.Seat) int { return int(a.X) - int(b.X) })
			for _, s := range three {
				out, err := f.node(s.Node).store.Answer(ctx, evil.id, custody.VerbDeal, key.Marshal(&custody.Deal{ID: id, Manifest: e.Hash, Epoch: 1, Round: number}))
				var r custody.DealReply
				if err != nil || key.Unmarshal(out, &r) != nil || r.Outcome != custody.OK {
					return 0
				}
				o, _ := key.DecodeObject(r.Dealing)
				b.Dealings = append(b.Dealings, o)
				for i, q := range e.Seats {
					boxes[q.X] = append(boxes[q.X], r.Boxes[i])
				}
			}
			for _, s := range e.Seats {
				if s.Node == evil.id || burnt == 2 {
					continue
				}
				out, err := f.node(s.Node).store.Answer(ctx, evil.id, custody.VerbBundle, key.Marshal(&custody.Bundle{ID: id, Manifest: e.Hash, Bundle: b.Encode(), Boxes: boxes[s.X]}))
				var r custody.BundleReply
				if err == nil && key.Unmarshal(out, &r) == nil && r.Outcome == custody.OK {
					burnt++
				}
			}
			return burnt
		}
		if n := burn(math.MaxUint64 - 1); n != 0 {
			t.Fatalf("%d seats acknowledged a round that time does not allow", n)
		}
		if n := burn(e.lastRound(unix()) + roundSlack); n != 2 {
			t.Fatalf("%d seats acknowledged the highest round", n)
		}
		time.Sleep((roundSlack + 10) * time.Second)
		if _, err := f.nodes[0].store.cust.refreshNow(ctx, id, e.Hash); err != nil {
			t.Fatal(err)
		}
		mustGet(t, f.nodes[3].store, p, "a", v)
	})
}

// TestReassignOfAMadeUpEpoch has rows exchanged once, not without end.
func TestReassignOfAMadeUpEpoch(t *testing.T) {
	bubble(t, 6, func(t *testing.T, f *fakeNet, p Person) {
		var to []key.NodeID
		for _, n := range f.nodes[:5] {
			to = append(to, n.id)
		}
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: to})
		settle(t, f, p, "a", put.Gen)
		c := f.nodes[1].state(t, put.ID).committed
		s := c.SeatOf(f.nodes[4].id)
		for _, epoch := range []uint32{math.MaxUint32, 2, 1} {
			r := share.Reassign{Manifest: c.Hash, Epoch: epoch, X: s.X, Seq: 1, Old: s.Node, New: f.nodes[5].id, Time: unix()}
			j, err := share.JoinReassign(share.SignReassign(p.Key, f.id, r))
			if err != nil {
				t.Fatal(err)
			}
			q := &custody.Commit{Manifest: c.Bytes(), Cert: c.cert, Before: bytesOf(c.before), Reassigns: [][]byte{j}}
			if _, err := f.nodes[1].store.Answer(context.Background(), f.nodes[0].id, custody.VerbCommit, key.Marshal(q)); err != nil {
				t.Fatal(err)
			}
			if n := len(f.nodes[1].state(t, put.ID).moves); (n == 1) != (epoch == 1) {
				t.Fatalf("epoch %d: %d Reassigns were taken", epoch, n)
			}
		}
		time.Sleep(4 * time.Hour)
		if n := f.nodes[1].held(t, put.ID).epoch; n > 2 {
			t.Errorf("%d epochs in 4 hours", n)
		}
	})
}
