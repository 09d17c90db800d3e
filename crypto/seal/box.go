package seal

import (
	"crypto/cipher"
	"crypto/rand"

	"golang.org/x/crypto/chacha20poly1305"
)

const nonceSize = chacha20poly1305.NonceSizeX

// BoxOverhead is how much longer a [Box] is than its plaintext.
const BoxOverhead = 1 + nonceSize + tagSize

func aead(k []byte) cipher.AEAD {
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		panic("seal: " + err.Error()) // the length is fixed by our types
	}
	return a
}

// random appends n random bytes to b.
func random(b []byte, n int) []byte {
	out := append(b, make([]byte, n)...)
	if _, err := rand.Read(out[len(b):]); err != nil {
		panic("seal: " + err.Error()) // crypto/rand never fails on Linux
	}
	return out
}

// Box seals a record at rest under k with a random nonce; aad says what the
// record is (bucket, id, gen, epoch, x) and is needed to open it. The box is
// [BoxOverhead] bytes longer than plaintext and aliases nothing.
func Box(k *[32]byte, aad, plaintext []byte) []byte {
	box := make([]byte, 1, BoxOverhead+len(plaintext))
	box[0] = Suite
	box = random(box, nonceSize)
	return aead(k[:]).Seal(box, box[1:], plaintext, aad)
}

// Unbox opens what [Box] sealed with the same key and aad. The result aliases
// nothing. Errors are [ErrSuite] and [ErrOpen].
func Unbox(k *[32]byte, aad, box []byte) ([]byte, error) {
	if err := checkSuite(box); err != nil {
		return nil, err
	}
	if len(box) < BoxOverhead {
		return nil, ErrOpen
	}
	plain, err := aead(k[:]).Open(nil, box[1:1+nonceSize], box[1+nonceSize:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// MaxLabel is the largest plaintext of a label, in bytes.
const MaxLabel = 1024 - 1

// MaxSealedLabel is the largest sealed label, in bytes.
const MaxSealedLabel = 1024 + BoxOverhead

func labelSizes() []int { return []int{256, 512, 768, 1024} }

// SealLabel seals a label (name, labels, description) under the index key with
// a random nonce; aad is id || gen. The plaintext, at most [MaxLabel] bytes
// ([ErrSize] else), is padded to a multiple of 256 B.
func SealLabel(indexKey *[32]byte, aad, plaintext []byte) ([]byte, error) {
	padded, err := Pad(plaintext, labelSizes())
	if err != nil {
		return nil, err
	}
	defer clear(padded)
	return Box(indexKey, aad, padded), nil
}

// OpenLabel opens what [SealLabel] sealed with the same key and aad. Errors are
// [ErrSuite], [ErrOpen] and [ErrPadding].
func OpenLabel(indexKey *[32]byte, aad, box []byte) ([]byte, error) {
	if len(box) > MaxSealedLabel {
		return nil, ErrOpen
	}
	padded, err := Unbox(indexKey, aad, box)
	if err != nil {
		return nil, err
	}
	plain, err := Unpad(padded, labelSizes())
	if err != nil {
		clear(padded)
		return nil, err
	}
	return plain, nil
}
