package keystore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// ownerAndOne wants another signature beside the owner's.
func ownerAndOne(p *people) *policy.Policy {
	return policy.KOf(2, policy.Owner(), policy.Key(p.a.Key.Public()), policy.Key(p.b.Key.Public()), policy.Key(p.c.Key.Public()))
}

// change is the owner's put of a value under the policy that gives it to the
// owner alone.
func (p *people) change(value string, o PutOptions) (PutResult, error) {
	o.Policy = policy.Owner().Encode()
	return p.nodes[0].store.Put(context.Background(), p.owner, "mail/imap", []byte(value), o)
}

func journaled(n *fakeNode) int { return len(n.shelf.dump(share.BucketJournal)) }

// TestChangeOfPolicyWaits: the owner's word is not enough. The put waits in the
// journal, those who are asked see the very policy that they consent to, and the
// same put, and no other, goes on with their consent, after a restart too.
func TestChangeOfPolicyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, ownerAndOne)
		ctx := context.Background()
		_, err := p.change("new", PutOptions{})
		w := mustWait(t, err)
		if w.Have != 1 || w.Need != 2 || len(w.Missing) != 1 || !strings.HasPrefix(w.Missing[0], "1 more of (") || !slices.Equal(w.Words, key.Words(w.Request, 6)) || time.Until(w.Expires) > 72*time.Hour {
			t.Fatalf("%+v", w)
		}
		v := p.view(t, 1, p.a, w.Request)
		if v.Verb != share.VerbPolicy || !v.Approver || v.Mine || v.Name != "mail/imap" || !bytes.Equal(v.Change, policy.Owner().Encode()) {
			t.Fatalf("the approver sees %+v", v)
		}
		if v := p.view(t, 0, p.owner, w.Request); !v.Mine || v.State != "open" {
			t.Fatalf("the owner sees %+v", v)
		}
		if _, err := p.change("new", PutOptions{}); mustWait(t, err).Request != w.Request {
			t.Fatal("the same put asks anew")
		}
		if _, err := p.change("other", PutOptions{}); mustWait(t, err).Request == w.Request {
			t.Fatal("another value goes on with the same consent")
		}
		if i, err := p.nodes[0].store.Info(ctx, p.owner, "mail/imap"); err != nil || i.Gen != 1 {
			t.Fatalf("generation %d without consent, %v", i.Gen, err)
		}
		if err := p.nodes[1].store.Approve(ctx, p.a, w.Request, "by phone"); err != nil {
			t.Fatal(err)
		}
		p.nodes[0].stop()
		time.Sleep(time.Hour)
		p.nodes[0].start()
		time.Sleep(time.Minute)
		if i, err := p.nodes[0].store.Info(ctx, p.owner, "mail/imap"); err != nil || i.Gen != 1 {
			t.Fatalf("generation %d without the put, %v", i.Gen, err)
		}
		r, err := p.change("new", PutOptions{})
		if err != nil || !bytes.Equal(r.Policy, policy.Owner().Encode()) {
			t.Fatalf("with consent: %v", explain(err))
		}
		got, err := p.nodes[0].store.Recover(ctx, p.owner, "mail/imap", RecoverOptions{})
		if err != nil || string(got.Value) != "new" || got.Gen != r.Gen {
			t.Fatalf("%q %v", got.Value, explain(err))
		}
	})
}

// TestChangeOfPolicyMovesSeats: a seat that is new to the secret hears the words
// from the writer.
func TestChangeOfPolicyMovesSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 6)
		p := &people{fakeNet: f, owner: newPerson(), a: newPerson(), b: newPerson(), c: newPerson()}
		f.nodes[0].member.Persons = []key.PersonPublic{p.owner.Key.Public()}
		f.nodes[1].member.Persons = []key.PersonPublic{p.a.Key.Public()}
		at := func(from int) (out []key.NodeID) {
			for _, n := range f.nodes[from : from+3] {
				out = append(out, n.member.ID)
			}
			return out
		}
		r := mustPut(t, f.nodes[0].store, p.owner, "mail/imap", []byte("1"), PutOptions{N: 3, K: 2, Holders: at(0), Policy: ownerAndOne(p).Encode()})
		settle(t, f, p.owner, "mail/imap", r.Gen)
		o := PutOptions{N: 3, K: 2, Holders: at(3)}
		_, err := p.change("2", o)
		if err == nil {
			t.Fatal("stored without consent")
		}
		w := err
		var pend *PendingError
		if !errors.As(w, &pend) {
			t.Fatalf("%v", explain(err))
		}
		p.view(t, 1, p.a, pend.Request)
		if err := f.nodes[1].store.Approve(context.Background(), p.a, pend.Request, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := p.change("2", o); err != nil {
			t.Fatalf("with consent: %v", explain(err))
		}
	})
}

// TestChangeOfPolicyEnds: by a veto, by its maker, by time, or by another put.
func TestChangeOfPolicyEnds(t *testing.T) {
	long(t)
	delayed := func(p *people) *policy.Policy {
		return policy.All(ownerAndOne(p), policy.Delay(3600, p.c.Key.Public()))
	}
	pol := func(name string) func(*people) *policy.Policy {
		if name == "expired" {
			return ownerAndOne // three days instead of thirty
		}
		return delayed
	}
	for name, end := range map[string]func(*testing.T, *people, key.Hash){
		"veto": func(t *testing.T, p *people, r key.Hash) {
			p.view(t, 3, p.c, r)
			if err := p.nodes[3].store.Veto(context.Background(), p.c, r, "no"); err != nil {
				t.Fatal(err)
			}
			if _, err := p.change("new", PutOptions{}); !errors.Is(err, ErrVetoed) {
				t.Fatalf("after a veto: %v", explain(err))
			}
		},
		"withdrawn": func(t *testing.T, p *people, r key.Hash) {
			p.view(t, 0, p.owner, r)
			if err := p.nodes[1].store.Cancel(context.Background(), p.a, r); !errors.Is(err, ErrNoRequest) {
				t.Fatalf("somebody else withdraws it: %v", err)
			}
			if err := p.nodes[0].store.Cancel(context.Background(), p.owner, r); err != nil {
				t.Fatal(err)
			}
		},
		"expired": func(t *testing.T, p *people, _ key.Hash) { time.Sleep(73 * time.Hour) },
		"another put": func(t *testing.T, p *people, _ key.Hash) {
			mustPut(t, p.nodes[0].store, p.owner, "mail/imap", []byte("plain"), PutOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeople(t, pol(name))
				_, err := p.change("new", PutOptions{})
				w := mustWait(t, err)
				end(t, p, w.Request)
				time.Sleep(10 * time.Minute)
				if n := journaled(p.nodes[0]); n != 0 {
					t.Errorf("%d records are left in the journal", n)
				}
				_, err = p.change("new", PutOptions{})
				if again := mustWait(t, err); again.Request == w.Request {
					t.Error("the request goes on")
				}
			})
		})
	}
	t.Run("the delay", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeople(t, delayed)
			_, err := p.change("new", PutOptions{})
			w := mustWait(t, err)
			p.view(t, 1, p.a, w.Request)
			if err := p.nodes[1].store.Approve(context.Background(), p.a, w.Request, ""); err != nil {
				t.Fatal(err)
			}
			_, err = p.change("new", PutOptions{})
			if w := mustWait(t, err); w.Wait < 59*time.Minute || w.Wait > time.Hour || w.Have != 2 {
				t.Fatalf("%+v", w)
			}
			time.Sleep(time.Hour + time.Minute)
			if _, err := p.change("new", PutOptions{}); err != nil {
				t.Fatalf("after the delay: %v", explain(err))
			}
		})
	})
}

// TestPlanSaysWhoseConsent: a plan names who else has to agree.
func TestPlanSaysWhoseConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, ownerAndOne)
		said := func(pol *policy.Policy) string {
			r, err := p.nodes[0].store.Plan(context.Background(), p.owner, "mail/imap", 3, PutOptions{Policy: pol.Encode()})
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(r.Notes, "\n")
		}
		if s := said(policy.Owner()); !strings.Contains(s, "must consent: missing 1 more of (") {
			t.Error(s)
		}
		if s := said(ownerAndOne(p)); strings.Contains(s, "it changes") {
			t.Error(s)
		}
	})
}

// TestUpkeepStays: an update keeps how long a secret lives, how many generations
// stay and who repairs it, unless it is asked for something else.
func TestUpkeepStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		s, p, ctx := f.nodes[0].store, newPerson(), context.Background()
		put := func(o PutOptions) Info {
			mustPut(t, s, p, "a", []byte("v"), o)
			i, err := s.Info(ctx, p, "a")
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		check := func(i Info, keep int, repair string, life time.Duration) {
			t.Helper()
			got := time.Duration(0)
			if !i.Expires.IsZero() {
				got = i.Expires.Sub(i.Created)
			}
			if i.Keep != keep || i.Repair != repair || got != life {
				t.Errorf("keep %d, repair %s, life %v; want %d, %s, %v", i.Keep, i.Repair, got, keep, repair, life)
			}
		}
		check(put(PutOptions{}), 0, "owner", 0)
		check(put(PutOptions{Keep: new(2), TTL: new(time.Hour), Repair: new(uint8(share.RepairQuorum)), Description: "d"}), 2, "quorum", time.Hour)
		time.Sleep(time.Minute)
		check(put(PutOptions{Labels: map[string]string{"a": "b"}}), 2, "quorum", time.Hour)
		check(put(PutOptions{Keep: new(0), TTL: new(time.Duration), Repair: new(uint8(share.RepairOwner))}), 0, "owner", 0)
		if _, err := s.Put(ctx, p, "a", nil, PutOptions{Repair: new(uint8(9))}); !errors.Is(err, ErrInput) {
			t.Errorf("repair mode 9: %v", err)
		}
	})
}

// TestPolicyIsJudgedForItsOwner: the owner's signature counts once, by whatever
// name the policy asks for it; dealers and holders refuse what wants it twice.
func TestPolicyIsJudgedForItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		p := newPerson()
		twice := policy.All(policy.Owner(), policy.Key(p.Key.Public()))
		if err := twice.Check(); err != nil {
			t.Fatal(err)
		}
		_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("v"), PutOptions{Policy: twice.Encode()})
		if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "it wants one person's twice") {
			t.Errorf("the dealer: %v", err)
		}
	})
	w := newHWorld(t, 3)
	d := w.deal(t, hSpec{gen: 1, pol: policy.All(policy.Owner(), policy.Key(w.owner.Public()))})
	if r := w.fresh().prepare(w.facts(0), w.msg(d, 0)); r.outcome != custody.Refused || !strings.Contains(r.why, "it wants one person's twice") {
		t.Errorf("a holder: outcome %d, %q", r.outcome, r.why)
	}
}

// TestChangeIsProven: only the manifest that the payload names is shown to those
// who are asked, and only for a change of policy.
func TestChangeIsProven(t *testing.T) {
	w := newHWorld(t, 3)
	one, two := w.deal(t, hSpec{gen: 1, tag: "one"}), w.deal(t, hSpec{gen: 2, tag: "two"})
	s := &Store{cfg: Config{ID: w.net}}
	ask := func(verb uint8, payload *hDeal, ext []byte) *share.SignedManifest {
		r := share.Request{ID: w.id, Verb: verb, Payload: payload.Hash[:], Created: hNow, Expires: hNow + 60}
		r.Ext = map[uint64][]byte{extChange: ext}
		return s.changeOf(share.SignRequest(w.owner, w.net, r))
	}
	if m := ask(share.VerbPolicy, two, two.Bytes()); m == nil || m.Hash != two.Hash {
		t.Error("the right one is not shown")
	}
	broken := bytes.Clone(two.Bytes())
	broken[len(broken)-1] ^= 1
	for name, m := range map[string]*share.SignedManifest{
		"another": ask(share.VerbPolicy, two, one.Bytes()), "a broken one": ask(share.VerbPolicy, two, broken),
		"none": ask(share.VerbPolicy, two, nil), "for a recovery": ask(share.VerbRecover, two, two.Bytes()),
	} {
		if m != nil {
			t.Errorf("%s is shown", name)
		}
	}
}

// TestPolicyThatAsksForLess: a recovery that began under a policy that asks for
// others goes on under a new one that the owner's word satisfies.
func TestPolicyThatAsksForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, ownerAndOne)
		ctx := context.Background()
		_, err := p.nodes[4].store.Recover(ctx, p.owner, "mail/imap", RecoverOptions{})
		asked := mustWait(t, err)
		_, err = p.change("new", PutOptions{})
		w := mustWait(t, err)
		p.view(t, 1, p.a, w.Request)
		if err := p.nodes[1].store.Approve(ctx, p.a, w.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		if _, err := p.change("new", PutOptions{}); err != nil {
			t.Fatal(explain(err))
		}
		got, err := p.nodes[4].store.Continue(ctx, p.owner, asked.Request, 0)
		if err != nil || string(got.Value) != "new" || got.Request == asked.Request {
			t.Fatalf("%q %v", got.Value, explain(err))
		}
		if n := askedRecords(p.nodes[4]); n != 0 {
			t.Errorf("%d records of asking are left", n)
		}
	})
}
