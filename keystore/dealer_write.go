package keystore

import (
	"context"
	"errors"
	"slices"
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
	rows    map[key.NodeID][]byte   // encoded; only of seats that may need theirs
	ct      []byte
	digest  key.Hash

	groups   []group
	nodes    []key.NodeID // all that are asked: seats of m and of before
	progress map[key.NodeID]*progress
	roster   roster
	view     *view // what refusing nodes have shown

	journaled bool
	answered  bool
	cert      *certified
	commitMsg []byte
	failed    error // the journal could not be written
	hasty     bool  // nobody was asked what is there: the PREPAREs ask, and all answer first
	newer     bool  // a newer generation or a tombstone makes this one needless
	abandoned bool  // the caller was told that it is not stored
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
	prepared  *key.Object // verified receipt
	committed bool        // verified Committed receipt
	gone      bool        // says that prev's row is there no more
	busy      bool        // a call is under way
	tries     int         // finished calls since the certificate
	refused   bool        // answered, and not with a receipt
	full      bool
	conflict  bool
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
	revoked := func(id key.NodeID) bool { return w.roster[id].Revoked }
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
		return func(p *progress) bool { return prepared(p) || p.busy }
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
	err      error
}

// Bounds of the calls of a write.
const (
	callTimeout    = 10 * time.Second
	offlineTimeout = 3 * time.Second
	callTries      = 3
	tryPause       = 50 * time.Millisecond // doubled each time
	// refusalGrace is how long a write that can get no certificate waits for
	// the seats that have not answered: enough refusals make it "not stored".
	refusalGrace = 300 * time.Millisecond
	// hastyGrace is how long a hasty write waits for the last of its seats.
	hastyGrace = 500 * time.Millisecond
)

// run drives the write until every node has answered or failed, or life ends.
// It reports the first verdict to decide and leaves the rest to the finisher.
// asked ends when the caller no longer waits for a verdict.
func (w *write) run(asked, life context.Context, decide func(*outcome)) {
	life, cancel := context.WithCancel(life)
	defer cancel()
	// Every goroutine sends one event, and a node has one call at a time.
	events := make(chan event, len(w.nodes)+1)
	inflight := 0
	launch := func(f func() event) {
		inflight++
		w.s.spawn(func() { events <- f() })
	}
	w.begin(life, launch)
	waiting, over := asked.Done(), life.Done()
	decided := false
	var last <-chan time.Time // the end of the wait for more refusals
	var all <-chan time.Time  // the end of the wait for all answers
	if w.hasty {
		all = time.After(hastyGrace)
	}
	verdict := func(final bool) {
		if decided {
			return
		}
		out := w.judge(final)
		if out != nil && !final && out.undecided {
			if last == nil {
				t := time.NewTimer(refusalGrace)
				last = t.C
			}
			return
		}
		if out != nil {
			decided, w.answered, w.abandoned = true, w.answered || out.ok, out.notStored
			if w.cert == nil && (!final || last != nil) {
				cancel()
			}
			decide(out)
		}
	}
	for inflight > 0 && over != nil {
		select {
		case e := <-events:
			inflight--
			w.apply(e)
			w.advance(life, launch)
			verdict(false)
		case <-waiting:
			waiting = nil
			verdict(true)
		case <-last:
			verdict(true)
		case <-all:
			w.hasty = false
			w.advance(life, launch)
		case <-over:
			over = nil
		}
	}
	verdict(true)
	w.leave(inflight == 0)
}

// begin starts the journal and the first call to each node.
func (w *write) begin(ctx context.Context, launch func(func() event)) {
	if !w.journaled {
		record := w.record()
		launch(func() event {
			// Not given up with the caller: what is half written helps nobody.
			return event{journal: w.s.cfg.Shelf.Commit(context.WithoutCancel(ctx), share.Record{Place: w.place(), Value: record})}
		})
	}
	if w.cert != nil {
		w.encodeCommit()
	}
	for _, id := range w.nodes {
		p := w.progress[id]
		switch {
		case p.committed && p.gone:
		case w.cert != nil:
			w.settle(ctx, id, launch)
		default:
			p.busy, p.state = true, "sent"
			launch(func() event { return w.prepare(ctx, id) })
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
	if e.there != nil {
		if err := w.view.merge(e.node, e.there); err != nil {
			w.s.log.Debug("a holder shows what does not verify", "node", e.node.Short(), "err", err)
		}
		w.superseded()
	}
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
}

// advance forms the certificate when it can and starts what follows from it.
func (w *write) advance(ctx context.Context, launch func(func() event)) {
	if w.cert == nil && w.journaled && w.certifiable() && !w.unheard() {
		// Each receipt was verified when it came.
		w.cert = &certified{m: w.m, cert: w.receipts().Encode(), before: w.before}
		w.encodeCommit()
	}
	if w.cert == nil || !w.journaled {
		return
	}
	for _, id := range w.nodes {
		p := w.progress[id]
		if !p.busy && !(p.gone && (p.committed || w.m.SeatOf(id) == nil)) && p.tries < 1 && p.state != "unreachable" {
			w.settle(ctx, id, launch)
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

func (w *write) settle(ctx context.Context, id key.NodeID, launch func(func() event)) {
	p := w.progress[id]
	p.busy = true
	needsRow := w.m.SeatOf(id) != nil && !prepared(p)
	launch(func() event {
		if needsRow && len(w.rows[id]) > 0 {
			return w.bring(ctx, id)
		}
		return w.commit(ctx, id)
	})
}

func (w *write) encodeCommit() {
	w.commitMsg = key.Marshal(&custody.Commit{Manifest: w.bytes, Cert: w.cert.cert, Before: w.cert.beforeBytes()})
}

// bring gives a seat its row and then the certificate. A seat that refuses the
// row, for what else is pending there, is shown the certificate first.
func (w *write) bring(ctx context.Context, id key.NodeID) event {
	e := w.prepare(ctx, id)
	if e.err != nil {
		return e
	}
	p := e.prepared
	e = w.commit(ctx, id)
	if e.err == nil && !e.done && p == nil && e.outcome == custody.Refused {
		if again := w.prepare(ctx, id); again.prepared != nil {
			p = again.prepared
			e = w.commit(ctx, id)
		}
	}
	if p != nil {
		e.prepared = p
	}
	return e
}

// prepare sends PREPARE to one node and verifies its receipt.
func (w *write) prepare(ctx context.Context, id key.NodeID) event {
	msg := &custody.Prepare{Manifest: w.bytes, Request: w.consent}
	if w.m.SeatOf(id) != nil {
		msg.Row, msg.Payload = w.rows[id], w.ct
	}
	for brought := false; ; brought = true {
		reply := new(custody.PrepareReply)
		if err := w.send(ctx, id, custody.VerbPrepare, key.Marshal(msg), reply); err != nil {
			return event{node: id, err: err}
		}
		e := event{node: id, outcome: reply.Outcome, why: reply.Why}
		if reply.Outcome == custody.OK {
			o, err := w.receipt(key.TypePrepared, id, reply.Receipt)
			if err != nil {
				return event{node: id, outcome: custody.Refused, why: "its receipt does not verify"}
			}
			w.s.cust.remember(o) // so that this node's seat need not verify it again
			e.prepared = &o
			return e
		}
		e.there = &reply.There
		if brought || !reply.NeedPrev || !w.bringAlong(msg) {
			return e
		}
	}
}

// bringAlong adds what a node that is behind asks for, and reports whether
// there is anything.
func (w *write) bringAlong(msg *custody.Prepare) bool {
	msg.Tombstone = w.tomb
	if w.prev == nil {
		return len(w.tomb) > 0
	}
	msg.Prev, msg.PrevCert = w.prev.m.Bytes(), w.prev.cert
	for _, b := range w.prev.before {
		if b.Hash == w.prev.m.Prev {
			msg.PrevPrev = b.Bytes()
		} else {
			msg.PrevForced = append(msg.PrevForced, b.Bytes())
		}
	}
	return true
}

// commit sends COMMIT to one node and verifies its receipt.
func (w *write) commit(ctx context.Context, id key.NodeID) event {
	reply := new(custody.CommitReply)
	if err := w.send(ctx, id, custody.VerbCommit, w.commitMsg, reply); err != nil {
		return event{node: id, commit: true, err: err}
	}
	e := event{node: id, commit: true, outcome: reply.Outcome, why: reply.Why}
	if reply.Outcome != custody.OK {
		e.there, e.gone = &reply.There, reply.PrevGone
		return e
	}
	if _, err := w.receipt(key.TypeCommitted, id, reply.Receipt); err != nil {
		e.outcome, e.why = custody.Refused, "its receipt does not verify"
		return e
	}
	e.done, e.gone = true, reply.PrevGone
	return e
}

// receipt verifies a node's receipt for this write.
func (w *write) receipt(t key.Type, id key.NodeID, b []byte) (key.Object, error) {
	if id == w.s.self {
		return ownReceipt(t, w.m, id, b)
	}
	return openReceipt(w.s.cfg.ID, t, w.m, id, b)
}

// send calls a node, a few times while its link fails. A node without a link
// gets one short call: the mesh may still reach it.
func (w *write) send(ctx context.Context, id key.NodeID, verb uint64, body []byte, reply key.Body) error {
	timeout, tries := callTimeout, callTries
	if !w.roster[id].Online {
		timeout, tries = offlineTimeout, 1
	}
	pause := tryPause
	for {
		err := w.s.callWithin(ctx, timeout, id, verb, body, reply)
		if tries--; err == nil || tries == 0 || ctx.Err() != nil || errors.Is(err, errAnswer) {
			return err
		}
		if !sleep(ctx, pause) {
			return err
		}
		pause *= 2
	}
}

// sleep waits and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// leave ends the write: what is finished or needless leaves the journal, the
// rest stays there for the finisher. quiet says that no call is under way.
func (w *write) leave(quiet bool) {
	if w.cert != nil && !w.newer {
		w.s.remember(w.cert)
	}
	switch {
	case w.newer || w.abandoned || w.cert != nil && w.finished():
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
