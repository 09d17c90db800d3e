package keystore

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// W5 in the simulation: the steps and the poll are the real ones, the turn of
// custodian_settle_round.go has a queue in place of goroutines.

// simItem is a manifest that a node has in mind to settle.
type simItem struct {
	m       *version
	since   uint64
	before  []*version
	refused map[key.NodeID]key.Object
	shown   []key.Object
}

// settling takes in what is pending now and forgets what is over.
func (n *simNode) settling() []*simItem {
	for _, e := range n.mem.live() {
		n.item(e.version)
	}
	n.items = slices.DeleteFunc(n.items, func(it *simItem) bool { return it.m.Gen <= n.mem.top() })
	return n.items
}

func (n *simNode) item(m *version) *simItem {
	for _, it := range n.items {
		if it.m.Hash == m.Hash {
			return it
		}
	}
	it := &simItem{m: m, since: n.s.now, refused: map[key.NodeID]key.Object{}}
	n.items = append(n.items, it)
	return it
}

func (n *simNode) ripe(m *version) bool {
	return slices.ContainsFunc(n.items, func(it *simItem) bool {
		return it.m.Hash == m.Hash && n.s.now-it.since >= uint64(settleGrace.Seconds())
	})
}

// before is custodian.openBefore.
func (n *simNode) before(m *version, shown []*version) []*version {
	var out []*version
	for _, h := range m.line() {
		if v := n.mem.knownVersion(h); v != nil {
			out = joined(out, []*version{v})
		}
	}
	for _, v := range shown {
		if v.Gen < m.Gen && slices.Contains(m.line(), v.Hash) {
			out = joined(out, []*version{v})
		}
	}
	return out
}

// simWord is a SETTLE's answer.
type simWord struct {
	outcome, word uint8
	why           string
	receipt       *key.Object
	before        []*version
	refused       []key.Object
	proof         *certificate // what is certified there
	conflict      bool
	tomb          *tomb // that deleted it
	help, payload []byte
}

// asked is custodian.settle.
func (n *simNode) asked(from *simNode, m *version, shown []*version, refused, promised []key.Object, help bool) *simWord {
	s := n.s
	if n.lies() {
		return n.lieWord(m)
	}
	f := n.facts(from)
	p := s.fault.poll(newPoll(f, m, n.before(m, shown)))
	if !slices.Contains(p.seats(), from.id) {
		return &simWord{outcome: custody.Refused, why: "no seat"}
	}
	s.takeRefused(p, refused)
	promised = s.shownPromises(p, promised)
	r, ok := n.step(from, "SETTLE", func(st *secretState, f holderFacts) stepResult {
		return st.settleWord(f, settleMsg{m, p.before(), n.ripe(m), promiser{len(promised) > 0, "op"}})
	})
	if !ok {
		return nil
	}
	out := &simWord{outcome: r.outcome, word: r.word, why: r.why, conflict: r.outcome == custody.Conflict}
	if out.conflict {
		out.tomb = n.mem.covering(m.Gen)
	}
	if r.sign != nil {
		o := n.sign(r.sign)
		out.receipt = &o
	}
	if c := n.mem.current(); c != nil {
		if cert, err := share.DecodeCert(c.cert); err == nil {
			out.proof = &certificate{of: c.version, cert: cert, bytes: c.cert, before: c.before}
		}
	}
	if r.outcome == custody.Wait || r.outcome == custody.OK && r.word == custody.WordNone || r.word == custody.WordPrepared {
		it := n.item(m)
		it.before = joined(it.before, p.before())
		for node, o := range p.refused {
			it.refused[node] = o
		}
		it.shown = append(it.shown, promised...)
		it.shown = it.shown[:min(len(it.shown), custody.MaxPromised)]
	}
	if r.outcome != custody.OK {
		return out
	}
	if help {
		n.help(from, m, out)
		return out
	}
	out.before = p.before()
	for _, node := range p.seats() {
		if o, ok := p.refused[node]; ok {
			out.refused = append(out.refused, o)
		}
	}
	for _, it := range n.items {
		if it.m.Hash == m.Hash {
			out.before = joined(out.before, it.before)
		}
	}
	return out
}

// help is custodian.settleHelp.
func (n *simNode) help(to *simNode, m *version, out *simWord) {
	seat, e := m.SeatOf(to.id), n.mem.find(m.Hash)
	if seat == nil || e == nil || !e.row || e.x == seat.X || !n.good(e) {
		return
	}
	row, err := shamir.ParseRow(n.recs[rowPlace(e)], int(m.K), share.DataKeySize)
	if err != nil {
		n.s.broken("%v", err)
	}
	if out.help, err = row.Help(seat.X); err != nil {
		n.s.broken("%v", err)
	}
	out.payload = n.recs[payloadPlace(e)]
}

func (n *simNode) lieWord(m *version) *simWord {
	out := &simWord{outcome: custody.OK}
	t := map[int]key.Type{0: key.TypePrepared, 1: key.TypeRefused}[n.s.rand.IntN(3)]
	switch t {
	case key.TypePrepared:
		out.word = custody.WordPrepared
	case key.TypeRefused:
		out.word = custody.WordRefused
	default:
		out.word = custody.WordNone
		return out
	}
	o := n.anything(t, m)
	out.receipt, out.help = &o, make([]byte, share.DataKeySize)
	return out
}

func (s *sim) takeRefused(p *poll, list []key.Object) {
	for _, o := range list {
		node := key.NodePublic(o.Key).ID()
		if o.Type != key.TypeRefused || p.hasRefused(node) || !slices.Contains(p.seats(), node) {
			continue
		}
		if _, err := openReceipt(s.w.net, key.TypeRefused, p.m.SignedManifest, node, o.Encode()); err == nil {
			p.refused[node] = o
		}
	}
}

// shownPromises is custodian.openPromised.
func (s *sim) shownPromises(p *poll, list []key.Object) []key.Object {
	var out []key.Object
	for _, o := range list {
		node := key.NodePublic(o.Key).ID()
		if s.revoked[node] || !slices.Contains(p.seats(), node) {
			continue
		}
		if o, err := openReceipt(s.w.net, key.TypePrepared, p.m.SignedManifest, node, o.Encode()); err == nil {
			out = append(out, o)
		}
	}
	return out
}

// simRound is settleRound.
type simRound struct {
	s     *sim
	n     *simNode
	it    *simItem
	poll  *poll
	proof *certificate
	prev  *certificate
	tomb  *tomb
	by    *simNode
	word  uint8
}

// settle is one turn: custodian.settleOne.
func (n *simNode) settle() {
	if !n.up || n.liar {
		return
	}
	if items := n.settling(); len(items) > 0 {
		n.settleOne(simPick(n.s, items))
	}
}

func (n *simNode) settleOne(it *simItem) {
	s, m := n.s, it.m
	if k := n.mem.markOf(m.Hash); m.Gen <= n.mem.top() || k != nil && k.State == markDead {
		return
	}
	f := n.facts(n)
	r := &simRound{s: s, n: n, it: it, poll: s.fault.poll(newPoll(f, m, n.before(m, it.before)))}
	for node, o := range it.refused {
		r.poll.refused[node] = o
	}
	out, ok := n.step(n, "own word", func(st *secretState, f holderFacts) stepResult {
		return st.settleWord(f, settleMsg{m, r.poll.before(), n.ripe(m), promiser{len(s.shownPromises(r.poll, it.shown)) > 0, "op"}})
	})
	if !ok {
		return
	}
	r.word = out.word
	if out.outcome == custody.OK {
		r.hear(n, out.word, out.sign)
	}
	r.ask(false, func(map[key.NodeID]*simWord) {
		again := r.poll.again(n.facts(n), r.poll.before())
		r.poll = s.fault.poll(again)
		it.before = joined(it.before, r.poll.before())
		for node, o := range r.poll.refused {
			it.refused[node] = o
		}
		r.conclude()
	})
}

func (r *simRound) hear(o *simNode, word uint8, p *promise) {
	if p == nil {
		if word == custody.WordNone {
			r.poll.none[o.id] = true
		}
		return
	}
	obj := o.sign(p)
	r.listen(o, &simWord{word: word, receipt: &obj})
}

// listen is settleRound.hear for what came.
func (r *simRound) listen(o *simNode, w *simWord) {
	p := r.poll
	switch w.word {
	case custody.WordNone:
		p.none[o.id] = true
	case custody.WordPrepared:
		if w.receipt != nil {
			if rec, err := openReceipt(r.s.w.net, key.TypePrepared, p.m.SignedManifest, o.id, w.receipt.Encode()); err == nil {
				p.prepared[o.id] = rec
			}
		}
	case custody.WordRefused:
		if w.receipt != nil {
			r.s.takeRefused(p, []key.Object{*w.receipt})
		}
	}
}

func (r *simRound) ask(help bool, then func(map[key.NodeID]*simWord)) {
	s, n, m := r.s, r.n, r.poll.m
	replies, left := map[key.NodeID]*simWord{}, 0
	var refused []key.Object
	for _, node := range r.poll.seats() {
		if o, ok := r.poll.refused[node]; ok {
			refused = append(refused, o)
		}
	}
	shown, promised := r.poll.before(), slices.Clone(r.it.shown)
	if own, ok := r.poll.prepared[n.id]; ok {
		promised = slices.Insert(promised, 0, own)
	}
	promised = promised[:min(len(promised), custody.MaxPromised)]
	for _, id := range r.poll.seats() {
		o := s.node(id)
		if o == n || s.revoked[id] || help && (!r.poll.hasPrepared(id) || m.SeatOf(id) == nil) {
			continue
		}
		left++
		s.call(n, o, fmt.Sprintf("SETTLE %d", m.Gen), func(o *simNode) any { return o.asked(n, m, shown, refused, promised, help) }, func(reply any) {
			left--
			if w, ok := reply.(*simWord); ok && w != nil {
				replies[id] = w
				r.take(o, w)
			}
			if left == 0 {
				then(replies)
			}
		})
	}
	if left == 0 {
		then(replies)
	}
}

// take is settleRound.take.
func (r *simRound) take(o *simNode, w *simWord) {
	if w.conflict && w.proof != nil {
		r.proof = w.proof
	}
	if w.tomb != nil {
		r.tomb, r.by = w.tomb, o
	}
	if w.outcome != custody.OK {
		return
	}
	r.listen(o, w)
	r.s.takeRefused(r.poll, w.refused)
	r.poll.learned = joined(r.poll.learned, r.n.before(r.poll.m, w.before))
	if r.prev == nil && w.proof != nil && w.proof.of.Hash == r.poll.m.Prev {
		r.prev = w.proof
	}
}

// conclude is settleRound.conclude.
func (r *simRound) conclude() {
	p := r.poll
	switch {
	case r.proof != nil && r.certify(r.proof):
	case r.tomb != nil && r.deleted():
	case p.certifiable():
		r.certify(p.certificate())
	case r.word == custody.WordNone && p.hopeless():
		r.refuse()
	case r.word == custody.WordNone && p.completable():
		if p.m.SeatOf(r.n.id) == nil {
			r.promise(nil, nil)
			return
		}
		r.ask(true, func(replies map[key.NodeID]*simWord) {
			if row, payload, ok := r.row(replies); ok {
				r.promise(row, payload)
			}
		})
	default:
		r.bury()
	}
}

func (r *simRound) certify(c *certificate) bool {
	out, ok := r.n.step(r.n, "a certificate", func(st *secretState, f holderFacts) stepResult {
		return r.s.fault.commit(r.n, st, f, commitMsg{*c})
	})
	return ok && out.next != nil
}

func (r *simRound) deleted() bool {
	out := r.n.delete(r.by, r.tomb)
	return out != nil && out.Outcome == custody.OK
}

func (r *simRound) refuse() {
	d := r.s.byHash[r.poll.m.Hash]
	out, ok := r.n.step(r.n, "Refused", func(st *secretState, f holderFacts) stepResult { return st.settleRefuse(f, r.poll) })
	if !ok || out.word != custody.WordRefused || out.sign == nil {
		return
	}
	if d.promises[r.n.id] {
		r.s.broken("%s signs Refused for generation %d, which it has promised", r.n.name(), d.Gen)
	}
	d.refused[r.n.id] = true
	r.it.refused[r.n.id] = r.n.sign(out.sign)
	r.s.note("%s refuses generation %d", r.n.name(), d.Gen)
	r.hear(r.n, out.word, out.sign)
	r.bury()
}

func (r *simRound) bury() {
	d := r.s.byHash[r.poll.m.Hash]
	out, ok := r.n.step(r.n, "death", func(st *secretState, f holderFacts) stepResult { return st.settleDead(f, r.poll) })
	if ok && out.next != nil {
		r.s.note("%s: generation %d is dead", r.n.name(), d.Gen)
		d.dead = true
	}
}

func (r *simRound) promise(row, payload []byte) {
	msg := prepareMsg{m: r.poll.m, prev: r.prev, row: row, payload: payload}
	out, ok := r.n.step(r.n, "a repaired row", func(st *secretState, f holderFacts) stepResult { return st.settlePromise(f, msg, r.poll) })
	if !ok || out.outcome != custody.OK || out.sign == nil {
		r.s.note("%s cannot promise generation %d: %s", r.n.name(), r.poll.m.Gen, out.why)
		return
	}
	r.s.note("%s promises generation %d with a repaired row", r.n.name(), r.poll.m.Gen)
	r.s.promised(r.n, r.poll.m)
	delete(r.poll.none, r.n.id)
	r.hear(r.n, custody.WordPrepared, out.sign)
	if r.poll.certifiable() {
		r.certify(r.poll.certificate())
	}
}

// row is settleRound.row.
func (r *simRound) row(replies map[key.NodeID]*simWord) (row, payload []byte, ok bool) {
	m := r.poll.m
	own := *m.SeatOf(r.n.id)
	var helpers []byte
	var values [][]byte
	for _, seat := range m.Seats {
		w := replies[seat.Node]
		if w == nil {
			continue
		}
		if len(w.help) == share.DataKeySize {
			helpers, values = append(helpers, seat.X), append(values, w.help)
		}
		if payload == nil && sha256.Sum256(w.payload) == m.Payload {
			payload = w.payload
		}
	}
	if payload == nil || len(helpers) < int(m.K) {
		return nil, nil, false
	}
	made, _, err := shamir.Repair(int(m.K), own.X, helpers, values, func(row shamir.Row) bool { return m.CheckRow(own, row.Encode()) })
	if err != nil {
		return nil, nil, false
	}
	return made.Encode(), payload, true
}
