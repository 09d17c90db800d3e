package roster

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"keymesh/crypto/key"
)

// Ticket limits.
const (
	TicketPrefix    = "keymesh-ticket-"
	MaxTicketLife   = 24 * time.Hour
	TicketIDSize    = 16
	TicketSecret    = 16
	maxTicketText   = 4096
	ticketSumSize   = 4
	ticketLabel     = "keymesh/v1/ticket"
	ticketAddrLimit = MaxAddrs
)

// ErrTicket: the text is not a ticket, or a digit of it is wrong.
var ErrTicket = errors.New("not a whole ticket")

// Ticket lets one node join. Whoever has it may use it: it is a secret, and
// prints as "[redacted]".
type Ticket struct {
	key.Head
	ID       []byte        `cbor:"1,keyasint"` // 16 bytes
	Issuer   key.NodeID    `cbor:"2,keyasint"` // the node that admits: its TLS key is pinned
	Addrs    []string      `cbor:"3,keyasint"` // of that node, 1 to 8
	Secret   []byte        `cbor:"4,keyasint"` // 16 bytes
	Network  key.NetworkID `cbor:"5,keyasint"`
	Operator string        `cbor:"6,keyasint"`
	Roles    Roles         `cbor:"7,keyasint"`
	Capacity uint64        `cbor:"8,keyasint"` // bytes; the largest that the node may offer
	Expires  uint64        `cbor:"9,keyasint"` // unix seconds, exclusive
}

// String implements fmt.Stringer without showing the secret.
func (t Ticket) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer without showing the secret.
func (t Ticket) GoString() string { return "[redacted]" }

// Format implements fmt.Formatter without showing the secret.
func (t Ticket) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[redacted]") }

// LogValue implements slog.LogValuer without showing the secret.
func (t Ticket) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText refuses: see [Ticket.Text].
func (t Ticket) MarshalText() ([]byte, error) {
	return nil, errors.New("a ticket is printed by Text only")
}

func (t *Ticket) check() error {
	switch {
	case len(t.ID) != TicketIDSize || len(t.Secret) != TicketSecret:
		return fmt.Errorf("%w: id or secret of the wrong size", ErrTicket)
	case len(t.Addrs) < 1 || len(t.Addrs) > ticketAddrLimit:
		return fmt.Errorf("%w: 1 to %d addresses", ErrTicket, ticketAddrLimit)
	case CheckLabel(t.Operator) != nil:
		return fmt.Errorf("%w: operator: %w", ErrTicket, CheckLabel(t.Operator))
	case t.Roles == 0 || t.Roles&^(Holder|Client|Relay) != 0:
		return fmt.Errorf("%w: roles %d", ErrTicket, uint64(t.Roles))
	case t.Expires > maxTime:
		return fmt.Errorf("%w: it never ends", ErrTicket)
	}
	for _, a := range t.Addrs {
		if err := CheckAddr(a); err != nil {
			return fmt.Errorf("%w: %w", ErrTicket, err)
		}
	}
	return nil
}

// Expired reports whether the ticket has ended.
func (t Ticket) Expired(now time.Time) bool { return now.Unix() >= int64(t.Expires) }

// MAC is what JOIN proves the ticket with: HMAC-SHA256(secret, exporter ||
// id), where exporter is 32 bytes of keying material of the TLS connection and
// id the node that joins. It is good on that connection and for that node only.
func (t Ticket) MAC(exporter []byte, id key.NodeID) []byte {
	m := hmac.New(sha256.New, t.Secret)
	m.Write(exporter)
	m.Write(id[:])
	return m.Sum(nil)
}

func ticketBase32() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// Text returns the one line that is handed to the new node's operator:
// "keymesh-ticket-" and base32 of the body and four bytes of checksum. The
// caller zeroes it after use.
func (t Ticket) Text() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	body := key.Marshal(&t)
	sum := key.T(ticketLabel, body)
	return ticketBase32().AppendEncode([]byte(TicketPrefix), append(body, sum[:ticketSumSize]...)), nil
}

// ParseTicket reads the text form, with or without white space around it.
// Errors wrap [ErrTicket] and never show the text.
func ParseTicket(text []byte) (Ticket, error) {
	text = bytes.TrimSpace(text)
	digits, ok := bytes.CutPrefix(text, []byte(TicketPrefix))
	if !ok || len(text) > maxTicketText {
		return Ticket{}, fmt.Errorf("%w: it does not start with %q", ErrTicket, TicketPrefix)
	}
	enc := ticketBase32()
	b, err := enc.AppendDecode(nil, digits)
	if err != nil || len(b) < ticketSumSize || !bytes.Equal(enc.AppendEncode(nil, b), digits) {
		return Ticket{}, fmt.Errorf("%w: it has digits other than a-z and 2-7, or is cut", ErrTicket)
	}
	body, sum := b[:len(b)-ticketSumSize], b[len(b)-ticketSumSize:]
	if want := key.T(ticketLabel, body); !bytes.Equal(want[:ticketSumSize], sum) {
		return Ticket{}, fmt.Errorf("%w: the checksum is wrong", ErrTicket)
	}
	var t Ticket
	if err := key.Unmarshal(body, &t); err != nil {
		return Ticket{}, fmt.Errorf("%w: %w", ErrTicket, err)
	}
	if err := t.check(); err != nil {
		return Ticket{}, err
	}
	return t, nil
}
