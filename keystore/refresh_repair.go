package keystore

import (
	"context"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// healBundle is how long a seat that was away waits for the bundle before it has
// its row rebuilt.
const healBundle = 30 * time.Second

// catchUp has the row of an epoch that this seat missed rebuilt from values of
// the others.
func (c *custodian) catchUp(ctx context.Context, s *secretState, e *stored) healOutcome {
	if !c.healing.spend(e.Owner, false, int64(e.K)*share.DataKeySize) {
		return healLater
	}
	want, b, liars, err := c.fetchRow(ctx, s, e.asSeat(e.x, e.refresh.ahead))
	if err != nil {
		c.log.Warn("a seat that missed a refresh cannot be repaired now", "secret", e.ID.String()[:8], "err", err)
		return healAgain
	}
	defer clear(b)
	row, err := shamir.ParseRow(b, int(e.K), share.DataKeySize)
	if err != nil {
		return healAgain
	}
	defer row.Erase()
	r, _, _, err := c.step(ctx, e.ID, c.facts(c.self), func(s *secretState, f holderFacts) stepResult { return s.repairEpoch(f, want.proof, row) })
	if err != nil || r.outcome != custody.OK {
		return healAgain
	}
	c.note(ctx, AuditRecord{Kind: "repair", ID: e.ID, Node: c.self, Detail: fmt.Sprintf("seat %d of generation %d has its row of epoch %d%s", e.x, e.Gen, want.epoch, butLiars(liars))})
	return healOver
}

// leaveEpoch is leaveTo past epoch 0: the new holder's word must be of the epoch
// that is in force here, or of a later one that it shows.
func (c *custodian) leaveEpoch(ctx context.Context, s *secretState, e *stored, to key.NodeID) healOutcome {
	proof := e.proof
	for range 2 {
		q := &custody.Epoch{ID: e.ID, Manifest: e.Hash, Epoch: proof.Bytes}
		var reply custody.EpochReply
		if c.call(ctx, to, custody.VerbEpoch, q, &reply) != nil {
			return healAgain
		}
		if reply.Outcome == custody.OK {
			w, ok := c.openWord(proof, func(x uint8, node key.NodeID) bool { return x == e.x && node == to }, reply.Receipt)
			if !ok || w.X != e.x {
				return healAgain
			}
			return c.letGo(ctx, e, to)
		}
		if reply.Standing == nil {
			return healAgain
		}
		later, err := share.OpenEpoch(c.cfg.ID, reply.Standing.Proof, e.SignedManifest, s.holds(e.version))
		if err != nil || later.Number() <= proof.Number() {
			return healAgain
		}
		proof = later
	}
	return healAgain
}
