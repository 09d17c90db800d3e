package keystore

import (
	"bytes"
	"context"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// simNode is one node: a holder, and where persons put and get. Its keys, its
// disk and its shelf outlive crashes; the rest is memory.
type simNode struct {
	s    *sim
	i    int
	key  key.NodePrivate
	id   key.NodeID
	liar bool
	dead bool // its disk is lost, for ever
	full bool
	up   bool
	inc  int // which life

	// The disk: the record of the secret, its rows and payloads; the shelf has
	// the journal and the reader's mark.
	disk  *secretState
	recs  map[share.Place][]byte
	shelf *mapShelf
	items []*simItem // what is to be settled; memory
	undo  *simUndo   // what a crash takes back, for the fault "receipt before fsync"

	mem   *secretState
	store *Store                 // what a writer and a reader remember
	busy  *simOp                 // the one operation that runs here
	old   []*custody.LocateReply // what a liar has shown earlier
}

type simUndo struct {
	disk *secretState
	recs map[share.Place][]byte
}

func (n *simNode) name() string { return fmt.Sprint("n", n.i) }

// start is the start of the process.
func (n *simNode) start() {
	s := n.s
	n.up = true
	n.mem = n.reload()
	store, err := New(Config{Network: simNet{n}, Shelf: n.shelf, ID: s.w.net, Node: n.key})
	if err != nil {
		s.broken("%v", err)
	}
	n.store = store
	s.note("%s starts", n.name())
}

// reload is the state as a restart reads it: all that is known is what was
// written.
func (n *simNode) reload() *secretState {
	s := n.s
	rec := n.disk.record()
	if n.disk.nothing() && len(n.disk.marks) == 0 { // words on manifests alone are a record too
		return &secretState{id: s.w.id}
	}
	b := key.Marshal(rec)
	var r stateRecord
	if err := key.Unmarshal(b, &r); err != nil {
		s.broken("%s: %v", n.name(), err)
	}
	out, err := stateOf(s.w.net, s.w.id, &r, s.open)
	if err != nil {
		s.broken("%s: %v", n.name(), err)
	}
	if again := key.Marshal(out.record()); !bytes.Equal(again, b) {
		s.broken("%s: a state does not survive its record", n.name())
	}
	return out
}

func (s *sim) open(b []byte) (*version, error) {
	if v := s.parsed[string(b)]; v != nil {
		return v, nil
	}
	v, err := readVersion(s.w.net, b)
	if err == nil {
		s.parsed[string(b)] = v
	}
	return v, err
}

func (n *simNode) crash(when string) {
	if n.undo != nil {
		n.disk, n.recs, n.undo = n.undo.disk, n.undo.recs, nil
	}
	n.up, n.mem, n.store, n.old, n.items = false, nil, nil, nil, nil
	n.inc++
	if n.busy != nil {
		n.busy.end("crashed")
		n.busy = nil
	}
	n.s.note("%s crashes%s", n.name(), when)
}

// lose is the end of a disk. What its node was is gone with it.
func (n *simNode) lose() {
	if n.up {
		n.crash("")
	}
	n.s.lost++
	n.dead, n.disk, n.recs, n.shelf = true, &secretState{id: n.s.w.id}, map[share.Place][]byte{}, newMapShelf()
	n.s.note("%s loses its disk", n.name())
}

func (n *simNode) facts(from *simNode) holderFacts {
	f := n.s.w.facts(n.i)
	f.now, f.from = n.s.now, from.id
	f.known = n.s.known.has
	f.revoked = func(id key.NodeID) bool { return n.s.revoked[id] }
	f.full = func(demand) string {
		if n.full {
			return "the disk is full"
		}
		return ""
	}
	return f
}

func (n *simNode) sign(p *promise) key.Object {
	o := share.SignReceipt(n.key, n.s.w.net, p.kind, p.receipt)
	n.s.known.add(o)
	return o
}

// step runs one step of the holder: its writes are on disk before it is
// answered, and a crash may come before or after that. false: it crashed.
func (n *simNode) step(from *simNode, what string, do func(*secretState, holderFacts) stepResult) (stepResult, bool) {
	s := n.s
	if !n.up { // it crashed at an earlier step of the same turn
		return stepResult{}, false
	}
	r := do(n.mem, n.facts(from))
	if r.next == nil {
		return r, true
	}
	crash := !s.calm && s.rand.IntN(1000) < s.plan.crash
	if crash && s.rand.IntN(2) == 0 {
		n.crash(" before " + what + " is durable")
		return r, false
	}
	n.apply(what, r)
	if crash {
		n.crash(" after " + what + " is durable")
		return r, false
	}
	return r, true
}

func (n *simNode) apply(what string, r stepResult) {
	if n.s.fault.lateSync {
		n.undo = &simUndo{n.disk, simCopy(n.recs)}
	}
	before := n.disk
	for _, rec := range r.writes {
		if rec.Value == nil {
			delete(n.recs, rec.Place)
		} else {
			n.recs[rec.Place] = bytes.Clone(rec.Value)
		}
	}
	n.disk, n.mem = r.next, r.next
	n.s.changes++
	for _, e := range r.next.pending {
		n.s.promised(n, e.version) // it is shown from now on, whatever becomes of the answer
	}
	n.monotone(what, before, r.next)
}

func simCopy(m map[share.Place][]byte) map[share.Place][]byte {
	out := make(map[share.Place][]byte, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// prepare is what custodian.prepare does with a PREPARE whose signatures are
// good.
func (n *simNode) prepare(from *simNode, p prepareMsg) *custody.PrepareReply {
	s := n.s
	if n.lies() {
		return &custody.PrepareReply{Outcome: custody.OK, Receipt: n.anything(key.TypePrepared, p.m).Encode()}
	}
	r, ok := n.step(from, "PREPARE", func(st *secretState, f holderFacts) stepResult { return s.fault.prepare(n, st, f, p) })
	if !ok {
		return nil
	}
	reply := &custody.PrepareReply{Outcome: r.outcome, Why: r.why, NeedPrev: r.needPrev}
	if r.outcome == custody.Conflict || r.needPrev {
		reply.There = n.mem.shown(n.facts(from), p.m.Gen, n.sign)
	}
	if r.sign != nil {
		reply.Receipt = n.sign(r.sign).Encode()
	}
	if r.outcome == custody.OK {
		s.promised(n, p.m)
	}
	return reply
}

// commit is what custodian.commit does.
func (n *simNode) commit(from *simNode, c *certificate) *custody.CommitReply {
	if n.lies() {
		return &custody.CommitReply{Outcome: custody.OK, Receipt: n.anything(key.TypeCommitted, c.of).Encode(), PrevGone: true}
	}
	r, ok := n.step(from, "COMMIT", func(st *secretState, f holderFacts) stepResult { return n.s.fault.commit(n, st, f, commitMsg{*c}) })
	if !ok {
		return nil
	}
	reply := &custody.CommitReply{Outcome: r.outcome, Why: r.why, PrevGone: r.prevGone}
	if r.outcome == custody.Conflict {
		reply.There = n.mem.shown(n.facts(from), c.of.Gen, n.sign)
	}
	if r.sign != nil {
		reply.Receipt = n.sign(r.sign).Encode()
		if e := n.disk.find(c.of.Hash); r.sign.receipt.X != 0 && (e == nil || n.recs[rowPlace(e)] == nil) {
			n.s.broken("%s says that generation %d is committed, without its row", n.name(), c.of.Gen)
		}
	}
	return reply
}

func (n *simNode) delete(from *simNode, t *tomb) *custody.DeleteReply {
	if n.lies() {
		return &custody.DeleteReply{Outcome: custody.OK, Receipt: n.sign(t.receipt(t.hash)).Encode()}
	}
	r, ok := n.step(from, "DELETE", func(st *secretState, f holderFacts) stepResult { return st.delete(f, deleteMsg{tomb: t}) })
	if !ok {
		return nil
	}
	reply := &custody.DeleteReply{Outcome: r.outcome, Why: r.why}
	if r.sign != nil {
		reply.Receipt = n.sign(r.sign).Encode()
	}
	return reply
}

// locate is what custodian.locate does for the owner.
func (n *simNode) locate() *custody.LocateReply {
	if n.lies() && len(n.old) > 0 {
		return simPick(n.s, n.old)
	}
	if n.lies() || !n.mem.isParty(n.s.w.owner.Public()) {
		return &custody.LocateReply{Outcome: custody.Denied}
	}
	row := n.mem.rowState()
	if c := n.mem.current(); row == custody.RowGood && !n.good(c) {
		row = custody.RowBad
	}
	reply := &custody.LocateReply{Outcome: custody.OK, State: n.mem.view(row, n.sign)}
	if n.liar && len(n.old) < 6 {
		n.old = append(n.old, reply)
	}
	return reply
}

// good reports whether the row of e is on the disk and the one committed to.
func (n *simNode) good(e *stored) bool {
	seat := e.SeatOf(n.id)
	row := n.recs[rowPlace(e)]
	return seat != nil && row != nil && seat.X == e.x && e.CheckRow(*seat, row)
}

// simRow is what RECOVER gives, before the reader has checked anything.
type simRow struct {
	state   *custody.State
	outcome uint8
	why     string
	of      key.Hash
	x       uint8
	row     []byte
	payload []byte
}

// recover is what custodian.recover does, without box and signature.
func (n *simNode) recover(c *consent, known key.Hash) *simRow {
	e, outcome, why := n.mem.release(n.facts(n), c)
	out := &simRow{outcome: outcome, why: why}
	if cur := n.mem.current(); cur == nil || cur.Hash != known || outcome == custody.Refused {
		st := n.mem.brief(n.mem.rowState())
		out.state = &st
	}
	if outcome == custody.OK && !n.good(e) {
		return &simRow{outcome: custody.Failed, why: "the row is damaged here", state: out.state}
	}
	if outcome == custody.OK {
		out.of, out.x, out.row, out.payload = e.Hash, e.x, n.recs[rowPlace(e)], n.recs[payloadPlace(e)]
	}
	if n.lies() {
		n.lieRow(out)
	}
	return out
}

// lieRow spoils an answer to RECOVER.
func (n *simNode) lieRow(r *simRow) {
	switch n.s.rand.IntN(6) {
	case 0:
		r.row = bytes.Repeat([]byte{0x5a}, max(len(r.row), 96))
	case 1:
		r.x = 0
	case 2:
		r.x++
	case 3:
		r.outcome, r.row, r.why = custody.Refused, nil, "no"
	case 4:
		r.payload = bytes.Repeat([]byte{1}, len(r.payload))
	case 5:
		if len(n.old) > 0 { // nothing is newer
			r.state = &simPick(n.s, n.old).State
			r.outcome, r.row = custody.Refused, nil
		}
	}
}

// lies reports whether the node lies this time.
func (n *simNode) lies() bool { return n.liar && n.s.rand.IntN(3) > 0 }

// anything is a receipt for whatever it was asked for.
func (n *simNode) anything(t key.Type, m *version) key.Object {
	r := share.Receipt{Manifest: m.Hash, Time: n.s.now}
	if seat := m.SeatOf(n.id); seat != nil {
		r.X = seat.X
	}
	return n.sign(&promise{t, r})
}

// passOn is W3: the certificate in force, or a tombstone, to one other node.
func (n *simNode) passOn() {
	if !n.up || n.liar {
		return
	}
	if c := n.mem.current(); c != nil && n.s.rand.IntN(3) > 0 {
		if to := n.s.fault.targets(c, n.id); len(to) > 0 {
			n.passTo(c, simPick(n.s, to))
		}
		return
	}
	if len(n.mem.tombs) > 0 {
		if t := simPick(n.s, n.mem.tombs); len(t.seats) > 0 {
			n.bury(t, simPick(n.s, t.seats))
		}
	}
}

func (n *simNode) passTo(c *stored, to key.NodeID) {
	cert, err := share.DecodeCert(c.cert)
	if err != nil {
		n.s.broken("%s keeps a certificate that does not decode: %v", n.name(), err)
	}
	msg := &certificate{of: c.version, cert: cert, bytes: c.cert, before: c.before}
	if o := n.s.node(to); o != nil {
		n.s.call(n, o, fmt.Sprintf("pass on %d", c.Gen), func(o *simNode) any { return o.commit(n, msg) }, func(any) {})
	}
}

func (n *simNode) bury(t *tomb, to key.NodeID) {
	if o := n.s.node(to); o != nil {
		n.s.call(n, o, fmt.Sprintf("pass on tombstone %d", t.Gen), func(o *simNode) any { return o.delete(n, t) }, func(any) {})
	}
}

func (s *sim) node(id key.NodeID) *simNode {
	for _, n := range s.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// flush writes what the reader and the finisher remember.
func (n *simNode) flush() {
	if n.up {
		n.store.finish.flush(n.store.life)
	}
}

// monotone is what must hold of one holder across one step.
func (n *simNode) monotone(what string, a, b *secretState) {
	s := n.s
	if b.floor.Gen < a.floor.Gen || len(b.tombs) < len(a.tombs) && b.deletedUpTo() <= a.deletedUpTo() {
		s.broken("%s: floor or tombstones went down at %s", what, n.name())
	}
	if b.committedGen() < a.committedGen() && !b.covered(a.committedGen()) && b.floor.Gen <= a.floor.Gen {
		s.broken("%s: committed went from %d to %d at %s", what, a.committedGen(), b.committedGen(), n.name())
	}
	if len(b.pending) > maxPending {
		s.broken("%s: %d pendings at %s", what, len(b.pending), n.name())
	}
	for p := range n.recs {
		if p.Bucket != share.BucketRow {
			continue
		}
		if e := b.find(p.Sub); e == nil || !e.row || b.covered(p.Gen) {
			s.broken("%s: a row of generation %d that the state does not have, at %s", what, p.Gen, n.name())
		}
	}
	for _, e := range b.entries() {
		if e.row && n.recs[rowPlace(e)] == nil {
			s.broken("%s: no row of generation %d, which the state has, at %s", what, e.Gen, n.name())
		}
	}
}

// simNet is what a store knows of the network. Nothing is sent by it.
type simNet struct{ n *simNode }

func (v simNet) Members() []Member {
	var out []Member
	for _, o := range v.n.s.nodes {
		if o != v.n {
			out = append(out, v.member(o))
		}
	}
	return out
}

func (v simNet) member(o *simNode) Member {
	online := o == v.n || o.up && v.n.s.linked(v.n, o)
	return Member{ID: o.id, Name: o.name(), Operator: o.name(), Zone: o.name(), Holder: true, Capacity: 1, Online: online, Accepting: online && !o.full, Revoked: v.n.s.revoked[o.id]}
}

func (v simNet) Self() Member { return v.member(v.n) }

func (v simNet) Call(context.Context, key.NodeID, uint64, []byte) ([]byte, error) {
	return nil, errFakeLink
}

// simWords prints answers in a trace.
type simWords struct{ reply any }

func (w simWords) String() string {
	outcome := func(o uint8, why string) string {
		name := []string{"?", "OK", "CONFLICT", "FULL", "REFUSED", "DENIED", "WAIT", "MOVED", "FAILED"}[o]
		if why != "" {
			return name + " (" + why + ")"
		}
		return name
	}
	switch r := w.reply.(type) {
	case *custody.PrepareReply:
		return outcome(r.Outcome, r.Why)
	case *custody.CommitReply:
		return outcome(r.Outcome, r.Why) + fmt.Sprintf(" gone %v", r.PrevGone)
	case *custody.DeleteReply:
		return outcome(r.Outcome, r.Why)
	case *custody.LocateReply:
		return outcome(r.Outcome, fmt.Sprintf("floor %d, %d pending", r.State.Floor.Gen, len(r.State.Pending)))
	case *simWord:
		return outcome(r.outcome, r.why) + fmt.Sprint(" word ", r.word)
	case *simRow:
		return outcome(r.outcome, r.why)
	}
	return fmt.Sprintf("%T", w.reply)
}
