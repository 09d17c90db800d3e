package share

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"keymesh/crypto/key"
)

var updateReassign = flag.Bool("update-reassign", false, "write testdata/reassign.txt anew")

// standbyManifest is 3-of-5 with w = 4 that lets its seats move to node 7 or 8.
func standbyManifest(t testing.TB) *SignedManifest {
	m := plain(1)
	m.Repair, m.Standby = RepairQuorum, []key.NodeID{node(7).ID(), node(8).ID(), node(9).ID()}
	return m.sign(t)
}

// firstMove gives seat 2 of m, node 1's, to node 7.
func firstMove(m *SignedManifest) Reassign {
	return Reassign{Manifest: m.Hash, X: 2, Seq: 1, Old: node(1).ID(), New: node(7).ID(), Time: created + 100}
}

func byOwner(t testing.TB, m *SignedManifest, r Reassign) *SignedReassign {
	return opened(t, m, SignReassign(owner(), testNet, r))
}

func bySeats(t testing.TB, m *SignedManifest, r Reassign, nodes ...int) *SignedReassign {
	var all []key.Object
	for _, i := range nodes {
		all = append(all, SignReassign(node(i), testNet, r))
	}
	return opened(t, m, all...)
}

func opened(t testing.TB, m *SignedManifest, all ...key.Object) *SignedReassign {
	t.Helper()
	b, err := JoinReassign(all...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReassign(testNet, b, m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Bytes(), b) {
		t.Fatal("other bytes than were read")
	}
	return r
}

func mustAdd(t testing.TB, p *Placement, r *SignedReassign) {
	t.Helper()
	if changed, err := p.Add(r); err != nil || !changed {
		t.Fatal(changed, err)
	}
}

func TestReassignChain(t *testing.T) {
	m := standbyManifest(t)
	p := NewPlacement(m, true)
	one := byOwner(t, m, firstMove(m))
	mustAdd(t, p, one)
	if changed, err := p.Add(one); changed || err != nil {
		t.Fatal("the same again", changed, err)
	}
	if p.Holder(2) != node(7).ID() || p.SeatOf(node(7).ID()) != 2 || p.SeatOf(node(1).ID()) != 0 || p.Holder(1) != node(0).ID() || p.Holder(9) != (key.NodeID{}) || p.Holder(0) != (key.NodeID{}) {
		t.Fatal("holders")
	}
	next := firstMove(m)
	next.Seq, next.Prev, next.Old, next.New = 2, one.Hash, node(7).ID(), node(1).ID()
	mustAdd(t, p, byOwner(t, m, next)) // back to where it was
	if placed := p.Placed(); placed.Hash != m.Hash || placed.SeatOf(node(1).ID()) == nil || &placed.Seats[0] == &m.Seats[0] {
		t.Fatal("placed")
	}
	if m.SeatOf(node(7).ID()) != nil {
		t.Fatal("the manifest itself was changed")
	}
}

// Whatever does not follow, or whoever may not say so, moves nothing.
func TestReassignRefused(t *testing.T) {
	m := standbyManifest(t)
	base := func() *Placement {
		p := NewPlacement(m, true)
		mustAdd(t, p, byOwner(t, m, firstMove(m)))
		return p
	}
	last := base().Last(2).Hash
	second := Reassign{Manifest: m.Hash, X: 2, Seq: 2, Prev: last, Old: node(7).ID(), New: node(8).ID(), Time: created}
	edit := func(f func(*Reassign)) Reassign { r := second; f(&r); return r }
	for name, r := range map[string]*SignedReassign{
		"skips a seq":           byOwner(t, m, edit(func(r *Reassign) { r.Seq = 3 })),
		"another before":        byOwner(t, m, edit(func(r *Reassign) { r.Prev = fill(9) })),
		"not the holder":        byOwner(t, m, edit(func(r *Reassign) { r.Old = node(1).ID() })),
		"to a seat":             byOwner(t, m, edit(func(r *Reassign) { r.New = node(0).ID() })),
		"to another's old seat": byOwner(t, m, Reassign{Manifest: m.Hash, X: 1, Seq: 1, Old: node(0).ID(), New: node(1).ID()}),
		"to another's new seat": byOwner(t, m, Reassign{Manifest: m.Hash, X: 1, Seq: 1, Old: node(0).ID(), New: node(7).ID()}),
		"by three seats":        bySeats(t, m, second, 0, 2, 3),
		"by strangers":          bySeats(t, m, second, 0, 2, 3, 9, 10, 11),
		"both of one seat":      bySeats(t, m, second, 0, 2, 1, 7),
		"by no standby":         bySeats(t, m, edit(func(r *Reassign) { r.New = node(12).ID() }), 0, 2, 3, 4),
	} {
		p := base()
		if changed, err := p.Add(r); !errors.Is(err, ErrReassign) || changed || p.Last(2).Hash != last || len(p.Moves()) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustAdd(t, base(), bySeats(t, m, second, 0, 2, 3, 4)) // and this is what they all lack
	plainOne := plain(1).sign(t)
	r := firstMove(plainOne)
	if _, err := NewPlacement(plainOne, true).Add(bySeats(t, plainOne, r, 0, 2, 3, 4)); !errors.Is(err, ErrReassign) {
		t.Error("seats move what only the owner may")
	}
}

// Where the owner's word alone does not satisfy the policy it moves nothing, and
// its signature does not spoil what the seats move.
func TestReassignNotAlone(t *testing.T) {
	m := standbyManifest(t)
	p := NewPlacement(m, false)
	theft := firstMove(m)
	theft.New = node(12).ID()
	for _, r := range []*SignedReassign{byOwner(t, m, theft), byOwner(t, m, firstMove(m))} {
		if changed, err := p.Add(r); changed || !errors.Is(err, ErrReassign) {
			t.Fatal(changed, err)
		}
		if got, err := p.Open(testNet, r.Bytes()); got != nil || err != nil {
			t.Fatal(got, err)
		}
	}
	seats := firstMove(m)
	seats.Time = 0
	mustAdd(t, p, bySeats(t, m, seats, 0, 2, 3, 4))
	if changed, _ := p.Add(byOwner(t, m, theft)); changed || p.Holder(2) != node(7).ID() {
		t.Fatal("the owner's takes its place")
	}
}

// Of what would not count no signature is verified; of what would, all are.
func TestPlacementOpen(t *testing.T) {
	m := standbyManifest(t)
	r := firstMove(m)
	for name, b := range map[string]struct {
		bytes []byte
		lie   bool
	}{
		"of strangers":   {bySeats(t, m, r, 9, 10, 11, 12).Bytes(), false},
		"with strangers": {bySeats(t, m, r, 0, 2, 3, 4, 9).Bytes(), false},
		"too few":        {bySeats(t, m, r, 0, 2, 3).Bytes(), false},
		"w seats":        {bySeats(t, m, r, 0, 2, 3, 4).Bytes(), true},
		"the owner":      {byOwner(t, m, r).Bytes(), true},
	} {
		p := NewPlacement(m, true)
		bad := bytes.Clone(b.bytes)
		bad[len(bad)-1] ^= 1
		if got, err := p.Open(testNet, bad); got != nil || errors.Is(err, ErrReassign) != b.lie || len(p.Moves()) != 0 {
			t.Errorf("%s, broken: %v", name, err)
		}
		got, err := p.Open(testNet, b.bytes)
		if (got != nil) != b.lie || err != nil || len(p.Moves()) != btoi(b.lie) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := p.Open(testNet, b.bytes); got != nil || err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
	}
}

// n-k seats an epoch may move by quorum, no more.
func TestReassignQuorumLimit(t *testing.T) {
	m := standbyManifest(t)
	p := NewPlacement(m, true)
	for i, x := range []uint8{1, 2} {
		r := Reassign{Manifest: m.Hash, X: x, Seq: 1, Old: node(int(x) - 1).ID(), New: node(7 + i).ID()}
		mustAdd(t, p, bySeats(t, m, r, 0, 2, 3, 4))
	}
	r := Reassign{Manifest: m.Hash, X: 3, Seq: 1, Old: node(2).ID(), New: node(9).ID()}
	if _, err := p.Add(bySeats(t, m, r, 0, 2, 3, 4)); !errors.Is(err, ErrReassign) {
		t.Fatal(err)
	}
	mustAdd(t, p, byOwner(t, m, r))
}

// Two nodes that saw two Reassigns of one seq in different order agree.
func TestReassignFork(t *testing.T) {
	m := standbyManifest(t)
	a, b := firstMove(m), firstMove(m)
	b.New = node(8).ID()
	all := []*SignedReassign{bySeats(t, m, a, 0, 2, 3, 4), bySeats(t, m, b, 0, 2, 3, 4), byOwner(t, m, Reassign{Manifest: m.Hash, X: 2, Seq: 1, Old: node(1).ID(), New: node(9).ID()})}
	for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
		var ends []key.NodeID
		for _, order := range [][2]int{pair, {pair[1], pair[0]}} {
			p := NewPlacement(m, true)
			for _, i := range order {
				_, _ = p.Add(all[i])
			}
			ends = append(ends, p.Holder(2))
		}
		if ends[0] != ends[1] || pair[1] == 2 && ends[0] != node(9).ID() {
			t.Fatalf("%v: %v", pair, ends)
		}
	}
}

func TestOpenReassignRefused(t *testing.T) {
	m := standbyManifest(t)
	other := plain(2).sign(t)
	good := firstMove(m)
	for name, r := range map[string]Reassign{
		"x = 0":            {Manifest: m.Hash, Seq: 1, Old: node(1).ID(), New: node(7).ID()},
		"no seat":          {Manifest: m.Hash, X: 6, Seq: 1, Old: node(1).ID(), New: node(7).ID()},
		"seq 0":            {Manifest: m.Hash, X: 2, Old: node(1).ID(), New: node(7).ID()},
		"first with prev":  {Manifest: m.Hash, X: 2, Seq: 1, Prev: fill(1), Old: node(1).ID(), New: node(7).ID()},
		"second without":   {Manifest: m.Hash, X: 2, Seq: 2, Old: node(1).ID(), New: node(7).ID()},
		"to itself":        {Manifest: m.Hash, X: 2, Seq: 1, Old: node(1).ID(), New: node(1).ID()},
		"to nobody":        {Manifest: m.Hash, X: 2, Seq: 1, Old: node(1).ID()},
		"another manifest": {Manifest: other.Hash, X: 2, Seq: 1, Old: node(1).ID(), New: node(7).ID()},
	} {
		b, _ := JoinReassign(SignReassign(owner(), testNet, r))
		if _, err := OpenReassign(testNet, b, m); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	both, _ := JoinReassign(SignReassign(owner(), testNet, good), SignReassign(node(0), testNet, good))
	if _, err := OpenReassign(testNet, both, m); err == nil {
		t.Error("the owner and others")
	}
	if _, err := JoinReassign(SignReassign(owner(), testNet, good), SignReassign(node(0), testNet, firstMove(other))); err == nil {
		t.Error("two bodies are joined")
	}
	b, _ := JoinReassign(SignReassign(node(0), testNet, good), SignReassign(node(2), testNet, good))
	if _, err := OpenReassign(key.NetworkID{1}, b, m); err == nil {
		t.Error("another network")
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x20
		if r, err := OpenReassign(testNet, c, m); err == nil {
			t.Fatalf("byte %d does not matter: %+v", i, r)
		}
	}
}

func TestReassignVectors(t *testing.T) {
	m := standbyManifest(t)
	one := byOwner(t, m, firstMove(m))
	two := firstMove(m)
	two.Seq, two.Prev, two.Old, two.New, two.Epoch = 2, one.Hash, node(7).ID(), node(8).ID(), 3
	var b strings.Builder
	for _, l := range []struct {
		name string
		b    []byte
	}{{"manifest", m.Bytes()}, {"owner", one.Bytes()}, {"owner-hash", one.Hash[:]}, {"seats", bySeats(t, m, two, 0, 2, 3, 4).Bytes()}} {
		b.WriteString(l.name + " " + hex.EncodeToString(l.b) + "\n")
	}
	const file = "testdata/reassign.txt"
	if *updateReassign {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != b.String() {
		t.Fatalf("%s is not what is made: %v", file, err)
	}
}

// FuzzOpenReassign: what is accepted re-encodes to itself, also from a signer
// who signs anything.
func FuzzOpenReassign(f *testing.F) {
	m := standbyManifest(f)
	one := SignReassign(owner(), testNet, firstMove(m))
	b, _ := JoinReassign(one)
	f.Add(b)
	f.Add(one.Body)
	many, _ := JoinReassign(SignReassign(node(0), testNet, firstMove(m)), SignReassign(node(2), testNet, firstMove(m)))
	f.Add(many)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := OpenReassign(testNet, b, m); err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Fatal("other bytes")
		}
		j, err := JoinReassign(key.Sign(owner(), testNet, key.TypeReassign, b))
		if err != nil {
			return
		}
		if r, err := OpenReassign(testNet, j, m); err == nil {
			if !bytes.Equal(key.Marshal(&r.Reassign), b) {
				t.Fatal("an accepted body does not re-encode to itself")
			}
			p := NewPlacement(m, true)
			if _, err := p.Add(r); err == nil && (p.Holder(r.X) != r.New || r.X == 0) {
				t.Fatal("added and not there")
			}
		}
	})
}
