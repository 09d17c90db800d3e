package roster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
)

// HintLife is how long the addresses of an expired record are kept.
const HintLife = 365 * 24 * time.Hour

// MaxEntries bounds the records of a roster. A network larger than this is
// outside of what version 1 is built for; the newest strangers are refused.
const MaxEntries = 4096

var (
	// ErrOld: the roster has this seq or a higher one. Not an offence.
	ErrOld = errors.New("not newer than what is known")
	// ErrRevoked: the node or its issuer was revoked.
	ErrRevoked = errors.New("revoked")
	// ErrFuture: the record ends more than 26 h from now.
	ErrFuture = errors.New("the record ends too far in the future")
	// ErrStale: the record ended more than a year ago.
	ErrStale = errors.New("the record ended long ago")
	// ErrFull: the roster holds as many records as it may.
	ErrFull = errors.New("the roster is full")
)

// Have names one version of an item of a roster: a node's record, or, by
// [Revoker], a signer's revocations.
type Have struct {
	_   struct{} `cbor:",toarray"`
	ID  key.Hash
	Seq uint64
}

// Item is one thing that spreads: a NodeRecord alone, or a Revocation with the
// IssuerCert of its signer (zero when the authority signed it).
type Item struct {
	_      struct{} `cbor:",toarray"`
	Object key.Object
	Issuer key.Object
}

type revocations struct {
	item Item
	body Revocation
	byNA bool
}

// Roster is the whole known membership of one network. Not safe for concurrent
// use.
type Roster struct {
	network key.NetworkID
	records map[key.NodeID]*Record
	lists   map[key.Hash]*revocations
	nodes   map[key.NodeID]bool          // revoked, by lists that count
	issuers map[key.AuthorityPublic]bool // revoked, by the authority
	nbf     time.Time                    // highest signed beginning seen
	digest  *Digest                      // nil: to be computed
}

// New returns an empty roster of the network.
func New(network key.NetworkID) *Roster {
	return &Roster{
		network: network,
		records: map[key.NodeID]*Record{},
		lists:   map[key.Hash]*revocations{},
		nodes:   map[key.NodeID]bool{},
		issuers: map[key.AuthorityPublic]bool{},
	}
}

// Accept merges a record as protocol.md section 5 says: iff signature and
// certificates hold, seq is higher, nothing is revoked, exp <= now + 26 h and
// size <= 1.5 KiB (the rate is the caller's part). It returns the record that
// was stored. A record whose certificates expired is stored as well: its node
// is lapsed, and its seats are still to be reached. Errors wrap [ErrOld],
// [ErrRevoked], [ErrFuture], [ErrStale], [ErrFull] or those of [VerifyRecord];
// nothing changes then.
func (r *Roster) Accept(o key.Object, now time.Time) (*Record, error) {
	body, err := ParseRecord(o)
	if err != nil {
		return nil, err
	}
	// What is cheap to refuse is refused before a signature is looked at.
	if err := r.due(&body, now); err != nil {
		return nil, err
	}
	rec, err := verifyRecord(r.network, o, r.records[body.Node])
	if err != nil {
		return nil, err
	}
	if err := r.Put(rec, now); err != nil {
		return nil, err
	}
	return rec, nil
}

// Put merges a record that [VerifyRecord] or [VerifyAfter] returned, by the
// same rule as [Roster.Accept].
func (r *Roster) Put(rec *Record, now time.Time) error {
	if err := r.due(&rec.Body, now); err != nil {
		return err
	}
	if r.Revoked(rec.Body.Node, rec.Chain) {
		return ErrRevoked
	}
	r.records[rec.Body.Node] = rec
	r.digest = nil
	r.Saw(rec.Chain)
	return nil
}

func (r *Roster) due(body *NodeRecord, now time.Time) error {
	prev := r.records[body.Node]
	switch {
	case prev != nil && prev.Body.Seq >= body.Seq:
		return ErrOld
	case body.Expires > uint64(max(now.Add(MaxRecordLife).Unix(), 0)):
		return ErrFuture
	case now.Unix() > int64(body.Expires)+int64(HintLife/time.Second):
		return ErrStale
	case prev == nil && len(r.records) >= MaxEntries:
		return ErrFull
	case r.nodes[body.Node]:
		return ErrRevoked
	}
	return nil
}

// Saw notes the beginning of a verified chain.
func (r *Roster) Saw(c Chain) {
	if t := c.NotBefore(); t.After(r.nbf) {
		r.nbf = t
	}
}

// SawTime raises the highest beginning to a stored one.
func (r *Roster) SawTime(t time.Time) {
	if t.After(r.nbf) {
		r.nbf = t
	}
}

// NotBefore returns the highest beginning signed by an issuer or the authority
// that was seen: a clock below it is wrong. Zero when none was seen.
func (r *Roster) NotBefore() time.Time { return r.nbf }

// Revoked reports whether the node or the issuer of its chain was revoked.
func (r *Roster) Revoked(id key.NodeID, c Chain) bool {
	return r.nodes[id] || r.issuers[c.Issuer.Issuer]
}

// RevokedNode reports whether the node was revoked by its id or, when the
// roster has its record, with its issuer.
func (r *Roster) RevokedNode(id key.NodeID) bool {
	rec := r.records[id]
	return r.nodes[id] || rec != nil && r.issuers[rec.Chain.Issuer.Issuer]
}

// Revoke merges a list: iff it verifies, its signer is no revoked issuer, seq
// is higher than that signer's last, and it holds all that the last one held.
// Errors wrap [ErrOld], [ErrRevoked] or those of [VerifyRevocation].
func (r *Roster) Revoke(it Item) error {
	id := Revoker(it.Object.Key)
	body, err := VerifyRevocation(r.network, it.Object, it.Issuer)
	if err != nil {
		return err
	}
	if prev := r.lists[id]; prev != nil {
		if prev.body.Seq >= body.Seq {
			return ErrOld
		}
		if !covers(body, prev.body) {
			return fmt.Errorf("%w: a Revocation that takes something back", ErrInvalid)
		}
	}
	byNA := key.AuthorityPublic(it.Object.Key).Network() == r.network
	if byNA {
		it.Issuer = key.Object{}
	} else if r.issuers[it.Object.Key] {
		return ErrRevoked
	}
	r.lists[id] = &revocations{item: it, body: body, byNA: byNA}
	r.recount()
	return nil
}

func covers(a, b Revocation) bool {
	for _, n := range b.Nodes {
		if _, ok := slices.BinarySearchFunc(a.Nodes, n, func(x, y key.NodeID) int { return bytes.Compare(x[:], y[:]) }); !ok {
			return false
		}
	}
	for _, n := range b.Issuers {
		if !slices.Contains(a.Issuers, n) {
			return false
		}
	}
	return true
}

// recount rebuilds what the lists say. Lists of a revoked issuer do not count:
// a stolen issuer key must not be able to shut others out for ever.
func (r *Roster) recount() {
	clear(r.nodes)
	clear(r.issuers)
	for _, l := range r.lists {
		for _, i := range l.body.Issuers {
			r.issuers[i] = true
		}
	}
	for _, l := range r.lists {
		if !l.byNA && r.issuers[l.item.Object.Key] {
			continue
		}
		for _, n := range l.body.Nodes {
			r.nodes[n] = true
		}
	}
	r.digest = nil
}

// Revocations returns the signer's current list, to be extended; the zero
// value when there is none.
func (r *Roster) Revocations(signer key.AuthorityPublic) Revocation {
	if l := r.lists[Revoker(signer)]; l != nil {
		return Revocation{Seq: l.body.Seq, Nodes: slices.Clone(l.body.Nodes), Issuers: slices.Clone(l.body.Issuers)}
	}
	return Revocation{}
}

// Get returns the node's record, or nil.
func (r *Roster) Get(id key.NodeID) *Record { return r.records[id] }

// Len returns the number of records.
func (r *Roster) Len() int { return len(r.records) }

// All returns every record, revoked and expired ones too, in the order of ids.
func (r *Roster) All() []*Record {
	out := make([]*Record, 0, len(r.records))
	for _, rec := range r.records {
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b *Record) int { return bytes.Compare(a.Body.Node[:], b.Body.Node[:]) })
	return out
}

// Live counts the members whose records have not ended and who are not
// revoked: those that are part of the mesh now.
func (r *Roster) Live(now time.Time) int {
	k := 0
	for id, rec := range r.records {
		if !rec.Expired(now) && !r.Revoked(id, rec.Chain) {
			k++
		}
	}
	return k
}

// Prune drops records that ended more than a year ago and returns their ids.
func (r *Roster) Prune(now time.Time) []key.NodeID {
	var out []key.NodeID
	for id, rec := range r.records {
		if now.Unix() > int64(rec.Body.Expires)+int64(HintLife/time.Second) {
			delete(r.records, id)
			out = append(out, id)
			r.digest = nil
		}
	}
	return out
}
