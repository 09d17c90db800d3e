package keystore

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// shape is what a manifest says of numbers.
type shape struct{ n, k, w int }

// placing is the question where a secret goes.
type placing struct {
	shape
	index    *[32]byte
	id       key.Hash
	self     key.NodeID
	roster   roster
	prev     *share.Manifest // nil: a first put
	explicit []key.NodeID    // the owner's own choice
	waived   bool            // operator and zone limits do not hold
}

// placed is the answer.
type placed struct {
	seats   []key.NodeID
	standby []key.NodeID
	notes   []string
}

// score ranks a node for a secret: the owner's own nodes agree on it and nobody
// else can compute it. It is a weighted rendezvous hash: with u uniform in
// (0, 1], a node comes first with a probability proportional to its capacity.
func score(index *[32]byte, id key.Hash, node key.NodeID, capacity uint64) float64 {
	m := hmac.New(sha256.New, index[:])
	m.Write(id[:])
	m.Write(node[:])
	u := (float64(binary.BigEndian.Uint64(m.Sum(nil))>>11) + 1) / (1 << 53)
	return -math.Log(u) / float64(max(capacity, 1))
}

// ranked are the holders in the order of their rank, this node last whatever
// its rank is (protocol.md section 6, "Placement").
func (p *placing) ranked() []Member {
	out := make([]Member, 0, len(p.roster))
	scores := make(map[key.NodeID]float64, len(p.roster))
	for _, m := range p.roster {
		if m.Holder && !m.Revoked && !m.Lapsed {
			out = append(out, m)
			scores[m.ID] = score(p.index, p.id, m.ID, m.Capacity)
		}
	}
	slices.SortFunc(out, func(a, b Member) int {
		if mine := cmp.Compare(btoi(a.ID == p.self), btoi(b.ID == p.self)); mine != 0 {
			return mine
		}
		return cmp.Or(cmp.Compare(scores[a.ID], scores[b.ID]), slices.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func ready(m Member) bool { return m.Online && m.Accepting }

// choose sets n, k and w from the options, the generation before, or the
// number of holders.
func (o *PutOptions) choose(r roster, prev *share.Manifest) (shape, error) {
	s := shape{o.N, o.K, o.W}
	if s.n == 0 && len(o.Holders) > 0 {
		s.n = len(o.Holders)
	}
	switch {
	case s.n == 0 && s.k == 0 && prev != nil:
		s.n, s.k = prev.N(), int(prev.K)
		if s.w == 0 {
			s.w = int(prev.W)
		}
	case s.n == 0 && s.k == 0:
		holders, operators := r.eligible()
		places := operators
		if o.AllowColocated {
			places = holders
		}
		var ok bool
		if s.n, s.k, ok = share.DefaultShape(places); !ok {
			return s, &PlacementError{Want: 3, Have: places, Why: fmt.Sprintf("the network has %d holders of %d operators, and 3 of different operators are needed", holders, operators)}
		}
	case s.k == 0 && len(o.Holders) > 0 && s.n == len(o.Holders):
		if _, k, ok := share.DefaultShape(s.n); ok && s.n <= 5 {
			s.k = k
		}
	}
	if s.n == 0 || s.k == 0 {
		return s, fmt.Errorf("%w: n and k are given together or not at all", ErrInput)
	}
	if s.k < share.MinK || s.k > s.n || s.n > share.MaxSeats {
		return s, fmt.Errorf("%w: 2 <= k <= n <= %d does not hold for %d of %d", ErrInput, share.MaxSeats, s.k, s.n)
	}
	if s.w == 0 {
		s.w = share.DefaultW(s.n, s.k)
	}
	if s.w < share.MinW(s.n, s.k) || s.w > s.n {
		return s, fmt.Errorf("%w: w is %d to %d with %d of %d", ErrInput, share.MinW(s.n, s.k), s.n, s.k, s.n)
	}
	return s, nil
}

// eligible counts the holders, and their operators. One that is off counts: a
// node that happens to be down must not turn the default 3-of-5 into 2-of-3.
func (r roster) eligible() (holders, operators int) {
	seen := make(map[string]bool)
	for _, m := range r {
		if m.Holder && !m.Revoked && !m.Lapsed && !m.draining {
			holders++
			seen[operator(m)] = true
		}
	}
	return holders, len(seen)
}

// zoneLimit is how many seats one zone may hold: losing or reading a whole
// zone must neither lose nor leak the secret where n and k allow that.
func (s shape) zoneLimit() int { return max(1, min(s.k-1, s.n-s.k)) }

// place picks n seats and the standbys. Nodes that are being drained get a seat
// only when there is no other way to put at all.
func (p *placing) place() (*placed, error) {
	out, err := p.placeOnce()
	if err == nil {
		return out, nil
	}
	if r, any := p.roster.withDrained(); any {
		q := *p
		q.roster = r
		if again, err := q.placeOnce(); err == nil {
			again.notes = append(again.notes, "a node that is being drained gets a seat: without it there are too few holders")
			return again, nil
		}
	}
	return nil, err
}

func (p *placing) placeOnce() (*placed, error) {
	ranked := p.ranked()
	out := &placed{}
	var err error
	if len(p.explicit) > 0 {
		out.seats, err = p.checkExplicit(ranked)
	} else {
		out.seats, err = p.pick(p.inOrder(ranked))
	}
	if err != nil {
		return nil, err
	}
	if up := p.countReady(out.seats); up < p.w {
		return nil, &PlacementError{Want: p.w, Have: up, Seats: p.describe(out.seats),
			Why: fmt.Sprintf("a put needs %d holders that can be reached and take a seat, and %d of the %d chosen can", p.w, up, p.n)}
	}
	out.standby = p.standbys(ranked, out.seats)
	out.notes = p.colocated(out.seats)
	return out, nil
}

// inOrder puts candidates in the order of preference: seats of the generation
// before that can take it now, others that can, then those that cannot now, in
// the same order, and last those that are being drained.
func (p *placing) inOrder(ranked []Member) []Member {
	class := func(m Member) int {
		kept := p.prev != nil && p.prev.SeatOf(m.ID) != nil
		return 4*btoi(m.draining) + 2*btoi(!ready(m)) + btoi(!kept)
	}
	out := slices.Clone(ranked)
	slices.SortStableFunc(out, func(a, b Member) int { return cmp.Compare(class(a), class(b)) })
	return out
}

// zone is the node's zone; without a label the node is a zone of its own.
func zone(m Member) string {
	if m.Zone == "" {
		return "node " + m.ID.String()
	}
	return "zone " + m.Zone
}

// operator is the node's operator; without a label the node is its own.
func operator(m Member) string {
	if m.Operator == "" {
		return "node " + m.ID.String()
	}
	return "operator " + m.Operator
}

// pick takes n candidates: at most one an operator and zoneLimit a zone. It is
// a matching of operators to places in zones, found by augmenting paths, so
// that a placement is found whenever there is one and earlier operators are
// never displaced by later ones.
func (p *placing) pick(order []Member) ([]key.NodeID, error) {
	if p.waived {
		return p.pickWaived(order)
	}
	m := &matching{limit: p.zoneLimit(), of: make(map[string][]Member), at: make(map[string]Member), in: make(map[string][]string)}
	var operators []string
	for _, c := range order {
		op := operator(c)
		if m.of[op] == nil {
			operators = append(operators, op)
		}
		m.of[op] = append(m.of[op], c)
	}
	for _, op := range operators {
		if len(m.at) == p.n {
			break
		}
		m.augment(op, make(map[string]bool))
	}
	seats := make([]key.NodeID, 0, p.n)
	for _, op := range operators {
		if c, ok := m.at[op]; ok {
			seats = append(seats, c.ID)
		}
	}
	if len(seats) < p.n {
		return nil, p.unsatisfiable(order, len(operators), seats)
	}
	return seats, nil
}

func (p *placing) pickWaived(order []Member) ([]key.NodeID, error) {
	// Within the limits when that works: waiving allows, it does not ask for it.
	q := *p
	q.waived = false
	if seats, err := q.pick(order); err == nil && q.countReady(seats) >= p.w {
		return seats, nil
	}
	if len(order) < p.n {
		return nil, p.unsatisfiable(order, len(order), nil)
	}
	seats := make([]key.NodeID, p.n)
	for i := range seats {
		seats[i] = order[i].ID
	}
	return seats, nil
}

type matching struct {
	limit int
	of    map[string][]Member // candidates of an operator, best first
	at    map[string]Member   // the operator's seat
	in    map[string][]string // zone -> operators with a seat there
}

// augment finds a seat for the operator, moving others between their own nodes
// where needed.
func (m *matching) augment(op string, tried map[string]bool) bool {
	for _, c := range m.of[op] {
		z := zone(c)
		if tried[z] {
			continue
		}
		tried[z] = true
		if len(m.in[z]) < m.limit {
			m.in[z] = append(m.in[z], op)
			m.at[op] = c
			return true
		}
		for i, other := range m.in[z] {
			if m.augment(other, tried) {
				m.in[z][i] = op
				m.at[op] = c
				return true
			}
		}
	}
	return false
}

func (p *placing) unsatisfiable(order []Member, operators int, seats []key.NodeID) error {
	zones := make(map[string]bool)
	for _, m := range order {
		zones[zone(m)] = true
	}
	var why string
	switch {
	case len(order) < p.n:
		why = fmt.Sprintf("%d seats need %d holders and the network has %d", p.n, p.n, len(order))
	case !p.waived && operators < p.n:
		why = fmt.Sprintf("%d seats need %d operators and the %d holders have %d; one operator may hold one seat", p.n, p.n, len(order), operators)
	default:
		why = fmt.Sprintf("%d seats do not fit into %d zones with at most %d seats in each", p.n, len(zones), p.zoneLimit())
	}
	return &PlacementError{Want: p.n, Have: max(len(seats), min(operators, len(order))), Why: why, Seats: p.describe(seats)}
}

// checkExplicit holds the owner's own choice to the same limits.
func (p *placing) checkExplicit(ranked []Member) ([]key.NodeID, error) {
	if len(p.explicit) != p.n {
		return nil, fmt.Errorf("%w: %d holders are named for %d seats", ErrInput, len(p.explicit), p.n)
	}
	seen := make(map[key.NodeID]bool)
	operators, zones := make(map[string]int), make(map[string]int)
	for _, id := range p.explicit {
		i := slices.IndexFunc(ranked, func(m Member) bool { return m.ID == id })
		if i < 0 || seen[id] {
			return nil, fmt.Errorf("%w: %s is no holder of this network, or named twice", ErrInput, id.Short())
		}
		seen[id] = true
		operators[operator(ranked[i])]++
		zones[zone(ranked[i])]++
	}
	if p.waived {
		return p.explicit, nil
	}
	for op, n := range operators {
		if n > 1 {
			return nil, &PlacementError{Want: p.n, Have: len(operators), Why: fmt.Sprintf("%d of the holders named belong to %s; one operator may hold one seat", n, op), Seats: p.describe(p.explicit)}
		}
	}
	for z, n := range zones {
		if n > p.zoneLimit() {
			return nil, &PlacementError{Want: p.n, Have: p.n - n + p.zoneLimit(), Why: fmt.Sprintf("%d of the holders named are in %s, where %d may be", n, z, p.zoneLimit()), Seats: p.describe(p.explicit)}
		}
	}
	return p.explicit, nil
}

func (p *placing) countReady(seats []key.NodeID) int {
	n := 0
	for _, id := range seats {
		n += btoi(ready(p.roster[id]))
	}
	return n
}

func (p *placing) describe(seats []key.NodeID) []SeatState {
	out := make([]SeatState, 0, len(seats))
	for _, id := range seats {
		st := p.roster.seat(id, 0, "planned", "")
		switch m := p.roster[id]; {
		case !m.Online:
			st.State = "unreachable"
		case !m.Accepting:
			st.State, st.Why = "full", "takes no new seats"
		}
		out = append(out, st)
	}
	return out
}

// standbys are the next in rank that can take a seat, other operators' first.
func (p *placing) standbys(ranked []Member, seats []key.NodeID) []key.NodeID {
	taken := make(map[string]bool)
	for _, id := range seats {
		taken[operator(p.roster[id])] = true
	}
	var out, same []key.NodeID
	for _, m := range ranked {
		switch {
		case slices.Contains(seats, m.ID) || !ready(m) || m.draining:
		case taken[operator(m)]:
			same = append(same, m.ID)
		default:
			out = append(out, m.ID)
		}
	}
	out = append(out, same...)
	return out[:min(len(out), share.MaxStandby)]
}

// colocated says in words which limits the seats break.
func (p *placing) colocated(seats []key.NodeID) []string {
	operators, zones := make(map[string]int), make(map[string]int)
	for _, id := range seats {
		operators[operator(p.roster[id])]++
		zones[zone(p.roster[id])]++
	}
	var notes []string
	for _, name := range sortedKeys(operators) {
		if n := operators[name]; n > 1 {
			notes = append(notes, fmt.Sprintf("%s holds %d of the %d seats%s", name, n, p.n, p.consequence(n)))
		}
	}
	for _, name := range sortedKeys(zones) {
		if n := zones[name]; n > p.zoneLimit() {
			notes = append(notes, fmt.Sprintf("%s holds %d of the %d seats%s", name, n, p.n, p.consequence(n)))
		}
	}
	return notes
}

// consequence says what n seats in one hand mean.
func (s shape) consequence(n int) string {
	var out []string
	if n >= s.k {
		out = append(out, "alone it can read the secret as far as the holders' policy checks are its own")
	}
	if n > s.n-s.k {
		out = append(out, "without it the secret is lost")
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, ", and ")
}

func sortedKeys(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
