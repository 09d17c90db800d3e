package keystore

import (
	"context"
	"errors"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// How a holder answers DEAL, BUNDLE and EPOCH (protocol.md section 9): only to
// nodes that hold a seat of the same manifest. What it may sign is for the steps
// of holder_refresh.go to say.

const whyNoSeat = "not a seat of this manifest, or another one is committed here"

// beside is the state of a secret, its committed version and the seat that the
// sender holds of it; nil with the reason when it may not know.
func (c *custodian) beside(ctx context.Context, from key.NodeID, id, manifest key.Hash) (*secretState, *stored, string, error) {
	s, err := c.peek(ctx, id)
	if err != nil {
		return nil, nil, "", err
	}
	e, why := s.refreshed(c.facts(from), manifest)
	switch {
	case s.committed == nil || s.committed.Hash != manifest || !s.isOrWas(s.committed.version, from):
		return nil, nil, whyNoSeat, nil
	case e == nil:
		return nil, nil, why, nil
	}
	return s, e, "", nil
}

// deal serves DEAL.
func (c *custodian) deal(ctx context.Context, from key.NodeID, q *custody.Deal) (key.Body, error) {
	s, e, why, err := c.beside(ctx, from, q.ID, q.Manifest)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &custody.DealReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	case e == nil:
		return &custody.DealReply{Outcome: custody.Refused, Why: bounded(why)}, nil
	}
	reply := &custody.DealReply{Outcome: custody.OK, Standing: s.standing(e, c.dealings(e))}
	if q.Round == 0 {
		return reply, nil
	}
	if q.Epoch != e.epoch+1 || !reply.Standing.Over {
		reply.Outcome, reply.Why = custody.Conflict, "another epoch is in force here"
		return reply, nil
	}
	d, boxes, err := c.dealZero(s, e, q.Epoch, q.Round)
	if err != nil {
		c.log.Error("zero cannot be dealt", "err", err)
		return &custody.DealReply{Outcome: custody.Failed, Why: "this node cannot deal"}, nil
	}
	reply.Dealing, reply.Boxes = d.Encode(), boxes
	return reply, nil
}

// dealZero deals zero to the seats of e and seals each row to the node that
// holds the seat. Nothing of it stays here.
func (c *custodian) dealZero(s *secretState, e *stored, epoch uint32, round uint64) (key.Object, [][]byte, error) {
	xs := e.Xs()
	d := share.Dealing{Manifest: e.Hash, Epoch: epoch, Round: round, X: e.x, Node: c.self}
	for _, x := range xs {
		d.Nodes = append(d.Nodes, s.holderOf(e.version, x))
	}
	rows, proof, err := shamir.DealZero(xs, int(e.K), func(rows []shamir.Row) [32]byte {
		for i, r := range rows {
			enc := r.Encode()
			d.Commits = append(d.Commits, d.DealtCommitment(xs[i], enc))
			clear(enc)
		}
		return d.Seed(xs)
	})
	if err != nil {
		return key.Object{}, nil, err
	}
	d.Proof = proof
	boxes := make([][]byte, len(rows))
	for i, r := range rows {
		boxes[i] = c.sealDealt(e, xs[i], epoch, d.Nodes[i], r)
		r.Erase()
		var h key.Hash
		if boxes[i] != nil {
			h = share.BoxHash(boxes[i])
		}
		d.Boxes = append(d.Boxes, h)
	}
	return share.SignDealing(c.cfg.Node, c.cfg.ID, d), boxes, nil
}

// sealDealt seals a dealing's row to the node that holds the seat; nil when no
// good key of the node is known here.
func (c *custodian) sealDealt(e *stored, x uint8, epoch uint32, node key.NodeID, row shamir.Row) []byte {
	enc := row.Encode()
	defer clear(enc)
	box, err := seal.To(c.sealingKey(node), dealtInfo(e, x, epoch, node), enc)
	if err != nil {
		return nil
	}
	return box
}

func dealtInfo(e *stored, x uint8, epoch uint32, node key.NodeID) key.Hash {
	return seal.Info(seal.PurposeDealing, e.Hash, x, epoch, node, key.Hash{})
}

// sealingKey is what rows for a node are sealed to.
func (c *custodian) sealingKey(node key.NodeID) []byte {
	if node == c.self {
		if c.cfg.SealingKeys != nil {
			for _, k := range c.cfg.SealingKeys() {
				return k.Public()
			}
		}
		return nil
	}
	for _, m := range c.cfg.Network.Members() {
		if m.ID == node && !m.Revoked {
			return m.SealingKey
		}
	}
	return nil
}

// dealings are what is kept of the bundle in force, nil for nothing.
func (c *custodian) dealings(e *stored) *custody.Dealings {
	if e.refresh == nil || e.refresh.now.Dealt.IsZero() {
		return nil
	}
	return c.dealingsOf(e, e.refresh.now)
}

func (c *custodian) dealingsOf(e *stored, d dealtRow) *custody.Dealings {
	b, err := c.cfg.Shelf.Load(dealingsPlace(e, d))
	if err != nil {
		return nil // passed on by others, or the seat repairs
	}
	out := new(custody.Dealings)
	if key.Unmarshal(b, out) != nil {
		return nil
	}
	return out
}

// loadRowAt reads a row of e out of a place, judged by proof.
func (c *custodian) loadRowAt(e *stored, p share.Place, proof *share.OpenedEpoch) (shamir.Row, error) {
	b, err := c.cfg.Shelf.Load(p)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	row, err := shamir.ParseRow(b, int(e.K), share.DataKeySize)
	if err != nil {
		return nil, err
	}
	if !rowGood(e.version, proof, e.x, row) {
		row.Erase()
		return nil, errRow
	}
	return row, nil
}

// loadDealt reads a row that is not in force: nothing judges it until its Epoch
// comes.
func (c *custodian) loadDealt(e *stored, d dealtRow) (shamir.Row, error) {
	b, err := c.cfg.Shelf.Load(dealtPlace(e, d))
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return shamir.ParseRow(b, int(e.K), share.DataKeySize)
}

// errBoxes: the coordinator brought no boxes, or others than the dealers'.
var errBoxes = errors.New("the sealed rows did not come along")

// openBoxes opens this seat's rows of a bundle and verifies them. bad are the
// dealers whose dealing fails here.
func (c *custodian) openBoxes(e *stored, b *share.OpenedBundle, boxes [][]byte) (rows []shamir.Row, bad []byte, err error) {
	at := e.SeatIndex(e.x)
	if len(boxes) != len(b.Opened) || at < 0 {
		return nil, nil, errBoxes
	}
	for i, d := range b.Opened {
		switch {
		case d.Boxes[at].IsZero():
			bad = append(bad, d.X)
			continue
		case len(boxes[i]) > share.MaxDealtBox || share.BoxHash(boxes[i]) != d.Boxes[at]:
			err = errBoxes
			continue
		}
		row := c.openDealt(e, d, b.Epoch, boxes[i])
		if row == nil {
			bad = append(bad, d.X)
			continue
		}
		rows = append(rows, row)
	}
	if len(bad) > 0 || err != nil {
		for _, r := range rows {
			r.Erase()
		}
		if err == nil {
			err = fmt.Errorf("%w for this seat", shamir.ErrDealing)
		}
		return nil, bad, err
	}
	return rows, nil, nil
}

// openDealt opens and verifies one dealing's row for this seat; nil: it is bad.
func (c *custodian) openDealt(e *stored, d *share.Dealing, epoch uint32, box []byte) shamir.Row {
	if c.cfg.SealingKeys == nil {
		return nil
	}
	for _, k := range c.cfg.SealingKeys() {
		plain, err := k.Open(dealtInfo(e, e.x, epoch, c.self), box)
		if err != nil {
			continue
		}
		row, err := shamir.ParseRow(plain, int(e.K), shamir.DealtWidth)
		clear(plain)
		if err != nil {
			return nil
		}
		if verifyDealt(e.version, d, e.x, row) != nil {
			row.Erase()
			return nil
		}
		return row
	}
	return nil
}

// verifyDealt checks the row of seat x of a dealing whose signature and shape are
// verified: the commitment and the proof.
func verifyDealt(v *version, d *share.Dealing, x uint8, row shamir.Row) error {
	at := v.SeatIndex(x)
	if at < 0 {
		return shamir.ErrDealing
	}
	return shamir.VerifyZero(int(v.K), x, row, d.Seed(v.Xs()), d.Proof, func(r shamir.Row) bool {
		enc := r.Encode()
		defer clear(enc)
		return d.DealtCommitment(x, enc) == d.Commits[at]
	})
}

// bundle serves BUNDLE.
func (c *custodian) bundle(ctx context.Context, from key.NodeID, q *custody.Bundle) (key.Body, error) {
	s, e, why, err := c.beside(ctx, from, q.ID, q.Manifest)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &custody.BundleReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	case e == nil:
		return &custody.BundleReply{Outcome: custody.Refused, Why: bounded(why)}, nil
	}
	b, err := share.OpenRefreshBundle(c.cfg.ID, q.Bundle, e.SignedManifest, s.holds(e.version))
	if err != nil {
		return &custody.BundleReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	proof, err := c.earlier(s, e, b, q.Proof)
	if err != nil {
		return &custody.BundleReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	reply := new(custody.BundleReply)
	r, _, _, err := c.step(ctx, q.ID, c.facts(from), func(s *secretState, f holderFacts) stepResult {
		return c.takeBundle(s, f, b, proof, q, reply)
	})
	if err != nil {
		return nil, err
	}
	reply.Outcome, reply.Why = r.outcome, bounded(r.why)
	if r.ack != nil {
		reply.Ack = share.SignEpochAck(c.cfg.Node, c.cfg.ID, *r.ack).Encode()
	}
	if r.outcome == custody.Conflict {
		if s, err := c.peek(ctx, q.ID); err == nil && s.committed != nil {
			reply.Standing = s.standing(s.committed, c.dealings(s.committed))
		}
	}
	return reply, nil
}

// earlier verifies the Epoch of an earlier round that came with a bundle: it must
// be of the same dealings.
func (c *custodian) earlier(s *secretState, e *stored, b *share.OpenedBundle, bytes []byte) (*share.OpenedEpoch, error) {
	if len(bytes) == 0 {
		return nil, nil
	}
	proof, err := share.OpenEpoch(c.cfg.ID, bytes, e.SignedManifest, s.holds(e.version))
	if err != nil {
		return nil, err
	}
	if proof.Number() != b.Epoch || proof.Bundle != b.HashIn(c.cfg.ID, proof.Round) {
		return nil, fmt.Errorf("%w: an epoch of other dealings came along", share.ErrRefresh)
	}
	return proof, nil
}

// takeBundle is the step of BUNDLE, with the rows that it needs from the shelf.
func (c *custodian) takeBundle(s *secretState, f holderFacts, b *share.OpenedBundle, proof *share.OpenedEpoch, q *custody.Bundle, reply *custody.BundleReply) stepResult {
	e, why := s.refreshed(f, b.Manifest)
	if e == nil {
		return refuse(custody.Refused, "%s", why)
	}
	if _, res := e.mayAcknowledge(unix(), b, proof); res.outcome != custody.OK {
		return res
	}
	row, bad, err := c.rowOf(e, b, q.Boxes)
	if err != nil {
		reply.Bad = bad
		return refuse(custody.Refused, "%v", err)
	}
	defer row.Erase()
	return s.acknowledge(f, ackMsg{bundle: b, bytes: q.Bundle, row: row, proof: proof})
}

// rowOf is this seat's row of the epoch that a bundle leads to: one that is here
// from the same dealings, or the base plus the rows in the boxes.
func (c *custodian) rowOf(e *stored, b *share.OpenedBundle, boxes [][]byte) (shamir.Row, []byte, error) {
	r := e.refresh
	if r != nil && r.epoch == b.Epoch {
		if r.now.Dealt == b.Dealt {
			row, err := c.loadRowAt(e, rowPlace(e), e.proof)
			return row, nil, err
		}
		if d := r.of(b.Dealt); d != nil {
			row, err := c.loadDealt(e, *d)
			return row, nil, err
		}
	}
	base, proof := rowPlace(e), e.proof
	switch {
	case b.Epoch == e.epoch+1:
	case b.Epoch == e.epoch && r != nil && r.base != nil:
		base, proof = basePlace(e), r.base.proof
	default:
		return nil, nil, errRow
	}
	rows, bad, err := c.openBoxes(e, b, boxes)
	if err != nil {
		return nil, bad, err
	}
	defer func() {
		for _, d := range rows {
			d.Erase()
		}
	}()
	old, err := c.loadRowAt(e, base, proof)
	if err != nil {
		return nil, nil, err
	}
	defer old.Erase()
	row, err := old.Add(rows...)
	return row, nil, err
}
