package custody

import "keymesh/crypto/key"

// Repair asks a seat for what its row has in common with the row of seat X,
// which the asking node holds and whose row it has not. Payload asks for the
// ciphertext instead.
type Repair struct {
	key.Head
	ID       key.Hash `cbor:"1,keyasint"`
	Manifest key.Hash `cbor:"2,keyasint"`
	Epoch    uint32   `cbor:"3,keyasint"`
	X        uint8    `cbor:"4,keyasint"`
	Payload  bool     `cbor:"5,keyasint"`
}

// RepairReply: OK with Value or Payload; Refused, without Why to those whom the
// seat is none of the business of; Moved with the Reassigns when the seat was
// given to another node; Wait with Seconds while the owner may still veto the
// Reassign; Failed.
type RepairReply struct {
	key.Head
	Outcome   uint8    `cbor:"1,keyasint"`
	Value     []byte   `cbor:"2,keyasint"` // F(x of the seat asked, X): 32 bytes
	Payload   []byte   `cbor:"3,keyasint"`
	Why       string   `cbor:"4,keyasint"`
	Seconds   uint64   `cbor:"5,keyasint"`
	Reassigns [][]byte `cbor:"6,keyasint,omitempty"`
	// Epoch is that of the row here, with Refused, when another was asked for.
	Epoch []byte `cbor:"7,keyasint,omitempty"`
}
