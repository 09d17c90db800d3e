package keystore

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// A change of policy needs the consent of the old policy (protocol.md section
// 7). Where the owner's word is not enough, the put leaves its write in the
// journal and answers with [PendingError]; the same put again goes on with it.
// Nobody else does: what is approved days later is stored only when somebody
// still wants it.

// extChange is the extension of a Request (verb policy) with the Manifest that
// its payload names, so that those who are asked can see the policy that they
// would consent to (SPEC.md).
const extChange = 1

// maxChange is the longest manifest that goes along: extensions are bounded.
const maxChange = key.MaxExt - 64

// changeOf is the manifest that a request for a change of policy brings along,
// once it is proven to be the one that the payload names; nil: none.
func (s *Store) changeOf(r *share.SignedRequest) *share.SignedManifest {
	b := r.Ext[extChange]
	if r.Verb != share.VerbPolicy || len(b) == 0 {
		return nil
	}
	m, err := share.OpenManifest(s.cfg.ID, b)
	if err != nil || m.ID != r.ID || string(m.Hash[:]) != string(r.Payload) {
		return nil
	}
	return m
}

// asked is the consent to a change of policy that the owner's word alone does
// not give.
type asked struct {
	request *share.SignedRequest
	prev    *version          // whose policy is to consent
	names   []custody.NameBox // for those who are asked
	words   []*heardWord      // verified; immutable
}

// approvals are the words as they go along with a PREPARE.
func (a *asked) approvals() [][]byte {
	var out [][]byte
	for _, w := range a.words[:min(len(a.words), custody.MaxApprovals)] {
		out = append(out, w.bytes)
	}
	return out
}

// askConsent gives a write that changes the policy its request: the one in the journal
// while that is good, else a new one. prev is the generation before.
func (d *dealing) askConsent(w *write, prev *share.SignedManifest) {
	life, alone := lifeOf(&prev.Manifest, d.h.owner)
	r, err := share.ReadRequest(d.s.cfg.ID, w.consent)
	if alone || err != nil || r.CheckTime(unix()+uint64(callTimeout/time.Second)) != nil {
		r = d.consent(w.m, life)
		w.consent = r.Object.Encode()
	}
	if w.asked = nil; alone {
		return
	}
	w.asked = &asked{request: r, prev: newVersion(prev)}
	tag := share.Tag(&d.h.index, d.h.name)
	w.asked.names = nameBoxes(w.asked.prev, d.s.roster(), r.Hash, d.h.name, tag)
	if n := d.s.asks.find(r.Hash); n != nil {
		w.asked.words = n.words
	}
}

// consent asks the seats to take another policy.
func (d *dealing) consent(m *share.SignedManifest, life uint64) *share.SignedRequest {
	now := unix()
	r := share.Request{ID: m.ID, Gen: m.Gen, Verb: share.VerbPolicy, Payload: m.Hash[:], Created: now, Expires: now + life}
	rand.Read(r.Nonce[:])
	if b := m.Bytes(); len(b) <= maxChange {
		r.Ext = map[uint64][]byte{extChange: b}
	}
	return share.SignRequest(d.p.Key, d.s.cfg.ID, r)
}

// waitsAt reports whether a node refused for want of consent: it keeps the
// request, or it is new to the secret and has to refuse what is known here.
func (a *asked) waitsAt(node key.NodeID, heard *custody.Progress) bool {
	if heard != nil && heard.Kept {
		return true
	}
	return a.prev.SeatOf(node) == nil && a.prev.policy != nil && !judgeWords(a.request, a.prev, a.words).OK
}

// resumeAsked finds out whether a write from the journal waits for consent.
func (w *write) resumeAsked(net key.NetworkID) {
	if len(w.consent) == 0 || w.cert != nil || len(w.before) == 0 {
		return
	}
	i := slices.IndexFunc(w.before, func(m *share.SignedManifest) bool { return m.Hash == w.m.Prev })
	r, err := share.ReadRequest(net, w.consent)
	if i < 0 || err != nil {
		return
	}
	if _, alone := lifeOf(&w.before[i].Manifest, r.Person); !alone {
		w.asked = &asked{request: r, prev: newVersion(w.before[i])}
	}
}

// waits reports whether the write lacks nothing but consent: every group has as
// many nodes as it needs that promised, or keep the request and wait for more
// words on it.
func (w *write) waits() bool {
	some := slices.ContainsFunc(w.nodes, func(id key.NodeID) bool { return w.progress[id].held })
	return some && w.cert == nil && w.asked != nil && w.every(func(group) func(*progress) bool {
		return func(p *progress) bool { return prepared(p) || p.held }
	})
}

// heard is what the nodes say of the consent.
func (w *write) heard() []*custody.Progress {
	var out []*custody.Progress
	for _, id := range w.nodes {
		if h := w.progress[id].heard; h != nil {
			out = append(out, h)
		}
	}
	return out
}

// run drives a write, and once more when its seats brought words that together
// are consent: a seat that is new to the secret has not heard them.
func (d *dealing) run(ctx context.Context, w *write) (*write, *outcome) {
	out := d.drive(ctx, w)
	if !out.waits {
		return w, out
	}
	var news bool
	if out.asked, news = d.hear(w.asked, out); !news {
		return w, out
	}
	again := w.again() // the first run may still read its own words
	again.asked = out.asked
	if out = d.drive(ctx, again); out.waits {
		out.asked, _ = d.hear(again.asked, out)
	}
	return again, out
}

// hear adds the words that seats showed and reports whether they satisfy the
// policy now, but for delays, and did not before.
func (d *dealing) hear(was *asked, out *outcome) (*asked, bool) {
	a := *was
	enough := func() bool {
		if a.prev.policy == nil || closedBy(a.request, a.prev, a.words) != custody.Open {
			return false
		}
		v := judgeWords(a.request, a.prev, a.words)
		return v.OK || v.Wait > 0
	}
	before := enough()
	for _, h := range out.heard {
		a.words = merged(a.words, d.s.openWords(a.request, a.prev, h.Words))
	}
	return &a, enough() && !before
}

// pending is the error of a put that waits for consent. A put that was vetoed or
// withdrawn is over: the same again asks anew.
func (d *dealing) pending(w *write, out *outcome) error {
	a, r := out.asked, d.s.roster()
	namer := d.s.namer(d.p, &a.prev.Manifest, r)
	switch closedBy(a.request, a.prev, a.words) {
	case custody.Vetoed:
		d.s.finish.forget(w.place())
		for _, x := range a.words {
			if x.Verdict == share.VerdictVeto && a.prev.mayVeto(x.Person) {
				return fmt.Errorf("%w by %s: %s", ErrVetoed, namer(x.Person), quoted(x.Note))
			}
		}
		return ErrVetoed
	case custody.Withdrawn:
		d.s.finish.forget(w.place())
		return fmt.Errorf("%w: it was withdrawn", ErrEnded)
	}
	j := judgeWords(a.request, a.prev, a.words)
	e := &PendingError{Request: a.request.Hash, Words: key.Words(a.request.Hash, 6), Expires: timeOf(a.request.Expires), Have: j.Have, Need: j.Need}
	if a.prev.policy != nil {
		e.Missing = a.prev.policy.Missing(evidenceOf(a.request, a.prev, a.words), namer)
	}
	var waits []uint64
	var said []string
	for _, h := range out.heard {
		if h.Kept && len(h.Missing) > 0 {
			waits, said = append(waits, h.Wait), append(said, h.Missing...)
		}
	}
	slices.Sort(waits)
	// The shortest waits that are still needed count, as in a recovery.
	if need := int(w.m.W) - out.prepared; need > 0 && need <= len(waits) && waits[0] > 0 {
		e.Wait = time.Duration(min(waits[need-1], share.RequestLifeMax)) * time.Second
	}
	if len(e.Missing) == 0 {
		e.Missing = quotedAll(said)
	}
	return e
}

// unwanted reports whether a write in the journal is not this node's to go on
// with: it waits for consent, and for somebody who still wants it.
func (w *write) unwanted() bool { return w.asked != nil && w.cert == nil }

// lost reports whether it is over.
func (a *asked) lost() bool { return a.request.CheckTime(unix()) != nil }

// withdraw ends a change of policy of this person that waits for consent.
func (s *Store) withdraw(ctx context.Context, p Person, request key.Hash) error {
	n := s.asks.find(request)
	if n == nil || n.request.Person != p.Key.Public() || n.request.Verb == share.VerbRecover {
		return ErrNoRequest
	}
	for _, place := range s.finish.places(n.request.ID) {
		b, err := s.finish.load(place)
		if err != nil || b == nil {
			continue
		}
		if w, err := s.loadWrite(b); err == nil && w.unwanted() && w.asked.request.Hash == request {
			s.finish.forget(place)
		}
	}
	a := share.Approval{Subject: request, Verdict: share.VerdictVeto, Expires: n.request.Expires}
	s.carry(ctx, n.request, n.v, n.v.seatNodes(), share.SignApproval(p.Key, s.cfg.ID, a).Encode())
	return nil
}

// consentNote says of a plan whose consent its policy needs.
func (d *dealing) consentNote(m *share.Manifest, best *certified) []string {
	if best == nil || string(best.m.Policy) == string(m.Policy) {
		return nil
	}
	if _, alone := lifeOf(&best.m.Manifest, d.h.owner); alone {
		return []string{"it changes who may recover the secret"}
	}
	note := "it changes who may recover the secret, and the policy that is there must consent"
	if pol, err := policy.Parse(best.m.Policy); err == nil {
		e := policy.Evidence{Owner: d.h.owner, Signers: []key.PersonPublic{d.h.owner}}
		for i, missing := range pol.Missing(e, d.s.namer(d.p, &best.m.Manifest, d.roster)) {
			note += map[bool]string{true: ": missing ", false: " and "}[i == 0] + missing
		}
	}
	return []string{note}
}
