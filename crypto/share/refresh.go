package share

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// ErrRefresh: the dealing, bundle, acknowledgement or epoch breaks a rule of
// protocol.md section 9.
var ErrRefresh = errors.New("invalid part of a refresh")

// Limits of the parts of a refresh, in bytes. They are not reached with 32 of
// 32 but by extensions.
const (
	MaxDealing       = 20 << 10
	MaxRefreshBundle = 640 << 10
	MaxEpochAck      = 8 << 10
	MaxEpoch         = 128 << 10
	// MaxDealtBox is the longest sealed row of a dealing: 32 vectors of 48
	// bytes and what sealing adds.
	MaxDealtBox = 4 << 10
)

// proofUnit is the length of one value in the proof of a dealing, bytes.
const proofUnit = 16

// Holds reports whether a node holds the seat x of a manifest, or held it: by
// the manifest or by a valid Reassign of it.
type Holds func(x uint8, node key.NodeID) bool

// Seated is [Holds] where nothing was reassigned.
func (m *Manifest) Seated(x uint8, node key.NodeID) bool {
	s := m.SeatOf(node)
	return s != nil && s.X == x
}

// SeatIndex is the position of the seat x, or -1.
func (m *Manifest) SeatIndex(x uint8) int {
	for i := range m.Seats {
		if m.Seats[i].X == x {
			return i
		}
	}
	return -1
}

// Xs are the coordinates of the seats, in their order.
func (m *Manifest) Xs() []byte {
	xs := make([]byte, m.N())
	for i, s := range m.Seats {
		xs[i] = s.X
	}
	return xs
}

// Dealing is one dealer's dealing of zero, without its rows: a seat's node signs
// it. Lists are in the order of the manifest's seats.
type Dealing struct {
	key.Head
	Manifest key.Hash   `cbor:"1,keyasint"` // H(manifest)
	Epoch    uint32     `cbor:"2,keyasint"` // the one that it leads to, 1 and up
	Round    uint64     `cbor:"3,keyasint"` // 1 and up
	X        uint8      `cbor:"4,keyasint"` // the dealer's seat
	Node     key.NodeID `cbor:"5,keyasint"` // the dealer
	Commits  []key.Hash `cbor:"6,keyasint"` // [DealtCommitment] of each seat's row
	Boxes    []key.Hash `cbor:"7,keyasint"` // SHA-256 of each seat's sealed row; zero: there is none
	Proof    []byte     `cbor:"8,keyasint"` // k(k+1)/2 values of 16 bytes
	// Nodes hold the seats, as far as the dealer knows: the rows are sealed to
	// them. A seat that knows better does not acknowledge.
	Nodes []key.NodeID `cbor:"9,keyasint"`
}

// DealtCommitment is T("keymesh/v1/dealt", H(manifest), epoch, round, dealer, x,
// row) over the encoded row of a dealing (k vectors of 48 bytes).
func (d *Dealing) DealtCommitment(x uint8, row []byte) key.Hash {
	return key.T("keymesh/v1/dealt", d.Manifest[:], key.U64(uint64(d.Epoch)), key.U64(uint64(d.Round)), d.Node[:], key.U64(uint64(x)), row)
}

// Seed is T("keymesh/v1/rho", H(manifest), epoch, round, dealer, xs,
// commitments), of which SHAKE256 makes the challenge.
func (d *Dealing) Seed(xs []byte) key.Hash {
	var commits []byte
	for _, c := range d.Commits {
		commits = append(commits, c[:]...)
	}
	return key.T("keymesh/v1/rho", d.Manifest[:], key.U64(uint64(d.Epoch)), key.U64(uint64(d.Round)), d.Node[:], xs, commits)
}

// BoxHash is how a dealing names a sealed row.
func BoxHash(box []byte) key.Hash { return sha256.Sum256(box) }

// SignDealing signs d with the dealer's key. d.Node is set from the key.
func SignDealing(k key.NodePrivate, net key.NetworkID, d Dealing) key.Object {
	d.Node = k.ID()
	return key.Sign(k, net, key.TypeDealing, key.Marshal(&d))
}

// OpenDealing verifies a dealing for m: its signature, its shape, and that its
// dealer holds the seat. Whether its rows are good is for each seat to verify.
func OpenDealing(net key.NetworkID, o key.Object, m *SignedManifest, holds Holds) (*Dealing, error) {
	if len(o.Body) > MaxDealing {
		return nil, fmt.Errorf("%w: a dealing of %d bytes", ErrRefresh, len(o.Body))
	}
	if err := o.Verify(net, key.TypeDealing); err != nil {
		return nil, err
	}
	d := new(Dealing)
	if err := key.Unmarshal(o.Body, d); err != nil {
		return nil, err
	}
	n, k := m.N(), int(m.K)
	switch {
	case key.NodePublic(o.Key).ID() != d.Node:
		return nil, fmt.Errorf("%w: signed by another node than it names", ErrRefresh)
	case d.Manifest != m.Hash:
		return nil, fmt.Errorf("%w: of another manifest", ErrRefresh)
	case d.Epoch == 0 || d.Round == 0:
		return nil, fmt.Errorf("%w: epoch or round 0", ErrRefresh)
	case m.SeatIndex(d.X) < 0 || !holds(d.X, d.Node):
		return nil, fmt.Errorf("%w: its dealer does not hold the seat x = %d", ErrRefresh, d.X)
	case len(d.Commits) != n || len(d.Boxes) != n || len(d.Nodes) != n || len(d.Proof) != k*(k+1)/2*proofUnit:
		return nil, fmt.Errorf("%w: a dealing of another shape", ErrRefresh)
	}
	return d, nil
}

// RefreshBundle is the k dealings that are proposed in one round: new ones, or
// those of an earlier round again, which then have another H(bundle). It is not
// signed itself: they are.
type RefreshBundle struct {
	key.Head
	Manifest key.Hash     `cbor:"1,keyasint"`
	Epoch    uint32       `cbor:"2,keyasint"`
	Round    uint64       `cbor:"3,keyasint"` // not below that of the dealings
	Dealings []key.Object `cbor:"4,keyasint"` // exactly k, ascending by x of the dealer
}

// Encode returns the bytes of the bundle.
func (b *RefreshBundle) Encode() []byte { return key.Marshal(b) }

// BundleHash is H(bundle) of its encoded bytes.
func BundleHash(net key.NetworkID, b []byte) key.Hash {
	return key.HashBody(net, key.TypeBundle, b)
}

// OpenedBundle is a verified bundle.
type OpenedBundle struct {
	RefreshBundle
	Hash   key.Hash   // H(bundle)
	Dealt  key.Hash   // [DealtHash]: the same in whatever round they are proposed
	Opened []*Dealing // in the order of Dealings
}

// DealtHash is T("keymesh/v1/deals", H(dealing)...): it names what a bundle adds
// to the rows.
func DealtHash(net key.NetworkID, dealings []key.Object) key.Hash {
	parts := make([][]byte, len(dealings))
	for i, o := range dealings {
		h := o.Hash(net)
		parts[i] = h[:]
	}
	return key.T("keymesh/v1/deals", parts...)
}

// OpenRefreshBundle verifies a bundle for m: exactly k dealings of it by distinct
// seats, in order, all of one epoch and dealt in one round, this or an earlier
// one. Errors wrap [ErrRefresh] or those of package key.
func OpenRefreshBundle(net key.NetworkID, b []byte, m *SignedManifest, holds Holds) (*OpenedBundle, error) {
	if len(b) > MaxRefreshBundle {
		return nil, fmt.Errorf("%w: a bundle of %d bytes", ErrRefresh, len(b))
	}
	out := &OpenedBundle{Hash: BundleHash(net, b)}
	if err := key.Unmarshal(b, &out.RefreshBundle); err != nil {
		return nil, err
	}
	switch {
	case out.Manifest != m.Hash:
		return nil, fmt.Errorf("%w: a bundle of another manifest", ErrRefresh)
	case len(out.Dealings) != int(m.K):
		return nil, fmt.Errorf("%w: %d dealings where exactly %d are needed", ErrRefresh, len(out.Dealings), m.K)
	case len(out.Ext) != 0:
		return nil, fmt.Errorf("%w: extensions, which nobody signed", ErrRefresh)
	}
	last := uint8(0)
	for _, o := range out.Dealings {
		d, err := OpenDealing(net, o, m, holds)
		if err != nil {
			return nil, err
		}
		if d.Epoch != out.Epoch || d.Round > out.Round || d.X <= last || len(out.Opened) > 0 && !d.besides(out.Opened[0]) {
			return nil, fmt.Errorf("%w: a dealing of another epoch, round or nodes, out of order, or two of one seat", ErrRefresh)
		}
		last = d.X
		out.Opened = append(out.Opened, d)
	}
	out.Dealt = DealtHash(net, out.Dealings)
	return out, nil
}

// besides reports whether two dealings may be in one bundle.
func (d *Dealing) besides(o *Dealing) bool {
	return d.Round == o.Round && slices.Equal(d.Nodes, o.Nodes)
}

// HashIn is H of the bundle with the same dealings in another round.
func (b *OpenedBundle) HashIn(net key.NetworkID, round uint64) key.Hash {
	c := b.RefreshBundle
	c.Round = round
	return BundleHash(net, c.Encode())
}

// EpochAck is a seat's word that it has its row of the next epoch on disk, with
// what shows that the row fits those of the others.
type EpochAck struct {
	key.Head
	Manifest key.Hash   `cbor:"1,keyasint"`
	Bundle   key.Hash   `cbor:"2,keyasint"` // H(bundle)
	Epoch    uint32     `cbor:"3,keyasint"`
	Round    uint64     `cbor:"4,keyasint"`
	X        uint8      `cbor:"5,keyasint"`
	Node     key.NodeID `cbor:"6,keyasint"`
	C        key.Hash   `cbor:"7,keyasint"` // [RowCommitment] of the new row: the seat's own word
	// Pairs are [PairTag] with each seat, in the order of the manifest's; zero at
	// its own place.
	Pairs []key.Hash `cbor:"8,keyasint"`
}

// PairTag is t = T("keymesh/v1/pair", H(bundle), min(x, y), max(x, y), F(x, y)):
// both seats make the same from their rows of the new epoch.
func PairTag(bundle key.Hash, x, y uint8, common []byte) key.Hash {
	return key.T("keymesh/v1/pair", bundle[:], key.U64(uint64(min(x, y))), key.U64(uint64(max(x, y))), common)
}

// SignEpochAck signs a with the node's key. a.Node is set from the key.
func SignEpochAck(k key.NodePrivate, net key.NetworkID, a EpochAck) key.Object {
	a.Node = k.ID()
	return key.Sign(k, net, key.TypeEpochAck, key.Marshal(&a))
}

// OpenEpochAck verifies an acknowledgement for m and that its signer holds the
// seat.
func OpenEpochAck(net key.NetworkID, o key.Object, m *SignedManifest, holds Holds) (*EpochAck, error) {
	if len(o.Body) > MaxEpochAck {
		return nil, fmt.Errorf("%w: an acknowledgement of %d bytes", ErrRefresh, len(o.Body))
	}
	if err := o.Verify(net, key.TypeEpochAck); err != nil {
		return nil, err
	}
	a := new(EpochAck)
	if err := key.Unmarshal(o.Body, a); err != nil {
		return nil, err
	}
	at := m.SeatIndex(a.X)
	switch {
	case key.NodePublic(o.Key).ID() != a.Node:
		return nil, fmt.Errorf("%w: signed by another node than it names", ErrRefresh)
	case a.Manifest != m.Hash || a.Epoch == 0 || a.Round == 0:
		return nil, fmt.Errorf("%w: an acknowledgement of another manifest, or of epoch or round 0", ErrRefresh)
	case at < 0 || !holds(a.X, a.Node):
		return nil, fmt.Errorf("%w: the node does not hold the seat x = %d", ErrRefresh, a.X)
	case len(a.Pairs) != m.N():
		return nil, fmt.Errorf("%w: %d pairs for %d seats", ErrRefresh, len(a.Pairs), m.N())
	}
	for i, t := range a.Pairs {
		if t.IsZero() != (i == at) {
			return nil, fmt.Errorf("%w: a pair is missing, or one with itself", ErrRefresh)
		}
	}
	return a, nil
}

// agrees reports whether two acknowledgements of seats of m tell the same of the
// value that their rows have in common.
func (a *EpochAck) agrees(m *Manifest, b *EpochAck) bool {
	return a.Pairs[m.SeatIndex(b.X)] == b.Pairs[m.SeatIndex(a.X)]
}

// Agreeing returns the acknowledgements, verified and of one bundle, that agree
// in every pair: those that agree least go until the rest is of one mind.
// Honest seats agree with one another, so w of them always remain together.
func Agreeing(m *Manifest, acks []*EpochAck) []*EpochAck {
	set := append([]*EpochAck(nil), acks...)
	for {
		least, at := len(set), -1
		for i, a := range set {
			n := 0
			for j, b := range set {
				if i != j && a.X != b.X && a.agrees(m, b) {
					n++
				}
			}
			if n < least {
				least, at = n, i
			}
		}
		if at < 0 || least == len(set)-1 {
			return set
		}
		set = append(set[:at], set[at+1:]...)
	}
}

// Epoch is the proof that w seats have their rows of an epoch on disk. It is not
// signed itself: the acknowledgements in it are.
type Epoch struct {
	key.Head
	Manifest key.Hash     `cbor:"1,keyasint"`
	Bundle   key.Hash     `cbor:"2,keyasint"`
	Epoch    uint32       `cbor:"3,keyasint"`
	Round    uint64       `cbor:"4,keyasint"`
	Acks     []key.Object `cbor:"5,keyasint"` // w to n, ascending by x
}

// Encode returns the bytes of the epoch.
func (e *Epoch) Encode() []byte { return key.Marshal(e) }

// OpenedEpoch is a verified epoch. Immutable.
type OpenedEpoch struct {
	Epoch
	Bytes []byte
	m     *SignedManifest
	acks  []*EpochAck
}

// OpenEpoch verifies an epoch of m: acknowledgements of one bundle by w or more
// distinct seats that agree in every pair. b is kept. Errors wrap [ErrRefresh] or
// those of package key.
func OpenEpoch(net key.NetworkID, b []byte, m *SignedManifest, holds Holds) (*OpenedEpoch, error) {
	return openEpoch(b, m, func(o key.Object) (*EpochAck, error) { return OpenEpochAck(net, o, m, holds) })
}

// ReadEpoch parses an epoch that was verified before, out of a node's own store.
func ReadEpoch(b []byte, m *SignedManifest) (*OpenedEpoch, error) {
	return openEpoch(b, m, func(o key.Object) (*EpochAck, error) {
		a := new(EpochAck)
		if err := key.Unmarshal(o.Body, a); err != nil {
			return nil, err
		}
		if m.SeatIndex(a.X) < 0 || len(a.Pairs) != m.N() {
			return nil, ErrRefresh
		}
		return a, nil
	})
}

func openEpoch(b []byte, m *SignedManifest, open func(key.Object) (*EpochAck, error)) (*OpenedEpoch, error) {
	if len(b) > MaxEpoch {
		return nil, fmt.Errorf("%w: an epoch of %d bytes", ErrRefresh, len(b))
	}
	e := &OpenedEpoch{Bytes: b, m: m}
	if err := key.Unmarshal(b, &e.Epoch); err != nil {
		return nil, err
	}
	switch {
	case e.Manifest != m.Hash || e.Epoch.Epoch == 0 || e.Round == 0:
		return nil, fmt.Errorf("%w: an epoch of another manifest, or epoch or round 0", ErrRefresh)
	case len(e.Acks) < int(m.W) || len(e.Acks) > m.N():
		return nil, fmt.Errorf("%w: %d acknowledgements where %d are needed", ErrRefresh, len(e.Acks), m.W)
	case len(e.Ext) != 0:
		return nil, fmt.Errorf("%w: extensions, which nobody signed", ErrRefresh)
	}
	last := uint8(0)
	for _, o := range e.Acks {
		a, err := open(o)
		if err != nil {
			return nil, err
		}
		if a.Bundle != e.Bundle || a.Manifest != e.Manifest || a.Epoch != e.Epoch.Epoch || a.Round != e.Round {
			return nil, fmt.Errorf("%w: an acknowledgement of another bundle", ErrRefresh)
		}
		if a.X <= last {
			return nil, fmt.Errorf("%w: acknowledgements out of order, or two of one seat", ErrRefresh)
		}
		last = a.X
		for _, o := range e.acks {
			if !a.agrees(&m.Manifest, o) {
				return nil, fmt.Errorf("%w: the rows of x = %d and x = %d do not fit together", ErrRefresh, a.X, o.X)
			}
		}
		e.acks = append(e.acks, a)
	}
	return e, nil
}

// Number is the epoch's number.
func (e *OpenedEpoch) Number() uint32 { return e.Epoch.Epoch }

// Ack is the acknowledgement of seat x in it, or nil.
func (e *OpenedEpoch) Ack(x uint8) *EpochAck {
	for _, a := range e.acks {
		if a.X == x {
			return a
		}
	}
	return nil
}

// Acked are the seats whose acknowledgements are in it, ascending.
func (e *OpenedEpoch) Acked() []uint8 {
	xs := make([]uint8, len(e.acks))
	for i, a := range e.acks {
		xs[i] = a.X
	}
	return xs
}

// CheckRow reports whether row (k vectors of 32 bytes) is the one of seat x in
// this epoch: its values F(x, x') are those that the other acknowledging seats x'
// told, all of them when x acknowledged, k of them when it did not. common
// computes the values from the row.
//
// Why that is enough where at most f = w-k seats lie: a row that is not the right
// one has fewer than k values in common with honest seats. Where x acknowledged,
// w-1 others did, of which f-1 lie if x does: one honest value at least does not
// fit. All pairs inside agree, so its own right row always fits, whatever c it
// told: c is not asked, for a seat that lied about it may be another's by now.
// Where x did not acknowledge, what a liar told of it is checked by nobody, and
// an honest row fits w-f = k; a wrong one may fit too when x and another one lie.
// So the key check of the data key decides last.
func (e *OpenedEpoch) CheckRow(x uint8, row []byte, common func(with uint8) ([]byte, error)) bool {
	m := e.m
	at := m.SeatIndex(x)
	if at < 0 || len(row) != int(m.K)*DataKeySize {
		return false
	}
	fits, need := 0, int(m.K)
	if e.Ack(x) != nil {
		need = len(e.acks) - 1
	}
	for _, a := range e.acks {
		if a.X == x {
			continue
		}
		v, err := common(a.X)
		if err != nil {
			return false
		}
		if PairTag(e.Bundle, x, a.X, v) == a.Pairs[at] {
			fits++
		}
	}
	return fits >= need
}
