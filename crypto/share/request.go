package share

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
)

// Lifetimes and sizes of protocol.md sections 2 and 7.
const (
	QueryLife        = 5 * 60            // seconds
	RequestLifeOwner = 15 * 60           // seconds, owner-signed
	RequestLife      = 72 * 60 * 60      // seconds, with approvals
	RequestLifeDelay = 30 * 24 * 60 * 60 // seconds, with a delay clause and beyond the delay
	// RequestLifeMax is with the longest delay of a policy, in seconds. Which
	// of these lives a request may have is for the holder to say, who knows the
	// policy.
	RequestLifeMax = 365*24*60*60 + RequestLifeDelay
	MaxPurpose     = 1 << 10  // bytes
	MaxPayload     = 16 << 10 // bytes
	MaxEphemeral   = 4 << 10  // bytes
	MaxNote        = 256      // bytes
)

// Verbs of a Request.
const (
	VerbRecover = 1
	VerbPolicy  = 2 // payload = H(manifest)
	VerbDelete  = 3 // payload = the tombstone's body
	// VerbRehearse asks each seat to prove that it has its row. Nothing is
	// released, kept or told for it, whatever signatures there are.
	VerbRehearse = 4
)

var (
	// ErrRequest: the query, request or approval breaks a rule of its own.
	ErrRequest = errors.New("invalid request")
	// ErrExpired: it is past its time, or from the future.
	ErrExpired = errors.New("expired or not yet valid")
)

// Query asks what a node knows of secrets to which the person is a party. It
// is good at one node only.
type Query struct {
	key.Head
	Person  key.PersonPublic `cbor:"1,keyasint"`
	Node    key.NodeID       `cbor:"2,keyasint"` // the node asked
	Nonce   [16]byte         `cbor:"3,keyasint"`
	Expires uint64           `cbor:"4,keyasint"` // unix seconds, at most 5 min ahead
}

// SignQuery signs q with the person's key.
func SignQuery(p key.PersonPrivate, net key.NetworkID, q Query) key.Object {
	q.Person = p.Public()
	return key.Sign(p, net, key.TypeQuery, key.Marshal(&q))
}

// OpenQuery verifies a query that arrived at node self at unix time now. The
// signer is the person it names; whether that person is a party is for the
// caller to decide.
func OpenQuery(net key.NetworkID, b []byte, self key.NodeID, now uint64) (*Query, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeQuery); err != nil {
		return nil, err
	}
	q := new(Query)
	if err := key.Unmarshal(o.Body, q); err != nil {
		return nil, err
	}
	if q.Person != key.PersonPublic(o.Key) || q.Node != self {
		return nil, fmt.Errorf("%w: signed by another person or for another node", ErrRequest)
	}
	if err := checkLife(now, q.Expires, QueryLife); err != nil {
		return nil, err
	}
	return q, nil
}

// clockSkew is how far apart two honest clocks may be (protocol.md section 5
// shows a clock that is 10 minutes off as an error).
const clockSkew = 10 * 60

func checkLife(now, expires, life uint64) error {
	if past(expires, now) || after(expires, now, life+clockSkew) {
		return ErrExpired
	}
	return nil
}

// past reports whether t is more than the clocks' difference before now.
func past(t, now uint64) bool { return after(now, t, clockSkew) }

// after reports whether t is more than d seconds after since. Times are a
// peer's and may be any number: sums of them would wrap.
func after(t, since, d uint64) bool { return t > since && t-since > d }

// Request asks the holders for something; parties of the policy sign it or
// approve it.
type Request struct {
	key.Head
	ID        key.Hash         `cbor:"1,keyasint"`
	Gen       uint64           `cbor:"2,keyasint"` // 0: the latest
	Ephemeral []byte           `cbor:"3,keyasint"` // HPKE public key that releases are sealed to
	Nonce     [32]byte         `cbor:"4,keyasint"`
	Verb      uint8            `cbor:"5,keyasint"`
	Payload   []byte           `cbor:"6,keyasint"`
	Purpose   string           `cbor:"7,keyasint"`
	Created   uint64           `cbor:"8,keyasint"` // unix seconds
	Expires   uint64           `cbor:"9,keyasint"` // unix seconds
	Person    key.PersonPublic `cbor:"10,keyasint"`
	// Manifest, when not zero, asks for exactly this manifest (after a fork).
	Manifest key.Hash `cbor:"11,keyasint"`
}

// SignedRequest is a verified request with its object.
type SignedRequest struct {
	Request
	Object key.Object
	Hash   key.Hash // H(request)
}

// SignRequest signs r with a party's key.
func SignRequest(p key.PersonPrivate, net key.NetworkID, r Request) *SignedRequest {
	r.Person = p.Public()
	o := key.Sign(p, net, key.TypeRequest, key.Marshal(&r))
	return &SignedRequest{Request: r, Object: o, Hash: o.Hash(net)}
}

// OpenRequest verifies a request that arrived at unix time now.
func OpenRequest(net key.NetworkID, b []byte, now uint64) (*SignedRequest, error) {
	r, err := ReadRequest(net, b)
	if err != nil {
		return nil, err
	}
	if err := r.CheckTime(now); err != nil {
		return nil, err
	}
	return r, nil
}

// ReadRequest verifies a request but not that its time has come and is not
// over: see [Request.CheckTime].
func ReadRequest(net key.NetworkID, b []byte) (*SignedRequest, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeRequest); err != nil {
		return nil, err
	}
	r := &SignedRequest{Object: o, Hash: o.Hash(net)}
	if err := key.Unmarshal(o.Body, &r.Request); err != nil {
		return nil, err
	}
	switch {
	case r.Person != key.PersonPublic(o.Key):
		return nil, fmt.Errorf("%w: signed by another person than it names", ErrRequest)
	case r.Verb < VerbRecover || r.Verb > VerbRehearse:
		return nil, fmt.Errorf("%w: unknown verb %d", ErrRequest, r.Verb)
	case len(r.Ephemeral) > MaxEphemeral || len(r.Payload) > MaxPayload || len(r.Purpose) > MaxPurpose:
		return nil, fmt.Errorf("%w: a field is too long", ErrRequest)
	}
	if err := r.checkLife(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Request) checkLife() error {
	if r.Created > r.Expires || after(r.Expires, r.Created, RequestLifeMax) {
		return fmt.Errorf("%w: it would live too long", ErrRequest)
	}
	return nil
}

// CheckTime returns [ErrExpired] when the request is not good at unix time now.
func (r *Request) CheckTime(now uint64) error {
	if after(r.Created, now, clockSkew) || past(r.Expires, now) {
		return ErrExpired
	}
	return nil
}

// Verdicts of an Approval.
const (
	VerdictApprove = 1
	VerdictVeto    = 2
)

// Approval is a party's word on a request or a reassignment.
type Approval struct {
	key.Head
	Subject key.Hash         `cbor:"1,keyasint"` // H(request) or H(reassign)
	Verdict uint8            `cbor:"2,keyasint"`
	Expires uint64           `cbor:"3,keyasint"` // unix seconds
	Person  key.PersonPublic `cbor:"4,keyasint"`
	// Note is for people, at most MaxNote bytes: why it was approved or not.
	Note string `cbor:"5,keyasint,omitempty"`
}

// SignApproval signs a with a party's key.
func SignApproval(p key.PersonPrivate, net key.NetworkID, a Approval) key.Object {
	a.Person = p.Public()
	return key.Sign(p, net, key.TypeApproval, key.Marshal(&a))
}

// OpenApproval verifies an approval that arrived at unix time now.
func OpenApproval(net key.NetworkID, b []byte, now uint64) (*Approval, error) {
	a, err := ReadApproval(net, b)
	if err != nil {
		return nil, err
	}
	if err := checkLife(now, a.Expires, RequestLifeMax); err != nil {
		return nil, err
	}
	return a, nil
}

// ReadApproval verifies an approval but not that its time is not over.
func ReadApproval(net key.NetworkID, b []byte) (*Approval, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeApproval); err != nil {
		return nil, err
	}
	if len(b) > MaxApproval {
		return nil, fmt.Errorf("%w: an approval of %d bytes", ErrRequest, len(b))
	}
	a := new(Approval)
	if err := key.Unmarshal(o.Body, a); err != nil {
		return nil, err
	}
	if a.Person != key.PersonPublic(o.Key) || a.Verdict < VerdictApprove || a.Verdict > VerdictVeto {
		return nil, fmt.Errorf("%w: signed by another person than it names, or no known verdict", ErrRequest)
	}
	if len(a.Note) > MaxNote {
		return nil, fmt.Errorf("%w: a note of %d bytes", ErrRequest, len(a.Note))
	}
	return a, nil
}

// Release is the holder's word that it gave a row to a request.
type Release struct {
	key.Head
	Request  key.Hash   `cbor:"1,keyasint"`
	Manifest key.Hash   `cbor:"2,keyasint"`
	Epoch    uint32     `cbor:"3,keyasint"`
	X        uint8      `cbor:"4,keyasint"`
	Audit    uint64     `cbor:"5,keyasint"` // position in the holder's audit log; 0 while it keeps none
	Node     key.NodeID `cbor:"6,keyasint"`
}

// SignRelease signs r with the holder's key.
func SignRelease(k key.NodePrivate, net key.NetworkID, r Release) key.Object {
	r.Node = k.ID()
	return key.Sign(k, net, key.TypeRelease, key.Marshal(&r))
}

// OpenRelease verifies a release that arrived as bytes and that the node it
// names signed it.
func OpenRelease(net key.NetworkID, b []byte) (*Release, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	if err := o.Verify(net, key.TypeRelease); err != nil {
		return nil, err
	}
	r := new(Release)
	if err := key.Unmarshal(o.Body, r); err != nil {
		return nil, err
	}
	if key.NodePublic(o.Key).ID() != r.Node {
		return nil, fmt.Errorf("%w: signed by another node than it names", ErrReceipt)
	}
	return r, nil
}
