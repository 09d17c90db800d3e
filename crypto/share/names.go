package share

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"

	"keymesh/crypto/key"
)

// SuiteShamir is suite 1 of protocol.md section 3: Shamir over GF(2^8) of a
// 32-byte data key in symmetric bivariate rows, XChaCha20-Poly1305 payload.
const SuiteShamir = 1

// DataKeySize is the length of the data key DK and of each vector of a row.
const DataKeySize = 32

// Limits of protocol.md section 1 and 2.
const (
	MaxSeats   = 32
	MinK       = 2
	MaxStandby = 8
	MaxForce   = 8
	MaxLabel   = 1<<10 + 64 // sealed label, bytes
	MaxPolicy  = 8 << 10    // policy, bytes
	MaxKeep    = 16
	// MaxReceipts is how many a certificate can need: one of each seat of the
	// manifest, of prev and of those that force names.
	MaxReceipts = (2 + MaxForce) * MaxSeats
)

// Encoded sizes, in bytes, above which an object is not looked at. With all
// fields at their limits they are not reached but by extensions.
const (
	MaxManifest  = 32 << 10
	MaxCert      = 128 << 10
	MaxTombstone = 1 << 10
	MaxApproval  = 1 << 10
)

// IndexKey is HKDF(owner seed, "keymesh/v1/index" || network id): it finds a
// person's secrets by name and opens their labels. The caller zeroes it.
func IndexKey(owner key.PersonPrivate, net key.NetworkID) [32]byte {
	seed := owner.Seed()
	defer clear(seed)
	out, err := hkdf.Key(sha256.New, seed, nil, "keymesh/v1/index"+string(net[:]), 32)
	if err != nil {
		panic("share: " + err.Error()) // only for lengths above 255 hashes
	}
	return [32]byte(out)
}

// Tag is HMAC-SHA256(index key, name).
func Tag(index *[32]byte, name string) [32]byte {
	m := hmac.New(sha256.New, index[:])
	m.Write([]byte(name))
	return [32]byte(m.Sum(nil))
}

// Salt is T("keymesh/v1/salt", tag, name): shown to holders, who learn neither
// tag nor name from it.
func Salt(tag [32]byte, name string) key.Hash {
	return key.T("keymesh/v1/salt", tag[:], []byte(name))
}

// ID is T("keymesh/v1/id", owner, salt).
func ID(owner key.PersonPublic, salt key.Hash) key.Hash {
	return key.T("keymesh/v1/id", owner[:], salt[:])
}

// Context is ctx = T("keymesh/v1/ctx", id, gen, suite), bound into the data
// key's derivation, the payload and every row commitment.
func Context(id key.Hash, gen, suite uint64) key.Hash {
	return key.T("keymesh/v1/ctx", id[:], key.U64(gen), key.U64(suite))
}

// RowCommitment is c = T("keymesh/v1/row", ctx, x, k, row) over the encoded row
// (k vectors of 32 bytes, concatenated).
func RowCommitment(ctx key.Hash, x, k uint8, row []byte) key.Hash {
	return key.T("keymesh/v1/row", ctx[:], key.U64(uint64(x)), key.U64(uint64(k)), row)
}

// DefaultW is w = n - floor((n-k)/2), never below n-k+1: how many disks a write
// must be on before anyone is told that it is stored.
func DefaultW(n, k int) int { return max(n-(n-k)/2, MinW(n, k)) }

// MinW is the least w a manifest may have: max(k, n-k+1).
func MinW(n, k int) int { return max(k, n-k+1) }

// DefaultShape is the default n and k for a number of eligible holders: 3-of-5
// from five on, 2-of-3 with three or four; ok is false below three.
func DefaultShape(holders int) (n, k int, ok bool) {
	switch {
	case holders >= 5:
		return 5, 3, true
	case holders >= 3:
		return 3, 2, true
	}
	return 0, 0, false
}
