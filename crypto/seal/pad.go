package seal

import (
	"errors"
	"fmt"
)

var (
	// ErrSize: the plaintext is longer than the largest size holds.
	ErrSize = errors.New("too long to seal")
	// ErrPadding: the plaintext is not padded as [Pad] does.
	ErrPadding = errors.New("bad padding")
)

const padMark = 0x80

// Pad returns b, the byte 0x80 and zeros up to the smallest of sizes that holds
// b and the mark (ISO/IEC 7816-4); sizes ascend. It returns [ErrSize] when none
// does. The result aliases nothing.
func Pad(b []byte, sizes []int) ([]byte, error) {
	for _, n := range sizes {
		if len(b) < n {
			out := make([]byte, n)
			copy(out, b)
			out[len(b)] = padMark
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes", ErrSize, len(b))
}

// Unpad returns what [Pad] padded with the same sizes, as a part of b. It
// returns [ErrPadding] for anything that Pad would not have made, also for a
// larger size than was needed. It runs on authenticated plaintext only, so its
// time may depend on the length.
func Unpad(b []byte, sizes []int) ([]byte, error) {
	end := len(b) - 1
	for end >= 0 && b[end] == 0 {
		end--
	}
	if end < 0 || b[end] != padMark {
		return nil, ErrPadding
	}
	for _, n := range sizes {
		if end < n {
			if n != len(b) {
				return nil, ErrPadding
			}
			return b[:end:end], nil
		}
	}
	return nil, ErrPadding
}
