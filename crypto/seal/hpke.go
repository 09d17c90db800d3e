package seal

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"log/slog"

	"keymesh/crypto/key"
)

// Suite is the suite byte of every box of this package.
const Suite = 1

const (
	// PublicSize is the length of a sealing public key.
	PublicSize = 1216
	// PrivateSize is the length of a sealing private key, an X-Wing seed.
	PrivateSize = 32
	// Overhead is how much longer a box to a key is than its plaintext.
	Overhead = 1 + 1120 + tagSize

	tagSize = 16
)

// Purposes of [Info]; part of the format.
const (
	PurposeRelease = "release"
	PurposeDealing = "dealing"
	PurposeName    = "name" // a secret's name for an approver's node, with H(request) alone
)

var (
	// ErrOpen: wrong key, wrong context or damaged box; which of them is not
	// told.
	ErrOpen = errors.New("the box does not open with this key in this context")
	// ErrSuite: the box is of a suite that this build does not know.
	ErrSuite = errors.New("unknown suite of a box")
	// ErrKey: the bytes are no sealing key.
	ErrKey = errors.New("not a sealing key")
)

// PrivateKey is a sealing key: what is sealed to its public half, [To] opens.
// It prints as "[redacted]". Safe for concurrent use.
type PrivateKey struct {
	// Behind a func, because fmt bypasses Format for a caller's unexported
	// field, and there a func prints as an address under every verb.
	key func() hpke.PrivateKey
}

func hold(k hpke.PrivateKey) *PrivateKey {
	return &PrivateKey{func() hpke.PrivateKey { return k }}
}

// GenerateKey makes a new sealing key.
func GenerateKey() (*PrivateKey, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making a sealing key: %w", err)
	}
	return hold(k), nil
}

// ParsePrivateKey rebuilds the key from what [PrivateKey.Bytes] returned,
// [PrivateSize] bytes. It does not alias b. Errors wrap [ErrKey].
func ParsePrivateKey(b []byte) (*PrivateKey, error) {
	if len(b) != PrivateSize {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrKey, len(b), PrivateSize)
	}
	k, err := hpke.MLKEM768X25519().NewPrivateKey(append([]byte(nil), b...))
	if err != nil {
		return nil, ErrKey
	}
	return hold(k), nil
}

// Bytes returns a copy of the private key, [PrivateSize] bytes, for sealing it
// at rest; the caller zeroes it after use.
func (p *PrivateKey) Bytes() []byte {
	b, err := p.key().Bytes()
	if err != nil {
		panic("seal: " + err.Error()) // only keys in hardware have no bytes
	}
	return append([]byte(nil), b...) // hpke hands out its own
}

// Public returns a copy of the public key, [PublicSize] bytes.
func (p *PrivateKey) Public() []byte {
	return append([]byte(nil), p.key().PublicKey().Bytes()...)
}

// CheckPublic refuses bytes that are no sealing public key, with [ErrKey].
func CheckPublic(b []byte) error {
	_, err := parsePublic(b)
	return err
}

func parsePublic(b []byte) (hpke.PublicKey, error) {
	if len(b) != PublicSize {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrKey, len(b), PublicSize)
	}
	k, err := hpke.MLKEM768X25519().NewPublicKey(append([]byte(nil), b...))
	if err != nil {
		return nil, ErrKey
	}
	return k, nil
}

// Info is the context of a box to a key: T("keymesh/v1/seal", purpose,
// H(manifest), x, epoch, node, H(request)). node is the sender of a Release and
// the receiver of a dealing; request is the zero Hash where there is none.
func Info(purpose string, manifest key.Hash, x uint8, epoch uint32, node key.NodeID, request key.Hash) key.Hash {
	return key.T("keymesh/v1/seal", []byte(purpose), manifest[:],
		key.U64(uint64(x)), key.U64(uint64(epoch)), node[:], request[:])
}

// To seals plaintext to the recipient's public key in the context info, see
// [Info]. The box is [Overhead] bytes longer and aliases nothing. A recipient
// that is no sealing key is [ErrKey].
func To(recipient []byte, info key.Hash, plaintext []byte) ([]byte, error) {
	pub, err := parsePublic(recipient)
	if err != nil {
		return nil, err
	}
	box, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info[:], plaintext)
	if err != nil {
		return nil, ErrKey // X25519 refuses points of low order only here
	}
	return append([]byte{Suite}, box...), nil
}

// Open opens what [To] sealed to this key in the same context. Errors are
// [ErrSuite] and [ErrOpen].
func (p *PrivateKey) Open(info key.Hash, box []byte) ([]byte, error) {
	if err := checkSuite(box); err != nil {
		return nil, err
	}
	plain, err := hpke.Open(p.key(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info[:], box[1:])
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

func checkSuite(box []byte) error {
	switch {
	case len(box) == 0:
		return ErrOpen
	case box[0] != Suite:
		return fmt.Errorf("%w: %d", ErrSuite, box[0])
	}
	return nil
}

const redacted = "[redacted]"

// Format implements fmt.Formatter: no verb prints the key.
func (PrivateKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue implements slog.LogValuer.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler by refusing.
func (PrivateKey) MarshalText() ([]byte, error) {
	return nil, errors.New("a private key has no text form")
}
