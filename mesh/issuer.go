package mesh

import (
	"context"
	"errors"
	"net"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// IssuerConfig is what an [Issuer] is made of. All but Log is required.
type IssuerConfig struct {
	Key     key.AuthorityPrivate
	Cert    key.Object // its IssuerCert
	Network key.NetworkID
	Node    key.NodeID // the node that admits, pinned in tickets
	Book    PeerBook   // keeps the tickets: durable before they are handed out or used up
}

// Invitation is what the inviter fixes about the node that will join.
type Invitation struct {
	Operator string        // [a-z0-9._@-]{1,63}
	Roles    roster.Roles  // 0: holder and client
	Capacity uint64        // bytes; the largest that the node may offer
	TTL      time.Duration // 0 or more than 24 h: 24 h
	Addrs    []string      // of the issuer's node; 1 to 8
}

// ErrTicketRefused: the issuer did not admit the node. It does not say why.
var ErrTicketRefused = errors.New("the ticket was refused")

// JoinConfig is what [Join] needs.
type JoinConfig struct {
	Key      key.NodePrivate
	Ticket   roster.Ticket
	Name     string // [a-z0-9-]{1,63}
	Zone     string // may be empty
	Capacity uint64 // bytes; 0: as much as the ticket allows
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
}

// Admission is what a node has after it joined.
type Admission struct {
	Network        key.NetworkID
	Member, Issuer key.Object
	Records        []key.Object // of other members, the issuer's first; verified
}

// Issuer admits and renews members with an issuer's key. Safe for concurrent
// use.
type Issuer struct {
	cfg IssuerConfig
}

// NewIssuer returns an issuer; it does no I/O.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) { return &Issuer{cfg: cfg}, nil }

// Invite makes a ticket, durable in the book before it is returned.
func (s *Issuer) Invite(ctx context.Context, inv Invitation) (roster.Ticket, error) {
	return roster.Ticket{}, errors.ErrUnsupported
}

// Certify signs a MemberCert for 90 days from now, as for the issuer's own
// node. Node, Name, Roles, Operator, Zone and Capacity are taken from c.
func (s *Issuer) Certify(c roster.MemberCert, now time.Time) (key.Object, error) {
	return key.Object{}, errors.ErrUnsupported
}

// Join uses up a ticket.
func Join(ctx context.Context, cfg JoinConfig) (Admission, error) {
	return Admission{}, errors.ErrUnsupported
}
