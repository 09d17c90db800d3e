package apitype

import (
	"bytes"
	"encoding/json"
)

// Paths of contacts and policies.
const (
	PathContacts = Base + "/contacts"
	PathPolicy   = Base + "/policy"
)

// Sources of a [Contact].
const (
	ContactAdded = "added" // by the person who asks
	ContactHere  = "here"  // a person of this node
	ContactSeen  = "seen"  // bound to a member of the mesh; it has no petname yet
)

// Contact is a person with the name that the person who asks gave them. Names
// are used in policies and wherever persons are shown.
type Contact struct {
	Name   string `json:"name,omitempty"` // absent: none
	Person string `json:"person"`
	// Words are eight, to compare by phone.
	Words  []string `json:"words"`
	Source string   `json:"source"`          // added, here or seen
	Nodes  []string `json:"nodes,omitempty"` // names of the members that act for the person
}

// Contacts is the answer to GET /api/v1/contacts: those added, then the persons
// of this node, then those of other members.
type Contacts struct {
	Items []Contact `json:"items"`
}

// NewContact is the body of POST /api/v1/contacts.
type NewContact struct {
	Name   string `json:"name"`
	Person string `json:"person"` // "person-..."
	// Also gives one more name to somebody who has one.
	Also bool `json:"also,omitempty"`
}

// PolicyTest is the body of POST /api/v1/policy: what would a policy do? It
// names a secret of the person or has a policy that is not stored.
type PolicyTest struct {
	Name   string  `json:"name,omitempty"`
	Policy *Policy `json:"policy,omitempty"`
	// As are those who would sign: petnames, persons "person-...", "owner",
	// "code" (the recovery key of the person who asks), "operator" (every
	// holder's operator confirms).
	As []string `json:"as,omitempty"`
	// After is how many seconds would pass then at the holders.
	After uint64 `json:"after,omitempty"`
}

// PolicyVerdict is the answer.
type PolicyVerdict struct {
	Policy string `json:"policy"`      // in words
	Text   string `json:"policy_text"` // as put takes it
	Gen    uint64 `json:"gen,omitempty"`
	// OK: they recover it at once. Wait: after so many seconds. Neither: not
	// without what is missing.
	OK   bool   `json:"ok"`
	Wait uint64 `json:"wait,omitempty"`
	// Have of Need signatures and confirmations, on the way that lacks the
	// fewest.
	Have    int      `json:"have"`
	Need    int      `json:"need"`
	Missing []string `json:"missing"` // everything in it has to come
	Ways    []Way    `json:"ways"`
	Idle    []string `json:"idle,omitempty"` // of As: whose word counts nowhere
	Alone   []Alone  `json:"alone"`
}

// Way is one of the ways to a secret, of which any is enough.
type Way struct {
	Policy  string   `json:"policy"` // in words
	OK      bool     `json:"ok"`
	Wait    uint64   `json:"wait,omitempty"` // seconds
	Missing []string `json:"missing"`
	Veto    []string `json:"veto,omitempty"` // who may stop it meanwhile
}

// Alone is what one person whom a policy names could do without the others.
type Alone struct {
	Name    string   `json:"name"`
	OK      bool     `json:"ok"`
	Wait    uint64   `json:"wait,omitempty"` // seconds
	Missing []string `json:"missing"`
}

// clause is a Policy without its own JSON form.
type clause Policy

// MarshalJSON implements json.Marshaler.
func (p Policy) MarshalJSON() ([]byte, error) {
	if p.Text != "" {
		return json.Marshal(p.Text)
	}
	return json.Marshal(clause(p))
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *Policy) UnmarshalJSON(in []byte) error {
	if bytes.HasPrefix(in, []byte(`"`)) {
		*p = Policy{}
		return json.Unmarshal(in, &p.Text)
	}
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.DisallowUnknownFields() // an unknown clause must not be passed over
	return dec.Decode((*clause)(p))
}
