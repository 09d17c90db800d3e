package keystore

import (
	"time"

	"keymesh/crypto/key"
)

// RequestView is a request as a person sees it: one of their own, or one that
// waits for their word.
type RequestView struct {
	Hash  key.Hash
	Words []string // six, to compare by phone
	ID    key.Hash // of the secret
	// Name is proven: by the owner's own key, or because the tag and name that
	// came with the request give the salt of the manifest. Else it is empty.
	Name      string
	Gen       uint64 // 0: the latest
	Verb      uint8  // of package share
	Owner     key.PersonPublic
	Requester key.PersonPublic
	Reason    string // the requester's words
	// Change is, for a change of policy, the encoded policy that is asked for,
	// proven by the payload; nil: it did not come along.
	Change    []byte
	Created   time.Time
	Expires   time.Time
	Mine      bool // this person asked
	Approver  bool // this person's approval counts
	Veto      bool // this person may stop it for good
	Have      int  // signatures and confirmations, as far as this node knows
	Need      int
	Missing   []string // clauses, in words
	Approvals []ApprovalView
	// Wait is what is left of a delay when nothing else is missing, as a holder
	// last said.
	Wait   time.Duration
	Vetoed bool
	// State is one of: open, vetoed, withdrawn, released, expired.
	State string
	// Ready: as many holders as a recovery needs say that they would release.
	// Set by [Store.Look] alone.
	Ready bool
}

// ApprovalView is one person's word on a request.
type ApprovalView struct {
	Person  key.PersonPublic
	Verdict uint8 // of package share: 1 approve, 2 deny or veto
	Note    string
}

// ReceiptView is what a receipt proves.
type ReceiptView struct {
	Network   key.NetworkID
	Request   key.Hash
	Words     []string // the six words of the request
	ID        key.Hash
	Owner     key.PersonPublic
	Manifest  key.Hash
	Gen       uint64
	Requester key.PersonPublic
	Reason    string
	Created   time.Time // the requester's clock
	Approvals []ApprovalView
	Releases  []ReleaseView
	K, N      int
	Policy    string // in words
	// Waits are the delays, in seconds, that the holders have to have waited;
	// that they did is their word alone.
	Waits uint64
}

// ReleaseView is one holder's word that it gave its row.
type ReleaseView struct {
	Node  key.NodeID
	X     uint8
	Audit uint64 // position in the holder's audit log; 0: it kept none
}

// RehearsalSeat says how one seat answered a rehearsal. State is one of:
// proven, unproven, missing, bad, unreachable, denied.
type RehearsalSeat struct {
	SeatState
	// Silent is how long nothing came from the node; 0: it answered, or it is
	// not known.
	Silent time.Duration
}

// Rehearsal is what walking the whole path of a recovery brought.
type Rehearsal struct {
	Name     string
	ID       key.Hash
	Manifest key.Hash
	Gen      uint64
	OK       bool // it would succeed, at once or after what is missing has come
	K, N     int
	Proven   int           // seats that proved their rows
	Margin   int           // of these may still be lost: Proven - K
	Payload  int           // proven seats that have the ciphertext
	Have     int           // signatures
	Need     int           // signatures
	Missing  []string      // clauses, in words; empty: this person's word is enough
	Wait     time.Duration // when only delays are missing
	Seats    []RehearsalSeat
	// Approvers are the persons the policy can need and whether a node bound to
	// them is reachable.
	Approvers []RehearsalApprover
	Policy    string // in words
	Why       string // in words, when not OK
}

// Failed are the holders that failed their proof: what they sent is none, or no
// other seat's agrees with it although enough seats answered to tell.
func (r *Rehearsal) Failed() (out []BadRow) {
	answered := 0
	for _, s := range r.Seats {
		answered += btoi(s.State == "proven" || s.State == "unproven")
	}
	for _, s := range r.Seats {
		if s.State == "bad" || s.State == "unproven" && answered >= r.K && r.K > 0 {
			out = append(out, BadRow{Node: s.Node, Name: s.Name, Why: s.Why})
		}
	}
	return out
}

// RehearsalApprover is one person whose signature can be needed.
type RehearsalApprover struct {
	Person    key.PersonPublic
	Nodes     int // bound to the person
	Reachable int
	Silent    time.Duration // of the node heard last; 0: reachable, or not known
}
