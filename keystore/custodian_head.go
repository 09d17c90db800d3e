package keystore

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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
	// Witnessed returns the heads of the peer's log that are kept here, the newest
	// first, at most [custody.MaxHeads]; or nil.
	Witnessed(peer key.NodeID) [][]byte
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
		up := c.online()
		rand.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
		for _, node := range up[:min(len(up), headPeers)] {
			c.showHead(ctx, w, node)
		}
	}
}

// online are the other nodes that are linked at the moment.
func (c *custodian) online() []key.NodeID {
	var up []key.NodeID
	for node, online := range c.members.get(c.cfg.Network).online {
		if online && node != c.self {
			up = append(up, node)
		}
	}
	return up
}

// showHead reports whether the node answered. One that refuses shows why: the
// head that contradicts what it was shown.
func (c *custodian) showHead(ctx context.Context, w Witness, node key.NodeID) bool {
	own, err := w.SignedHead()
	if err != nil {
		c.log.Error("the audit log has no head to show", "err", err)
	}
	var reply custody.HeadReply
	q := &custody.Head{Own: own}
	q.Yours, q.Earlier = split(w.Witnessed(node))
	if c.call(ctx, node, custody.VerbHead, q, &reply) != nil {
		return false // asked again some minutes later
	}
	c.keepHeads(w, node, reply.Own, reply.Yours, reply.Earlier)
	return reply.Outcome == custody.OK || len(reply.Yours) > 0
}

// split are the newest of the heads and the others.
func split(heads [][]byte) (newest []byte, earlier [][]byte) {
	if len(heads) == 0 {
		return nil, nil
	}
	return heads[0], heads[1:min(len(heads), custody.MaxHeads)]
}

// headsAtOnce bounds the peers that ExchangeHeads asks side by side.
const headsAtOnce = 16

// ExchangeHeads shows the end of this node's audit log to every peer that is
// linked, and takes from each what it keeps of it. It returns how many were
// asked and how many answered; what they showed is with the [Auditor].
func (s *Store) ExchangeHeads(ctx context.Context) (asked, answered int) {
	w, ok := s.cfg.Audit.(Witness)
	if !ok {
		return 0, 0
	}
	var n atomic.Int64
	var all sync.WaitGroup
	slots := make(chan struct{}, headsAtOnce)
	up := s.cust.online()
	for _, node := range up {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if s.cust.showHead(ctx, w, node) {
				n.Add(1)
			}
		})
	}
	all.Wait()
	return len(up), int(n.Load())
}

// keepHeads reports whether all heads were kept or known. Those of this node's
// log come first: what a peer has to show is not lost by what it says of itself.
func (c *custodian) keepHeads(w Witness, peer key.NodeID, own, yours []byte, earlier [][]byte) bool {
	ok := true
	for _, h := range append(append([][]byte{yours}, earlier[:min(len(earlier), custody.MaxHeads)]...), own) {
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
	if !ok {
		return &custody.HeadReply{Outcome: custody.Refused}, nil
	}
	reply := &custody.HeadReply{Outcome: custody.OK}
	if !c.keepHeads(w, from, q.Own, q.Yours, q.Earlier) {
		reply.Outcome = custody.Refused
	}
	// Also to one that is refused: its operator learns from its own signature
	// that its log was cut or rewritten.
	reply.Yours, reply.Earlier = split(w.Witnessed(from))
	var err error
	if reply.Own, err = w.SignedHead(); err != nil {
		reply.Outcome = custody.Failed
	}
	return reply, nil
}
