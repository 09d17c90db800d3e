package mesh

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// IssuerConfig is what an [Issuer] is made of. Everything is required.
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
	cfg   IssuerConfig
	chain roster.IssuerCert

	mu      sync.Mutex
	loaded  bool
	tickets map[string]*ticketNote // by the ticket's id
}

// ticketNote is the value of a NoteTicket.
type ticketNote struct {
	key.Head
	Ticket []byte     `cbor:"1,keyasint"` // the ticket's body
	UsedBy key.NodeID `cbor:"2,keyasint"` // zero: not used yet
	Member key.Object `cbor:"3,keyasint"` // what the first use answered
	ticket roster.Ticket
}

const (
	maxTickets = 1024
	// backdate keeps a node whose clock is a little behind its issuer's from
	// taking its own clock for broken (protocol.md section 5, "Clocks").
	backdate = 10 * time.Minute
)

// NewIssuer checks that the certificate is the key's and of the network. It
// does no I/O.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if cfg.Key.IsZero() || cfg.Book == nil {
		return nil, errors.New("mesh: an issuer needs its key and a book")
	}
	ic, err := roster.VerifyIssuerCert(cfg.Network, cfg.Cert)
	if err != nil {
		return nil, fmt.Errorf("the issuer's certificate: %w", err)
	}
	if ic.Issuer != cfg.Key.Public() {
		return nil, fmt.Errorf("the issuer's certificate: %w: it is another key's", roster.ErrChain)
	}
	return &Issuer{cfg: cfg, chain: ic, tickets: map[string]*ticketNote{}}, nil
}

// Certify signs a MemberCert for 90 days from now, as for the issuer's own
// node. Node, Name, Roles, Operator, Zone and Capacity are taken from c.
func (s *Issuer) Certify(c roster.MemberCert, now time.Time) (key.Object, error) {
	var serial [8]byte
	rand.Read(serial[:])
	from := now.Add(-backdate)
	c.NotBefore, c.Expires = uint64(from.Unix()), uint64(from.Add(roster.MaxMemberLife).Unix())
	c.Serial = binary.BigEndian.Uint64(serial[:])
	return roster.NewMemberCert(s.cfg.Key, s.cfg.Network, c)
}

// Invite makes a ticket, durable in the book before it is returned.
func (s *Issuer) Invite(_ context.Context, inv Invitation) (roster.Ticket, error) {
	if inv.TTL <= 0 || inv.TTL > roster.MaxTicketLife {
		inv.TTL = roster.MaxTicketLife
	}
	if inv.Roles == 0 {
		inv.Roles = roster.Holder | roster.Client
	}
	now := time.Now()
	t := roster.Ticket{
		ID: make([]byte, roster.TicketIDSize), Issuer: s.cfg.Node, Addrs: inv.Addrs, Secret: make([]byte, roster.TicketSecret),
		Network: s.cfg.Network, Operator: inv.Operator, Roles: inv.Roles, Capacity: inv.Capacity, Expires: uint64(now.Add(inv.TTL).Unix()),
	}
	rand.Read(t.ID)
	rand.Read(t.Secret)
	if _, err := t.Text(); err != nil {
		return roster.Ticket{}, fmt.Errorf("the invitation: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return roster.Ticket{}, err
	}
	notes := s.ended(now)
	if len(s.tickets)-len(notes) >= maxTickets {
		return roster.Ticket{}, fmt.Errorf("%w: %d tickets are open", ErrBusy, maxTickets)
	}
	tn := &ticketNote{Ticket: key.Marshal(&t), ticket: t}
	if err := s.cfg.Book.Save(append(notes, tn.note())); err != nil {
		return roster.Ticket{}, fmt.Errorf("keeping the ticket: %w", err)
	}
	for _, note := range notes {
		delete(s.tickets, string(note.ID[:roster.TicketIDSize]))
	}
	s.tickets[string(t.ID)] = tn
	return t, nil
}

func (tn *ticketNote) note() Note {
	var id key.Hash
	copy(id[:], tn.ticket.ID)
	return Note{Kind: NoteTicket, ID: id, Value: key.Marshal(tn)}
}

// ended returns the deletions of tickets that are over. The caller holds s.mu.
func (s *Issuer) ended(now time.Time) []Note {
	var out []Note
	for _, tn := range s.tickets {
		if tn.ticket.Expired(now) {
			n := tn.note()
			n.Value = nil
			out = append(out, n)
		}
	}
	return out
}

// load reads the tickets out of the book, once. The caller holds s.mu.
func (s *Issuer) load() error {
	if s.loaded {
		return nil
	}
	notes, err := s.cfg.Book.Load()
	if err != nil {
		return fmt.Errorf("reading the tickets: %w", err)
	}
	for _, note := range notes {
		if note.Kind != NoteTicket {
			continue
		}
		tn := &ticketNote{}
		if key.Unmarshal(note.Value, tn) != nil || key.Unmarshal(tn.Ticket, &tn.ticket) != nil {
			continue // not one that this build can honour
		}
		s.tickets[string(tn.ticket.ID)] = tn
	}
	s.loaded = true
	return nil
}

// admit decides about a JOIN. A wrong MAC burns nothing. A ticket ends with its
// first success; the same node may ask again, since the answer may have been
// lost, and gets the same certificate.
func (s *Issuer) admit(j *join, exporter []byte, node key.NodeID, now time.Time) (key.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return key.Object{}, err
	}
	tn := s.tickets[string(j.Ticket)]
	if tn == nil {
		tn = &ticketNote{ticket: roster.Ticket{Secret: make([]byte, roster.TicketSecret)}} // no faster than a known one
	}
	ok := hmac.Equal(tn.ticket.MAC(exporter, node), j.MAC)
	if !ok || len(tn.ticket.ID) == 0 || tn.ticket.Expired(now) {
		return key.Object{}, ErrTicketRefused
	}
	if !tn.UsedBy.IsZero() {
		if tn.UsedBy == node {
			return tn.Member, nil
		}
		return key.Object{}, ErrTicketRefused
	}
	capacity := tn.ticket.Capacity
	if j.Capacity > 0 {
		capacity = min(capacity, j.Capacity)
	}
	cert, err := s.Certify(roster.MemberCert{
		Node: node, Name: j.Name, Roles: tn.ticket.Roles, Operator: tn.ticket.Operator, Zone: j.Zone, Capacity: capacity,
	}, now)
	if err != nil {
		return key.Object{}, fmt.Errorf("%w: %w", ErrTicketRefused, err)
	}
	used := &ticketNote{Ticket: tn.Ticket, UsedBy: node, Member: cert, ticket: tn.ticket}
	if err := s.cfg.Book.Save([]Note{used.note()}); err != nil {
		return key.Object{}, fmt.Errorf("keeping the ticket: %w", err)
	}
	s.tickets[string(j.Ticket)] = used
	return cert, nil
}

// renew signs a new certificate with the words of the old one.
func (s *Issuer) renew(old roster.MemberCert, now time.Time) (key.Object, error) {
	old.Head = key.Head{}
	return s.Certify(old, now)
}
