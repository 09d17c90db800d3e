package storage

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"keymesh/crypto/seal"
)

const (
	keysMagic = "keymesh epochkey"
	keysHead  = len(keysMagic) + 1 + len(storeID{})
	// maxEpochKeys is how many keys may live at once: the current one and
	// those that records are being moved away from.
	maxEpochKeys = 4
	epochKeySize = 4 + 32
	maxKeysFile  = keysHead + seal.BoxOverhead + maxEpochKeys*epochKeySize
)

// epochKeys are the keys that seal records, by number. The highest seals new
// ones.
type epochKeys struct {
	nums []uint32 // ascending
	keys [][32]byte
}

func newEpochKeys() epochKeys {
	e := epochKeys{nums: []uint32{1}, keys: make([][32]byte, 1)}
	rand.Read(e.keys[0][:]) // never fails (crypto/rand)
	return e
}

func (e *epochKeys) current() (uint32, *[32]byte) {
	i := len(e.nums) - 1
	return e.nums[i], &e.keys[i]
}

// find returns the key of this number, or nil.
func (e *epochKeys) find(n uint32) *[32]byte {
	for i, have := range e.nums {
		if have == n {
			return &e.keys[i]
		}
	}
	return nil
}

func (e *epochKeys) erase() {
	for i := range e.keys {
		clear(e.keys[i][:])
	}
}

func keysHeader(id storeID) []byte {
	b := append([]byte(keysMagic), format)
	return append(b, id[:]...)
}

// encode returns the epochkey file.
func (e *epochKeys) encode(k *[32]byte, id storeID) []byte {
	plain := make([]byte, 0, maxEpochKeys*epochKeySize)
	for i, n := range e.nums {
		plain = binary.BigEndian.AppendUint32(plain, n)
		plain = append(plain, e.keys[i][:]...)
	}
	defer clear(plain)
	head := keysHeader(id)
	return append(head, seal.Box(k, head, plain)...)
}

// decodeEpochKeys parses the epochkey file of the store id.
func decodeEpochKeys(k *[32]byte, id storeID, b []byte) (epochKeys, error) {
	if len(b) < keysHead || !bytes.HasPrefix(b, []byte(keysMagic)) {
		return epochKeys{}, damaged("%s is no epoch key file", keysName)
	}
	if v := b[len(keysMagic)]; v != format {
		return epochKeys{}, fmt.Errorf("%w: %s has %d", ErrVersion, keysName, v)
	}
	if !bytes.Equal(b[:keysHead], keysHeader(id)) {
		return epochKeys{}, fmt.Errorf("%w: %s is another store's", ErrForeign, keysName)
	}
	plain, err := seal.Unbox(k, b[:keysHead], b[keysHead:])
	if err != nil {
		return epochKeys{}, damaged("%s does not open", keysName)
	}
	defer clear(plain)
	return parseEpochKeys(plain)
}

func parseEpochKeys(plain []byte) (epochKeys, error) {
	n := len(plain) / epochKeySize
	if n < 1 || n > maxEpochKeys || len(plain)%epochKeySize != 0 {
		return epochKeys{}, damaged("%s holds %d bytes of keys", keysName, len(plain))
	}
	e := epochKeys{nums: make([]uint32, n), keys: make([][32]byte, n)}
	for i := range n {
		p := plain[i*epochKeySize:]
		e.nums[i] = binary.BigEndian.Uint32(p)
		copy(e.keys[i][:], p[4:epochKeySize])
		if e.nums[i] == 0 || i > 0 && e.nums[i] <= e.nums[i-1] {
			return epochKeys{}, damaged("%s numbers its keys out of order", keysName)
		}
	}
	return e, nil
}
