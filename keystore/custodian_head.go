package keystore

import (
	"context"
	"math/rand/v2"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// Witness is what an [Auditor] may be besides: then the signed heads of the
// nodes' logs are exchanged, so that a log that is cut or rewritten contradicts
// what its peers keep.
type Witness interface {
	// SignedHead returns how the log ends, signed: an encoded AuditHead.
	SignedHead() ([]byte, error)
	// Witnessed returns the newest head of the peer's log that is kept here, or
	// nil.
	Witnessed(peer key.NodeID) []byte
	// SaveWitness verifies and keeps a head that the peer showed, of its own log
	// or of this node's.
	SaveWitness(peer key.NodeID, head []byte) error
}

const (
	headEvery = time.Minute
	headPeers = 4 // that are shown the head in one round
)

// showHeads shows the head of this node's log to a few peers a minute, until
// ctx ends.
func (c *custodian) showHeads(ctx context.Context) {
	w, ok := c.cfg.Audit.(Witness)
	if !ok {
		return
	}
	t := time.NewTimer(rand.N(headEvery))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		t.Reset(headEvery*4/5 + rand.N(headEvery*2/5))
		var up []key.NodeID
		for node, online := range c.members.get(c.cfg.Network).online {
			if online && node != c.self {
				up = append(up, node)
			}
		}
		rand.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
		for _, node := range up[:min(len(up), headPeers)] {
			c.showHead(ctx, w, node)
		}
	}
}

func (c *custodian) showHead(ctx context.Context, w Witness, node key.NodeID) {
	own, err := w.SignedHead()
	if err != nil {
		c.log.Error("the audit log has no head to show", "err", err)
		return
	}
	var reply custody.HeadReply
	if c.call(ctx, node, custody.VerbHead, &custody.Head{Own: own, Yours: w.Witnessed(node)}, &reply) != nil || reply.Outcome != custody.OK {
		return // asked again some minutes later
	}
	c.keepHeads(w, node, reply.Own, reply.Yours)
}

// keepHeads reports whether both heads were kept or known.
func (c *custodian) keepHeads(w Witness, peer key.NodeID, heads ...[]byte) bool {
	ok := true
	for _, h := range heads {
		if len(h) == 0 {
			continue
		}
		if err := w.SaveWitness(peer, h); err != nil {
			c.log.Warn("the head of an audit log", "peer", peer.Short(), "err", err)
			ok = false
		}
	}
	return ok
}

// head serves HEAD.
func (c *custodian) head(_ context.Context, from key.NodeID, q *custody.Head) (key.Body, error) {
	w, ok := c.cfg.Audit.(Witness)
	if !ok || !c.keepHeads(w, from, q.Own, q.Yours) {
		return &custody.HeadReply{Outcome: custody.Refused}, nil
	}
	own, err := w.SignedHead()
	if err != nil {
		return &custody.HeadReply{Outcome: custody.Failed}, nil
	}
	return &custody.HeadReply{Outcome: custody.OK, Own: own, Yours: w.Witnessed(from)}, nil
}
