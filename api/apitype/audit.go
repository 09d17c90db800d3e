package apitype

import "time"

// Paths of the audit log.
const (
	PathAudit       = Base + "/audit"
	PathAuditVerify = PathAudit + "/verify"
	PathAuditExport = PathAudit + "/export"
)

// TypeAudit is the content type of an exported audit log: lines of JSON that
// end with one whose first member is "end".
const TypeAudit = "application/jsonl"

// MaxAuditExport bounds an export that a node is asked to check, in bytes.
const MaxAuditExport = 1 << 30

// AuditState is how a node's audit log stands; part of [Mesh].
type AuditState struct {
	Last uint64 `json:"last"` // position of the last entry
	// Witnessed is up to where some peer has shown this node's signature.
	Witnessed uint64 `json:"witnessed"`
	Error     string `json:"error,omitempty"` // why it cannot be written; then nothing is released
	// Wrong are sentences: logs that were cut or rewritten, this node's or a
	// peer's, by signatures that peers hold.
	Wrong []string `json:"wrong,omitempty"`
}

// AuditEntry is one entry of a node's audit log.
type AuditEntry struct {
	Position uint64    `json:"position"` // from 1, without gaps
	Time     time.Time `json:"time"`     // by the node's clock, which may have been set back
	Kind     string    `json:"kind"`
	ID       string    `json:"id,omitempty"`   // of the secret
	Name     string    `json:"name,omitempty"` // of a secret of the person who asks, where the node knows it
	Person   string    `json:"person,omitempty"`
	Node     string    `json:"node,omitempty"`
	Request  string    `json:"request,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	// RequestID is the X-Request-Id of the API request at this node that caused
	// it.
	RequestID string `json:"request_id,omitempty"`
	Hash      string `json:"hash"` // of this entry; it covers the one before
}

// AuditPage is the answer to GET /api/v1/audit, the oldest entry first.
type AuditPage struct {
	Items []AuditEntry `json:"items"`
	Last  uint64       `json:"last"` // position of the last entry of the log
	Next  uint64       `json:"next"` // what "since" is for the entries that follow these
}

// AuditCheck is the answer to GET /api/v1/audit/verify: the node has read its
// whole log again and asked the peers that are online what it once signed.
type AuditCheck struct {
	Intact bool   `json:"intact"`
	Wrong  string `json:"wrong,omitempty"` // what is not, naming the entry
	Node   string `json:"node"`
	First  uint64 `json:"first"` // 1, or 0 for an empty log
	Last   uint64 `json:"last"`
	Hash   string `json:"hash"` // of the last entry, or the start of the chain
	// Stopped is why nothing can be written, and so nothing be released.
	Stopped string `json:"stopped,omitempty"`
	// Witnessed is the highest position of which some peer has this node's
	// signature: up to there nothing can be changed unnoticed.
	Witnessed uint64      `json:"witnessed"`
	Asked     int         `json:"asked"`    // peers that were asked just now
	Answered  int         `json:"answered"` // of those
	Peers     []AuditPeer `json:"peers"`
}

// Contradictions of an [AuditPeer].
const (
	AuditOwn    = "own"
	AuditTheirs = "theirs"
)

// AuditPeer is what a node and one peer hold of one another's logs.
type AuditPeer struct {
	Node   string `json:"node"`
	Name   string `json:"name,omitempty"`
	Online bool   `json:"online"`
	// Position and Signed are of the newest head of this node's log that the
	// peer has shown; 0: none.
	Position uint64    `json:"position"`
	Signed   time.Time `json:"signed,omitzero"`
	// Theirs and TheirsSigned are of the newest head of the peer's log here.
	Theirs       uint64    `json:"theirs"`
	TheirsSigned time.Time `json:"theirs_signed,omitzero"`
	// Contradiction is [AuditOwn] when the peer shows a signature of this node
	// that its log does not bear out, [AuditTheirs] when the peer signed two
	// histories, else absent. Proof are the signed heads.
	Contradiction string   `json:"contradiction,omitempty"`
	Proof         [][]byte `json:"proof,omitempty"`
}

// AuditExportCheck is the answer to POST /api/v1/audit/verify: what an export
// shows, or what is wrong with it.
type AuditExportCheck struct {
	Intact bool      `json:"intact"`
	Wrong  string    `json:"wrong,omitempty"`
	Node   string    `json:"node,omitempty"` // whose log it is; the rest is absent unless it is intact
	Last   uint64    `json:"last"`
	Hash   string    `json:"hash,omitempty"`
	Signed time.Time `json:"signed,omitzero"` // by that node, under the end
	Heads  int       `json:"heads"`           // signed by that node that agree, those that this node keeps included
}
