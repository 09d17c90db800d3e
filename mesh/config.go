package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// Config is what a [Node] is made of. Key, Network, Member and Issuer are
// required.
type Config struct {
	// Key is the node's key; its TLS certificate is made from it.
	Key     key.NodePrivate
	Network key.NetworkID
	// Member is the node's own MemberCert and Issuer the IssuerCert above it. A
	// newer one in Book is used instead.
	Member, Issuer key.Object
	// Bindings are the PersonBindings told in the node's record, at most 4.
	Bindings []key.Object
	// SealingKey is the node's HPKE public key, opaque here: sent in HELLO, its
	// hash in the record. At most 2 KiB.
	SealingKey []byte
	// Listener accepts links; Run closes it. nil: the node only dials.
	Listener net.Listener
	// Dial connects to "host:port". nil: a net.Dialer that refuses the addresses
	// of security.md after resolution.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Advertise is where others reach this node, at most 8, in the forms of
	// roster.CheckAddr.
	Advertise []string
	// Bootstrap is where to look when the book knows nobody, or nobody answers.
	// The peer's id is learnt from its HELLO: any member of the network will do.
	Bootstrap []string
	// Book keeps what a restarted node needs. nil: nothing is kept.
	Book PeerBook
	// Issuing admits and renews members. nil: this node does neither.
	Issuing *Issuer
	// Verbs tells the traits of the caller's verbs (32 and above). nil: none
	// have any.
	Verbs func(verb uint64) Traits
	// Accepting is the standing offer told in pongs: whether this node takes new
	// seats. It must not block. nil: always.
	Accepting func() bool
	// Refused is told of every connection that was turned away: the node that it
	// proved to be, or zero, the host it came from, and whether it came with a
	// ticket. It must not block. nil: nobody is told.
	Refused func(node key.NodeID, host string, ticket bool)
	// Log gets what an operator should see. nil: nothing is logged.
	Log *slog.Logger
}

// Traits of a verb of the layer above.
type Traits struct {
	// Unmetered verbs wait in a fair queue a peer instead of being limited to
	// 20 a second.
	Unmetered bool
	// Lapsed verbs are also served on a link one end of which has an expired
	// certificate (protocol.md section 4.3).
	Lapsed bool
}

// FirstVerb is the lowest verb of the layer above; those below are mesh's own.
const FirstVerb = 32

// Handler answers a call or takes a push (whose result is dropped). It runs in
// a goroutine of its own, at most 64 at a time for one peer. ctx ends with the
// link, with Run, and after 30 s. body is the handler's to keep. The error's
// text goes to the peer, cut to 512 bytes: it must hold no secret.
type Handler func(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error)

// DefaultTimeout bounds a call whose context has no earlier deadline.
const DefaultTimeout = 30 * time.Second

var (
	// ErrNoLink: there is no link to the node and none could be made, or it
	// broke while the call was under way. Whether the far side acted is unknown
	// only in the second case; errors.Is(err, ErrLost) tells it.
	ErrNoLink = errors.New("no link to the node")
	// ErrLost: the link broke after the call had been queued on it. Wraps
	// ErrNoLink.
	ErrLost = fmt.Errorf("the link broke during the call: %w", ErrNoLink)
	// ErrUnknownNode: the roster has no record of the node.
	ErrUnknownNode = errors.New("unknown node")
	// ErrRefused: the far side does not serve this here: an unknown verb, a
	// lapsed link, not a member, revoked.
	ErrRefused = errors.New("refused by the node")
	// ErrBusy: a limit of this protocol was reached, here or there; the far side
	// did not look at the call.
	ErrBusy = errors.New("too much in flight")
	// ErrTooLarge: the body does not fit into a frame.
	ErrTooLarge = errors.New("body too large for a frame")
)

// RemoteError is what the far side's handler answered instead of a body. Its
// text is the peer's words: data, not to be trusted.
type RemoteError struct {
	Text string
}

// Error quotes and bounds the peer's words.
func (e *RemoteError) Error() string { return fmt.Sprintf("the node answered: %.200q", e.Text) }

// PeerBook keeps notes for a node that restarts: records, certificates, the
// highest signed time, its own sequence number, tickets. Safe for concurrent
// use.
type PeerBook interface {
	// Load returns every note.
	Load() ([]Note, error)
	// Save replaces the notes of these kinds and ids, all or none; they are
	// durable once it returns. A nil Value deletes the note.
	Save([]Note) error
}

// Note is one value of a [PeerBook], named by kind and id. Values of kind
// [NoteTicket] are secret and have to be sealed at rest.
type Note struct {
	Kind  uint8
	ID    key.Hash
	Value []byte
}

// The kinds of notes. Numbers are never reused.
const (
	NoteRecord     uint8 = 1 // another node's record; ID is the node's id
	NoteRevocation uint8 = 2 // a signer's revocations; ID is roster.Revoker
	NoteSelf       uint8 = 3 // own sequence number, certificates, highest signed time; zero ID
	NoteTicket     uint8 = 4 // a ticket of an Issuer; ID begins with the ticket's id
)

// Member is a node as its peers see it. All slices are the receiver's own.
type Member struct {
	ID          key.NodeID
	Public      key.NodePublic
	Name        string
	Operator    string
	Zone        string
	Roles       roster.Roles
	Capacity    uint64 // bytes offered to seats
	Addrs       []string
	Persons     []key.PersonPublic // bound to the node now
	SealingKey  []byte             // nil until a link was up once in this run
	Online      bool               // a link is up
	Lapsed      bool               // its certificate expired
	Revoked     bool
	Accepting   bool          // its standing offer; false while offline
	Issuer      bool          // it says that it answers JOIN and RENEW
	RTT         time.Duration // of the last ping; 0 while offline
	LastSeen    time.Time     // when a frame last came on a link; zero when never in this run
	CertExpires time.Time
	// Twin: within a day two processes were seen that run with this node's key.
	Twin bool
}

// Status is a snapshot for people and metrics.
type Status struct {
	ID       key.NodeID
	Links    int // that are up
	HalfOpen int // connections not yet authenticated
	Members  int // records without the own one, revoked ones left out
	Lapsed   bool
	Revoked  bool // this node has seen its own revocation
	Seq      uint64
	// RolledBack: see [Node.RolledBack]. Twin: within a day another process
	// signed with this node's key.
	RolledBack, Twin bool
	BytesHeld        int64 // bodies in flight, at most 64 MiB
	// Clock is empty while the clock looks right; otherwise one sentence. What
	// depends on expiry has to be denied then (protocol.md section 5).
	Clock string
	// Counters of things that happened since Run began, by name.
	Counters map[string]uint64
}
