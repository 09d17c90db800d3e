package apitype

// Verified is the result of verify: what the seats of a secret have proven. Each
// seat's state is good, stale, corrupt, missing, unreachable or unproven.
type Verified struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Manifest string `json:"manifest"`
	Gen      uint64 `json:"gen"`
	Epoch    uint32 `json:"epoch"`
	N        int    `json:"n"`
	K        int    `json:"k"`
	W        int    `json:"w"`
	Good     int    `json:"good"`   // seats that have proven row and ciphertext
	Margin   int    `json:"margin"` // of these may still be lost; negative: so many are missing
	// Exit is the exit code of "verify" and "repair": 0, 5 with fewer than k good
	// seats (after a repair: fewer than n), 7 when a seat is corrupt.
	Exit int `json:"exit_code"`
}

// RepairRequest is the body of POST /api/v1/secrets/{name}/repair.
type RepairRequest struct {
	// To are the nodes, by id or name, that take the seats of holders that cannot
	// be reached, in this order. Empty: only the seats of holders that are gone
	// for good move, to the standbys or placement's choice.
	To []string `json:"to,omitempty"`
}

// Repaired is the result of repair.
type Repaired struct {
	Verified
	Moved []Moved `json:"moved"`
	// Liars are seats that showed what proves nothing.
	Liars []Bad    `json:"liars"`
	Notes []string `json:"notes"`
}

// Moved is a seat that was given to another node.
type Moved struct {
	X    int    `json:"x"`
	From string `json:"from"` // node id
	To   string `json:"to"`   // node id
}
