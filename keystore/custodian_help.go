package keystore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

const (
	helpAgain = time.Hour // after an entry the same help has another one
	maxHelps  = 1 << 14   // kinds of help in mind
)

// repair serves REPAIR.
func (c *custodian) repair(ctx context.Context, from key.NodeID, q *custody.Repair) (key.Body, error) {
	s, err := c.peek(ctx, q.ID)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &custody.RepairReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	}
	e, r, tell := s.help(c.facts(from), helpMsg{from: from, manifest: q.Manifest, epoch: q.Epoch, x: q.X})
	reply := &custody.RepairReply{Outcome: r.outcome, Why: bounded(r.why)}
	if e == nil {
		if r.outcome == custody.Moved || r.outcome == custody.Wait {
			reply.Reassigns = s.moveBytes(s.knownVersion(q.Manifest))
		}
		if r.epoch != nil {
			reply.Epoch = r.epoch.Bytes
		}
		c.refusedHelp(ctx, from, q, r.why, tell)
		return reply, nil
	}
	if q.Payload {
		if ct, err := c.cfg.Shelf.Load(payloadPlace(e)); err == nil && sha256.Sum256(ct) == e.Payload {
			reply.Payload = ct
			return reply, nil
		}
		c.damaged(q.ID, errRow)
		return &custody.RepairReply{Outcome: custody.Refused, Why: "the ciphertext is not here"}, nil
	}
	value, err := c.common(e, q.X)
	if err != nil {
		c.damaged(q.ID, err)
		return &custody.RepairReply{Outcome: custody.Refused, Why: "the row is damaged here"}, nil
	}
	if err := c.auditHelp(ctx, from, e, q.X); err != nil {
		clear(value)
		return &custody.RepairReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	}
	reply.Value = value
	return reply, nil
}

// helpKey is one seat's row of which a node gets a value.
type helpKey struct {
	manifest key.Hash
	epoch    uint32
	x        uint8
	node     key.NodeID
}

// helps are the values that went out lately. Safe for concurrent use.
type helps struct {
	mu   sync.Mutex
	told young[helpKey, time.Time] // when the entry was written
}

func newHelps() *helps { return &helps{told: newYoung[helpKey, time.Time](maxHelps)} }

// recent reports whether an entry is there that is younger than helpAgain.
func (h *helps) recent(k helpKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.told.get(k)
	return ok && time.Since(at) < helpAgain
}

func (h *helps) add(k helpKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told.put(k, time.Now())
}

// auditHelp puts it into the audit log that a node gets this node's value for
// its seat x: one entry an hour, since the value is always the same. After an
// error the value must not leave.
func (c *custodian) auditHelp(ctx context.Context, to key.NodeID, e *stored, x uint8) error {
	k := helpKey{e.Hash, e.epoch, x, to}
	if c.helps.recent(k) {
		return nil
	}
	_, err := c.audit(ctx, AuditRecord{Kind: "help", ID: e.ID, Node: to, Detail: fmt.Sprintf("generation %d: a value for the repair of seat %d", e.Gen, x)})
	if err == nil {
		c.helps.add(k)
	}
	return err
}

// refusedHelp puts a refusal into the audit log: an entry where somebody wants
// what is nobody's to have, else a count.
func (c *custodian) refusedHelp(ctx context.Context, from key.NodeID, q *custody.Repair, why string, tell bool) {
	if !tell {
		c.refusals.stranger(from)
		return
	}
	e := AuditRecord{Kind: "refuse", ID: q.ID, Node: from, Detail: "repair: " + why}
	if c.cfg.Audit != nil && c.refusals.party(from, key.PersonPublic{}, refusalKey{q.Manifest, from.String() + e.Detail}) {
		c.note(ctx, e)
	}
}

// leaveTo lets go of a seat's row once its new holder has signed that it has
// committed it.
func (c *custodian) leaveTo(ctx context.Context, s *secretState, e *stored, to key.NodeID) healOutcome {
	if e.proof != nil {
		return c.leaveEpoch(ctx, s, e, to)
	}
	q := &custody.Commit{Manifest: e.Bytes(), Cert: e.cert, Before: bytesOf(e.before), Reassigns: s.moveBytes(e.version)}
	var reply custody.CommitReply
	if c.call(ctx, to, custody.VerbCommit, q, &reply) != nil || reply.Outcome != custody.OK {
		return healAgain
	}
	if err := c.checkCommitted(reply.Receipt, e, to); err != nil {
		c.log.Warn("the new holder of a seat", "err", err)
		return healAgain
	}
	return c.letGo(ctx, e, to)
}

// letGo drops the row of a seat that its new holder has.
func (c *custodian) letGo(ctx context.Context, e *stored, to key.NodeID) healOutcome {
	r, _, _, err := c.step(ctx, e.ID, c.facts(c.self), func(s *secretState, f holderFacts) stepResult { return s.leave(f, e.Hash, e.x, to) })
	if err != nil || r.outcome != custody.OK {
		return healAgain
	}
	if r.next != nil {
		c.log.Info("a seat was given to another node, which has the row now; it is deleted here", "secret", e.ID.String()[:8], "node", to.Short())
		c.note(ctx, AuditRecord{Kind: "leave", ID: e.ID, Node: to, Detail: fmt.Sprintf("seat %d of generation %d was given to this node; its row is deleted here", e.x, e.Gen)})
	}
	return healOver
}

// checkCommitted verifies that a node signed Committed for this seat.
func (c *custodian) checkCommitted(b []byte, e *stored, node key.NodeID) error {
	o, err := key.DecodeObject(b)
	if err != nil {
		return err
	}
	r, err := share.OpenReceipt(c.cfg.ID, key.TypeCommitted, o)
	if err != nil {
		return err
	}
	if r.Node != node || r.Manifest != e.Hash || r.X != e.x || r.Epoch != e.epoch {
		return errors.New("its receipt is of another seat, manifest or epoch")
	}
	return nil
}
