package mesh

import (
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// A node key belongs to one process and one disk. Two faults break that: a data
// directory that was put back from an older copy, and a copy that runs on a
// second machine. Both show in what peers remember (protocol.md sections 5 and
// 8): a disk that never lied knows the highest seq that it signed, since the seq
// is durable before the record spreads; and a process that was replaced by
// another never comes back.

const (
	twinMemory = 8              // earlier instances of a peer that are remembered
	twinLife   = 24 * time.Hour // how long an alarm stands after what raised it was last seen
	twinPause  = 10 * time.Minute
)

// surpassed acts on a record of this node that it does not remember signing.
// The first one of a run says that the disk is an older copy; one that was
// signed while this process runs, after this node had gone on above it, says
// that another process signs too. The caller holds n.mu.
func (n *Node) surpassed(rec *roster.Record, now time.Time) {
	n.seq = rec.Body.Seq
	n.jumps++
	signed := time.Unix(int64(rec.Body.Expires), 0).Add(-recordLife)
	switch {
	case n.jumps > 1 && !signed.Before(n.began):
		if now.Sub(n.twin) > twinPause {
			n.log.Error("another process runs with this node's key: stop one of them", "seq", rec.Body.Seq)
		}
		n.twin = now
		n.count("own records signed elsewhere")
	case n.rolledBack.CompareAndSwap(false, true):
		n.log.Error("peers know a later record of this node than its disk does: its data directory is an older copy", "seq", rec.Body.Seq)
	}
}

// pauseBetween is the least time between two own records. Two processes of one
// key would outbid one another for ever. The caller holds n.mu.
func (n *Node) pauseBetween(now time.Time) time.Duration {
	if now.Sub(n.twin) < twinPause {
		return twinPause
	}
	return recordPause
}

// sawInstance notes which process of a peer has the link now. One that comes
// back after another had it never stopped running.
func (n *Node) sawInstance(peer key.NodeID, instance uint64, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.peers[peer]
	if c == nil || c.instance == instance {
		return
	}
	if slices.Contains(c.earlier, instance) {
		if now.Sub(c.twin) > twinPause {
			n.log.Error("two processes run with one node's key", "node", peer.Short())
		}
		c.twin = now
		n.count("twins seen")
	}
	if c.instance != 0 && !slices.Contains(c.earlier, c.instance) {
		c.earlier = append(c.earlier, c.instance)
		c.earlier = c.earlier[max(0, len(c.earlier)-twinMemory):]
	}
	c.instance = instance
}

// hasTwin reports whether two processes of the peer were seen a short while ago.
func (n *Node) hasTwin(peer key.NodeID, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.peers[peer]
	return c != nil && now.Sub(c.twin) < twinPause
}

// recent reports whether an alarm still stands.
func recent(alarm, now time.Time) bool { return !alarm.IsZero() && now.Sub(alarm) < twinLife }

// RolledBack reports whether peers have shown, in this run, a record of this
// node that its disk does not remember: the data directory is an older copy, and
// what was promised since then is not in it. It is cheap.
func (n *Node) RolledBack() bool { return n.rolledBack.Load() }
