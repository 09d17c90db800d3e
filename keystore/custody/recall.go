package custody

import "keymesh/crypto/key"

// Recall asks a seat of a secret what it has of it. A node whose disk was put
// back to an earlier state asks, and signs nothing of the secret before enough
// seats have told it (protocol.md section 8).
type Recall struct {
	key.Head
	ID key.Hash `cbor:"1,keyasint"`
}

// RecallReply: OK with State; Denied when nothing is here that the asking node
// has or had a seat in, the same as for an unknown secret: that too is a word.
// Failed.
type RecallReply struct {
	key.Head
	Outcome uint8 `cbor:"1,keyasint"`
	State   State `cbor:"2,keyasint"`
	// Never are manifests that this seat has signed Refused for, or knows to be
	// dead: the asking node may have signed so too.
	Never [][]byte `cbor:"3,keyasint,omitempty"` // each H(manifest) || u64(generation)
	// Moves is what is here of Reassigns of the version in force.
	Moves *RecallMoves `cbor:"4,keyasint,omitempty"`
}

// RecallMoves are the Reassigns of a manifest, the owner's vetoes, and which
// Reassigns by seats this seat has signed: the asking node may have as well.
type RecallMoves struct {
	_         struct{} `cbor:",toarray"`
	Manifest  key.Hash
	Reassigns [][]byte
	Vetoes    [][]byte // Approvals
	Votes     []RecallVote
}

// RecallVote is one Reassign that a seat has signed.
type RecallVote struct {
	_    struct{} `cbor:",toarray"`
	X    uint8
	Seq  uint64
	Hash key.Hash // H(reassign)
	New  key.NodeID
}

// MaxNever is how many of them there are at most.
const MaxNever = 16
