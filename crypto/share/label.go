package share

import "keymesh/crypto/key"

// Label is what the owner alone can read of a manifest: protocol.md section 2,
// "sealed label". Its encoding is sealed under the index key with aad
// [LabelAAD].
type Label struct {
	key.Head
	Name        string      `cbor:"1,keyasint"`
	Labels      [][2]string `cbor:"2,keyasint"` // sorted by key, keys distinct
	Description string      `cbor:"3,keyasint"`
	// Size is the secret's length in bytes, which the padded ciphertext hides.
	Size uint64 `cbor:"4,keyasint"`
}

// LabelAAD is id || gen.
func LabelAAD(id key.Hash, gen uint64) []byte { return append(id[:], key.U64(gen)...) }
