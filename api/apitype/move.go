package apitype

// Verbs of jobs on a node. POST [PathPeers]/{id}/{verb} starts one; its Name is
// the node's id, and its Result a [MoveResult].
const (
	JobDrain   = "drain"
	JobReplace = "replace"
)

// ReplaceRequest is the body of POST /api/v1/peers/{id}/replace.
type ReplaceRequest struct {
	New string `json:"new"` // id of the node that takes the seats
}

// MoveProgress says how far a job that moves seats is.
type MoveProgress struct {
	Found  int `json:"found"` // secrets with a seat at the node, as far as it has looked
	Done   int `json:"done"`  // of these
	Left   int `json:"left"`
	Failed int `json:"failed"`
	// AtRisk are those left that are out of reach once one more holder is lost.
	AtRisk int    `json:"at_risk"`
	Bytes  int64  `json:"bytes"`
	Last   string `json:"last,omitempty"` // name of the secret done last
}

// MoveResult is the result of drain and replace.
type MoveResult struct {
	Node string `json:"node"`          // whose seats they were
	New  string `json:"new,omitempty"` // who was to take them; absent: placement chose
	// Exit is the exit code of "peer drain" and "peer replace": 0, 4 when all that
	// could not be moved is not the owner's to move alone, or 5 when some
	// could not be moved.
	Exit    int     `json:"exit_code"`
	Moved   int     `json:"moved"`   // seats
	Bytes   int64   `json:"bytes"`   // of their rows and ciphertexts
	Seconds float64 `json:"seconds"` // it took
	// Failed are the secrets whose seat stays where it is, at most 1,000 of
	// NotMoved.
	NotMoved int         `json:"not_moved"`
	Failed   []MoveStays `json:"failed"`
	// Still are rows that the node had not deleted yet though others have the
	// seats: it does by itself.
	Still int      `json:"still"`
	Notes []string `json:"notes"`
}

// MoveStays is a secret whose seat could not be moved.
type MoveStays struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Why  string `json:"why"`
}

// Undrained is the answer to DELETE /api/v1/peers/{id}/drain.
type Undrained struct {
	Node string `json:"node"`
}
