package share

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
)

// ErrManifest: the manifest breaks a rule that it alone can break.
var ErrManifest = errors.New("invalid manifest")

// Repair modes of a manifest.
const (
	RepairOwner  = 0 // only the owner reassigns seats
	RepairQuorum = 1 // w seats may
)

// Seat is one of the n places of a secret.
type Seat struct {
	_    struct{} `cbor:",toarray"`
	X    uint8
	Node key.NodeID
	C    key.Hash // commitment to the row of epoch 0
}

// Manifest describes one generation of a secret; its owner signs it.
type Manifest struct {
	key.Head
	ID      key.Hash         `cbor:"1,keyasint"`
	Owner   key.PersonPublic `cbor:"2,keyasint"`
	Salt    key.Hash         `cbor:"3,keyasint"`
	Gen     uint64           `cbor:"4,keyasint"`
	Prev    key.Hash         `cbor:"5,keyasint"` // H of the manifest before; zero: none
	Force   []key.Hash       `cbor:"6,keyasint"` // H of each pending passed
	Suite   uint64           `cbor:"7,keyasint"`
	K       uint8            `cbor:"8,keyasint"`
	W       uint8            `cbor:"9,keyasint"`
	Seats   []Seat           `cbor:"10,keyasint"`
	Standby []key.NodeID     `cbor:"11,keyasint"`
	KC      key.Hash         `cbor:"12,keyasint"` // key check of the data key
	Payload key.Hash         `cbor:"13,keyasint"` // SHA-256 of the ciphertext
	Length  uint64           `cbor:"14,keyasint"` // of the ciphertext, bytes
	Label   []byte           `cbor:"15,keyasint"` // sealed
	Policy  []byte           `cbor:"16,keyasint"`
	Repair  uint8            `cbor:"17,keyasint"`
	Keep    uint8            `cbor:"18,keyasint"` // committed generations kept as history
	Created uint64           `cbor:"19,keyasint"` // unix seconds
	Expires uint64           `cbor:"20,keyasint"` // unix seconds; 0: never
	// Colocated says that the owner waived the operator and zone limits.
	Colocated bool `cbor:"21,keyasint,omitempty"`
}

// N is the number of seats.
func (m *Manifest) N() int { return len(m.Seats) }

// Context is ctx of this generation.
func (m *Manifest) Context() key.Hash { return Context(m.ID, m.Gen, m.Suite) }

// F is how many lying holders are tolerated at the acknowledgement: w-k.
func (m *Manifest) F() int { return int(m.W) - int(m.K) }

// SeatOf returns the seat of a node, or nil. The pointer is into m.
func (m *Manifest) SeatOf(node key.NodeID) *Seat {
	for i := range m.Seats {
		if m.Seats[i].Node == node {
			return &m.Seats[i]
		}
	}
	return nil
}

// CheckRow reports whether row (k vectors of 32 bytes) is the one committed to
// for the seat in epoch 0.
func (m *Manifest) CheckRow(s Seat, row []byte) bool {
	return len(row) == int(m.K)*DataKeySize && RowCommitment(m.Context(), s.X, m.K, row) == s.C
}

// Check applies every rule that the manifest alone can break. The policy is
// opaque here. Errors wrap [ErrManifest].
func (m *Manifest) Check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrManifest, fmt.Sprintf(format, a...))
	}
	n, k, w := m.N(), int(m.K), int(m.W)
	switch {
	case m.Suite != SuiteShamir:
		return bad("unknown suite %d", m.Suite)
	case ID(m.Owner, m.Salt) != m.ID:
		return bad("the id is not the owner's")
	case m.Gen == 0:
		return bad("generation 0")
	case n > MaxSeats || k < MinK || k > n:
		return bad("%d of %d", k, n)
	case w < MinW(n, k) || w > n:
		return bad("w = %d with %d of %d", w, k, n)
	case len(m.Standby) > MaxStandby || len(m.Force) > MaxForce || len(m.Label) > MaxLabel || len(m.Policy) > MaxPolicy:
		return bad("a list or field is too long")
	case len(m.Policy) == 0:
		return bad("no policy")
	case m.Repair > RepairQuorum || (m.Repair == RepairQuorum && w == n):
		return bad("repair mode %d with w = %d of %d", m.Repair, w, n)
	case m.Keep > MaxKeep:
		return bad("keep %d", m.Keep)
	case m.Length == 0:
		return bad("empty ciphertext")
	case m.Expires != 0 && m.Expires <= m.Created:
		return bad("expires before it was created")
	}
	return m.checkSeats(bad)
}

func (m *Manifest) checkSeats(bad func(string, ...any) error) error {
	xs, nodes := map[uint8]bool{}, map[key.NodeID]bool{}
	for _, s := range m.Seats {
		if s.X == 0 || xs[s.X] || nodes[s.Node] || s.Node.IsZero() {
			return bad("seat x = %d is zero or given twice, or its node is", s.X)
		}
		xs[s.X], nodes[s.Node] = true, true
	}
	for _, id := range m.Standby {
		if nodes[id] || id.IsZero() {
			return bad("a standby holds a seat or is named twice")
		}
		nodes[id] = true
	}
	seen := map[key.Hash]bool{}
	for _, h := range m.Force {
		if h.IsZero() || seen[h] || h == m.Prev {
			return bad("a forced manifest is zero, prev, or named twice")
		}
		seen[h] = true
	}
	return nil
}

// SignedManifest is a verified manifest with the object it came in. Treat it
// as immutable: it is shared.
type SignedManifest struct {
	Manifest
	Object key.Object
	Hash   key.Hash // H(manifest)
}

// Bytes are the encoded object.
func (m *SignedManifest) Bytes() []byte { return m.Object.Encode() }

// SignManifest checks m and signs it with the owner's key.
func SignManifest(owner key.PersonPrivate, net key.NetworkID, m Manifest) (*SignedManifest, error) {
	if m.Owner != owner.Public() {
		return nil, fmt.Errorf("%w: the owner is another person", ErrManifest)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	o := key.Sign(owner, net, key.TypeManifest, key.Marshal(&m))
	if n := len(o.Encode()); n > MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes", ErrManifest, n)
	}
	return &SignedManifest{Manifest: m, Object: o, Hash: o.Hash(net)}, nil
}

// OpenManifest verifies a manifest that arrived as bytes.
func OpenManifest(net key.NetworkID, b []byte) (*SignedManifest, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes", ErrManifest, len(b))
	}
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeManifest); err != nil {
		return nil, err
	}
	sm := &SignedManifest{Object: o, Hash: o.Hash(net)}
	if err := key.Unmarshal(o.Body, &sm.Manifest); err != nil {
		return nil, err
	}
	if sm.Owner != key.PersonPublic(o.Key) {
		return nil, fmt.Errorf("%w: not signed by its owner", ErrManifest)
	}
	if err := sm.Check(); err != nil {
		return nil, err
	}
	return sm, nil
}
