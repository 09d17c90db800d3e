package custody

import "keymesh/crypto/key"

// MaxRefused is how many Refused go along with a SETTLE: one for each seat of
// two manifests.
const MaxRefused = 64

// MaxPromised is how many Prepared go along with a SETTLE: one of a member is
// enough, and not all know the same members.
const MaxPromised = 4

// Settle asks a seat of a manifest without a certificate, or of what is before
// it, what it has promised (protocol.md section 6, W5). A seat that has promised
// nothing says none, and from then on takes the manifest only by repair.
type Settle struct {
	key.Head
	Manifest []byte `cbor:"1,keyasint"`
	// Before are the manifests of prev and of what force names, as far as the
	// sender has them. At most 1 + [share.MaxForce].
	Before [][]byte `cbor:"2,keyasint"`
	// Refused are what the sender has, so that each seat verifies by itself that
	// the manifest is dead. At most MaxRefused.
	Refused [][]byte `cbor:"3,keyasint"`
	// Help asks for F(xi, x), x being the sender's own seat.
	Help bool `cbor:"4,keyasint,omitempty"`
	// Payload asks for the ciphertext, with Help.
	Payload bool `cbor:"5,keyasint,omitempty"`
	// Promised are Prepared of seats, the sender's own among them: a node that
	// has nothing of the secret answers only when it sees one of a member. At
	// most MaxPromised.
	Promised [][]byte `cbor:"6,keyasint,omitempty"`
}

// Words of a seat on a manifest.
const (
	WordNone     = 1 // no Prepared was ever signed, and the row is taken by repair only
	WordPrepared = 2 // Receipt is the Prepared
	WordRefused  = 3 // Receipt is the Refused: no Prepared, and never will be
	WordDead     = 4 // promised once, and proven dead since
)

// SettleReply: OK with Word; Conflict when something as high, or a tombstone, is
// there: then There; Refused; Failed.
type SettleReply struct {
	key.Head
	Outcome uint8    `cbor:"1,keyasint"`
	Word    uint8    `cbor:"2,keyasint"`
	Receipt []byte   `cbor:"3,keyasint"`
	Refused [][]byte `cbor:"4,keyasint"` // those of others that are known here
	Before  [][]byte `cbor:"5,keyasint"` // as in Settle
	// There is what has the highest certificate, without pendings and history:
	// who repairs its row may lack it.
	There State `cbor:"6,keyasint"`
	// Help is F(xi, x) for the sender's seat, 32 bytes, from a seat with a row.
	Help    []byte `cbor:"7,keyasint,omitempty"`
	Payload []byte `cbor:"8,keyasint,omitempty"`
	Why     string `cbor:"9,keyasint"`
}
