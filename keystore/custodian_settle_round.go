package keystore

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// openBefore verifies manifests that were shown as being before m, and adds
// those that are known here.
func (c *custodian) openBefore(m *version, s *secretState, shown [][]byte) ([]*version, error) {
	line := m.line()
	var out []*version
	add := func(v *version) {
		known := slices.ContainsFunc(out, func(o *version) bool { return o.Hash == v.Hash })
		if !known && v.ID == m.ID && v.Gen < m.Gen && slices.Contains(line, v.Hash) {
			out = append(out, v)
		}
	}
	for _, h := range line {
		if v := s.knownVersion(h); v != nil {
			add(v)
		}
	}
	for _, b := range shown[:min(len(shown), 1+share.MaxForce)] {
		v, err := c.openManifest(b)
		if err != nil {
			return nil, err
		}
		add(v)
	}
	return out, nil
}

// takeRefused adds the refusals that verify, of seats that are asked.
func (c *custodian) takeRefused(p *poll, objects [][]byte) {
	for _, b := range objects {
		o, err := key.DecodeObject(b)
		if err != nil || o.Type != key.TypeRefused {
			continue
		}
		node := key.NodePublic(o.Key).ID()
		if p.hasRefused(node) || !slices.Contains(p.seats(), node) {
			continue
		}
		if o, err = openReceipt(c.cfg.ID, key.TypeRefused, p.m.SignedManifest, node, b); err == nil {
			p.refused[node] = o
		}
	}
}

// settleReply says this seat's word, and what it knows of the others'.
func (c *custodian) settleReply(ctx context.Context, f holderFacts, p *poll, q *custody.Settle, h hint) (key.Body, error) {
	ripe, shown := c.settles.ripe(settleKey{p.m.ID, p.m.Hash}), c.promiser(h.shown)
	if shown.is {
		h.by = shown.operator
	}
	r, there, receipt, err := c.step(ctx, p.m.ID, f, func(s *secretState, f holderFacts) stepResult {
		return s.settleWord(f, settleMsg{p.m, p.before(), ripe, shown})
	})
	if err != nil {
		return nil, err
	}
	reply := &custody.SettleReply{Outcome: r.outcome, Word: r.word, Receipt: receipt, Why: bounded(r.why)}
	if there != nil {
		reply.There = *there
		reply.There.Pending, reply.There.History = nil, nil
	}
	if r.outcome == custody.Wait || r.word == custody.WordNone || r.word == custody.WordPrepared {
		c.settles.asked(p.m, r.word == custody.WordPrepared, h)
	}
	if r.outcome != custody.OK && r.outcome != custody.Conflict {
		return reply, nil
	}
	s, err := c.peek(ctx, p.m.ID)
	if err != nil {
		return nil, err
	}
	if r.outcome == custody.Conflict {
		// It went to the seats of what was there, which the asker may not be.
		if t := s.covering(p.m.Gen); t != nil {
			reply.There.Tombstone, reply.There.Consent = t.shown()
		}
		return reply, nil
	}
	if q.Help { // the rest was asked for before
		c.settleHelp(ctx, s, f.from, p.m, q.Payload, reply)
		return reply, nil
	}
	known := c.settles.known(settleKey{p.m.ID, p.m.Hash})
	for _, v := range joined(p.before(), known.before) {
		reply.Before = append(reply.Before, v.Bytes())
	}
	for n, o := range p.refused {
		known.refused[n] = o
	}
	for _, o := range known.refused {
		reply.Refused = append(reply.Refused, o.Encode())
	}
	reply.There = s.brief(custody.RowNone)
	return reply, nil
}

func joined(a, b []*version) []*version {
	out := slices.Clone(a)
	for _, v := range b {
		if !slices.ContainsFunc(out, func(o *version) bool { return o.Hash == v.Hash }) {
			out = append(out, v)
		}
	}
	return out
}

// settleHelp adds what this seat's row and that of the sender have in common:
// k of these are the sender's own row and nobody else's. The x is that of the
// node at the other end of the link in this very manifest, and never zero.
func (c *custodian) settleHelp(ctx context.Context, s *secretState, to key.NodeID, m *version, payload bool, reply *custody.SettleReply) {
	seat, e := m.SeatOf(to), s.find(m.Hash)
	if seat == nil || seat.X == 0 || e == nil || !e.row || e.epoch != 0 || e.x == seat.X {
		return
	}
	b, err := c.loadRow(e)
	if err != nil {
		c.log.Error("a row cannot be read", "err", err)
		return
	}
	defer clear(b)
	row, err := shamir.ParseRow(b, int(m.K), share.DataKeySize)
	if err != nil {
		return
	}
	defer row.Erase()
	value, err := row.Help(seat.X)
	if err != nil {
		return
	}
	if err := c.auditHelp(ctx, to, e, seat.X); err != nil {
		clear(value)
		c.failed(err)
		return
	}
	reply.Help = value
	if payload {
		if reply.Payload, err = c.cfg.Shelf.Load(payloadPlace(e)); err != nil {
			reply.Payload = nil
		}
	}
}

// settlePayloads is how many seats are asked for the ciphertext: one may lie.
const settlePayloads = 2

// settleRound is one turn of settling one manifest.
type settleRound struct {
	*custodian
	key   settleKey
	poll  *poll
	mu    sync.Mutex     // the rest, while seats are asked
	proof *custody.State // something certified that another seat has
	tomb  *custody.State // with a tombstone of what is settled, that
	by    key.NodeID     // this seat has
	heard bool           // pending here, and no promise is remembered
	prev  *certificate   // of the manifest's prev
	shown []key.Object   // Prepared that others have shown
}

// settleOne asks the seats of one manifest what they promised, and does what
// follows. m is nil when it is pending here.
func (c *custodian) settleOne(ctx context.Context, k settleKey, m *version) settled {
	s, err := c.peek(ctx, k.id)
	if err != nil {
		return settled{}
	}
	heard := false
	if e := s.find(k.manifest); e != nil {
		m, heard = e.version, e.promised == 0
	}
	if m == nil || m.Gen <= s.top() {
		return settled{over: true}
	}
	if k := s.markOf(m.Hash); k != nil && k.State == markDead {
		return settled{over: true}
	}
	known := c.settles.known(k)
	before, err := c.openBefore(m, s, bytesOf(known.before))
	if err != nil {
		return settled{}
	}
	f := c.facts(c.self)
	r := &settleRound{custodian: c, key: k, poll: newPoll(f, m, before), heard: heard, shown: known.shown}
	r.poll.refused = known.refused
	word, err := r.own(ctx, f)
	if err != nil {
		return settled{}
	}
	r.ask(ctx, false)
	r.poll = r.poll.again(f, r.poll.before()) // with what was learned of the line
	c.settles.asked(m, true, hint{before: r.poll.before(), refused: r.poll.refused})
	return r.conclude(ctx, f, word)
}

// again is the poll with more of the line known.
func (p *poll) again(f holderFacts, before []*version) *poll {
	n := newPoll(f, p.m, joined(before, p.learned))
	n.prepared, n.none, n.refused = p.prepared, p.none, p.refused
	return n
}

// own is this seat's own word, which is on disk like any other.
func (r *settleRound) own(ctx context.Context, f holderFacts) (uint8, error) {
	m := r.poll.m
	out, _, receipt, err := r.step(ctx, m.ID, f, func(s *secretState, f holderFacts) stepResult {
		return s.settleWord(f, settleMsg{m, r.poll.before(), r.settles.ripe(r.key), r.promiser(r.shown)})
	})
	if err != nil {
		return 0, err
	}
	if out.outcome == custody.OK {
		r.hear(r.self, out.word, receipt)
	}
	return out.word, nil
}

// hear takes in the word of a seat.
func (r *settleRound) hear(node key.NodeID, word uint8, receipt []byte) {
	p := r.poll
	switch word {
	case custody.WordNone:
		p.none[node] = true
	case custody.WordPrepared:
		if o, err := openReceipt(r.cfg.ID, key.TypePrepared, p.m.SignedManifest, node, receipt); err == nil {
			r.remember(o)
			p.prepared[node] = o
		}
	case custody.WordRefused:
		r.takeRefused(p, [][]byte{receipt})
	}
}

// promised are the promises that are shown: this seat's own, and of others as
// many as may be.
func (r *settleRound) promised(m *memberView) [][]byte {
	var out [][]byte
	own, ok := r.poll.prepared[r.self]
	if ok {
		out = append(out, own.Encode())
	}
	for _, o := range r.shown {
		if node := key.NodePublic(o.Key).ID(); len(out) < custody.MaxPromised && node != r.self && m.isMember(node) {
			out = append(out, o.Encode())
		}
	}
	return out
}

// ask asks every seat that is up. help: for what this seat's row is made of.
func (r *settleRound) ask(ctx context.Context, help bool) map[key.NodeID]*custody.SettleReply {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	m := r.members.get(r.cfg.Network)
	q := &custody.Settle{Manifest: r.poll.m.Bytes(), Before: bytesOf(r.poll.before()), Help: help}
	for _, o := range r.poll.refused {
		q.Refused = append(q.Refused, o.Encode())
	}
	q.Promised = r.promised(m)
	replies := map[key.NodeID]*custody.SettleReply{}
	var g sync.WaitGroup
	payloads := settlePayloads
	seats := r.poll.seats()
	rand.Shuffle(len(seats), func(i, j int) { seats[i], seats[j] = seats[j], seats[i] })
	for _, node := range seats {
		if node == r.self || !m.online[node] || help && (!r.poll.hasPrepared(node) || r.poll.m.SeatOf(node) == nil) {
			continue
		}
		q := *q
		if q.Payload = help && payloads > 0; q.Payload {
			payloads--
		}
		g.Go(func() {
			reply := new(custody.SettleReply)
			if r.call(ctx, node, custody.VerbSettle, &q, reply) != nil {
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			replies[node] = reply
		})
	}
	g.Wait()
	for node, reply := range replies {
		r.take(node, reply)
	}
	return replies
}

// take takes in what a seat answered.
func (r *settleRound) take(node key.NodeID, reply *custody.SettleReply) {
	p := r.poll
	if reply.Outcome == custody.Conflict {
		if there := reply.There; len(there.Manifest) > 0 && len(there.Cert) > 0 {
			r.proof = &there
		}
		if len(reply.There.Tombstone) > 0 {
			r.tomb, r.by = &reply.There, node
		}
		return
	}
	if reply.Outcome != custody.OK {
		return
	}
	r.hear(node, reply.Word, reply.Receipt)
	if len(reply.Refused) <= custody.MaxRefused {
		r.takeRefused(p, reply.Refused)
	}
	if v, err := r.openBefore(p.m, &secretState{id: p.m.ID}, reply.Before); err == nil {
		p.learned = joined(p.learned, v)
	}
	if r.prev == nil && len(reply.There.Cert) > 0 {
		cert, err := r.openCertificate(reply.There.Manifest, reply.There.Cert, reply.There.Before)
		if err == nil && cert.of.Hash == p.m.Prev {
			r.prev = cert
		}
	}
}

// conclude does what follows from the poll.
func (r *settleRound) conclude(ctx context.Context, f holderFacts, word uint8) settled {
	p := r.poll
	if r.proof != nil && r.certify(ctx, f, r.proof.Manifest, r.proof.Cert, r.proof.Before) {
		return settled{moved: true} // looked at once more: it may be over now
	}
	if r.tomb != nil && r.bury(ctx) {
		return settled{moved: true}
	}
	if p.certifiable() {
		cert := p.certificate()
		return settled{moved: r.certify(ctx, f, p.m.Bytes(), cert.bytes, bytesOf(cert.before))}
	}
	moved := false
	if word == custody.WordNone || r.heard {
		switch {
		case p.hopeless() && !r.heard:
			moved = r.refuse(ctx, f)
		case p.completable():
			if moved = r.repair(ctx, f); moved && p.certifiable() {
				cert := p.certificate()
				r.certify(ctx, f, p.m.Bytes(), cert.bytes, bytesOf(cert.before))
			}
		}
	}
	out, _, _, err := r.step(ctx, r.key.id, f, func(s *secretState, f holderFacts) stepResult { return s.settleDead(f, p) })
	if err != nil {
		return settled{moved: moved}
	}
	if out.next != nil {
		r.log.Info("a write whose writer did not come back is dead", "id", r.key.id, "gen", p.m.Gen)
		return settled{moved: true}
	}
	return settled{over: p.hasRefused(r.self), moved: moved, near: p.hopeless() || p.completable()}
}

// handOver gives a certificate to the seats that keep it, before a node without
// a seat lets go of what was before: its own receipt goes with that, and nobody
// else may have all of them. Of more than f answers one is honest, and passes it
// on (W3).
func (r *settleRound) handOver(ctx context.Context, c *certificate) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	before := bytesOf(c.before)
	var g sync.WaitGroup
	have := 0
	for _, seat := range c.of.Seats {
		g.Go(func() {
			q := &custody.Commit{Manifest: c.of.Bytes(), Cert: c.bytes, Before: before} // encoding sets its version
			var reply custody.CommitReply
			err := r.call(ctx, seat.Node, custody.VerbCommit, q, &reply)
			var pass custody.PassReply
			if err == nil && reply.Outcome != custody.OK { // kept without its row, perhaps
				err = r.call(ctx, seat.Node, custody.VerbPass, &custody.Pass{Items: []custody.PassItem{{ID: c.of.ID, Hash: c.of.Hash}}}, &pass)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			have += btoi(err == nil && len(pass.Missing) == 0)
		})
	}
	g.Wait()
	return have > c.of.F()
}

// certify takes in a certificate as a COMMIT would, and passes it on.
func (r *settleRound) certify(ctx context.Context, f holderFacts, manifest, cert []byte, before [][]byte) bool {
	c, err := r.openCertificate(manifest, cert, before)
	if err != nil || c.of.ID != r.key.id || c.of.SeatOf(r.self) == nil && !r.handOver(ctx, c) {
		return false
	}
	out, _, _, err := r.step(ctx, r.key.id, f, func(s *secretState, f holderFacts) stepResult { return s.commit(f, commitMsg{*c}) })
	if err != nil || out.next == nil {
		return false
	}
	r.passing.add(out.next, r.self)
	return true
}

// bury takes in a tombstone as a DELETE of the seat that showed it would.
func (r *settleRound) bury(ctx context.Context) bool {
	q := &custody.Delete{Tombstone: r.tomb.Tombstone}
	if len(r.tomb.Consent) > 0 {
		q.Request, q.Approvals = r.tomb.Consent[0], r.tomb.Consent[1:]
	}
	reply, err := r.delete(ctx, r.by, q)
	done, ok := reply.(*custody.DeleteReply)
	return err == nil && ok && done.Outcome == custody.OK
}

// refuse signs that this seat never promised it and never will.
func (r *settleRound) refuse(ctx context.Context, f holderFacts) bool {
	p := r.poll
	out, _, receipt, err := r.step(ctx, r.key.id, f, func(s *secretState, f holderFacts) stepResult { return s.settleRefuse(f, p) })
	if err != nil || out.outcome != custody.OK || out.word != custody.WordRefused {
		return false
	}
	r.hear(r.self, custody.WordRefused, receipt)
	return out.next != nil
}

// repair makes this seat's row out of what others have in common with it, and
// promises the manifest. A seat of what is before it needs no row.
func (r *settleRound) repair(ctx context.Context, f holderFacts) bool {
	p := r.poll
	msg := prepareMsg{m: p.m, prev: r.prev}
	if p.m.SeatOf(r.self) != nil {
		var ok bool
		if msg.row, msg.payload, ok = r.row(r.ask(ctx, true)); !ok {
			return false
		}
		defer clear(msg.row)
	}
	out, _, receipt, err := r.step(ctx, r.key.id, f, func(s *secretState, f holderFacts) stepResult { return s.settlePromise(f, msg, p) })
	if err != nil || out.outcome != custody.OK {
		r.log.Debug("a row that was repaired is not promised", "gen", p.m.Gen, "why", out.why)
		return false
	}
	if out.next != nil && r.prev != nil {
		r.passing.add(out.next, r.self)
	}
	delete(p.none, r.self)
	r.hear(r.self, custody.WordPrepared, receipt)
	return out.next != nil
}

// row makes this seat's row and finds the ciphertext; lies are found by the
// commitment and by the hash in the manifest.
func (r *settleRound) row(replies map[key.NodeID]*custody.SettleReply) (row, payload []byte, ok bool) {
	m := r.poll.m
	own := *m.SeatOf(r.self)
	var helpers []byte
	var values [][]byte
	for node, reply := range replies {
		seat := m.SeatOf(node)
		if seat == nil {
			continue
		}
		if len(reply.Help) == share.DataKeySize {
			helpers, values = append(helpers, seat.X), append(values, reply.Help)
		}
		if payload == nil && uint64(len(reply.Payload)) == m.Length && sha256.Sum256(reply.Payload) == m.Payload {
			payload = reply.Payload
		}
	}
	defer func() {
		for _, v := range values {
			clear(v)
		}
	}()
	if payload == nil || len(helpers) < int(m.K) {
		return nil, nil, false
	}
	made, liars, err := shamir.Repair(int(m.K), own.X, helpers, values, func(row shamir.Row) bool {
		b := row.Encode()
		defer clear(b)
		return m.CheckRow(own, b)
	})
	for _, x := range liars {
		r.log.Warn("a helper's value contradicts the row that it helped to repair", "x", x, "gen", m.Gen)
	}
	if err != nil {
		return nil, nil, false
	}
	defer made.Erase()
	return made.Encode(), payload, true
}
