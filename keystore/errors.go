package keystore

import (
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
)

// Errors of the exported operations. Test with errors.Is and errors.As.
var (
	// ErrNotFound: no secret of that name, or no such generation.
	ErrNotFound = errors.New("no such secret")
	// ErrExpired: what is there is past its time to live. It wraps [ErrNotFound].
	ErrExpired = fmt.Errorf("%w: it has expired", ErrNotFound)
	// ErrDenied: every holder that answered refused this person.
	ErrDenied = errors.New("denied by the holders")
	// ErrTooLarge: the value is longer than 1,048,575 bytes.
	ErrTooLarge = errors.New("the value is longer than 1048575 bytes")
	// ErrInput: an option or name is not acceptable; the text says which.
	ErrInput = errors.New("invalid input")
	// ErrFull: too many holders have no room.
	ErrFull = errors.New("holders have no room")
	// ErrStopped: the local store has failed and serves nothing.
	ErrStopped = errors.New("the local store has stopped")
	// ErrTimeout: the deadline passed first.
	ErrTimeout = errors.New("timed out")
	// ErrNoRequest: this node knows of no such request of, or for, this person.
	ErrNoRequest = errors.New("no such request")
	// ErrVetoed: somebody who may stop the request did. It wraps [ErrDenied].
	ErrVetoed = fmt.Errorf("%w: vetoed", ErrDenied)
	// ErrNotAlone: the policy wants more than the owner's word, and there are no
	// others' words in this. It wraps [ErrDenied].
	ErrNotAlone = fmt.Errorf("%w: the policy does not let the owner read it alone, so the owner alone moves no seat of it either", ErrDenied)
	// ErrEnded: the request is over: expired, withdrawn or released.
	ErrEnded = errors.New("the request is over")
)

// PendingError: approvals or delays are missing, and the request lives on.
// [Store.Continue] goes on with it.
type PendingError struct {
	Request    key.Hash
	Have, Need int           // signatures and confirmations; a delay is none
	Missing    []string      // clauses, in words
	Wait       time.Duration // of the holders' running time, when only a delay is missing
	Expires    time.Time
	Words      []string // the six words to compare by phone
}

func (e *PendingError) Error() string {
	if e.Wait > 0 {
		return fmt.Sprintf("the request waits %v more", e.Wait)
	}
	return fmt.Sprintf("the request has %d of %d approvals", e.Have, e.Need)
}

// QuorumError: fewer than Need seats answered as needed. Nothing is in doubt:
// nothing was stored.
type QuorumError struct {
	Op         string
	Need, Have int
	Seats      []SeatState
}

func (e *QuorumError) Error() string {
	return fmt.Sprintf("%s needs %d holders and has %d", e.Op, e.Need, e.Have)
}

// InDoubtError: the write will complete or die by itself; a retry continues it.
type InDoubtError struct {
	Op         string
	Gen        uint64
	Manifest   key.Hash
	Need, Have int
	Seats      []SeatState
}

func (e *InDoubtError) Error() string {
	return fmt.Sprintf("%s of generation %d is in doubt: %d of %d holders answered", e.Op, e.Gen, e.Have, e.Need)
}

// ConflictError: compare-and-set, if-absent or another writer came first, or
// two certified manifests of one generation exist (Fork).
type ConflictError struct {
	Want, Have uint64
	Fork       []key.Hash // both manifests of a fork
	Why        string
}

func (e *ConflictError) Error() string { return "conflict: " + e.Why }

// IntegrityError: more holders lied than can be passed over. Bad names them.
type IntegrityError struct {
	Need, Have int
	Bad        []BadRow
}

func (e *IntegrityError) Error() string {
	return fmt.Sprintf("%d good rows of the %d needed: %d holders gave bad ones", e.Have, e.Need, len(e.Bad))
}

// PlacementError: the rules of placement cannot be met.
type PlacementError struct {
	Want, Have int
	Why        string
	Seats      []SeatState
}

func (e *PlacementError) Error() string { return "placement: " + e.Why }
