package apitype

import (
	"fmt"
	"net/http"
	"strings"
)

// Type is the URI of a problem type (RFC 9457 section 3.1.1). The constants
// are the closed list.
type Type string

// The problem types.
const (
	Invalid       Type = "urn:keymesh:problem:invalid"       // the request is malformed
	Unprocessable Type = "urn:keymesh:problem:unprocessable" // well formed, but makes no sense
	TooLarge      Type = "urn:keymesh:problem:too-large"     // the value or the body is too long
	MediaType     Type = "urn:keymesh:problem:media-type"    // the body is not declared as JSON
	Method        Type = "urn:keymesh:problem:method"        // this path does not know this method
	Unauthorized  Type = "urn:keymesh:problem:unauthorized"  // the token is missing or wrong
	Forbidden     Type = "urn:keymesh:problem:forbidden"     // this caller may not use the API
	Denied        Type = "urn:keymesh:problem:denied"        // the holders refused this person
	NotFound      Type = "urn:keymesh:problem:not-found"     // no such secret, generation, person or path
	Gone          Type = "urn:keymesh:problem:gone"          // the request is over
	Conflict      Type = "urn:keymesh:problem:conflict"      // another writer came first
	Fork          Type = "urn:keymesh:problem:fork"          // two certified manifests of one generation
	Precondition  Type = "urn:keymesh:problem:precondition"  // If-Match or If-None-Match does not hold
	Quorum        Type = "urn:keymesh:problem:quorum"        // a read found too few holders
	Holders       Type = "urn:keymesh:problem:holders"       // a write found too few holders; nothing was stored
	RateLimited   Type = "urn:keymesh:problem:rate-limited"  // too many requests at once
	Unavailable   Type = "urn:keymesh:problem:unavailable"   // the node does not serve now
	Timeout       Type = "urn:keymesh:problem:timeout"       // the deadline passed first
	Integrity     Type = "urn:keymesh:problem:integrity"     // more holders lied than can be passed over
	Full          Type = "urn:keymesh:problem:full"          // holders have no room
	Damaged       Type = "urn:keymesh:problem:damaged"       // this node's own store has failed
	InDoubt       Type = "urn:keymesh:problem:in-doubt"      // a write that completes or dies by itself
	Internal      Type = "urn:keymesh:problem:internal"      // a fault of the node
)

// Kind is one row of the table of problem types.
type Kind struct {
	Type   Type
	Title  string
	Status int // HTTP status
	Exit   int // exit code of the commands
}

// Kinds returns the table: one row for each type, in the order of the list.
func Kinds() []Kind {
	return []Kind{
		{Invalid, "The request is malformed", 400, ExitLocal},
		{Unprocessable, "The request makes no sense", 422, ExitLocal},
		{TooLarge, "The value or the body is too long", 413, ExitLocal},
		{MediaType, "The body must be application/json", 415, ExitLocal},
		{Method, "The path does not know this method", 405, ExitNode},
		{Unauthorized, "The token is missing or wrong", 401, ExitDenied},
		{Forbidden, "This caller may not use the API", 403, ExitDenied},
		{Denied, "Denied by the holders", 403, ExitDenied},
		{NotFound, "Not found", 404, ExitNotFound},
		{Gone, "The request is over", 410, ExitLocal},
		{Conflict, "Another writer came first", 409, ExitConflict},
		{Fork, "Two certified manifests of one generation exist", 409, ExitConflict},
		{Precondition, "The precondition does not hold", 412, ExitConflict},
		{Quorum, "Too few holders answered", 424, ExitQuorum},
		{Holders, "Too few holders; nothing was stored", 503, ExitQuorum},
		{RateLimited, "Too many requests", 429, ExitQuorum},
		{Unavailable, "The node does not serve now", 503, ExitQuorum},
		{Timeout, "Timed out", 504, ExitTimeout},
		{Integrity, "Holders gave bad rows", 502, ExitIntegrity},
		{Full, "Holders have no room", 507, ExitStorage},
		{Damaged, "The node's store has failed", 507, ExitStorage},
		{InDoubt, "In doubt: the write completes or dies by itself", 202, ExitInDoubt},
		{Internal, "The node has a fault", 500, ExitNode},
	}
}

// KindOf returns the row of t and whether t is in the list.
func KindOf(t Type) (Kind, bool) {
	for _, k := range Kinds() {
		if k.Type == t {
			return k, true
		}
	}
	return Kind{}, false
}

// Problem is an RFC 9457 problem and a Go error. Type, Title, Status and
// ExitCode are always set in an answer.
type Problem struct {
	Type   Type   `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Exit is the exit code that a command ends with.
	Exit int `json:"exit_code"`
	// Detail is one sentence about this occurrence. It holds no secret.
	Detail string `json:"detail,omitempty"`
	// Hint is what to do next.
	Hint string `json:"hint,omitempty"`
	// Need and Have count holders (quorum, holders, integrity, in-doubt).
	Need int `json:"need,omitempty"`
	Have int `json:"have,omitempty"`
	// Gen is the generation in doubt, or the one that is there (conflict).
	Gen uint64 `json:"gen,omitempty"`
	// Manifest is the hash of the manifest in doubt.
	Manifest string `json:"manifest,omitempty"`
	// Manifests are both manifests of a fork; recover takes either.
	Manifests []string `json:"manifests,omitempty"`
	// Peers is the state of each holder.
	Peers []PeerState `json:"peers,omitempty"`
	// Bad names the holders whose rows were dropped.
	Bad []Bad `json:"bad,omitempty"`
	// RequestID is the X-Request-Id of the answer.
	RequestID string `json:"request_id,omitempty"`
}

// PeerState is how one holder stands in a problem.
type PeerState struct {
	Node     string `json:"node"`
	Name     string `json:"name,omitempty"`
	Operator string `json:"operator,omitempty"`
	State    string `json:"state"`
	Why      string `json:"why,omitempty"`
}

// Bad names a holder whose answer was dropped, and why.
type Bad struct {
	Node string `json:"node"`
	Name string `json:"name,omitempty"`
	Why  string `json:"why"`
}

// NewProblem returns a problem of type t with its title, status and exit code.
// A type that is not in the list becomes [Internal]. The detail is formatted
// with fmt.Sprintf; an empty format leaves it out.
func NewProblem(t Type, format string, a ...any) *Problem {
	k, ok := KindOf(t)
	if !ok {
		k, _ = KindOf(Internal)
	}
	p := &Problem{Type: k.Type, Title: k.Title, Status: k.Status, Exit: k.Exit}
	if format != "" {
		p.Detail = fmt.Sprintf(format, a...)
	}
	return p
}

// Error returns the detail, or the title where there is none.
func (p *Problem) Error() string {
	switch {
	case p.Detail != "":
		return p.Detail
	case p.Title != "":
		return strings.ToLower(p.Title[:1]) + p.Title[1:]
	}
	return fmt.Sprintf("the node answered %d %s", p.Status, http.StatusText(p.Status))
}

// ExitCode returns the exit code of the type, or that of the status when the
// type is unknown here (a newer node). It is never 0.
func (p *Problem) ExitCode() int {
	if k, ok := KindOf(p.Type); ok {
		return k.Exit
	}
	if code := ExitStatus(p.Status); code != ExitOK {
		return code
	}
	return ExitNode
}

// Is makes errors.Is(err, &Problem{Type: t}) true for problems of type t.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Type != "" && t.Type == p.Type
}
