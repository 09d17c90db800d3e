package mesh

import (
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
)

// SetBindings replaces the PersonBindings that the node tells (at most 4), and
// has a new record signed and spread within seconds. On error nothing changes.
func (n *Node) SetBindings(b []key.Object) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.cfg.Bindings
	n.cfg.Bindings = slices.Clone(b)
	if _, err := n.sign(n.seq+1, time.Now()); err != nil {
		n.cfg.Bindings = before
		return fmt.Errorf("mesh: a record with these bindings: %w", err)
	}
	n.issued = time.Time{} // due at once
	nudge(n.choreWake)
	return nil
}
