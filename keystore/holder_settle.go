package keystore

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// W5: what becomes of a promise whose writer does not come back. The seats tell
// one another what they have promised; docs/models/settle2.pml is the rule.
//
// In each group of seats whose receipts a certificate needs, those of the
// manifest, of prev and of what force names, so many of them that say none mean
// that it cannot be completed, and so many signed Refused that it never will be;
// as long as neither can happen the seats without a promise complete it. Both
// bounds are chosen so that one of the two holds once every seat has spoken.

// States of a mark.
const (
	markNone    = 1 // said none: taken only by repair
	markRefused = 2 // Refused is signed
	markDead    = 3 // promised here once, and proven dead
)

// maxMarks is how many manifests that are not certified are remembered here
// beside the pendings. Those of lower generations go when one is certified.
const maxMarks = 16

// mark is what this holder has said of a manifest that it has no promise to.
type mark struct {
	_     struct{} `cbor:",toarray"`
	Hash  key.Hash
	Gen   uint64
	State uint8
	X     uint8  // this node's seat in it; 0: of what is before it
	Time  uint64 // of its Refused, or when it was said otherwise; unix seconds
}

// refusal is the signed word of a mark.
func (k *mark) refusal() *promise {
	return &promise{key.TypeRefused, share.Receipt{Manifest: k.Hash, X: k.X, Time: k.Time}}
}

// markOf returns what was said of the manifest, or nil.
func (s *secretState) markOf(h key.Hash) *mark {
	for i := range s.marks {
		if s.marks[i].Hash == h {
			return &s.marks[i]
		}
	}
	return nil
}

// liveMarks are those that still matter: what is as high as a generation that
// is there is refused by it.
func (s *secretState) liveMarks() []mark {
	return slices.DeleteFunc(slices.Clone(s.marks), func(k mark) bool { return k.Gen <= s.top() })
}

// setMark puts a mark in place of an older one of the manifest, in a state that
// is the caller's to change, and reports whether there is room. A Refused is
// never forgotten while it matters; the others only cost time when they are.
func (s *secretState) setMark(k mark) bool {
	s.marks = slices.DeleteFunc(s.liveMarks(), func(o mark) bool { return o.Hash == k.Hash })
	if len(s.marks) >= maxMarks {
		i := slices.IndexFunc(s.marks, func(o mark) bool { return o.State != markRefused })
		if i < 0 {
			return false
		}
		s.marks = slices.Delete(s.marks, i, i+1)
	}
	s.marks = append(s.marks, k)
	return true
}

// settleMsg is a SETTLE whose manifests are verified.
type settleMsg struct {
	m      *version
	before []*version // of prev and of what force names, as far as they came
	ripe   bool       // this node has known long enough that it is being settled
	shown  promiser   // whose Prepared came along
}

// promiser is a member whose Prepared was shown; zero: nobody's was.
type promiser struct {
	is       bool
	operator string
}

// whyUnshown is said of a secret of which nothing is here: person keys are free,
// and anybody may name anybody's node in a manifest.
const whyUnshown = "nothing of the secret is here, and no promise of a member was shown"

// markLife is how long what was said without a signature is kept of a secret of
// which nothing else is here, in seconds: it only saves time.
const markLife = 24 * 60 * 60

// fading is when a record of which only unsigned words are left was last
// written to, in unix seconds and at least 1; 0: there is more in it.
func fading(marks []mark) uint64 {
	last := uint64(1)
	for _, k := range marks {
		if k.State == markRefused {
			return 0
		}
		last = max(last, k.Time)
	}
	return last
}

// fade forgets such a record.
func (s *secretState) fade(f holderFacts) stepResult {
	at := fading(s.marks)
	if !s.nothing() || len(s.marks) == 0 || at == 0 || at+markLife > f.now {
		return stepResult{outcome: custody.OK}
	}
	return stepResult{next: &secretState{id: s.id}, outcome: custody.OK}
}

// blank reports whether there is nothing to have a record of.
func (s *secretState) blank() bool { return s.nothing() && len(s.marks) == 0 }

// settleWord is what this seat says of a manifest when it is asked. Whoever says
// none keeps to it: it is on disk before it is said. It is not said at once, or
// any seat could turn the others against a writer that is about to reach them.
func (s *secretState) settleWord(f holderFacts, q settleMsg) stepResult {
	m := q.m
	if m.Gen <= s.top() {
		r := refuse(custody.Conflict, "generation %d is here or deleted", s.top())
		r.gen = m.Gen
		return r
	}
	if e := s.find(m.Hash); e != nil && e.promised != 0 {
		return stepResult{outcome: custody.OK, word: custody.WordPrepared, sign: e.prepared()}
	}
	if s.behind(f) || s.find(m.Hash) != nil {
		return refuse(custody.Refused, whyRestored) // it may be promised and forgotten
	}
	if k := s.markOf(m.Hash); k != nil {
		return k.word()
	}
	k := mark{Hash: m.Hash, Gen: m.Gen, State: markNone, Time: f.now}
	if seat := m.SeatOf(f.self); seat != nil {
		k.X = seat.X
	} else if !slices.ContainsFunc(q.before, func(v *version) bool { return v.SeatOf(f.self) != nil }) {
		return refuse(custody.Refused, "no seat of this node in it or before it")
	}
	switch {
	case s.nothing() && f.operator == "":
		return refuse(custody.Refused, whyOutsider)
	case s.nothing() && !q.shown.is:
		return refuse(custody.Refused, whyUnshown)
	case !q.ripe:
		return refuse(custody.Wait, "its writer may still come")
	}
	next := s.clone()
	next.owner = m.Owner
	if s.blank() {
		next.operator = poolSettling + q.shown.operator
	}
	if !next.setMark(k) {
		return refuse(custody.Refused, "%d manifests are refused here", maxMarks)
	}
	if s.nothing() {
		if why := f.full(demand{next.operator, m.Owner, 0, false}); why != "" {
			return refuse(custody.Full, "%s", why)
		}
	}
	return stepResult{next: next, outcome: custody.OK, word: custody.WordNone}
}

// word is the answer of a mark.
func (k *mark) word() stepResult {
	r := stepResult{outcome: custody.OK, word: custody.WordNone}
	switch k.State {
	case markRefused:
		r.word, r.sign = custody.WordRefused, k.refusal()
	case markDead:
		r.word = custody.WordDead
	}
	return r
}

// settleGroup are the seats of one manifest whose receipts a certificate needs.
type settleGroup struct {
	m    *version
	need int // receipts in a certificate
	dead int // refusals, or none said, after which there is never one
	some int // receipts after which it cannot become dead any more
}

// poll is what the seats say of a manifest, all of it verified but the none,
// which are the words of the nodes at the other ends of links.
type poll struct {
	m        *version
	groups   []settleGroup
	whole    bool // all manifests before it are known
	prepared map[key.NodeID]key.Object
	none     map[key.NodeID]bool
	refused  map[key.NodeID]key.Object
	learned  []*version // of what is before it, and not in groups yet
}

// newPoll makes an empty poll; before are manifests among which those of prev
// and force are looked for.
func newPoll(f holderFacts, m *version, before []*version) *poll {
	p := &poll{m: m, whole: true, prepared: map[key.NodeID]key.Object{}, none: map[key.NodeID]bool{}, refused: map[key.NodeID]key.Object{}}
	p.groups = []settleGroup{{m, int(m.W), m.N() - int(m.K) + 1, int(m.K)}}
	for _, h := range m.line() {
		i := slices.IndexFunc(before, func(v *version) bool { return v.Hash == h })
		if i < 0 {
			p.whole = false
			continue
		}
		v := before[i]
		dead := refusalsBefore(&v.Manifest)
		p.groups = append(p.groups, settleGroup{v, share.PrevNeed(&v.Manifest, f.revoked), dead, v.N() - dead + 1})
	}
	return p
}

// refusalsBefore is how many refusals of the seats of prev, or of what force
// names, mean that there never is a certificate: n-w+1+f as in the manifest's
// own seats, which is n-k+1, and more where fewer receipts than k are enough
// once one of its holders is revoked, which may be later.
func refusalsBefore(m *share.Manifest) int {
	least := share.PrevNeed(m, func(key.NodeID) bool { return true })
	return m.N() - min(int(m.K), least) + 1
}

// line are the hashes of what is before the version: prev, then force.
func (v *version) line() []key.Hash {
	var out []key.Hash
	if !v.Prev.IsZero() {
		out = append(out, v.Prev)
	}
	return append(out, v.Force...)
}

// before are the manifests before it that are known.
func (p *poll) before() []*version {
	var out []*version
	for _, g := range p.groups[1:] {
		out = append(out, g.m)
	}
	return out
}

// seats are the nodes that are asked.
func (p *poll) seats() []key.NodeID {
	var out []key.NodeID
	for _, g := range p.groups {
		for _, seat := range g.m.Seats {
			if !slices.Contains(out, seat.Node) {
				out = append(out, seat.Node)
			}
		}
	}
	return out
}

func (g *settleGroup) count(ok func(key.NodeID) bool) int {
	n := 0
	for _, seat := range g.m.Seats {
		n += btoi(ok(seat.Node))
	}
	return n
}

func (p *poll) hasPrepared(n key.NodeID) bool { _, ok := p.prepared[n]; return ok }
func (p *poll) hasRefused(n key.NodeID) bool  { _, ok := p.refused[n]; return ok }

// hasNone: what was refused was not promised either.
func (p *poll) hasNone(n key.NodeID) bool { return p.none[n] || p.hasRefused(n) }

// certifiable: the receipts make a certificate.
func (p *poll) certifiable() bool {
	return p.whole && !slices.ContainsFunc(p.groups, func(g settleGroup) bool { return g.count(p.hasPrepared) < g.need })
}

// completable: in no group can so many be without a promise that it would be
// dead; the rest repairs its rows.
func (p *poll) completable() bool {
	return p.whole && !slices.ContainsFunc(p.groups, func(g settleGroup) bool { return g.count(p.hasPrepared) < g.some })
}

// hopeless: in some group so many have promised nothing that the others cannot
// complete it.
func (p *poll) hopeless() bool {
	return slices.ContainsFunc(p.groups, func(g settleGroup) bool { return g.count(p.hasNone) >= g.dead })
}

// dead: so many have signed that they never will that even if f of them lie
// there is no certificate and never will be.
func (p *poll) dead() bool {
	return slices.ContainsFunc(p.groups, func(g settleGroup) bool { return g.count(p.hasRefused) >= g.dead })
}

// judged: more seats of prev have promised it than may lie, so one that knows
// prev's policy has judged the change. M's own seats are whoever signed it chose.
func (p *poll) judged() bool {
	if p.m.Prev.IsZero() || !p.whole {
		return false
	}
	prev := p.groups[1]
	return prev.count(p.hasPrepared) > prev.m.F()
}

// certificate is made of the receipts; [poll.certifiable] must hold.
func (p *poll) certificate() *certificate {
	c := &share.CommitCert{Manifest: p.m.Hash}
	have := make([]int, len(p.groups))
	for _, node := range p.seats() {
		o, ok := p.prepared[node]
		if !ok {
			continue
		}
		useful := false
		for i, g := range p.groups {
			if g.m.SeatOf(node) != nil {
				useful = useful || have[i] < g.need
				have[i]++
			}
		}
		if useful {
			c.Prepared = append(c.Prepared, o)
		}
	}
	return &certificate{of: p.m, cert: c, bytes: c.Encode(), before: p.before()}
}

// settleRefuse signs that this seat never promised the manifest and never will.
func (s *secretState) settleRefuse(f holderFacts, p *poll) stepResult {
	k := s.markOf(p.m.Hash)
	switch {
	case s.behind(f):
		return refuse(custody.Refused, whyRestored)
	case p.m.Gen <= s.top() || k == nil || s.find(p.m.Hash) != nil:
		return refuse(custody.Refused, "it was promised here, or nothing was said of it")
	case k.State != markNone:
		return k.word()
	case !p.hopeless():
		return refuse(custody.Refused, "it may still be completed")
	}
	next := s.clone()
	own := *k
	own.State, own.Time = markRefused, f.now
	if !next.setMark(own) {
		return refuse(custody.Refused, "%d manifests are refused here", maxMarks)
	}
	return stepResult{next: next, outcome: custody.OK, word: custody.WordRefused, sign: own.refusal()}
}

// settleDead lets go of a promise to what will never have a certificate: its
// row, and its hold on what is before it.
func (s *secretState) settleDead(f holderFacts, p *poll) stepResult {
	i := slices.IndexFunc(s.pending, func(e *stored) bool { return e.Hash == p.m.Hash })
	if i < 0 {
		return stepResult{outcome: custody.OK}
	}
	if !p.dead() && !s.excludes(p.m) {
		return refuse(custody.Refused, "it may still be completed")
	}
	next := s.clone()
	var w writes
	e := s.pending[i]
	w.drop(e)
	next.pending = slices.Delete(next.pending, i, i+1)
	next.setMark(mark{Hash: e.Hash, Gen: e.Gen, State: markDead, X: e.x, Time: f.now})
	return stepResult{next: next, writes: w.list, outcome: custody.OK, word: custody.WordDead}
}

// excludes: another successor of m's prev has its certificate. Of the w seats of
// prev that signed for each, one at least is honest and would have signed for
// both, which it does only when one of them names the other.
func (s *secretState) excludes(m *version) bool {
	c := s.current()
	return c != nil && !m.Prev.IsZero() && c.Prev == m.Prev && c.Hash != m.Hash &&
		!slices.Contains(m.Force, c.Hash) && !slices.Contains(c.Force, m.Hash)
}

// settlePromise is W1 with a row that came out of a repair: only after none was
// said here, and when it cannot become dead any more. A change of policy is
// taken on the word of more seats of prev than may lie, one of which has judged
// it.
func (s *secretState) settlePromise(f holderFacts, p prepareMsg, q *poll) stepResult {
	e, k := s.find(p.m.Hash), s.markOf(p.m.Hash)
	heard := e != nil && e.promised == 0 // before its disk was put back
	switch {
	case q.m.Hash != p.m.Hash || !heard && (k == nil || k.State != markNone):
		return refuse(custody.Refused, "only what was said none of is taken by repair")
	case !q.completable():
		return refuse(custody.Refused, "too few seats have promised it")
	}
	p.repaired, p.forced = true, q.before()
	p.judged = q.judged()
	return s.prepare(f, p)
}

// settling says how a PREPARE is answered by the writer's hand once the seats
// are settling the manifest.
func (s *secretState) settling(m *version) (stepResult, bool) {
	k := s.markOf(m.Hash)
	if k == nil || m.Gen <= s.top() {
		return stepResult{}, false
	}
	switch k.State {
	case markRefused:
		r := refuse(custody.Refused, "this seat has signed that it never promised it")
		r.sign = k.refusal()
		return r, true
	case markDead:
		return refuse(custody.Refused, "it is dead: its seats have refused it"), true
	}
	return refuse(custody.Wait, "its seats are settling it"), true
}

// settleDetail is what the audit log says of a mark.
func (k *mark) settleDetail() string {
	return fmt.Sprintf("generation %d is dead and its row gone", k.Gen)
}
