package keystore

import (
	"bytes"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// A request under way, as one holder keeps it (protocol.md section 7). Pure,
// like the holder: a step takes the state and returns the next one; states are
// immutable. Times of the wall clock are looked at once, when something
// arrives: from then on the holder's own running time counts, which no change
// of a clock shortens.

// Bounds of what is kept of requests.
const (
	maxUnderWay = 6   // under way, of one person for one secret
	maxKept     = 64  // of one person for one secret, with those that ended
	maxWords    = 128 // on one request: two of each that a policy can name
	// maxOfOperator is how many bytes are kept of those that came by way of one
	// operator's nodes. Their number is limited as its secrets are: who restores
	// from a kit asks for all of them at once.
	maxOfOperator = 64 << 20
)

// skew is how far honest clocks may be apart, in seconds (protocol.md
// section 5).
const skew = 10 * 60

// word is one party's verified word on a request.
type word struct {
	*share.Approval
	bytes []byte
	hash  key.Hash // H(approval)
	until uint64   // running time when it ends
}

// delayStart is when a delay of a policy began.
type delayStart struct {
	policy key.Hash // T over the policy's bytes: another policy starts anew
	leaf   int
	at     uint64 // running time
}

// requestState is one request. Immutable.
type requestState struct {
	*share.SignedRequest
	bytes     []byte
	operator  string // by way of whose node it came
	names     []custody.NameBox
	own       bool // the names came from a node of the one who asks
	words     []*word
	starts    []delayStart
	until     uint64 // running time when it is forgotten
	closed    uint8  // of package custody
	confirmed bool   // by the operator of this node
	released  bool   // the row was given
	damaged   bool   // its record cannot be read: nothing of it is served
}

func policyKey(v *version) key.Hash { return key.T("keymesh/v1/holder/policy", v.Policy) }

// newRequestState is a request that arrived now and that some policy of
// versions judges.
func newRequestState(f holderFacts, r *share.SignedRequest, b []byte) *requestState {
	left := min(r.Expires-min(r.Expires, f.now), r.Expires-r.Created)
	return &requestState{SignedRequest: r, bytes: b, operator: f.operator, until: f.ran + left + skew}
}

func (r *requestState) clone() *requestState {
	c := *r
	c.words, c.starts = slices.Clone(r.words), slices.Clone(r.starts)
	return &c
}

// size is what is kept of it, in bytes.
func (r *requestState) size() int64 {
	n := len(r.bytes)
	for _, b := range r.names {
		n += len(b.Node) + len(b.Box)
	}
	for _, w := range r.words {
		n += len(w.bytes)
	}
	return int64(n)
}

// open reports whether something may still come of it.
func (r *requestState) open() bool { return r.closed == custody.Open && !r.released && !r.damaged }

// over reports whether nothing of the request is to be remembered: its time is
// over by this node's running time and by the clock, so that a clock that is
// wrong for a while neither ends it nor revives what was vetoed.
func (r *requestState) over(f holderFacts) bool {
	return f.ran > r.until && f.now > r.Expires && f.now-r.Expires > skew
}

// expired reports whether the request is past its time: by the clock, but where
// a delay is in the policy by running time alone.
func (r *requestState) expired(f holderFacts, delayed bool) bool {
	return f.ran > r.until || !delayed && r.CheckTime(f.now) != nil
}

// counts reports whether the word still holds: one that was to end before the
// request does so by the clock too.
func (r *requestState) counts(w *word, f holderFacts) bool {
	return f.ran <= w.until && (w.Expires >= r.Expires || f.now <= w.Expires || f.now-w.Expires <= skew)
}

// find returns the person's word with this verdict, or nil.
func (r *requestState) find(p key.PersonPublic, verdict uint8) *word {
	for _, w := range r.words {
		if w.Person == p && w.Verdict == verdict {
			return w
		}
	}
	return nil
}

// signers are those whose signatures over this request are here: the one who
// asks, and who approved and did not deny later or before.
func (r *requestState) signers(f holderFacts, party func(key.PersonPublic) bool) []key.PersonPublic {
	out := []key.PersonPublic{r.Person}
	for _, w := range r.words {
		if w.Verdict == share.VerdictApprove && party(w.Person) && r.counts(w, f) && r.find(w.Person, share.VerdictVeto) == nil {
			out = append(out, w.Person)
		}
	}
	return out
}

// waited is the running time of each delay of the version's policy.
func (r *requestState) waited(v *version, ran uint64) map[int]uint64 {
	out := make(map[int]uint64, len(r.starts))
	k := policyKey(v)
	for _, s := range r.starts {
		if s.policy == k {
			out[s.leaf] = ran - min(ran, s.at)
		}
	}
	return out
}

// newWord is a verified approval that arrived now.
func newWord(f holderFacts, a *share.Approval, b []byte, hash key.Hash) *word {
	return &word{Approval: a, bytes: b, hash: hash, until: f.ran + (a.Expires - min(a.Expires, f.now)) + skew}
}

// hear takes in a word on the request; false: it changes nothing. Vetoes close
// it for good: those of the policies' veto keys, and the withdrawal of the one
// who asked. Anyone else's takes back that person's own approval.
func (r *requestState) hear(w *word, judges []*version) (*requestState, bool) {
	if r.closed != custody.Open || r.damaged || w.Subject != r.Hash || r.find(w.Person, w.Verdict) != nil {
		return r, false
	}
	next := r.clone()
	next.words = append(next.words, w)
	if w.Verdict == share.VerdictVeto {
		switch {
		case w.Person == r.Person:
			next.closed = custody.Withdrawn
		case slices.ContainsFunc(judges, func(v *version) bool { return v.mayVeto(w.Person) }):
			next.closed = custody.Vetoed
		}
	}
	if len(r.words) >= maxWords && next.closed == custody.Open {
		return r, false
	}
	return next, true
}

// mayVeto reports whether a delay of the policy names the person.
func (v *version) mayVeto(p key.PersonPublic) bool {
	return v.policy != nil && slices.Contains(v.policy.VetoKeys(v.Owner), p)
}

// name takes in name boxes: those that came from a node of the one who asks
// replace others.
func (r *requestState) name(boxes []custody.NameBox, own bool) (*requestState, bool) {
	if len(boxes) == 0 || r.damaged || (r.names != nil && (r.own || !own)) {
		return r, false
	}
	next := r.clone()
	next.names, next.own = boxes, own
	return next, true
}

// run starts the delays whose gates have everything else, and stops those whose
// gates have not, or whose policy is no longer one that judges.
func (r *requestState) run(f holderFacts, verdicts []judged) (*requestState, bool) {
	var starts []delayStart
	for _, j := range verdicts {
		k := policyKey(j.version)
		for _, t := range j.Delays {
			s := delayStart{policy: k, leaf: t.Leaf, at: f.ran}
			if i := slices.IndexFunc(r.starts, func(o delayStart) bool { return o.policy == k && o.leaf == t.Leaf }); i >= 0 {
				s.at = r.starts[i].at
			}
			if !slices.Contains(starts, s) {
				starts = append(starts, s)
			}
		}
	}
	if slices.Equal(starts, r.starts) {
		return r, false
	}
	next := r.clone()
	next.starts = starts
	return next, true
}

// judged is what one policy says of a request.
type judged struct {
	*version
	policy.Verdict
}

// judge asks every policy; the same policy once.
func (r *requestState) judge(f holderFacts, versions []*version) []judged {
	var out []judged
	for _, v := range versions {
		if slices.ContainsFunc(out, func(j judged) bool { return j.Owner == v.Owner && bytes.Equal(j.Policy, v.Policy) }) {
			continue
		}
		out = append(out, judged{v, (&consent{SignedRequest: r.SignedRequest, held: r, facts: f}).verdict(v)})
	}
	return out
}

// settle runs what has begun or stopped, and says how the request stands.
func (r *requestState) settle(f holderFacts, versions []*version) (*requestState, []judged, bool) {
	if r.closed != custody.Open || r.damaged {
		return r, r.judge(f, versions), false
	}
	changed := false
	for range policy.MaxDepth { // a delay that is over may start another
		next, more := r.run(f, r.judge(f, versions))
		if !more {
			break
		}
		r, changed = next, true
	}
	return r, r.judge(f, versions), changed
}

// progress is what a party is told.
func (r *requestState) progress(f holderFacts, kept bool, verdicts []judged) *custody.Progress {
	p := &custody.Progress{Kept: kept, Closed: r.closed, Left: r.until - min(r.until, f.ran)}
	for i, j := range verdicts {
		if i == 0 || !j.OK && j.Need-j.Have >= int(p.Need-p.Have) {
			p.Have, p.Need = uint16(j.Have), uint16(j.Need)
		}
		for _, m := range j.Missing {
			if !slices.Contains(p.Missing, m) && len(p.Missing) < policy.MaxNodes {
				p.Missing = append(p.Missing, m)
			}
		}
	}
	p.Wait, _ = waitOf(verdicts)
	for _, w := range r.words {
		p.Words = append(p.Words, w.bytes)
	}
	return p
}

// waitOf is the time until every policy is satisfied, if delays alone are
// missing; ok: all are satisfied now.
func waitOf(verdicts []judged) (wait uint64, ok bool) {
	ok = true
	for _, j := range verdicts {
		if j.OK {
			continue
		}
		ok = false
		if j.Wait == 0 {
			return 0, false
		}
		wait = max(wait, j.Wait)
	}
	return wait, ok && len(verdicts) > 0
}

// outcome is the answer to who asks.
func (r *requestState) outcome(verdicts []judged) (uint8, string) {
	wait, ok := waitOf(verdicts)
	switch {
	case r.damaged:
		return custody.Failed, "the record of this request is damaged here"
	case r.closed == custody.Vetoed:
		return custody.Denied, "it was vetoed"
	case r.closed == custody.Withdrawn:
		return custody.Denied, "it was withdrawn"
	case ok:
		return custody.OK, ""
	case wait > 0:
		return custody.Wait, "a delay runs"
	}
	var missing []string
	for _, j := range verdicts {
		missing = append(missing, j.Missing...)
	}
	return custody.Denied, policyWhy(missing)
}
