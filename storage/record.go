package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

const (
	// MaxValue is the largest value of a record, in bytes.
	MaxValue = 2 << 20
	// MaxCommit is the most that one Commit may carry, in bytes of values and
	// overhead.
	MaxCommit = 16 << 20
	// Overhead is how much longer a record is on disk than its value, without
	// its key of 8 bytes and the tree.
	Overhead = recordHead + placeBox + seal.BoxOverhead

	recordHead = 1 + 4 // format, key epoch
	placeSize  = 1 + 32 + 8 + 4 + 1 + 32
	placeBox   = placeSize + seal.BoxOverhead
)

const (
	placeAAD = "keymesh/v1/store/place"
	valueAAD = "keymesh/v1/store/value"
)

// appendPlace appends the fixed form of a place: bucket, id, generation,
// epoch, x (protocol.md section 3, "At rest") and sub.
func appendPlace(b []byte, p share.Place) []byte {
	b = append(b, byte(p.Bucket))
	b = append(b, p.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Gen)
	b = binary.BigEndian.AppendUint32(b, p.Epoch)
	b = append(b, p.X)
	return append(b, p.Sub[:]...)
}

func parsePlace(b []byte) share.Place {
	return share.Place{
		Bucket: share.Bucket(b[0]),
		ID:     key.Hash(b[1:33]),
		Gen:    binary.BigEndian.Uint64(b[33:41]),
		Epoch:  binary.BigEndian.Uint32(b[41:45]),
		X:      b[45],
		Sub:    key.Hash(b[46:78]),
	}
}

// recordAAD binds a box to the store, its sequence and the epoch of its key.
func recordAAD(label string, id storeID, seq uint64, epoch uint32) []byte {
	b := make([]byte, 0, len(label)+len(id)+8+4+placeSize)
	b = append(b, label...)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, seq)
	return binary.BigEndian.AppendUint32(b, epoch)
}

// sealRecord returns what stands in the file at seq: the format, the epoch of
// the key, the sealed place and the sealed value. The place has its own box, so
// that damage to a value leaves it known.
func (s *sealer) sealRecord(seq uint64, p share.Place, value []byte) []byte {
	epoch, k := s.keys.current()
	place := appendPlace(make([]byte, 0, placeSize), p)
	out := make([]byte, 0, Overhead+len(value))
	out = append(out, format)
	out = binary.BigEndian.AppendUint32(out, epoch)
	out = append(out, seal.Box(k, recordAAD(placeAAD, s.id, seq, epoch), place)...)
	return append(out, seal.Box(k, append(recordAAD(valueAAD, s.id, seq, epoch), place...), value)...)
}

// sealer holds what seals the records of one store. It is read-only between
// Open and Close and safe for concurrent use.
type sealer struct {
	id   storeID
	keys epochKeys
	set  [32]byte // key of the set digest
}

var errBox = errors.New("does not open")

// openPlace returns the place of the record at seq.
func (s *sealer) openPlace(seq uint64, rec []byte) (share.Place, error) {
	k, epoch, err := s.recordKey(rec)
	if err != nil {
		return share.Place{}, err
	}
	plain, err := seal.Unbox(k, recordAAD(placeAAD, s.id, seq, epoch), rec[recordHead:recordHead+placeBox])
	if err != nil || len(plain) != placeSize {
		return share.Place{}, errBox
	}
	p := parsePlace(plain)
	if p.Bucket == 0 {
		return share.Place{}, errBox
	}
	return p, nil
}

// openValue returns the value of the record at seq, which must stand for p.
func (s *sealer) openValue(seq uint64, p share.Place, rec []byte) ([]byte, error) {
	k, epoch, err := s.recordKey(rec)
	if err != nil {
		return nil, err
	}
	aad := appendPlace(recordAAD(valueAAD, s.id, seq, epoch), p)
	v, err := seal.Unbox(k, aad, rec[recordHead+placeBox:])
	if err != nil {
		return nil, errBox
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

func (s *sealer) recordKey(rec []byte) (*[32]byte, uint32, error) {
	if len(rec) < Overhead || len(rec) > Overhead+MaxValue || rec[0] != format {
		return nil, 0, errBox
	}
	epoch := binary.BigEndian.Uint32(rec[1:recordHead])
	k := s.keys.find(epoch)
	if k == nil {
		return nil, 0, errBox
	}
	return k, epoch, nil
}

// checkRecords returns what recs will weigh, in bytes on disk.
func checkRecords(recs []share.Record) (int64, error) {
	var sum int64
	for _, r := range recs {
		if r.Place.Bucket == 0 {
			return 0, fmt.Errorf("%w: bucket 0", ErrInput)
		}
		if len(r.Value) > MaxValue {
			return 0, fmt.Errorf("%w: %d bytes are more than %d", ErrInput, len(r.Value), MaxValue)
		}
		sum += int64(len(r.Value)) + Overhead
	}
	if sum > MaxCommit {
		return 0, fmt.Errorf("%w: %d bytes at once are more than %d", ErrInput, sum, MaxCommit)
	}
	return sum, nil
}
