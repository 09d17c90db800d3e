package apitype

import "time"

// PathRequests is where requests for secrets are; a request's hash follows it as
// one segment, and "/approve" or "/deny" after that.
const PathRequests = Base + "/requests"

// Pending is the answer 202 to recover: approvals or delays are missing, and the
// request lives on. The same recover again goes on with it.
type Pending struct {
	Request string `json:"request"`
	// Have of Need signatures and confirmations are here; delays do not count.
	Have    int       `json:"have"`
	Need    int       `json:"need"`
	Missing []string  `json:"missing"`        // clauses, in words
	Wait    uint64    `json:"wait,omitempty"` // seconds, when only a delay is missing
	Expires time.Time `json:"expires"`
	Words   []string  `json:"words"` // six, to compare by phone
}

// Request is a request as a person sees it: one of their own, or one that waits
// for their word.
type Request struct {
	Request string   `json:"request"`
	Words   []string `json:"words"`          // six, to compare by phone
	ID      string   `json:"id"`             // of the secret
	Name    string   `json:"name,omitempty"` // proven against ID; else absent
	Gen     uint64   `json:"gen,omitempty"`  // absent: the latest
	// Verb is what is asked for: recover, policy (to change it) or delete.
	Verb string `json:"verb"`
	// Change is, for the verb policy, the new policy in words, proven against
	// the request; absent: not known here.
	Change    string `json:"change,omitempty"`
	Owner     string `json:"owner"`
	Requester string `json:"requester"`
	// OwnerName and By are what this person calls the owner and the requester.
	OwnerName string `json:"owner_name,omitempty"`
	By        string `json:"by,omitempty"`
	Reason    string `json:"reason,omitempty"` // the requester's words
	// State is one of: open, vetoed, withdrawn, released, expired.
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Mine     bool      `json:"mine"`     // this person asked
	Approver bool      `json:"approver"` // this person's approval counts
	Veto     bool      `json:"veto"`     // this person's denial ends it for good
	Have     int       `json:"have"`
	Need     int       `json:"need"`
	Missing  []string  `json:"missing"`
	Wait     uint64    `json:"wait,omitempty"` // seconds
	Said     []Said    `json:"said"`
	// Ready: enough holders say that they would release now. It and Version are
	// set only where one request is asked for.
	Ready bool `json:"ready,omitempty"`
	// Version changes with everything but Wait. GET with it in the parameter
	// seen, and with wait, is answered once it is another.
	Version string `json:"version,omitempty"`
}

// Said is one person's signed word on a request.
type Said struct {
	Person string `json:"person"`
	Name   string `json:"name,omitempty"` // what this person calls them
	Denied bool   `json:"denied"`
	Note   string `json:"note,omitempty"`
}

// Requests is the answer to GET /api/v1/requests, youngest first.
type Requests struct {
	Items []Request `json:"items"`
}

// Ask is the body of POST /api/v1/requests: a recovery of a secret by its id,
// which is how somebody whom the policy lets asks for what another person owns.
// The answers are those of recover.
type Ask struct {
	ID string `json:"id"`
	// Name and Tag go together, and to the approvers, who prove the name with
	// them. An approver card tells the tag of each name.
	Name     string `json:"name,omitempty"`
	Tag      string `json:"tag,omitempty"`
	Gen      uint64 `json:"gen,omitempty"`
	Manifest string `json:"manifest,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Word is the body of approve and deny.
type Word struct {
	Note string `json:"note,omitempty"` // signed, at most 256 bytes
}

// Heard is the answer to a word on a request: a seat has it on disk, and those
// that have not are told until the request ends.
type Heard struct {
	Request string `json:"request"`
}
