package apitype

import "time"

// Version is the answer to GET /api/v1/version.
type Version struct {
	Version  string `json:"version"`
	Go       string `json:"go,omitempty"`
	Protocol int    `json:"protocol"`
	Commit   string `json:"commit,omitempty"`
}

// Peer is one node of the mesh.
type Peer struct {
	Node        string    `json:"node"`
	Name        string    `json:"name"`
	Operator    string    `json:"operator"`
	Zone        string    `json:"zone,omitempty"`
	Roles       []string  `json:"roles"` // holder, client, relay
	Capacity    uint64    `json:"capacity,omitempty"`
	Addrs       []string  `json:"addrs,omitempty"`
	Self        bool      `json:"self,omitempty"`
	Online      bool      `json:"online"`
	Lapsed      bool      `json:"lapsed,omitempty"`
	Revoked     bool      `json:"revoked,omitempty"`
	Accepting   bool      `json:"accepting"`
	Twin        bool      `json:"twin,omitempty"` // two processes were seen that run with its key
	Issuer      bool      `json:"issuer,omitempty"`
	RTT         float64   `json:"rtt_ms,omitempty"` // milliseconds
	LastSeen    time.Time `json:"last_seen,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`  // of its certificate
	Persons     []string  `json:"persons,omitempty"` // that are bound to it
	Fingerprint []string  `json:"fingerprint,omitempty"`
}

// Peers is the answer to GET /api/v1/peers: the whole roster, offline members
// included, this node with Self set.
type Peers struct {
	Items []Peer `json:"items"`
}

// Removed is the answer to DELETE /api/v1/peers/{id}: the node is no member any
// more, which is on its way to all others.
type Removed struct {
	Node string `json:"node"`
}

// Ping is the answer to POST /api/v1/peers/{id}/ping.
type Ping struct {
	Node string  `json:"node"`
	RTT  float64 `json:"rtt_ms"` // milliseconds
}

// InviteRequest is the body of POST /api/v1/peers/invites.
type InviteRequest struct {
	Operator string   `json:"operator,omitempty"` // default: this node's own
	Roles    []string `json:"roles,omitempty"`    // default: holder, client
	Capacity uint64   `json:"capacity,omitempty"` // the largest the new node may claim; 0: no limit
	Issuer   bool     `json:"issuer,omitempty"`   // the new node may admit others
	TTL      uint64   `json:"ttl,omitempty"`      // seconds; 0: 24 h, which is the largest
}

// Invite is the answer: a ticket that admits one node once. Whoever has the
// ticket can join, so it is handed over like a password.
type Invite struct {
	Ticket      string    `json:"ticket"`
	Operator    string    `json:"operator"`
	Roles       []string  `json:"roles"`
	Expires     time.Time `json:"expires"`
	Issuer      string    `json:"issuer"`      // id of the node that admits
	Fingerprint []string  `json:"fingerprint"` // its eight words, to compare
}

// Mesh is what a node knows of itself and its mesh; part of [Status].
type Mesh struct {
	Network string `json:"network"`
	Node    Peer   `json:"node"`
	// Members counts the roster with this node and without revoked nodes.
	Members   int       `json:"members"`
	Online    int       `json:"online"`
	Holders   int       `json:"holders"`
	Reachable int       `json:"holders_online"`
	Lapsed    int       `json:"lapsed"`
	Revoked   int       `json:"revoked"`
	Started   time.Time `json:"started,omitzero"`
	Storage   Storage   `json:"storage"`
	// Audit is how the node's audit log stands.
	Audit AuditState `json:"audit"`
	// Warnings are sentences: a clock off its peers, an unlocked identity.
	Warnings []string `json:"warnings,omitempty"`
	// Checks are what a node found out about itself, for doctor.
	Checks []Check `json:"checks,omitempty"`
}

// Check is one finding of a node about itself or its machine.
type Check struct {
	Name  string `json:"name"`  // short: clock, unlock, core, certificate, issuers
	Level string `json:"level"` // LevelOK, LevelWarn or LevelBad
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // what to do about it
}

// Levels of a [Check].
const (
	LevelOK   = "ok"
	LevelWarn = "warn"
	LevelBad  = "bad"
)

// Storage is how the node's own store stands.
type Storage struct {
	Records  int    `json:"records"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes,omitempty"` // 0: no limit but the disk
	Error    string `json:"error,omitempty"`     // why it stopped
}

// Person is a person that a node can act for.
type Person struct {
	Name   string `json:"name"`
	Person string `json:"person"` // "person-..."
}

// Health of a [Status].
const (
	Healthy  = "healthy"  // exit 0
	Degraded = "degraded" // exit 11: every secret is recoverable
	Critical = "critical" // exit 5: some secret is below its threshold
	Unknown  = "unknown"  // the secrets could not be counted
)

// Status is the answer to GET /api/v1/status.
type Status struct {
	Mesh
	Version string `json:"version"`
	Health  string `json:"health"`
	// Exit is the exit code of "status".
	Exit int `json:"exit_code"`
	// Person is whom this request acts for.
	Person  Person  `json:"person"`
	Secrets Secrets `json:"secrets"`
	// Reasons are sentences about what keeps Health from healthy.
	Reasons []string `json:"reasons,omitempty"`
}

// Secrets counts a person's secrets.
type Secrets struct {
	Total  int `json:"total"`
	Short  int `json:"short"`   // a holder's row is missing or out of reach
	AtRisk int `json:"at_risk"` // one more loss puts them below their threshold
	Below  int `json:"below"`   // cannot be recovered now
}
