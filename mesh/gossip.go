package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const (
	recordLife   = 24 * time.Hour // of the own record; 2 h of clock skew are allowed for
	recordRenew  = 12 * time.Hour
	recordPause  = 5 * time.Second // between two own records, but for the first
	syncEvery    = 30 * time.Second
	gatherTime   = 10 * time.Millisecond // changes are told together
	gatherPause  = 60 * time.Millisecond // between two rounds of telling
	pushLinks    = 3
	exchangeTime = 10 * time.Second
	flapTime     = 5 * time.Second // a link that lived shorter is not missed at once
)

// sign makes the node's own record. The caller holds n.mu or is New.
func (n *Node) sign(seq uint64, now time.Time) (*roster.Record, error) {
	r := roster.NodeRecord{
		Seq: seq, Addrs: n.cfg.Advertise, Sealing: roster.SealingHash(n.cfg.SealingKey), Bindings: n.cfg.Bindings,
		Member: n.member, Issuer: n.issuer, Expires: uint64(now.Add(recordLife).Unix()),
	}
	if n.cfg.Issuing != nil {
		r.Features |= roster.FeatureIssuer
	}
	return roster.NewNodeRecord(n.cfg.Key, n.cfg.Network, r)
}

// republish signs a new record of this node, notes its seq durably, and spreads
// it.
func (n *Node) republish(now time.Time, first bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !first && now.Sub(n.issued) < n.pauseBetween(now) {
		return nil
	}
	rec, err := n.sign(n.seq+1, now)
	if err != nil {
		return fmt.Errorf("signing the own record: %w", err)
	}
	n.seq++
	if err := n.saveSelf(); err != nil {
		return fmt.Errorf("noting the own sequence number: %w", err)
	}
	n.self, n.issued = rec, now
	if first {
		n.began = now
	}
	if _, err := n.roster.Accept(rec.Object, now); err != nil && !errors.Is(err, roster.ErrOld) {
		n.log.Warn("the node's own record is not one that others accept", "cause", err)
	}
	n.spread(key.Hash(n.id), n.id)
	return nil
}

// spread marks an item to be told to all links but the one it came from. The
// caller holds n.mu.
func (n *Node) spread(id key.Hash, from key.NodeID) {
	n.fresh[id] = from
	nudge(n.gossipWake)
}

// met merges what a HELLO told.
func (n *Node) met(l *link, theirs *hello, rec *roster.Record, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.roster.Saw(rec.Chain)
	if n.roster.Put(rec, now) == nil {
		n.accepted(rec, l.peer, now)
	}
	c := n.peers[l.peer]
	if c == nil {
		// A peer whose record is not acceptable now, by this node's clock.
		c = &contact{id: l.peer, addrs: rec.Body.Addrs}
		n.peers[l.peer] = c
	}
	c.sealing = theirs.Sealing
	if l.inbound {
		n.cameFrom(c, l.addr)
	}
	l.account = n.account(c)
}

// merge takes one item into the roster, and spreads it when it is news. The
// caller holds n.mu.
func (n *Node) merge(it roster.Item, from key.NodeID, now time.Time) error {
	if it.Object.Type == key.TypeRevocation {
		return n.mergeRevocation(it, from)
	}
	rec, err := n.roster.Accept(it.Object, now)
	if err != nil {
		return err
	}
	n.accepted(rec, from, now)
	return nil
}

// accepted acts on a record that the roster took. The caller holds n.mu.
func (n *Node) accepted(rec *roster.Record, from key.NodeID, now time.Time) {
	id := rec.ID()
	if id == n.id {
		if rec.Body.Seq > n.seq { // somebody kept what this node forgot
			n.surpassed(rec, now)
			nudge(n.choreWake)
		}
		return
	}
	n.learned(rec, now)
	if l := n.link(id); l != nil {
		l.certExp.Store(rec.Chain.Expires().Unix())
	}
	n.noteRecord(id)
	n.spread(key.Hash(id), from)
}

func (n *Node) mergeRevocation(it roster.Item, from key.NodeID) error {
	if err := n.roster.Revoke(it); err != nil {
		return err
	}
	id := roster.Revoker(it.Object.Key)
	n.noteRevocation(id)
	n.spread(id, from)
	for _, l := range n.linked() {
		if n.roster.RevokedNode(l.peer) {
			l.close(errRevoked)
		}
	}
	if chain, err := roster.VerifyChain(n.cfg.Network, n.member, n.issuer); err == nil && n.roster.Revoked(n.id, chain) && !n.revoked {
		n.revoked = true
		n.log.Error("this node was revoked: no other node talks to it any more")
	}
	return nil
}

// up is called when a link became the one to its peer. The dialling side
// compares rosters at once.
func (n *Node) up(l *link) {
	n.count("links up")
	n.log.Debug("link up", "node", l.peer.Short(), "addr", l.addr, "inbound", l.inbound)
	n.wg.Go(func() {
		l.ping(time.Now()) // tells the round trip time
		if !l.inbound {
			n.exchange(l)
		}
		nudge(n.choreWake) // it may be an issuer to renew with
	})
}

// settled releases the calls that wait for a link to the peer. When the peer
// had been out of reach, or nobody else was linked, the network has changed:
// the others that failed are worth another try soon.
func (n *Node) settled(peer key.NodeID) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	back := len(n.linked()) == 1
	if c := n.peers[peer]; c != nil {
		back = back || c.fails > 1
		c.fails, c.lastErr, c.failed = 0, nil, time.Time{}
		c.release(nil)
	}
	if !back {
		return
	}
	for _, c := range n.peers {
		if soon := now.Add(rand.N(2 * time.Second)); c.fails > 1 && soon.Before(c.next) {
			c.next = soon
		}
	}
	nudge(n.dialWake)
}

// down is called when the link to a peer ended.
func (n *Node) down(l *link) {
	cause := context.Cause(l.ctx)
	n.count("links down")
	n.log.Debug("link down", "node", l.peer.Short(), "cause", cause)
	now := time.Now()
	n.mu.Lock()
	if c := n.peers[l.peer]; c != nil {
		c.seen = time.Unix(0, l.received.Load())
		c.next = now.Add(n.firstWait(l.peer) + rand.N(100*time.Millisecond))
		if now.Sub(l.since) < flapTime {
			c.next = now.Add(backoff(2 + c.flaps))
			c.flaps++
		} else {
			c.flaps = 0
		}
	}
	for _, c := range n.boot {
		if c.id == l.peer {
			c.next = now.Add(n.firstWait(l.peer) + backoff(1))
		}
	}
	n.mu.Unlock()
	nudge(n.dialWake)
}

// gossip tells news, and compares the roster with a random neighbour's every
// 30 s.
func (n *Node) gossip() error {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return nil
		case <-n.gossipWake:
			if !n.pause(gatherTime) {
				return nil
			}
			n.tellNews()
			if !n.pause(gatherPause) {
				return nil
			}
		case <-ticker.C:
			if all := n.linked(); len(all) > 0 {
				l := all[rand.IntN(len(all))]
				n.wg.Go(func() { n.exchange(l) })
			}
		}
	}
}

// pause waits, unless the node is stopped.
func (n *Node) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-n.ctx.Done():
		return false
	}
}

// tellNews pushes what is fresh on three links and names it on the rest.
func (n *Node) tellNews() {
	n.mu.Lock()
	fresh := n.fresh
	n.fresh = map[key.Hash]key.NodeID{}
	items := make(map[key.Hash]roster.Item, len(fresh))
	for id := range fresh {
		if it, ok := n.roster.Item(id); ok {
			items[id] = it
		}
	}
	n.mu.Unlock()
	links := n.linked()
	rand.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
	for i, l := range links {
		var a announce
		var h have
		for id, it := range items {
			if fresh[id] == l.peer || id == key.Hash(l.peer) {
				continue
			}
			if i < pushLinks {
				a.Items = append(a.Items, it)
			} else {
				h.Haves = append(h.Haves, roster.Have{ID: id, Seq: seqOf(it)})
			}
		}
		n.announce(l, a.Items)
		if len(h.Haves) > 0 {
			l.push(l.ctx, verbHave, key.Marshal(&h), false)
		}
	}
}

// seqOf reads the seq of an item out of the node's own roster.
func seqOf(it roster.Item) uint64 {
	if it.Object.Type == key.TypeRevocation {
		var r roster.Revocation
		if key.Unmarshal(it.Object.Body, &r) == nil {
			return r.Seq
		}
		return 0
	}
	var r roster.NodeRecord
	if key.Unmarshal(it.Object.Body, &r) == nil {
		return r.Seq
	}
	return 0
}

// announce pushes items, at most maxItems a frame.
func (n *Node) announce(l *link, items []roster.Item) {
	for len(items) > 0 {
		k := min(len(items), maxItems)
		if l.push(l.ctx, verbAnnounce, key.Marshal(&announce{Items: items[:k]}), false) != nil {
			n.count("announcements dropped")
			return
		}
		items = items[k:]
	}
}

// take merges items that a peer sent. All but one of each id in asked, which it
// uses up, are counted against its rate. A peer that sends what cannot be valid is cut off.
func (n *Node) take(l *link, items []roster.Item, asked []key.Hash) error {
	if len(items) > maxItems {
		return errors.New("too many items")
	}
	now := time.Now()
	for _, it := range items {
		n.mu.Lock()
		var err error
		i := slices.Index(asked, itemID(it))
		if i < 0 && !n.mayTell(l.account, now) {
			err = ErrBusy
		} else {
			err = n.merge(it, l.peer, now)
		}
		if i >= 0 {
			asked[i] = key.Hash{}
		}
		n.mu.Unlock()
		switch {
		case err == nil, errors.Is(err, roster.ErrOld):
		case errors.Is(err, ErrBusy):
			n.count("records over the rate")
			return nil
		case errors.Is(err, roster.ErrChain), errors.Is(err, roster.ErrInvalid), errors.Is(err, key.ErrEncoding), errors.Is(err, key.ErrType):
			n.count("forged records")
			n.tell("a peer sent a record that is not valid", "node", l.peer.Short(), "cause", err)
			return err
		default:
			n.count("records refused")
		}
	}
	return nil
}

// itemID is the id that an item has in a roster.
func itemID(it roster.Item) key.Hash {
	if it.Object.Type == key.TypeRevocation {
		return roster.Revoker(it.Object.Key)
	}
	return key.Hash(key.NodePublic(it.Object.Key).ID())
}

func (n *Node) tookAnnounce(l *link, body []byte) error {
	var a announce
	if err := key.Unmarshal(body, &a); err != nil {
		return err
	}
	return n.take(l, a.Items, nil)
}

func (n *Node) answerFetch(body []byte) ([]byte, error) {
	var f fetch
	if err := key.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	if len(f.IDs) > maxFetch {
		return nil, errors.New("too many items")
	}
	var a announce
	n.mu.Lock()
	for _, id := range f.IDs {
		if it, ok := n.roster.Item(id); ok {
			a.Items = append(a.Items, it)
		}
	}
	n.mu.Unlock()
	return key.Marshal(&a), nil
}

// exchange compares rosters with a peer and brings both up to date.
func (n *Node) exchange(l *link) {
	ctx, cancel := context.WithTimeout(l.ctx, exchangeTime)
	defer cancel()
	n.mu.Lock()
	sums := n.roster.Digest()
	n.mu.Unlock()
	body, err := l.call(ctx, verbDigest, key.Marshal(&digest{Sums: sums[:]}))
	if err != nil {
		return
	}
	var r digestReply
	if err := key.Unmarshal(body, &r); err != nil || len(r.Buckets) > roster.Buckets || len(r.Haves) > maxHaves {
		n.count("exchanges refused")
		return
	}
	n.wish(l, r.Haves)
	n.announce(l, n.missing(r))
}

// missing returns what the far side lacks in the buckets that differ.
func (n *Node) missing(r digestReply) []roster.Item {
	theirs := make(map[key.Hash]uint64, len(r.Haves))
	for _, h := range r.Haves {
		theirs[h.ID] = h.Seq
	}
	var items []roster.Item
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.roster.Haves(r.Buckets) {
		if h.Seq > theirs[h.ID] {
			if it, ok := n.roster.Item(h.ID); ok {
				items = append(items, it)
			}
		}
	}
	return items
}

func (n *Node) answerDigest(body []byte) ([]byte, error) {
	var d digest
	if err := key.Unmarshal(body, &d); err != nil {
		return nil, err
	}
	if len(d.Sums) != len(roster.Digest{}) {
		return nil, errors.New("a digest of the wrong size")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	mine := n.roster.Digest()
	buckets := mine.Differ((*roster.Digest)(d.Sums))
	return key.Marshal(&digestReply{Buckets: buckets, Haves: n.roster.Haves(buckets)}), nil
}
