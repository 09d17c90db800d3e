package key

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Version is the only body version of this protocol.
const Version = 1

// MaxExt is how many bytes the extensions of a body may take together: their
// values, and 8 for each number. Bodies are kept in memory by those who verify
// them, so what nobody understands must not be what fills it.
const MaxExt = 4 << 10

// MaxDepth is how deeply arrays and maps of an object may nest.
const MaxDepth = 8

var (
	// ErrEncoding: the bytes are not the deterministic encoding of the object.
	ErrEncoding = errors.New("not deterministic CBOR of this object")
	// ErrVersion: key 0 of the body is a version this build does not know.
	ErrVersion = errors.New("unknown version")
	// ErrCritical: key 31 holds an even extension that this build does not know.
	ErrCritical = errors.New("unknown critical extension")
	// ErrExt: the extensions in key 31 take more than [MaxExt] bytes.
	ErrExt = errors.New("extensions that are too long")
)

// Head is embedded in every body. Its keys are the same in all of them.
type Head struct {
	// V is the version, 1. [Marshal] sets it.
	V uint64 `cbor:"0,keyasint"`
	// Ext holds extensions by number: an even number that is not understood
	// refuses the object, an odd one is ignored and kept.
	Ext map[uint64][]byte `cbor:"31,keyasint,omitempty"`
}

func (h *Head) head() *Head { return h }

// Body is a pointer to a struct that embeds [Head] and tags its other fields
// `cbor:"N,keyasint"` with N from 1 to 30.
type Body interface{ head() *Head }

// The two modes are immutable and safe for concurrent use.
var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	eo := cbor.CoreDetEncOptions()
	eo.NilContainers = cbor.NilContainerAsEmpty
	enc, err := eo.EncMode()
	if err != nil {
		panic(err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   MaxDepth,
		MaxArrayElements:  1 << 16,
		MaxMapPairs:       1 << 10,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
}

// Encode returns the deterministic CBOR of v. It panics when v has a type that
// CBOR cannot hold, which is a fault of the program. Values sent to peers are
// arrays or bodies; maps with string keys are not part of the protocol.
func Encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic("key: " + err.Error())
	}
	return b
}

// Decode reads b into v, a pointer. It refuses duplicate keys, indefinite
// lengths, tags, invalid UTF-8, more than [MaxDepth] levels, unknown keys,
// trailing bytes, and any b that is not what [Encode] makes of the result. All
// errors wrap [ErrEncoding]. Byte strings in v are copies.
func Decode(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %.200s", ErrEncoding, err.Error())
	}
	again, err := encMode.Marshal(v)
	if err != nil || !bytes.Equal(again, b) {
		return ErrEncoding
	}
	return nil
}

// Marshal encodes a body and sets its version.
func Marshal(v Body) []byte {
	v.head().V = Version
	return Encode(v)
}

// Unmarshal decodes a body as [Decode] does and also refuses an unknown
// version ([ErrVersion]), an unknown even extension ([ErrCritical]) and more
// than [MaxExt] bytes of extensions ([ErrExt]). On error the contents of v are
// not to be used.
func Unmarshal(b []byte, v Body) error {
	if err := Decode(b, v); err != nil {
		return err
	}
	h := v.head()
	if h.V != Version {
		return fmt.Errorf("%w %d", ErrVersion, h.V)
	}
	size := 0
	for n, v := range h.Ext {
		if n%2 == 0 {
			return fmt.Errorf("%w %d", ErrCritical, n)
		}
		size += 8 + len(v)
	}
	if size > MaxExt {
		return fmt.Errorf("%w: %d bytes", ErrExt, size)
	}
	return nil
}
