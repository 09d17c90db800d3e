package keystore

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"keymesh/crypto/key"
)

// summary is what the index keeps of one secret.
type summary struct {
	present  bool
	owner    key.PersonPublic
	operator string
	parties  []key.PersonPublic // beside the owner
	listed   bool               // worth an item of a LIST
	floor    key.Hash           // the certificate that is here
	tomb     key.Hash           // the tombstone that was put last
	moves    []key.Hash         // Reassigns of what is there, and their vetoes
	expires  uint64             // the earliest of the rows here; 0: never
	age      uint64             // when the committed row came into force; 0: there is none
	moved    bool               // a seat of it was given to another node
	fading   uint64             // when its unsigned words were said, and nothing else is here; 0: something is
	charges  []charge
	tombs    int64 // bytes of tombstones, which the record's operator pays
}

// charge is what one operator pays for a secret.
type charge struct {
	operator string
	bytes    int64
}

func summaryOf(r *stateRecord) summary {
	s := summary{
		present: true, owner: r.Owner, operator: r.Operator, parties: r.Parties, floor: r.Floor.Manifest,
		listed: len(r.Committed)+len(r.Kept)+len(r.Tombs) > 0,
	}
	if r.Reassign != nil {
		for _, m := range r.Reassign.Moves {
			s.moves = append(s.moves, m.Hash)
		}
	}
	if r.Words != nil {
		for _, word := range r.Words.Vetoes {
			s.moves = append(s.moves, vetoHash(word))
		}
	}
	if len(r.Committed)+len(r.Kept)+len(r.Pending)+len(r.History)+len(r.Tombs) == 0 && r.Floor.Gen == 0 && len(r.Marks) > 0 {
		s.fading = fading(r.Marks)
	}
	if n := len(r.Tombs); n > 0 {
		s.tomb = r.Tombs[n-1].Hash
	}
	for _, t := range r.Tombs {
		s.tombs += (&tomb{object: t.Object, body: t.Body, request: t.Request, approvals: t.Approvals, seats: t.Seats}).size()
	}
	for _, list := range [][]storedRecord{r.Committed, r.Kept, r.Pending, r.History} {
		for _, e := range list {
			s.charges = addCharge(s.charges, charge{e.Operator, int64(e.Size)})
			if e.Row && e.Expires != 0 && (s.expires == 0 || e.Expires < s.expires) {
				s.expires = e.Expires
			}
		}
	}
	if len(r.Committed) == 1 && r.Committed[0].Row {
		s.age = r.Committed[0].CommittedAt
		for _, e := range r.Epochs {
			s.age = max(s.age, e.Since)
		}
		s.moved = r.Reassign != nil && len(r.Reassign.Moves) > 0
	}
	return s
}

func addCharge(list []charge, c charge) []charge {
	for i := range list {
		if list[i].operator == c.operator {
			list[i].bytes += c.bytes
			return list
		}
	}
	return append(list, c)
}

// listKey: what this person may see of this owner's.
type listKey struct{ owner, person key.PersonPublic }

// payer is an operator, or an owner below it.
type payer struct {
	operator string
	owner    key.PersonPublic // zero: all of the operator's
}

// usage is what a payer has here.
type usage struct {
	secrets, records int
	bytes            int64
}

// maxRecords is how many records an operator may have here for each secret of
// its quota: tombstones and floors stay for ever.
const maxRecords = 10

// What no operator has brought is charged to pools. Their names are none of an
// operator's.
const (
	poolPassed   = "\x00passed on" // certificates that came without a PREPARE
	poolSettling = "\x00settling " // and an operator: marks where nothing else is
	passedShare  = 8               // times what one operator may have
	maxMarked    = 2000            // records of marks that one operator's promises led to
)

// bounds are what a payer may have here at most.
func (x *index) bounds(p payer) usage {
	u := usage{secrets: x.limits.Secrets, records: maxRecords * x.limits.Secrets, bytes: x.limits.Bytes}
	switch {
	case strings.HasPrefix(p.operator, poolSettling):
		u.records = min(u.records, maxMarked)
	case p.operator == poolPassed && p.owner.IsZero():
		u.secrets, u.records, u.bytes = passedShare*u.secrets, passedShare*u.records, passedShare*u.bytes
	case p.operator == givenAway:
		part := 4
		if !p.owner.IsZero() {
			part = 16
		}
		u.secrets /= part
		u.records, u.bytes = maxRecords*u.secrets, u.bytes/int64(part)
	}
	return u
}

// index finds secrets by owner, and counts what everyone keeps here. It is in
// memory, built from the shelf at the start. Safe for concurrent use.
type index struct {
	limits Limits

	mu      sync.Mutex
	floors  map[key.Hash]key.Hash   // id -> H(manifest) of what is there
	tombs   map[key.Hash]key.Hash   // id -> H(tombstone)
	moves   map[key.Hash][]key.Hash // id -> H(reassign) and vetoHash of those in it
	expires map[key.Hash]uint64
	fading  map[key.Hash]uint64 // of those with nothing but unsigned words
	ages    map[key.Hash]uint64
	moved   map[key.Hash]uint64 // the ages of those of which a seat was given away
	lists   map[listKey]*idList
	used    map[payer]usage
}

func newIndex(l Limits) *index {
	return &index{
		limits: l, floors: map[key.Hash]key.Hash{}, tombs: map[key.Hash]key.Hash{}, moves: map[key.Hash][]key.Hash{},
		expires: map[key.Hash]uint64{}, fading: map[key.Hash]uint64{}, ages: map[key.Hash]uint64{}, moved: map[key.Hash]uint64{}, lists: map[listKey]*idList{}, used: map[payer]usage{},
	}
}

// replace makes the index say now of a secret instead of was.
func (x *index) replace(id key.Hash, was, now summary) {
	x.mu.Lock()
	defer x.mu.Unlock()
	set(x.floors, id, now.floor, now.floor.IsZero())
	set(x.tombs, id, now.tomb, now.tomb.IsZero())
	set(x.expires, id, now.expires, now.expires == 0)
	set(x.fading, id, now.fading, now.fading == 0)
	set(x.moves, id, now.moves, len(now.moves) == 0)
	set(x.ages, id, now.age, now.age == 0)
	set(x.moved, id, now.age, !now.moved || now.age == 0)
	if was.listed != now.listed || was.owner != now.owner || !slices.Equal(was.parties, now.parties) {
		x.unlist(id, was)
		x.list(id, now)
	}
	x.count(was, -1)
	x.count(now, 1)
}

func set[V any](m map[key.Hash]V, id key.Hash, v V, none bool) {
	if none {
		delete(m, id)
		return
	}
	m[id] = v
}

func (x *index) list(id key.Hash, s summary) {
	if !s.listed {
		return
	}
	for _, p := range append([]key.PersonPublic{s.owner}, s.parties...) {
		k := listKey{s.owner, p}
		if x.lists[k] == nil {
			x.lists[k] = new(idList)
		}
		x.lists[k].add(id)
	}
}

func (x *index) unlist(id key.Hash, s summary) {
	if !s.listed {
		return
	}
	for _, p := range append([]key.PersonPublic{s.owner}, s.parties...) {
		k := listKey{s.owner, p}
		if l := x.lists[k]; l != nil && l.remove(id) {
			delete(x.lists, k)
		}
	}
}

func (x *index) count(s summary, sign int) {
	if !s.present {
		return
	}
	x.charge(s.operator, s.owner, usage{records: sign, bytes: int64(sign) * s.tombs})
	for _, c := range s.charges {
		x.charge(c.operator, s.owner, usage{secrets: sign, bytes: int64(sign) * c.bytes})
	}
}

func (x *index) charge(operator string, owner key.PersonPublic, d usage) {
	for _, p := range []payer{{operator, key.PersonPublic{}}, {operator, owner}} {
		u := x.used[p]
		u.secrets, u.records, u.bytes = u.secrets+d.secrets, u.records+d.records, u.bytes+d.bytes
		if u == (usage{}) {
			delete(x.used, p)
			continue
		}
		x.used[p] = u
	}
}

// has reports whether the certificate or tombstone with this hash is here.
func (x *index) has(id, h key.Hash) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !h.IsZero() && (x.floors[id] == h || x.tombs[id] == h || slices.Contains(x.moves[id], h))
}

// expired returns the secrets with a row that expired at or before t.
func (x *index) expired(t uint64) []key.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []key.Hash
	for id, e := range x.expires {
		if e <= t {
			out = append(out, id)
		}
	}
	return out
}

// faded returns the secrets with nothing but unsigned words, said at or before t.
func (x *index) faded(t uint64) []key.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []key.Hash
	for id, at := range x.fading {
		if at <= t {
			out = append(out, id)
		}
	}
	return out
}

// aged returns the secrets whose committed row came into force at or before t,
// or before now when a seat was given away, the oldest first.
func (x *index) aged(t, now uint64) []key.Hash {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []key.Hash
	for id, at := range x.ages {
		if _, moved := x.moved[id]; at <= t || moved && at <= now {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b key.Hash) int { return cmp.Or(cmp.Compare(x.ages[a], x.ages[b]), compareIDs(a, b)) })
	return out
}

// page returns up to n ids above cursor that the person may see of the owner's,
// ascending, and whether there are more. nil when there are none at all.
func (x *index) page(owner, person key.PersonPublic, cursor key.Hash, n int) ([]key.Hash, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.lists[listKey{owner, person}]
	if l == nil {
		return nil, false
	}
	return l.page(cursor, n)
}

// reservation holds what a step may add until the index says so itself, so that
// steps side by side do not pass a limit together.
type reservation struct {
	x        *index
	owner    key.PersonPublic
	fresh    bool // no record of the secret is here
	charged  []string
	operator string
	held     usage
}

func (x *index) reservation(s *secretState) *reservation {
	r := &reservation{x: x, fresh: s.nothing()}
	for _, e := range append(append([]*stored{s.committed, s.kept}, s.pending...), s.history...) {
		if e != nil {
			r.charged = append(r.charged, e.operator)
		}
	}
	return r
}

// full says why the demand may not be granted here.
func (r *reservation) full(c demand, shelf Shelf) string {
	if err := shelf.Room(int(max(c.bytes, 0))); err != nil {
		return "no room on this disk"
	}
	add := usage{bytes: max(c.bytes, 0)}
	if r.fresh {
		add.records = 1
	}
	if c.version && !slices.Contains(r.charged, c.operator) {
		add.secrets = 1
	}
	x := r.x
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range []payer{{c.operator, key.PersonPublic{}}, {c.operator, c.owner}} {
		u, most := x.used[p], x.bounds(p)
		switch {
		case u.secrets+add.secrets > most.secrets:
			return fmt.Sprintf("%d secrets of this operator or owner are here", u.secrets)
		case u.bytes+add.bytes > most.bytes:
			return fmt.Sprintf("%d bytes of this operator or owner are here", u.bytes)
		case u.records+add.records > most.records:
			return fmt.Sprintf("%d records of this operator or owner are here", u.records)
		}
	}
	x.charge(c.operator, c.owner, add)
	r.operator, r.owner, r.held = c.operator, c.owner, add
	return ""
}

// release gives back what was held.
func (r *reservation) release() {
	if r.held == (usage{}) {
		return
	}
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	h := r.held
	r.x.charge(r.operator, r.owner, usage{secrets: -h.secrets, records: -h.records, bytes: -h.bytes})
	r.held = usage{}
}

// idList is a sorted list of ids that takes new ones cheaply. The zero value is
// empty. Not safe for concurrent use.
type idList struct {
	sorted []key.Hash
	added  []key.Hash // not sorted, none of them in sorted
}

func compareIDs(a, b key.Hash) int { return bytes.Compare(a[:], b[:]) }

func (l *idList) add(id key.Hash) { l.added = append(l.added, id) }

func (l *idList) settle() {
	if len(l.added) == 0 {
		return
	}
	l.sorted = append(l.sorted, l.added...)
	slices.SortFunc(l.sorted, compareIDs)
	l.sorted, l.added = slices.Compact(l.sorted), nil
}

// remove takes an id out and reports whether the list is empty now.
func (l *idList) remove(id key.Hash) bool {
	l.settle()
	if i, ok := slices.BinarySearchFunc(l.sorted, id, compareIDs); ok {
		l.sorted = slices.Delete(l.sorted, i, i+1)
	}
	return len(l.sorted) == 0
}

func (l *idList) page(cursor key.Hash, n int) ([]key.Hash, bool) {
	l.settle()
	i, ok := slices.BinarySearchFunc(l.sorted, cursor, compareIDs)
	if ok {
		i++
	}
	rest := l.sorted[i:]
	return slices.Clone(rest[:min(n, len(rest))]), len(rest) > n
}

// others is how many secrets of other owners than this one are listed here.
func (x *index) others(owner key.PersonPublic) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for k, l := range x.lists {
		if k.owner == k.person && k.owner != owner {
			l.settle()
			n += len(l.sorted)
		}
	}
	return n
}
