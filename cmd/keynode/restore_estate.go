package main

import (
	"bytes"
	"errors"

	"keymesh/crypto/key"
)

// Estate is what a kit brings back: the secrets of an owner whose machines are
// lost. It lies sealed in the identity from the restore until every secret is
// under the new owner key.
type Estate struct {
	Owner key.PersonPublic  // the lost key
	Index [32]byte          // finds the secrets by name and opens their labels
	Code  key.PersonPrivate // the recovery key; zero: the heir asks as an approver, with a card
	Heir  string            // the person of this node who owns the secrets from now on
}

type estateBody struct {
	_     struct{} `cbor:",toarray"`
	Owner key.PersonPublic
	Index []byte
	Code  []byte // empty: a card
	Heir  string
}

// Erase zeroes the secrets in memory.
func (e *Estate) Erase() {
	e.Code.Erase()
	clear(e.Index[:])
}

func (e *Estate) check() error {
	if key.CheckPublic(e.Owner) != nil || e.Index == [32]byte{} {
		return errors.New("what is being restored lacks its owner or index key")
	}
	return checkLabel("person name", e.Heir)
}

func (e *Estate) body() *estateBody {
	b := &estateBody{Owner: e.Owner, Index: bytes.Clone(e.Index[:]), Code: []byte{}, Heir: e.Heir}
	if !e.Code.IsZero() {
		b.Code = e.Code.Seed()
	}
	return b
}

func (b *estateBody) wipe() {
	clear(b.Index)
	clear(b.Code)
}

func (b *estateBody) estate() (*Estate, error) {
	e := &Estate{Owner: b.Owner, Heir: b.Heir}
	if len(b.Index) != len(e.Index) {
		return nil, errors.New("an index key has 32 bytes")
	}
	copy(e.Index[:], b.Index)
	if len(b.Code) == 0 {
		return e, nil
	}
	var err error
	e.Code, err = key.PersonFromSeed(b.Code)
	return e, err
}
