package keystore

import (
	"context"
	"math/rand/v2"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// dealtLie is what a malicious dealer does: to the rows before it commits to
// them, and to the dealing and the boxes afterwards. refuse is how many of five
// seats must refuse at least; with n-k+1 = 3 no Epoch comes of it.
type dealtLie struct {
	name   string
	refuse int
	rows   func(xs []byte, rows []shamir.Row, by byte)
	after  func(l *lyingDeal, at int, by byte)
}

// lyingDeal is a dealing under construction.
type lyingDeal struct {
	e     *stored
	d     share.Dealing
	rows  []shamir.Row
	plain [][]byte // what is sealed for each seat
	info  []key.Hash
	to    [][]byte // sealing keys
}

func dealtLies() []dealtLie {
	return []dealtLie{
		{"a constant", 5, func(_ []byte, rows []shamir.Row, by byte) {
			for _, r := range rows {
				for _, v := range r {
					v[int(by)%shamir.DeltaWidth] ^= by
				}
			}
		}, nil},
		{"not symmetric", 1, func(xs []byte, rows []shamir.Row, by byte) {
			for i, r := range rows {
				for _, v := range r {
					v[int(by)%shamir.DeltaWidth] ^= xs[i]
				}
			}
		}, nil},
		{"one row wrong", 1, func(_ []byte, rows []shamir.Row, by byte) { rows[int(by)%5][1][int(by)%shamir.DeltaWidth] ^= by }, nil},
		{"a row committed to and another sealed", 1, nil, func(l *lyingDeal, at int, by byte) { l.plain[at][int(by)%len(l.plain[at])] ^= by }},
		{"two seats' rows swapped", 2, nil, func(l *lyingDeal, at int, _ byte) {
			o := (at + 1) % 5
			l.plain[at], l.plain[o] = l.plain[o], l.plain[at]
		}},
		{"a short row", 1, nil, func(l *lyingDeal, at int, _ byte) { l.plain[at] = l.plain[at][:len(l.plain[at])-1] }},
		{"a row of 32 columns", 1, nil, func(l *lyingDeal, at int, _ byte) { l.plain[at] = l.plain[at][:int(l.e.K)*share.DataKeySize] }},
		{"nothing", 1, nil, func(l *lyingDeal, at int, _ byte) { l.plain[at] = nil }},
		{"sealed to another node", 1, nil, func(l *lyingDeal, at int, _ byte) { l.to[at] = l.to[(at+1)%5] }},
		{"sealed for another seat", 1, nil, func(l *lyingDeal, at int, _ byte) { l.info[at] = l.info[(at+1)%5] }},
		{"sealed for another epoch", 1, nil, func(l *lyingDeal, at int, _ byte) {
			l.info[at] = dealtInfo(l.e, l.e.Seats[at].X, l.d.Epoch+1, l.e.Seats[at].Node)
		}},
		{"committed to for another round", 5, nil, func(l *lyingDeal, _ int, _ byte) { l.d.Round++ }},
		{"a commitment exchanged", 5, nil, func(l *lyingDeal, at int, by byte) { l.d.Commits[at][0] ^= by }},
		{"a proof of something else", 1, nil, func(l *lyingDeal, _ int, by byte) {
			l.d.Proof[shamir.MaskWidth+int(by)%(len(l.d.Proof)-shamir.MaskWidth)] ^= by
		}},
		{"a proof that is not zero at the corner", 5, nil, func(l *lyingDeal, _ int, by byte) { l.d.Proof[int(by)%shamir.MaskWidth] ^= by }},
		{"a proof of zeros", 4, nil, func(l *lyingDeal, _ int, _ byte) { clear(l.d.Proof) }},
		{"rows of another dealing", 4, nil, func(l *lyingDeal, _ int, _ byte) {
			rows, _, err := shamir.DealZero(l.e.Xs(), int(l.e.K), func([]shamir.Row) [32]byte { return [32]byte{} })
			if err == nil {
				for i, r := range rows {
					l.plain[i] = r.Encode()
					l.d.Commits[i] = l.d.DealtCommitment(l.e.Seats[i].X, l.plain[i])
				}
			}
		}},
	}
}

// 1,020 malicious dealings of every kind, signed and sealed as they must be: each
// is refused by the seats that it harms, and none that changes the secret gets
// the acknowledgements of w.
func TestMaliciousDealingsAtHolders(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, _ Person, id key.Hash, _ []byte) {
		for _, n := range f.nodes {
			if err := n.store.cust.load(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		dealer := f.nodes[1]
		e := dealer.held(t, id)
		r := rand.New(rand.NewPCG(1, 2))
		count := 0
		for _, lie := range dealtLies() {
			for range 60 {
				d, boxes := lyingDealing(t, f, dealer, e, lie, r.IntN(5), byte(1+r.IntN(255)))
				refused := 0
				for i, seat := range e.Seats {
					n := f.node(seat.Node)
					row := n.store.cust.openDealt(n.held(t, id), d, d.Epoch, boxes[i])
					refused += btoi(row == nil)
				}
				if refused < lie.refuse {
					t.Fatalf("%s: %d seats refuse it and %d must", lie.name, refused, lie.refuse)
				}
				count++
			}
		}
		if count < 1000 {
			t.Fatalf("%d dealings", count)
		}
		honest := dealtLie{name: "honest"}
		d, boxes := lyingDealing(t, f, dealer, e, honest, 0, 1)
		for i, seat := range e.Seats {
			n := f.node(seat.Node)
			if n.store.cust.openDealt(n.held(t, id), d, d.Epoch, boxes[i]) == nil {
				t.Fatal("an honest dealing is refused: the test proves nothing")
			}
		}
	})
}

func lyingDealing(t *testing.T, f *fakeNet, dealer *fakeNode, e *stored, lie dealtLie, at int, by byte) (*share.Dealing, [][]byte) {
	t.Helper()
	l := &lyingDeal{e: e, d: share.Dealing{Manifest: e.Hash, Epoch: 1, Round: 1, X: e.x, Node: dealer.id}}
	xs := e.Xs()
	var err error
	l.rows, l.d.Proof, err = shamir.DealZero(xs, int(e.K), func(rows []shamir.Row) [32]byte {
		if lie.rows != nil {
			lie.rows(xs, rows, by)
		}
		for i, r := range rows {
			l.d.Commits = append(l.d.Commits, l.d.DealtCommitment(xs[i], r.Encode()))
		}
		return l.d.Seed(xs)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, seat := range e.Seats {
		l.d.Nodes = append(l.d.Nodes, seat.Node)
		l.plain = append(l.plain, l.rows[i].Encode())
		l.info = append(l.info, dealtInfo(e, seat.X, 1, seat.Node))
		l.to = append(l.to, f.node(seat.Node).seal.Public())
	}
	if lie.after != nil {
		lie.after(l, at, by)
	}
	var boxes [][]byte
	for i := range xs {
		box, err := seal.To(l.to[i], l.info[i], l.plain[i])
		if err != nil {
			t.Fatal(err)
		}
		boxes = append(boxes, box)
		l.d.Boxes = append(l.d.Boxes, share.BoxHash(box))
	}
	o := share.SignDealing(dealer.key, f.id, l.d)
	d, err := share.OpenDealing(f.id, o, e.SignedManifest, e.Seated)
	if err != nil {
		t.Fatalf("%s: %v: it must get as far as the seats", lie.name, err)
	}
	return d, boxes
}

// The rules of rounds, one seat, pure: what it has acknowledged and put in force
// forbids, and what lets it go.
func TestRulesOfRounds(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, _ Person, id key.Hash, _ []byte) {
		seats := make([]*stored, 5)
		states := make([]*secretState, 5)
		for i, n := range f.nodes {
			s, err := n.store.cust.peek(context.Background(), id)
			if err != nil || s.committed == nil {
				t.Fatal(err)
			}
			states[i], seats[i] = s, s.committed
		}
		w := &roundWorld{t: t, f: f, m: seats[0].version, states: states}
		a1, b1, b2 := w.bundle(1), w.bundle(1), w.bundle(2)
		a3 := w.again(a1, 3)

		last := seats[0].lastRound(unix()) + roundSlack
		w.ack(0, w.bundle(last+60), nil, custody.Refused) // a liar would use the rounds up
		w.ack(0, w.bundle(1<<63), nil, custody.Refused)
		w.ack(0, a1, nil, custody.OK)
		w.ack(0, a1, nil, custody.OK) // the same again
		w.ack(0, w.again(a1, last+60), nil, custody.Refused)
		w.ack(0, b1, nil, custody.Conflict) // another of the round
		for i := 1; i < 4; i++ {
			w.ack(i, a1, nil, custody.OK)
		}
		epochA := w.epoch(a1, 0, 1, 2, 3)
		w.commit(0, a1, epochA, nil, custody.OK)
		w.ack(0, b2, nil, custody.Conflict) // it has put others in force
		w.ack(1, b2, nil, custody.OK)
		w.commit(1, a1, epochA, nil, custody.Conflict) // it has acknowledged a later round
		w.ack(1, a1, nil, custody.Conflict)
		w.ack(0, a3, nil, custody.OK) // the same dealings again
		w.ack(1, a3, nil, custody.OK)
		w.ack(2, a3, nil, custody.OK)
		w.ack(3, a3, nil, custody.OK)
		epochA3 := w.epoch(a3, 0, 1, 2, 3)
		w.commit(1, a3, epochA3, nil, custody.OK)
		if e := w.states[1].committed; e.epoch != 1 || e.refresh.base == nil || e.refresh.base.epoch != 0 {
			t.Fatalf("the old row is not kept: %+v", e.refresh)
		}
		// w words of one Epoch, never of two, let the old row go.
		w.commit(1, a3, epochA3, w.words(epochA3, 0, 2), custody.OK)
		if w.states[1].committed.refresh.base == nil {
			t.Fatal("the old row went with three words of four")
		}
		w.commit(1, a3, epochA3, w.words(epochA3, 0, 2, 3), custody.OK)
		if e := w.states[1].committed; e.refresh == nil || e.refresh.base != nil {
			t.Fatal("the old row stays with four words")
		}
		w.ack(1, w.bundle(4), nil, custody.Conflict) // the epoch is over
		// A seat that acknowledged a later round goes over when w have signed.
		w.ack(4, w.bundle(9), nil, custody.OK)
		w.commit(4, a3, epochA3, nil, custody.Conflict)
		w.commit(4, a3, epochA3, w.words(epochA3, 0, 1, 2, 3), custody.OK)
		if e := w.states[4].committed; e.epoch != 1 || e.refresh != nil && e.refresh.base != nil {
			t.Fatalf("%d %+v", e.epoch, e.refresh)
		}
	})
}

// A seat that put dealings in force acknowledges others for which an Epoch of a
// later round is shown.
func TestEpochOfALaterRoundLetsGo(t *testing.T) {
	refreshBubble(t, func(t *testing.T, f *fakeNet, _ Person, id key.Hash, _ []byte) {
		w := &roundWorld{t: t, f: f}
		for _, n := range f.nodes {
			s, err := n.store.cust.peek(context.Background(), id)
			if err != nil || s.committed == nil {
				t.Fatal(err)
			}
			w.states, w.m = append(w.states, s), s.committed.version
		}
		a1, c2 := w.bundle(1), w.bundle(2)
		for i := range 4 {
			w.ack(i, a1, nil, custody.OK)
		}
		epochA := w.epoch(a1, 0, 1, 2, 3)
		w.commit(0, a1, epochA, nil, custody.OK)
		for i := 1; i < 5; i++ {
			w.ack(i, c2, nil, custody.OK)
		}
		epochC := w.epoch(c2, 1, 2, 3, 4)
		c3 := w.again(c2, 3)
		w.ack(0, c3, nil, custody.Conflict)
		w.ack(0, c3, epochA, custody.Conflict) // of a round that is not later
		w.ack(0, c3, epochC, custody.OK)
		w.commit(0, c2, epochC, nil, custody.Conflict) // it has acknowledged round 3
		for i := 1; i < 4; i++ {
			w.ack(i, c3, nil, custody.OK)
		}
		w.commit(0, c3, w.epoch(c3, 0, 1, 2, 3), nil, custody.OK)
		if e := w.states[0].committed; e.epoch != 1 || e.refresh.base == nil || e.refresh.now.Dealt != c3.bundle.Dealt {
			t.Fatalf("%+v", e.refresh)
		}
		for i := range w.states {
			if s := w.states[i]; s.committed.refresh.base == nil && s.committed.epoch > 0 {
				t.Fatal("an old row went without w words")
			}
		}
	})
}

// roundWorld runs the pure steps of five seats of one manifest.
type roundWorld struct {
	t      *testing.T
	f      *fakeNet
	m      *version
	states []*secretState
}

// roundBundle is a bundle with every seat's row of the epoch it leads to.
type roundBundle struct {
	bundle *share.OpenedBundle
	bytes  []byte
	rows   map[uint8]shamir.Row
}

func (w *roundWorld) facts(i int) holderFacts {
	return holderFacts{net: w.f.id, self: w.f.nodes[i].id, now: unix(), operator: "op", full: func(demand) string { return "" }}
}

// bundle is k honest dealings.
func (w *roundWorld) bundle(round uint64) *roundBundle {
	w.t.Helper()
	out := &roundBundle{rows: make(map[uint8]shamir.Row)}
	b := &share.RefreshBundle{Manifest: w.m.Hash, Epoch: 1, Round: round}
	deltas := make(map[uint8][]shamir.Row)
	seats := append([]share.Seat(nil), w.m.Seats...)
	for x := range 256 {
		seat := w.m.SeatAt(uint8(x))
		if seat == nil || len(b.Dealings) == int(w.m.K) {
			continue
		}
		d := share.Dealing{Manifest: w.m.Hash, Epoch: 1, Round: round, X: seat.X, Node: seat.Node}
		rows, proof, err := shamir.DealZero(w.m.Xs(), int(w.m.K), func(rows []shamir.Row) [32]byte {
			for i, r := range rows {
				d.Commits = append(d.Commits, d.DealtCommitment(seats[i].X, r.Encode()))
			}
			return d.Seed(w.m.Xs())
		})
		if err != nil {
			w.t.Fatal(err)
		}
		d.Proof = proof
		for i, r := range rows {
			d.Boxes, d.Nodes = append(d.Boxes, key.Hash{1}), append(d.Nodes, seats[i].Node)
			deltas[seats[i].X] = append(deltas[seats[i].X], r)
		}
		b.Dealings = append(b.Dealings, share.SignDealing(w.f.node(seat.Node).key, w.f.id, d))
	}
	out.bytes = b.Encode()
	var err error
	if out.bundle, err = share.OpenRefreshBundle(w.f.id, out.bytes, w.m.SignedManifest, w.m.Seated); err != nil {
		w.t.Fatal(err)
	}
	for i := range w.states {
		e := w.states[i].committed
		base, err := w.f.nodes[i].store.cust.loadRowAt(e, share.Place{Bucket: share.BucketRow, ID: e.ID, Gen: e.Gen, X: e.x, Sub: e.Hash}, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		if out.rows[e.x], err = base.Add(deltas[e.x]...); err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// again is the same dealings in another round.
func (w *roundWorld) again(b *roundBundle, round uint64) *roundBundle {
	w.t.Helper()
	c := b.bundle.RefreshBundle
	c.Round = round
	out := &roundBundle{bytes: c.Encode(), rows: b.rows}
	var err error
	if out.bundle, err = share.OpenRefreshBundle(w.f.id, out.bytes, w.m.SignedManifest, w.m.Seated); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *roundWorld) ack(i int, b *roundBundle, proof *share.OpenedEpoch, want uint8) *share.EpochAck {
	w.t.Helper()
	s := w.states[i]
	r := s.acknowledge(w.facts(i), ackMsg{bundle: b.bundle, bytes: b.bytes, row: b.rows[s.committed.x], proof: proof})
	if r.outcome != want || (r.ack != nil) != (want == custody.OK) || want != custody.OK && r.next != nil {
		w.t.Fatalf("seat %d acknowledges round %d: outcome %d, not %d: %s", i, b.bundle.Round, r.outcome, want, r.why)
	}
	if r.next != nil {
		w.states[i] = w.reload(r)
	}
	return r.ack
}

// reload is a crash: only what was written is known.
func (w *roundWorld) reload(r stepResult) *secretState {
	w.t.Helper()
	recs := r.records()
	var rec stateRecord
	if err := key.Unmarshal(recs[len(recs)-1].Value, &rec); err != nil {
		w.t.Fatal(err)
	}
	s, err := stateOf(w.f.id, r.next.id, &rec, func(b []byte) (*version, error) { return readVersion(w.f.id, b) })
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// epoch is the Epoch of a bundle with these seats' acknowledgements.
func (w *roundWorld) epoch(b *roundBundle, of ...int) *share.OpenedEpoch {
	w.t.Helper()
	e := &share.Epoch{Manifest: w.m.Hash, Bundle: b.bundle.Hash, Epoch: 1, Round: b.bundle.Round}
	for x := range 256 {
		for _, i := range of {
			if st := w.states[i].committed; int(st.x) == x {
				a, err := st.ackOf(b.bundle.Hash, 1, b.bundle.Round, b.rows[st.x])
				if err != nil {
					w.t.Fatal(err)
				}
				e.Acks = append(e.Acks, share.SignEpochAck(w.f.nodes[i].key, w.f.id, *a))
			}
		}
	}
	out, err := share.OpenEpoch(w.f.id, e.Encode(), w.m.SignedManifest, w.m.Seated)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *roundWorld) words(e *share.OpenedEpoch, of ...int) (out []seatWord) {
	for _, i := range of {
		x := w.states[i].committed.x
		o := share.SignReceipt(w.f.nodes[i].key, w.f.id, key.TypeCommitted, share.Receipt{Manifest: e.Bundle, Epoch: 1, X: x, Time: 1})
		out = append(out, seatWord{X: x, Word: o.Encode()})
	}
	return out
}

func (w *roundWorld) commit(i int, b *roundBundle, e *share.OpenedEpoch, words []seatWord, want uint8) {
	w.t.Helper()
	s := w.states[i]
	r := s.commitEpoch(w.facts(i), epochMsg{proof: e, dealt: b.bundle.Dealt, row: b.rows[s.committed.x], words: words})
	if r.outcome != want || (r.sign != nil) != (want == custody.OK) {
		w.t.Fatalf("seat %d commits round %d: outcome %d, not %d: %s", i, e.Round, r.outcome, want, r.why)
	}
	if r.next != nil {
		w.states[i] = w.reload(r)
	}
}
