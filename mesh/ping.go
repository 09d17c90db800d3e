package mesh

import (
	"context"
	"fmt"
	"time"

	"keymesh/crypto/key"
)

// Ping measures a round trip to a node over its link, which is made if there is
// none: the far side answers from its reader, so neither queues nor handlers
// are in it. Errors are those of [Node.Call].
func (n *Node) Ping(ctx context.Context, to key.NodeID) (time.Duration, error) {
	if err := n.started(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	l, err := n.linkTo(ctx, to)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if !l.alive(ctx) {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("ping: %w", err)
		}
		return 0, fmt.Errorf("ping: %w", ErrLost)
	}
	return time.Since(start), nil
}
