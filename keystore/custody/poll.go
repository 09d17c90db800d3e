package custody

import "keymesh/crypto/key"

// VerbPoll: which standby a seat would name, its signature, or the owner's veto.
const VerbPoll uint64 = 50

// Poll asks a seat which standby it would give seat X to. With New it asks for
// its signature on that, with Veto it brings the owner's veto of a Reassign.
type Poll struct {
	key.Head
	ID       key.Hash   `cbor:"1,keyasint"`
	Manifest key.Hash   `cbor:"2,keyasint"`
	X        uint8      `cbor:"3,keyasint"`
	Seq      uint64     `cbor:"4,keyasint"`
	New      key.NodeID `cbor:"5,keyasint"` // zero: a question
	Veto     []byte     `cbor:"6,keyasint,omitempty"`
}

// PollReply: OK with the node that the seat names, or with its signed Reassign;
// Refused; Failed.
type PollReply struct {
	key.Head
	Outcome uint8      `cbor:"1,keyasint"`
	Named   key.NodeID `cbor:"2,keyasint"`
	Signed  []byte     `cbor:"3,keyasint,omitempty"` // an object of type Reassign
	Why     string     `cbor:"4,keyasint"`
}
