package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"keymesh/crypto/key"
)

// Kind tells what a frame is. Numbers are never reused.
type Kind uint8

// The kinds of frames.
const (
	Request Kind = 1
	Reply   Kind = 2
	Push    Kind = 3
	Failed  Kind = 4 // the answer to a request that was not served; the body is a [Failure]
)

// Sizes in bytes.
const (
	MaxSize     = 5 << 18 // 1.25 MiB, the whole frame with its length
	MaxPreAuth  = 8 << 10 // the whole frame before authentication
	lengthSize  = 4
	maxHeadSize = 1 + 1 + 9 + 9 + 5
	minHeadSize = 5
	// MaxBody is the largest body that fits whatever the call id and verb.
	MaxBody = MaxSize - lengthSize - maxHeadSize
)

var (
	// ErrFormat: the bytes are not one frame in its only encoding.
	ErrFormat = errors.New("not a frame")
	// ErrTooLarge: the frame is larger than the reader's limit.
	ErrTooLarge = errors.New("frame too large")
)

// Head is a frame without its body.
type Head struct {
	Kind Kind
	Call uint64
	Verb uint64
	Size int // of the body
}

// Append appends the whole frame to dst. It panics when the body is larger
// than [MaxBody], which the caller has to check.
func Append(dst []byte, kind Kind, call, verb uint64, body []byte) []byte {
	return append(AppendHead(dst, kind, call, verb, len(body)), body...)
}

// AppendHead appends everything that comes before a body of this size, for a
// caller that writes a large body without copying it.
func AppendHead(dst []byte, kind Kind, call, verb uint64, size int) []byte {
	if size > MaxBody {
		panic("frame: body too large")
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0x84, byte(kind))
	dst = appendUint(dst, 0x00, call)
	dst = appendUint(dst, 0x00, verb)
	dst = appendUint(dst, 0x40, uint64(size))
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-lengthSize+size))
	return dst
}

// appendUint appends the head of a CBOR item in its shortest form (RFC 8949
// section 3).
func appendUint(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n < 1<<8:
		return append(dst, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, major|27), n)
}

// readUint reads the head of a CBOR item of this major type. It returns the
// number and how many bytes it took, 0 when they are no shortest form.
func readUint(b []byte, major byte) (n uint64, size int) {
	if len(b) == 0 || b[0]&0xe0 != major {
		return 0, 0
	}
	info := b[0] & 0x1f
	if info < 24 {
		return uint64(info), 1
	}
	if info > 27 {
		return 0, 0
	}
	size = 1 << (info - 24)
	if len(b) < 1+size {
		return 0, 0
	}
	for _, c := range b[1 : 1+size] {
		n = n<<8 | uint64(c)
	}
	least := [4]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
	if n < least {
		return 0, 0
	}
	return n, 1 + size
}

// parseHead reads the head from the first bytes of a frame of this length. It
// returns the number of bytes before the body.
func parseHead(b []byte, length int) (Head, int, error) {
	if len(b) < minHeadSize || b[0] != 0x84 {
		return Head{}, 0, ErrFormat
	}
	at := 1
	var v [4]uint64
	for i, major := range [4]byte{0, 0, 0, 0x40} {
		n, size := readUint(b[at:], major)
		if size == 0 {
			return Head{}, 0, ErrFormat
		}
		v[i], at = n, at+size
	}
	if v[0] < uint64(Request) || v[0] > uint64(Failed) || (v[1] == 0) != (v[0] == uint64(Push)) {
		return Head{}, 0, fmt.Errorf("%w: kind %d with call id %d", ErrFormat, v[0], v[1])
	}
	if v[3] != uint64(length-at) {
		return Head{}, 0, fmt.Errorf("%w: the body is shorter or longer than the frame", ErrFormat)
	}
	return Head{Kind: Kind(v[0]), Call: v[1], Verb: v[2], Size: int(v[3])}, at, nil
}

// Decode reads exactly one frame. The body aliases b. Errors wrap [ErrFormat]
// or [ErrTooLarge].
func Decode(b []byte) (Head, []byte, error) {
	if len(b) > MaxSize {
		return Head{}, nil, ErrTooLarge
	}
	if len(b) < lengthSize || uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)-lengthSize) {
		return Head{}, nil, ErrFormat
	}
	h, at, err := parseHead(b[lengthSize:], len(b)-lengthSize)
	if err != nil {
		return Head{}, nil, err
	}
	return h, b[lengthSize+at:], nil
}

// Reader takes frames off a stream, the head first: the caller decides by it
// whether the body is worth memory. Not safe for concurrent use.
type Reader struct {
	r     io.Reader
	limit int
	head  [maxHeadSize]byte
	early []byte // what of the body came with the head, in head
	rest  int    // bytes of the body still to be read off r
	size  int
}

// NewReader returns a reader that refuses frames over limit bytes.
func NewReader(r io.Reader, limit int) *Reader { return &Reader{r: r, limit: limit} }

// SetLimit changes the limit, at most [MaxSize]; for the moment when the
// sender has proved who it is.
func (r *Reader) SetLimit(limit int) { r.limit = min(limit, MaxSize) }

// Next returns the head of the next frame, skipping what is left of the
// current body. io.EOF means that the stream ended between frames. Errors wrap
// [ErrFormat] or [ErrTooLarge], or are the stream's; after one the reader is of
// no further use.
func (r *Reader) Next() (Head, error) {
	if err := r.Skip(); err != nil {
		return Head{}, err
	}
	if _, err := io.ReadFull(r.r, r.head[:lengthSize]); err != nil {
		return Head{}, err
	}
	n := binary.BigEndian.Uint32(r.head[:])
	if uint64(n)+lengthSize > uint64(r.limit) {
		return Head{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, uint64(n)+lengthSize, r.limit)
	}
	length := int(n)
	got := min(length, maxHeadSize)
	if _, err := io.ReadFull(r.r, r.head[:got]); err != nil {
		return Head{}, unexpected(err)
	}
	h, at, err := parseHead(r.head[:got], length)
	if err != nil {
		return Head{}, err
	}
	r.early, r.rest, r.size = r.head[at:got], length-got, h.Size
	return h, nil
}

// Body returns the body of the frame that Next announced, in memory of its
// own. It may be called once a frame.
func (r *Reader) Body() ([]byte, error) {
	b := make([]byte, r.size)
	n := copy(b, r.early)
	r.early, r.size = nil, 0
	if r.rest == 0 {
		return b, nil
	}
	r.rest = 0
	if _, err := io.ReadFull(r.r, b[n:]); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

// Skip drops the body that Next announced without keeping it.
func (r *Reader) Skip() error {
	r.early, r.size = nil, 0
	if r.rest == 0 {
		return nil
	}
	n := int64(r.rest)
	r.rest = 0
	_, err := io.CopyN(io.Discard, r.r, n)
	return unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Why a request was not served.
const (
	CodeHandler = 1 // the handler's own error
	CodeBusy    = 2 // a limit was reached; nothing was looked at
	CodeRefused = 3 // not served here, or not for this peer
)

// MaxText bounds the text of a [Failure] in bytes.
const MaxText = 512

// Failure is the body of a frame of kind [Failed].
type Failure struct {
	_    struct{} `cbor:",toarray"`
	Code uint64
	Text string
}

// Encode returns the body, its text cut to [MaxText] bytes of valid UTF-8.
func (f Failure) Encode() []byte {
	f.Text = strings.ToValidUTF8(f.Text, "?")
	if len(f.Text) > MaxText {
		cut := MaxText
		for !utf8.RuneStart(f.Text[cut]) {
			cut--
		}
		f.Text = f.Text[:cut]
	}
	return key.Encode(f)
}

// DecodeFailure reads the body of a frame of kind [Failed].
func DecodeFailure(b []byte) (Failure, error) {
	var f Failure
	if len(b) > MaxText+16 {
		return f, ErrTooLarge
	}
	if err := key.Decode(b, &f); err != nil {
		return Failure{}, err
	}
	return f, nil
}
