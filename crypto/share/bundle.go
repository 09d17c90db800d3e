package share

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// ErrBundle: the bytes are no receipt of a recovery, or something in it does not
// verify or belongs to another recovery.
var ErrBundle = errors.New("invalid receipt of a recovery")

// Limits of a receipt.
const (
	MaxBundle          = 64 << 10 // bytes
	MaxBundleApprovals = 64
)

// BundleBody is what a receipt of a recovery is made of: signed objects as they
// were signed. It needs no signature of its own.
type BundleBody struct {
	key.Head
	Network   key.NetworkID `cbor:"1,keyasint"`
	Manifest  []byte        `cbor:"2,keyasint"`
	Request   []byte        `cbor:"3,keyasint"`
	Approvals [][]byte      `cbor:"4,keyasint"` // ascending by person
	Releases  [][]byte      `cbor:"5,keyasint"` // k of them, ascending by x
	// Reassigns are those of the seats in Releases, ascending by x and seq.
	Reassigns [][]byte `cbor:"6,keyasint,omitempty"`
}

// Bundle is a receipt whose every part was verified: this person asked for this
// secret, these approved, and k holders of it say that they gave their rows to
// this very request. Whether the words satisfy the policy of the manifest is for
// the caller to judge, and that a delay passed is the holders' word.
type Bundle struct {
	Network   key.NetworkID
	Manifest  *SignedManifest
	Request   *SignedRequest
	Approvals []*Approval
	Releases  []*Release
	// Moves are the Reassigns of the seats among the releases. Those by the owner
	// count as if its word alone satisfied the policy, which is the caller's to
	// judge as well.
	Moves []*SignedReassign
}

// PackBundle puts a receipt together of parts that were verified before, which
// may come in any order. Of moves those of seats among
// the releases are taken. It verifies nothing: see [OpenBundle].
func PackBundle(net key.NetworkID, m *SignedManifest, r *SignedRequest, approvals, releases [][]byte, moves ...*SignedReassign) []byte {
	b := &BundleBody{Network: net, Manifest: m.Bytes(), Request: r.Object.Encode()}
	moves = slices.Clone(moves)
	slices.SortFunc(moves, func(x, y *SignedReassign) int { return cmp.Or(int(x.X)-int(y.X), int(x.Seq)-int(y.Seq)) })
	for _, mv := range moves {
		if slices.ContainsFunc(releases, func(raw []byte) bool { return seatOf(raw) == mv.X }) {
			b.Reassigns = append(b.Reassigns, mv.Bytes())
		}
	}
	b.Approvals, b.Releases = slices.Clone(approvals), slices.Clone(releases)
	slices.SortFunc(b.Approvals, func(x, y []byte) int {
		p, q := signerOf(x), signerOf(y)
		return bytes.Compare(p[:], q[:])
	})
	slices.SortFunc(b.Releases, func(x, y []byte) int { return int(seatOf(x)) - int(seatOf(y)) })
	return key.Marshal(b)
}

func signerOf(b []byte) [32]byte {
	o, err := key.DecodeObject(b)
	if err != nil {
		return [32]byte{}
	}
	return o.Key
}

func seatOf(b []byte) uint8 {
	var r Release
	if o, err := key.DecodeObject(b); err != nil || key.Unmarshal(o.Body, &r) != nil {
		return 0
	}
	return r.X
}

// BundleNetwork returns the network that a receipt says it is of, before
// anything of it is verified.
func BundleNetwork(b []byte) (key.NetworkID, error) {
	body, err := decodeBundle(b)
	if err != nil {
		return key.NetworkID{}, err
	}
	return body.Network, nil
}

func decodeBundle(b []byte) (*BundleBody, error) {
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("%w: %d bytes", ErrBundle, len(b))
	}
	body := new(BundleBody)
	if err := key.Unmarshal(b, body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if len(body.Ext) != 0 {
		return nil, fmt.Errorf("%w: extensions, which nobody signed", ErrBundle)
	}
	return body, nil
}

// OpenBundle verifies a receipt of network net, offline: every signature, that
// every part is about the same request and manifest, that each approval is of
// another person and says yes, and that exactly k releases are of distinct seats
// of the manifest. Nothing in it can be changed, left out of the releases, or
// added. It does not ask the clock: a receipt never expires. Errors wrap
// [ErrBundle].
func OpenBundle(net key.NetworkID, b []byte) (*Bundle, error) {
	body, err := decodeBundle(b)
	if err != nil {
		return nil, err
	}
	if body.Network != net {
		return nil, fmt.Errorf("%w: of another network", ErrBundle)
	}
	out := &Bundle{Network: net}
	if out.Manifest, err = OpenManifest(net, body.Manifest); err != nil {
		return nil, fmt.Errorf("%w: the manifest: %w", ErrBundle, err)
	}
	if out.Request, err = ReadRequest(net, body.Request); err != nil {
		return nil, fmt.Errorf("%w: the request: %w", ErrBundle, err)
	}
	m, r := out.Manifest, out.Request
	switch {
	case r.Verb != VerbRecover || r.ID != m.ID:
		return nil, fmt.Errorf("%w: the request is for something else", ErrBundle)
	case r.Gen != 0 && r.Gen != m.Gen, !r.Manifest.IsZero() && r.Manifest != m.Hash:
		return nil, fmt.Errorf("%w: the request is for another generation", ErrBundle)
	}
	if err := out.openApprovals(body.Approvals); err != nil {
		return nil, err
	}
	place, err := out.openReassigns(body.Reassigns)
	if err != nil {
		return nil, err
	}
	out.Moves = place.Moves()
	if err := out.openReleases(place, body.Releases); err != nil {
		return nil, err
	}
	return out, nil
}

func (b *Bundle) openApprovals(list [][]byte) error {
	if len(list) > MaxBundleApprovals {
		return fmt.Errorf("%w: %d approvals", ErrBundle, len(list))
	}
	for _, raw := range list {
		a, err := ReadApproval(b.Network, raw)
		switch {
		case err != nil:
			return fmt.Errorf("%w: an approval: %w", ErrBundle, err)
		case a.Subject != b.Request.Hash || a.Verdict != VerdictApprove:
			return fmt.Errorf("%w: an approval of something else", ErrBundle)
		case len(b.Approvals) > 0 && bytes.Compare(b.Approvals[len(b.Approvals)-1].Person[:], a.Person[:]) >= 0:
			return fmt.Errorf("%w: approvals out of order, or two of one person", ErrBundle)
		}
		b.Approvals = append(b.Approvals, a)
	}
	return nil
}

func (b *Bundle) openReassigns(list [][]byte) (*Placement, error) {
	place := NewPlacement(b.Manifest, true) // whether it is, is for who judges the policy
	var last *SignedReassign
	for _, raw := range list {
		r, err := OpenReassign(b.Network, raw, b.Manifest)
		if err != nil {
			return nil, fmt.Errorf("%w: a reassignment: %w", ErrBundle, err)
		}
		if _, err := place.Add(r); err != nil || last != nil && (r.X < last.X || r.X == last.X && r.Seq <= last.Seq) {
			return nil, fmt.Errorf("%w: a reassignment that is not the next of its seat", ErrBundle)
		}
		last = r
	}
	return place, nil
}

func (b *Bundle) openReleases(place *Placement, list [][]byte) error {
	if len(list) != int(b.Manifest.K) {
		return fmt.Errorf("%w: %d releases where %d make a recovery", ErrBundle, len(list), b.Manifest.K)
	}
	last := uint8(0)
	needed := 0
	for _, raw := range list {
		r, err := OpenRelease(b.Network, raw)
		if err != nil {
			return fmt.Errorf("%w: a release: %w", ErrBundle, err)
		}
		x := place.SeatOf(r.Node)
		switch {
		case r.Request != b.Request.Hash || r.Manifest != b.Manifest.Hash:
			return fmt.Errorf("%w: a release to another request or of another manifest", ErrBundle)
		case x == 0 || x != r.X || r.X <= last:
			return fmt.Errorf("%w: a release of no seat, two of one, or out of order", ErrBundle)
		case len(b.Releases) > 0 && b.Releases[0].Epoch != r.Epoch:
			return fmt.Errorf("%w: rows of two epochs", ErrBundle)
		}
		if m := place.Last(r.X); m != nil {
			needed += int(m.Seq)
		}
		last = r.X
		b.Releases = append(b.Releases, r)
	}
	if needed != len(place.Moves()) {
		return fmt.Errorf("%w: a reassignment of no seat in it", ErrBundle)
	}
	return nil
}
