package storage

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"keymesh/crypto/seal"
)

// storeID tells one store from another: 16 random bytes of its creation.
type storeID [16]byte

// format is the only format of a store.
const format = 1

// maxMarker bounds the STORE file, in bytes.
const maxMarker = 1024

// marker is the content of STORE.
type marker struct {
	ID storeID
	// Generation is that of the last transaction known to be on disk when
	// STORE was written: an older store.db is refused.
	Generation uint64
}

const markerAAD = "keymesh/v1/store/marker"

// encode returns the text of STORE. Its last line seals the lines before it.
func (m marker) encode(k *[32]byte) []byte {
	head := m.header()
	box := seal.Box(k, append([]byte(markerAAD), head...), nil)
	return fmt.Appendf(head, "seal %x\n", box)
}

// header is the text that is sealed; its capacity is its length.
func (m marker) header() []byte {
	return slices.Clip(fmt.Appendf(nil, "keymesh store %d\nid %x\ngeneration %d\n", format, m.ID, m.Generation))
}

// decodeMarker parses STORE; the one accepted text is that of encode.
func decodeMarker(k *[32]byte, b []byte) (marker, error) {
	lines := bytes.SplitAfter(b, []byte("\n"))
	if len(lines) < 2 {
		return marker{}, damaged("%s is cut short", markerName)
	}
	if f := field(lines[0], "keymesh store "); f != strconv.Itoa(format) {
		if _, err := strconv.ParseUint(f, 10, 32); err != nil {
			return marker{}, damaged("%s is no marker", markerName)
		}
		return marker{}, fmt.Errorf("%w: %s", ErrVersion, f)
	}
	if len(lines) != 5 || len(lines[4]) != 0 {
		return marker{}, damaged("%s is cut short", markerName)
	}
	var m marker
	id, err1 := hex.DecodeString(field(lines[1], "id "))
	gen, err2 := strconv.ParseUint(field(lines[2], "generation "), 10, 64)
	box, err3 := hex.DecodeString(field(lines[3], "seal "))
	if err1 != nil || err2 != nil || err3 != nil || len(id) != len(m.ID) {
		return marker{}, damaged("%s does not parse", markerName)
	}
	m.ID, m.Generation = storeID(id), gen
	head := m.header()
	if !bytes.Equal(b, fmt.Appendf(head, "seal %x\n", box)) {
		return marker{}, damaged("%s is not written as it should be", markerName)
	}
	if _, err := seal.Unbox(k, append([]byte(markerAAD), head...), box); err != nil {
		return marker{}, fmt.Errorf("%w: %s does not open with the storage key", ErrForeign, markerName)
	}
	return m, nil
}

// field returns what follows prefix on a line, or "" when the line is another.
func field(line []byte, prefix string) string {
	rest, ok := bytes.CutPrefix(line, []byte(prefix))
	if !ok || !bytes.HasSuffix(rest, []byte("\n")) {
		return ""
	}
	return string(rest[:len(rest)-1])
}
