package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

// Config is what a [Store] needs. Network, Shelf, ID and Node are required.
type Config struct {
	Network Network
	Shelf   Shelf
	ID      key.NetworkID
	Node    key.NodePrivate
	Limits  Limits
	// Audit may be nil: there is no audit log, and positions in it are 0.
	Audit Auditor
	// Persons returns the persons of this node: requests are told here for
	// their word, and to owners. nil: there are none.
	Persons func() []key.PersonPublic
	// SealingKeys returns the keys that names come sealed to, those replaced of
	// late too. nil: names of others' secrets are not shown here.
	SealingKeys func() []*seal.PrivateKey
	// Clock returns "" while this node's clock looks right, otherwise what is
	// wrong with it: then requests of others than the owner are denied
	// (protocol.md section 5). It is cheap. nil: the clock is trusted.
	Clock func() string
	// RolledBack reports whether peers remember more of this node than its disk
	// does: the disk was put back to an earlier state. It is cheap. nil: nobody
	// looks.
	RolledBack func() bool
	// PersonName returns what people here call a person, or "". It may be nil.
	PersonName func(key.PersonPublic) string
	// RefreshEvery is how often rows are exchanged for others of the same secret
	// (protocol.md section 9), [DefaultRefresh] when 0; negative: only when the
	// owner asks.
	RefreshEvery time.Duration
	// Log may be nil: nothing is logged. Secrets, names and rows never are.
	Log *slog.Logger
}

// Limits bound what this node keeps for others (security.md). A zero field
// means its default.
type Limits struct {
	// Secrets and Bytes hold for each operator (of the node that sent the
	// PREPARE) and, below it, for each owner: 10,000 and 1 GiB.
	Secrets int
	Bytes   int64
	// RepairSeats and RepairBytes are what the repair of this node's own seats
	// may cost in an hour: 10,000 seats and 1 GiB fetched.
	RepairSeats int
	RepairBytes int64
}

// The defaults of [Limits] and the timeout of operations.
const (
	DefaultSecrets = 10_000
	DefaultBytes   = 1 << 30
	// Of repairs in an hour.
	DefaultRepairSeats = 10_000
	DefaultRepairBytes = 1 << 30
	DefaultTimeout     = 30 * time.Second
)

// maxAnswer is the longest answer of a holder that is looked at, in bytes: the
// frame of a link (protocol.md section 4).
const maxAnswer = 5 << 18

func (c *Config) clockOff() bool { return c.Clock != nil && c.Clock() != "" }

func (l Limits) withDefaults() Limits {
	if l.Secrets == 0 {
		l.Secrets = DefaultSecrets
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.RepairSeats == 0 {
		l.RepairSeats = DefaultRepairSeats
	}
	if l.RepairBytes == 0 {
		l.RepairBytes = DefaultRepairBytes
	}
	return l
}

// Store is one node's part in keeping secrets: dealer, reader and custodian.
// Safe for concurrent use.
type Store struct {
	cfg  Config
	log  *slog.Logger
	self key.NodeID
	cust *custodian

	// life ends with Run. Calls that a put leaves behind hang on it, and Run
	// waits for them.
	life  context.Context
	end   context.CancelFunc
	calls callCount

	locks   *locks
	known   *memory
	queries *queries
	pace    *pace
	finish  *finisher
	counts  *summaries
	asks    *book
	reads   atomic.Int64 // recoveries that ask seats at the moment
	marking sync.Mutex   // marks are read, changed and written by one at a time
}

// New checks the configuration. It loads nothing and starts nothing; call
// [Store.Run] for the work that outlives a call.
func New(cfg Config) (*Store, error) {
	switch {
	case cfg.Network == nil || cfg.Shelf == nil:
		return nil, errors.New("keystore: no network or no shelf")
	case cfg.ID.IsZero() || cfg.Node.IsZero():
		return nil, errors.New("keystore: no network id or no node key")
	case cfg.Limits.Secrets < 0 || cfg.Limits.Bytes < 0 || cfg.Limits.RepairSeats < 0 || cfg.Limits.RepairBytes < 0:
		return nil, errors.New("keystore: a negative limit")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, self: cfg.Node.ID(), cust: newCustodian(cfg),
		locks: newLocks(), known: newMemory(), queries: newQueries(), pace: newPace(), counts: newSummaries(),
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.finish = newFinisher(s)
	s.asks = newBook(s)
	s.cust.inbox = s.notified
	return s, nil
}

// Run does the work that outlives a call: it goes on with what the journal
// says is unfinished, with puts that were answered before all n seats had
// committed, and with the custodian's own work. It returns after the last
// goroutine of the Store ended: nil once ctx ends, else the error that stopped
// the custodian. Run is called once.
func (s *Store) Run(ctx context.Context) error {
	defer func() {
		s.calls.wait()
		s.finish.flush(ctx) // what the last calls left
	}()
	defer s.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, s.end)
	defer stop()
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { s.finish.run(ctx) })
	background.Go(func() { s.asks.run(ctx) })
	if err := s.cust.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("custodian: %w", err)
	}
	<-ctx.Done()
	return nil
}

// Answer serves one call of another node; a mesh handler by shape. A refusal
// is an answer; an error means that there is none.
func (s *Store) Answer(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
	return s.cust.answer(ctx, from, verb, body)
}

// Accepting reports whether this node takes new seats: what the mesh tells its
// peers as the standing offer.
func (s *Store) Accepting() bool { return !s.cust.drains.isClosed() && s.cfg.Shelf.Room(0) == nil }

// spawn starts a goroutine that may outlive the call that needs it. It ends
// with Run, or by its own deadline.
func (s *Store) spawn(f func()) {
	s.calls.add(1)
	go func() {
		defer s.calls.add(-1)
		f()
	}()
}

// callCount counts goroutines. Unlike a WaitGroup it may grow from zero while
// somebody waits: operations may be called while Run is ending.
type callCount struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n is zero again; nil: nobody waits
}

func (c *callCount) add(d int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n += d; c.n == 0 && c.zero != nil {
		close(c.zero)
		c.zero = nil
	}
}

// wait returns once there is none.
func (c *callCount) wait() {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return
	}
	if c.zero == nil {
		c.zero = make(chan struct{})
	}
	zero := c.zero
	c.mu.Unlock()
	<-zero
}

// roster is who is there at the moment, this node included.
type roster map[key.NodeID]Member

func (s *Store) roster() roster {
	members := s.cfg.Network.Members()
	out := make(roster, len(members)+1)
	for _, m := range members {
		out[m.ID] = m
	}
	self := s.cfg.Network.Self()
	self.ID, self.Online, self.Accepting = s.self, true, s.Accepting()
	out[s.self] = self
	return out
}

// name is what the roster calls the node, or its short id.
func (r roster) name(id key.NodeID) string {
	if m, ok := r[id]; ok && m.Name != "" {
		return m.Name
	}
	return id.Short()
}

// seat starts a SeatState with what the roster knows.
func (r roster) seat(id key.NodeID, x uint8, state, why string) SeatState {
	m := r[id]
	return SeatState{Node: id, Name: r.name(id), Operator: m.Operator, Zone: m.Zone, X: x, State: state, Why: why}
}

// revoked returns the test that certificates are verified with.
func (s *Store) revoked() func(key.NodeID) bool {
	gone := make(map[key.NodeID]bool)
	for _, m := range s.cfg.Network.Members() {
		if m.Revoked {
			gone[m.ID] = true
		}
	}
	return func(id key.NodeID) bool { return gone[id] }
}

// call sends one request to a node, which may be this one, and reads the
// answer into reply. A node that is slow for one call is asked later next time.
func (s *Store) call(ctx context.Context, to key.NodeID, verb uint64, body []byte, reply key.Body) error {
	start := time.Now()
	var out []byte
	var err error
	if to == s.self {
		out, err = s.cust.answer(ctx, s.self, verb, body)
	} else {
		out, err = s.cfg.Network.Call(ctx, to, verb, body)
	}
	if to != s.self {
		s.pace.took(ctx, to, time.Since(start), err)
	}
	if err != nil {
		return err
	}
	if len(out) > maxAnswer {
		return fmt.Errorf("%w: an answer of %d bytes", errAnswer, len(out))
	}
	if err := key.Unmarshal(out, reply); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	return nil
}

// callWithin is call with a deadline of its own.
func (s *Store) callWithin(ctx context.Context, d time.Duration, to key.NodeID, verb uint64, body []byte, reply key.Body) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return s.call(ctx, to, verb, body, reply)
}

// reason says in bounded words why a call failed.
func reason(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "given up"
	}
	return fmt.Sprintf("%.200s", err.Error())
}

// errAnswer: the node answered with something that no honest node sends.
var errAnswer = errors.New("unreadable answer")

func unix() uint64 { return uint64(time.Now().Unix()) }

// within gives ctx the operation's deadline.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

// quoted is a peer's words, bounded.
func quoted(why string) string {
	if why == "" {
		return ""
	}
	return fmt.Sprintf("%.200q", why)
}
