package keystore

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	// auditEvery is how often each pair of seats is audited, and auditFirst how
	// long after the start the first time is at most.
	auditEvery = time.Hour
	auditFirst = 5 * time.Minute
	// maxAudits is how many nodes' audits are answered at the same time, one of
	// each; more wait for their next turn.
	maxAudits = 8
	// auditRetries is how often a node that is busy is asked again in a round.
	auditRetries = 5
	// scrubRounds is in how many rounds every ciphertext is read once.
	scrubRounds = 24
	auditPause  = 2 * time.Second
)

// pair is this node's seat of a version and another one's.
type pair struct {
	custody.AuditItem
}

// watchSeats audits the rows of others every hour until ctx ends.
func (c *custodian) watchSeats(ctx context.Context) {
	t := time.NewTimer(auditFirst/5 + mathrand.N(auditFirst*4/5))
	defer t.Stop()
	for round := mathrand.N(scrubRounds); ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		t.Reset(auditEvery*9/10 + mathrand.N(auditEvery/5))
		c.auditRound(ctx, round)
	}
}

// auditRound audits every node once. Nodes take turns, so that none delays
// what is thought of another by more than its own calls may last.
func (c *custodian) auditRound(ctx context.Context, round int) {
	due := c.pairs(ctx, round)
	if ctx.Err() != nil {
		return
	}
	gone := c.possess.watch(c.clock.now(), due)
	online := c.members.get(c.cfg.Network).online
	nodes := make([]key.NodeID, 0, len(due))
	for node := range due {
		if online[node] {
			nodes = append(nodes, node)
		}
	}
	mathrand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, node := range nodes {
		list := due[node]
		mathrand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for part := range slices.Chunk(list, custody.MaxAudit) {
			if ctx.Err() != nil || !c.auditNode(ctx, node, part) {
				break
			}
		}
	}
	c.reassignRound(ctx)
	for _, node := range c.possess.newlySilent(c.clock.now()) {
		c.note(ctx, AuditRecord{Kind: "suspect", Node: node, Detail: fmt.Sprintf("silent for 24 h; it holds %d seats beside this node's", len(due[node]))})
	}
	c.saveWatches(ctx, gone)
}

// saveWatches writes what changed, and the running time that it is measured by.
func (c *custodian) saveWatches(ctx context.Context, gone []key.NodeID) {
	recs := c.possess.unsaved()
	for _, node := range gone {
		recs = append(recs, share.Record{Place: watchPlace(node)})
	}
	if c.clock.unsaved() {
		recs = append(recs, share.Record{Place: clockPlace(), Value: key.Marshal(&clockRecord{Seconds: c.clock.now()})})
	}
	if len(recs) == 0 {
		return
	}
	if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), recs...); err != nil {
		c.log.Error("what is thought of other holders is not saved", "err", err)
	}
}

// note writes an entry that nothing waits for.
func (c *custodian) note(ctx context.Context, r AuditRecord) {
	if _, err := c.audit(ctx, r); err != nil {
		c.log.Error("the audit log", "err", err)
	}
}

// pairs are the seats of others that this node's rows can audit, by node. Rows
// of its own that are damaged or missing are put on the list of what to repair.
func (c *custodian) pairs(ctx context.Context, round int) map[key.NodeID][]pair {
	out := map[key.NodeID][]pair{}
	now := unix()
	for _, id := range c.cfg.Shelf.IDs(share.BucketState) {
		s, err := c.peek(ctx, id)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			continue
		}
		if s.kept != nil {
			c.healing.look(id, 0)
		}
		e := s.committed
		if e == nil || !e.row || e.x == 0 || e.expired(now) || s.covered(e.Gen) {
			continue
		}
		if int(id[0])%scrubRounds == round%scrubRounds && !c.hasPayload(e) {
			c.damaged(id, errRow)
		}
		for _, seat := range s.placement(e.version).Seats() {
			if seat.X != e.x && seat.Node != c.self {
				out[seat.Node] = append(out[seat.Node], pair{custody.AuditItem{ID: id, Manifest: e.Hash, Epoch: e.epoch, Prover: seat.X, Verifier: e.x}})
			}
		}
	}
	return out
}

// auditNode audits one node's seats in one call and reports whether it answered.
func (c *custodian) auditNode(ctx context.Context, node key.NodeID, part []pair) bool {
	q := &custody.Audit{}
	rand.Read(q.Nonce[:])
	for _, p := range part {
		q.Items = append(q.Items, p.AuditItem)
	}
	var reply custody.AuditReply
	for range auditRetries {
		if c.call(ctx, node, custody.VerbAudit, q, &reply) != nil {
			return false
		}
		if reply.Outcome != custody.Wait {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(auditPause/2 + mathrand.N(auditPause)):
		}
	}
	if reply.Outcome != custody.OK || len(reply.Tags) != len(part) {
		return false
	}
	if c.possess.heard(node, c.clock.now()) {
		c.note(ctx, AuditRecord{Kind: "trust", Node: node, Detail: "answers again"})
	}
	for i, p := range part {
		if ctx.Err() != nil {
			return false
		}
		c.judge(ctx, node, p, q.Nonce, reply.Tags[i])
	}
	return true
}

// judge compares what a seat shows with what this node's row says it must.
func (c *custodian) judge(ctx context.Context, node key.NodeID, p pair, nonce [32]byte, t custody.AuditTag) {
	s, err := c.peek(ctx, p.ID)
	if err != nil {
		return
	}
	e := s.find(p.Manifest)
	if e == nil || e != s.committed || e.epoch != p.Epoch || s.holderOf(e.version, p.Prover) != node {
		return // changed since the round began
	}
	want, err := c.tagOf(e, nonce, p.Prover, p.Prover, p.Verifier)
	if err != nil {
		c.damaged(p.ID, err)
		return
	}
	ok := t.State == custody.AuditShown && hmac.Equal(t.Tag[:], want[:])
	suspect, good := c.possess.showed(node, seatKey{p.ID, p.Prover}, e.Hash, ok)
	switch {
	case suspect:
		c.note(ctx, AuditRecord{Kind: "suspect", ID: p.ID, Node: node, Detail: fmt.Sprintf("seat %d did not show its row %d times: %s", p.Prover, maxFailures, auditWords(t.State))})
	case good:
		c.note(ctx, AuditRecord{Kind: "trust", ID: p.ID, Node: node, Detail: fmt.Sprintf("seat %d has shown its row", p.Prover)})
	}
	if t.State == custody.AuditNone || t.State == custody.AuditMissing {
		c.passing.tell(s, node) // a holder that lost its disk learns of its seat
	}
}

func auditWords(state uint8) string {
	switch state {
	case custody.AuditShown:
		return "what it shows is wrong"
	case custody.AuditMissing:
		return "it says that the row is not there"
	case custody.AuditDamaged:
		return "it says that the row is damaged"
	}
	return "it says that it has nothing of it"
}

// tagOf makes the tag of this node's row with seat other.
func (c *custodian) tagOf(e *stored, nonce [32]byte, other, prover, verifier uint8) (key.Hash, error) {
	common, err := c.common(e, other)
	if err != nil {
		return key.Hash{}, err
	}
	defer clear(common)
	return auditTag(common, e.Hash, e.epoch, nonce, prover, verifier), nil
}

// common is F(x, other) of this node's row, which is checked first.
func (c *custodian) common(e *stored, other uint8) ([]byte, error) {
	b, err := c.loadRow(e)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	row, err := shamir.ParseRow(b, int(e.K), share.DataKeySize)
	if err != nil {
		return nil, err
	}
	defer row.Erase()
	return row.Help(other)
}

// possessed serves AUDIT.
func (c *custodian) possessed(ctx context.Context, from key.NodeID, q *custody.Audit) (key.Body, error) {
	if len(q.Items) == 0 || len(q.Items) > custody.MaxAudit {
		return &custody.AuditReply{Outcome: custody.Refused}, nil
	}
	if !c.possess.enter(from) {
		return &custody.AuditReply{Outcome: custody.Wait}, nil
	}
	defer c.possess.leave(from)
	reply := &custody.AuditReply{Outcome: custody.OK}
	for _, it := range q.Items {
		t, err := c.show(ctx, from, it, q.Nonce)
		if err != nil {
			return nil, err
		}
		reply.Tags = append(reply.Tags, t)
	}
	return reply, nil
}

// show answers one item: only to the node that holds the verifier's seat, and
// only with a tag that binds nonce, both seats and who proves to whom.
func (c *custodian) show(ctx context.Context, from key.NodeID, it custody.AuditItem, nonce [32]byte) (custody.AuditTag, error) {
	none := custody.AuditTag{State: custody.AuditNone}
	s, err := c.peek(ctx, it.ID)
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	if err != nil {
		return none, nil
	}
	e := s.find(it.Manifest)
	if e == nil || it.Prover == it.Verifier || it.Verifier == 0 || s.holderOf(e.version, it.Verifier) != from {
		return none, nil
	}
	switch {
	case !e.row && s.seatAt(e.version, c.self) == it.Prover:
		return custody.AuditTag{State: custody.AuditMissing}, nil
	case !e.row || e.x != it.Prover || e.epoch != it.Epoch:
		return none, nil
	}
	tag, err := c.tagOf(e, nonce, it.Verifier, it.Prover, it.Verifier)
	if err != nil {
		c.damaged(it.ID, err)
		return custody.AuditTag{State: custody.AuditDamaged}, nil
	}
	return custody.AuditTag{State: custody.AuditShown, Tag: tag}, nil
}
