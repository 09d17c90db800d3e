package keystore

import (
	"context"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// epoch serves EPOCH. What it brings proves itself, so that any member may bring
// it: a reader gives it to seats that lag behind. Only seats are told more than
// the outcome.
func (c *custodian) epoch(ctx context.Context, from key.NodeID, q *custody.Epoch) (key.Body, error) {
	s, err := c.peek(ctx, q.ID)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &custody.EpochReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	case s.committed == nil || s.committed.Hash != q.Manifest || c.facts(from).operator == "" && !s.isOrWas(s.committed.version, from):
		return &custody.EpochReply{Outcome: custody.Refused, Why: whyNoSeat}, nil
	}
	e, why := s.refreshed(c.facts(from), q.Manifest)
	if e == nil {
		return &custody.EpochReply{Outcome: custody.Refused, Why: bounded(why)}, nil
	}
	seat := s.isOrWas(e.version, from)
	m, err := c.openEpoch(s, e, q)
	if err != nil {
		return &custody.EpochReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	reply := new(custody.EpochReply)
	r, _, receipt, err := c.step(ctx, q.ID, c.facts(from), func(s *secretState, f holderFacts) stepResult {
		reply.NeedBundle = c.fillEpoch(s, f, m, q)
		defer m.row.Erase()
		return s.commitEpoch(f, *m)
	})
	if err != nil {
		return nil, err
	}
	if r.next != nil {
		c.refreshes.add(q.ID)
		if r.outcome != custody.OK {
			c.healing.look(q.ID, healBundle) // a seat that has the bundle may bring it first
		}
	}
	reply.Outcome, reply.Why, reply.Receipt = r.outcome, bounded(r.why), receipt
	if r.outcome == custody.OK {
		reply.NeedBundle = false
	} else if s, err := c.peek(ctx, q.ID); err == nil && s.committed != nil && seat {
		reply.Standing = s.standing(s.committed, c.dealings(s.committed))
	}
	return reply, nil
}

// openEpoch verifies what an EPOCH brings, but for the rows.
func (c *custodian) openEpoch(s *secretState, e *stored, q *custody.Epoch) (*epochMsg, error) {
	if len(q.Committed) > custody.MaxDealers || len(q.Boxes) > custody.MaxDealers {
		return nil, fmt.Errorf("%w: too many of something", share.ErrRefresh)
	}
	holds := s.holds(e.version)
	m := new(epochMsg)
	var err error
	if e.proof != nil && string(e.proof.Bytes) == string(q.Epoch) {
		m.proof = e.proof
	} else if m.proof, err = share.OpenEpoch(c.cfg.ID, q.Epoch, e.SignedManifest, holds); err != nil {
		return nil, err
	}
	for _, b := range q.Committed {
		word, ok := c.openWord(m.proof, s.sits(e.version), b)
		if ok && !slices.ContainsFunc(m.words, func(o seatWord) bool { return o.X == word.X }) {
			m.words = append(m.words, word)
		}
	}
	if missing := e.N() - len(m.proof.Acked()); missing > 0 && share.BundleHash(c.cfg.ID, q.Bundle) == m.proof.Bundle {
		m.rest = &custody.Dealings{Bundle: q.Bundle}
		for _, b := range q.Boxes {
			if m.proof.Ack(b.X) == nil && e.SeatIndex(b.X) >= 0 && len(b.Boxes) == int(e.K) && len(m.rest.Boxes) < missing && boxesFit(b.Boxes) {
				m.rest.Boxes = append(m.rest.Boxes, b)
			}
		}
	}
	return m, nil
}

func boxesFit(boxes [][]byte) bool {
	for _, b := range boxes {
		if len(b) > share.MaxDealtBox {
			return false
		}
	}
	return true
}

// openWord verifies a Committed over the bundle of an epoch.
func (c *custodian) openWord(proof *share.OpenedEpoch, holds share.Holds, b []byte) (seatWord, bool) {
	o, err := key.DecodeObject(b)
	if err != nil || len(b) > maxWord {
		return seatWord{}, false
	}
	r, err := share.OpenReceipt(c.cfg.ID, key.TypeCommitted, o)
	if err != nil || r.Manifest != proof.Bundle || r.Epoch != proof.Number() || !holds(r.X, r.Node) {
		return seatWord{}, false
	}
	return seatWord{X: r.X, Word: b}, true
}

// maxWord is more than a Committed without extensions takes, in bytes.
const maxWord = 256

// fillEpoch finds this seat's row of the epoch: from its own acknowledgement, or
// from the bundle and boxes that came along. It reports whether these would help.
func (c *custodian) fillEpoch(s *secretState, f holderFacts, m *epochMsg, q *custody.Epoch) (needBundle bool) {
	e, _ := s.refreshed(f, m.proof.Manifest)
	if e == nil || e.proof != nil && e.proof.Bundle == m.proof.Bundle {
		return false
	}
	r := e.refresh
	if r != nil && r.epoch == m.proof.Number() {
		for _, d := range append([]dealtRow{r.now}, r.dealt...) {
			if d.Bundle != m.proof.Bundle {
				continue
			}
			m.dealt = d.Dealt
			var err error
			if d == r.now {
				m.row, err = c.loadRowAt(e, rowPlace(e), e.proof)
			} else {
				m.row, err = c.loadDealt(e, d)
			}
			if err == nil {
				return false
			}
		}
	}
	b, err := share.OpenRefreshBundle(c.cfg.ID, q.Bundle, e.SignedManifest, s.holds(e.version))
	if err != nil || b.Hash != m.proof.Bundle {
		return true
	}
	var boxes [][]byte
	for _, sb := range q.Boxes {
		if sb.X == e.x {
			boxes = sb.Boxes
		}
	}
	row, _, err := c.rowOf(e, b, boxes)
	if err != nil {
		return true
	}
	m.row, m.dealt = row, b.Dealt
	return false
}
