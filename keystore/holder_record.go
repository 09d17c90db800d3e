package keystore

import (
	"bytes"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// The record of one secret in [share.BucketState]; see SPEC.md of package
// custody. Rows and payloads have records of their own.
type stateRecord struct {
	key.Head
	Owner     key.PersonPublic   `cbor:"1,keyasint"`
	Floor     custody.Floor      `cbor:"2,keyasint"`
	Committed []storedRecord     `cbor:"3,keyasint"` // none or one
	Kept      []storedRecord     `cbor:"4,keyasint"` // none or one
	Pending   []storedRecord     `cbor:"5,keyasint"`
	History   []storedRecord     `cbor:"6,keyasint"`
	Tombs     []tombRecord       `cbor:"7,keyasint"`
	Parties   []key.PersonPublic `cbor:"8,keyasint"` // who may know, but the owner; ascending
	Operator  string             `cbor:"9,keyasint"` // whose quota the record is in
	Marks     []mark             `cbor:"10,keyasint,omitempty"`
	Cleared   uint64             `cbor:"15,keyasint,omitempty"` // the restoration after which enough seats were heard
	Reassign  *reassignRecord    `cbor:"11,keyasint,omitempty"`
	Epochs    []epochRecord      `cbor:"12,keyasint,omitempty"`
	Refreshes []refreshRecord    `cbor:"13,keyasint,omitempty"`
	Words     *wordsRecord       `cbor:"16,keyasint,omitempty"`
}

type storedRecord struct {
	_           struct{} `cbor:",toarray"`
	Manifest    []byte
	Cert        []byte
	Before      [][]byte
	X           uint8
	Row         bool
	Epoch       uint32
	Promised    uint64
	CommittedAt uint64
	Operator    string
	Distance    uint8
	Size        uint64 // what it is charged with, bytes
	Expires     uint64 // of the manifest
}

type tombRecord struct {
	_         struct{} `cbor:",toarray"`
	Hash      key.Hash // H(tombstone)
	Object    []byte
	Body      []byte
	Request   []byte
	Approvals [][]byte
	At        uint64
	X         uint8
	Seats     []key.NodeID // the other seats of what it deleted here
}

// writes collects the records of a step.
type writes struct{ list []share.Record }

func (w *writes) put(p share.Place, v []byte) {
	w.list = append(w.list, share.Record{Place: p, Value: v})
}

// drop deletes the row and payload of a version.
func (w *writes) drop(e *stored) {
	if e.row {
		w.list = append(w.list, share.Record{Place: rowPlace(e)}, share.Record{Place: payloadPlace(e)})
		w.dropRefresh(e, false)
	}
}

func statePlace(id key.Hash) share.Place { return share.Place{Bucket: share.BucketState, ID: id} }

func rowPlace(e *stored) share.Place {
	return share.Place{Bucket: share.BucketRow, ID: e.ID, Gen: e.Gen, Epoch: e.epoch, X: e.x, Sub: e.Hash}
}

func payloadPlace(e *stored) share.Place {
	return share.Place{Bucket: share.BucketPayload, ID: e.ID, Gen: e.Gen, Sub: e.Hash}
}

// records are what must be on disk, in one transaction, before the result is
// told to anyone. None when nothing changed.
func (r stepResult) records() []share.Record {
	if r.next == nil {
		return nil
	}
	rec := share.Record{Place: statePlace(r.next.id)}
	if !r.next.blank() {
		rec.Value = key.Marshal(r.next.record())
	}
	return append(r.writes, rec)
}

func (s *secretState) record() *stateRecord {
	one := func(e *stored) []storedRecord {
		if e == nil {
			return nil
		}
		return recordsOf([]*stored{e})
	}
	r := &stateRecord{
		Owner: s.owner, Floor: s.floor, Committed: one(s.committed), Kept: one(s.kept),
		Pending: recordsOf(s.pending), History: recordsOf(s.history), Parties: s.parties(), Operator: s.operator,
		Reassign: s.reassignRecord(),
		Words:    s.wordsRecord(),
		Marks:    s.liveMarks(),
		Cleared:  s.cleared,
	}
	r.Epochs, r.Refreshes = s.epochRecords()
	for _, t := range s.tombs {
		r.Tombs = append(r.Tombs, tombRecord{Hash: t.hash, Object: t.object, Body: t.body, Request: t.request, Approvals: t.approvals, At: t.at, X: t.x, Seats: t.seats})
	}
	return r
}

func recordsOf(list []*stored) []storedRecord {
	out := make([]storedRecord, len(list))
	for i, e := range list {
		out[i] = storedRecord{
			Manifest: e.Bytes(), Cert: e.cert, Before: bytesOf(e.before), X: e.x, Row: e.row, Epoch: e.epoch,
			Promised: e.promised, CommittedAt: e.committedAt, Operator: e.operator, Distance: e.distance, Size: uint64(e.size()), Expires: e.Expires,
		}
	}
	return out
}

func bytesOf(vs []*version) [][]byte {
	out := make([][]byte, len(vs))
	for i, v := range vs {
		out[i] = v.Bytes()
	}
	return out
}

// parties are the persons beside the owner who may know of the secret:
// ascending, each once.
func (s *secretState) parties() []key.PersonPublic {
	var out []key.PersonPublic
	for _, v := range s.versionsForParties() {
		if v.policy != nil {
			out = append(out, v.policy.Persons()...)
		}
	}
	out = slices.DeleteFunc(out, func(p key.PersonPublic) bool { return p == s.owner || p.IsZero() })
	slices.SortFunc(out, func(a, b key.PersonPublic) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

// versions are all that are here in any role.
func (s *secretState) versions() []*version {
	var out []*version
	for _, e := range s.entries() {
		out = append(append(out, e.version), e.before...)
	}
	return out
}

// entries are the versions that this holder has as its own.
func (s *secretState) entries() []*stored {
	all := append(append([]*stored{s.committed, s.kept}, s.pending...), s.history...)
	return slices.DeleteFunc(all, func(e *stored) bool { return e == nil })
}

// versionsForParties: those of the version in force, or, before there is one,
// those of what is pending.
func (s *secretState) versionsForParties() []*version {
	if c := s.current(); c != nil {
		return []*version{c.version}
	}
	out := make([]*version, 0, len(s.pending)+len(s.history))
	for _, e := range append(slices.Clone(s.pending), s.history...) {
		out = append(out, e.version)
	}
	return out
}

// isParty reports whether the person may know of the secret.
func (s *secretState) isParty(p key.PersonPublic) bool {
	if p == s.owner {
		return !p.IsZero()
	}
	return slices.ContainsFunc(s.versionsForParties(), func(v *version) bool { return v.isParty(p) })
}

// stateOf reads a record that this node wrote. Its signatures were verified
// then, and the store's seal binds it to its place.
func stateOf(net key.NetworkID, id key.Hash, r *stateRecord, open func([]byte) (*version, error)) (*secretState, error) {
	s := &secretState{id: id, owner: r.Owner, operator: r.Operator, floor: r.Floor, marks: r.Marks, cleared: r.Cleared}
	d := recordReader{open: open, id: id}
	s.pending, s.history = d.list(r.Pending), d.list(r.History)
	if l := d.list(r.Committed); len(l) == 1 {
		s.committed = l[0]
	}
	if l := d.list(r.Kept); len(l) == 1 {
		s.kept = l[0]
	}
	for _, t := range r.Tombs {
		s.tombs = append(s.tombs, d.tomb(net, t))
	}
	if d.err == nil {
		d.err = s.readMoves(net, r.Reassign)
		s.readWords(r.Words)
	}
	if d.err == nil {
		d.err = s.readEpochs(r)
	}
	if d.err != nil || len(r.Committed) > 1 || len(r.Kept) > 1 {
		return nil, fmt.Errorf("the record of a secret: %w: %v", key.ErrEncoding, d.err)
	}
	return s, nil
}

// recordReader keeps the first error.
type recordReader struct {
	open func([]byte) (*version, error)
	id   key.Hash
	err  error
}

func (d *recordReader) version(b []byte) *version {
	v, err := d.open(b)
	if err == nil && v.ID != d.id {
		err = fmt.Errorf("a manifest of another secret")
	}
	if err != nil && d.err == nil {
		d.err = err
	}
	return v
}

func (d *recordReader) list(in []storedRecord) []*stored {
	var out []*stored
	for _, r := range in {
		e := &stored{
			version: d.version(r.Manifest), cert: r.Cert, x: r.X, row: r.Row, epoch: r.Epoch,
			promised: r.Promised, committedAt: r.CommittedAt, operator: r.Operator, distance: r.Distance,
		}
		for _, b := range r.Before {
			e.before = append(e.before, d.version(b))
		}
		out = append(out, e)
	}
	return out
}

func (d *recordReader) tomb(net key.NetworkID, r tombRecord) *tomb {
	body := r.Body
	if len(r.Object) != 0 {
		o, err := key.DecodeObject(r.Object)
		if err != nil && d.err == nil {
			d.err = err
		}
		body = o.Body
	}
	t, err := newTomb(net, body)
	if err != nil {
		if d.err == nil {
			d.err = err
		}
		return nil
	}
	t.object, t.body, t.request, t.approvals = r.Object, r.Body, r.Request, r.Approvals
	t.at, t.x, t.seats = r.At, r.X, r.Seats
	return t
}

// newTomb parses a tombstone's body; who may authorise it is not judged.
func newTomb(net key.NetworkID, body []byte) (*tomb, error) {
	if len(body) > share.MaxTombstone {
		return nil, fmt.Errorf("%w: %d bytes", share.ErrTombstone, len(body))
	}
	t := &tomb{hash: key.HashBody(net, key.TypeTombstone, body)}
	if err := key.Unmarshal(body, &t.Tombstone); err != nil {
		return nil, err
	}
	if share.ID(t.Owner, t.Salt) != t.ID || t.Gen == 0 || (t.Scope != share.ScopeOne && t.Scope != share.ScopeAll) {
		return nil, share.ErrTombstone
	}
	return t, nil
}

// readVersion parses a manifest out of this node's own store.
func readVersion(net key.NetworkID, b []byte) (*version, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	m := &share.SignedManifest{Object: o, Hash: o.Hash(net)}
	if o.Type != key.TypeManifest {
		return nil, key.ErrType
	}
	if err := key.Unmarshal(o.Body, &m.Manifest); err != nil {
		return nil, err
	}
	return newVersion(m), nil
}
