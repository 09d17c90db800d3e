package key

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tyler-smith/go-bip39/wordlists"
)

// Hash is a SHA-256 digest: the value of [T], of an object's hash, or a
// secret's id. The zero value stands for "none". Its text form is 64 lower-case
// hexadecimal digits.
type Hash [32]byte

// IsZero reports whether h is the zero value.
func (h Hash) IsZero() bool { return h == Hash{} }

// String returns 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	d, err := hex.DecodeString(string(b))
	if err != nil || len(d) != len(h) || hex.EncodeToString(d) != string(b) {
		return errors.New("a hash is 64 lower-case hexadecimal digits")
	}
	*h = Hash(d)
	return nil
}

// ParseHash parses the text form of a Hash.
func ParseHash(s string) (h Hash, err error) {
	err = h.UnmarshalText([]byte(s))
	return h, err
}

// labelPrefix starts every domain label (protocol.md section 2).
const labelPrefix = "keymesh/v1/"

// T is the tuple hash of protocol.md section 2: SHA-256 over the label d and
// each part, each preceded by its length as a big-endian u32. The label must
// start with "keymesh/v1/"; T panics when it does not, since a label is a
// constant of the program and never input.
func T(d string, parts ...[]byte) Hash {
	if !strings.HasPrefix(d, labelPrefix) {
		panic(fmt.Sprintf("key: label %q lacks the prefix %q", d, labelPrefix))
	}
	h := sha256.New()
	put := func(p []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	put([]byte(d))
	for _, p := range parts {
		put(p)
	}
	return Hash(h.Sum(nil))
}

// U64 is an integer as a part of [T]: 8 bytes, big-endian.
func U64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Words returns the first 11*n bits of h as n English words of the BIP-39 list
// (2048 words, so 11 bits a word). Node fingerprints are 8 words, the
// comparison code of a Request is 6 (protocol.md section 7). n is 1 to 23.
func Words(h Hash, n int) []string {
	if n < 1 || n > 23 {
		panic("key: 1 to 23 words")
	}
	out := make([]string, n)
	for i := range out {
		w := 0
		for b := i * 11; b < (i+1)*11; b++ {
			w = w<<1 | int(h[b/8]>>(7-b%8)&1)
		}
		out[i] = wordlists.English[w]
	}
	return out
}
