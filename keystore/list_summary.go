package keystore

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// summaryAge is how long a count is good for while no holder comes or goes and
// nothing is written from here: it costs a look at everything the person has.
const summaryAge = 10 * time.Second

// maxSummaries bounds the persons whose count is kept; when full all are
// forgotten.
const maxSummaries = 64

// summaries keeps the last count of each person.
type summaries struct {
	mu   sync.Mutex
	kept map[key.PersonPublic]keptSummary
}

type keptSummary struct {
	Counts
	at     time.Time
	online key.Hash // who was linked then
}

// Counts says how many secrets a person has and how they stand.
type Counts struct {
	Secrets int
	Short   int // a seat's row is missing or out of reach, though they were put over a minute ago
	AtRisk  int // one more lost seat puts them below their threshold
	Below   int // cannot be recovered now
}

// settleTime is how long after a put its last seats are not missed, in seconds.
const settleTime = 60

func newSummaries() *summaries { return &summaries{kept: make(map[key.PersonPublic]keptSummary)} }

// forget makes the next count of the person a new one: something was written.
func (c *summaries) forget(owner key.PersonPublic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, owner)
}

// online is a digest of the members that are linked now.
func (s *Store) online() key.Hash {
	var ids []byte
	for _, m := range s.cfg.Network.Members() {
		if m.Online {
			ids = append(ids, m.ID[:]...)
		}
	}
	return sha256.Sum256(ids)
}

// Summary counts the person's secrets by the seats that answer. It is up to 10 s old where others write too, and new when a holder came or
// went. Errors: [QuorumError] when nobody answered,
// [ErrTimeout].
func (s *Store) Summary(ctx context.Context, p Person) (Counts, error) {
	owner, online := p.Key.Public(), s.online()
	s.counts.mu.Lock()
	have, ok := s.counts.kept[owner]
	s.counts.mu.Unlock()
	if ok && have.online == online && time.Since(have.at) < summaryAge {
		return have.Counts, nil
	}
	ctx, cancel := within(ctx, 0)
	defer cancel()
	t := &tally{s: s, owner: owner, bySum: make(map[[32]byte]*counted), best: make(map[key.Hash]*counted), dead: make(map[key.Hash]uint64)}
	if _, err := s.sweep(ctx, p, s.roster(), t.take); err != nil {
		return Counts{}, err
	}
	have = t.sum()
	have.online = online
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	if len(s.counts.kept) >= maxSummaries {
		clear(s.counts.kept)
	}
	s.counts.kept[owner] = have
	return have.Counts, nil
}

// tally counts seats. A manifest counts once more of its seats show it as
// committed than may lie; one that fewer show must prove itself.
type tally struct {
	s     *Store
	owner key.PersonPublic
	bySum map[[32]byte]*counted
	best  map[key.Hash]*counted
	dead  map[key.Hash]uint64 // deleted up to
}

// counted is one manifest in a tally.
type counted struct {
	id       key.Hash
	gen      uint64
	n, k, f  int
	created  uint64
	seats    map[key.NodeID]bool // that have not said anything yet
	rows     map[key.NodeID]bool // whose row is good
	manifest []byte
	moves    map[key.Hash][][]byte // Reassigns as shown, each list once
	shown    int
	proof    *custody.State // until it has counted
	from     key.NodeID
	official bool
	expired  bool
}

func (t *tally) take(node key.NodeID, st *custody.State, moves [][]byte) {
	if len(st.Tombstone) > 0 {
		if ts, _, err := share.OpenTombstone(t.s.cfg.ID, st.Tombstone); err == nil && ts.Owner == t.owner && ts.Scope == share.ScopeAll {
			t.dead[ts.ID] = max(t.dead[ts.ID], ts.Gen)
		}
	}
	if len(st.Manifest) == 0 {
		return
	}
	sum := sha256.Sum256(st.Manifest)
	c := t.bySum[sum]
	if c == nil {
		if c = t.read(st); c == nil {
			return
		}
		c.from = node
		t.bySum[sum] = c
	}
	c.note(node, st, moves)
	if !c.seats[node] {
		return
	}
	delete(c.seats, node) // one word a seat
	c.shown++
	if c.shown > c.f && !c.official {
		t.promote(c)
	}
}

func (t *tally) read(st *custody.State) *counted {
	o, err := key.DecodeObject(st.Manifest)
	if err != nil {
		return nil
	}
	var m share.Manifest
	if key.Unmarshal(o.Body, &m) != nil || m.Owner != t.owner || m.Check() != nil {
		return nil
	}
	c := &counted{id: m.ID, gen: m.Gen, n: m.N(), created: m.Created, k: int(m.K), f: m.F(), expired: expired(&m), seats: make(map[key.NodeID]bool, m.N()), rows: make(map[key.NodeID]bool, m.N()), manifest: st.Manifest, proof: st}
	for _, seat := range m.Seats {
		c.seats[seat.Node] = true
	}
	return c
}

// note takes in the row that a node says it has, and the Reassigns.
func (c *counted) note(node key.NodeID, st *custody.State, moves [][]byte) {
	if st.Row == custody.RowGood && (c.seats[node] || len(moves) > 0) {
		c.rows[node] = true
	}
	if len(moves) == 0 || len(moves) > share.MaxReassigns || len(c.moves) > share.MaxSeats {
		return
	}
	if c.moves == nil {
		c.moves = make(map[key.Hash][][]byte)
	}
	c.moves[key.Hash(sha256.Sum256(slices.Concat(moves...)))] = moves
}

// good counts the rows at those who hold the seats now.
func (t *tally) good(c *counted) int {
	if len(c.moves) == 0 {
		return len(c.rows)
	}
	v := t.s.newView(c.id)
	m, err := v.open(c.manifest)
	if err != nil {
		return 0
	}
	for _, moves := range c.moves {
		if err := v.learnMoves(m.Hash, moves); err != nil {
			t.s.log.Debug("a holder shows a reassignment that does not verify", "err", err)
		}
	}
	n := 0
	for _, seat := range v.placement(m).Seats() {
		n += btoi(c.rows[seat.Node])
	}
	return n
}

func (t *tally) promote(c *counted) {
	c.official, c.proof = true, nil
	if b := t.best[c.id]; b == nil || b.gen < c.gen {
		t.best[c.id] = c
	}
}

func (t *tally) sum() keptSummary {
	for _, c := range t.bySum {
		if b := t.best[c.id]; !c.official && (b == nil || b.gen < c.gen) {
			if v := t.s.newView(c.id); v.merge(c.from, c.proof) == nil {
				t.promote(c)
			}
		}
	}
	out := keptSummary{at: time.Now()}
	for id, c := range t.best {
		if c.gen <= t.dead[id] || c.expired {
			continue
		}
		out.Secrets++
		good := t.good(c)
		out.Short += btoi(good < c.n && unix() > c.created+settleTime)
		out.AtRisk += btoi(good == c.k)
		out.Below += btoi(good < c.k)
	}
	return out
}
