package key

import (
	"crypto/ed25519"
	"errors"
	"fmt"
)

// Type is the number of an object on the wire. Numbers are never reused.
type Type uint64

// The object types of protocol.md section 2.
const (
	TypeIssuerCert    Type = 1
	TypeMemberCert    Type = 2
	TypePersonBinding Type = 3
	TypeNodeRecord    Type = 4
	TypeRevocation    Type = 5
	TypeManifest      Type = 6
	TypePrepared      Type = 7
	TypeCommitted     Type = 8
	TypeRefused       Type = 9
	TypeCommitCert    Type = 10
	TypeTombstone     Type = 11
	TypeQuery         Type = 12
	TypeRequest       Type = 13
	TypeApproval      Type = 14
	TypeRelease       Type = 15
	TypeReassign      Type = 16
	TypeDealing       Type = 17
	TypeBundle        Type = 18
	TypeEpochAck      Type = 19
	TypeEpoch         Type = 20
	TypeLock          Type = 21
	TypeAuditHead     Type = 22
)

// typeNames are part of what is signed and hashed.
var typeNames = map[Type]string{
	TypeIssuerCert: "IssuerCert", TypeMemberCert: "MemberCert", TypePersonBinding: "PersonBinding",
	TypeNodeRecord: "NodeRecord", TypeRevocation: "Revocation", TypeManifest: "Manifest",
	TypePrepared: "Prepared", TypeCommitted: "Committed", TypeRefused: "Refused",
	TypeCommitCert: "CommitCert", TypeTombstone: "Tombstone", TypeQuery: "Query",
	TypeRequest: "Request", TypeApproval: "Approval", TypeRelease: "Release",
	TypeReassign: "Reassign", TypeDealing: "Dealing", TypeBundle: "Bundle",
	TypeEpochAck: "EpochAck", TypeEpoch: "Epoch", TypeLock: "Lock",
	TypeAuditHead: "AuditHead",
}

// String returns the type's name as it is signed, or "type N".
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", uint64(t))
}

// SuiteEd25519 is the suite byte of an Ed25519 signature (RFC 8032).
const SuiteEd25519 = 1

// SigSize is the length of a signature with its suite byte.
const SigSize = 1 + ed25519.SignatureSize

var (
	// ErrSignature: the signature is not one of this key over this object in
	// this network.
	ErrSignature = errors.New("the signature does not verify")
	// ErrType: the object is of another type than the caller needs.
	ErrType = errors.New("object of another type")
)

// Object is a signed object as it travels. Body is kept as received; nothing
// is re-encoded before it is verified.
type Object struct {
	_    struct{} `cbor:",toarray"`
	Type Type
	Body []byte
	Key  [32]byte
	Sig  []byte
}

// IsZero reports whether o was never set.
func (o Object) IsZero() bool { return o.Type == 0 && len(o.Body) == 0 }

// Encode returns the bytes of the object. They alias nothing.
func (o Object) Encode() []byte { return Encode(o) }

// DecodeObject parses the bytes of a signed object and checks its shape, not
// its signature. The object does not alias b.
func DecodeObject(b []byte) (Object, error) {
	var o Object
	if err := Decode(b, &o); err != nil {
		return Object{}, err
	}
	if len(o.Sig) != SigSize || o.Sig[0] != SuiteEd25519 {
		return Object{}, fmt.Errorf("%w: unknown signature suite", ErrEncoding)
	}
	return o, nil
}

func signed(net NetworkID, t Type, body []byte) []byte {
	name, ok := typeNames[t]
	if !ok {
		return nil
	}
	h := T(labelPrefix+"sig/"+name, net[:], body)
	return h[:]
}

// HashBody returns H of an object with this body: T("keymesh/v1/obj/" +
// type-name, network id, body). It never covers the signature, so it also
// names an object before it is signed.
func HashBody(net NetworkID, t Type, body []byte) Hash {
	return T(labelPrefix+"obj/"+t.String(), net[:], body)
}

// Sign makes the signed object of type t with this body, which it copies. It
// panics on an unknown type or an erased key, which are faults of the program.
func Sign(k Private, net NetworkID, t Type, body []byte) Object {
	msg := signed(net, t, body)
	if msg == nil || !k.ok() {
		panic("key: signing " + t.String() + " without a key or a known type")
	}
	return Object{Type: t, Body: append([]byte(nil), body...), Key: k.public(), Sig: append([]byte{SuiteEd25519}, k.sign(msg)...)}
}

// Verify checks that o is of type want and signed by o.Key in this network.
// Keys of low order are refused. Who may sign an object of this type is for
// the caller to decide from o.Key. Errors wrap [ErrType] or [ErrSignature].
func (o Object) Verify(net NetworkID, want Type) error {
	if o.Type != want {
		return fmt.Errorf("%w: %v instead of %v", ErrType, o.Type, want)
	}
	msg := signed(net, o.Type, o.Body)
	if msg == nil || len(o.Sig) != SigSize || o.Sig[0] != SuiteEd25519 {
		return fmt.Errorf("%w: unknown type or suite", ErrSignature)
	}
	if err := CheckPublic(o.Key); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if !ed25519.Verify(o.Key[:], msg, o.Sig[1:]) {
		return fmt.Errorf("%w (%v)", ErrSignature, o.Type)
	}
	return nil
}

// Hash returns H(object).
func (o Object) Hash(net NetworkID) Hash { return HashBody(net, o.Type, o.Body) }
