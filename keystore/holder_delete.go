package keystore

import (
	"bytes"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// deleteMsg is a DELETE. The tombstone is verified unless consent is set: then
// it is only a body that the policy must authorise.
type deleteMsg struct {
	tomb    *tomb
	consent *consent
}

// delete buries what the tombstone covers. Tombstones are kept for ever, so
// that nothing late brings back what they cover.
func (s *secretState) delete(f holderFacts, d deleteMsg) stepResult {
	t := s.buried(d.tomb)
	if d.consent != nil && (t == nil || t.hash != d.tomb.hash) && !s.isParty(d.consent.Person) {
		return refuse(custody.Denied, "") // the same whether it is here or not
	}
	if t != nil {
		return stepResult{outcome: custody.OK, sign: t.receipt(d.tomb.hash)}
	}
	if d.consent != nil {
		if why := s.mayDelete(d); why != "" {
			return refuse(custody.Refused, "%s", why)
		}
	}
	if d.tomb.Scope == share.ScopeOne && len(s.tombs) >= maxTombs {
		return refuse(custody.Refused, "%d generations are deleted one by one; delete them all", len(s.tombs))
	}
	if s.nothing() && f.operator == "" {
		return refuse(custody.Refused, whyOutsider)
	}
	next := s.clone()
	next.charge(f, d.tomb.Owner)
	var w writes
	next.bury(f, d.tomb, &w)
	// What frees room is never refused for want of it.
	if grows := next.size() - s.size(); grows > 0 || s.nothing() {
		if why := f.full(demand{next.operator, d.tomb.Owner, grows, false}); why != "" {
			return refuse(custody.Refused, "%s", why)
		}
	}
	return stepResult{next: next, writes: w.list, outcome: custody.OK, sign: next.buried(d.tomb).receipt(d.tomb.hash)}
}

// nothing reports whether nothing of this secret is here that was promised,
// certified or deleted: what was only said while a manifest is settled makes no
// room for anything.
func (s *secretState) nothing() bool {
	return s.floor.Gen == 0 && s.committed == nil && s.kept == nil &&
		len(s.pending) == 0 && len(s.history) == 0 && len(s.tombs) == 0
}

// buried returns the tombstone here that says all that t says, or nil.
func (s *secretState) buried(t *tomb) *tomb {
	for _, h := range s.tombs {
		if h.hash == t.hash || (h.Scope == share.ScopeAll && h.Gen >= t.Gen) {
			return h
		}
	}
	return nil
}

// receipt is the word that what the tombstone h covers is gone from this node.
func (t *tomb) receipt(h key.Hash) *promise {
	return &promise{key.TypeCommitted, share.Receipt{Manifest: h, X: t.x, Time: t.at}}
}

// seatHere is this node's seat in what is committed or kept, or 0.
func (s *secretState) seatHere(self key.NodeID) uint8 {
	if c := s.current(); c != nil {
		return s.seatAt(c.version, self)
	}
	return 0
}

// otherSeats are the other nodes that may have something of the secret.
func (s *secretState) otherSeats(self key.NodeID) []key.NodeID {
	var out []key.NodeID
	for _, e := range append([]*stored{s.committed, s.kept}, s.pending...) {
		if e != nil {
			out = append(out, s.targetsOf(e, self)...)
		}
	}
	slices.SortFunc(out, func(a, b key.NodeID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

// targets are the other nodes to which a certificate is passed on: the seats of
// the version and of what was before it.
func (s *stored) targets(self key.NodeID) []key.NodeID {
	var out []key.NodeID
	for _, v := range append([]*version{s.version}, s.before...) {
		for _, seat := range v.Seats {
			if seat.Node != self && !slices.Contains(out, seat.Node) {
				out = append(out, seat.Node)
			}
		}
	}
	return out
}

// mayDelete says why a Request does not authorise the tombstone; empty: it
// does.
func (s *secretState) mayDelete(d deleteMsg) string {
	c := d.consent
	if c == nil || c.Verb != share.VerbDelete || c.ID != s.id || string(c.Payload) != string(d.tomb.body) {
		return "the request is for something else"
	}
	current := s.current()
	if current == nil {
		return "no policy is here to judge it by"
	}
	if ok, _ := c.satisfies(current.version); !ok {
		return "the policy is not satisfied"
	}
	return ""
}

// current is the version whose policy is in force: the highest with a
// certificate.
func (s *secretState) current() *stored {
	if s.kept != nil {
		return s.kept
	}
	return s.committed
}

// bury puts the tombstone and removes what it covers. Of a committed generation
// that is deleted alone the manifest stays, without row and payload: the next
// generation is its successor under its policy. It stays also when a Request by
// the policy deletes all, so that others can still judge that.
func (s *secretState) bury(f holderFacts, t *tomb, w *writes) {
	if s.buried(t) != nil {
		return
	}
	own := *t
	t = &own
	t.at, t.x, t.seats = f.now, s.seatHere(f.self), s.otherSeats(f.self)
	if t.Scope == share.ScopeAll {
		s.tombs = slices.DeleteFunc(s.tombs, func(o *tomb) bool { return o.Gen <= t.Gen })
		s.tombs = slices.Insert(s.tombs, 0, t)
	} else {
		s.tombs = append(s.tombs, t)
	}
	covered := func(e *stored) bool {
		if !t.Covers(e.Gen) {
			return false
		}
		w.drop(e)
		return true
	}
	s.pending = slices.DeleteFunc(s.pending, covered)
	s.history = slices.DeleteFunc(s.history, covered)
	all := t.Scope == share.ScopeAll
	judged := s.current()
	if s.committed != nil && covered(s.committed) {
		s.committed = s.committed.hollow(all)
	}
	if s.kept != nil && all && t.Covers(s.kept.Gen) {
		s.kept = nil
	}
	if all && t.object == nil && judged != nil && t.Covers(judged.Gen) {
		s.committed = judged.hollow(false)
	}
	s.settleMoves()
}

// hollow is the version without its row, or nothing.
func (s *stored) hollow(all bool) *stored {
	if all {
		return nil
	}
	c := *s
	c.row, c.epoch, c.proof, c.since, c.refresh = false, 0, nil, 0, nil
	return &c
}

// graceAfterExpiry is how long after its expiry a version's row is still kept,
// in seconds. Releases are refused from the expiry on; the rest of a day is for
// a clock that was wrong.
const graceAfterExpiry = 24 * 60 * 60

// expire removes the rows of versions that expired long enough ago. Their
// manifests stay as what is there, without row; history goes.
func (s *secretState) expire(f holderFacts) stepResult {
	over := func(e *stored) bool { return e != nil && e.row && e.expired(f.now-min(f.now, graceAfterExpiry)) }
	next := s.clone()
	var w writes
	if over(s.committed) {
		w.drop(s.committed)
		next.committed = s.committed.hollow(false)
	}
	next.history = slices.DeleteFunc(next.history, func(e *stored) bool {
		if over(e) {
			w.drop(e)
		}
		return over(e)
	})
	if len(w.list) == 0 {
		return stepResult{outcome: custody.OK}
	}
	return stepResult{next: next, writes: w.list, outcome: custody.OK}
}
