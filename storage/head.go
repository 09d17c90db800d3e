package storage

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"keymesh/crypto/seal"
)

// head is the sealed summary that every transaction rewrites. It makes a lost,
// added or older record as visible as a damaged one.
type head struct {
	Generation uint64 // number of this transaction
	Next       uint64 // no record has this sequence or a higher one
	Count      uint64 // records in the file
	Set        digest // of their sequences
	Epoch      uint32 // number of the current epoch key
}

const (
	headAAD   = "keymesh/v1/store/head"
	headPlain = 8 + 8 + 8 + 32 + 4
	headFixed = 1 + len(storeID{}) // format, store id
	headSize  = headFixed + headPlain + seal.BoxOverhead
)

// encode returns the head as it stands in the file: format, store id, box.
func (h *head) encode(k *[32]byte, id storeID) []byte {
	plain := make([]byte, 0, headPlain)
	plain = binary.BigEndian.AppendUint64(plain, h.Generation)
	plain = binary.BigEndian.AppendUint64(plain, h.Next)
	plain = binary.BigEndian.AppendUint64(plain, h.Count)
	for _, lane := range h.Set {
		plain = binary.BigEndian.AppendUint64(plain, lane)
	}
	plain = binary.BigEndian.AppendUint32(plain, h.Epoch)
	fixed := append([]byte{format}, id[:]...)
	return append(fixed, seal.Box(k, append([]byte(headAAD), fixed...), plain)...)
}

// decodeHead parses what stands in the file of the store id.
func decodeHead(k *[32]byte, id storeID, b []byte) (head, error) {
	if len(b) == 0 {
		return head{}, damaged("%s has no head", dbName)
	}
	if b[0] != format {
		return head{}, fmt.Errorf("%w: %s has %d", ErrVersion, dbName, b[0])
	}
	if len(b) != headSize {
		return head{}, damaged("the head of %s has %d bytes", dbName, len(b))
	}
	if storeID(b[1:headFixed]) != id {
		return head{}, fmt.Errorf("%w: %s has another id than %s", ErrForeign, dbName, markerName)
	}
	plain, err := seal.Unbox(k, append([]byte(headAAD), b[:headFixed]...), b[headFixed:])
	if err != nil || len(plain) != headPlain {
		return head{}, damaged("the head of %s does not open", dbName)
	}
	h := head{
		Generation: binary.BigEndian.Uint64(plain),
		Next:       binary.BigEndian.Uint64(plain[8:]),
		Count:      binary.BigEndian.Uint64(plain[16:]),
		Epoch:      binary.BigEndian.Uint32(plain[56:]),
	}
	for i := range h.Set {
		h.Set[i] = binary.BigEndian.Uint64(plain[24+8*i:])
	}
	return h, nil
}

// digest is a sum of keyed hashes, so that sequences can be added and removed
// in any order. It never leaves a seal: who does not hold the key learns
// neither terms nor sums and cannot find another set with the same one.
type digest [4]uint64

func (d *digest) add(t digest) {
	for i := range d {
		d[i] += t[i]
	}
}

func (d *digest) remove(t digest) {
	for i := range d {
		d[i] -= t[i]
	}
}

// term is what one sequence contributes. The input has a fixed length, so a
// plain hash over the key and it is a pseudorandom function.
func (s *sealer) term(seq uint64) (d digest) {
	var in [40]byte
	copy(in[:], s.set[:])
	binary.BigEndian.PutUint64(in[32:], seq)
	sum := sha256.Sum256(in[:])
	for i := range d {
		d[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return d
}

// setKey derives the key of the set digest.
func setKey(k *[32]byte, id storeID) ([32]byte, error) {
	b, err := hkdf.Key(sha256.New, k[:], id[:], "keymesh/v1/store/set", 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("deriving the key of the set: %w", err)
	}
	return [32]byte(b), nil
}

func beUint64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
