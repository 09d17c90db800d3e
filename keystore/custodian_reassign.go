package keystore

import (
	"context"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// openMoves verifies Reassigns of v that came along.
func (c *custodian) openMoves(list [][]byte, v *version) ([]*share.SignedReassign, error) {
	if len(list) > share.MaxReassigns {
		return nil, fmt.Errorf("%w: %d of them", share.ErrReassign, len(list))
	}
	out := make([]*share.SignedReassign, len(list))
	for i, b := range list {
		var err error
		if out[i], err = share.OpenReassign(c.cfg.ID, b, v.SignedManifest); err != nil {
			return nil, err
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
		}
	}
	return nil
}
