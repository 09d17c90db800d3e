package apitype

import (
	"fmt"
	"strings"
	"time"
)

// PathReceiptVerify is where a receipt is verified.
const PathReceiptVerify = Base + "/receipts/verify"

// MaxReceipt is the longest receipt, in bytes.
const MaxReceipt = 64 << 10

// ReceiptRequest is the body of POST [PathReceiptVerify].
type ReceiptRequest struct {
	Receipt Bytes `json:"receipt"`
}

// Receipt is what a receipt proves, or why it proves nothing. Valid false comes
// with Why and nothing else.
type Receipt struct {
	Valid bool   `json:"valid"`
	Why   string `json:"why,omitempty"`

	Network string `json:"network,omitempty"`
	// Here: it is of the network of the node that verified it. A receipt of
	// another network proves nothing about this one.
	Here      bool      `json:"here,omitempty"`
	Request   string    `json:"request,omitempty"`
	Words     []string  `json:"words,omitempty"` // six, of the request
	ID        string    `json:"id,omitempty"`    // of the secret
	Owner     string    `json:"owner,omitempty"`
	OwnerName string    `json:"owner_name,omitempty"` // what this person calls them
	Manifest  string    `json:"manifest,omitempty"`
	Gen       uint64    `json:"gen,omitempty"`
	Requester string    `json:"requester,omitempty"`
	By        string    `json:"by,omitempty"`     // what this person calls the requester
	Reason    string    `json:"reason,omitempty"` // the requester's words
	Created   time.Time `json:"created,omitzero"` // by the requester's clock
	K         int       `json:"k,omitempty"`
	N         int       `json:"n,omitempty"`
	Policy    string    `json:"policy,omitempty"` // in words
	// Waited are the seconds of delay that the policy asks for; that they passed
	// is the holders' word.
	Waited    uint64    `json:"waited,omitempty"`
	Approvals []Said    `json:"approvals,omitempty"`
	Releases  []Release `json:"releases,omitempty"`
}

// Release is one holder's signed word that it gave its row.
type Release struct {
	Node  string `json:"node"`
	Name  string `json:"name,omitempty"` // what the roster calls it
	X     int    `json:"x"`
	Audit uint64 `json:"audit,omitempty"` // position in the holder's audit log; absent: it kept none
}

// Lines says in words what the receipt proves, one fact a line. Words of others
// are quoted.
func (r *Receipt) Lines() []string {
	if !r.Valid {
		return []string{"the receipt proves nothing: " + r.Why}
	}
	out := []string{
		fmt.Sprintf("secret %s, generation %d, of %s", r.ID, r.Gen, called(r.OwnerName, r.Owner)),
		fmt.Sprintf("was recovered at the request of %s, made at %s: %s", called(r.By, r.Requester), r.Created.UTC().Format(time.RFC3339), strings.Join(r.Words, " ")),
	}
	if r.Reason != "" {
		out = append(out, fmt.Sprintf("who said why: %.600q", r.Reason))
	}
	for _, a := range r.Approvals {
		line := "approved by " + called(a.Name, a.Person)
		if a.Note != "" {
			line += fmt.Sprintf(", who noted %.300q", a.Note)
		}
		out = append(out, line)
	}
	if len(r.Approvals) == 0 {
		out = append(out, "approved by nobody else: none was needed")
	}
	if r.Waited > 0 {
		out = append(out, fmt.Sprintf("after a delay of %v, by the holders' word", time.Duration(min(r.Waited, 1<<32))*time.Second))
	}
	out = append(out, fmt.Sprintf("as the owner's policy allows: %.1000q", r.Policy), fmt.Sprintf("and these %d of %d holders released their rows:", len(r.Releases), r.N))
	for _, h := range r.Releases {
		at := "which keeps no audit log"
		if h.Audit > 0 {
			at = fmt.Sprintf("at position %d of its audit log", h.Audit)
		}
		name := ""
		if h.Name != "" {
			name = h.Name + " "
		}
		out = append(out, fmt.Sprintf("  %s%s, seat %d, %s", name, h.Node, h.X, at))
	}
	return append(out, "in "+r.Network)
}

// called is a person's key with the name that one calls them.
func called(name, person string) string {
	if name == "" {
		return person
	}
	return name + " (" + person + ")"
}
