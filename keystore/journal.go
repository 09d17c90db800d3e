package keystore

import (
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// Kinds of journal records; on disk, never reused.
const (
	journalPut    = 1
	journalDelete = 2
)

// journal is what a writer keeps on its disk of a put or delete under way
// (SPEC.md). The data key and the value are not in it. Its rows stand for the
// value, so the shelf seals it like every record, and a seat's row leaves it
// once that seat has committed.
type journal struct {
	key.Head
	Kind       uint8    `cbor:"1,keyasint"`
	Manifest   []byte   `cbor:"2,keyasint"`
	Rows       [][]byte `cbor:"3,keyasint"` // by seat; empty: that seat has it
	Payload    []byte   `cbor:"4,keyasint"`
	Before     [][]byte `cbor:"5,keyasint"` // prev, then what is forced
	PrevCert   []byte   `cbor:"6,keyasint"`
	PrevBefore [][]byte `cbor:"7,keyasint"`
	Tombstone  []byte   `cbor:"8,keyasint"`
	Consent    []byte   `cbor:"9,keyasint"`
	Digest     key.Hash `cbor:"10,keyasint"` // HMAC of value and wishes under the index key
	Cert       []byte   `cbor:"11,keyasint"`
	Answered   bool     `cbor:"12,keyasint"` // the caller was told that it is stored
	Nodes      [][]byte `cbor:"13,keyasint"` // of a delete: who has not answered yet
	// Conditional: a compare-and-set or if-absent.
	Conditional bool `cbor:"14,keyasint,omitempty"`
	// TombConsent is of Tombstone, when not the owner signed it.
	TombConsent [][]byte `cbor:"15,keyasint,omitempty"`
}

func journalPlace(id key.Hash, gen uint64, h key.Hash) share.Place {
	return share.Place{Bucket: share.BucketJournal, ID: id, Gen: gen, Sub: h}
}

func (w *write) place() share.Place { return journalPlace(w.m.ID, w.m.Gen, w.m.Hash) }

// record is the journal record of the write as it stands.
func (w *write) record() []byte {
	j := &journal{Kind: journalPut, Manifest: w.bytes, Payload: w.ct, Tombstone: w.tomb, Consent: w.consent, Digest: w.digest, Answered: w.answered, Conditional: w.conditional, TombConsent: w.tombConsent}
	missing := false
	for _, seat := range w.m.Seats {
		row := w.rows[seat.Node]
		if w.progress[seat.Node].committed {
			row = nil
		}
		missing = missing || row != nil
		j.Rows = append(j.Rows, row)
	}
	if !missing {
		j.Payload = nil
	}
	for _, b := range w.before {
		j.Before = append(j.Before, b.Bytes())
	}
	if w.prev != nil {
		j.PrevCert, j.PrevBefore = w.prev.cert, w.prev.beforeBytes()
	}
	if w.cert != nil {
		j.Cert = w.cert.cert
	}
	return key.Marshal(j)
}

// loadWrite rebuilds a write from its journal record, which this node sealed
// itself; it is verified all the same, since it decides what is sent.
func (s *Store) loadWrite(b []byte) (*write, error) {
	j := new(journal)
	if err := key.Unmarshal(b, j); err != nil {
		return nil, err
	}
	if j.Kind != journalPut {
		return nil, fmt.Errorf("%w: a journal record of kind %d", key.ErrEncoding, j.Kind)
	}
	m, err := share.OpenManifest(s.cfg.ID, j.Manifest)
	if err != nil {
		return nil, err
	}
	if len(j.Rows) != m.N() {
		return nil, fmt.Errorf("%w: %d rows for %d seats", key.ErrEncoding, len(j.Rows), m.N())
	}
	v := s.newView(m.ID)
	for _, b := range append(j.PrevBefore, j.Before...) {
		if _, err := v.open(b); err != nil {
			return nil, err
		}
	}
	before, err := v.beforeOf(&m.Manifest)
	if err != nil {
		return nil, err
	}
	w := s.newWrite(m, before)
	w.ct, w.tomb, w.consent, w.digest, w.answered, w.journaled = j.Payload, j.Tombstone, j.Consent, j.Digest, j.Answered, true
	w.resumed, w.conditional, w.tombConsent = true, j.Conditional, j.TombConsent
	for i, seat := range m.Seats {
		if len(j.Rows[i]) > 0 {
			w.rows[seat.Node] = j.Rows[i]
		} else {
			p := w.progress[seat.Node]
			p.committed, p.gone, p.state = true, true, "committed"
		}
	}
	if len(j.PrevCert) > 0 && len(before) > 0 {
		if prevBefore, err := v.beforeOf(&before[0].Manifest); err == nil {
			w.prev = &certified{m: before[0], cert: j.PrevCert, before: prevBefore}
		}
	}
	if len(j.Cert) > 0 {
		if w.cert, err = v.certify(m, j.Cert, nil); err != nil {
			return nil, err
		}
	}
	w.resumeAsked(s.cfg.ID)
	return w, nil
}

// readerMark is the reader's memory of one secret.
type readerMark struct {
	key.Head
	Gen      uint64   `cbor:"1,keyasint"`
	Manifest key.Hash `cbor:"2,keyasint"`
	// Unread: only its certificate was seen, its value neither put nor returned.
	Unread bool `cbor:"3,keyasint,omitempty"`
	// When this node last returned the value and last had every seat prove its
	// row, unix seconds, to the hour; 0: never.
	LastRead     uint64 `cbor:"4,keyasint,omitempty"`
	LastVerified uint64 `cbor:"5,keyasint,omitempty"`
}

// touchEvery is how exact those times are kept, in seconds: a get must not cost
// a write.
const touchEvery = 60 * 60

func readerPlace(id key.Hash) share.Place { return share.Place{Bucket: share.BucketReader, ID: id} }

// mark returns the highest generation of the secret that this node ever saw
// certified, from memory or from disk; zero when there is none.
func (s *Store) mark(id key.Hash) (readerMark, error) {
	m, err := s.markOnDisk(id)
	if err != nil {
		return m, err
	}
	if c := s.known.get(id); c != nil && c.m.Gen > m.Gen {
		m.Gen, m.Manifest = c.m.Gen, c.m.Hash
	}
	return m, nil
}

func (s *Store) markOnDisk(id key.Hash) (readerMark, error) {
	var m readerMark
	b, ok := s.finish.unwritten(readerPlace(id))
	if !ok {
		var err error
		if b, err = s.cfg.Shelf.Load(readerPlace(id)); err != nil {
			if s.cfg.Shelf.NotFound(err) {
				return m, nil
			}
			return m, fmt.Errorf("the reader's memory: %w", err)
		}
	}
	if err := key.Unmarshal(b, &m); err != nil {
		return readerMark{}, fmt.Errorf("the reader's memory: %w", err)
	}
	return m, nil
}

// remember keeps what was seen certified, in memory at once and on disk with
// the next batch; read says that its value was put or is returned here. It
// writes only what is more than what is there.
func (s *Store) remember(c *certified, read bool) {
	if !s.known.put(c, read) {
		return
	}
	s.marking.Lock()
	defer s.marking.Unlock()
	m, err := s.markOnDisk(c.m.ID)
	if err == nil && (m.Gen < c.m.Gen || read && m.Unread && m.Manifest == c.m.Hash) {
		m.Gen, m.Manifest, m.Unread = c.m.Gen, c.m.Hash, !read
		s.finish.write(readerPlace(c.m.ID), key.Marshal(&m))
	}
}

// touch notes that now is the time of something that a mark keeps. Where there
// is no mark there is nothing to note it in.
func (s *Store) touch(id key.Hash, when func(*readerMark) *uint64) {
	s.marking.Lock()
	defer s.marking.Unlock()
	m, err := s.markOnDisk(id)
	if err != nil || m.Gen == 0 {
		return
	}
	if t, now := when(&m), unix(); now-*t >= touchEvery || now < *t {
		*t = now
		s.finish.write(readerPlace(id), key.Marshal(&m))
	}
}

// touched are the times that the mark keeps, zero where there is none.
func (s *Store) touched(id key.Hash) (read, verified time.Time) {
	m, err := s.markOnDisk(id)
	if err != nil {
		return
	}
	at := func(t uint64) time.Time {
		if t == 0 {
			return time.Time{}
		}
		return time.Unix(int64(t), 0).UTC()
	}
	return at(m.LastRead), at(m.LastVerified)
}

// hasRead reports whether this node has put this very manifest, or returned its
// value, and remembers nothing higher.
func (s *Store) hasRead(m *share.SignedManifest) bool {
	if s.known.hasRead(m.ID, m.Hash) {
		return true
	}
	mark, err := s.markOnDisk(m.ID)
	return err == nil && mark.Manifest == m.Hash && !mark.Unread
}
