package custody

import "keymesh/crypto/key"

// Verbs of a refresh (protocol.md section 9).
const (
	VerbDeal    uint64 = 47
	VerbBundle  uint64 = 48
	VerbEpoch   uint64 = 49
	VerbRefresh uint64 = 52
)

// Deal asks a seat how it stands and, with a Round, for a dealing of zero.
type Deal struct {
	key.Head
	ID       key.Hash `cbor:"1,keyasint"`
	Manifest key.Hash `cbor:"2,keyasint"`
	Epoch    uint32   `cbor:"3,keyasint"` // that the dealing is to lead to
	Round    uint64   `cbor:"4,keyasint"` // 0: only how it stands
}

// DealReply: OK with Standing and, when it was asked to, Dealing and Boxes;
// Refused; Failed.
type DealReply struct {
	key.Head
	Outcome  uint8     `cbor:"1,keyasint"`
	Why      string    `cbor:"2,keyasint"`
	Standing *Standing `cbor:"3,keyasint,omitempty"`
	Dealing  []byte    `cbor:"4,keyasint,omitempty"` // signed
	// Boxes are the rows, each sealed to its seat's node, in the order of the
	// manifest's seats; an empty one where no key of the node is known.
	Boxes [][]byte `cbor:"5,keyasint,omitempty"`
}

// Standing is how a seat stands in the refresh of a manifest. Nothing of it is
// believed but what is signed.
type Standing struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint32   // of its row in force
	// Round is the highest in which it acknowledged or committed what leads to
	// the epoch after that of its oldest row.
	Round uint64
	Over  bool   // no older row is here
	Proof []byte // the Epoch of the row in force, or the newest that it knows; empty for epoch 0
	// Bundle is that of Proof while an older row is here, to propose its dealings
	// again.
	Bundle []byte
}

// Bundle proposes dealings to a seat. Boxes are its rows of them, in the order of
// the dealings; none when the same dealings were proposed to it before.
type Bundle struct {
	key.Head
	ID       key.Hash `cbor:"1,keyasint"`
	Manifest key.Hash `cbor:"2,keyasint"`
	Bundle   []byte   `cbor:"3,keyasint"`
	Boxes    [][]byte `cbor:"4,keyasint"`
	// Proof is an Epoch of the same dealings in an earlier round: it lets a seat
	// go that had put others in force.
	Proof []byte `cbor:"5,keyasint,omitempty"`
}

// BundleReply: OK with the EpochAck; Conflict with Standing when it is bound to
// another round or bundle; Refused, with the dealers whose dealing is Bad for
// this seat; Full; Failed.
type BundleReply struct {
	key.Head
	Outcome  uint8     `cbor:"1,keyasint"`
	Why      string    `cbor:"2,keyasint"`
	Ack      []byte    `cbor:"3,keyasint"` // signed EpochAck
	Standing *Standing `cbor:"4,keyasint,omitempty"`
	Bad      []byte    `cbor:"5,keyasint,omitempty"` // x of each
}

// Epoch carries the proof that an epoch is on w disks to a seat, and the words of
// those that have put it in force.
type Epoch struct {
	key.Head
	ID       key.Hash `cbor:"1,keyasint"`
	Manifest key.Hash `cbor:"2,keyasint"`
	Epoch    []byte   `cbor:"3,keyasint"` // the acknowledgements
	// Bundle and Boxes are for a seat that has not the rows: those outside of
	// Epoch.
	Bundle []byte      `cbor:"4,keyasint,omitempty"`
	Boxes  []SeatBoxes `cbor:"5,keyasint,omitempty"`
	// Committed are signed Committed over H(bundle), of distinct seats.
	Committed [][]byte `cbor:"6,keyasint,omitempty"`
}

// SeatBoxes are the sealed rows of one seat, in the order of the dealings.
type SeatBoxes struct {
	_     struct{} `cbor:",toarray"`
	X     uint8
	Boxes [][]byte
}

// EpochReply: OK with Committed over H(bundle); Conflict with Standing when the
// seat is bound to a later round or has gone on; Refused when it cannot make its
// row, which NeedBundle may help; Failed.
type EpochReply struct {
	key.Head
	Outcome    uint8     `cbor:"1,keyasint"`
	Why        string    `cbor:"2,keyasint"`
	Receipt    []byte    `cbor:"3,keyasint"`
	Standing   *Standing `cbor:"4,keyasint,omitempty"`
	NeedBundle bool      `cbor:"5,keyasint,omitempty"`
}

// Refresh asks a seat to refresh the rows of its committed generation now, by a
// Query of the owner.
type Refresh struct {
	key.Head
	ID    key.Hash `cbor:"1,keyasint"`
	Query []byte   `cbor:"2,keyasint"`
}

// RefreshReply: OK with the epoch that is in force; Denied; Refused with what
// stands against it; Failed.
type RefreshReply struct {
	key.Head
	Outcome uint8    `cbor:"1,keyasint"`
	Why     string   `cbor:"2,keyasint"`
	Gen     uint64   `cbor:"3,keyasint"`
	Epoch   uint32   `cbor:"4,keyasint"`
	Seats   []byte   `cbor:"5,keyasint"` // x of those that have put it in force
	Dropped []byte   `cbor:"6,keyasint"` // x of dealers that were dropped
	Said    []string `cbor:"7,keyasint"` // why, for each
}

// Dealings are what a seat keeps of a bundle while others may need it. It is no
// call's body but a record.
type Dealings struct {
	key.Head
	Bundle []byte      `cbor:"1,keyasint"`
	Boxes  []SeatBoxes `cbor:"2,keyasint"` // of seats that have not acknowledged
}

// EpochRow is the row of an older epoch in a [RecoverReply], while a refresh is
// not over.
type EpochRow struct {
	_       struct{} `cbor:",toarray"`
	Release []byte
	Box     []byte
	Epoch   []byte // its Epoch; empty for epoch 0
}

// MaxDealers bounds lists that have an item for each dealer or seat.
const MaxDealers = 32
