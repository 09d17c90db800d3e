package share

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
)

var (
	// ErrReceipt: the receipt is not this node's word on this manifest.
	ErrReceipt = errors.New("invalid receipt")
	// ErrCertificate: too few valid receipts for this manifest.
	ErrCertificate = errors.New("invalid commit certificate")
)

// Receipt is the body of Prepared, Committed and Refused (one shape, three
// types). A seat of prev alone signs Prepared with X = 0.
type Receipt struct {
	key.Head
	Manifest key.Hash   `cbor:"1,keyasint"` // H(manifest); H(tombstone) in the answer to a delete
	Epoch    uint32     `cbor:"2,keyasint"`
	X        uint8      `cbor:"3,keyasint"`
	Node     key.NodeID `cbor:"4,keyasint"`
	Time     uint64     `cbor:"5,keyasint"` // unix seconds
}

// SignReceipt signs r as the node's word of type t (Prepared, Committed or
// Refused). r.Node is set from the key.
func SignReceipt(k key.NodePrivate, net key.NetworkID, t key.Type, r Receipt) key.Object {
	r.Node = k.ID()
	return key.Sign(k, net, t, key.Marshal(&r))
}

// OpenReceipt verifies a receipt of type t that arrived as an object and that
// the node it names signed it.
func OpenReceipt(net key.NetworkID, t key.Type, o key.Object) (Receipt, error) {
	return openReceipt(net, t, o, false)
}

// openReceipt is [OpenReceipt]; verified says that the signature is known to be
// good.
func openReceipt(net key.NetworkID, t key.Type, o key.Object, verified bool) (Receipt, error) {
	var r Receipt
	if t != key.TypePrepared && t != key.TypeCommitted && t != key.TypeRefused {
		return r, fmt.Errorf("%w: %v is no receipt", ErrReceipt, t)
	}
	if o.Type != t {
		return r, fmt.Errorf("%w: %v instead of %v", key.ErrType, o.Type, t)
	}
	if !verified {
		if err := o.Verify(net, t); err != nil {
			return r, err
		}
	}
	if err := key.Unmarshal(o.Body, &r); err != nil {
		return Receipt{}, err
	}
	if key.NodePublic(o.Key).ID() != r.Node {
		return Receipt{}, fmt.Errorf("%w: signed by another node than it names", ErrReceipt)
	}
	return r, nil
}

// CommitCert is the proof that a manifest is on w disks. It is not signed
// itself: the receipts in it are.
type CommitCert struct {
	key.Head
	Manifest key.Hash     `cbor:"1,keyasint"`
	Prepared []key.Object `cbor:"2,keyasint"` // at most [MaxReceipts]
}

// Encode returns the bytes of the certificate.
func (c *CommitCert) Encode() []byte { return key.Marshal(c) }

// DecodeCert parses a certificate without verifying it.
func DecodeCert(b []byte) (*CommitCert, error) {
	if len(b) > MaxCert {
		return nil, fmt.Errorf("%w: %d bytes", ErrCertificate, len(b))
	}
	c := new(CommitCert)
	if err := key.Unmarshal(b, c); err != nil {
		return nil, err
	}
	if len(c.Prepared) > MaxReceipts {
		return nil, fmt.Errorf("%w: %d receipts", ErrCertificate, len(c.Prepared))
	}
	return c, nil
}

// PrevNeed is how many of prev's seats a certificate and an acknowledgement
// need: w, or max(n-k+1, floor(n/2)+1) where holders of prev are revoked.
func PrevNeed(prev *Manifest, revoked func(key.NodeID) bool) int {
	for _, s := range prev.Seats {
		if revoked != nil && revoked(s.Node) {
			n := prev.N()
			return min(int(prev.W), max(n-int(prev.K)+1, n/2+1))
		}
	}
	return int(prev.W)
}

// VerifyCert checks that c holds valid Prepared receipts for m from at least w
// distinct seats of m and, for each manifest in before (prev's, and those that
// m's force names, whose seats count as prev's), from enough of its seats.
// Before must hold exactly what m.Prev and m.Force name, in any order. revoked
// may be nil. Errors wrap [ErrCertificate].
func VerifyCert(net key.NetworkID, c *CommitCert, m *SignedManifest, before []*SignedManifest, revoked func(key.NodeID) bool) error {
	return VerifyCertKnown(net, c, m, before, revoked, nil)
}

// VerifyCertKnown is [VerifyCert] for a caller that remembers receipts: known
// reports those whose signature and encoding it has verified before, in this
// network and byte for byte. known may be nil.
func VerifyCertKnown(net key.NetworkID, c *CommitCert, m *SignedManifest, before []*SignedManifest, revoked func(key.NodeID) bool, known func(key.Object) bool) error {
	if c.Manifest != m.Hash {
		return fmt.Errorf("%w: of another manifest", ErrCertificate)
	}
	if err := checkBefore(m, before); err != nil {
		return err
	}
	signed, err := c.signers(net, m, known)
	if err != nil {
		return err
	}
	if have := countSeats(&m.Manifest, signed); have < int(m.W) {
		return fmt.Errorf("%w: %d of %d receipts of its seats", ErrCertificate, have, m.W)
	}
	for _, p := range before {
		if have, need := countSeats(&p.Manifest, signed), PrevNeed(&p.Manifest, revoked); have < need {
			return fmt.Errorf("%w: %d of %d receipts of the seats before it", ErrCertificate, have, need)
		}
	}
	return nil
}

// checkBefore: the manifests before m are all here, once, of the same secret
// and of lower generations. One that force names and that were left out would
// not be asked for its seats.
func checkBefore(m *SignedManifest, before []*SignedManifest) error {
	want := make(map[key.Hash]bool, 1+len(m.Force))
	if !m.Prev.IsZero() {
		want[m.Prev] = true
	}
	for _, h := range m.Force {
		want[h] = true
	}
	for _, p := range before {
		if !want[p.Hash] || p.ID != m.ID || p.Gen >= m.Gen {
			return fmt.Errorf("%w: a manifest that is not one before it", ErrCertificate)
		}
		delete(want, p.Hash)
	}
	if len(want) != 0 {
		return fmt.Errorf("%w: a manifest before it is not known", ErrCertificate)
	}
	return nil
}

// signers returns the nodes whose receipts are good: for m, of epoch 0, and with
// the x of the node's seat in m or 0 without one.
func (c *CommitCert) signers(net key.NetworkID, m *SignedManifest, known func(key.Object) bool) (map[key.NodeID]bool, error) {
	out := make(map[key.NodeID]bool, len(c.Prepared))
	for _, o := range c.Prepared {
		r, err := openReceipt(net, key.TypePrepared, o, known != nil && known(o))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		if r.Manifest != m.Hash || r.Epoch != 0 {
			return nil, fmt.Errorf("%w: a receipt for something else", ErrCertificate)
		}
		if s := m.SeatOf(r.Node); (s != nil && s.X != r.X) || (s == nil && r.X != 0) {
			return nil, fmt.Errorf("%w: a receipt for x = %d that is not the node's seat", ErrCertificate, r.X)
		}
		if out[r.Node] {
			return nil, fmt.Errorf("%w: two receipts of one node", ErrCertificate)
		}
		out[r.Node] = true
	}
	return out, nil
}

func countSeats(m *Manifest, signed map[key.NodeID]bool) int {
	n := 0
	for _, s := range m.Seats {
		if signed[s.Node] {
			n++
		}
	}
	return n
}

// Scopes of a tombstone.
const (
	ScopeOne = 1 // this generation
	ScopeAll = 2 // all generations up to this one
)

// Tombstone deletes; it is kept for ever.
type Tombstone struct {
	key.Head
	ID    key.Hash `cbor:"1,keyasint"`
	Gen   uint64   `cbor:"2,keyasint"`
	Scope uint8    `cbor:"3,keyasint"`
	Time  uint64   `cbor:"4,keyasint"` // unix seconds
	// Owner and Salt show that the signer owns the id, so that a node that
	// holds nothing of it can tell too.
	Owner key.PersonPublic `cbor:"5,keyasint"`
	Salt  key.Hash         `cbor:"6,keyasint"`
}

// Covers reports whether the tombstone deletes generation gen.
func (t *Tombstone) Covers(gen uint64) bool {
	return t.Gen == gen || (t.Scope == ScopeAll && gen <= t.Gen)
}

// ErrTombstone: the tombstone is not the owner's or not well formed.
var ErrTombstone = errors.New("invalid tombstone")

// SignTombstone signs t with the owner's key.
func SignTombstone(owner key.PersonPrivate, net key.NetworkID, t Tombstone) key.Object {
	return key.Sign(owner, net, key.TypeTombstone, key.Marshal(&t))
}

// OpenTombstone verifies an owner-signed tombstone that arrived as bytes and
// that its id is the signer's.
func OpenTombstone(net key.NetworkID, b []byte) (*Tombstone, key.Hash, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, key.Hash{}, err
	}
	if err := o.Verify(net, key.TypeTombstone); err != nil {
		return nil, key.Hash{}, err
	}
	if len(b) > MaxTombstone {
		return nil, key.Hash{}, fmt.Errorf("%w: %d bytes", ErrTombstone, len(b))
	}
	t := new(Tombstone)
	if err := key.Unmarshal(o.Body, t); err != nil {
		return nil, key.Hash{}, err
	}
	if t.Owner != key.PersonPublic(o.Key) || ID(t.Owner, t.Salt) != t.ID || t.Gen == 0 || (t.Scope != ScopeOne && t.Scope != ScopeAll) {
		return nil, key.Hash{}, ErrTombstone
	}
	return t, o.Hash(net), nil
}
