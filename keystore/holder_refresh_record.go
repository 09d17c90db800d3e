package keystore

import (
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// What the record of a secret has of refreshes, beside its versions.

// epochRecord is the Epoch of a version's row in force.
type epochRecord struct {
	_        struct{} `cbor:",toarray"`
	Manifest key.Hash
	Epoch    []byte
	Since    uint64 // unix seconds
}

// refreshRecord is a refresh that is not over.
type refreshRecord struct {
	_         struct{} `cbor:",toarray"`
	Manifest  key.Hash
	Epoch     uint32
	Round     uint64
	Bundle    key.Hash
	Dealt     []dealtRow
	Now       []dealtRow // none or one
	Base      []baseRecord
	Ahead     []byte
	Committed []seatWord
}

type baseRecord struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint32
	Proof []byte // empty for epoch 0
}

func (s *secretState) epochRecords() (epochs []epochRecord, refreshes []refreshRecord) {
	for _, e := range s.entries() {
		if e.proof != nil {
			epochs = append(epochs, epochRecord{Manifest: e.Hash, Epoch: e.proof.Bytes, Since: e.since})
		}
		if e.refresh != nil {
			refreshes = append(refreshes, e.refresh.record(e.Hash))
		}
	}
	return epochs, refreshes
}

func (r *refreshing) record(manifest key.Hash) refreshRecord {
	out := refreshRecord{Manifest: manifest, Epoch: r.epoch, Round: r.round, Bundle: r.bundle, Dealt: r.dealt, Committed: r.committed}
	if !r.now.Dealt.IsZero() {
		out.Now = []dealtRow{r.now}
	}
	if r.base != nil {
		b := baseRecord{Epoch: r.base.epoch}
		if r.base.proof != nil {
			b.Proof = r.base.proof.Bytes
		}
		out.Base = []baseRecord{b}
	}
	if r.ahead != nil {
		out.Ahead = r.ahead.Bytes
	}
	return out
}

// readEpochs reads what the record has, once the versions are read.
func (s *secretState) readEpochs(rec *stateRecord) error {
	for _, r := range rec.Epochs {
		e := s.find(r.Manifest)
		if e == nil {
			return fmt.Errorf("%w: of no version here", share.ErrRefresh)
		}
		var err error
		if e.proof, err = share.ReadEpoch(r.Epoch, e.SignedManifest); err != nil {
			return err
		}
		e.since = r.Since
	}
	for _, r := range rec.Refreshes {
		e := s.find(r.Manifest)
		if e == nil || len(r.Now) > 1 || len(r.Base) > 1 {
			return fmt.Errorf("%w: of no version here", share.ErrRefresh)
		}
		var err error
		if e.refresh, err = r.read(e.version); err != nil {
			return err
		}
	}
	for _, e := range s.entries() {
		if e.row && (e.epoch == 0) != (e.proof == nil) || e.proof != nil && e.proof.Number() != e.epoch {
			return fmt.Errorf("%w: a row of epoch %d with another Epoch", share.ErrRefresh, e.epoch)
		}
	}
	return nil
}

func (r *refreshRecord) read(v *version) (*refreshing, error) {
	out := &refreshing{epoch: r.Epoch, round: r.Round, bundle: r.Bundle, dealt: r.Dealt, committed: r.Committed}
	if len(r.Now) == 1 {
		out.now = r.Now[0]
	}
	var err error
	if len(r.Base) == 1 {
		out.base = &baseRow{epoch: r.Base[0].Epoch}
		if len(r.Base[0].Proof) > 0 {
			if out.base.proof, err = share.ReadEpoch(r.Base[0].Proof, v.SignedManifest); err != nil {
				return nil, err
			}
		}
	}
	if len(r.Ahead) > 0 {
		out.ahead, err = share.ReadEpoch(r.Ahead, v.SignedManifest)
	}
	return out, err
}
