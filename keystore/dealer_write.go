package keystore

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// write is one generation on its way to its seats: what it consists of, and how
// far each node is. The goroutine in run owns what changes; the rest is
// immutable once run has started.
type write struct {
	s       *Store
	m       *share.SignedManifest
	bytes   []byte                  // of m
	before  []*share.SignedManifest // prev, then what m's force names
	prev    *certified              // prev with its certificate; nil: none, or not known
	tomb    []byte                  // when the name was deleted before
	consent []byte                  // to a change of policy
	asked   *asked                  // when it is not the owner's alone to give

	tombConsent [][]byte              // of tomb, when not the owner signed it: Request and Approvals
	rows        map[key.NodeID][]byte // encoded; only of seats that may need theirs
	ct          []byte
	digest      key.Hash

	groups   []group
	nodes    []key.NodeID // all that are asked: seats of m and of before
	progress map[key.NodeID]*progress
	roster   roster
	view     *view // what refusing nodes have shown

	journaled bool
	resumed   bool // seats may have promised it before this run
	answered  bool
	cert      *certified
	commitMsg []byte
	certified atomic.Bool // the certificate is formed
	told      atomic.Bool // the caller has an answer
	failed    error       // the journal could not be written
	hasty     bool        // nobody was asked what is there: the PREPAREs ask, and all answer first
	newer     bool        // a newer generation or a tombstone makes this one needless
	abandoned bool        // the caller was told that it is not stored

	// stop ends the run that [dealing.drive] began, and ended is closed when it
	// has: until then everything above is the run's. nil: none was begun.
	stop  context.CancelFunc
	ended chan struct{}

	conditional bool // compare-and-set or if-absent: whether it was stored matters even when it was overtaken
}

// group is a manifest whose seats must take part: m's, prev's, and those of
// what is forced. need counts receipts for a certificate and, after the COMMIT,
// nodes for the answer.
type group struct {
	m    *share.Manifest
	need int
}

// progress is how far one node is.
type progress struct {
	prepared  *key.Object       // verified receipt
	committed bool              // verified Committed receipt
	gone      bool              // says that prev's row is there no more
	busy      bool              // a call is under way
	tries     int               // finished calls since the certificate
	refused   bool              // answered, and not with a receipt
	held      bool              // waits for more consent
	heard     *custody.Progress // what it says of the consent
	promised  bool              // has promised, or may have: an answer was lost
	never     bool              // has signed that it never will: a verified Refused
	full      bool
	conflict  bool
	there     uint64 // a generation that it says is there, which proves nothing
	state     string // of SeatState
	why       string
}

func (s *Store) newWrite(m *share.SignedManifest, before []*share.SignedManifest) *write {
	w := &write{
		s: s, m: m, bytes: m.Bytes(), before: before, rows: make(map[key.NodeID][]byte, m.N()),
		progress: make(map[key.NodeID]*progress), roster: s.roster(), view: s.newView(m.ID),
	}
	w.view.learn(m)
	w.groups = append(w.groups, group{&m.Manifest, int(m.W)})
	revoked := w.roster.gone
	for _, b := range before {
		w.view.learn(b)
		w.groups = append(w.groups, group{&b.Manifest, share.PrevNeed(&b.Manifest, revoked)})
	}
	for _, g := range w.groups {
		for _, seat := range g.m.Seats {
			if w.progress[seat.Node] == nil && !revoked(seat.Node) {
				w.progress[seat.Node] = &progress{state: "pending"}
				w.nodes = append(w.nodes, seat.Node)
			}
		}
	}
	for _, seat := range m.Seats {
		if w.progress[seat.Node] == nil {
			w.progress[seat.Node] = &progress{state: "refused", why: "revoked", refused: true}
		}
	}
	return w
}

// gone reports whether the node is revoked.
func (r roster) gone(id key.NodeID) bool { return r[id].Revoked }

// count counts the nodes of a group for which ok holds.
func (w *write) count(g group, ok func(*progress) bool) int {
	n := 0
	for _, seat := range g.m.Seats {
		if p := w.progress[seat.Node]; p != nil && ok(p) {
			n++
		}
	}
	return n
}

// every reports whether each group has as many nodes as it needs.
func (w *write) every(ok func(g group) func(*progress) bool) bool {
	return !slices.ContainsFunc(w.groups, func(g group) bool { return w.count(g, ok(g)) < g.need })
}

func prepared(p *progress) bool { return p.prepared != nil || p.committed }

// certifiable: enough receipts for the joint certificate.
func (w *write) certifiable() bool {
	return w.every(func(group) func(*progress) bool {
		return func(p *progress) bool { return p.prepared != nil }
	})
}

// hopeless: not enough receipts, even if all that are still asked give theirs.
func (w *write) hopeless() bool {
	return !w.every(func(group) func(*progress) bool {
		return func(p *progress) bool { return prepared(p) || p.busy || p.held }
	})
}

// acknowledged: w new seats have committed, and enough of prev's hold its row
// no more (protocol.md section 6).
func (w *write) acknowledged() bool {
	return w.every(func(g group) func(*progress) bool {
		if g.m == &w.m.Manifest {
			return func(p *progress) bool { return p.committed }
		}
		return func(p *progress) bool { return p.gone }
	})
}

// finished: each node has answered what it can ever answer.
func (w *write) finished() bool {
	for _, id := range w.nodes {
		p := w.progress[id]
		if w.m.SeatOf(id) != nil && !p.committed || !p.gone {
			return false
		}
	}
	return true
}

// event is the end of one call, or of writing the journal.
type event struct {
	node     key.NodeID // zero: the journal
	journal  error
	prepared *key.Object
	commit   bool
	done     bool // Committed receipt verified
	gone     bool
	outcome  uint8 // of package custody; 0: no answer
	why      string
	there    *custody.State
	heard    *custody.Progress // of the consent
	unsure   bool              // an earlier try may have taken effect
	never    bool              // a verified Refused came
	err      error
}

// driver is one run of a write: its calls under way, and the verdict.
type driver struct {
	*write
	life     context.Context
	cancel   context.CancelFunc
	events   chan event
	inflight int
	writing  bool             // the journal is being written
	decide   func(*outcome)   // nil once the verdict was given
	refused  *outcome         // not stored: to be told once the journal has forgotten it
	last     <-chan time.Time // the end of the wait for more refusals
}

// run drives the write until every node has answered or failed, or life ends.
// It reports the first verdict to decide and leaves the rest to the finisher.
// asked ends when the caller no longer waits for a verdict. decide is nil when
// nobody waits: then nothing but something newer ends the write early.
func (w *write) run(asked, life context.Context, decide func(*outcome)) {
	// Every goroutine sends one event, and a node has one call at a time.
	d := &driver{write: w, events: make(chan event, len(w.nodes)+1), decide: decide}
	d.life, d.cancel = context.WithCancel(life)
	defer d.cancel()
	d.begin()
	var all <-chan time.Time // the end of the wait for all answers
	if w.hasty {
		all = time.After(hastyGrace)
	}
	waiting := asked.Done()
	over := d.life.Done()
	// The journal is waited for in any case: what is abandoned must not turn up
	// in it afterwards.
	for d.inflight > 0 && (over != nil || d.writing) {
		select {
		case e := <-d.events:
			d.inflight--
			d.writing = d.writing && !e.node.IsZero()
			d.apply(e)
			d.advance()
			d.verdict(false)
		case <-waiting:
			waiting = nil
			d.verdict(true)
		case <-d.last:
			d.verdict(true)
		case <-all:
			w.hasty = false
			d.advance()
		case <-over:
			over = nil
		}
	}
	d.verdict(true)
	d.leave(d.inflight == 0)
	d.refuse()
}

func (d *driver) launch(f func() event) {
	d.inflight++
	d.s.spawn(func() { d.events <- f() })
}

// verdict gives the verdict once there is one. A write that failed before its
// certificate stops: what it left is passed or continued by a later one.
func (d *driver) verdict(final bool) {
	if d.decide == nil || d.refused != nil {
		return
	}
	out := d.judge(final)
	switch {
	case out == nil:
		return
	case out.undecided && !final:
		if d.last == nil {
			d.last = time.After(refusalGrace)
		}
		return
	}
	d.answered, d.abandoned = d.answered || out.ok, out.notStored
	if d.cert == nil && !out.waits && (!final || d.last != nil) {
		d.cancel()
	}
	if out.notStored {
		d.refused = out
		d.cancel()
		return
	}
	d.told.Store(true)
	d.decide(out)
	d.decide = nil
}

// refuse tells that the write is not stored once nothing of it is left on this
// disk: after a crash the journal would go on with it, and store it all the same.
func (d *driver) refuse() {
	if d.refused == nil {
		return
	}
	if err := d.s.finish.flush(d.life); err != nil {
		d.refused.notStored, d.refused.full, d.refused.failed = false, false, err
	}
	d.decide(d.refused)
	d.decide = nil
}

// begin starts the journal and the first call to each node.
func (d *driver) begin() {
	if !d.journaled {
		record := d.record()
		d.writing = true
		d.launch(func() event {
			// Not given up with the caller: what is half written helps nobody.
			return event{journal: d.s.cfg.Shelf.Commit(context.WithoutCancel(d.life), share.Record{Place: d.place(), Value: record})}
		})
	}
	if d.cert != nil {
		d.encodeCommit()
	}
	for _, id := range d.nodes {
		p := d.progress[id]
		switch {
		case p.committed && p.gone:
		case d.cert != nil:
			d.settle(id)
		default:
			p.busy, p.state = true, "sent"
			d.launch(func() event { return d.prepare(d.life, id) })
		}
	}
}

// apply takes in an event.
func (w *write) apply(e event) {
	if e.node.IsZero() {
		w.journaled, w.failed = e.journal == nil, e.journal
		return
	}
	p := w.progress[e.node]
	p.busy = false
	if e.heard != nil {
		p.heard = e.heard
	}
	if e.there != nil {
		if err := w.view.merge(e.node, e.there); err != nil {
			w.s.log.Debug("a holder shows what does not verify", "node", e.node.Short(), "err", err)
		}
		p.there = max(p.there, e.there.Floor.Gen)
		w.superseded()
	}
	p.promised = p.promised || e.unsure || e.err != nil || e.prepared != nil || e.outcome == custody.Failed || e.outcome == custody.Wait
	p.never = p.never || e.never
	if e.prepared != nil {
		p.prepared, p.refused, p.conflict, p.full = e.prepared, false, false, false
		p.state, p.why = "prepared", ""
	}
	p.gone = p.gone || e.gone
	switch {
	case e.err != nil:
		p.why = reason(e.err)
		if p.prepared == nil {
			p.state = "unreachable"
		}
	case e.done:
		p.committed, p.state, p.why = true, "committed", ""
	case e.commit || e.prepared != nil:
		if e.outcome != custody.OK {
			p.why = quoted(e.why)
		}
	case w.asked != nil && e.outcome == custody.Refused && w.asked.waitsAt(e.node, e.heard):
		p.held, p.state, p.why = true, "pending", "waits for the consent to another policy"
	default:
		p.refused, p.state, p.why = true, "refused", quoted(e.why)
		switch e.outcome {
		case custody.Full:
			p.full, p.state = true, "full"
		case custody.Conflict:
			p.conflict, p.state = true, "conflict"
		}
	}
	if e.commit {
		p.tries++
	}
}

// superseded looks in what nodes have shown for this write's own certificate,
// which others may have formed, and for what makes it needless.
func (w *write) superseded() {
	if c := w.view.certs[w.m.Hash]; c != nil && w.cert == nil {
		w.cert = c
		w.encodeCommit()
	}
	if w.view.deleted(w.m.Gen) {
		w.newer = true
	}
	if best, _ := w.view.latest(); best != nil && best.m.Hash != w.m.Hash && best.m.Gen >= w.m.Gen {
		w.newer = true
	}
	// More seats say so than may lie.
	w.newer = w.newer || w.below(w.m.Gen+1) > w.m.F()
}

// advance forms the certificate when it can and starts what follows from it.
func (d *driver) advance() {
	if d.refused != nil {
		return
	}
	if d.cert == nil && d.journaled && d.certifiable() && !d.unheard() {
		// Each receipt was verified when it came.
		d.cert = &certified{m: d.m, cert: d.receipts().Encode(), before: d.before}
		d.encodeCommit()
	}
	if d.cert == nil || !d.journaled {
		return
	}
	for _, id := range d.nodes {
		p := d.progress[id]
		if !p.busy && !(p.gone && (p.committed || d.m.SeatOf(id) == nil)) && p.tries < 1 && p.state != "unreachable" {
			d.settle(id)
		}
	}
}

// unheard: the seats have not all told what they have of a secret about which
// nobody was asked.
func (w *write) unheard() bool {
	return w.hasty && slices.ContainsFunc(w.nodes, func(id key.NodeID) bool { return w.progress[id].busy })
}

// receipts are the fewest that make a certificate: every seat verifies each.
func (w *write) receipts() *share.CommitCert {
	cert := &share.CommitCert{Manifest: w.m.Hash}
	have := make([]int, len(w.groups))
	for _, id := range w.nodes {
		p := w.progress[id]
		if p.prepared == nil {
			continue
		}
		useful := false
		for i, g := range w.groups {
			if g.m.SeatOf(id) != nil {
				useful = useful || have[i] < g.need
				have[i]++
			}
		}
		if useful {
			cert.Prepared = append(cert.Prepared, *p.prepared)
		}
	}
	return cert
}

// settle brings a node what it still needs once there is a certificate.
func (d *driver) settle(id key.NodeID) {
	p := d.progress[id]
	p.busy = true
	needsRow := d.m.SeatOf(id) != nil && !prepared(p)
	d.launch(func() event {
		if needsRow && len(d.rows[id]) > 0 {
			return d.bring(d.life, id)
		}
		return d.commit(d.life, id)
	})
}

func (w *write) encodeCommit() {
	w.certified.Store(true)
	w.commitMsg = key.Marshal(&custody.Commit{Manifest: w.bytes, Cert: w.cert.cert, Before: w.cert.beforeBytes()})
}

// leave ends the write: what is finished or needless leaves the journal, the
// rest stays there for the finisher. quiet says that no call is under way.
func (w *write) leave(quiet bool) {
	if w.cert != nil && !w.newer {
		w.s.remember(w.cert, true)
	}
	w.abandoned = w.abandoned || w.cert == nil && w.dead()
	over := w.newer || w.cert != nil && w.finished()
	switch {
	case over && w.journaled && w.doubted():
		// In doubt for the caller: his retry is to be told so too, or what
		// became of it.
		w.s.finish.keep(w)
	case over || w.abandoned:
		w.s.finish.forget(w.place())
		if quiet {
			for _, row := range w.rows {
				clear(row)
			}
		}
	case w.journaled:
		w.s.finish.keep(w)
	}
}
