package keystore

import (
	"context"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// Network is what the keystore needs of the mesh. Declared here, met by an
// adapter over mesh.Node and by one fake in tests.
type Network interface {
	// Members returns the roster without this node, offline members included.
	Members() []Member
	// Self returns this node as the roster has it.
	Self() Member
	// Call sends one request and waits for the answer, ctx, or a transport
	// error. to is never this node: the keystore answers itself directly.
	Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error)
}

// Member is one node as far as placement and release need to know it.
type Member struct {
	ID                                 key.NodeID
	Name, Operator, Zone               string // Zone "" : the node itself is its zone
	Holder                             bool   // role holder
	Capacity                           uint64 // weight; 0 counts as 1
	Online, Lapsed, Revoked, Accepting bool
	Persons                            []key.PersonPublic
	// SealingKey is the node's HPKE public key; nil: not known.
	SealingKey []byte
	// LastSeen is when anything last came from the node; zero: not in this run.
	LastSeen time.Time

	draining bool // the person who asks gives it no seats any more
}

// Shelf is what the keystore needs of storage.
type Shelf interface {
	// Load returns a copy of the record, storage's not-found or corrupt error
	// as told apart by NotFound and Corrupt.
	Load(p share.Place) ([]byte, error)
	// Places returns the places of one id in a bucket, in no order.
	Places(b share.Bucket, id key.Hash) []share.Place
	// IDs returns the distinct ids of a bucket, sorted.
	IDs(b share.Bucket) []key.Hash
	// Commit applies all records or none. It is durable once it returns nil;
	// after an error nothing may be assumed and the shelf refuses further work.
	Commit(ctx context.Context, recs ...share.Record) error
	// Room reports an error when n more bytes may not be accepted (nearly full
	// disk or configured size); reads and deletes go on.
	Room(n int) error
	// NotFound and Corrupt classify errors of Load.
	NotFound(error) bool
	Corrupt(error) bool
}

// Person is a person on whose behalf the node acts.
type Person struct {
	Name string // as this node calls them
	Key  key.PersonPrivate
	// Recovery is the public recovery key of the default policy.
	Recovery key.PersonPublic
	// Names returns what this person calls others, or "": policies are said to
	// the person in these names. nil: no names.
	Names func(key.PersonPublic) string
}

// PutOptions are the wishes of a put. Zero values mean the defaults.
type PutOptions struct {
	N, K, W        int
	Holders        []key.NodeID      // explicit placement instead of the ranking
	Policy         []byte            // encoded policy; nil: the previous generation's, or the default
	Labels         map[string]string // nil: keep the previous generation's
	Description    string
	TTL            *time.Duration // 0: never expires; nil: as long as the previous generation was to live, or for ever
	Keep           *int           // nil: as many as the previous generation, or none
	Repair         *uint8         // of package share; nil: as for the previous generation, or by the owner
	AllowColocated bool
	New            bool    // put although silent holders might have an older one
	Force          bool    // pass pendings with a higher generation
	IfGen          *uint64 // compare-and-set: the committed generation must be this one
	IfAbsent       bool    // only when there is none
	Timeout        time.Duration
}

// SeatState says how one seat stands.
type SeatState struct {
	Node     key.NodeID
	Name     string
	Operator string
	Zone     string
	X        uint8
	// State is one of: committed, prepared, pending, sent, refused, full,
	// conflict, unreachable, good, bad, missing, stale, denied, deleted.
	State string
	Why   string // bounded; a peer's words are quoted
}

// PutResult is the outcome of an acknowledged put.
type PutResult struct {
	Name           string
	ID             key.Hash
	Manifest       key.Hash
	Gen            uint64
	N, K, W, Acked int
	Seats          []SeatState
	Notes          []string // consequences in words: lowered w, colocated seats
	Policy         []byte   // encoded
	Created        bool     // first generation
}

// RecoverOptions select what to recover.
type RecoverOptions struct {
	Gen      uint64   // 0: the latest
	Manifest key.Hash // zero: any; after a fork one of the two
	Reason   string
	Timeout  time.Duration
	// Wait is how long to wait for approvals and delays before [PendingError];
	// 0: not at all.
	Wait time.Duration
	// ID, when not zero, names the secret instead of (person, name): how an
	// approver or a recovery key asks for what another person owns.
	ID key.Hash
	// Tag, with ID and a name: the tag that belongs to the name. It goes sealed
	// to the approvers' nodes, who prove the name with it. Not needed by the
	// owner.
	Tag key.Hash
}

// Recovered is a recovered secret. The caller zeroes Value after use.
type Recovered struct {
	Name     string
	ID       key.Hash
	Manifest key.Hash
	Gen      uint64
	Value    []byte
	Used     []key.NodeID
	Bad      []BadRow
	Policy   string // in words
	Request  key.Hash
	// Approvals are the words of others that it rests on.
	Approvals []ApprovalView
	// Receipt proves the recovery to anybody: see [VerifyReceipt].
	Receipt []byte
}

// BadRow names a holder whose answer was dropped, and why.
type BadRow struct {
	Node key.NodeID
	Name string
	Why  string
}

// DeleteOptions select what to delete.
type DeleteOptions struct {
	Gen     uint64 // with All false and Gen != 0: this generation only
	Now     bool
	Timeout time.Duration
}

// DeleteResult is the outcome of a delete.
type DeleteResult struct {
	Name    string
	ID      key.Hash
	Gen     uint64
	Seats   []SeatState
	Done    bool // acknowledged by all seats; else Missing is non-empty
	Missing []key.NodeID
}

// ListOptions page through a person's secrets.
type ListOptions struct {
	Prefix  string
	Cursor  string
	Limit   int // 1 to 1000; 0: 100
	Timeout time.Duration
}

// Listed is one row of a listing.
type Listed struct {
	Name    string
	ID      key.Hash
	Gen     uint64
	K, N, W int
	Acked   int // seats known to have committed
	Size    uint64
	Labels  map[string]string
	Created time.Time
	Expires time.Time // zero: never
	Margin  int       // seats that may still be lost: reachable good seats - k
	// When this node last returned the value, and last had the seats prove their
	// rows; to the hour, zero: never.
	LastRead, LastVerified time.Time

	holders []key.NodeID // of its seats now, and before where the new one has no row yet
}

// Page is one page of a listing. Next is empty at the end. Silent names the
// holders that did not answer, so that the listing may be incomplete.
type Page struct {
	Items  []Listed
	Next   string
	Silent []key.NodeID
}

// Info is everything known of one secret but its value.
type Info struct {
	Listed
	Manifest    key.Hash
	Owner       key.PersonPublic
	Description string
	Policy      string // in words
	Encoded     []byte // the policy
	Keep        int
	Repair      string // owner or quorum
	Seats       []SeatState
	Standby     []key.NodeID
	Generations []uint64 // committed one and history
	Pending     []uint64
	// The three margins in words and numbers (interface.md, info).
	LosesIf, LeaksIf, StuckIf string
	Loses, Leaks, Stuck       int
}
