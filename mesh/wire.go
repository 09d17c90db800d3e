package mesh

import (
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

// Mesh's own verbs. Numbers are written out and never reused.
const (
	verbHello    = 1
	verbPing     = 2
	verbJoin     = 3
	verbRenew    = 4
	verbAnnounce = 5 // push of items
	verbHave     = 6 // push of the ids and seqs of items
	verbDigest   = 7
	verbFetch    = 8
)

// Limits of mesh's own bodies.
const (
	maxSealingKey = 2 << 10
	maxItems      = 256 // in one answer, announcement or admission
	maxFetch      = 64
	maxHaves      = 2 * roster.MaxEntries
)

// version is the protocol version this build speaks.
const version = 1

// hello is the first thing either side says.
type hello struct {
	key.Head
	Record   key.Object `cbor:"1,keyasint"`
	Sealing  []byte     `cbor:"2,keyasint"`
	Versions []uint64   `cbor:"3,keyasint"`
	// Instance is random and new at every start of the process: a link of an
	// earlier instance is dead whatever it looks like.
	Instance uint64 `cbor:"4,keyasint"`
	// Dial is the number of this connection among those that the dialling side
	// made, and 0 in the accepting side's HELLO.
	Dial uint64 `cbor:"5,keyasint"`
	offer
}

// offer is the standing offer and the clock, told in HELLO, ping and pong.
type offer struct {
	Accepting bool   `cbor:"6,keyasint"`
	Millis    uint64 `cbor:"7,keyasint"` // unix time in milliseconds
}

type welcome struct {
	key.Head
	Version uint64 `cbor:"1,keyasint"`
}

type ping struct {
	key.Head
	offer
}

type join struct {
	key.Head
	Ticket   []byte `cbor:"1,keyasint"`
	MAC      []byte `cbor:"2,keyasint"`
	Name     string `cbor:"3,keyasint"`
	Zone     string `cbor:"4,keyasint"`
	Capacity uint64 `cbor:"5,keyasint"`
}

type admitted struct {
	key.Head
	Member  key.Object   `cbor:"1,keyasint"`
	Issuer  key.Object   `cbor:"2,keyasint"`
	Records []key.Object `cbor:"3,keyasint"`
}

type announce struct {
	key.Head
	Items []roster.Item `cbor:"1,keyasint"`
}

type have struct {
	key.Head
	Haves []roster.Have `cbor:"1,keyasint"`
}

type digest struct {
	key.Head
	Sums []byte `cbor:"1,keyasint"`
}

type digestReply struct {
	key.Head
	Buckets []byte        `cbor:"1,keyasint"`
	Haves   []roster.Have `cbor:"2,keyasint"`
}

type fetch struct {
	key.Head
	IDs []key.Hash `cbor:"1,keyasint"`
}

type renewed struct {
	key.Head
	Member key.Object `cbor:"1,keyasint"`
	Issuer key.Object `cbor:"2,keyasint"`
}

// empty is the body of RENEW.
type empty struct{ key.Head }

func (o offer) skew(now time.Time) time.Duration {
	const limit = uint64(1) << 52 // beyond the year 100,000: nonsense
	if o.Millis > limit {
		return 0
	}
	return time.UnixMilli(int64(o.Millis)).Sub(now)
}

// wireSize is the limit of the body of one of mesh's own verbs.
func wireSize(verb uint64) int {
	switch verb {
	case verbPing, verbRenew:
		return 256
	case verbDigest:
		return 4 << 10
	case verbFetch:
		return 4 << 10
	}
	return frame.MaxBody
}

// failure turns the body of a failed answer into the caller's error.
func failure(body []byte) error {
	f, err := frame.DecodeFailure(body)
	if err != nil {
		return fmt.Errorf("%w: with an answer that makes no sense", ErrRefused)
	}
	switch f.Code {
	case frame.CodeHandler:
		return &RemoteError{Text: f.Text}
	case frame.CodeBusy:
		return fmt.Errorf("%w at the node", ErrBusy)
	}
	return fmt.Errorf("%w: %.200q", ErrRefused, f.Text)
}
