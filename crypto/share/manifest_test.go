package share

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"keymesh/crypto/key"
)

// shaped is a manifest of k of n with this w and seats at nodes 1000+i, which
// have no keys.
func shaped(n int, k, w uint8) fixed {
	m := plain(1)
	m.K, m.W, m.Seats = k, w, nil
	for i := range n {
		m.Seats = append(m.Seats, Seat{X: uint8(i + 1), Node: key.NodeID{0x99, byte(i)}, C: fill(byte(i))})
	}
	return m
}

// manyIDs are ids of nodes that hold no seat.
func manyIDs(n int) (out []key.NodeID) {
	for i := range n {
		out = append(out, key.NodeID{0x55, byte(i)})
	}
	return out
}

func manyHashes(n int) (out []key.Hash) {
	for i := range n {
		out = append(out, key.Hash{0x66, byte(i)})
	}
	return out
}

// Each breaks the one rule that it is named after; the words tell which rule
// refused it.
func brokenManifests() map[string]struct {
	words string
	m     fixed
} {
	type broken = struct {
		words string
		m     fixed
	}
	with := func(words string, change func(m *fixed)) broken {
		m := plain(7)
		m.Prev = fill(0x44)
		change(&m)
		return broken{words, m}
	}
	shape := func(words string, n int, k, w uint8) broken { return broken{words, shaped(n, k, w)} }
	out := map[string]broken{
		"suite 0":                      with("unknown suite", func(m *fixed) { m.Suite = 0 }),
		"suite 2":                      with("unknown suite", func(m *fixed) { m.Suite = 2 }),
		"an id of nothing":             with("id is not", func(m *fixed) { m.ID = fill(1) }),
		"an id of another salt":        with("id is not", func(m *fixed) { m.Salt[0] ^= 1 }),
		"an id of another person":      with("id is not", func(m *fixed) { m.ID = ID(approver().Public(), m.Salt) }),
		"generation 0":                 with("generation 0", func(m *fixed) { m.Gen = 0 }),
		"no seats":                     shape("0 of 0", 0, 0, 0),
		"no seats for k":               shape("2 of 0", 0, 2, 2),
		"k 0":                          shape("0 of 5", 5, 0, 5),
		"k 1":                          shape("1 of 5", 5, 1, 5),
		"k above n":                    shape(": 6 of 5", 5, 6, 6),
		"33 seats":                     shape("3 of 33", 33, 3, 33),
		"w below k":                    shape("w = 3", 5, 4, 3),
		"w below n-k+1":                shape("w = 3", 5, 2, 3),
		"w 0":                          shape("w = 0", 5, 3, 0),
		"w above n":                    shape("w = 6", 5, 3, 6),
		"9 standbys":                   with("too long", func(m *fixed) { m.Standby = manyIDs(MaxStandby + 1) }),
		"9 forced":                     with("too long", func(m *fixed) { m.Force = manyHashes(MaxForce + 1) }),
		"a long label":                 with("too long", func(m *fixed) { m.Label = make([]byte, MaxLabel+1) }),
		"a long policy":                with("too long", func(m *fixed) { m.Policy = make([]byte, MaxPolicy+1) }),
		"no policy":                    with("no policy", func(m *fixed) { m.Policy = nil }),
		"an empty policy":              with("no policy", func(m *fixed) { m.Policy = []byte{} }),
		"repair 2":                     with("repair mode 2", func(m *fixed) { m.Repair = 2 }),
		"repair by a quorum of all":    with("repair mode 1", func(m *fixed) { m.Repair, m.W = RepairQuorum, 5 }),
		"keep 17":                      with("keep 17", func(m *fixed) { m.Keep = MaxKeep + 1 }),
		"no ciphertext":                with("empty ciphertext", func(m *fixed) { m.Length = 0 }),
		"expired when created":         with("expires before", func(m *fixed) { m.Expires = created }),
		"expires before it is created": with("expires before", func(m *fixed) { m.Expires = 1 }),
		"created at the end of time":   with("expires before", func(m *fixed) { m.Created, m.Expires = ^uint64(0), ^uint64(0) }),
		"x 0":                          with("x = 0 is zero", func(m *fixed) { m.Seats[2].X = 0 }),
		"an x twice":                   with("x = 1 is zero or", func(m *fixed) { m.Seats[4].X = 1 }),
		"a node twice":                 with("x = 5 is zero or", func(m *fixed) { m.Seats[4].Node = m.Seats[0].Node }),
		"a seat of no node":            with("x = 2 is zero or", func(m *fixed) { m.Seats[1].Node = key.NodeID{} }),
		"a standby with a seat":        with("standby", func(m *fixed) { m.Standby = []key.NodeID{m.Seats[3].Node} }),
		"a standby twice":              with("standby", func(m *fixed) { m.Standby = append(manyIDs(2), manyIDs(1)...) }),
		"a standby of no node":         with("standby", func(m *fixed) { m.Standby = []key.NodeID{{}} }),
		"none forced":                  with("forced", func(m *fixed) { m.Force = []key.Hash{{}} }),
		"forced twice":                 with("forced", func(m *fixed) { m.Force = append(manyHashes(2), manyHashes(1)...) }),
		"prev forced":                  with("forced", func(m *fixed) { m.Force = []key.Hash{m.Prev} }),
	}
	return out
}

func TestEachRuleOfAManifest(t *testing.T) {
	for name, c := range brokenManifests() {
		err := c.m.Check()
		if !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
		if s, err := SignManifest(owner(), testNet, c.m.Manifest); s != nil || !errors.Is(err, ErrManifest) {
			t.Errorf("%s is signed: %v", name, err)
		}
		// An owner with a program of its own signs it.
		b := key.Sign(owner(), testNet, key.TypeManifest, key.Marshal(&c.m.Manifest)).Encode()
		if s, err := OpenManifest(testNet, b); s != nil || !errors.Is(err, ErrManifest) {
			t.Errorf("%s is opened: %v", name, err)
		}
	}
}

// On the other side of each limit a manifest is good, so that what is refused
// above is refused for what it is named after.
func TestManifestsAtTheLimits(t *testing.T) {
	with := func(change func(m *fixed)) fixed {
		m := plain(7)
		m.Prev = fill(0x44)
		change(&m)
		return m
	}
	for name, m := range map[string]fixed{
		"as it is":                 with(func(*fixed) {}),
		"the last generation":      with(func(m *fixed) { m.Gen = ^uint64(0) }),
		"2 of 2":                   shaped(2, 2, 2),
		"5 of 5":                   shaped(5, 5, 5),
		"32 of 32":                 shaped(32, 32, 32),
		"2 of 32":                  shaped(32, 2, 31),
		"the least w is k":         shaped(5, 4, 4),
		"the least w is n-k+1":     shaped(5, 2, 4),
		"8 standbys":               with(func(m *fixed) { m.Standby = manyIDs(MaxStandby) }),
		"8 forced":                 with(func(m *fixed) { m.Force = manyHashes(MaxForce) }),
		"the longest label":        with(func(m *fixed) { m.Label = make([]byte, MaxLabel) }),
		"no label":                 with(func(m *fixed) { m.Label = nil }),
		"the longest policy":       with(func(m *fixed) { m.Policy = make([]byte, MaxPolicy) }),
		"a policy of one byte":     with(func(m *fixed) { m.Policy = []byte{0} }),
		"repair by 4 of 5":         with(func(m *fixed) { m.Repair = RepairQuorum }),
		"w = n, the owner repairs": with(func(m *fixed) { m.W = 5 }),
		"keep 16":                  with(func(m *fixed) { m.Keep = MaxKeep }),
		"one byte":                 with(func(m *fixed) { m.Length = 1 }),
		"a second to live":         with(func(m *fixed) { m.Expires = created + 1 }),
		"the last second":          with(func(m *fixed) { m.Created, m.Expires = ^uint64(0)-1, ^uint64(0) }),
		"created at 0":             with(func(m *fixed) { m.Created = 0 }),
		"x 255":                    with(func(m *fixed) { m.Seats[0].X = 255 }),
		"forced without prev":      with(func(m *fixed) { m.Prev, m.Force = key.Hash{}, manyHashes(1) }),
	} {
		s, err := SignManifest(owner(), testNet, m.Manifest)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := OpenManifest(testNet, s.Bytes()); err != nil || got.Hash != s.Hash {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignManifestOfAnotherOwner(t *testing.T) {
	if s, err := SignManifest(approver(), testNet, plain(1).Manifest); s != nil || !errors.Is(err, ErrManifest) {
		t.Error(err)
	}
	// The signature is good, the id is the owner's; the signer is not.
	m := plain(1)
	b := key.Sign(approver(), testNet, key.TypeManifest, key.Marshal(&m.Manifest)).Encode()
	if s, err := OpenManifest(testNet, b); s != nil || !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), "not signed by its owner") {
		t.Error(err)
	}
	// A thief who also puts its own key into it does not get the id.
	m.Owner = approver().Public()
	b = key.Sign(approver(), testNet, key.TypeManifest, key.Marshal(&m.Manifest)).Encode()
	if s, err := OpenManifest(testNet, b); s != nil || !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), "id is not") {
		t.Error(err)
	}
}

func TestCheckRow(t *testing.T) {
	m := plain(1)
	row := bytes.Repeat([]byte{2}, 96)
	s := m.Seats[1]
	if !m.CheckRow(s, row) {
		t.Fatal("the row of the seat is refused")
	}
	other := plain(2)
	k2 := m
	k2.K = 2
	for name, ok := range map[string]bool{
		"a flipped bit":         m.CheckRow(s, append([]byte{3}, row[1:]...)),
		"a short row":           m.CheckRow(s, row[:95]),
		"a long row":            m.CheckRow(s, append(bytes.Clone(row), 2)),
		"no row":                m.CheckRow(s, nil),
		"another seat's row":    m.CheckRow(s, bytes.Repeat([]byte{1}, 96)),
		"another seat":          m.CheckRow(m.Seats[0], row),
		"the row at another x":  m.CheckRow(Seat{X: 3, Node: s.Node, C: s.C}, row),
		"no commitment":         m.CheckRow(Seat{X: 2, Node: s.Node}, row),
		"another generation":    other.CheckRow(s, row),
		"another k, its length": k2.CheckRow(s, row[:64]),
		"another k":             k2.CheckRow(s, row),
	} {
		if ok {
			t.Errorf("%s is accepted", name)
		}
	}
	// A commitment to a row of another length is a commitment to nothing.
	s.C = RowCommitment(m.Context(), s.X, m.K, row[:64])
	if m.CheckRow(s, row[:64]) {
		t.Error("a row of two vectors is accepted with k = 3")
	}
}

func TestSeatOf(t *testing.T) {
	m := plain(1)
	if s := m.SeatOf(node(3).ID()); s == nil || s.X != 4 {
		t.Error("the seat is not found")
	}
	if m.SeatOf(node(9).ID()) != nil || m.SeatOf(key.NodeID{}) != nil {
		t.Error("a seat of a stranger")
	}
	if m.Context() != Context(m.ID, 1, 1) {
		t.Error("the context is not that of id, gen and suite")
	}
}
