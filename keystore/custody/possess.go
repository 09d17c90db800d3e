package custody

import "keymesh/crypto/key"

// MaxAudit is how many seats one Audit asks about at most.
const MaxAudit = 512

// Audit asks a node to show that it has the rows of its seats: by what only two
// seats' rows, or k others, give (protocol.md section 8).
type Audit struct {
	key.Head
	Nonce [32]byte    `cbor:"1,keyasint"`
	Items []AuditItem `cbor:"2,keyasint"` // 1 to MaxAudit
}

// AuditItem is one pair of seats.
type AuditItem struct {
	_        struct{} `cbor:",toarray"`
	ID       key.Hash
	Manifest key.Hash
	Epoch    uint32
	Prover   uint8 // x of the node asked
	Verifier uint8 // x of the node that asks
}

// AuditReply: OK with a tag for each item, in order; Wait when too many audits
// are under way; Refused.
type AuditReply struct {
	key.Head
	Outcome uint8      `cbor:"1,keyasint"`
	Tags    []AuditTag `cbor:"2,keyasint"`
}

// AuditTag answers one item.
type AuditTag struct {
	_     struct{} `cbor:",toarray"`
	State uint8    // one of the Audit states
	Tag   key.Hash // zero unless AuditShown
}

// States of an AuditTag.
const (
	AuditShown   = 1 // the tag is there
	AuditMissing = 2 // the node has the seat and not the row
	AuditDamaged = 3 // the row is damaged
	AuditNone    = 4 // nothing of it here, or not the asker's seat: the same for both
)
