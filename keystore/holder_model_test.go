package keystore

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// The holders as models/write.pml, cas.pml, seats.pml and drop.pml have them,
// but with the real steps: writers that start any manifest they could know
// enough for and stop anywhere, messages in any order and number, a crash after
// every step (all that a holder knows is what it wrote), steps lost before they
// were written, disks lost for ever, tombstones.

const (
	mNodes = 7
	mK     = 3
	mW     = 4
	mN     = 5
)

// mDisk is one holder.
type mDisk struct {
	recs map[share.Place][]byte
	dead bool
}

// mDeal is a manifest with what the network knows about it.
type mDeal struct {
	*hDeal
	prev      *mDeal
	force     []*mDeal
	receipts  map[int]key.Object // Prepared, by node
	committed map[int]bool       // Committed receipts
	gone      map[int]bool       // answers that prev's row is gone
	acked     bool
}

type mRun struct {
	*rapid.T
	rand     *rand.Rand
	w        *hWorld
	disks    [mNodes]*mDisk
	deals    []*mDeal
	promised map[[2]uint64]key.Hash // (node, generation) -> manifest
	versions map[string]*version
	dead     int
	seq      int
	grave    uint64 // the highest "up to" tombstone there is
}

func pick[T any](m *mRun, list []T) T { return list[m.rand.IntN(len(list))] }

func (m *mRun) open(b []byte) (*version, error) {
	if v := m.versions[string(b)]; v != nil {
		return v, nil
	}
	v, err := readVersion(m.w.net, b)
	m.versions[string(b)] = v
	return v, err
}

// load is the state after a restart.
func (m *mRun) load(node int) *secretState {
	b, ok := m.disks[node].recs[statePlace(m.w.id)]
	if !ok {
		return m.w.fresh()
	}
	var r stateRecord
	if err := key.Unmarshal(b, &r); err != nil {
		m.Fatal(err)
	}
	s, err := stateOf(m.w.net, m.w.id, &r, m.open)
	if err != nil {
		m.Fatal(err)
	}
	return s
}

func (m *mRun) facts(node int) holderFacts {
	f := m.w.facts(node)
	m.seq++
	f.now += uint64(m.seq)
	f.known = func(key.Object) bool { return true } // nobody forges here
	return f
}

// write is the transaction of a step; a crash before it loses all of it.
func (m *mRun) write(node int, r stepResult, what string) bool {
	recs := r.records()
	if len(recs) > 0 && m.rand.IntN(20) == 0 {
		return false
	}
	before := m.load(node)
	for _, rec := range recs {
		if rec.Value == nil {
			delete(m.disks[node].recs, rec.Place)
			continue
		}
		m.disks[node].recs[rec.Place] = rec.Value
	}
	m.monotone(node, before, m.load(node), what)
	return true
}

// monotone is what must hold of one holder across one step.
func (m *mRun) monotone(node int, a, b *secretState, what string) {
	if b.floor.Gen < a.floor.Gen || len(b.tombs) < len(a.tombs) && b.deletedUpTo() <= a.deletedUpTo() {
		m.Fatalf("%s: floor or tombstones went down at %d", what, node)
	}
	if b.committedGen() < a.committedGen() && !b.covered(a.committedGen()) && b.floor.Gen <= a.floor.Gen {
		m.Fatalf("%s: committed went from %d to %d at %d", what, a.committedGen(), b.committedGen(), node)
	}
	for _, p := range a.pending {
		over := p.Gen <= b.committedGen() || p.Gen <= b.floor.Gen || b.covered(p.Gen)
		if !over && !slices.ContainsFunc(b.pending, func(q *stored) bool { return q.Hash == p.Hash }) {
			m.Fatalf("%s: pending %d was replaced at %d", what, p.Gen, node)
		}
	}
	if len(b.pending) > maxPending {
		m.Fatalf("%s: %d pendings", what, len(b.pending))
	}
	for p := range m.disks[node].recs {
		if p.Bucket != share.BucketRow {
			continue
		}
		if e := b.find(p.Sub); e == nil || !e.row || b.covered(p.Gen) {
			m.Fatalf("%s: a row of generation %d that the state does not have, at %d", what, p.Gen, node)
		}
	}
}

// start makes a manifest. Most writers know what is there; some have an old
// view, and some do not know of what is pending.
func (m *mRun) start() {
	seats := []int{0, 1, 2, 3, 4}
	if m.rand.IntN(2) == 0 {
		seats = []int{2, 3, 4, 5, 6}
	}
	var prev *mDeal
	gen := m.grave
	informed := m.rand.IntN(10) > 3
	if certified := m.certified(); len(certified) > 0 && (informed || m.rand.IntN(2) == 0) {
		prev = slices.MaxFunc(certified, func(a, b *mDeal) int { return cmp.Compare(a.Gen, b.Gen) })
		if !informed {
			prev = pick(m, certified)
		}
		gen = max(gen, prev.Gen)
	}
	var force []*mDeal
	for _, d := range m.deals {
		if d != prev && d.Gen > gen && (informed || m.rand.IntN(2) == 0) && len(force) < share.MaxForce {
			force = append(force, d)
		}
	}
	for _, d := range force {
		gen = max(gen, d.Gen)
	}
	gen += uint64(1 + m.rand.IntN(2))
	d := &mDeal{prev: prev, force: force, receipts: map[int]key.Object{}, committed: map[int]bool{}, gone: map[int]bool{}}
	spec := hSpec{gen: gen, k: mK, w: mW, seats: seats, tag: fmt.Sprint("deal ", len(m.deals))}
	if prev != nil {
		spec.prev = prev.hDeal
	}
	for _, f := range force {
		spec.force = append(spec.force, f.hDeal)
	}
	d.hDeal = m.w.deal(m.T, spec)
	m.deals = append(m.deals, d)
}

// before are the manifests whose seats the certificate of d needs.
func (d *mDeal) before() []*mDeal {
	out := slices.Clone(d.force)
	if d.prev != nil {
		out = append(out, d.prev)
	}
	return out
}

// has reports whether d's certificate can be made of the receipts so far.
func (m *mRun) has(d *mDeal) bool {
	for _, v := range append([]*mDeal{d}, d.before()...) {
		n := 0
		for node := range d.receipts {
			if v.SeatOf(m.w.nodes[node].ID()) != nil {
				n++
			}
		}
		if n < mW {
			return false
		}
	}
	return true
}

func (m *mRun) certified() []*mDeal {
	var out []*mDeal
	for _, d := range m.deals {
		if m.has(d) {
			out = append(out, d)
		}
	}
	return out
}

func (m *mRun) cert(d *mDeal) certificate {
	c := &share.CommitCert{Manifest: d.Hash}
	for node := range mNodes {
		if o, ok := d.receipts[node]; ok {
			c.Prepared = append(c.Prepared, o)
		}
	}
	out := certificate{of: d.version, cert: c, bytes: c.Encode()}
	for _, b := range d.before() {
		out.before = append(out.before, b.version)
	}
	return out
}

func (m *mRun) prepare(node int, d *mDeal) {
	p := m.w.msg(d.hDeal, node)
	if d.prev != nil && m.has(d.prev) && m.rand.IntN(2) == 0 {
		c := m.cert(d.prev)
		p.prev = &c
	}
	if d.prev == nil && m.grave > 0 && m.rand.IntN(2) == 0 {
		p.tomb = m.w.tomb(m.T, m.grave, share.ScopeAll)
	}
	s := m.load(node)
	r := s.prepare(m.facts(node), p)
	if !m.write(node, r, fmt.Sprintf("PREPARE %d", d.Gen)) || r.outcome != custody.OK {
		return
	}
	if s := m.load(node); s.covered(d.Gen) {
		m.Fatalf("a receipt for generation %d, which is deleted", d.Gen)
	}
	k := [2]uint64{uint64(node), d.Gen}
	if h, ok := m.promised[k]; ok && h != d.Hash {
		m.Fatalf("two receipts for generation %d at %d", d.Gen, node)
	}
	m.promised[k] = d.Hash
	o := share.SignReceipt(m.w.nodes[node], m.w.net, r.sign.kind, r.sign.receipt)
	if old, ok := d.receipts[node]; ok && string(old.Encode()) != string(o.Encode()) {
		m.Fatalf("another receipt for the same manifest at %d", node)
	}
	d.receipts[node] = o
}

func (m *mRun) commit(node int, d *mDeal) {
	if !m.has(d) {
		return
	}
	r := m.load(node).commit(m.facts(node), commitMsg{m.cert(d)})
	if !m.write(node, r, fmt.Sprintf("COMMIT %d", d.Gen)) {
		return
	}
	if r.prevGone {
		d.gone[node] = true
	}
	if r.outcome == custody.OK && r.sign.receipt.X != 0 {
		d.committed[node] = true
		if m.disks[node].recs[rowPlace(&stored{version: d.version, x: r.sign.receipt.X})] == nil {
			m.Fatalf("committed %d without a row at %d", d.Gen, node)
		}
	}
}

// ack is when the writer tells its user.
func (m *mRun) ack() {
	for _, d := range m.deals {
		ok := len(d.committed) >= mW
		for _, b := range d.before() {
			n := 0
			for node := range d.gone {
				if b.SeatOf(m.w.nodes[node].ID()) != nil {
					n++
				}
			}
			ok = ok && n >= mW
		}
		d.acked = d.acked || ok
	}
}

// rows counts the rows of d at holders whose disk is left.
func (m *mRun) rows(d *mDeal) int {
	n := 0
	for node, disk := range m.disks {
		if s := d.SeatOf(m.w.nodes[node].ID()); !disk.dead && s != nil && disk.recs[rowPlace(&stored{version: d.version, x: s.X})] != nil {
			n++
		}
	}
	return n
}

// safe: what was acknowledged, or something above it, can be read; what is
// below can not be rebuilt; two writers with the same prev did not both
// succeed unless one names the other.
func (m *mRun) safe() {
	for _, d := range m.deals {
		if !d.acked || d.Gen <= m.grave {
			continue
		}
		if !slices.ContainsFunc(m.deals, func(e *mDeal) bool { return e.Gen >= d.Gen && m.rows(e) >= mK && m.has(e) }) {
			m.Fatalf("generation %d was acknowledged and is lost", d.Gen)
		}
		for _, b := range d.before() {
			if n := m.rows(b); n >= mK {
				m.Fatalf("generation %d is acknowledged and %d rows of %d are left", d.Gen, n, b.Gen)
			}
		}
		for _, e := range m.deals {
			if e != d && e.acked && e.prev == d.prev && d.prev != nil && !slices.Contains(e.force, d) && !slices.Contains(d.force, e) {
				m.Fatalf("generations %d and %d are both acknowledged on the same one", d.Gen, e.Gen)
			}
			if e != d && e.Gen == d.Gen && d.prev != nil && m.has(e) {
				m.Fatalf("two certificates of generation %d", d.Gen)
			}
		}
	}
}

func (m *mRun) tombstone(node int) {
	if m.grave == 0 {
		d := pick(m, m.deals)
		m.grave = d.Gen
	}
	r := m.load(node).delete(m.facts(node), deleteMsg{tomb: m.w.tomb(m.T, m.grave, share.ScopeAll)})
	m.write(node, r, "DELETE")
}

func (m *mRun) act(withTombs bool) {
	node := m.rand.IntN(mNodes)
	if m.disks[node].dead {
		return
	}
	what := m.rand.IntN(100)
	switch {
	case len(m.deals) == 0 || what < 6 && len(m.deals) < 12:
		m.start()
	case what < 40:
		m.prepare(node, pick(m, m.deals))
	case what < 55:
		m.each(m.prepare)
	case what < 75:
		m.commit(node, pick(m, m.deals))
	case what < 96:
		m.each(m.commit)
	case what < 98 && m.dead < mW-mK:
		m.disks[node].dead = true
		m.dead++
	case what == 98 && withTombs:
		m.tombstone(node)
	}
	m.ack()
	m.safe()
}

// each sends one of the last manifests to most of the nodes.
func (m *mRun) each(send func(int, *mDeal)) {
	d := pick(m, m.deals[max(0, len(m.deals)-3):])
	missed := m.rand.IntN(2 * mNodes)
	for node := range mNodes {
		if node != missed && !m.disks[node].dead {
			send(node, d)
		}
	}
}

// TestHolderModel drives the steps through random interleavings.
func TestHolderModel(t *testing.T) {
	acked, reached := 0, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		m := &mRun{T: rt, w: newHWorld(t, mNodes), promised: map[[2]uint64]key.Hash{}, versions: map[string]*version{}}
		for i := range m.disks {
			m.disks[i] = &mDisk{recs: map[share.Place][]byte{}}
		}
		// Uniform choices: rapid's own prefer small numbers.
		seed := rapid.Uint64().Draw(rt, "seed")
		m.rand = rand.New(rand.NewPCG(seed, 1))
		tombs := m.rand.IntN(4) == 0
		// Most runs begin with a first generation in good order.
		if m.rand.IntN(5) > 0 {
			m.start()
			for node := range mNodes {
				m.prepare(node, m.deals[0])
			}
			for node := range mNodes {
				m.commit(node, m.deals[0])
			}
		}
		for range 40 + m.rand.IntN(100) {
			m.act(tombs)
		}
		for _, d := range m.deals {
			if d.acked {
				acked++
				reached[fmt.Sprint("prev ", d.prev != nil, " force ", len(d.force) > 0)]++
			}
		}
	})
	t.Logf("%d acknowledged: %v", acked, reached)
	if acked == 0 || reached["prev true force false"] == 0 {
		t.Fatal("nothing was ever acknowledged: the model proves nothing")
	}
}
