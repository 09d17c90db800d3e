package custody

import "keymesh/crypto/key"

// Bounds of what goes along with a request.
const (
	MaxNames     = 32      // name boxes
	MaxNameBox   = 2 << 10 // bytes of one
	MaxApprovals = 64      // one for each node that a policy can have
)

// NameBox is the secret's (tag, name), sealed to one node: a [Name] under
// seal.PurposeName with H(request), for the node's sealing key.
type NameBox struct {
	_    struct{} `cbor:",toarray"`
	Node key.NodeID
	Box  []byte
}

// Name is what a NameBox holds. Who gets it checks it against the manifest:
// salt = T("keymesh/v1/salt", tag, name).
type Name struct {
	key.Head
	Tag  key.Hash `cbor:"1,keyasint"`
	Name string   `cbor:"2,keyasint"`
}

// How a request ended.
const (
	Open      = 0
	Vetoed    = 1 // by a veto key of the policy
	Withdrawn = 2 // by the one who asked
)

// Progress is how a request stands at one holder. Shown to parties only.
type Progress struct {
	_ struct{} `cbor:",toarray"`
	// Kept says that the holder keeps the request: approvals are counted and
	// delays run.
	Kept bool
	// Have counts the signatures here that help, the requester's too; Need is
	// Have and the fewest more that would do. A delay is no signature.
	Have, Need uint16
	// Missing are the clauses that are not satisfied, in words. At most 64.
	Missing []string
	// Wait is how many seconds of running time are left when only a delay is
	// missing. 0: other clauses are.
	Wait uint64
	// Words are the approvals, denials and vetoes here, signed.
	Words [][]byte
	// Closed is Open, Vetoed or Withdrawn.
	Closed uint8
	// Left is how many seconds from now on the holder keeps the request; of
	// running time where a delay is in the policy.
	Left uint64
}

// Approve carries one party's word on a request to a seat: an approval, a
// denial, a veto, or the requester's own withdrawal (verdict veto).
type Approve struct {
	key.Head
	// Request is the object that the word is on: a seat that has not seen it
	// keeps it, if its signer is a party.
	Request  []byte `cbor:"1,keyasint"`
	Approval []byte `cbor:"2,keyasint"`
}

// ApproveReply: OK, with Progress, once the word is on disk, also when it was
// there before; Denied to those who are no party, as for an unknown id; Refused;
// Failed.
type ApproveReply struct {
	key.Head
	Outcome  uint8     `cbor:"1,keyasint"`
	Why      string    `cbor:"2,keyasint"`
	Progress *Progress `cbor:"3,keyasint,omitempty"`
}

// Stages of a request that are told.
const (
	StageAsked    = 1
	StageHalf     = 2 // half of a delay is over
	StageReleased = 3 // this holder gave its row
	StageClosed   = 4 // vetoed or withdrawn
)

// Notify tells a node of the owner or of an approver about a request. Nothing
// of it but the signed objects is proven.
type Notify struct {
	key.Head
	Request  []byte   `cbor:"1,keyasint"`
	Words    [][]byte `cbor:"2,keyasint"` // approvals, denials, vetoes
	Manifest []byte   `cbor:"3,keyasint"` // whose policy is in force at the holder
	Name     []byte   `cbor:"4,keyasint"` // the box for this node; empty: there is none
	Stage    uint8    `cbor:"5,keyasint"`
	Wait     uint64   `cbor:"6,keyasint"` // seconds until a delay is over; 0: none runs
}

// NotifyReply: OK once it is kept or shown; Refused when it is of no concern to
// anyone here; anything else is told again.
type NotifyReply struct {
	key.Head
	Outcome uint8 `cbor:"1,keyasint"`
}

// Head shows a peer the signed head of the sender's audit log, and the newest
// one of the peer's that the sender keeps: a log that was cut contradicts it.
type Head struct {
	key.Head
	Own   []byte `cbor:"1,keyasint"` // AuditHead
	Yours []byte `cbor:"2,keyasint"` // AuditHead; empty: none is kept
	// Earlier are those of the peer before Yours, at most [MaxHeads].
	Earlier [][]byte `cbor:"3,keyasint,omitempty"`
}

// MaxHeads bounds the heads of one log in a message.
const MaxHeads = 16

// HeadReply: OK with the same of the answering node; Refused when it keeps no
// audit log or a head is no good, with the same as far as there is any.
type HeadReply struct {
	key.Head
	Outcome uint8  `cbor:"1,keyasint"`
	Own     []byte `cbor:"2,keyasint"`
	Yours   []byte `cbor:"3,keyasint"`
	// Earlier as in [Head].
	Earlier [][]byte `cbor:"4,keyasint,omitempty"`
}
