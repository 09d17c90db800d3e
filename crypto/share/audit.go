package share

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
)

// ErrAuditHead: the head is not the word of the node it names.
var ErrAuditHead = errors.New("invalid head of an audit log")

// AuditHead is a node's signed word on how its audit log ended (SPEC.md, "Audit
// log"). Whoever has one can tell later whether the log was cut or rewritten.
// Comparable but for extensions.
type AuditHead struct {
	key.Head
	Node key.NodeID `cbor:"1,keyasint"`
	Seq  uint64     `cbor:"2,keyasint"` // of the last entry; 0: there is none yet
	Hash key.Hash   `cbor:"3,keyasint"` // of the last entry; with seq 0 the start of the chain
	// Time is in unix seconds. A node never signs a head with a time below that
	// of a head it signed before, whatever its clock says.
	Time uint64 `cbor:"4,keyasint"`
}

// SignAuditHead signs h with the node's key. h.Node is set from the key.
func SignAuditHead(k key.NodePrivate, net key.NetworkID, h AuditHead) key.Object {
	h.Node = k.ID()
	return key.Sign(k, net, key.TypeAuditHead, key.Marshal(&h))
}

// OpenAuditHead verifies a head that arrived as bytes and that the node it
// names signed it. Errors wrap [ErrAuditHead] or those of package key.
func OpenAuditHead(net key.NetworkID, b []byte) (*AuditHead, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeAuditHead); err != nil {
		return nil, err
	}
	h := new(AuditHead)
	if err := key.Unmarshal(o.Body, h); err != nil {
		return nil, err
	}
	if key.NodePublic(o.Key).ID() != h.Node {
		return nil, fmt.Errorf("%w: signed by another node than it names", ErrAuditHead)
	}
	if h.Hash.IsZero() {
		return nil, fmt.Errorf("%w: without a hash", ErrAuditHead)
	}
	return h, nil
}

// Contradict reports whether two verified heads prove that their node cut or
// rewrote its log: the same seq with two hashes, or a lower seq at a later
// time. Heads of different nodes prove nothing.
func Contradict(a, b *AuditHead) bool {
	if a.Node != b.Node {
		return false
	}
	switch {
	case a.Seq == b.Seq:
		return a.Hash != b.Hash
	case a.Seq < b.Seq:
		return a.Time > b.Time
	default:
		return a.Time < b.Time
	}
}
