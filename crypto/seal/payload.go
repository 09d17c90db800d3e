package seal

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"

	"keymesh/crypto/key"
)

const (
	// DKSize is the length of a data key.
	DKSize = 32
	// MaxSecret is the largest secret, in bytes. The smallest has none.
	MaxSecret = 1<<20 - 1
	// MaxPayload is the largest ciphertext of a payload, in bytes.
	MaxPayload = 1<<20 + tagSize
)

// ErrReuse: a payload was already sealed under these keys. A second one would
// repeat the nonce.
var ErrReuse = errors.New("a data key seals one payload")

func payloadSizes() []int {
	return []int{256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
}

// Keys is what follows from a data key in the context of one generation: the
// payload's key and nonce, and the key check. It prints as "[redacted]". Not
// safe for concurrent use.
type Keys struct {
	// Behind a func, because fmt bypasses Format for a caller's unexported
	// field, and there a func prints as an address under every verb; and so
	// that Erase reaches copies.
	material func() *material
}

type material struct {
	ctx    key.Hash
	key    [32]byte
	nonce  [nonceSize]byte
	kc     [32]byte
	sealed bool
	erased bool
}

// Derive expands the data key, [DKSize] bytes ([ErrKey] else), in the context
// ctx = T("keymesh/v1/ctx", id, gen, suite) (protocol.md sections 2 and 3). It
// keeps no copy of dk.
func Derive(dk []byte, ctx key.Hash) (*Keys, error) {
	if len(dk) != DKSize {
		return nil, fmt.Errorf("%w: a data key of %d bytes instead of %d", ErrKey, len(dk), DKSize)
	}
	okm, err := hkdf.Key(sha256.New, dk, ctx[:], "keymesh/v1/dk", 32+nonceSize+32)
	if err != nil {
		return nil, fmt.Errorf("expanding a data key: %w", err)
	}
	defer clear(okm)
	m := &material{
		ctx:   ctx,
		key:   [32]byte(okm[:32]),
		nonce: [nonceSize]byte(okm[32 : 32+nonceSize]),
		kc:    [32]byte(okm[32+nonceSize:]),
	}
	return &Keys{func() *material { return m }}, nil
}

// KC returns the key check that the manifest holds. It is public.
func (k *Keys) KC() [32]byte { return k.material().kc }

// Check reports, in constant time, whether kc is this key's check.
func (k *Keys) Check(kc [32]byte) bool {
	m := k.material()
	return !m.erased && subtle.ConstantTimeCompare(m.kc[:], kc[:]) == 1
}

// Seal encrypts the secret, 0 to [MaxSecret] bytes ([ErrSize] else), padded.
// Key and nonce follow from the data key, so Seal works once ([ErrReuse]
// after); a data key is never used for two secrets.
func (k *Keys) Seal(secret []byte) ([]byte, error) {
	m := k.material()
	if m.sealed || m.erased {
		return nil, ErrReuse
	}
	padded, err := Pad(secret, payloadSizes())
	if err != nil {
		return nil, err
	}
	m.sealed = true
	defer clear(padded)
	return aead(m.key[:]).Seal(nil, m.nonce[:], padded, m.ctx[:]), nil
}

// Open decrypts a payload. Errors are [ErrOpen] and [ErrPadding]. The result is
// the caller's to zero.
func (k *Keys) Open(ct []byte) ([]byte, error) {
	m := k.material()
	if m.erased || len(ct) > MaxPayload {
		return nil, ErrOpen
	}
	padded, err := aead(m.key[:]).Open(nil, m.nonce[:], ct, m.ctx[:])
	if err != nil {
		return nil, ErrOpen
	}
	secret, err := Unpad(padded, payloadSizes())
	if err != nil {
		clear(padded)
		return nil, err
	}
	return secret, nil
}

// Erase overwrites the keys, which are unusable afterwards.
func (k *Keys) Erase() { *k.material() = material{erased: true} }

// Format implements fmt.Formatter: no verb prints the keys.
func (Keys) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue implements slog.LogValuer.
func (Keys) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler by refusing.
func (Keys) MarshalText() ([]byte, error) { return nil, errors.New("a data key has no text form") }
