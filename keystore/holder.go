package keystore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

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
	sane   error // why the policy is refused; nil when it is sound
}

func newVersion(m *share.SignedManifest) *version {
	v := &version{SignedManifest: m}
	v.policy, v.sane = policy.Parse(m.Policy)
	if v.sane == nil {
		v.sane = v.policy.Check()
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
	before      []*version // what the certificate needs to be verified
	x           uint8      // own seat; 0: none
	row         bool       // row and payload are here
	epoch       uint32
	promised    uint64 // time in the Prepared receipt; 0: none was given
	committedAt uint64 // time in the Committed receipt
	operator    string // whose quota it is in
	distance    uint8  // of history: how many generations before the committed one
}

// size is what the version is charged with, in bytes.
func (s *stored) size() int64 {
	n := int64(len(s.Object.Body))
	if s.row {
		n += int64(s.Length) + int64(s.K)*share.DataKeySize
	}
	return n
}

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
}

// holderFacts are what a step may know of the world.
type holderFacts struct {
	net  key.NetworkID
	self key.NodeID
	now  uint64 // unix seconds
	// operator is whose quota new things are charged to.
	operator string
	revoked  func(key.NodeID) bool
	// known reports receipts whose signature was verified before; may be nil.
	known func(key.Object) bool
	// full says why that many more bytes of this owner are not taken; empty:
	// they are.
	full func(owner key.PersonPublic, bytes int64) string
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
	sign     *promise
}

func refuse(outcome uint8, format string, a ...any) stepResult {
	return stepResult{outcome: outcome, why: fmt.Sprintf(format, a...)}
}

// clone copies what a step may change.
func (s *secretState) clone() *secretState {
	c := *s
	c.pending, c.history, c.tombs = slices.Clone(s.pending), slices.Clone(s.history), slices.Clone(s.tombs)
	return &c
}

// charge notes the owner, and on the first record the operator it is charged to.
func (s *secretState) charge(f holderFacts, owner key.PersonPublic) {
	if s.nothing() {
		s.operator = f.operator
	}
	s.owner = owner
}

// committedGen is the committed generation, 0 when there is none.
func (s *secretState) committedGen() uint64 {
	if s.committed == nil {
		return 0
	}
	return s.committed.Gen
}

// covered reports whether a tombstone deletes the generation.
func (s *secretState) covered(gen uint64) bool {
	return slices.ContainsFunc(s.tombs, func(t *tomb) bool { return t.Covers(gen) })
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
	for _, e := range []*stored{s.committed, s.kept} {
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
}

// verify checks the certificate with what came along and what is here.
func (c *certificate) verify(f holderFacts, s *secretState) ([]*version, error) {
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
	return before, share.VerifyCertKnown(f.net, c.cert, c.of.SignedManifest, signedOf(before), f.revoked, f.known)
}

func signedOf(vs []*version) []*share.SignedManifest {
	out := make([]*share.SignedManifest, len(vs))
	for i, v := range vs {
		out[i] = v.SignedManifest
	}
	return out
}

// consent is a verified Request with the verified approvals over it.
type consent struct {
	*share.SignedRequest
	approvers []key.PersonPublic // verified, over this request, none vetoed by themselves
	raw       []byte
	approvals [][]byte
}

// satisfies says whether the consent satisfies the policy of v, and what is
// missing. A request that its signer's word alone carries may live 15 minutes
// only (protocol.md section 7).
func (c *consent) satisfies(v *version) (bool, []string) {
	if v.policy == nil {
		return false, []string{"a policy that this holder can read"}
	}
	alone := policy.Evidence{Owner: v.Owner, Signers: []key.PersonPublic{c.Person}}
	if v.policy.Evaluate(alone).OK {
		if c.Expires-c.Created > share.RequestLifeOwner {
			return false, []string{"a request that lives 15 minutes at most"}
		}
		return true, nil
	}
	verdict := v.policy.Evaluate(policy.Evidence{Owner: v.Owner, Signers: append([]key.PersonPublic{c.Person}, c.approvers...)})
	return verdict.OK, verdict.Missing
}

// prepareMsg is a PREPARE whose signatures are verified, the certificate's
// apart.
type prepareMsg struct {
	m            *version
	row, payload []byte
	prev         *certificate // brought along; nil: none
	tomb         *tomb        // brought along; nil: none
	consent      *consent     // to a change of policy; nil: none
}

// prepare is W1: a promise to one manifest a generation, and to one live
// successor of what is there, that nothing but a certificate, a tombstone or a
// quorum takes back.
func (s *secretState) prepare(f holderFacts, p prepareMsg) stepResult {
	if e := s.find(p.m.Hash); e != nil && e.promised != 0 && (e.row || e.x == 0) && !s.covered(e.Gen) {
		return stepResult{outcome: custody.OK, sign: e.prepared()} // the same again
	}
	next := s.clone()
	next.charge(f, p.m.Owner)
	var w writes
	if p.tomb != nil && p.tomb.ID == s.id && p.tomb.object != nil {
		next.bury(f, p.tomb, &w)
	}
	prev, r := next.prevOf(f, p, &w)
	if r.outcome != custody.OK {
		return r
	}
	for _, check := range []func(holderFacts, prepareMsg, *version) stepResult{
		next.checkGeneration, next.checkPending, checkPolicy, next.checkSeat,
	} {
		if r := check(f, p, prev); r.outcome != custody.OK {
			return r
		}
	}
	e := &stored{version: p.m, promised: f.now, operator: f.operator}
	if seat := p.m.SeatOf(f.self); seat != nil {
		e.x, e.row = seat.X, true
		w.put(rowPlace(e), p.row)
		w.put(payloadPlace(e), p.payload)
	}
	if why := f.full(e.Owner, e.size()); why != "" {
		return refuse(custody.Full, "%s", why)
	}
	next.makeRoom(&w)
	at := slices.IndexFunc(next.pending, func(a *stored) bool { return a.Gen > e.Gen })
	if at < 0 {
		at = len(next.pending)
	}
	next.pending = slices.Insert(next.pending, at, e)
	return stepResult{next: next, writes: w.list, outcome: custody.OK, sign: e.prepared()}
}

// prepared is the promise to a version. A seat of prev alone signs with x = 0.
func (s *stored) prepared() *promise {
	return &promise{key.TypePrepared, share.Receipt{Manifest: s.Hash, X: s.x, Time: s.promised}}
}

// prevOf finds the manifest before p.m: what is there, or something newer that
// was brought along with its certificate, which is then what is there.
func (s *secretState) prevOf(f holderFacts, p prepareMsg, w *writes) (*version, stepResult) {
	ok := stepResult{outcome: custody.OK}
	m := p.m
	if m.Prev.IsZero() {
		if s.empty() {
			return nil, ok
		}
		r := refuse(custody.Conflict, "generation %d is here", s.floor.Gen)
		r.needPrev = p.tomb == nil && m.Gen > s.floor.Gen
		return nil, r
	}
	if c := p.prev; c != nil && c.of.Hash == m.Prev && c.of.ID == m.ID && c.of.Gen > s.floor.Gen {
		before, err := c.verify(f, s)
		if err != nil {
			return nil, refuse(custody.Refused, "the certificate brought along: %v", err)
		}
		s.certified(f, &stored{version: c.of, cert: c.bytes, before: before, committedAt: f.now, operator: f.operator}, w)
	}
	if s.floor.Manifest != m.Prev {
		if p.prev != nil || s.find(m.Prev) != nil || m.Gen <= s.top() {
			return nil, refuse(custody.Conflict, "generation %d is here and is not the one before", s.floor.Gen)
		}
		r := refuse(custody.Refused, "the generation before is not known here")
		r.needPrev = true
		return nil, r
	}
	if s.empty() {
		return nil, refuse(custody.Conflict, "deleted up to generation %d", s.deletedUpTo())
	}
	prev := s.knownVersion(m.Prev)
	if prev == nil && p.prev != nil && p.prev.of.Hash == m.Prev {
		prev = p.prev.of // certified here before: the floor has its hash
	}
	if prev == nil {
		r := refuse(custody.Refused, "only the hash of the generation before is here")
		r.needPrev = true
		return nil, r
	}
	return prev, ok
}

func (s *secretState) checkGeneration(f holderFacts, p prepareMsg, _ *version) stepResult {
	top := s.top()
	if p.m.Gen <= top {
		return refuse(custody.Conflict, "generation %d is here or deleted", top)
	}
	if p.m.Gen-top > maxJump {
		r := refuse(custody.Refused, "more than %d above generation %d", maxJump, top)
		r.needPrev = p.m.Prev.IsZero() && p.tomb == nil // the tombstone may be higher
		return r
	}
	if p.m.expired(f.now) {
		return refuse(custody.Refused, "it has expired")
	}
	return stepResult{outcome: custody.OK}
}

// live are the pendings that a certificate may still make the highest.
func (s *secretState) live() []*stored {
	var out []*stored
	for _, e := range s.pending {
		if e.Gen > s.floor.Gen {
			out = append(out, e)
		}
	}
	return out
}

// checkPending: no receipt was given to another manifest of that generation,
// nor to another live one at all that M's force does not name. Naming is for
// lower generations only.
func (s *secretState) checkPending(_ holderFacts, p prepareMsg, _ *version) stepResult {
	live := s.live()
	for _, e := range live {
		switch {
		case e.Gen == p.m.Gen:
			return refuse(custody.Conflict, "another manifest of generation %d is pending", e.Gen)
		case !slices.Contains(p.m.Force, e.Hash):
			return refuse(custody.Conflict, "generation %d is pending", e.Gen)
		case e.Gen > p.m.Gen:
			return refuse(custody.Conflict, "generation %d is pending and higher", e.Gen)
		}
	}
	if len(live) >= maxPending {
		return refuse(custody.Conflict, "%d generations are pending", len(live))
	}
	return stepResult{outcome: custody.OK}
}

// checkPolicy: the policy is sane, and another one than prev's has the consent
// that prev's asks for.
func checkPolicy(_ holderFacts, p prepareMsg, prev *version) stepResult {
	m := p.m
	if m.sane != nil {
		return refuse(custody.Refused, "%v", m.sane)
	}
	if prev == nil || string(prev.Policy) == string(m.Policy) {
		return stepResult{outcome: custody.OK}
	}
	c := p.consent
	if c == nil || c.Verb != share.VerbPolicy || c.ID != m.ID || string(c.Payload) != string(m.Hash[:]) {
		return refuse(custody.Refused, "a change of policy without a request for it")
	}
	if ok, missing := c.satisfies(prev); !ok {
		return refuse(custody.Refused, "a change of policy without consent: missing %v", missing)
	}
	return stepResult{outcome: custody.OK}
}

// checkSeat: this node has a seat, and the row and payload are the ones that
// the owner committed to; or it is a seat of what is before, and gets neither.
func (s *secretState) checkSeat(f holderFacts, p prepareMsg, prev *version) stepResult {
	m := p.m
	seat := m.SeatOf(f.self)
	if seat == nil {
		if !s.wasSeat(f, m, prev) {
			return refuse(custody.Refused, "no seat of this node in it or before it")
		}
		if len(p.row) != 0 || len(p.payload) != 0 {
			return refuse(custody.Refused, "a row for a node without a seat")
		}
		return stepResult{outcome: custody.OK}
	}
	if uint64(len(p.payload)) != m.Length || sha256.Sum256(p.payload) != m.Payload {
		return refuse(custody.Refused, "the payload is not the one of the manifest")
	}
	if !m.CheckRow(*seat, p.row) {
		return refuse(custody.Refused, "the row is not the one of the manifest")
	}
	return stepResult{outcome: custody.OK}
}

// wasSeat reports whether this node has a seat in prev or in a pending that m's
// force names, whose seats count as prev's.
func (s *secretState) wasSeat(f holderFacts, m, prev *version) bool {
	if prev != nil && prev.SeatOf(f.self) != nil {
		return true
	}
	return slices.ContainsFunc(s.pending, func(e *stored) bool {
		return slices.Contains(m.Force, e.Hash) && e.SeatOf(f.self) != nil
	})
}

// makeRoom drops pendings that a higher certificate has overtaken when there
// are too many: w disks hold what was certified, so nobody needs them.
func (s *secretState) makeRoom(w *writes) {
	for len(s.pending) >= maxPending && s.pending[0].Gen <= s.floor.Gen {
		w.drop(s.pending[0])
		s.pending = s.pending[1:]
	}
}
