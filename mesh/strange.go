package mesh

import (
	"net"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"keymesh/mesh/roster"
)

const (
	maxStrange   = 4 // dials of unproven addresses at a time
	strangeTries = 6 // quick attempts at an unproven address,
	strangeWait  = 10 * time.Minute
	peerKnocks   = 12              // dials of one peer's unproven addresses, whatever they are,
	peerKnock    = 2 * time.Minute // and then one in so long
	knockBurst   = 256             // the same for all peers together
	knockEvery   = 2 * time.Second
	maxStrangers = 2048             // addresses remembered
	peerMoves    = 4                // changes of a peer's addresses that are followed at once,
	peerMove     = 10 * time.Minute // and then one in so long
	maxProven    = 4 * roster.MaxAddrs
)

// stranger limits dials of an address that nobody of this network was ever
// found at: records must not turn a mesh into a crowd that knocks at somebody's
// door. The budgets of the peer and of the node bound how many doors there are.
type stranger struct {
	tries int
	last  time.Time
	next  time.Time
}

// stranger reports whether no address of the contact is known to be its own.
func (n *Node) stranger(c *contact) bool {
	for _, a := range c.addrs {
		if c.configured || c.proven[a] {
			return false
		}
	}
	return true
}

// prove notes that the node was met at the address. The caller holds n.mu.
func (n *Node) prove(c *contact, addr string) {
	if c.proven[addr] {
		return
	}
	if c.proven == nil {
		c.proven = map[string]bool{}
	}
	if len(c.proven) >= maxProven {
		for a := range c.proven {
			if !slices.Contains(c.addrs, a) {
				delete(c.proven, a)
			}
		}
	}
	c.proven[addr] = true
	n.noteRecord(c.id)
}

// cameFrom takes those addresses of a node for proven that are on the host
// which it was linked from: nobody else's door is there. The caller holds n.mu.
func (n *Node) cameFrom(c *contact, remote string) {
	from, _, err := net.SplitHostPort(remote)
	if err != nil {
		return
	}
	for _, a := range c.addrs {
		if host, _, err := net.SplitHostPort(bare(a)); err == nil && host == from {
			n.prove(c, a)
		}
	}
}

// mayKnock applies the limits of unproven addresses: a few quick attempts (the
// node may be starting), then one in ten minutes, and no more of them than the
// budgets of the peer and of this node allow.
func (n *Node) mayKnock(c *contact, addr string) bool {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.proven[addr] {
		return true
	}
	s := n.strange[addr]
	if s != nil && now.Before(s.next) || s == nil && len(n.strange) >= maxStrangers {
		return false
	}
	if !c.knocking { // it has a proven address as well
		if n.knocking >= maxStrange {
			return false
		}
		c.knocking = true
		n.knocking++
	}
	if c.knocks == nil {
		c.knocks = rate.NewLimiter(rate.Every(peerKnock), peerKnocks)
	}
	if !c.knocks.AllowN(now, 1) || !n.knocks.AllowN(now, 1) {
		n.count("dials put off")
		return false
	}
	if s == nil {
		s = &stranger{}
		n.strange[addr] = s
	}
	s.last = now
	s.tries++
	if s.tries >= strangeTries {
		s.next = now.Add(strangeWait)
	}
	return true
}

// knockAgain is when an unproven address of the contact may be tried next. The
// caller holds n.mu.
func (n *Node) knockAgain(c *contact, now time.Time) time.Time {
	next := now.Add(strangeWait)
	for _, a := range c.addrs {
		if s := n.strange[a]; s == nil {
			next = now
		} else if s.next.Before(next) {
			next = s.next
		}
	}
	for _, b := range []*rate.Limiter{c.knocks, n.knocks} {
		if b == nil {
			continue
		}
		if free := refilled(b, now); next.Before(free) {
			next = free
		}
	}
	return next.Add(backoff(1))
}

// refilled is when the bucket has a token again.
func refilled(b *rate.Limiter, now time.Time) time.Time {
	lack := 1 - b.TokensAt(now)
	if lack <= 0 {
		return now
	}
	return now.Add(time.Duration(lack / float64(b.Limit()) * float64(time.Second)))
}

// mayMove limits how often a peer's new addresses are followed: each set is up
// to eight doors more to knock at.
func (c *contact) mayMove(now time.Time) bool {
	if c.moves == nil {
		c.moves = rate.NewLimiter(rate.Every(peerMove), peerMoves)
	}
	return c.moves.AllowN(now, 1)
}

// catchUp follows the address changes that were put off. The caller holds n.mu.
func (n *Node) catchUp(now time.Time) {
	for id, c := range n.peers {
		if rec := n.roster.Get(id); rec != nil && c.moves != nil && !slices.Equal(c.addrs, rec.Body.Addrs) && !refilled(c.moves, now).After(now) {
			n.learned(rec, now)
		}
	}
}
