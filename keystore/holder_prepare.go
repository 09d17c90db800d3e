package keystore

import (
	"crypto/sha256"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// prepareMsg is a PREPARE whose signatures are verified, the certificate's
// apart.
type prepareMsg struct {
	m            *version
	row, payload []byte
	prev         *certificate // brought along; nil: none
	forced       []*version   // of what m's force names, brought along
	tomb         *tomb        // brought along; nil: none
	consent      *consent     // to a change of policy, or to tomb; nil: none
	repaired     bool         // the row comes out of a repair while its seats settle it
	judged       bool         // with repaired: more seats have promised it than may lie
}

// prepare is W1: a promise to one manifest a generation, and to one live
// successor of what is there, that nothing but a certificate, a tombstone or a
// quorum takes back.
func (s *secretState) prepare(f holderFacts, p prepareMsg) stepResult {
	if e := s.find(p.m.Hash); e != nil && e.promised != 0 && (e.row || e.x == 0) {
		return stepResult{outcome: custody.OK, sign: e.prepared()} // the same again
	}
	if s.kept != nil && s.kept.Hash == p.m.Hash && s.seatAt(p.m, f.self) != 0 {
		return s.complete(f, p)
	}
	if s.behind(f) {
		return refuse(custody.Wait, whyRestored)
	}
	s = s.forgetHeard(p.m.Hash)
	if r, ok := s.settling(p.m); ok && !p.repaired {
		return r
	}
	next := s.clone()
	next.charge(f, p.m.Owner)
	var w writes
	if p.tomb != nil && p.tomb.ID == s.id && (p.tomb.object != nil || s.mayDelete(deleteMsg{p.tomb, p.consent}) == "") {
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
	next.makeRoom(&w)
	e, r := next.promise(f, p, &w)
	if r.outcome != custody.OK {
		return r
	}
	return stepResult{next: next, writes: w.list, outcome: custody.OK, sign: e.prepared()}
}

// promise adds the pending with its row.
func (s *secretState) promise(f holderFacts, p prepareMsg, w *writes) (*stored, stepResult) {
	e := &stored{version: p.m, before: s.forced(p), promised: f.now, operator: f.operator}
	if seat := p.m.SeatOf(f.self); seat != nil {
		e.x, e.row = seat.X, true
		w.put(rowPlace(e), p.row)
		w.put(payloadPlace(e), p.payload)
	}
	if why := f.full(demand{f.operator, e.Owner, e.size(), true}); why != "" {
		return nil, refuse(custody.Full, "%s", why)
	}
	at := slices.IndexFunc(s.pending, func(a *stored) bool { return a.Gen > e.Gen })
	if at < 0 {
		at = len(s.pending)
	}
	s.pending = slices.Insert(s.pending, at, e)
	s.marks = slices.DeleteFunc(s.marks, func(k mark) bool { return k.Hash == e.Hash })
	return e, stepResult{outcome: custody.OK}
}

// complete takes the row of a version whose certificate came first, and commits
// it: the writer brings what a repair would.
func (s *secretState) complete(f holderFacts, p prepareMsg) stepResult {
	if slices.ContainsFunc(s.pending, func(e *stored) bool { return e.Gen == p.m.Gen }) {
		return refuse(custody.Conflict, "another manifest of generation %d is pending", p.m.Gen)
	}
	if r := s.checkSeat(f, p, nil); r.outcome != custody.OK {
		return r
	}
	next := s.clone()
	var w writes
	e, r := next.promise(f, p, &w)
	if r.outcome != custody.OK {
		return r
	}
	next.certified(f, next.kept, &w)
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
		before, err := c.check(f, s)
		if err != nil {
			return nil, refuse(custody.Refused, "the certificate brought along: %v", err)
		}
		s.certified(f, &stored{version: c.of, cert: c.bytes, before: before, committedAt: f.now, operator: f.operator}, w)
	}
	if v, r := s.healed(f, p); v != nil || r.outcome != custody.OK {
		return v, r
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

// healed: of two certified manifests of one generation, one is what is there
// and the other is M's prev; M names both, so its certificate needs the seats
// of both. Consent is asked for by checkPolicy under prev's policy; the other
// one's must be the same.
func (s *secretState) healed(f holderFacts, p prepareMsg) (*version, stepResult) {
	ok := stepResult{outcome: custody.OK}
	c := p.prev
	if c == nil || c.of.Hash != p.m.Prev || c.of.ID != p.m.ID || c.of.Gen != s.floor.Gen || c.of.Hash == s.floor.Manifest ||
		!slices.Contains(p.m.Force, s.floor.Manifest) {
		return nil, ok
	}
	if _, err := c.check(f, s); err != nil {
		return nil, refuse(custody.Refused, "the certificate brought along: %v", err)
	}
	there := s.knownVersion(s.floor.Manifest)
	if there == nil || string(there.Policy) != string(c.of.Policy) {
		return nil, refuse(custody.Refused, "the two lines have different policies")
	}
	return c.of, ok
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
	if prev == nil || string(prev.Policy) == string(m.Policy) || p.repaired && p.judged {
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
		if !s.wasSeat(f, p, prev) {
			r := refuse(custody.Refused, "no seat of this node in it or before it")
			r.needPrev = len(s.forced(p)) < len(m.Force)
			return r
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

// wasSeat reports whether this node has a seat in prev or in what the force
// names, whose seats count as prev's.
func (s *secretState) wasSeat(f holderFacts, p prepareMsg, prev *version) bool {
	has := func(v *version) bool { return v.SeatOf(f.self) != nil }
	return prev != nil && has(prev) || slices.ContainsFunc(s.forced(p), has)
}

// forced are the manifests that the force names, as far as they are here or
// came along. A pending keeps them: without them nobody could tell whose
// receipts it needs once what it passes is gone.
func (s *secretState) forced(p prepareMsg) []*version {
	var out []*version
	for _, h := range p.m.Force {
		v := s.knownVersion(h)
		if i := slices.IndexFunc(p.forced, func(b *version) bool { return b.Hash == h }); v == nil && i >= 0 {
			v = p.forced[i]
		}
		if v != nil && v.ID == p.m.ID && v.Gen < p.m.Gen {
			out = append(out, v)
		}
	}
	return out
}

// makeRoom drops pendings that a higher certificate has overtaken when there
// are too many: w disks hold what was certified, so nobody needs them.
func (s *secretState) makeRoom(w *writes) {
	for len(s.pending) >= maxPending && s.pending[0].Gen <= s.floor.Gen {
		w.drop(s.pending[0])
		s.pending = s.pending[1:]
	}
}
