package seal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// KDFParams is what Argon2id costs. The zero value stands for [DefaultKDF].
type KDFParams struct {
	Time    uint8  // passes, 2 to 10
	Memory  uint32 // KiB, 19 MiB to 1 GiB
	Threads uint8  // lanes, 1 to 16
}

// The limits of KDFParams. The lower ones are the weakest that current advice
// allows (OWASP: 19 MiB, t = 2, p = 1) and cheap enough for tests, so that no
// weaker setting exists for them; the upper ones bound what a foreign file can
// make its reader spend.
const (
	minTime, maxTime       = 2, 10
	minMemory, maxMemory   = 19 << 10, 1 << 20
	minThreads, maxThreads = 1, 16
)

// ErrKDF: the passphrase parameters are outside the limits of [KDFParams].
var ErrKDF = errors.New("passphrase parameters outside the limits")

// ErrPassphrase: an empty passphrase seals nothing.
var ErrPassphrase = errors.New("the passphrase is empty")

// DefaultKDF returns t = 3, 64 MiB, p = 4: the second choice of RFC 9106
// section 4, about 0.2 s.
func DefaultKDF() KDFParams { return KDFParams{Time: 3, Memory: 64 << 10, Threads: 4} }

// LeastKDF returns the cheapest parameters that are accepted.
func LeastKDF() KDFParams {
	return KDFParams{Time: minTime, Memory: minMemory, Threads: minThreads}
}

func (p KDFParams) check() error {
	if p.Time < minTime || p.Time > maxTime || p.Memory < minMemory || p.Memory > maxMemory ||
		p.Threads < minThreads || p.Threads > maxThreads {
		return fmt.Errorf("%w: t %d, %d KiB, p %d", ErrKDF, p.Time, p.Memory, p.Threads)
	}
	return nil
}

const (
	saltSize   = 16
	headerSize = 1 + 1 + 4 + 1 + saltSize + nonceSize
)

// PassphraseOverhead is how much longer a box under a passphrase is than its
// plaintext.
const PassphraseOverhead = headerSize + tagSize

// header is all before the ciphertext and authenticated with it.
type header struct {
	params KDFParams
	salt   [saltSize]byte
	nonce  [nonceSize]byte
}

func (h header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, Suite, h.params.Time)
	b = binary.BigEndian.AppendUint32(b, h.params.Memory)
	b = append(b, h.params.Threads)
	b = append(b, h.salt[:]...)
	return append(b, h.nonce[:]...)
}

func parseHeader(box []byte) (header, error) {
	if err := checkSuite(box); err != nil {
		return header{}, err
	}
	if len(box) < PassphraseOverhead {
		return header{}, ErrOpen
	}
	h := header{
		params: KDFParams{Time: box[1], Memory: binary.BigEndian.Uint32(box[2:6]), Threads: box[6]},
		salt:   [saltSize]byte(box[7:]),
		nonce:  [nonceSize]byte(box[7+saltSize:]),
	}
	if err := h.params.check(); err != nil {
		return header{}, err
	}
	return h, nil
}

func (h header) key(pass []byte) []byte {
	p := h.params
	return argon2.IDKey(pass, h.salt[:], uint32(p.Time), p.Memory, p.Threads, 32)
}

// UnderPassphrase seals plaintext under a passphrase of at least one byte with
// the given parameters. The box is [PassphraseOverhead] bytes longer. Errors
// are [ErrPassphrase] and [ErrKDF].
func UnderPassphrase(pass, plaintext []byte, p KDFParams) ([]byte, error) {
	if len(pass) == 0 {
		return nil, ErrPassphrase
	}
	if p == (KDFParams{}) {
		p = DefaultKDF()
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	fresh := random(nil, saltSize+nonceSize)
	h := header{params: p, salt: [saltSize]byte(fresh), nonce: [nonceSize]byte(fresh[saltSize:])}
	k := h.key(pass)
	defer clear(k)
	head := h.encode()
	return aead(k).Seal(head, h.nonce[:], plaintext, head), nil
}

// OpenPassphrase opens what [UnderPassphrase] sealed under this passphrase.
// Errors are [ErrSuite], [ErrKDF] and [ErrOpen]; the last also for a wrong
// passphrase.
func OpenPassphrase(pass, box []byte) ([]byte, error) {
	h, err := parseHeader(box)
	if err != nil {
		return nil, err
	}
	k := h.key(pass)
	defer clear(k)
	plain, err := aead(k).Open(nil, h.nonce[:], box[headerSize:], box[:headerSize])
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// PassphraseParams returns the parameters in the header of a box, without
// opening it and unauthenticated.
func PassphraseParams(box []byte) (KDFParams, error) {
	h, err := parseHeader(box)
	return h.params, err
}
