package share

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"keymesh/crypto/key"
)

// dealingBy is a dealing of node i's seat for m, of the right shape.
func dealingBy(m *SignedManifest, i int, x uint8) Dealing {
	d := Dealing{Manifest: m.Hash, Epoch: 1, Round: 1, X: x, Node: node(i).ID(), Proof: bytes.Repeat([]byte{0x3c}, int(m.K)*(int(m.K)+1)/2*proofUnit)}
	for _, s := range m.Seats {
		d.Commits = append(d.Commits, d.DealtCommitment(s.X, bytes.Repeat([]byte{s.X ^ x}, int(m.K)*48)))
		d.Boxes = append(d.Boxes, BoxHash([]byte{s.X, x}))
		d.Nodes = append(d.Nodes, s.Node)
	}
	return d
}

func signedDealing(m *SignedManifest, i int, x uint8) key.Object {
	return SignDealing(node(i), testNet, dealingBy(m, i, x))
}

// common is F(x, y) of the tests.
func common(x, y uint8) []byte {
	h := key.T("keymesh/v1/test", []byte{min(x, y), max(x, y)})
	return h[:]
}

func ackBy(m *SignedManifest, bundle key.Hash, s at) EpochAck {
	a := EpochAck{Manifest: m.Hash, Bundle: bundle, Epoch: 1, Round: 1, X: s.x, Node: node(s.i).ID(), C: fill(s.x)}
	for _, o := range m.Seats {
		var t key.Hash
		if o.X != s.x {
			t = PairTag(bundle, s.x, o.X, common(s.x, o.X))
		}
		a.Pairs = append(a.Pairs, t)
	}
	return a
}

func signedAck(m *SignedManifest, bundle key.Hash, s at) key.Object {
	return SignEpochAck(node(s.i), testNet, ackBy(m, bundle, s))
}

func openDealingBytes(m *SignedManifest) func(key.NetworkID, []byte) ([]byte, error) {
	return func(net key.NetworkID, b []byte) ([]byte, error) {
		o, err := key.DecodeObject(b)
		if err != nil {
			return nil, err
		}
		return again(OpenDealing(net, o, m, m.Seated))
	}
}

func openEpochAckBytes(m *SignedManifest) func(key.NetworkID, []byte) ([]byte, error) {
	return func(net key.NetworkID, b []byte) ([]byte, error) {
		o, err := key.DecodeObject(b)
		if err != nil {
			return nil, err
		}
		return again(OpenEpochAck(net, o, m, m.Seated))
	}
}

func bundleOf(m *SignedManifest) *RefreshBundle {
	return &RefreshBundle{Manifest: m.Hash, Epoch: 1, Round: 1, Dealings: []key.Object{signedDealing(m, 0, 1), signedDealing(m, 1, 2), signedDealing(m, 2, 3)}}
}

func epochOf(m *SignedManifest) *Epoch {
	bundle := BundleHash(testNet, bundleOf(m).Encode())
	e := &Epoch{Manifest: m.Hash, Bundle: bundle, Epoch: 1, Round: 1}
	for _, s := range []at{{1, 0}, {2, 1}, {3, 2}, {5, 4}} {
		e.Acks = append(e.Acks, signedAck(m, bundle, s))
	}
	return e
}

func TestDealingRules(t *testing.T) {
	m := plain(1).sign(t)
	if _, err := OpenDealing(testNet, signedDealing(m, 1, 2), m, m.Seated); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Dealing){
		"another manifest":   func(d *Dealing) { d.Manifest = fill(1) },
		"epoch 0":            func(d *Dealing) { d.Epoch = 0 },
		"round 0":            func(d *Dealing) { d.Round = 0 },
		"another's seat":     func(d *Dealing) { d.X = 3 },
		"no seat":            func(d *Dealing) { d.X = 77 },
		"x = 0":              func(d *Dealing) { d.X = 0 },
		"a commitment less":  func(d *Dealing) { d.Commits = d.Commits[1:] },
		"a commitment more":  func(d *Dealing) { d.Commits = append(d.Commits, fill(1)) },
		"a box less":         func(d *Dealing) { d.Boxes = d.Boxes[1:] },
		"a node less":        func(d *Dealing) { d.Nodes = d.Nodes[1:] },
		"a short proof":      func(d *Dealing) { d.Proof = d.Proof[1:] },
		"the proof of k = 2": func(d *Dealing) { d.Proof = d.Proof[:3*proofUnit] },
		"too long":           func(d *Dealing) { d.Head = key.Head{Ext: map[uint64][]byte{1: make([]byte, MaxDealing)}} },
	} {
		d := dealingBy(m, 1, 2)
		change(&d)
		if _, err := OpenDealing(testNet, SignDealing(node(1), testNet, d), m, m.Seated); !errors.Is(err, ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := dealingBy(m, 1, 2) // names a seat's node, signed by another one
	if _, err := OpenDealing(testNet, key.Sign(node(2), testNet, key.TypeDealing, key.Marshal(&other)), m, m.Seated); !errors.Is(err, ErrRefresh) {
		t.Errorf("another signer: %v", err)
	}
	moved := func(x uint8, n key.NodeID) bool { return m.Seated(x, n) || x == 2 && n == node(9).ID() }
	if _, err := OpenDealing(testNet, SignDealing(node(9), testNet, dealingBy(m, 1, 2)), m, moved); err != nil {
		t.Errorf("the new holder of a seat: %v", err)
	}
}

func TestRefreshBundleRules(t *testing.T) {
	m := plain(1).sign(t)
	b, err := OpenRefreshBundle(testNet, bundleOf(m).Encode(), m, m.Seated)
	if err != nil || len(b.Opened) != 3 || b.Hash != BundleHash(testNet, bundleOf(m).Encode()) {
		t.Fatal(err)
	}
	dealt := func(change func(*Dealing)) key.Object {
		d := dealingBy(m, 2, 3)
		change(&d)
		return SignDealing(node(2), testNet, d)
	}
	for name, change := range map[string]func(*RefreshBundle){
		"another manifest":         func(b *RefreshBundle) { b.Manifest = fill(1) },
		"k-1 dealings":             func(b *RefreshBundle) { b.Dealings = b.Dealings[:2] },
		"k+1 dealings":             func(b *RefreshBundle) { b.Dealings = append(b.Dealings, signedDealing(m, 3, 4)) },
		"out of order":             func(b *RefreshBundle) { slices.Reverse(b.Dealings) },
		"one dealer twice":         func(b *RefreshBundle) { b.Dealings[1] = b.Dealings[0] },
		"a dealing of epoch 2":     func(b *RefreshBundle) { b.Dealings[2] = dealt(func(d *Dealing) { d.Epoch = 2 }) },
		"a dealing of a later one": func(b *RefreshBundle) { b.Dealings[2] = dealt(func(d *Dealing) { d.Round = 2 }) },
		"dealings of two rounds": func(b *RefreshBundle) {
			b.Round, b.Dealings[2] = 2, dealt(func(d *Dealing) { d.Round = 2 })
		},
		"dealings for other nodes": func(b *RefreshBundle) {
			b.Dealings[2] = dealt(func(d *Dealing) { d.Nodes = slices.Clone(d.Nodes); d.Nodes[0] = node(9).ID() })
		},
		"extensions": func(b *RefreshBundle) { b.Ext = map[uint64][]byte{1: {1}} },
	} {
		c := bundleOf(m)
		change(c)
		if _, err := OpenRefreshBundle(testNet, c.Encode(), m, m.Seated); !errors.Is(err, ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
	again := bundleOf(m)
	again.Round = 7
	c, err := OpenRefreshBundle(testNet, again.Encode(), m, m.Seated)
	if err != nil || c.Dealt != b.Dealt || c.Hash == b.Hash || c.HashIn(testNet, 1) != b.Hash || b.HashIn(testNet, 7) != c.Hash {
		t.Errorf("the same dealings in a later round: %v", err)
	}
	if _, err := OpenRefreshBundle(testNet, make([]byte, MaxRefreshBundle+1), m, m.Seated); !errors.Is(err, ErrRefresh) {
		t.Errorf("too long: %v", err)
	}
}

func TestEpochAckRules(t *testing.T) {
	m := plain(1).sign(t)
	for name, change := range map[string]func(*EpochAck){
		"another manifest":  func(a *EpochAck) { a.Manifest = fill(1) },
		"epoch 0":           func(a *EpochAck) { a.Epoch = 0 },
		"round 0":           func(a *EpochAck) { a.Round = 0 },
		"another's seat":    func(a *EpochAck) { a.X = 3 },
		"no seat":           func(a *EpochAck) { a.X = 99 },
		"a pair less":       func(a *EpochAck) { a.Pairs = a.Pairs[1:] },
		"a pair zero":       func(a *EpochAck) { a.Pairs[0] = key.Hash{} },
		"a pair of its own": func(a *EpochAck) { a.Pairs[1] = fill(1) },
	} {
		a := ackBy(m, fill(0xb1), at{2, 1})
		change(&a)
		if _, err := OpenEpochAck(testNet, SignEpochAck(node(1), testNet, a), m, m.Seated); !errors.Is(err, ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEpochRules(t *testing.T) {
	m := plain(1).sign(t)
	good := epochOf(m)
	e, err := OpenEpoch(testNet, good.Encode(), m, m.Seated)
	if err != nil || e.Number() != 1 || !slices.Equal(e.Acked(), []uint8{1, 2, 3, 5}) || e.Ack(2) == nil || e.Ack(4) != nil {
		t.Fatal(err)
	}
	ack := func(s at, change func(*EpochAck)) key.Object {
		a := ackBy(m, good.Bundle, s)
		change(&a)
		return SignEpochAck(node(s.i), testNet, a)
	}
	for name, change := range map[string]func(*Epoch){
		"another manifest":   func(e *Epoch) { e.Manifest = fill(1) },
		"another bundle":     func(e *Epoch) { e.Bundle = fill(1) },
		"another epoch":      func(e *Epoch) { e.Epoch = 2 },
		"another round":      func(e *Epoch) { e.Round = 2 },
		"w-1 of them":        func(e *Epoch) { e.Acks = e.Acks[1:] },
		"one twice":          func(e *Epoch) { e.Acks[1] = e.Acks[0] },
		"out of order":       func(e *Epoch) { slices.Reverse(e.Acks) },
		"one of another":     func(e *Epoch) { e.Acks[3] = ack(at{5, 4}, func(a *EpochAck) { a.Bundle = fill(3) }) },
		"one of round 2":     func(e *Epoch) { e.Acks[3] = ack(at{5, 4}, func(a *EpochAck) { a.Round = 2 }) },
		"one does not agree": func(e *Epoch) { e.Acks[3] = ack(at{5, 4}, func(a *EpochAck) { a.Pairs[0] = fill(3) }) },
		"extensions":         func(e *Epoch) { e.Ext = map[uint64][]byte{1: {1}} },
	} {
		c := epochOf(m)
		change(c)
		if _, err := OpenEpoch(testNet, c.Encode(), m, m.Seated); !errors.Is(err, ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What a liar tells of a seat that did not acknowledge spoils nothing here.
	c := epochOf(m)
	c.Acks[3] = ack(at{5, 4}, func(a *EpochAck) { a.Pairs[3] = fill(3) })
	if _, err := OpenEpoch(testNet, c.Encode(), m, m.Seated); err != nil {
		t.Error(err)
	}
	if r, err := ReadEpoch(good.Encode(), m); err != nil || !slices.Equal(r.Acked(), e.Acked()) {
		t.Error(err)
	}
	if _, err := OpenEpoch(testNet, make([]byte, MaxEpoch+1), m, m.Seated); !errors.Is(err, ErrRefresh) {
		t.Error(err)
	}
}

// Liars who agree with some and not with others do not keep honest seats apart.
func TestAgreeing(t *testing.T) {
	m := plain(1).sign(t)
	bundle := key.Hash(fill(0xb1))
	all := func() []*EpochAck {
		var out []*EpochAck
		for i := range 5 {
			a := ackBy(m, bundle, at{uint8(i + 1), i})
			out = append(out, &a)
		}
		return out
	}
	xs := func(acks []*EpochAck) (out []uint8) {
		for _, a := range acks {
			out = append(out, a.X)
		}
		return out
	}
	if got := xs(Agreeing(&m.Manifest, all())); !slices.Equal(got, []uint8{1, 2, 3, 4, 5}) {
		t.Errorf("all honest: %v", got)
	}
	for liar := range 5 {
		for _, towards := range [][]int{{0, 1, 2, 3, 4}, {(liar + 1) % 5, (liar + 2) % 5}} {
			acks := all()
			for _, i := range towards {
				if i != liar {
					acks[liar].Pairs[i] = fill(9)
				}
			}
			got := Agreeing(&m.Manifest, acks)
			if len(got) != 4 || slices.Contains(xs(got), uint8(liar+1)) {
				t.Errorf("liar x = %d: %v", liar+1, xs(got))
			}
		}
		acks := all()
		acks[liar].Pairs[(liar+1)%5] = fill(9) // towards one: either may go
		if got := Agreeing(&m.Manifest, acks); len(got) != 4 {
			t.Errorf("liar towards one: %v", xs(got))
		}
	}
	acks := all()
	if got := Agreeing(&m.Manifest, append(acks, acks[0])); len(got) != 5 {
		t.Errorf("one ack twice: %v", xs(got))
	}
	if got := Agreeing(&m.Manifest, nil); len(got) != 0 {
		t.Errorf("none: %v", got)
	}
}

func TestCheckRowOfAnEpoch(t *testing.T) {
	m := plain(1).sign(t)
	e, err := OpenEpoch(testNet, epochOf(m).Encode(), m, m.Seated) // x = 4 did not acknowledge
	if err != nil {
		t.Fatal(err)
	}
	row := make([]byte, int(m.K)*DataKeySize)
	// wrong is a row of x that has another value with these seats.
	wrong := func(x uint8, with ...uint8) func(uint8) ([]byte, error) {
		return func(y uint8) ([]byte, error) {
			if slices.Contains(with, y) {
				return common(x, 200), nil
			}
			return common(x, y), nil
		}
	}
	for name, c := range map[string]struct {
		x    uint8
		with []uint8
		want bool
	}{
		"inside, right":                   {2, nil, true},
		"inside, one value wrong":         {2, []uint8{5}, false},
		"outside, right":                  {4, nil, true},
		"outside, one of w told it wrong": {4, []uint8{5}, true},
		"outside, fewer than k right":     {4, []uint8{5, 1}, false},
		"no seat":                         {9, nil, false},
		"x = 0":                           {0, nil, false},
	} {
		if got := e.CheckRow(c.x, row, wrong(c.x, c.with...)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if e.CheckRow(2, row[1:], wrong(2)) {
		t.Error("a short row is good")
	}
	if e.CheckRow(2, row, func(uint8) ([]byte, error) { return nil, ErrRefresh }) {
		t.Error("a row that cannot be evaluated is good")
	}
}

// FuzzOpenEpoch: what is accepted re-encodes to the same bytes and has w seats.
func FuzzOpenEpoch(f *testing.F) {
	m := plain(1).sign(f)
	f.Add(epochOf(m).Encode())
	f.Add((&Epoch{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := OpenEpoch(testNet, b, m, m.Seated)
		if err == nil && (!bytes.Equal(e.Encode(), b) || len(e.Acked()) < int(m.W)) {
			t.Fatal("an epoch of too few, or that does not re-encode")
		}
		if r, err := ReadEpoch(b, m); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Fatal("does not re-encode")
		}
	})
}

// FuzzOpenRefreshBundle: likewise.
func FuzzOpenRefreshBundle(f *testing.F) {
	m := plain(1).sign(f)
	f.Add(bundleOf(m).Encode())
	f.Add((&RefreshBundle{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := OpenRefreshBundle(testNet, b, m, m.Seated)
		if err == nil && (!bytes.Equal(o.Encode(), b) || len(o.Opened) != int(m.K)) {
			t.Fatal("a bundle of another number of dealings, or that does not re-encode")
		}
	})
}

// The largest shape stays within the limits.
func TestSizesOfARefresh(t *testing.T) {
	salt, id := ids()
	m := fixed{Manifest{ID: id, Owner: owner().Public(), Salt: salt, Gen: 1, Suite: SuiteShamir, K: MaxSeats, W: MaxSeats, KC: fill(1), Payload: fill(2), Length: 9, Policy: []byte("p"), Created: created}}
	var keys []key.NodePrivate
	for x := range MaxSeats {
		k, err := seeded(Context(id, uint64(x), 0))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		m.Seats = append(m.Seats, Seat{X: uint8(200 + x), Node: k.ID()})
	}
	s := m.sign(t)
	b := &RefreshBundle{Manifest: s.Hash, Epoch: 1 << 31, Round: 1 << 31}
	for i, seat := range s.Seats {
		d := dealingBy(s, 0, seat.X)
		d.Epoch, d.Round = b.Epoch, b.Round
		b.Dealings = append(b.Dealings, SignDealing(keys[i], testNet, d))
	}
	if _, err := OpenRefreshBundle(testNet, b.Encode(), s, s.Seated); err != nil {
		t.Fatal(len(b.Encode()), err)
	}
	e := &Epoch{Manifest: s.Hash, Bundle: fill(1), Epoch: 1 << 31, Round: 1 << 31}
	for i, seat := range s.Seats {
		a := ackBy(s, fill(1), at{seat.X, 0})
		a.Epoch, a.Round = e.Epoch, e.Round
		e.Acks = append(e.Acks, SignEpochAck(keys[i], testNet, a))
	}
	if _, err := OpenEpoch(testNet, e.Encode(), s, s.Seated); err != nil {
		t.Fatal(len(e.Encode()), err)
	}
}
