package keystore

import (
	"context"
	"slices"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

type lieFunc func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error)

// lyingDealer changes the rows that a node deals before it commits to them,
// proves them as an honest dealer would, and seals and signs.
func lyingDealer(t *testing.T, n *fakeNode, f *fakeNet, kind func(rows []shamir.Row)) lieFunc {
	return func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
		out, err := call()
		var reply custody.DealReply
		if verb != custody.VerbDeal || err != nil || key.Unmarshal(out, &reply) != nil || len(reply.Dealing) == 0 {
			return out, err
		}
		o, err := key.DecodeObject(reply.Dealing)
		if err != nil {
			t.Error(err)
			return out, nil
		}
		var d share.Dealing
		if err := key.Unmarshal(o.Body, &d); err != nil {
			t.Error(err)
		}
		var q custody.Deal
		if err := key.Unmarshal(body, &q); err != nil {
			t.Error(err)
		}
		e := n.held(t, q.ID)
		xs := e.Xs()
		rows, proof, err := shamir.DealZero(xs, int(e.K), func(rows []shamir.Row) [32]byte {
			kind(rows)
			d.Commits = nil
			for i, r := range rows {
				d.Commits = append(d.Commits, d.DealtCommitment(xs[i], r.Encode()))
			}
			return d.Seed(xs)
		})
		if err != nil {
			t.Error(err)
		}
		d.Proof, d.Boxes = proof, nil
		for i, r := range rows {
			node := d.Nodes[i]
			box, err := seal.To(f.node(node).seal.Public(), dealtInfo(e, xs[i], d.Epoch, node), r.Encode())
			if err != nil {
				t.Error(err)
			}
			reply.Boxes[i] = box
			d.Boxes = append(d.Boxes, share.BoxHash(box))
		}
		reply.Dealing = share.SignDealing(n.key, f.id, d).Encode()
		return key.Marshal(&reply), nil
	}
}

// A dealer whose dealing is not of zero, not of the degree or not symmetric is
// refused by all and dropped, and the next round succeeds without it. The secret
// never changes.
func TestLyingDealer(t *testing.T) {
	for name, kind := range map[string]func([]shamir.Row){
		"a constant": func(rows []shamir.Row) {
			for _, r := range rows {
				for _, v := range r {
					v[3] ^= 0x41
				}
			}
		},
		"every row of its own": func(rows []shamir.Row) {
			for i, r := range rows {
				r[1][0] ^= byte(i + 1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
				for _, n := range f.nodes[:2] {
					n.lies(lyingDealer(t, n, f, kind))
				}
				r := mustRefresh(t, f.nodes[4].store, p, "a")
				if r.Epoch != 1 {
					t.Fatalf("%+v", r)
				}
				settledAt(t, f, id, 1, f.nodes)
				for _, n := range f.nodes {
					mustGet(t, n.store, p, "a", v)
				}
				liars := []key.NodeID{f.nodes[0].id, f.nodes[1].id}
				for _, b := range r.Dropped {
					if !slices.Contains(liars, b.Node) {
						t.Errorf("an honest dealer was dropped: %+v", b)
					}
				}
			})
		})
	}
}

// A dealer that gives one seat a bad row cannot be told from that seat lying: the
// others go on, and the seat has its row rebuilt.
func TestDealerHarmsOneSeat(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
		harmed := f.nodes[3].held(t, id).SeatIndex(f.nodes[3].held(t, id).x)
		for _, n := range f.nodes[:3] {
			n.lies(lyingDealer(t, n, f, func(rows []shamir.Row) { rows[harmed][0][0] ^= 1 }))
		}
		r := mustRefresh(t, f.nodes[4].store, p, "a")
		if r.Epoch != 1 {
			t.Fatalf("%+v", r)
		}
		for _, n := range f.nodes {
			n.lies(nil)
			mustGet(t, n.store, p, "a", v)
		}
		settledAt(t, f, id, 1, f.nodes) // rebuilt from the values of the four others
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", v)
		}
		f.nodes[0].stop()
		f.nodes[1].stop()
		mustGet(t, f.nodes[3].store, p, "a", v) // with the rebuilt row
	})
}

// An acknowledger that lies, in its pairs, its commitment or about having a row,
// neither stops a refresh nor makes a wrong row good.
func TestLyingAcknowledger(t *testing.T) {
	change := func(n *fakeNode, f *fakeNet, lie func(*share.EpochAck)) lieFunc {
		return func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			var reply custody.BundleReply
			if verb != custody.VerbBundle || err != nil || key.Unmarshal(out, &reply) != nil || len(reply.Ack) == 0 {
				return out, err
			}
			o, err := key.DecodeObject(reply.Ack)
			if err != nil {
				return nil, err
			}
			var a share.EpochAck
			if err := key.Unmarshal(o.Body, &a); err != nil {
				return nil, err
			}
			lie(&a)
			reply.Ack = share.SignEpochAck(n.key, f.id, a).Encode()
			return key.Marshal(&reply), nil
		}
	}
	for name, lie := range map[string]func(*share.EpochAck){
		"all pairs": func(a *share.EpochAck) {
			for i := range a.Pairs {
				if !a.Pairs[i].IsZero() {
					a.Pairs[i] = key.Hash{1}
				}
			}
		},
		"one pair": func(a *share.EpochAck) {
			if i := slices.IndexFunc(a.Pairs, func(h key.Hash) bool { return !h.IsZero() }); i >= 0 {
				a.Pairs[i] = key.Hash{1}
			}
		},
		"its commitment": func(a *share.EpochAck) { a.C = key.Hash{1} },
		"its bundle":     func(a *share.EpochAck) { a.Bundle = key.Hash{1} },
	} {
		t.Run(name, func(t *testing.T) {
			refreshBubble(t, func(t *testing.T, f *fakeNet, p Person, id key.Hash, v []byte) {
				f.nodes[1].lies(change(f.nodes[1], f, lie))
				if r := mustRefresh(t, f.nodes[4].store, p, "a"); r.Epoch != 1 {
					t.Fatalf("%+v", r)
				}
				settledAt(t, f, id, 1, f.nodes)
				for _, n := range f.nodes {
					mustGet(t, n.store, p, "a", v)
				}
			})
		})
	}
}
