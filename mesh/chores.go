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
	choreEvery  = time.Minute
	renewBefore = 30 * 24 * time.Hour
	renewPause  = time.Hour   // between attempts while the certificate holds
	renewHurry  = time.Minute // and once it has expired
)

// chores does what is due now and then: the own record, the certificate, the
// rotation of random neighbours, forgetting.
func (n *Node) chores() error {
	timer := time.NewTimer(choreEvery)
	defer timer.Stop()
	var renewed, rotated time.Time
	rotated = time.Now()
	for {
		select {
		case <-n.ctx.Done():
			return nil
		case <-n.choreWake:
		case <-timer.C:
		}
		now := time.Now()
		if pause := n.renewDue(now); pause > 0 && now.Sub(renewed) >= pause && n.renew(now) {
			renewed = now
		}
		if err := n.refreshRecord(now); err != nil {
			return err
		}
		n.mu.Lock()
		n.trim(now)
		n.catchUp(now)
		n.mu.Unlock()
		if now.Sub(rotated) >= rotateEvery {
			rotated = now
			n.forget(now)
		}
		timer.Reset(n.nextChore(time.Now()))
	}
}

func (n *Node) nextChore(now time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.self.Body.Seq < n.seq {
		return n.pauseBetween(now)
	}
	return choreEvery + rand.N(choreEvery/10)
}

// refreshRecord signs a new record in time, or when a higher seq of this
// node's was seen.
func (n *Node) refreshRecord(now time.Time) error {
	n.mu.Lock()
	due := n.self.Body.Seq < n.seq || now.Sub(n.issued) >= recordRenew || now.Before(n.issued)
	if now.Before(n.issued) {
		n.issued = now.Add(-recordPause) // the clock was set back
	}
	n.mu.Unlock()
	if !due {
		return nil
	}
	if err := n.republish(now, false); err != nil {
		n.log.Error("the own record could not be renewed", "cause", err)
	}
	return nil
}

// forget drops what is out of date, and one random neighbour.
func (n *Node) forget(now time.Time) {
	n.mu.Lock()
	for _, id := range n.roster.Prune(now) {
		delete(n.peers, id)
		n.note(Note{Kind: NoteRecord, ID: key.Hash(id)})
	}
	n.settleAccounts(now)
	for a, s := range n.strange {
		if now.Sub(s.last) > 2*strangeWait {
			delete(n.strange, a)
		}
	}
	for host, b := range n.badJoins {
		if now.Sub(b.last) > time.Minute {
			delete(n.badJoins, host)
		}
	}
	l := n.rotate(now)
	n.mu.Unlock()
	if l != nil && now.UnixNano()-l.used.Load() > int64(time.Minute) {
		l.close(errors.New("another neighbour was chosen"))
	}
	nudge(n.dialWake)
}

// renewDue returns how long to wait between attempts to renew, 0 when the
// certificate is good for long enough.
func (n *Node) renewDue(now time.Time) time.Duration {
	exp := time.Unix(n.certExp.Load(), 0)
	switch {
	case !now.Before(exp):
		return renewHurry
	case exp.Sub(now) < renewBefore:
		return renewPause
	}
	return 0
}

// renew asks the issuers that are linked, in random order, for a certificate
// for the same key. It reports whether anybody was asked.
func (n *Node) renew(now time.Time) bool {
	if n.cfg.Issuing != nil {
		chain, err := n.ownChain()
		if err != nil {
			return true
		}
		cert, err := n.cfg.Issuing.renew(chain.Member, now)
		n.renewedBy(n.id, cert, n.cfg.Issuing.cfg.Cert, err)
		return true
	}
	links := slices.DeleteFunc(n.linked(), func(l *link) bool {
		rec := n.record(l.peer)
		return rec == nil || !rec.IsIssuer()
	})
	rand.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
	for _, l := range links {
		ctx, cancel := context.WithTimeout(l.ctx, exchangeTime)
		body, err := l.call(ctx, verbRenew, key.Marshal(&empty{}))
		cancel()
		var r renewed
		if err == nil {
			err = key.Unmarshal(body, &r)
		}
		if n.renewedBy(l.peer, r.Member, r.Issuer, err) {
			break
		}
	}
	return len(links) > 0
}

func (n *Node) ownChain() (roster.Chain, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return roster.VerifyChain(n.cfg.Network, n.member, n.issuer)
}

// renewedBy takes a new certificate into use once it is durable.
func (n *Node) renewedBy(who key.NodeID, member, issuer key.Object, err error) bool {
	var chain roster.Chain
	if err == nil {
		chain, err = roster.VerifyChain(n.cfg.Network, member, issuer)
	}
	n.mu.Lock()
	if err == nil && (chain.Member.Node != n.id || chain.Expires().Unix() <= n.certExp.Load()) {
		err = errors.New("it is no longer good than the old one, or another node's")
	}
	if err == nil {
		n.adopt(member, issuer, chain)
		err = n.saveSelf()
		n.issued = time.Time{} // a new record at once
	}
	n.mu.Unlock()
	if err != nil {
		n.count("renewals failed")
		n.log.Warn("the certificate was not renewed", "issuer", who.Short(), "cause", err)
		return false
	}
	n.count("renewals")
	n.log.Info("the certificate was renewed", "issuer", who.Short(), "until", chain.Expires())
	return true
}

// answerRenew gives a member a new certificate with the words of its current
// one, unless it or its issuer was revoked. A certificate that expired long
// ago is renewed as well: the key proves who asks.
func (n *Node) answerRenew(_ context.Context, l *link, _ []byte) ([]byte, error) {
	if n.cfg.Issuing == nil {
		return nil, fmt.Errorf("%w: no issuer", ErrRefused)
	}
	now := time.Now()
	n.mu.Lock()
	chain := l.chain
	if rec := n.roster.Get(l.peer); rec != nil {
		chain = rec.Chain
	}
	revoked := n.roster.Revoked(l.peer, chain)
	n.mu.Unlock()
	if revoked {
		return nil, fmt.Errorf("%w: %w", ErrRefused, errRevoked)
	}
	if chain.Expires().Sub(now) > renewBefore {
		return nil, fmt.Errorf("%w: the certificate is good for long enough", ErrRefused)
	}
	cert, err := n.cfg.Issuing.renew(chain.Member, now)
	if err != nil {
		return nil, err
	}
	n.count("renewals served")
	return key.Marshal(&renewed{Member: cert, Issuer: n.cfg.Issuing.cfg.Cert}), nil
}

// Revoke takes membership away from nodes for ever, keeps that, and spreads
// it: nil means that it is durable here and on its way to all others. The node
// needs an [Issuer] ([ErrRefused] otherwise); at most roster.MaxRevokedNodes an
// issuer.
func (n *Node) Revoke(ctx context.Context, nodes ...key.NodeID) error {
	if n.cfg.Issuing == nil {
		return fmt.Errorf("%w: this node has no issuer's key", ErrRefused)
	}
	if err := n.started(ctx); err != nil {
		return err
	}
	signer := n.cfg.Issuing.cfg.Key
	n.mu.Lock()
	list := n.roster.Revocations(signer.Public())
	for _, id := range nodes {
		if id == n.id {
			n.mu.Unlock()
			return errors.New("a node does not revoke itself")
		}
		list.Nodes = append(list.Nodes, id)
	}
	slices.SortFunc(list.Nodes, func(a, b key.NodeID) int { return slices.Compare(a[:], b[:]) })
	list.Nodes = slices.Compact(list.Nodes)
	list.Seq++
	o, err := roster.NewRevocation(signer, n.cfg.Network, list)
	if err == nil {
		err = n.mergeRevocation(roster.Item{Object: o, Issuer: n.cfg.Issuing.cfg.Cert}, n.id)
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	if err := n.flushNotes(); err != nil {
		return fmt.Errorf("revoked, but not durably: %w", err)
	}
	return nil
}
