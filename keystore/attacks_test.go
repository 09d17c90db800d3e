package keystore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// Attacks on the release of a secret (protocol.md section 7), beside those in
// request_test.go, request_time_test.go, inbox_test.go and custodian_read_test.go.

// signedAs is an object that another key signed in the name of who.
func signedAs(thief key.PersonPrivate, net key.NetworkID, who key.PersonPublic, a share.Approval) []byte {
	a.Person = who
	o := key.Sign(thief, net, key.TypeApproval, key.Marshal(&a))
	o.Key = who
	return o.Encode()
}

// TestAttackTwice: one key counts once, however many words it says and in
// whatever way they come.
func TestAttackTwice(t *testing.T) {
	c := hPerson(t, 14)
	w := newRWorld(t, func(a, b, _ key.PersonPrivate) *policy.Policy {
		return policy.KOf(3, policy.Key(a.Public()), policy.Key(b.Public()), policy.Key(c.Public()))
	})
	r, _ := w.asks(w.a, func(r *share.Request) { r.Expires = r.Created + 3600 })
	said := func(p key.PersonPrivate, note string) []byte {
		a := share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Expires, Note: note}
		return share.SignApproval(p, w.net, a).Encode()
	}
	w.mustAt(1, r, custody.Denied, said(w.b, "1"), said(w.b, "2"), said(w.a, "own"), said(w.a, "own too"))
	w.approveAt(1, r, said(w.b, "3"))
	out := w.mustAt(1, r, custody.Denied, said(w.b, "4"))
	if p := out.Progress; p.Have != 2 || p.Need != 3 || len(p.Words) != 2 {
		t.Fatalf("%d of %d, %d words", p.Have, p.Need, len(p.Words))
	}
	w.mustAt(1, r, custody.OK, said(c, ""))
}

// TestAttackForgedApprove: APPROVE calls of a hostile member, by its own link
// and by that of another. None is taken, at a holder that has the request and at
// one that has not; the genuine words count afterwards.
func TestAttackForgedApprove(t *testing.T) {
	thief := hPerson(t, 66)
	w := newRWorld(t, rPolicy)
	r, _ := w.asks(w.a, nil)
	another, _ := w.asks(w.a, nil)
	yes := share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Expires}
	no, other, past, late := yes, yes, yes, yes
	no.Verdict, other.Subject, past.Expires, late.Expires = share.VerdictVeto, another.Hash, r.Created-3600, r.Created+2*share.RequestLifeMax
	relabelled := key.Sign(w.b, w.net, key.TypeRequest, key.Marshal(&yes))
	relabelled.Type = key.TypeApproval
	words := map[string][]byte{
		"an approver's":                  signedAs(thief, w.net, w.b.Public(), yes),
		"a veto key's":                   signedAs(thief, w.net, w.veto.Public(), no),
		"a withdrawal":                   signedAs(thief, w.net, w.a.Public(), no),
		"a stranger's":                   share.SignApproval(thief, w.net, yes).Encode(),
		"genuine, on another":            share.SignApproval(w.b, w.net, other).Encode(),
		"genuine, past":                  share.SignApproval(w.b, w.net, past).Encode(),
		"genuine, of the far future":     share.SignApproval(w.b, w.net, late).Encode(),
		"genuine, of another network":    share.SignApproval(w.b, key.NetworkID{9}, yes).Encode(),
		"genuine, of another type":       relabelled.Encode(),
		"no object":                      []byte("yes"),
		"the request as an approval":     r.Object.Encode(),
		"a veto genuine, but on another": share.SignApproval(w.veto, w.net, share.Approval{Subject: another.Hash, Verdict: share.VerdictVeto, Expires: r.Expires}).Encode(),
	}
	w.mustAt(1, r, custody.Denied)
	for name, word := range words {
		for _, from := range []int{0, 2} {
			for _, to := range []int{1, 2} {
				var out custody.ApproveReply
				w.ask(from, to, custody.VerbApprove, &custody.Approve{Request: r.Object.Encode(), Approval: word}, &out)
				if out.Outcome != custody.Refused && out.Outcome != custody.Denied || out.Progress != nil {
					t.Errorf("%s, %d to %d: outcome %d", name, from, to, out.Outcome)
				}
			}
		}
	}
	if n := w.audit[1].count("approve") + w.audit[1].count("veto") + w.audit[1].count("withdraw") + w.nodes[2].shelf.count(share.BucketRequest); n != 0 {
		t.Errorf("%d traces of forged words: %v", n, w.audit[1].kinds())
	}
	forged := r.Object
	forged.Body = another.Object.Body
	if out := w.approveAt(1, &share.SignedRequest{Object: forged}, w.yes(w.b, another)); out.Outcome != custody.Refused {
		t.Errorf("a forged request: %d", out.Outcome)
	}
	for _, to := range []int{1, 2} {
		if out := w.mustAt(to, r, custody.Denied); out.Progress.Have != 1 || out.Progress.Closed != custody.Open {
			t.Errorf("%d: %+v", to, out.Progress)
		}
		w.mustAt(to, r, custody.Wait, w.yes(w.b, r))
	}
}

// TestAttackForgedNotify: a holder lies to the node of an approver, with the
// genuine request in its hands. Nothing of it is shown, and nothing keeps the
// approver from the word.
func TestAttackForgedNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx, thief := context.Background(), key.GeneratePerson()
		w := p.asks(t)
		before := p.view(t, 2, p.b, w.Request)
		n := p.nodes[2].store.asks.find(w.Request)
		no := share.Approval{Subject: w.Request, Verdict: share.VerdictVeto, Expires: n.request.Expires}
		var vetoes [][]byte
		for _, who := range []Person{p.owner, p.a, p.b, p.c} {
			vetoes = append(vetoes, signedAs(thief, p.fakeNet.id, who.Key.Public(), no))
		}
		vetoes = append(vetoes, share.SignApproval(thief, p.fakeNet.id, no).Encode())
		no.Subject = key.Hash{1}
		vetoes = append(vetoes, share.SignApproval(p.owner.Key, p.fakeNet.id, no).Encode())
		asked := n.request.Request
		asked.Purpose = "all is well"
		changed := n.request.Object
		changed.Body = key.Marshal(&asked)
		m := forged(t, p.fakeNet.id, Person{Key: thief}, "mail/imap", policy.Key(p.b.Key.Public()), p.nodes[4].id, p.nodes[3].id)
		good, manifest := n.request.Object.Encode(), n.v.Bytes()
		for name, q := range map[string]custody.Notify{
			"forged words":        {Request: good, Manifest: manifest, Stage: custody.StageAsked, Words: vetoes},
			"it is over":          {Request: good, Manifest: manifest, Stage: custody.StageClosed, Words: vetoes},
			"it is given":         {Request: good, Manifest: manifest, Stage: custody.StageReleased},
			"another purpose":     {Request: changed.Encode(), Manifest: manifest, Stage: custody.StageAsked},
			"the thief's policy":  {Request: good, Manifest: m.Bytes(), Stage: custody.StageAsked},
			"a stranger's asking": {Request: share.SignRequest(thief, p.fakeNet.id, asked).Object.Encode(), Manifest: manifest, Stage: custody.StageAsked},
		} {
			for _, to := range []int{0, 2, 3} {
				if _, err := p.nodes[to].store.Answer(ctx, p.nodes[4].id, custody.VerbNotify, key.Marshal(&q)); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		list, err := p.nodes[2].store.Requests(ctx, p.b)
		if err != nil || len(list) != 1 || list[0].Reason != before.Reason || list[0].Vetoed || len(list[0].Approvals) != 0 || list[0].Owner != p.owner.Key.Public() {
			t.Fatalf("%+v %v", list, err)
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		if r, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, 2*time.Hour); err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("%v", explain(err))
		}
	})
}

// TestAttackLongLife: signatures enough, but a request that lives longer than a
// policy without delay lets it.
func TestAttackLongLife(t *testing.T) {
	w := newHWorld(t, 3)
	a, b := hPerson(t, 11), hPerson(t, 12)
	one := w.deal(t, hSpec{gen: 1, pol: policy.All(policy.Key(a.Public()), policy.Key(b.Public()))})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
	for life, want := range map[uint64]uint8{share.RequestLife: custody.OK, share.RequestLife + 1: custody.Denied} {
		r := w.request(t, a, share.Request{Verb: share.VerbRecover, Created: hNow, Expires: hNow + life}, b.Public())
		if e, got, why := s.release(w.facts(0), r); got != want || (e != nil) != (want == custody.OK) {
			t.Errorf("%d s: outcome %d %s", life, got, why)
		}
	}
}

// TestAttackEndedApproval: an approval that its signer limited ends before the
// request does; a genuine longer one by another helps.
func TestAttackEndedApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		short := share.SignApproval(w.b, w.net, share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Created + rDelay/2}).Encode()
		w.mustAt(1, r, custody.Wait, short)
		w.pass(1, (rDelay+1)*time.Second)
		for range 2 {
			if out := w.mustAt(1, r, custody.Denied, short); out.Progress.Have != 1 {
				t.Fatalf("%+v", out.Progress)
			}
			w.restart(1)
		}
	})
}

// TestAttackAfterVeto: what is closed takes no more words, replayed or new.
func TestAttackAfterVeto(t *testing.T) {
	w := newRWorld(t, rPolicy)
	r, _ := w.asks(w.a, nil)
	w.mustAt(1, r, custody.Denied)
	w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto))
	for _, word := range [][]byte{w.yes(w.b, r), w.yes(w.veto, r), w.word(w.a, r, share.VerdictVeto), w.word(w.veto, r, share.VerdictVeto)} {
		w.approveAt(1, r, word)
		if out := w.mustAt(1, r, custody.Denied, word); out.Progress.Closed != custody.Vetoed || len(out.Progress.Words) != 1 {
			t.Fatalf("%+v", out.Progress)
		}
	}
	if w.audit[1].count("approve")+w.audit[1].count("withdraw") != 0 || w.audit[1].count("veto") != 1 {
		t.Errorf("%v", w.audit[1].kinds())
	}
}

// TestAttackDelayOfAnother: where two policies judge, the delay of one that has
// passed is not that of the other.
func TestAttackDelayOfAnother(t *testing.T) {
	w := newHWorld(t, 3)
	a, b, veto := hPerson(t, 11), hPerson(t, 12), hPerson(t, 13)
	one := w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, veto)}).version
	two := w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, a)}).version
	signed := share.SignRequest(a, w.net, share.Request{ID: w.id, Verb: share.VerbRecover, Created: hNow, Expires: hNow + 86400})
	f := w.facts(0)
	f.ran = 0
	o := share.SignApproval(b, w.net, share.Approval{Subject: signed.Hash, Verdict: share.VerdictApprove, Expires: signed.Expires})
	said, err := share.OpenApproval(w.net, o.Encode(), f.now)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := newRequestState(f, signed, signed.Object.Encode()).hear(newWord(f, said, o.Encode(), o.Hash(w.net)), []*version{one})
	r, _, _ = r.settle(f, []*version{one})
	for _, judges := range [][]*version{{one, two}, {two, one}} {
		f.ran = 1000
		both, _, _ := r.settle(f, judges)
		f.ran = rDelay
		both, verdicts, _ := both.settle(f, judges)
		if got, _ := both.outcome(verdicts); got != custody.Wait {
			t.Errorf("outcome %d", got)
		}
		f.ran += 1000
		both, verdicts, _ = both.settle(f, judges)
		if got, why := both.outcome(verdicts); got != custody.OK {
			t.Errorf("outcome %d %s", got, why)
		}
	}
}

// jump makes a time what it were if the wall clock had been set that much
// forward since it was taken: its wall reading changes, its monotonic one stays.
func jump(t *testing.T, at *time.Time, by time.Duration) {
	t.Helper()
	was := at.Unix()
	*(*uint64)(unsafe.Pointer(at)) -= uint64(int64(by/time.Second)) << 30
	if at.Unix() != was-int64(by/time.Second) || time.Since(*at).Abs() > time.Hour {
		t.Fatal("it holds no monotonic reading, or package time keeps it in another way")
	}
}

// TestAttackWallClock: the wall clock of a holder is set a year forward or back
// while a delay runs. In no bubble: times in one have no monotonic reading.
func TestAttackWallClock(t *testing.T) {
	for name, by := range map[string]time.Duration{"forward": year, "back": -year} {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		clock := w.nodes[1].clock
		jump(t, &clock.mark, by)
		if out := w.mustAt(1, r, custody.Wait); out.Seconds > rDelay || out.Seconds < rDelay-60 {
			t.Errorf("%s: %d s left", name, out.Seconds)
		}
		clock.start(clock.now() + rDelay) // as if it had run that long
		jump(t, &clock.mark, by)
		w.mustAt(1, r, custody.OK)
	}
}

// TestTeamPolicy: "the owner, or 2 of 3 approvers after 1 h, veto by the owner"
// on five nodes with four persons: each path, each missing piece by its name.
func TestTeamPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		if r, err := p.nodes[0].store.Recover(ctx, p.owner, "mail/imap", RecoverOptions{}); err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("the owner: %v", explain(err))
		}
		if _, err := p.nodes[4].store.Recover(ctx, newPerson(), "", RecoverOptions{ID: p.id}); err == nil || errors.As(err, new(*PendingError)) {
			t.Fatalf("a stranger: %v", err)
		}
		missing := func(w *PendingError, want ...string) {
			t.Helper()
			got := strings.Join(w.Missing, "; ")
			for _, s := range want {
				if !strings.Contains(got, s) {
					t.Errorf("missing is %q, not %q", got, s)
				}
			}
		}
		w := p.asks(t)
		missing(w, "1 more of", "the person of n3", "the person of n4", "a delay of 1 h")
		time.Sleep(2 * time.Hour) // time alone does not help
		if w = mustWait(t, errOf(p.again(1, p.a, w.Request))); w.Have != 1 || w.Need != 2 || w.Wait != 0 {
			t.Fatalf("%+v", w)
		}
		missing(w, "1 more of", "the person of n3", "the person of n4", "a delay of 1 h")
		p.view(t, 3, p.c, w.Request)
		if err := p.nodes[3].store.Approve(ctx, p.c, w.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		w = mustWait(t, errOf(p.again(1, p.a, w.Request)))
		if missing(w, "a delay of 1 h"); w.Have != 2 || strings.Contains(strings.Join(w.Missing, ""), "1 more of") || w.Wait < 59*time.Minute {
			t.Fatalf("%+v", w)
		}
		time.Sleep(59 * time.Minute)
		mustWait(t, errOf(p.again(1, p.a, w.Request)))
		time.Sleep(time.Minute + time.Second)
		if r, err := p.again(1, p.a, w.Request); err != nil || !bytes.Equal(r.Value, []byte("hunter2")) {
			t.Fatalf("two of three after an hour: %v", explain(err))
		}
		w = p.asks(t)
		p.view(t, 0, p.owner, w.Request)
		if err := p.nodes[0].store.Veto(ctx, p.owner, w.Request, "not now"); err != nil {
			t.Fatal(explain(err))
		}
		if _, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, 2*time.Hour); !errors.Is(err, ErrVetoed) || !strings.Contains(err.Error(), "not now") {
			t.Fatalf("vetoed: %v", explain(err))
		}
	})
}
