package keystore

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"keymesh/crypto/key"
)

// Config is what a [Store] needs. Network, Shelf, ID and Node are required.
type Config struct {
	Network Network
	Shelf   Shelf
	ID      key.NetworkID
	Node    key.NodePrivate
	Limits  Limits
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
}

// The defaults of [Limits] and the timeout of operations.
const (
	DefaultSecrets = 10_000
	DefaultBytes   = 1 << 30
	DefaultTimeout = 30 * time.Second
)

func (l Limits) withDefaults() Limits {
	if l.Secrets == 0 {
		l.Secrets = DefaultSecrets
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	return l
}

// Store is one node's part in keeping secrets: dealer, reader and custodian.
// Safe for concurrent use.
type Store struct {
	cfg Config
	log *slog.Logger
}

// New checks the configuration. It loads nothing and starts nothing; call
// [Store.Run] for the work that outlives a call.
func New(cfg Config) (*Store, error) {
	switch {
	case cfg.Network == nil || cfg.Shelf == nil:
		return nil, errors.New("keystore: no network or no shelf")
	case cfg.ID.IsZero() || cfg.Node.IsZero():
		return nil, errors.New("keystore: no network id or no node key")
	case cfg.Limits.Secrets < 0 || cfg.Limits.Bytes < 0:
		return nil, errors.New("keystore: a negative limit")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{cfg: cfg, log: cfg.Log}, nil
}

var errNotYet = errors.New("keystore: not available in this build")

// Run does the work that outlives a call until ctx ends.
func (s *Store) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Answer serves one call of another node; a mesh handler by shape.
func (s *Store) Answer(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
	return nil, errNotYet
}

// Put stores value under name.
func (s *Store) Put(ctx context.Context, p Person, name string, value []byte, o PutOptions) (PutResult, error) {
	return PutResult{}, errNotYet
}

// Plan says where Put would place a secret of size bytes.
func (s *Store) Plan(ctx context.Context, p Person, name string, size int, o PutOptions) (PutResult, error) {
	return PutResult{}, errNotYet
}

// Recover returns the value stored under name.
func (s *Store) Recover(ctx context.Context, p Person, name string, o RecoverOptions) (Recovered, error) {
	return Recovered{}, errNotYet
}

// Delete deletes a secret or one generation of it.
func (s *Store) Delete(ctx context.Context, p Person, name string, o DeleteOptions) (DeleteResult, error) {
	return DeleteResult{}, errNotYet
}

// List returns a page of the person's secrets in order of name.
func (s *Store) List(ctx context.Context, p Person, o ListOptions) (Page, error) {
	return Page{}, errNotYet
}

// Info returns everything known of a secret but its value.
func (s *Store) Info(ctx context.Context, p Person, name string) (Info, error) {
	return Info{}, errNotYet
}

// Summary counts the person's secrets, those that one more loss would put
// below their threshold, and those below it.
func (s *Store) Summary(ctx context.Context, p Person) (secrets, atRisk, below int, err error) {
	return 0, 0, 0, errNotYet
}

// Accepting reports whether this node takes new seats.
func (s *Store) Accepting() bool { return s.cfg.Shelf.Room(0) == nil }

// CheckName refuses what is no name of a secret with an error that wraps
// [ErrInput].
func CheckName(name string) error { return errNotYet }
