package mesh

import (
	"errors"
	"math/rand/v2"
	"time"

	"keymesh/crypto/key"
)

// wants returns which peers the node dials by itself: all of a small mesh; of
// a large one the successor in the order of ids and seven random ones. The
// caller holds n.mu.
func (n *Node) wants(now time.Time) func(key.NodeID) bool {
	if n.roster.Live(now) <= fullMesh {
		return func(key.NodeID) bool { return true }
	}
	n.choose(now)
	return func(id key.NodeID) bool { return n.chosen[id] }
}

// choose fills up the neighbours of a large mesh. The caller holds n.mu.
func (n *Node) choose(now time.Time) {
	all := n.roster.All()
	var ids []key.NodeID
	succ := key.NodeID{}
	for _, rec := range all {
		id := rec.ID()
		if id == n.id || rec.Expired(now) || n.roster.Revoked(id, rec.Chain) {
			delete(n.chosen, id)
			continue
		}
		ids = append(ids, id)
		if succ.IsZero() && string(id[:]) > string(n.id[:]) {
			succ = id
		}
	}
	if succ.IsZero() && len(ids) > 0 {
		succ = ids[0]
	}
	if n.successor != succ {
		delete(n.chosen, n.successor)
		n.successor = succ
	}
	n.chosen[succ] = true
	for _, i := range rand.Perm(len(ids)) {
		if len(n.chosen) > neighbours {
			break
		}
		n.chosen[ids[i]] = true
	}
}

// rotate replaces one random neighbour of a large mesh. The caller holds n.mu.
func (n *Node) rotate(now time.Time) *link {
	if n.roster.Live(now) <= fullMesh {
		clear(n.chosen)
		return nil
	}
	for id := range n.chosen {
		if id != n.successor {
			delete(n.chosen, id)
			if l := n.link(id); l != nil && !l.inbound {
				return l
			}
			return nil
		}
	}
	return nil
}

// full reports whether a new link to the peer is one too many. In a large mesh
// a newcomer takes the place of the link that was idle for the longest: it may
// know nobody else yet, while those who are linked have exchanged rosters. The
// caller holds n.mu.
func (n *Node) full(id key.NodeID, now time.Time) bool {
	links := n.linked()
	if len(links) < maxLinks || n.link(id) != nil || n.roster.Live(now) <= fullMesh {
		return false
	}
	idle := n.idlest(links, now)
	if idle == nil {
		return true
	}
	idle.close(errRoom)
	return false
}

var errRoom = errors.New("room for other links was needed")

// idlest returns the link that is least worth keeping, or nil when all are
// chosen or were used within a minute. The caller holds n.mu.
func (n *Node) idlest(links []*link, now time.Time) *link {
	var out *link
	for _, l := range links {
		if n.chosen[l.peer] || now.UnixNano()-l.used.Load() < int64(time.Minute) || l.ctx.Err() != nil {
			continue
		}
		if out == nil || l.used.Load() < out.used.Load() {
			out = l
		}
	}
	return out
}

// trim closes what a mesh that grew large has too many of. The caller holds
// n.mu.
func (n *Node) trim(now time.Time) {
	links := n.linked()
	if n.roster.Live(now) <= fullMesh {
		return
	}
	for range len(links) - maxLinks {
		if l := n.idlest(links, now); l != nil {
			l.close(errRoom)
		}
	}
}
