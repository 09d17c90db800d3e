package keystore

import (
	"context"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// openMoves verifies Reassigns of v that came along, each the next of its seat;
// what is none is left out and costs no verification.
func (c *custodian) openMoves(list [][]byte, v *version) ([]*share.SignedReassign, error) {
	if len(list) > share.MaxReassigns {
		return nil, fmt.Errorf("%w: %d of them", share.ErrReassign, len(list))
	}
	var out []*share.SignedReassign
	p := share.NewPlacement(v.SignedManifest, v.alone)
	for _, b := range list {
		r, err := p.Open(c.cfg.ID, b)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// takeMoves takes in verified Reassigns of a secret. Those that are known, void
// or not the next of their seat change nothing.
func (c *custodian) takeMoves(ctx context.Context, f holderFacts, id key.Hash, moves []*share.SignedReassign) error {
	for _, m := range moves {
		r, _, _, err := c.step(ctx, id, f, func(s *secretState, f holderFacts) stepResult { return s.reassign(f, m) })
		if err != nil {
			return err
		}
		if r.next != nil {
			c.passing.add(r.next, c.self)
			c.healing.look(id, 0)
			who := "its owner"
			if !m.ByOwner {
				who = "a quorum of its seats"
			}
			c.note(ctx, AuditRecord{Kind: "reassign", ID: id, Node: m.New, Detail: fmt.Sprintf("seat %d was given to this node by %s", m.X, who)})
		}
	}
	return nil
}

// reassigned serves REASSIGN: a COMMIT whose sender waits for the seats to be
// whole. What is missing here is repaired at once.
func (c *custodian) reassigned(ctx context.Context, from key.NodeID, q *custody.Commit) (key.Body, error) {
	f := c.facts(from)
	f.ordered = true
	out, err := c.commitAs(ctx, f, q)
	if err != nil {
		return nil, err
	}
	reply := out.(*custody.CommitReply)
	o, err := key.DecodeObject(q.Manifest)
	if err != nil {
		return reply, nil
	}
	var m share.Manifest
	if key.Unmarshal(o.Body, &m) != nil {
		return reply, nil
	}
	s, err := c.peek(ctx, m.ID)
	if err != nil {
		return reply, ctx.Err()
	}
	if cur := s.current(); cur != nil {
		c.healing.order(m.ID)
		reply.Reassigns = s.moveBytes(cur.version)
	}
	return reply, nil
}
