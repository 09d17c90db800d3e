package keystore

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// crashed is a shelf with what was on disk at this moment.
func (s *hShelf) crashed() *hShelf {
	c := newMapShelf()
	c.recs = s.dump()
	return &hShelf{mapShelf: c, corrupt: map[share.Place]bool{}}
}

const year = 365 * 24 * time.Hour

// TestDelayRestart: a crash takes back less than a minute of a delay; time in
// which the node was off is not credited, whatever its clock says.
func TestDelayRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		time.Sleep(time.Hour) // running time before the delay is not credited either
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		var disk *hShelf
		time.AfterFunc(rDelay/2*time.Second+17*time.Second, func() { disk = w.nodes[1].shelf.crashed() })
		w.pass(1, rDelay/2*time.Second+20*time.Second)
		synctest.Wait()
		time.Sleep(year)
		w.nodes[1].shelf = disk
		w.restart(1)
		out := w.mustAt(1, r, custody.Wait)
		if out.Seconds < rDelay/2-17 || out.Seconds > rDelay/2+60 {
			t.Fatalf("%d s left after half of the delay, a crash and a year off", out.Seconds)
		}
		w.pass(1, time.Duration(out.Seconds-1)*time.Second)
		w.restart(1) // in an orderly way: nothing is taken back
		if out := w.mustAt(1, r, custody.Wait); out.Seconds > 1 {
			t.Fatalf("%d s left after a restart", out.Seconds)
		}
		w.pass(1, time.Second)
		w.mustAt(1, r, custody.OK)
	})
}

// TestDelayClockBack: a clock that is years back neither shortens nor ends a
// delay, nor revives what was vetoed.
func TestDelayClockBack(t *testing.T) {
	var disk *hShelf
	var r, vetoed *share.SignedRequest
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		time.Sleep(2 * year)
		r, _ = w.asks(w.a, nil)
		vetoed, _ = w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		w.mustAt(1, vetoed, custody.Wait, w.yes(w.b, vetoed))
		w.approveAt(1, vetoed, w.word(w.veto, vetoed, share.VerdictVeto))
		w.pass(1, rDelay/2*time.Second)
		disk = w.nodes[1].shelf.crashed()
	})
	synctest.Test(t, func(t *testing.T) { // its clock starts where the first one's did
		w := newRWorld(t, rPolicy)
		w.nodes[1].shelf = disk
		w.restart(1)
		if out := w.mustAt(1, r, custody.Wait); out.Seconds != rDelay/2 {
			t.Fatalf("%d s left", out.Seconds)
		}
		w.mustAt(1, vetoed, custody.Denied)
		w.pass(1, rDelay/2*time.Second)
		w.mustAt(1, r, custody.OK)
		w.mustAt(1, vetoed, custody.Denied)
		time.Sleep(30 * 24 * time.Hour) // past their running time, not past their date
		w.pass(1, time.Minute)
		w.mustAt(1, vetoed, custody.Refused)
		if n := w.nodes[1].shelf.count(share.BucketRequest); n != 2 {
			t.Fatalf("%d requests are remembered that a right clock may find alive", n)
		}
		w.restart(1)
		w.mustAt(1, vetoed, custody.Refused)
	})
}

// TestDelayClockJumps: between two looks the clock jumps a year forward or back
// while the node runs: only running time counts.
func TestDelayClockJumps(t *testing.T) {
	w := newHWorld(t, 3)
	a, b, veto := hPerson(t, 11), hPerson(t, 12), hPerson(t, 13)
	d := w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, veto)})
	judges := []*version{d.version}
	signed := share.SignRequest(a, w.net, share.Request{ID: w.id, Verb: share.VerbRecover, Created: hNow, Expires: hNow + 86400})
	for name, now := range map[string]uint64{"same": hNow, "forward": hNow + 365*86400, "back": hNow - 365*86400} {
		f := w.facts(0)
		f.ran = 1000
		r := newRequestState(f, signed, signed.Object.Encode())
		o := share.SignApproval(b, w.net, share.Approval{Subject: signed.Hash, Verdict: 1, Expires: signed.Expires})
		said, err := share.OpenApproval(w.net, o.Encode(), f.now)
		if err != nil {
			t.Fatal(err)
		}
		r, _ = r.hear(newWord(f, said, o.Encode(), o.Hash(w.net)), judges)
		r, _, _ = r.settle(f, judges)
		f.now = now
		for ran, want := range map[uint64]uint8{1000: custody.Wait, 1000 + rDelay - 1: custody.Wait, 1000 + rDelay: custody.OK} {
			f.ran = ran
			next, verdicts, moved := r.settle(f, judges)
			if got, why := next.outcome(verdicts); got != want || moved || next.expired(f, true) || next.over(f) {
				t.Errorf("%s, %d s: %d %s", name, ran-1000, got, why)
			}
		}
	}
}

// TestDelayPolicyChange: another policy starts the delay anew, also when the
// first comes back.
func TestDelayPolicyChange(t *testing.T) {
	w := newHWorld(t, 3)
	a, b, veto := hPerson(t, 11), hPerson(t, 12), hPerson(t, 13)
	one := w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, veto)}).version
	two := w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, a)}).version
	signed := share.SignRequest(a, w.net, share.Request{ID: w.id, Verb: share.VerbRecover, Created: hNow, Expires: hNow + 86400})
	f := w.facts(0)
	r := newRequestState(f, signed, signed.Object.Encode())
	o := share.SignApproval(b, w.net, share.Approval{Subject: signed.Hash, Verdict: 1, Expires: signed.Expires})
	said, err := share.OpenApproval(w.net, o.Encode(), f.now)
	if err != nil {
		t.Fatal(err)
	}
	r, _ = r.hear(newWord(f, said, o.Encode(), o.Hash(w.net)), []*version{one})
	for i, v := range []*version{one, two, one} {
		f.ran = uint64(i) * 1000
		next, verdicts, moved := r.settle(f, []*version{v})
		if wait, _ := waitOf(verdicts); wait != rDelay || !moved {
			t.Fatalf("policy %d: %d s left", i, wait)
		}
		r = next
	}
	// The denial of an approver stops it.
	no := share.SignApproval(b, w.net, share.Approval{Subject: signed.Hash, Verdict: 2, Expires: signed.Expires})
	said, err = share.OpenApproval(w.net, no.Encode(), f.now)
	if err != nil {
		t.Fatal(err)
	}
	r, _ = r.hear(newWord(f, said, no.Encode(), no.Hash(w.net)), []*version{one})
	r, _, _ = r.settle(f, []*version{one})
	if len(r.starts) != 0 || r.closed != custody.Open {
		t.Fatalf("%+v", r)
	}
}

// TestCrashBeforeRelease: the process dies between the audit entry and the
// release. Nothing left; the entry stays; the same request is answered later.
func TestCrashBeforeRelease(t *testing.T) {
	w := newRWorld(t, rPolicy)
	r, k := w.requestNow(w.hWorld, w.owner, nil)
	w.audit[1].crash = func(e AuditRecord) {
		if e.Kind == "release" {
			runtime.Goexit()
		}
	}
	answered, gone := false, make(chan struct{})
	go func() {
		defer close(gone)
		b, err := w.nodes[1].answer(t.Context(), w.hWorld.nodes[0].ID(), custody.VerbRecover, key.Marshal(&custody.Recover{Request: r.Object.Encode()}))
		answered = err == nil || len(b) > 0
	}()
	<-gone
	if answered || w.audit[1].count("release") != 1 {
		t.Fatalf("answered: %v, log: %v", answered, w.audit[1].kinds())
	}
	w.audit[1].crash = nil
	w.restart(1)
	out := w.mustAt(1, r, custody.OK)
	if w.opened(1, w.deal, r, k, out) == nil {
		t.Fatal("the row does not open")
	}
	rel, err := share.OpenRelease(w.net, out.Release)
	if err != nil || rel.Audit != 2 {
		t.Fatalf("%+v %v", rel, err)
	}
}

// TestNoLogNoAct: what cannot be written to the audit log does not happen.
func TestNoLogNoAct(t *testing.T) {
	w := newRWorld(t, rPolicy)
	r, _ := w.asks(w.a, nil)
	w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
	w.audit[1].breaks(errFakeLog)
	mine, _ := w.requestNow(w.hWorld, w.owner, nil)
	w.mustAt(1, mine, custody.Failed)
	other, _ := w.asks(w.a, nil)
	w.mustAt(1, other, custody.Failed)
	if n := w.nodes[1].shelf.count(share.BucketRequest); n != 1 {
		t.Errorf("%d requests are kept", n)
	}
	if a := w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto)); a.Outcome != custody.Failed {
		t.Errorf("a veto: %d", a.Outcome)
	}
	w.audit[1].breaks(nil)
	w.mustAt(1, r, custody.Wait) // the veto did not happen
	w.mustAt(1, mine, custody.OK)
}

// TestStrangerFlood: a stranger opens 10,000 requests and says words on a
// party's, while the owner recovers. It leaves no state, and one count a minute.
func TestStrangerFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		stranger := hPerson(t, 66)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		before := w.nodes[1].shelf.commits
		base, _ := w.asks(stranger, nil)
		nothing, _ := w.asks(stranger, func(r *share.Request) { r.ID = key.Hash{1} })
		_, unknown := w.recoverAt(1, nothing)
		for i := range 10_000 {
			q := base.Request
			q.Nonce[0], q.Nonce[1] = byte(i), byte(i>>8)
			s := share.SignRequest(stranger, w.net, q)
			if _, b := w.recoverAt(1, s); string(b) != string(unknown) {
				t.Fatal("a stranger is told more than that it is denied")
			}
			if i%1000 == 0 {
				mine, _ := w.requestNow(w.hWorld, w.owner, nil)
				w.mustAt(1, mine, custody.OK)
				for _, by := range []uint8{share.VerdictApprove, share.VerdictVeto} {
					if a := w.approveAt(1, r, w.word(stranger, r, by)); a.Outcome != custody.Denied || a.Progress != nil {
						t.Fatalf("a stranger's word: %d", a.Outcome)
					}
					if a := w.approveAt(1, s, w.word(w.b, s, by)); a.Outcome != custody.Denied || a.Progress != nil {
						t.Fatalf("a word on a stranger's request: %d", a.Outcome)
					}
				}
			}
		}
		if n := w.nodes[1].shelf.commits; n != before || len(w.nodes[1].requests.all()) != 1 {
			t.Errorf("%d commits, %d requests", n-before, len(w.nodes[1].requests.all()))
		}
		w.pass(1, 70*time.Second)
		w.mustAt(1, r, custody.Wait)
		if n := w.audit[1].count("strangers"); n != 1 {
			t.Errorf("%d entries about strangers: %v", n, w.audit[1].kinds())
		}
		if i := slices.Index(w.audit[1].kinds(), "strangers"); i < 0 || w.audit[1].entries[i].Detail != "10041 refused" {
			t.Errorf("%+v", w.audit[1].entries)
		}
	})
}

// TestRequestLimits: six of one person under way; others and the owner are not
// in their way; what ended makes room.
func TestRequestLimits(t *testing.T) {
	w := newRWorld(t, rPolicy)
	var open []*share.SignedRequest
	for range maxUnderWay {
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Denied)
		open = append(open, r)
	}
	more, _ := w.asks(w.a, nil)
	if out := w.mustAt(1, more, custody.Denied, w.yes(w.b, more)); out.Progress == nil || out.Progress.Kept {
		t.Fatalf("%s %+v", out.Why, out.Progress)
	}
	w.restart(1)
	w.mustAt(1, more, custody.Denied, w.yes(w.b, more))
	w.mustAt(1, open[0], custody.Wait, w.yes(w.b, open[0])) // one that is here goes on
	other, _ := w.asks(w.b, nil)
	w.mustAt(1, other, custody.Wait, w.yes(w.a, other))
	mine, _ := w.requestNow(w.hWorld, w.owner, nil)
	w.mustAt(1, mine, custody.OK)
	if a := w.approveAt(1, open[1], w.word(w.a, open[1], share.VerdictVeto)); a.Outcome != custody.OK {
		t.Fatal(a.Why)
	}
	w.mustAt(1, more, custody.Wait, w.yes(w.b, more))
	for range 2 * maxKept { // closed ones are bounded too
		r, _ := w.asks(w.b, nil)
		w.approveAt(1, r, w.word(w.b, r, share.VerdictVeto))
	}
	if n := len(w.nodes[1].requests.all()); n > 2*maxKept {
		t.Errorf("%d are kept", n)
	}
}

// TestRequestRoom: what came by way of one operator's nodes is bounded, and
// keeps nobody else's out.
func TestRequestRoom(t *testing.T) {
	w := newRWorld(t, rPolicy)
	w.nodes[1].requests.most = 3
	for i := range 4 {
		r, _ := w.asks(w.a, nil)
		if out := w.mustAt(1, r, custody.Denied); out.Progress.Kept != (i < 3) {
			t.Fatalf("request %d: %s", i, out.Why)
		}
	}
	r, _ := w.asks(w.a, nil)
	var out custody.RecoverReply
	w.ask(2, 1, custody.VerbRecover, &custody.Recover{Request: r.Object.Encode()}, &out)
	if out.Progress == nil || !out.Progress.Kept {
		t.Fatalf("another operator's: %+v", out.Progress)
	}
	if u := w.nodes[1].requests.operators["op0"]; u.records != 3 || u.bytes < 3000 || u.bytes > 10_000 {
		t.Errorf("%+v", u)
	}
	w.nodes[1].requests.most = 100
	for _, r := range w.nodes[1].requests.all() {
		w.nodes[1].requests.drop(r.ID, r.Hash)
	}
	if len(w.nodes[1].requests.operators) != 0 {
		t.Error("what is gone is still charged")
	}
}

// TestRequestExpires: by the clock, where no delay is waited for; by running
// time alone where one is.
func TestRequestExpires(t *testing.T) {
	for name, c := range map[string]struct {
		pol  func(a, b, veto key.PersonPrivate) *policy.Policy
		want uint8
	}{
		"alone": {func(a, b, veto key.PersonPrivate) *policy.Policy {
			return policy.Any(policy.Key(a.Public()), policy.All(policy.Key(b.Public()), policy.Delay(rDelay)))
		}, custody.Refused},
		"approved": {func(a, b, _ key.PersonPrivate) *policy.Policy {
			return policy.All(policy.Key(a.Public()), policy.Key(b.Public()))
		}, custody.Refused},
		"delayed": {rPolicy, custody.Wait},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newRWorld(t, c.pol)
			r, _ := w.requestNow(w.hWorld, w.a, nil) // for 10 minutes
			w.recoverAt(1, r, w.yes(w.b, r))
			w.pass(1, time.Minute)
			time.Sleep(time.Hour)
			w.restart(1)
			if out, _ := w.recoverAt(1, r); out.Outcome != c.want {
				t.Errorf("%s: %d %s", name, out.Outcome, out.Why)
			}
		})
	}
}

// TestRequestForgotten: what is over leaves nothing behind.
func TestRequestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto))
		time.Sleep(7 * 24 * time.Hour)
		w.pass(1, time.Minute)
		if len(w.nodes[1].requests.all()) != 1 {
			t.Fatal("a veto is forgotten while the request may live")
		}
		w.pass(1, time.Hour)
		if n := w.nodes[1].shelf.count(share.BucketRequest); n != 0 || len(w.nodes[1].requests.all()) != 0 || len(w.nodes[1].passing.words) != 0 {
			t.Fatalf("%d records are left", n)
		}
		w.mustAt(1, r, custody.Refused, w.yes(w.b, r))
	})
}

// TestRequestDamaged: the record of a request that cannot be read stands for a
// veto, not for nothing.
func TestRequestDamaged(t *testing.T) {
	w := newRWorld(t, rPolicy)
	r, _ := w.asks(w.a, nil)
	w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
	for _, p := range w.nodes[1].shelf.Places(share.BucketRequest, w.id) {
		w.nodes[1].shelf.corrupt[p] = true
	}
	w.restart(1)
	out, _ := w.recoverAt(1, r, w.yes(w.b, r))
	if out.Outcome != custody.Failed || len(out.Box) > 0 {
		t.Fatalf("outcome %d", out.Outcome)
	}
	w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto))
	other, _ := w.asks(w.a, nil)
	w.mustAt(1, other, custody.Wait, w.yes(w.b, other))
}

// TestRequestedDelete: a tombstone by the policy, after its delay.
func TestRequestedDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		body := key.Marshal(&share.Tombstone{ID: w.id, Gen: 1, Scope: share.ScopeAll, Time: unix(), Owner: w.owner.Public(), Salt: w.salt})
		r, _ := w.asks(w.a, func(r *share.Request) { r.Verb, r.Payload = share.VerbDelete, body })
		del := func(approvals ...[]byte) *custody.DeleteReply {
			var out custody.DeleteReply
			w.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: body, Request: r.Object.Encode(), Approvals: approvals}, &out)
			return &out
		}
		if out := del(); out.Outcome != custody.Denied || out.Progress == nil {
			t.Fatalf("%+v", out)
		}
		if out := del(w.yes(w.b, r)); out.Outcome != custody.Wait || out.Progress.Wait != rDelay {
			t.Fatalf("%+v", out)
		}
		asked, _ := w.asks(w.a, nil)
		w.mustAt(1, asked, custody.Denied, w.yes(w.b, r)) // the approval is for the deletion alone
		w.pass(1, rDelay*time.Second)
		if out := del(); out.Outcome != custody.OK {
			t.Fatalf("%+v", out)
		}
		w.mustAt(1, asked, custody.Refused)
	})
}

// TestOperator: the clause that this holder's operator confirms.
func TestOperator(t *testing.T) {
	w := newRWorld(t, func(a, _, _ key.PersonPrivate) *policy.Policy {
		return policy.Any(policy.Owner(), policy.All(policy.Key(a.Public()), policy.Operator()))
	})
	r, _ := w.requestNow(w.hWorld, w.a, nil)
	w.mustAt(1, r, custody.Denied)
	if err := w.nodes[1].confirm(t.Context(), key.Hash{1}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := w.nodes[1].confirm(t.Context(), r.Hash); err != nil {
		t.Fatal(err)
	}
	w.restart(1)
	w.mustAt(1, r, custody.OK)
	w.mustAt(2, r, custody.Denied) // another holder's operator has not
	if !slices.Contains(w.audit[1].kinds(), "confirm") {
		t.Error("the confirmation is not in the log")
	}
}
