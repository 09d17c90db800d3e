package apitype

import "time"

// Paths of kits and persons.
const (
	PathKit          = Base + "/kit"
	PathPersons      = Base + "/persons"
	PathPersonExport = PathPersons + "/export"
	PathPersonImport = PathPersons + "/import"
)

// What a [KitRequest] asks for.
const (
	KitMake  = "make"  // give the kit; nothing changes
	KitCheck = "check" // read a kit's text and say what it is
	// KitRotate gives the person a new recovery key; in the background every
	// secret that names the old one gets a new generation.
	KitRotate = "rotate"
	// KitList lists what the person may recover of the owner of a kit or card.
	KitList  = "list"
	KitErase = "erase" // check it, then forget what only the kit needs to hold
)

// KitRequest is the body of POST /api/v1/kit.
type KitRequest struct {
	Act  string `json:"act"`            // make, check, list, erase or rotate
	Text Bytes  `json:"text,omitempty"` // of check, list and erase: the kit's text as it was read back
}

// Kit is the answer. The first four fields are set by make only; they hold
// secrets, and the caller zeroes them after use.
type Kit struct {
	Text     Bytes `json:"text,omitempty"`      // the kit as text
	Page     Bytes `json:"page,omitempty"`      // the same as one HTML page
	CardText Bytes `json:"card_text,omitempty"` // an approver's card: the kit without the recovery code
	CardPage Bytes `json:"card_page,omitempty"`

	Kind      string    `json:"kind"` // kit or card
	Network   string    `json:"network"`
	Owner     string    `json:"owner"`     // the person whose secrets it brings back
	Name      string    `json:"name"`      // what the node that made it calls that person
	Authority bool      `json:"authority"` // it holds the network's seed
	Made      time.Time `json:"made"`
	Nodes     []KitNode `json:"nodes"` // to start from
	// Current is set when the kit belongs to a person of this node and its code
	// is the recovery code in use.
	Current bool `json:"current"`
	// Kept is what this node still holds that a printed kit makes superfluous:
	// code, authority. Erased is what it has just forgotten.
	Kept   []string `json:"kept"`
	Erased []string `json:"erased"`
	// Secrets are what list found, by name; Silent counts the holders that did
	// not answer.
	Secrets []KitSecret `json:"secrets,omitempty"`
	Silent  int         `json:"silent,omitempty"`
}

// KitSecret is a secret that a card or kit leads to. ID and Tag are what
// [Ask] takes.
type KitSecret struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Tag    string `json:"tag"`
	Gen    uint64 `json:"gen"`
	Policy string `json:"policy"` // in words
}

// KitNode is a member of the network in a kit.
type KitNode struct {
	Node  string   `json:"node"`
	Addrs []string `json:"addrs"`
}

// PersonInfo is one person of the node.
type PersonInfo struct {
	Name     string `json:"name"`
	Person   string `json:"person"`
	Default  bool   `json:"default,omitempty"`  // who acts when nobody is named
	Recovery string `json:"recovery,omitempty"` // the public recovery key of new policies
	Code     bool   `json:"code,omitempty"`     // the recovery code lies here still: make a kit
}

// Persons is the answer to GET /api/v1/persons.
type Persons struct {
	Items []PersonInfo `json:"items"`
}

// NewPerson is the body of POST /api/v1/persons.
type NewPerson struct {
	Name string `json:"name"`
}

// PersonExport is the body of POST /api/v1/persons/export.
type PersonExport struct {
	Name       string `json:"name,omitempty"` // default: who acts when nobody is named
	Passphrase Bytes  `json:"passphrase"`
}

// PersonFile is a person sealed under a passphrase.
type PersonFile struct {
	File   Bytes  `json:"file"`
	Name   string `json:"name"`
	Person string `json:"person"`
}

// PersonImport is the body of POST /api/v1/persons/import.
type PersonImport struct {
	File       Bytes  `json:"file"`
	Passphrase Bytes  `json:"passphrase"`
	Name       string `json:"name,omitempty"` // default: the name in the file
}
