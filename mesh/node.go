package mesh

import (
	"context"

	"keymesh/crypto/key"
)

// Node is one member of a network. Safe for concurrent use.
type Node struct {
	cfg Config
}

// New checks the configuration. It does no I/O and starts nothing.
func New(cfg Config) (*Node, error) { return &Node{cfg: cfg}, nil }

// Run links the node to its network until ctx ends, closes the listener, and
// returns after its last goroutine has ended. It may be called once.
func (n *Node) Run(ctx context.Context, h Handler) error { <-ctx.Done(); return ctx.Err() }

// Call asks a node and waits for its answer.
func (n *Node) Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error) {
	return nil, ErrNoLink
}

// Push sends without waiting for an answer.
func (n *Node) Push(ctx context.Context, to key.NodeID, verb uint64, body []byte) error {
	return ErrNoLink
}

// Broadcast pushes to every linked peer.
func (n *Node) Broadcast(ctx context.Context, verb uint64, body []byte) {}

// ID returns the node's id.
func (n *Node) ID() key.NodeID { return n.cfg.Key.ID() }

// Members returns the roster without the node itself, sorted by id.
func (n *Node) Members() []Member { return nil }

// Self returns the node as its peers see it.
func (n *Node) Self() Member { return Member{} }

// Status returns a snapshot.
func (n *Node) Status() Status { return Status{} }

// Revoke takes membership away from nodes for ever and spreads it; the node
// needs an Issuer.
func (n *Node) Revoke(ctx context.Context, nodes ...key.NodeID) error { return ErrRefused }
