package keystore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// rosterOf makes holders "name operator zone"; a name that starts with - is
// offline, with ! full, with x revoked, with ~ lapsed, with c no holder.
func rosterOf(lines ...string) (roster, map[string]key.NodeID) {
	r, ids := roster{}, map[string]key.NodeID{}
	for i, l := range lines {
		f := append(strings.Fields(l), "", "")
		id := key.NodeID{byte(i + 1)}
		name := strings.TrimLeft(f[0], "-!x~c")
		ids[name] = id
		r[id] = Member{ID: id, Name: name, Operator: f[1], Zone: f[2], Holder: f[0][0] != 'c', Capacity: 1,
			Online: f[0][0] != '-', Accepting: f[0][0] != '!', Revoked: f[0][0] == 'x', Lapsed: f[0][0] == '~'}
	}
	return r, ids
}

func place(r roster, self string, ids map[string]key.NodeID, s shape, change func(*placing)) (*placed, error) {
	p := &placing{shape: s, index: &[32]byte{1}, id: key.Hash{2}, self: ids[self], roster: r}
	if change != nil {
		change(p)
	}
	return p.place()
}

func TestPlacementLimits(t *testing.T) {
	five := shape{5, 3, 4}
	for name, c := range map[string]struct {
		lines []string
		shape shape
		ok    bool
		why   string
	}{
		"five of five": {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "e o4 z4", "f o5 z5"}, five, true, ""},
		"no labels":    {[]string{"a", "b", "d", "e", "f"}, five, true, ""},
		"two of one operator": {[]string{"a o1 z1", "b o1 z2", "d o3 z3", "e o4 z4", "f o5 z5"}, five, false,
			"one operator may hold one seat"},
		"a choice of operators": {[]string{"a o1 z1", "b o1 z2", "d o2 z2", "e o3 z3", "f o4 z4", "g o5 z5"}, five, true, ""},
		"a zone of three":       {[]string{"a o1 z1", "b o2 z1", "d o3 z1", "e o4 z2", "f o5 z3"}, five, false, "at most 2 seats"},
		"zones of two":          {[]string{"a o1 z1", "b o2 z1", "d o3 z2", "e o4 z2", "f o5 z3"}, five, true, ""},
		"only by moving an operator": {[]string{"a o1 z1", "b o1 z2", "d o2 z1", "e o3 z1", "f o4 z3", "g o5 z3"}, five, true,
			""},
		"too few":              {[]string{"a o1 z1", "b o2 z2"}, shape{3, 2, 3}, false, "the network has 2"},
		"one off":              {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "e o4 z4", "-f o5 z5"}, five, true, ""},
		"two off":              {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "-e o4 z4", "-f o5 z5"}, five, false, "4 holders that can be reached"},
		"two full":             {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "!e o4 z4", "!f o5 z5"}, five, false, "4 holders that can be reached"},
		"revoked":              {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "e o4 z4", "xf o5 z5"}, five, false, "the network has 4"},
		"lapsed and client":    {[]string{"a o1 z1", "b o2 z2", "d o3 z3", "~e o4 z4", "cf o5 z5"}, five, false, "the network has 3"},
		"k = n: one in a zone": {[]string{"a o1 z1", "b o2 z1", "d o3 z2"}, shape{3, 3, 3}, false, "at most 1 seats"},
	} {
		t.Run(name, func(t *testing.T) {
			r, ids := rosterOf(c.lines...)
			for self := range ids {
				got, err := place(r, self, ids, c.shape, nil)
				var e *PlacementError
				switch {
				case c.ok && err != nil:
					t.Fatalf("%v", explain(err))
				case !c.ok && (!errors.As(err, &e) || !strings.Contains(e.Why, c.why)):
					t.Fatalf("%v", err)
				case c.ok:
					checkPlaced(t, r, c.shape, got)
				}
				if waived, err := place(r, self, ids, c.shape, func(p *placing) { p.waived = true }); err == nil {
					if len(waived.seats) != c.shape.n {
						t.Fatalf("%d seats", len(waived.seats))
					}
					if !c.ok && len(waived.notes) == 0 {
						t.Error("broken limits without a word about it")
					}
				} else if c.ok {
					t.Fatal(err)
				}
			}
		})
	}
}

func checkPlaced(t *testing.T, r roster, s shape, got *placed) {
	t.Helper()
	ops, zones, nodes := map[string]int{}, map[string]int{}, map[key.NodeID]bool{}
	for _, id := range got.seats {
		m := r[id]
		ops[operator(m)]++
		zones[zone(m)]++
		if nodes[id] || !m.Holder || m.Revoked || m.Lapsed {
			t.Fatalf("%s may not hold a seat, or holds two", m.Name)
		}
		nodes[id] = true
		if ops[operator(m)] > 1 || zones[zone(m)] > s.zoneLimit() {
			t.Fatalf("limits broken: %v %v", ops, zones)
		}
	}
	if len(nodes) != s.n || len(got.standby) > share.MaxStandby {
		t.Fatalf("%d seats, %d standbys", len(nodes), len(got.standby))
	}
	for _, id := range got.standby {
		if nodes[id] || !ready(r[id]) {
			t.Fatal("a standby that holds a seat or is off")
		}
	}
}

// Placement is the same from every node of the owner but for the node itself,
// which comes last; it depends on the index key, and follows capacity.
func TestPlacementRank(t *testing.T) {
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf("n%d o%d z%d", i, i, i))
	}
	r, ids := rosterOf(lines...)
	s := shape{5, 3, 4}
	a, _ := place(r, "n0", ids, s, nil)
	b, _ := place(r, "n1", ids, s, nil)
	differ := 0
	for _, id := range a.seats {
		differ += btoi(!slices.Contains(b.seats, id))
	}
	if differ > 1 {
		t.Errorf("two nodes of one owner place %d seats differently", differ)
	}
	other, _ := place(r, "n0", ids, s, func(p *placing) { p.index = &[32]byte{9} })
	if slices.Equal(a.seats, other.seats) {
		t.Error("placement does not depend on the owner's key")
	}
	// The writer's own node only when nothing else is left.
	for i := range 200 {
		got, err := place(r, "n0", ids, s, func(p *placing) { p.id = key.Hash{byte(i)} })
		if err != nil || slices.Contains(got.seats, ids["n0"]) {
			t.Fatal("the writer's own node was not the last choice")
		}
	}
	// Twice the capacity, about twice the seats.
	big := ids["n7"]
	m := r[big]
	m.Capacity = 4
	r[big] = m
	hits, others := 0, 0
	for i := range 2000 {
		got, _ := place(r, "n0", ids, shape{3, 2, 3}, func(p *placing) { p.id = key.Hash{byte(i), byte(i >> 8)} })
		hits += btoi(slices.Contains(got.seats, big))
		others += btoi(slices.Contains(got.seats, ids["n8"]))
	}
	if hits < 2*others {
		t.Errorf("%d seats for capacity 4, %d for capacity 1", hits, others)
	}
}

func TestPlacementKeepsSeats(t *testing.T) {
	var lines []string
	for i := range 12 {
		lines = append(lines, fmt.Sprintf("n%d o%d z%d", i, i, i))
	}
	r, ids := rosterOf(lines...)
	s := shape{5, 3, 4}
	prev := &share.Manifest{K: 3, W: 4}
	for _, n := range []string{"n0", "n3", "n5", "n8", "n11"} {
		prev.Seats = append(prev.Seats, share.Seat{X: 1, Node: ids[n]})
	}
	keep := func(p *placing) { p.prev = prev }
	got, err := place(r, "n0", ids, s, keep)
	if err != nil {
		t.Fatal(err)
	}
	for _, seat := range prev.Seats {
		if !slices.Contains(got.seats, seat.Node) {
			t.Errorf("an eligible seat of the generation before was moved")
		}
	}
	// A seat that is off or revoked is replaced by one that is there.
	for _, change := range []func(*Member){func(m *Member) { m.Online = false }, func(m *Member) { m.Revoked = true }, func(m *Member) { m.Accepting = false }} {
		m := r[ids["n5"]]
		old := m
		change(&m)
		r[ids["n5"]] = m
		got, err = place(r, "n0", ids, s, keep)
		if err != nil || slices.Contains(got.seats, ids["n5"]) || len(got.seats) != 5 {
			t.Errorf("%v %v", got, err)
		}
		r[ids["n5"]] = old
	}
}

func TestPlacementExplicit(t *testing.T) {
	r, ids := rosterOf("a o1 z1", "b o1 z2", "d o2 z1", "e o3 z3", "xf o4 z4", "cg o5 z5")
	at := func(names ...string) func(*placing) {
		return func(p *placing) {
			for _, n := range names {
				p.explicit = append(p.explicit, ids[n])
			}
		}
	}
	s := shape{3, 2, 3}
	if got, err := place(r, "a", ids, s, at("b", "d", "e")); err != nil || len(got.seats) != 3 {
		t.Fatal(err)
	}
	var e *PlacementError
	if _, err := place(r, "a", ids, s, at("a", "b", "e")); !errors.As(err, &e) || !strings.Contains(e.Why, "one operator") {
		t.Fatal(err)
	}
	if _, err := place(r, "a", ids, s, at("a", "d", "e")); !errors.As(err, &e) || !strings.Contains(e.Why, "zone z1") {
		t.Fatal(err)
	}
	for _, bad := range [][]string{{"a", "a", "e"}, {"a", "e"}, {"a", "e", "f"}, {"a", "e", "g"}, {"a", "e", "nobody"}} {
		if _, err := place(r, "a", ids, s, at(bad...)); !errors.Is(err, ErrInput) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestShapes(t *testing.T) {
	r, _ := rosterOf("a o1 z1", "b o2 z2", "d o3 z3", "e o4 z4", "f o5 z5")
	for _, c := range []struct {
		o    PutOptions
		want shape
		ok   bool
	}{
		{PutOptions{}, shape{5, 3, 4}, true},
		{PutOptions{N: 3, K: 2}, shape{3, 2, 3}, true},
		{PutOptions{N: 5, K: 3, W: 3}, shape{5, 3, 3}, true},
		{PutOptions{N: 5, K: 3, W: 2}, shape{}, false},
		{PutOptions{N: 5, K: 3, W: 6}, shape{}, false},
		{PutOptions{N: 5, K: 1}, shape{}, false},
		{PutOptions{N: 2, K: 3}, shape{}, false},
		{PutOptions{N: 33, K: 3}, shape{}, false},
		{PutOptions{N: 4}, shape{}, false},
		{PutOptions{K: 2}, shape{}, false},
		{PutOptions{Holders: make([]key.NodeID, 4)}, shape{4, 2, 3}, true},
		{PutOptions{Holders: make([]key.NodeID, 7)}, shape{}, false},
	} {
		got, err := c.o.choose(r, nil)
		if c.ok != (err == nil) || c.ok && got != c.want || !c.ok && !errors.Is(err, ErrInput) {
			t.Errorf("%+v: %v %v", c.o, got, err)
		}
	}
	two, _ := rosterOf("a o1 z1", "b o2 z2", "d o2 z3")
	var e *PlacementError
	if _, err := (&PutOptions{}).choose(two, nil); !errors.As(err, &e) || e.Have != 2 {
		t.Error(err)
	}
	prev := &share.Manifest{K: 2, W: 4, Seats: make([]share.Seat, 4)}
	if got, err := (&PutOptions{}).choose(r, prev); err != nil || got != (shape{4, 2, 4}) {
		t.Error(got, err)
	}
}
