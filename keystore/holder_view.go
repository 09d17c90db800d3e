package keystore

import (
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// view is what the holder says of the secret to those who may know: the highest
// version with a certificate and the state of its row, what is pending with its
// receipts, history, and the tombstone. sign signs a promise that is on disk.
func (s *secretState) view(row uint8, sign func(*promise) key.Object) custody.State {
	v := s.brief(row)
	for _, e := range s.pending {
		if e.promised != 0 {
			v.Pending = append(v.Pending, custody.Pending{Manifest: e.Bytes(), Receipt: sign(e.prepared()).Encode()})
		}
	}
	for _, e := range s.history {
		v.History = append(v.History, e.Bytes())
	}
	return v
}

// shown is the view for a node whose manifest of generation gen met what is
// here. Whoever replays an old manifest of somebody else's learns from it only
// that something as high is here: nodes with seats in what is here may see more,
// and so may those that bring something new, which its owner has just signed.
func (s *secretState) shown(f holderFacts, gen uint64, sign func(*promise) key.Object) custody.State {
	if gen > s.top() || s.hasSeat(f.from, f.self) {
		return s.view(s.rowState(), sign)
	}
	return custody.State{Floor: custody.Floor{Gen: s.top()}}
}

// hasSeat reports whether the node is this one, or has a seat in the version in
// force or in what was before it.
func (s *secretState) hasSeat(node, self key.NodeID) bool {
	c := s.current()
	switch {
	case node == self:
		return true
	case c == nil:
		return false
	}
	return slices.ContainsFunc(append([]*version{c.version}, c.before...), func(v *version) bool { return v.SeatOf(node) != nil })
}

// brief is the view without pendings and history.
func (s *secretState) brief(row uint8) custody.State {
	v := custody.State{Floor: s.floor}
	if c := s.current(); c != nil {
		v.Manifest, v.Cert, v.Before, v.Epoch, v.Row = c.Bytes(), c.cert, bytesOf(c.before), c.epoch, row
	}
	if t := s.tombShown(); t != nil {
		v.Tombstone, v.Consent = t.shown()
	}
	return v
}

// shown is the tombstone as it goes into a [custody.State].
func (t *tomb) shown() (tombstone []byte, consent [][]byte) {
	if t.object != nil {
		return t.object, nil
	}
	return t.body, append([][]byte{t.request}, t.approvals...)
}

// tombShown is the tombstone for all generations, or else the last of a single
// one, or nil.
func (s *secretState) tombShown() *tomb {
	switch {
	case len(s.tombs) == 0:
		return nil
	case s.tombs[0].Scope == share.ScopeAll:
		return s.tombs[0]
	}
	return s.tombs[len(s.tombs)-1]
}

// rowState says whether the row of what [secretState.brief] shows is here; its
// bytes are for the caller to check.
func (s *secretState) rowState() uint8 {
	if c := s.current(); c != nil && c.row {
		return custody.RowGood
	}
	return custody.RowNone
}

// wanted is the version that a request asks for, or why there is none here.
// Nothing is released but the committed row, or history by name.
func (s *secretState) wanted(r *share.SignedRequest) (*stored, string) {
	latest := s.current()
	if latest == nil {
		return nil, "nothing is committed here"
	}
	named := r.Gen != 0 || !r.Manifest.IsZero()
	fits := func(e *stored) bool {
		return (r.Gen == 0 || e.Gen == r.Gen) && (r.Manifest.IsZero() || e.Hash == r.Manifest)
	}
	e := latest
	if named && !fits(latest) {
		e = nil
		old := s.history
		if s.committed != nil && s.committed != latest && latest.Keep > 0 {
			old = append([]*stored{s.committed}, old...)
		}
		if i := slices.IndexFunc(old, fits); i >= 0 {
			e = old[i]
		}
	}
	switch {
	case e == nil:
		return nil, "no such generation here"
	case s.covered(e.Gen):
		return nil, "the generation is deleted"
	case !e.row || e.x == 0:
		return nil, "its row is not here"
	}
	return e, ""
}

// release decides, as each holder does alone, whether the row that the request
// asks for may go to its signer: by the policy of the version that is released,
// and for history by the current one too (protocol.md section 7). The outcome is
// OK, Denied or Refused; Denied without a why is for those who may not know.
func (s *secretState) release(f holderFacts, c *consent) (*stored, uint8, string) {
	if c.ID != s.id || !s.isParty(c.Person) {
		return nil, custody.Denied, ""
	}
	e, why := s.wanted(c.SignedRequest)
	if e == nil {
		return nil, custody.Refused, why
	}
	if e.expired(f.now) {
		return nil, custody.Refused, "it has expired"
	}
	if s.behind(f) && c.Person != s.owner {
		return nil, custody.Refused, whyRestored
	}
	for _, v := range []*version{s.current().version, e.version} {
		if ok, missing := c.satisfies(v); !ok {
			return nil, custody.Denied, policyWhy(missing)
		}
	}
	return e, custody.OK, ""
}
