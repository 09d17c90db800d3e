// Package custody holds the bodies of the calls between a dealer or reader and
// the custodians that keep its rows (protocol.md sections 6 and 7; SPEC.md
// lists the bytes). It is pure: it parses and builds, and decides nothing.
//
// Signed objects inside a body are carried as their encoded bytes, so that
// nothing is re-encoded before it is verified; an empty byte string means that
// there is none.
package custody

import "keymesh/crypto/key"

// Verbs of the calls between nodes about secrets. Numbers 1 to 31 belong to the
// mesh. Numbers are never reused.
const (
	VerbReserve  uint64 = 32 // reserved: RESERVE{size} -> OFFER
	VerbPrepare  uint64 = 33
	VerbCommit   uint64 = 34
	VerbLocate   uint64 = 35
	VerbList     uint64 = 36
	VerbRecover  uint64 = 37
	VerbDelete   uint64 = 38
	VerbSettle   uint64 = 39
	VerbNotify   uint64 = 40
	VerbApprove  uint64 = 41
	VerbAudit    uint64 = 42
	VerbRepair   uint64 = 43
	VerbReassign uint64 = 44 // a Commit with Reassigns: repair what is missing at once
	VerbPass     uint64 = 45
	VerbHead     uint64 = 46
	VerbRecall   uint64 = 51
)

// Unmetered reports whether calls of this verb go through a peer's fair queue
// without a fixed rate. Protocol.md section 4 names LOCATE, RECOVER, PREPARE,
// COMMIT, repair and audit; LIST and DELETE are owner-signed reads and writes
// too (security.md, "Limits"), and at 20 a second an owner's own deletes would
// be left in doubt and listings incomplete.
func Unmetered(verb uint64) bool {
	switch verb {
	case VerbPrepare, VerbCommit, VerbLocate, VerbRecover, VerbList, VerbDelete, VerbAudit, VerbRepair, VerbReassign, VerbRecall:
		return true
	}
	return false
}

// Lapsed reports whether calls of this verb are served to a peer whose
// certificate expired: everything but placing (protocol.md section 4.3).
func Lapsed(verb uint64) bool { return verb != VerbReserve && verb != VerbPrepare }

// Outcomes of a call. One list for all verbs; each verb's doc names its own.
const (
	OK       = 1 // done; the receipt is in the answer
	Conflict = 2 // what is there is in the answer
	Full     = 3 // no room for this operator or owner, or on this disk
	Refused  = 4 // Why says which rule
	Denied   = 5 // not a party, or nothing here: the same answer for both
	Wait     = 6 // a delay runs: Seconds
	Moved    = 7 // the seat was reassigned
	Failed   = 8 // the holder cannot serve: damaged or stopped store
)

// MaxWhy bounds the words of a refusal, in bytes. They are the peer's words.
const MaxWhy = 256

// Prepare asks a seat of the manifest, or of the one before it, to promise it.
type Prepare struct {
	key.Head
	Manifest  []byte   `cbor:"1,keyasint"`
	Row       []byte   `cbor:"2,keyasint"` // k*32 bytes; empty for a seat of prev alone
	Payload   []byte   `cbor:"3,keyasint"` // ciphertext; empty for a seat of prev alone
	Prev      []byte   `cbor:"4,keyasint"` // prev's Manifest, when asked for
	PrevCert  []byte   `cbor:"5,keyasint"` // prev's CommitCert, when asked for
	PrevPrev  []byte   `cbor:"6,keyasint"` // the Manifest before prev, needed to verify PrevCert
	Tombstone []byte   `cbor:"7,keyasint"` // instead of prev, when asked for
	Request   []byte   `cbor:"8,keyasint"` // consent to a change of policy
	Approvals [][]byte `cbor:"9,keyasint"`
	// PrevForced are the manifests that prev's force names, when PrevCert comes
	// along.
	PrevForced [][]byte `cbor:"10,keyasint,omitempty"`
	// Names go with Request when others than the owner are asked.
	Names []NameBox `cbor:"11,keyasint,omitempty"`
	// Forced are the manifests that the force names, when something of what was
	// before is asked for.
	Forced [][]byte `cbor:"12,keyasint,omitempty"`
}

// PrepareReply: OK with the Prepared receipt; Conflict with There; Full;
// Refused, with There when NeedPrev; Failed.
type PrepareReply struct {
	key.Head
	Outcome uint8  `cbor:"1,keyasint"`
	Receipt []byte `cbor:"2,keyasint"`
	There   State  `cbor:"3,keyasint"`
	Why     string `cbor:"4,keyasint"`
	// NeedPrev asks for the same again with Prev, PrevCert, PrevPrev and Forced;
	// after a first generation (no prev), with the Tombstone of what is There.
	NeedPrev bool `cbor:"5,keyasint"`
	// Progress comes with Refused, when the consent to a change of policy is not
	// complete, and with OK, so that the writer has the words on it: as in
	// RecoverReply.
	Progress *Progress `cbor:"6,keyasint,omitempty"`
}

// Commit tells a seat that a manifest has its certificate.
type Commit struct {
	key.Head
	Manifest []byte   `cbor:"1,keyasint"`
	Cert     []byte   `cbor:"2,keyasint"`
	Before   [][]byte `cbor:"3,keyasint"` // manifests of prev and of what is forced, to verify the certificate
	// Reassigns of the manifest's seats, each seat's in order.
	Reassigns [][]byte `cbor:"4,keyasint,omitempty"`
}

// CommitReply: OK with the Committed receipt; Conflict with There; Refused when
// the row is not here (the certificate is kept), the certificate is bad, or the
// generation is deleted; Failed.
type CommitReply struct {
	key.Head
	Outcome uint8  `cbor:"1,keyasint"`
	Receipt []byte `cbor:"2,keyasint"`
	There   State  `cbor:"3,keyasint"`
	Why     string `cbor:"4,keyasint"`
	// PrevGone says that this node no longer holds prev's row except as history.
	PrevGone bool `cbor:"5,keyasint"`
	// Reassigns are those of the manifest that this holder has: whoever sees one
	// that is not the one it sent was too late.
	Reassigns [][]byte `cbor:"6,keyasint,omitempty"`
}

// State is what a holder has of one secret.
type State struct {
	_         struct{} `cbor:",toarray"`
	Manifest  []byte   // committed; empty: none
	Cert      []byte
	Before    [][]byte  // manifests needed to verify Cert
	Epoch     uint32    // of the committed row
	Row       uint8     // RowGood, RowNone or RowBad
	Floor     Floor     // the highest ever committed or certified here
	Pending   []Pending // at most 4
	History   [][]byte  // committed generations kept
	Tombstone []byte
	// Consent is empty when the owner signed the tombstone. Else Tombstone is
	// only a body, and Consent the Request that authorises it and the Approvals.
	Consent [][]byte
}

// States of the row at a holder.
const (
	RowNone = 0
	RowGood = 1
	RowBad  = 2
)

// Floor is the highest certified generation a holder has seen.
type Floor struct {
	_        struct{} `cbor:",toarray"`
	Gen      uint64
	Manifest key.Hash
}

// Pending is a manifest that was prepared here and has no certificate yet.
type Pending struct {
	_        struct{} `cbor:",toarray"`
	Manifest []byte
	Receipt  []byte
}

// Locate asks what a node has of a secret.
type Locate struct {
	key.Head
	ID    key.Hash `cbor:"1,keyasint"`
	Query []byte   `cbor:"2,keyasint"`
}

// LocateReply: OK with State, or Denied; Refused when the query is no good;
// Failed.
type LocateReply struct {
	key.Head
	Outcome uint8 `cbor:"1,keyasint"`
	State   State `cbor:"2,keyasint"`
	// Reassigns of the manifest in State, each seat's in order.
	Reassigns [][]byte `cbor:"3,keyasint,omitempty"`
	// Suspects are seats of that manifest, by x, that this holder suspects.
	Suspects []byte `cbor:"4,keyasint,omitempty"`
	// Epoch is the Epoch of the row in State, when it is above 0.
	Epoch []byte `cbor:"5,keyasint,omitempty"`
}

// List asks for the secrets of one owner, in order of id, after Cursor.
type List struct {
	key.Head
	Owner  key.PersonPublic `cbor:"1,keyasint"`
	Cursor key.Hash         `cbor:"2,keyasint"` // zero: from the start
	Limit  uint16           `cbor:"3,keyasint"` // 1 to MaxList
	Query  []byte           `cbor:"4,keyasint"`
}

// MaxList is the largest page of a List.
const MaxList = 100

// ListReply: OK with a page, or Denied; Refused when the query is no good. More
// says that Items is not the end. A secret that was deleted is in it with its
// Tombstone and no Manifest.
type ListReply struct {
	key.Head
	Outcome uint8   `cbor:"1,keyasint"`
	Items   []State `cbor:"2,keyasint"` // without pendings and history
	More    bool    `cbor:"3,keyasint"`
	// Next is the last id that was looked at: the Cursor of the next page.
	Next key.Hash `cbor:"4,keyasint"`
	// Moves are the Reassigns of items that have some.
	Moves []ItemMoves `cbor:"5,keyasint,omitempty"`
}

// ItemMoves are the Reassigns of the manifest of one item, each seat's in order.
type ItemMoves struct {
	_         struct{} `cbor:",toarray"`
	Item      uint64   // its place in Items
	Reassigns [][]byte
}

// Recover asks a seat for its row.
type Recover struct {
	key.Head
	Request   []byte   `cbor:"1,keyasint"`
	Approvals [][]byte `cbor:"2,keyasint"`
	// Known is H of the manifest the reader has; the State comes back when it
	// is another.
	Known key.Hash `cbor:"3,keyasint"`
	// Payload asks for the ciphertext too.
	Payload bool `cbor:"4,keyasint"`
	// Names are for the nodes of those who are asked to approve: the holder
	// passes each its own with NOTIFY. At most MaxNames.
	Names []NameBox `cbor:"5,keyasint,omitempty"`
	// Look asks only how the request stands: nothing is released. OK then says
	// that the row would go.
	Look bool `cbor:"6,keyasint,omitempty"`
}

// RecoverReply: OK with Release, Box and, when asked for, Payload; Wait; Denied
// (without Why to those who may not know, as for an unknown id); Refused when
// the request is no good, or what it asks for is not here (then with State);
// Moved; Failed.
type RecoverReply struct {
	key.Head
	Outcome uint8  `cbor:"1,keyasint"`
	Release []byte `cbor:"2,keyasint"` // signed Release
	Box     []byte `cbor:"3,keyasint"` // the row, sealed to the request's ephemeral key
	Payload []byte `cbor:"4,keyasint"`
	State   State  `cbor:"5,keyasint"`
	Seconds uint64 `cbor:"6,keyasint"`
	Why     string `cbor:"7,keyasint"`
	// Progress says how the request stands here, to parties, when nothing is
	// released.
	Progress *Progress `cbor:"8,keyasint,omitempty"`
	// Reassigns come with State, and with Moved those of the manifest whose seat
	// this node had.
	Reassigns [][]byte `cbor:"9,keyasint,omitempty"`
	// Epoch is the Epoch of the row in Box, when it is above 0.
	Epoch []byte `cbor:"10,keyasint,omitempty"`
	// Older is the row before, while a refresh is not over: none or one.
	Older []EpochRow `cbor:"11,keyasint,omitempty"`
}

// Delete carries a tombstone to a holder.
type Delete struct {
	key.Head
	Tombstone []byte   `cbor:"1,keyasint"` // owner-signed, or only a body with Request
	Request   []byte   `cbor:"2,keyasint"`
	Approvals [][]byte `cbor:"3,keyasint"`
}

// DeleteReply: OK with a Committed receipt over H(tombstone); Refused; Failed.
type DeleteReply struct {
	key.Head
	Outcome uint8  `cbor:"1,keyasint"`
	Receipt []byte `cbor:"2,keyasint"`
	Why     string `cbor:"3,keyasint"`
	// Progress comes with Wait and Denied, as in RecoverReply.
	Progress *Progress `cbor:"4,keyasint,omitempty"`
}

// MaxPass is how many items a Pass has at most.
const MaxPass = 2048

// Pass asks a seat which of these certificates and tombstones it has not: the
// cheap half of passing them on (W3). The full COMMIT or DELETE follows for
// those only.
type Pass struct {
	key.Head
	Items []PassItem `cbor:"1,keyasint"` // at most MaxPass
}

// PassItem names a certificate by H(manifest), or a tombstone by H(tombstone).
type PassItem struct {
	_    struct{} `cbor:",toarray"`
	ID   key.Hash
	Hash key.Hash
}

// PassReply lists the positions in Items of what is missing. An id that is
// unknown to the node is missing there, so the answer tells a stranger nothing.
type PassReply struct {
	key.Head
	Missing []uint32 `cbor:"1,keyasint"`
}
