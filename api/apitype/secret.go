package apitype

import "time"

// PutRequest is the body of PUT /api/v1/secrets/{name}. Value is required, and
// may be empty; every other field has a default. The caller zeroes Value.
type PutRequest struct {
	Value Bytes `json:"value"`
	// N seats, of which any K suffice; both 0: 3-of-5, or 2-of-3 with 3 or 4
	// holders. N without K is refused. W is on how many disks the write is
	// before it is acknowledged; 0: n - floor((n-k)/2).
	N int `json:"n,omitempty"`
	K int `json:"k,omitempty"`
	W int `json:"w,omitempty"`
	// Holders are ids or unambiguous names of nodes, instead of placement.
	Holders []string `json:"holders,omitempty"`
	// Policy is who may recover; absent: the previous generation's, or the
	// default one.
	Policy *Policy `json:"policy,omitempty"`
	// Labels: absent keeps the previous generation's, {} removes them.
	Labels      map[string]string `json:"labels,omitzero"`
	Description string            `json:"description,omitempty"`
	// TTL in seconds; 0: never expires. Absent: as long as the previous
	// generation was to live, or for ever.
	TTL *uint64 `json:"ttl,omitempty"`
	// Keep is how many earlier generations stay recoverable. Absent: the
	// previous generation's, or none.
	Keep *int `json:"keep,omitempty"`
	// Repair is who may repair seats: "owner" or "quorum". Absent: the previous
	// generation's, or the owner.
	Repair string `json:"repair,omitempty"`
	// AllowColocated lifts the limits on seats of one operator or zone.
	AllowColocated bool `json:"allow_colocated,omitempty"`
	// New puts although silent holders might have an older generation.
	New bool `json:"new,omitempty"`
	// Force passes writes of others that are pending.
	Force bool `json:"force,omitempty"`
	// DryRun answers 200 with the placement and stores nothing. Value is then
	// used for its length only.
	DryRun bool `json:"dry_run,omitempty"`
}

// Policy is a policy in its text form (see package policy), a string in JSON, or
// one clause, an object. Exactly one field is set.
type Policy struct {
	Text  string   `json:"-"` // not inside another clause
	Any   []Policy `json:"any,omitempty"`
	All   []Policy `json:"all,omitempty"`
	KOf   *KOf     `json:"k_of,omitempty"`
	Owner bool     `json:"owner,omitempty"`
	// Key and Code are persons, "person-...".
	Key      string `json:"key,omitempty"`
	Code     string `json:"code,omitempty"`
	Delay    *Delay `json:"delay,omitempty"`
	Operator bool   `json:"operator,omitempty"`
}

// KOf is satisfied by K of the clauses Of.
type KOf struct {
	K  int      `json:"k"`
	Of []Policy `json:"of"`
}

// Delay is satisfied after Seconds unless one of Veto objects. Veto are
// persons, "person-...", or "owner".
type Delay struct {
	Seconds uint64   `json:"seconds"`
	Veto    []string `json:"veto,omitempty"`
}

// Seat is one seat of a secret.
type Seat struct {
	Node     string `json:"node"`
	Name     string `json:"name,omitempty"`
	Operator string `json:"operator,omitempty"`
	Zone     string `json:"zone,omitempty"`
	X        int    `json:"x,omitempty"`
	// State is one of: committed, prepared, pending, sent, refused, full,
	// conflict, unreachable, good, bad, missing, stale, denied, deleted,
	// planned. Readers treat others as text.
	State string `json:"state,omitempty"`
	Why   string `json:"why,omitempty"`
	// Silent is how many seconds nothing came from the node; absent: it
	// answered, or it is not known.
	Silent uint64 `json:"silent,omitempty"`
}

// PutResult is the answer to PUT: 201 for the first generation of a name, 200
// for a later one or a dry run.
type PutResult struct {
	Name     string   `json:"name"`
	ID       string   `json:"id"`
	Manifest string   `json:"manifest,omitempty"`
	Gen      uint64   `json:"gen"`
	N        int      `json:"n"`
	K        int      `json:"k"`
	W        int      `json:"w"`
	Acked    int      `json:"acked"`
	Seats    []Seat   `json:"seats"`
	Notes    []string `json:"notes,omitempty"` // consequences in words
	Created  bool     `json:"created"`
	DryRun   bool     `json:"dry_run,omitempty"`
	Policy   string   `json:"policy,omitempty"` // in words
	// Alone says of a dry run what each person whom the policy names could do
	// without the others.
	Alone []Alone `json:"alone,omitempty"`
}

// RecoverRequest is the body of POST /api/v1/secrets/{name}/recover.
type RecoverRequest struct {
	Gen      uint64 `json:"gen,omitempty"`      // 0: the latest
	Manifest string `json:"manifest,omitempty"` // after a fork, one of the two
	Reason   string `json:"reason,omitempty"`   // shown to approvers; at most 512 bytes
}

// Recovered is a recovered secret. Whoever has it zeroes Value after use.
type Recovered struct {
	Value    Bytes    `json:"value"`
	Name     string   `json:"name"`
	ID       string   `json:"id"`
	Manifest string   `json:"manifest,omitempty"`
	Gen      uint64   `json:"gen"`
	Used     []string `json:"used"` // node ids
	Bad      []Bad    `json:"bad"`
	Policy   string   `json:"policy,omitempty"` // in words
	// Request is the one that the holders released to, Said the words of others
	// that they released by.
	Request string `json:"request,omitempty"`
	Said    []Said `json:"said,omitempty"`
	// Receipt proves the recovery to anybody: see PathReceiptVerify. Absent when
	// what the holders sent proves none.
	Receipt Bytes `json:"receipt,omitempty"`
}

// DeleteResult is the answer to DELETE once every seat has acknowledged.
// Otherwise the answer is 202 with a problem of type [InDoubt] that names the
// missing ones.
type DeleteResult struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Gen   uint64 `json:"gen"`
	Done  bool   `json:"done"`
	Seats []Seat `json:"seats"`
}

// Listed is one row of a listing.
type Listed struct {
	Name    string            `json:"name"`
	ID      string            `json:"id"`
	Gen     uint64            `json:"gen"`
	N       int               `json:"n"`
	K       int               `json:"k"`
	W       int               `json:"w"`
	Acked   int               `json:"acked"` // seats known to have committed
	Size    uint64            `json:"size"`  // bytes
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Expires time.Time         `json:"expires,omitzero"` // absent: never
	// Margin is how many seats may still be lost: reachable good ones less k.
	Margin int `json:"margin"`
	// By this node, to the hour; absent: never.
	LastRead     time.Time `json:"last_read,omitzero"`
	LastVerified time.Time `json:"last_verified,omitzero"`
}

// Page is the answer to GET /api/v1/secrets. Next is empty at the end. Silent
// are the ids of the holders that did not answer: then it may be incomplete.
type Page struct {
	Items  []Listed `json:"items"`
	Next   string   `json:"next,omitempty"`
	Silent []string `json:"silent,omitempty"`
}

// Info is the answer to GET /api/v1/secrets/{name}: everything but the value.
type Info struct {
	Listed
	Manifest    string   `json:"manifest"`
	Owner       string   `json:"owner"`
	Description string   `json:"description,omitempty"`
	Policy      string   `json:"policy"`                // in words
	PolicyText  string   `json:"policy_text,omitempty"` // as put takes it
	Keep        int      `json:"keep"`
	Repair      string   `json:"repair"` // owner or quorum
	Seats       []Seat   `json:"seats"`
	Standby     []string `json:"standby,omitempty"` // node ids
	Generations []uint64 `json:"generations"`
	Pending     []uint64 `json:"pending,omitempty"`
	LosesIf     Margin   `json:"loses_if"`
	LeaksIf     Margin   `json:"leaks_if"`
	StuckIf     Margin   `json:"stuck_if"`
}

// Margin is how many holders it takes, in numbers and in words.
type Margin struct {
	Count int    `json:"count"`
	Words string `json:"words"`
}
