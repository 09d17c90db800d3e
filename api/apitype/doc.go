// Package apitype holds what the local API and its clients say to one another:
// the JSON bodies of every path, the closed list of problem types, and the exit
// codes of the commands. Server and clients share one table of
// (type, status, exit code); see [Kinds].
//
// Bodies only grow. Identifiers are text: a secret's id and a manifest's hash
// are 64 hexadecimal digits, nodes "node-...", persons "person-...", networks
// "network-...". Times are RFC 3339, durations whole seconds. Fields that are
// empty or zero may be left out.
package apitype

// Base is the path below which the native API lives.
const Base = "/api/v1"

// Paths of the API. A secret's name follows [PathSecrets] as one segment.
const (
	PathHealthz = "/healthz"
	PathReadyz  = "/readyz"
	PathVersion = Base + "/version"
	PathStatus  = Base + "/status"
	PathPeers   = Base + "/peers"
	PathInvites = Base + "/peers/invites"
	PathSecrets = Base + "/secrets"
	PathOpenAPI = Base + "/openapi.yaml"
)

// Limits of the API.
const (
	MaxValue   = 1_048_575 // bytes of a secret
	MaxBody    = 3 << 19   // bytes of a request body: 1.5 MiB
	MaxTimeout = 120       // seconds that a request may ask for
	MaxPage    = 1000      // items of a page
	MaxName    = 512       // bytes of a name
	MaxAnswer  = 16 << 20  // bytes of an answer that a client reads
	HeaderID   = "X-Request-Id"
	HeaderIdem = "Idempotency-Key"
)

// Content types of answers.
const (
	TypeJSON        = "application/json"
	TypeProblemJSON = "application/problem+json"
)
