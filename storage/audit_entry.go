package storage

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"keymesh/crypto/key"
)

// auditBody is an entry as it is hashed and sealed.
type auditBody struct {
	key.Head
	Seq       uint64   `cbor:"1,keyasint"`
	Prev      key.Hash `cbor:"2,keyasint"`
	Time      uint64   `cbor:"3,keyasint"`
	Kind      string   `cbor:"4,keyasint"`
	ID        key.Hash `cbor:"5,keyasint"`
	Person    string   `cbor:"6,keyasint"`
	Node      string   `cbor:"7,keyasint"`
	Request   key.Hash `cbor:"8,keyasint"`
	Detail    string   `cbor:"9,keyasint"`
	RequestID string   `cbor:"10,keyasint"`
}

const (
	// maxBody bounds the encoding of an entry: its limits and what CBOR adds.
	maxBody = MaxAuditKind + 2*64 + MaxAuditDetail + MaxAuditRequestID + 3*34 + 64
	// maxGroup is how many entries are written at once.
	maxGroup = 256
)

// chainStart is the hash before the first entry.
func chainStart(net key.NetworkID, node key.NodeID, id storeID) key.Hash {
	return key.T("keymesh/v1/log/start", net[:], node[:], id[:])
}

func bodyHash(body []byte) key.Hash { return key.T("keymesh/v1/log/entry", body) }

// encode returns the body of an entry whose Seq, Prev and Time are set, and
// sets its Hash.
func (e *AuditEntry) encode() []byte {
	b := key.Marshal(&auditBody{
		Seq: e.Seq, Prev: e.Prev, Time: e.Time, Kind: e.Kind, ID: e.ID, Person: e.Person,
		Node: e.Node, Request: e.Request, Detail: e.Detail, RequestID: e.RequestID,
	})
	e.Hash = bodyHash(b)
	return b
}

// decodeEntry parses the body of an entry.
func decodeEntry(body []byte) (AuditEntry, error) {
	var b auditBody
	if len(body) > maxBody {
		return AuditEntry{}, fmt.Errorf("%w: an entry of %d bytes", ErrInput, len(body))
	}
	if err := key.Unmarshal(body, &b); err != nil {
		return AuditEntry{}, err
	}
	e := AuditEntry{
		Seq: b.Seq, Prev: b.Prev, Time: b.Time, Kind: b.Kind, ID: b.ID, Person: b.Person,
		Node: b.Node, Request: b.Request, Detail: b.Detail, RequestID: b.RequestID,
	}
	if b.Ext != nil {
		return AuditEntry{}, fmt.Errorf("%w: an entry with extensions", ErrInput)
	}
	if err := e.check(); err != nil {
		return AuditEntry{}, err
	}
	e.Hash = bodyHash(body)
	return e, nil
}

// prepare brings what a caller gives into the form of an entry.
func (e *AuditEntry) prepare() error {
	e.Detail = clean(e.Detail, MaxAuditDetail)
	e.RequestID = clean(e.RequestID, MaxAuditRequestID)
	return e.check()
}

// check refuses fields that are not of their form.
func (e *AuditEntry) check() error {
	if !isKind(e.Kind) {
		return fmt.Errorf("%w: %.40q is no kind of an entry", ErrInput, e.Kind)
	}
	if e.Person != "" {
		if _, err := key.ParsePerson(e.Person); err != nil {
			return fmt.Errorf("%w: the person of an entry: %w", ErrInput, err)
		}
	}
	if e.Node != "" {
		if _, err := key.ParseNodeID(e.Node); err != nil {
			return fmt.Errorf("%w: the node of an entry: %w", ErrInput, err)
		}
	}
	if e.Detail != clean(e.Detail, MaxAuditDetail) || e.RequestID != clean(e.RequestID, MaxAuditRequestID) {
		return fmt.Errorf("%w: a text of an entry is too long or not printable", ErrInput)
	}
	return nil
}

func isKind(s string) bool {
	if len(s) < 1 || len(s) > MaxAuditKind || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// clean escapes what is not printable or no UTF-8 as Go does in a string, and
// cuts at limit bytes, ending in "…" then. clean(clean(s)) is clean(s).
func clean(s string, limit int) string {
	const more = "…"
	var b strings.Builder
	fit := 0
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else if strconv.IsPrint(r) {
			b.WriteString(s[:n])
		} else {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
		if b.Len() > limit {
			return b.String()[:fit] + more
		}
		if b.Len() <= limit-len(more) {
			fit = b.Len()
		}
	}
	return b.String()
}

// encodeGroup returns the entries one after the other, each with its length.
func encodeGroup(bodies [][]byte) []byte {
	n := 0
	for _, b := range bodies {
		n += 4 + len(b)
	}
	out := make([]byte, 0, n)
	for _, b := range bodies {
		out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
		out = append(out, b...)
	}
	return out
}

// decodeGroup parses count entries that follow one another from seq first on.
func decodeGroup(plain []byte, first uint64, count int) ([]AuditEntry, error) {
	out := make([]AuditEntry, 0, min(count, maxGroup))
	for i := range count {
		seq := first + uint64(i)
		if len(plain) < 4 || uint64(len(plain)-4) < uint64(binary.BigEndian.Uint32(plain)) {
			return nil, fmt.Errorf("entry %d is cut short", seq)
		}
		n := 4 + int(binary.BigEndian.Uint32(plain))
		e, err := decodeEntry(plain[4:n])
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", seq, err)
		}
		if e.Seq != seq {
			return nil, fmt.Errorf("entry %d says that it is %d", seq, e.Seq)
		}
		if i > 0 && e.Prev != out[i-1].Hash {
			return nil, fmt.Errorf("entry %d does not follow entry %d", seq, seq-1)
		}
		out, plain = append(out, e), plain[n:]
	}
	if len(plain) != 0 {
		return nil, fmt.Errorf("there is more after entry %d", first+uint64(count)-1)
	}
	return out, nil
}
