package key

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"filippo.io/edwards25519"
)

// SeedSize is the length of a private key's seed in bytes (RFC 8032).
const SeedSize = ed25519.SeedSize

// NodePublic is a node's Ed25519 public key; text form "nodekey-" and 52
// base32 digits. Comparable.
type NodePublic [32]byte

// PersonPublic is a person's Ed25519 public key (owner, approver, recovery
// key); text form "person-" and 52 base32 digits. Comparable.
type PersonPublic [32]byte

// AuthorityPublic is the Ed25519 public key of a network authority or of an
// issuer; text form "authority-" and 52 base32 digits. Comparable.
type AuthorityPublic [32]byte

// NodeID is SHA-256 of a node's public key; text form "node-" and 52 base32
// digits. Comparable.
type NodeID [32]byte

// NetworkID is SHA-256 of the network authority's public key; text form
// "network-" and 52 base32 digits. Comparable.
type NetworkID [32]byte

// ID returns the node id that belongs to the key.
func (p NodePublic) ID() NodeID { return sha256.Sum256(p[:]) }

// Network returns the id of the network that this authority names.
func (p AuthorityPublic) Network() NetworkID { return sha256.Sum256(p[:]) }

// Fingerprint returns the eight words by which people compare a node.
func (id NodeID) Fingerprint() []string { return Words(Hash(id), 8) }

// Short returns "node-" and the first 8 digits, for logs and tables.
func (id NodeID) Short() string { return id.String()[:len("node-")+8] }

// IsZero reports whether id is the zero value.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// IsZero reports whether p is the zero value.
func (p PersonPublic) IsZero() bool { return p == PersonPublic{} }

// IsZero reports whether id is the zero value.
func (id NetworkID) IsZero() bool { return id == NetworkID{} }

var b32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func text(prefix string, b [32]byte) string { return prefix + b32.EncodeToString(b[:]) }

func parse(prefix, s string) (out [32]byte, err error) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return out, fmt.Errorf("it does not start with %q", prefix)
	}
	b, err := b32.DecodeString(rest)
	if err != nil || len(b) != 32 || b32.EncodeToString(b) != rest {
		return out, fmt.Errorf("after %q come 52 digits of a-z and 2-7", prefix)
	}
	return [32]byte(b), nil
}

// String returns the text form.
func (p NodePublic) String() string { return text("nodekey-", p) }

// MarshalText implements encoding.TextMarshaler.
func (p NodePublic) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *NodePublic) UnmarshalText(b []byte) (err error) {
	*p, err = parse("nodekey-", string(b))
	return err
}

// String returns the text form.
func (p PersonPublic) String() string { return text("person-", p) }

// MarshalText implements encoding.TextMarshaler.
func (p PersonPublic) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PersonPublic) UnmarshalText(b []byte) (err error) {
	*p, err = parse("person-", string(b))
	return err
}

// String returns the text form.
func (p AuthorityPublic) String() string { return text("authority-", p) }

// MarshalText implements encoding.TextMarshaler.
func (p AuthorityPublic) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *AuthorityPublic) UnmarshalText(b []byte) (err error) {
	*p, err = parse("authority-", string(b))
	return err
}

// String returns the text form.
func (id NodeID) String() string { return text("node-", id) }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(b []byte) (err error) {
	*id, err = parse("node-", string(b))
	return err
}

// String returns the text form.
func (id NetworkID) String() string { return text("network-", id) }

// MarshalText implements encoding.TextMarshaler.
func (id NetworkID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NetworkID) UnmarshalText(b []byte) (err error) {
	*id, err = parse("network-", string(b))
	return err
}

// ParseNodeID parses the text form of a NodeID.
func ParseNodeID(s string) (id NodeID, err error) {
	err = id.UnmarshalText([]byte(s))
	return id, err
}

// ParsePerson parses the text form of a PersonPublic.
func ParsePerson(s string) (p PersonPublic, err error) {
	err = p.UnmarshalText([]byte(s))
	return p, err
}

// private is what the typed private keys share. It is not comparable and
// prints as "[redacted]" whatever verb prints it. The key is behind a func,
// which is nil for no key, for two reasons: fmt bypasses the methods below for
// the unexported fields of a caller's struct and for verbs like %p and %w, and
// a func is what it then prints as an address under every verb, where it would
// follow a pointer; and Erase reaches every copy.
type private struct {
	k func() *ed25519.PrivateKey
}

func hold(k ed25519.PrivateKey) private {
	return private{func() *ed25519.PrivateKey { return &k }}
}

const redacted = "[redacted]"

func (private) String() string             { return redacted }
func (private) GoString() string           { return redacted }
func (private) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }
func (private) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (private) MarshalText() ([]byte, error) {
	return nil, errors.New("a private key has no text form")
}
func (p private) sign(msg []byte) []byte { return ed25519.Sign(*p.k(), msg) }
func (p private) public() (out [32]byte) { copy(out[:], (*p.k())[SeedSize:]); return out }
func (p private) ok() bool               { return p.k != nil && len(*p.k()) == ed25519.PrivateKeySize }

// Seed returns a copy of the 32-byte seed. Only code that seals it at rest or
// prints a recovery kit may call it; the caller zeroes it after use.
func (p private) Seed() []byte { return append([]byte(nil), (*p.k())[:SeedSize]...) }

// IsZero reports whether the key was never set or was erased.
func (p private) IsZero() bool { return !p.ok() }

// Erase overwrites the key in memory. The key and its copies are unusable
// afterwards; a zero or erased key may be erased again.
func (p private) Erase() {
	if p.k != nil {
		k := p.k()
		clear(*k)
		*k = nil
	}
}

// Private is one of NodePrivate, PersonPrivate and AuthorityPrivate.
type Private interface {
	sign(msg []byte) []byte
	public() [32]byte
	ok() bool
}

// NodePrivate is a node's signing key. Not comparable; safe for concurrent use
// until erased.
type NodePrivate struct{ private }

// PersonPrivate is a person's signing key. Not comparable; safe for concurrent
// use until erased.
type PersonPrivate struct{ private }

// AuthorityPrivate is the signing key of a network authority or an issuer. Not
// comparable; safe for concurrent use until erased.
type AuthorityPrivate struct{ private }

func generate() private {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic("key: " + err.Error()) // crypto/rand never fails on Linux
	}
	return hold(k)
}

func fromSeed(seed []byte) (private, error) {
	if len(seed) != SeedSize {
		return private{}, fmt.Errorf("a seed has %d bytes, not %d", SeedSize, len(seed))
	}
	k := ed25519.NewKeyFromSeed(seed)
	return hold(k), nil
}

// GenerateNode makes a new node key.
func GenerateNode() NodePrivate { return NodePrivate{generate()} }

// GeneratePerson makes a new person key.
func GeneratePerson() PersonPrivate { return PersonPrivate{generate()} }

// GenerateAuthority makes a new network authority or issuer key.
func GenerateAuthority() AuthorityPrivate { return AuthorityPrivate{generate()} }

// NodeFromSeed rebuilds a node key from its 32-byte seed, which it copies.
func NodeFromSeed(seed []byte) (NodePrivate, error) {
	p, err := fromSeed(seed)
	return NodePrivate{p}, err
}

// PersonFromSeed rebuilds a person key from its 32-byte seed, which it copies.
func PersonFromSeed(seed []byte) (PersonPrivate, error) {
	p, err := fromSeed(seed)
	return PersonPrivate{p}, err
}

// AuthorityFromSeed rebuilds an authority key from its 32-byte seed, which it
// copies.
func AuthorityFromSeed(seed []byte) (AuthorityPrivate, error) {
	p, err := fromSeed(seed)
	return AuthorityPrivate{p}, err
}

// Public returns the public key.
func (p NodePrivate) Public() NodePublic { return p.public() }

// ID returns the node id.
func (p NodePrivate) ID() NodeID { return p.Public().ID() }

// TLS returns the key for use in a TLS certificate. TLS 1.3 prefixes what it
// signs (RFC 8446 section 4.4.3), so no TLS signature is one of an [Object].
func (p NodePrivate) TLS() crypto.Signer { return *p.k() }

// Public returns the public key.
func (p PersonPrivate) Public() PersonPublic { return p.public() }

// Public returns the public key.
func (p AuthorityPrivate) Public() AuthorityPublic { return p.public() }

// CheckPublic refuses 32 bytes that are no canonical point of edwards25519 or
// one of low order: with such a key one signature verifies for many messages.
func CheckPublic(b [32]byte) error {
	p, err := new(edwards25519.Point).SetBytes(b[:])
	if err != nil {
		return errors.New("the public key is not a point of the curve")
	}
	if string(p.Bytes()) != string(b[:]) {
		return errors.New("the public key is not canonical")
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return errors.New("the public key has low order")
	}
	return nil
}
