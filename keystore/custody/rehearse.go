package custody

import "keymesh/crypto/key"

// Proof is a seat's answer to a Request of verb rehearse: sealed to the
// request's key in [RecoverReply].Box, without a Release and without the row.
type Proof struct {
	key.Head
	// Pairs are the seat's tags with every other seat of the manifest, ascending
	// by x. The other seat makes the same tag from its own row.
	Pairs []PairTag `cbor:"1,keyasint"`
	// Payload is T("keymesh/v1/rehearse/payload", H(request), ciphertext); zero:
	// the ciphertext is not here.
	Payload key.Hash `cbor:"2,keyasint"`
	// Epoch is that of the row, which the tags are bound to.
	Epoch uint32 `cbor:"3,keyasint,omitempty"`
}

// PairTag proves what two seats share: a keyed hash under F(x, x').
type PairTag struct {
	_   struct{} `cbor:",toarray"`
	X   uint8    // the other seat
	Tag key.Hash
}
