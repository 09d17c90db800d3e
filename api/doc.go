// Package api serves a node's local HTTP API (interface.md, "HTTP API"):
// routing, the guard against everybody who is not the node's own user
// (security.md, "Local API"), strict parsing, and the mapping of the keystore's
// errors to problem types. The bodies are in api/apitype, the description in
// openapi.yaml, which is served too.
//
// Secrets pass through as []byte and are zeroed once answered, as far as
// net/http lets go of them. Neither values nor names of secrets are logged: the
// access log has the pattern of a path, never the path.
package api

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// Secrets is what the API needs of the keystore; *keystore.Store has it.
type Secrets interface {
	Put(ctx context.Context, p keystore.Person, name string, value []byte, o keystore.PutOptions) (keystore.PutResult, error)
	Plan(ctx context.Context, p keystore.Person, name string, size int, o keystore.PutOptions) (keystore.PutResult, error)
	Recover(ctx context.Context, p keystore.Person, name string, o keystore.RecoverOptions) (keystore.Recovered, error)
	Reshare(ctx context.Context, p keystore.Person, name string, o keystore.PutOptions) (keystore.PutResult, error)
	Refresh(ctx context.Context, p keystore.Person, name string, timeout time.Duration) (*keystore.Refreshed, error)
	Verify(ctx context.Context, p keystore.Person, name string, timeout time.Duration) (*keystore.Verified, error)
	Repair(ctx context.Context, p keystore.Person, name string, o keystore.RepairOptions) (*keystore.Repaired, error)
	Delete(ctx context.Context, p keystore.Person, name string, o keystore.DeleteOptions) (keystore.DeleteResult, error)
	List(ctx context.Context, p keystore.Person, o keystore.ListOptions) (keystore.Page, error)
	Info(ctx context.Context, p keystore.Person, name string) (keystore.Info, error)
	Move(ctx context.Context, p keystore.Person, from, to key.NodeID, progress func(keystore.MoveProgress)) (*keystore.Moved, error)
	Drain(ctx context.Context, p keystore.Person, node key.NodeID, on bool) error
	Summary(ctx context.Context, p keystore.Person) (keystore.Counts, error)
}

// Mesh is what the API needs of the node around it. An *apitype.Problem among
// its errors is answered as it is; other errors are internal ones.
type Mesh interface {
	// Status returns how node and mesh stand. It asks no other node.
	Status(ctx context.Context) apitype.Mesh
	// Peers returns the whole roster, offline members and this node included.
	Peers(ctx context.Context) []apitype.Peer
	// Ready reports whether enough holders for the default policy are
	// reachable. It asks no other node.
	Ready(ctx context.Context) bool
	// Invite makes a ticket. Defaults of the request are the node's to fill in.
	Invite(ctx context.Context, r apitype.InviteRequest) (apitype.Invite, error)
	// Remove takes membership away from a node for ever.
	Remove(ctx context.Context, id key.NodeID) error
	// Ping measures a round trip to a node.
	Ping(ctx context.Context, id key.NodeID) (time.Duration, error)
}

// Config is what a [Server] needs. Secrets, Mesh and Persons are required.
type Config struct {
	Secrets Secrets
	Mesh    Mesh
	// Requests are required too.
	Requests Requests
	// Identities may be nil: the paths of persons and kits then answer 503.
	Identities Identities
	// Audit may be nil: the paths of the audit log then answer 503.
	Audit Audit
	// Contacts may be nil: policies then name persons by their keys, and the
	// paths of contacts answer 503.
	Contacts Contacts
	// Persons returns the person of that name; "" is the default one.
	Persons func(name string) (keystore.Person, bool)
	Version apitype.Version
	// Log may be nil: nothing is logged.
	Log *slog.Logger
	// Token is what callers over TCP must show, at least 16 bytes. Not used on
	// the unix socket.
	Token []byte
	// Hosts are accepted in the Host header beside the listener's own address
	// and localhost (TCP), or beside "keymesh" and "localhost" (Unix).
	Hosts []string
}

// Kind is the kind of listener that requests come from.
type Kind int

// The kinds.
const (
	Unix Kind = 1 // peer credentials
	TCP  Kind = 2 // loopback only, with a token
)

func (k Kind) String() string {
	if k == TCP {
		return "tcp"
	}
	return "unix"
}

// Bounds of a server.
const (
	maxInFlight = 128 // requests; one more is answered 429
	maxConns    = 512 // connections of a listener; one more waits
	maxStreams  = 4   // long answers and bodies; one more is answered 429
	minToken    = 16  // bytes
)

// Server serves the API. Safe for concurrent use.
type Server struct {
	cfg         Config
	log         *slog.Logger
	routes      map[string]map[string]endpoint // by pattern, then method
	slots       chan struct{}
	streams     chan struct{} // slots of long answers and bodies
	listeners   chan struct{} // slots of streams of events
	replays     *replays
	jobs        *jobs
	uid         uint32
	credentials func(net.Conn) (uint32, error)
	limits      limits
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Secrets == nil || cfg.Requests == nil || cfg.Mesh == nil || cfg.Persons == nil:
		return nil, errors.New("api: no keystore, mesh or persons")
	case len(cfg.Token) != 0 && len(cfg.Token) < minToken:
		return nil, errors.New("api: the token is too short")
	}
	s := &Server{
		cfg:         cfg,
		log:         cfg.Log,
		slots:       make(chan struct{}, maxInFlight),
		streams:     make(chan struct{}, maxStreams),
		listeners:   make(chan struct{}, maxListeners),
		replays:     newReplays(rand.Text()),
		jobs:        newJobs(),
		uid:         uint32(os.Getuid()),
		credentials: peerUID,
		limits:      defaultLimits(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.routes = s.endpoints()
	maps.Copy(s.routes, s.contactEndpoints())
	maps.Copy(s.routes, s.identityEndpoints())
	maps.Copy(s.routes, s.requestEndpoints())
	maps.Copy(s.routes, s.peerEndpoints())
	maps.Copy(s.routes, s.jobEndpoints())
	maps.Copy(s.routes, s.reshareEndpoints())
	maps.Copy(s.routes, s.refreshEndpoints())
	maps.Copy(s.routes, s.repairEndpoints())
	maps.Copy(s.routes, s.moveEndpoints())
	maps.Copy(s.routes, s.receiptEndpoints())
	maps.Copy(s.routes, s.auditEndpoints())
	maps.Copy(s.routes, s.eventEndpoints())
	return s, nil
}
