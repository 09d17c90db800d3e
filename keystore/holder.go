package keystore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// The holder: what one node keeps and has promised of one secret, and how a
// message changes it (protocol.md section 6, W1 and W2). Everything in the
// holder*.go files is pure: a step takes the state, a message and the facts of
// the moment and returns the next state, the records to write, and the receipt
// to sign once they are on disk. States are immutable; a step copies what it
// changes.

// Bounds of what is kept of one secret.
const (
	maxPending = 4       // receipts outstanding (W1)
	maxJump    = 1 << 16 // how far a generation may be above what is there (W1)
	maxTombs   = 32      // tombstones of single generations
)

// version is a verified manifest with its policy.
type version struct {
	*share.SignedManifest
	policy *policy.Policy
	sane   error    // why the policy is refused; nil when it is sound
	alone  bool     // its owner's signature alone satisfies the policy
	wire   [32]byte // SHA-256 of the bytes it came in, where a cache has it
}

func newVersion(m *share.SignedManifest) *version {
	v := &version{SignedManifest: m}
	v.policy, v.sane = policy.Parse(m.Policy)
	if v.sane == nil {
		v.sane = v.policy.CheckOwner(m.Owner)
		v.alone = ownerAlone(&m.Manifest)
	}
	return v
}

// isParty reports whether the person may know of this version.
func (v *version) isParty(p key.PersonPublic) bool {
	return v.policy != nil && v.policy.IsParty(v.Owner, p)
}

// expired reports whether nothing of the version may be released any more.
func (v *version) expired(now uint64) bool { return v.Expires != 0 && now >= v.Expires }

// stored is one version as this holder has it.
type stored struct {
	*version
	cert        []byte     // encoded CommitCert; empty while pending
	before      []*version // what the certificate needs to be verified; of a pending, what its force names, as far as it was known
	x           uint8      // own seat; 0: none
	row         bool       // row and payload are here
	epoch       uint32
	promised    uint64 // time in the Prepared receipt; 0: none was given
	committedAt uint64 // time in the Committed receipt
	operator    string // whose quota it is in
	distance    uint8  // of history: how many generations before the committed one

	proof   *share.OpenedEpoch // of the row in force; nil for epoch 0
	since   uint64             // when that row came into force, unix seconds; 0 for epoch 0
	refresh *refreshing        // nil: none is under way here
}

// size is what the version is charged with, in bytes.
func (s *stored) size() int64 {
	n := int64(len(s.Object.Body) + len(s.cert))
	for _, b := range s.before {
		n += int64(len(b.Object.Body))
	}
	if s.row {
		n += s.rowSize() + s.refreshSize()
	}
	return n
}

// rowSize is what a row and the ciphertext take, in bytes.
func (s *stored) rowSize() int64 { return int64(s.Length) + int64(s.K)*share.DataKeySize }

// tomb is a tombstone as this holder has it.
type tomb struct {
	share.Tombstone
	hash      key.Hash
	object    []byte       // signed by the owner, or
	body      []byte       // the tombstone's body, authorised by
	request   []byte       // this Request
	approvals [][]byte     // and these
	at        uint64       // time in the receipt
	x         uint8        // the seat that this node had, or 0
	seats     []key.NodeID // who else is to know, as far as was known here
}

// size is what the tombstone is charged with, in bytes.
func (t *tomb) size() int64 {
	n := len(t.object) + len(t.body) + len(t.request) + len(t.seats)*len(key.NodeID{})
	for _, a := range t.approvals {
		n += len(a)
	}
	return int64(n)
}

// secretState is everything a holder has of one secret. Immutable.
type secretState struct {
	id        key.Hash
	owner     key.PersonPublic
	operator  string        // whose quota the record itself is in
	floor     custody.Floor // the highest ever certified here: what is there
	committed *stored
	kept      *stored   // certified above committed, but its row is not here
	pending   []*stored // promised, ascending by generation
	history   []*stored // newest first
	tombs     []*tomb   // at most one for all generations, and it is the first
	cleared   uint64    // the restoration after which enough seats were heard
	marks     []mark    // what was said of manifests that are not promised here (W5)
	moves     []*move   // Reassigns of the version in force, each seat's in order
	votes     []vote    // this node's own under Reassigns of the version votesOf
	votesOf   key.Hash
	vetoed    []key.Hash // H of Reassigns of it that the owner vetoed
	vetoes    [][]byte   // the owner's words, to be passed on
}

// holderFacts are what a step may know of the world.
type holderFacts struct {
	net  key.NetworkID
	self key.NodeID
	from key.NodeID // who sent the message
	now  uint64     // unix seconds
	ran  uint64     // running time of this node, seconds
	// operator is whose quota new things are charged to.
	operator string
	ordered  bool   // it is a REASSIGN, which its sender pays for
	restored uint64 // how often this node's disk was put back
	revoked  func(key.NodeID) bool
	// known reports receipts whose signature was verified before; may be nil.
	known func(key.Object) bool
	// member reports whether the node is in the roster; nil: all are.
	member func(key.NodeID) bool
	// full says why the demand is not granted; empty: it is.
	full func(demand) string
}

// demand is room that a step asks for.
type demand struct {
	operator string // who pays, and below it
	owner    key.PersonPublic
	bytes    int64
	version  bool // for a version, which counts as a secret; else for the record
}

// promise is a receipt that may be signed once the step's records are on disk.
// Ed25519 is deterministic, so the same promise always gives the same bytes.
type promise struct {
	kind    key.Type
	receipt share.Receipt
}

// stepResult is the outcome of a step.
type stepResult struct {
	next     *secretState   // nil: nothing changes and nothing is written
	writes   []share.Record // rows and payloads; [stepResult.records] adds the state
	outcome  uint8          // of package custody
	why      string
	needPrev bool
	prevGone bool
	word     uint8  // on a manifest that is being settled
	gen      uint64 // of the manifest that came: who brings something new may see what is there
	sign     *promise
	ack      *share.EpochAck    // to be signed like sign
	epoch    *share.OpenedEpoch // of the row here, when another was asked for
	also     []key.NodeID       // held seats of what was in force before by Reassigns
}

func refuse(outcome uint8, format string, a ...any) stepResult {
	return stepResult{outcome: outcome, why: fmt.Sprintf(format, a...)}
}

// clone copies what a step may change.
func (s *secretState) clone() *secretState {
	c := *s
	c.pending, c.history, c.tombs = slices.Clone(s.pending), slices.Clone(s.history), slices.Clone(s.tombs)
	c.marks = slices.Clone(s.marks)
	c.moves, c.votes, c.vetoed = slices.Clone(s.moves), slices.Clone(s.votes), slices.Clone(s.vetoed)
	c.vetoes = slices.Clone(s.vetoes)
	return &c
}

// charge notes the owner, and on the first record the operator it is charged to.
func (s *secretState) charge(f holderFacts, owner key.PersonPublic) {
	if s.nothing() {
		s.operator = f.operator
	}
	s.owner = owner
}

// payer is the operator that what is added to the record is charged to: the
// sender's, or of a node that is no member any more the record's.
func (s *secretState) payer(f holderFacts) string {
	if f.operator == "" {
		return s.operator
	}
	return f.operator
}

// givenAway is whose quota a seat is in that a Reassign gave to this node and of
// which it was told in passing: whoever passed it on has not asked for it, and
// the owner has not asked this node. It is no operator's name. Its limits are a
// quarter of an operator's, and a sixteenth for each owner.
const givenAway = "\x00given"

// given reports whether a Reassign is all that gives this node a seat of m.
func (s *secretState) given(f holderFacts, m *version) bool {
	return m.SeatOf(f.self) == nil && s.ownSeat(m, f.self) != 0
}

// size is what everything of the secret is charged with, in bytes.
func (s *secretState) size() int64 {
	var n int64
	for _, e := range s.entries() {
		n += e.size()
	}
	for _, t := range s.tombs {
		n += t.size()
	}
	for _, m := range s.moves {
		n += m.size()
	}
	for _, b := range s.vetoes {
		n += int64(len(b))
	}
	return n
}

// committedGen is the committed generation, 0 when there is none.
func (s *secretState) committedGen() uint64 {
	if s.committed == nil {
		return 0
	}
	return s.committed.Gen
}

// covered reports whether a tombstone deletes the generation.
func (s *secretState) covered(gen uint64) bool { return s.covering(gen) != nil }

// covering is a tombstone that deletes the generation, or nil.
func (s *secretState) covering(gen uint64) *tomb {
	i := slices.IndexFunc(s.tombs, func(t *tomb) bool { return t.Covers(gen) })
	if i < 0 {
		return nil
	}
	return s.tombs[i]
}

// deletedUpTo is the highest generation below which everything is deleted.
func (s *secretState) deletedUpTo() uint64 {
	if len(s.tombs) > 0 && s.tombs[0].Scope == share.ScopeAll {
		return s.tombs[0].Gen
	}
	return 0
}

// top is the generation that a new one must be above.
func (s *secretState) top() uint64 {
	top := s.floor.Gen
	for _, t := range s.tombs {
		top = max(top, t.Gen)
	}
	return top
}

// empty reports whether "nothing" is there: nothing was ever certified here, or
// a tombstone up to a generation covers all that was.
func (s *secretState) empty() bool { return s.floor.Gen <= s.deletedUpTo() }

// find returns what is here of the manifest with this hash, or nil.
func (s *secretState) find(h key.Hash) *stored {
	if s.committed != nil && s.committed.Hash == h {
		return s.committed
	}
	if s.kept != nil && s.kept.Hash == h {
		return s.kept
	}
	for _, list := range [][]*stored{s.pending, s.history} {
		for _, e := range list {
			if e.Hash == h {
				return e
			}
		}
	}
	return nil
}

// knownVersion returns the manifest with this hash if it is here in any role.
func (s *secretState) knownVersion(h key.Hash) *version {
	if e := s.find(h); e != nil {
		return e.version
	}
	for _, e := range append([]*stored{s.committed, s.kept}, s.pending...) {
		if e == nil {
			continue
		}
		for _, v := range e.before {
			if v.Hash == h {
				return v
			}
		}
	}
	return nil
}

// raise makes v what is there if it is higher.
func (s *secretState) raise(v *version) {
	if v.Gen > s.floor.Gen {
		s.floor = custody.Floor{Gen: v.Gen, Manifest: v.Hash}
	}
}

// certificate is a certificate with what it takes to verify it.
type certificate struct {
	of     *version
	cert   *share.CommitCert
	bytes  []byte
	before []*version
	moves  []*share.SignedReassign // of its seats, verified; of a COMMIT only
}

// line finds the manifests that the certificate must be judged by, among what
// came along and what is here. Nothing of the certificate is verified yet.
func (c *certificate) line(s *secretState) ([]*version, error) {
	if c.cert == nil {
		return nil, errors.New("no certificate")
	}
	var before []*version
	for _, h := range append([]key.Hash{c.of.Prev}, c.of.Force...) {
		if h.IsZero() {
			continue
		}
		v := s.knownVersion(h)
		for _, b := range c.before {
			if b.Hash == h {
				v = b
			}
		}
		if v == nil {
			return nil, fmt.Errorf("%w: a manifest before it is missing", share.ErrCertificate)
		}
		before = append(before, v)
	}
	return before, nil
}

// verify checks the certificate by the manifests that [certificate.line] found.
func (c *certificate) verify(f holderFacts, before []*version) error {
	return share.VerifyCertKnown(f.net, c.cert, c.of.SignedManifest, signedOf(before), f.revoked, f.known)
}

// check is line and verify.
func (c *certificate) check(f holderFacts, s *secretState) ([]*version, error) {
	before, err := c.line(s)
	if err != nil {
		return nil, err
	}
	return before, c.verify(f, before)
}

func signedOf(vs []*version) []*share.SignedManifest {
	out := make([]*share.SignedManifest, len(vs))
	for i, v := range vs {
		out[i] = v.SignedManifest
	}
	return out
}

// consent is a verified Request with the approvals that came with it.
type consent struct {
	*share.SignedRequest
	// approvers are the parties whose valid approvals over this request are
	// here. Only approvals of parties are verified, so that a stranger's cost
	// nothing. Not asked when held is set.
	approvers func(party func(key.PersonPublic) bool) []key.PersonPublic
	// held is the request as it is kept here, with all words on it and the
	// delays that run; nil: it is not kept. facts are those that it is judged by.
	held  *requestState
	facts holderFacts
}

// satisfies says whether the consent satisfies the policy of v, and what is
// missing.
func (c *consent) satisfies(v *version) (bool, []string) {
	verdict := c.verdict(v)
	return verdict.OK, verdict.Missing
}

// alone reports whether the word of the one who asks is enough for v.
func (c *consent) alone(v *version) bool {
	return v.policy != nil && v.policy.Evaluate(policy.Evidence{Owner: v.Owner, Signers: []key.PersonPublic{c.Person}}).OK
}

// verdict is what the policy of v says of the request and the words on it.
// Lives are those of protocol.md section 7: 15 minutes for what its signer's
// word alone carries, 72 hours with approvals, with a delay clause that delay
// and 30 days.
func (c *consent) verdict(v *version) policy.Verdict {
	missing := func(what string) policy.Verdict { return policy.Verdict{Missing: []string{what}} }
	life := c.Expires - c.Created
	switch {
	case v.policy == nil:
		return missing("a policy that this holder can read")
	case c.held != nil && (c.held.closed != custody.Open || c.held.damaged):
		return missing("another request: this one has ended")
	case c.alone(v) && life > share.RequestLifeOwner:
		return missing("a request that lives 15 minutes at most")
	case c.alone(v):
		return policy.Verdict{OK: true, Have: 1, Need: 1}
	case life > v.longest():
		return missing(fmt.Sprintf("a request that lives %d hours at most", v.longest()/3600))
	}
	e := policy.Evidence{Owner: v.Owner}
	if c.held != nil {
		e.Signers = c.held.signers(c.facts, v.isParty)
		e.Operator, e.Waited = c.held.confirmed, c.held.waited(v, c.facts.ran)
	} else {
		e.Signers = append([]key.PersonPublic{c.Person}, c.approvers(v.isParty)...)
	}
	return v.policy.Evaluate(e)
}

// longest is how long a request may live under the version's policy when it
// needs more than one word, in seconds.
func (v *version) longest() uint64 {
	if wait := v.policy.LongestWait(); wait > 0 {
		return wait + share.RequestLifeDelay
	}
	return share.RequestLife
}

// policyWhy says in words that clauses are missing.
func policyWhy(missing []string) string {
	return "the policy is not satisfied: missing " + strings.Join(missing, ", ")
}
