package mesh

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const (
	clockSkew  = 10 * time.Minute
	clockPeers = 2 // fewer say nothing about whose clock is wrong
)

// Members returns the whole roster without the node itself, offline, lapsed
// and revoked members too, sorted by id.
func (n *Node) Members() []Member {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Member
	for _, rec := range n.roster.All() {
		if rec.ID() != n.id {
			out = append(out, n.describe(rec, now))
		}
	}
	return out
}

// Self returns the node as its peers see it.
func (n *Node) Self() Member {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.describe(n.self, now)
	m.Revoked = n.revoked
	m.SealingKey = bytes.Clone(n.cfg.SealingKey)
	m.Accepting = n.cfg.Accepting()
	return m
}

// describe makes the Member of a record. The caller holds n.mu.
func (n *Node) describe(rec *roster.Record, now time.Time) Member {
	c := rec.Chain.Member
	m := Member{
		ID: rec.ID(), Public: rec.Public, Name: c.Name, Operator: c.Operator, Zone: c.Zone, Roles: c.Roles, Capacity: c.Capacity,
		Addrs: slices.Clone(rec.Body.Addrs), Persons: rec.Persons(now), Issuer: rec.IsIssuer(),
		Lapsed: rec.Chain.Expired(now), Revoked: n.roster.Revoked(rec.ID(), rec.Chain), CertExpires: rec.Chain.Expires(),
	}
	if p := n.peers[m.ID]; p != nil {
		m.SealingKey, m.LastSeen, m.Twin = bytes.Clone(p.sealing), p.seen, recent(p.twin, now)
	}
	if l := n.link(m.ID); l != nil && l.ctx.Err() == nil {
		m.Online, m.LastSeen = true, time.Unix(0, l.received.Load())
		l.mu.Lock()
		m.Accepting, m.RTT = l.offer.Accepting, l.rtt
		l.mu.Unlock()
	}
	return m
}

// Status returns a snapshot.
func (n *Node) Status() Status {
	now := time.Now()
	links := n.linked()
	s := Status{ID: n.id, Links: len(links), HalfOpen: n.doors.count(), BytesHeld: n.held.Load()}
	s.Lapsed = now.Unix() >= n.certExp.Load()
	n.countMu.Lock()
	s.Counters = maps.Clone(n.counters)
	n.countMu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Seq, s.Revoked = n.seq, n.revoked
	s.RolledBack, s.Twin = n.RolledBack(), recent(n.twin, now)
	for _, rec := range n.roster.All() {
		if rec.ID() != n.id && !n.roster.Revoked(rec.ID(), rec.Chain) {
			s.Members++
		}
	}
	s.Clock = clockFault(now, n.roster.NotBefore(), links)
	return s
}

// Clock returns Status().Clock and nothing else: for those who have to ask
// before each decision that depends on expiry.
func (n *Node) Clock() string {
	links := n.linked()
	n.mu.Lock()
	signed := n.roster.NotBefore()
	n.mu.Unlock()
	return clockFault(time.Now(), signed, links)
}

// clockFault says what is wrong with the clock (protocol.md section 5), or
// nothing.
func clockFault(now, signed time.Time, links []*link) string {
	if now.Before(signed) {
		return fmt.Sprintf("the clock says %s, but a certificate was signed at %s", now.UTC().Format(time.RFC3339), signed.UTC().Format(time.RFC3339))
	}
	var skews []time.Duration
	for _, l := range links {
		l.mu.Lock()
		skews = append(skews, l.skew)
		l.mu.Unlock()
	}
	if len(skews) < clockPeers {
		return ""
	}
	slices.Sort(skews)
	m := skews[len(skews)/2]
	if m.Abs() <= clockSkew {
		return ""
	}
	return fmt.Sprintf("the clock is %v off the median of %d peers", m.Round(time.Second), len(skews))
}

// record returns the current record of a node, or nil.
func (n *Node) record(id key.NodeID) *roster.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.roster.Get(id)
}
