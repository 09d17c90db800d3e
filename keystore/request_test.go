package keystore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// fakeAudit is an audit log in memory. It can fail, and the process can die
// right after an entry is on disk.
type fakeAudit struct {
	mu      sync.Mutex
	entries []AuditRecord
	fail    error
	crash   func(AuditRecord)
}

func (a *fakeAudit) Append(_ context.Context, r AuditRecord) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return 0, a.fail
	}
	a.entries = append(a.entries, r)
	if a.crash != nil {
		a.crash(r)
	}
	return uint64(len(a.entries)), nil
}

func (a *fakeAudit) kinds() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, e := range a.entries {
		out = append(out, e.Kind)
	}
	return out
}

func (a *fakeAudit) count(kind string) int {
	n := 0
	for _, k := range a.kinds() {
		n += btoi(k == kind)
	}
	return n
}

func (a *fakeAudit) breaks(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = err
}

// rWorld is a mesh of three holders with one secret, and audit logs.
type rWorld struct {
	*hMesh
	deal  *hDeal
	audit []*fakeAudit
	a, b  key.PersonPrivate
	veto  key.PersonPrivate
}

const rDelay = 3600

// rPolicy: the owner; or a and b after an hour, unless veto objects.
func rPolicy(a, b, veto key.PersonPrivate) *policy.Policy {
	return policy.Any(policy.Owner(), policy.All(
		policy.KOf(2, policy.Key(a.Public()), policy.Key(b.Public())), policy.Delay(rDelay, veto.Public())))
}

func newRWorld(t *testing.T, pol func(a, b, veto key.PersonPrivate) *policy.Policy) *rWorld {
	t.Helper()
	w := &rWorld{hMesh: newHMesh(t, 3, Limits{}), a: hPerson(t, 11), b: hPerson(t, 12), veto: hPerson(t, 13)}
	for _, n := range w.nodes {
		log := &fakeAudit{}
		n.custodian.cfg.Audit = log
		w.audit = append(w.audit, log)
	}
	w.deal = w.hWorld.deal(t, hSpec{gen: 1, pol: pol(w.a, w.b, w.veto)})
	w.commitAll(w.put(w.hWorld, w.deal, nil, 0, 1, 2), 0, 1, 2)
	return w
}

// restart brings a node up again from what is on its disk.
func (w *rWorld) restart(i int) {
	w.t.Helper()
	w.nodes[i] = w.start(i, w.nodes[i].shelf, Limits{})
	w.nodes[i].custodian.cfg.Audit = w.audit[i]
}

// runFor lets the node's own work go on for that long and ends it properly.
func (w *rWorld) runFor(i int, d time.Duration) {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	_ = w.nodes[i].run(ctx)
}

// asks is a request of a, a week long.
func (w *rWorld) asks(p key.PersonPrivate, edit func(*share.Request)) (*share.SignedRequest, *seal.PrivateKey) {
	return w.requestNow(w.hWorld, p, func(r *share.Request) {
		r.Expires = r.Created + 7*86400
		if edit != nil {
			edit(r)
		}
	})
}

func (w *rWorld) word(p key.PersonPrivate, r *share.SignedRequest, verdict uint8) []byte {
	return share.SignApproval(p, w.net, share.Approval{Subject: r.Hash, Verdict: verdict, Expires: r.Expires}).Encode()
}

func (w *rWorld) yes(p key.PersonPrivate, r *share.SignedRequest) []byte {
	return w.word(p, r, share.VerdictApprove)
}

func (w *rWorld) approveAt(node int, r *share.SignedRequest, word []byte) *custody.ApproveReply {
	w.t.Helper()
	var out custody.ApproveReply
	w.ask(0, node, custody.VerbApprove, &custody.Approve{Request: r.Object.Encode(), Approval: word}, &out)
	return &out
}

// must is a RECOVER with this outcome; nothing of the row leaves but with OK.
func (w *rWorld) mustAt(node int, r *share.SignedRequest, outcome uint8, approvals ...[]byte) *custody.RecoverReply {
	w.t.Helper()
	out, _ := w.recoverAt(node, r, approvals...)
	if out.Outcome != outcome {
		w.t.Fatalf("outcome %d instead of %d: %s %+v", out.Outcome, outcome, out.Why, out.Progress)
	}
	if gave := len(out.Box)+len(out.Release)+len(out.Payload) > 0; gave != (outcome == custody.OK) {
		w.t.Fatalf("outcome %d, and gave: %v", outcome, gave)
	}
	return out
}

// pass lets time go by in a bubble while node i runs.
func (w *rWorld) pass(i int, d time.Duration) { w.runFor(i, d) }

// TestRequestPath: approvals are counted, the delay runs, the row goes.
func TestRequestPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		r, k := w.asks(w.a, nil)
		out := w.mustAt(1, r, custody.Denied)
		if p := out.Progress; p == nil || !p.Kept || p.Have != 1 || p.Need != 2 || len(p.Missing) == 0 || p.Left == 0 {
			t.Fatalf("%+v", out.Progress)
		}
		if a := w.approveAt(1, r, w.yes(w.b, r)); a.Outcome != custody.OK || a.Progress.Wait != rDelay || a.Progress.Have != 2 || len(a.Progress.Words) != 1 {
			t.Fatalf("%d %s %+v", a.Outcome, a.Why, a.Progress)
		}
		w.pass(1, rDelay/2*time.Second)
		if out := w.mustAt(1, r, custody.Wait); out.Seconds != rDelay/2 {
			t.Fatalf("%d s left", out.Seconds)
		}
		w.pass(1, (rDelay/2-1)*time.Second)
		w.mustAt(1, r, custody.Wait)
		w.pass(1, time.Second)
		out = w.mustAt(1, r, custody.OK)
		if w.opened(1, w.deal, r, k, out) == nil {
			t.Fatal("the row does not open")
		}
		w.mustAt(1, r, custody.OK) // and again
		if got := w.audit[1].kinds(); !slices.Equal(got, []string{"request", "refuse", "approve", "release", "release"}) {
			t.Fatalf("audit: %v", got)
		}
	})
}

// TestRequestOwner: what the owner's word alone satisfies leaves no record.
func TestRequestOwner(t *testing.T) {
	w := newRWorld(t, rPolicy)
	before := w.nodes[1].shelf.commits
	r, _ := w.requestNow(w.hWorld, w.owner, nil)
	w.mustAt(1, r, custody.OK)
	if w.nodes[1].shelf.commits != before || w.nodes[1].shelf.count(share.BucketRequest) != 0 {
		t.Error("an owner's request writes")
	}
	long, _ := w.asks(w.owner, nil)
	w.mustAt(1, long, custody.Denied)
	if w.nodes[1].shelf.count(share.BucketRequest) != 0 {
		t.Error("an owner's request that lives too long is kept")
	}
}

// TestRequestVeto: a veto closes it for good, at every seat that it reaches.
func TestRequestVeto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		w.mustAt(2, r, custody.Wait, w.yes(w.b, r))
		if a := w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto)); a.Outcome != custody.OK || a.Progress.Closed != custody.Vetoed {
			t.Fatalf("%d %+v", a.Outcome, a.Progress)
		}
		w.pass(1, 30*time.Second) // it passes the veto on: to 2, and to 0, which never saw the request
		for _, n := range []int{0, 1, 2} {
			w.restart(n)
			if out := w.mustAt(n, r, custody.Denied, w.yes(w.b, r)); out.Progress.Closed != custody.Vetoed {
				t.Fatalf("node %d: %+v", n, out.Progress)
			}
		}
		w.pass(1, 2*rDelay*time.Second)
		w.mustAt(1, r, custody.Denied, w.yes(w.b, r))
	})
}

// TestRequestWords: whose word does what.
func TestRequestWords(t *testing.T) {
	for name, c := range map[string]struct {
		by      func(*rWorld) key.PersonPrivate
		verdict uint8
		closed  uint8
		outcome uint8 // of a RECOVER afterwards, when b had approved before
	}{
		"veto":                                 {func(w *rWorld) key.PersonPrivate { return w.veto }, share.VerdictVeto, custody.Vetoed, custody.Denied},
		"withdrawn":                            {func(w *rWorld) key.PersonPrivate { return w.a }, share.VerdictVeto, custody.Withdrawn, custody.Denied},
		"denied by an approver":                {func(w *rWorld) key.PersonPrivate { return w.b }, share.VerdictVeto, custody.Open, custody.Denied},
		"denied by the owner, who has no veto": {func(w *rWorld) key.PersonPrivate { return w.owner }, share.VerdictVeto, custody.Open, custody.Wait},
		"approved by its own":                  {func(w *rWorld) key.PersonPrivate { return w.a }, share.VerdictApprove, custody.Open, custody.Wait},
	} {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		a := w.approveAt(1, r, w.word(c.by(w), r, c.verdict))
		if a.Outcome != custody.OK || a.Progress.Closed != c.closed {
			t.Fatalf("%s: %d %s %+v", name, a.Outcome, a.Why, a.Progress)
		}
		w.mustAt(1, r, c.outcome)
		w.mustAt(1, r, c.outcome, w.yes(w.b, r)) // the approval once more does not help
	}
}

// TestRequestAttacks: what does not count as a word on this request, with and
// without the request at the holder before.
func TestRequestAttacks(t *testing.T) {
	now := func(w *rWorld, edit func(*share.Request)) *share.SignedRequest { r, _ := w.asks(w.a, edit); return r }
	for name, word := range map[string]func(w *rWorld, r *share.SignedRequest) []byte{
		"its own":             func(w *rWorld, r *share.SignedRequest) []byte { return w.yes(w.a, r) },
		"of a stranger":       func(w *rWorld, r *share.SignedRequest) []byte { return w.yes(hPerson(t, 66), r) },
		"for another request": func(w *rWorld, _ *share.SignedRequest) []byte { return w.yes(w.b, now(w, nil)) },
		"for another secret": func(w *rWorld, _ *share.SignedRequest) []byte {
			return w.yes(w.b, now(w, func(r *share.Request) { r.ID = key.Hash{1} }))
		},
		"for another generation": func(w *rWorld, r *share.SignedRequest) []byte {
			return w.yes(w.b, now(w, func(o *share.Request) { *o = r.Request; o.Gen = 1 }))
		},
		"for another verb": func(w *rWorld, r *share.SignedRequest) []byte {
			return w.yes(w.b, now(w, func(o *share.Request) { *o = r.Request; o.Verb = share.VerbDelete }))
		},
		"for another ephemeral key": func(w *rWorld, r *share.SignedRequest) []byte {
			return w.yes(w.b, now(w, func(o *share.Request) { k := o.Ephemeral; *o = r.Request; o.Ephemeral = k }))
		},
		"expired": func(w *rWorld, r *share.SignedRequest) []byte {
			return share.SignApproval(w.b, w.net, share.Approval{Subject: r.Hash, Verdict: 1, Expires: r.Created - 3600}).Encode()
		},
		"of another network": func(w *rWorld, r *share.SignedRequest) []byte {
			return share.SignApproval(w.b, key.NetworkID{9}, share.Approval{Subject: r.Hash, Verdict: 1, Expires: r.Expires}).Encode()
		},
		"of another type": func(w *rWorld, r *share.SignedRequest) []byte {
			a := share.Approval{Subject: r.Hash, Verdict: 1, Expires: r.Expires, Person: w.b.Public()}
			return key.Sign(w.b, w.net, key.TypeQuery, key.Marshal(&a)).Encode()
		},
		"of another type, relabelled": func(w *rWorld, r *share.SignedRequest) []byte {
			a := share.Approval{Subject: r.Hash, Verdict: 1, Expires: r.Expires, Person: w.b.Public()}
			o := key.Sign(w.b, w.net, key.TypeQuery, key.Marshal(&a))
			o.Type = key.TypeApproval
			return o.Encode()
		},
	} {
		for _, before := range []bool{false, true} {
			w := newRWorld(t, rPolicy)
			r, _ := w.asks(w.a, nil)
			if before {
				w.mustAt(1, r, custody.Denied)
			}
			bad := word(w, r)
			w.approveAt(1, r, bad)
			out := w.mustAt(1, r, custody.Denied, bad, bad)
			if kept := len(out.Progress.Words); out.Progress.Have != 1 || kept > btoi(name == "its own") {
				t.Errorf("%s: %+v", name, out.Progress)
			}
			w.mustAt(1, r, custody.Wait, w.yes(w.b, r)) // and the good one does count
		}
	}
}

// TestRequestReplay: a request that someone else brings, by another node's link
// or to another holder, yields what only its key opens; and one whose key was
// swapped is no request of that person.
func TestRequestReplay(t *testing.T) {
	w := newRWorld(t, func(a, b, _ key.PersonPrivate) *policy.Policy {
		return policy.Any(policy.Owner(), policy.All(policy.Key(a.Public()), policy.Key(b.Public())))
	})
	r, k := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + 3600 })
	good := w.yes(w.b, r)
	w.mustAt(1, r, custody.OK, good)
	thief, err := seal.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []int{0, 2} {
		for _, to := range []int{1, 2} {
			var out custody.RecoverReply
			w.ask(from, to, custody.VerbRecover, &custody.Recover{Request: r.Object.Encode(), Approvals: [][]byte{good}}, &out)
			if out.Outcome != custody.OK || w.opened(to, w.deal, r, k, &out) == nil {
				t.Fatalf("%d to %d: outcome %d", from, to, out.Outcome)
			}
			if w.opened(to, w.deal, r, thief, &out) != nil {
				t.Fatal("another key opens it")
			}
		}
	}
	swapped := r.Request
	swapped.Ephemeral = thief.Public()
	body := key.Marshal(&swapped)
	for name, o := range map[string]key.Object{
		"with the old signature":   {Type: r.Object.Type, Body: body, Key: r.Object.Key, Sig: r.Object.Sig},
		"signed by another":        key.Sign(hPerson(t, 66), w.net, key.TypeRequest, body),
		"signed by another party":  key.Sign(w.b, w.net, key.TypeRequest, body),
		"signed as another type":   {Type: key.TypeRequest, Body: body, Key: key.Sign(w.a, w.net, key.TypeQuery, body).Key, Sig: key.Sign(w.a, w.net, key.TypeQuery, body).Sig},
		"signed for another world": key.Sign(w.a, key.NetworkID{9}, key.TypeRequest, body),
	} {
		var out custody.RecoverReply
		w.ask(0, 1, custody.VerbRecover, &custody.Recover{Request: o.Encode(), Approvals: [][]byte{good}}, &out)
		if out.Outcome == custody.OK || len(out.Box) > 0 {
			t.Errorf("%s: released", name)
		}
	}
	mine := share.SignRequest(w.a, w.net, swapped) // the person's own, but not what b approved
	w.mustAt(1, mine, custody.Denied, good)
}

// TestRequestTimes: before and after its time it is nothing, and leaves nothing.
func TestRequestTimes(t *testing.T) {
	for name, edit := range map[string]func(*share.Request){
		"expired":       func(r *share.Request) { r.Created -= 86400; r.Expires = r.Created + 3600 },
		"not yet valid": func(r *share.Request) { r.Created += 3600 },
	} {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, edit)
		w.mustAt(1, r, custody.Refused, w.yes(w.b, r))
		if a := w.approveAt(1, r, w.yes(w.b, r)); a.Outcome != custody.Refused {
			t.Errorf("%s: an approval is taken: %d", name, a.Outcome)
		}
		if w.nodes[1].shelf.count(share.BucketRequest) != 0 {
			t.Errorf("%s: is kept", name)
		}
	}
	// With a delay it may live that and 30 days; without one 72 hours.
	w := newRWorld(t, rPolicy)
	long, _ := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + rDelay + share.RequestLifeDelay })
	w.mustAt(1, long, custody.Wait, w.yes(w.b, long))
	longer, _ := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + rDelay + share.RequestLifeDelay + 1 })
	w.mustAt(1, longer, custody.Denied, w.yes(w.b, longer))
	w = newRWorld(t, func(a, b, _ key.PersonPrivate) *policy.Policy {
		return policy.All(policy.Key(a.Public()), policy.Key(b.Public()))
	})
	three, _ := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + share.RequestLife })
	w.mustAt(1, three, custody.OK, w.yes(w.b, three))
	four, _ := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + share.RequestLife + 1 })
	w.mustAt(1, four, custody.Denied, w.yes(w.b, four))
}

var errFakeLog = errors.New("fake: the log cannot be written")

// TestRequestClock: a holder whose clock is off gives nothing to words that
// rest on times, and still serves the owner (protocol.md section 5).
func TestRequestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		off := ""
		w.nodes[1].custodian.cfg.Clock = func() string { return off }
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		w.pass(1, rDelay*time.Second)
		off = "an hour behind its peers"
		if out := w.mustAt(1, r, custody.Denied, w.yes(w.b, r)); out.Why == "" {
			t.Errorf("no reason is given: %+v", out)
		}
		own, _ := w.requestNow(w.hWorld, w.owner, nil)
		w.mustAt(1, own, custody.OK)
		off = ""
		w.mustAt(1, r, custody.OK, w.yes(w.b, r))
	})
}
