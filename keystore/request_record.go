package keystore

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// requestRecord is the record of a request in [share.BucketRequest]; see
// SPEC.md of package custody.
type requestRecord struct {
	key.Head
	Request   []byte            `cbor:"1,keyasint"`
	Operator  string            `cbor:"2,keyasint"`
	Names     []custody.NameBox `cbor:"3,keyasint"`
	Own       bool              `cbor:"4,keyasint"`
	Words     []wordRecord      `cbor:"5,keyasint"`
	Starts    []startRecord     `cbor:"6,keyasint"`
	Until     uint64            `cbor:"7,keyasint"`
	Closed    uint8             `cbor:"8,keyasint"`
	Confirmed bool              `cbor:"9,keyasint"`
	Released  bool              `cbor:"10,keyasint"`
}

type wordRecord struct {
	_        struct{} `cbor:",toarray"`
	Approval []byte
	Until    uint64
}

type startRecord struct {
	_      struct{} `cbor:",toarray"`
	Policy key.Hash
	Leaf   uint16
	At     uint64
}

// clockRecord is the running time of this node.
type clockRecord struct {
	key.Head
	Seconds uint64 `cbor:"1,keyasint"`
}

// requestPlace is where a holder keeps a request. X tells its records apart
// from those of one who asks (1) and one who is asked (2) at the same node.
func requestPlace(id, hash key.Hash) share.Place {
	return share.Place{Bucket: share.BucketRequest, ID: id, Sub: hash}
}

func clockPlace() share.Place {
	return share.Place{Bucket: share.BucketNode, ID: key.T("keymesh/v1/holder/clock")}
}

func (r *requestState) record() []byte {
	rec := &requestRecord{
		Request: r.bytes, Operator: r.operator, Names: r.names, Own: r.own, Until: r.until,
		Closed: r.closed, Confirmed: r.confirmed, Released: r.released,
	}
	for _, w := range r.words {
		rec.Words = append(rec.Words, wordRecord{Approval: w.bytes, Until: w.until})
	}
	for _, s := range r.starts {
		rec.Starts = append(rec.Starts, startRecord{Policy: s.policy, Leaf: uint16(s.leaf), At: s.at})
	}
	return key.Marshal(rec)
}

var errRequestRecord = errors.New("the record of a request")

// requestOf reads a record that this node wrote at this place.
func requestOf(net key.NetworkID, at share.Place, b []byte) (*requestState, error) {
	var rec requestRecord
	if err := key.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("%w: %w", errRequestRecord, err)
	}
	r, err := share.ReadRequest(net, rec.Request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRequestRecord, err)
	}
	if r.ID != at.ID || r.Hash != at.Sub || rec.Closed > custody.Withdrawn {
		return nil, errRequestRecord
	}
	out := &requestState{
		SignedRequest: r, bytes: rec.Request, operator: rec.Operator, names: rec.Names, own: rec.Own,
		until: rec.Until, closed: rec.Closed, confirmed: rec.Confirmed, released: rec.Released,
	}
	for _, w := range rec.Words {
		a, err := share.ReadApproval(net, w.Approval)
		if err != nil || a.Subject != r.Hash {
			return nil, errRequestRecord
		}
		out.words = append(out.words, &word{Approval: a, bytes: w.Approval, hash: wordHash(net, w.Approval), until: w.Until})
	}
	for _, s := range rec.Starts {
		out.starts = append(out.starts, delayStart{policy: s.Policy, leaf: int(s.Leaf), at: s.At})
	}
	return out, nil
}

// wordHash is H(approval) of a verified one.
func wordHash(net key.NetworkID, b []byte) key.Hash {
	o, err := key.DecodeObject(b)
	if err != nil {
		return key.Hash{}
	}
	return o.Hash(net)
}
