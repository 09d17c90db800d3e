package keystore

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// look is the asker looking from n2.
func (p *people) look(t *testing.T, request key.Hash) RequestView {
	t.Helper()
	v, err := p.nodes[1].store.Look(context.Background(), p.a, request)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLook: who asked sees each word as it comes and the delay as it runs, and
// nothing is released by looking.
func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		w := p.asks(t)
		v := p.look(t, w.Request)
		if v.Have != 1 || v.Need != 2 || v.Ready || v.Wait != 0 || len(v.Missing) == 0 || len(v.Approvals) != 0 || !v.Mine || v.State != "open" {
			t.Fatalf("%+v", v)
		}
		p.view(t, 2, p.b, w.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, "called him"); err != nil {
			t.Fatal(err)
		}
		v = p.look(t, w.Request)
		if v.Have != 2 || v.Wait < 59*time.Minute || v.Ready || len(v.Approvals) != 1 || v.Approvals[0].Note != "called him" {
			t.Fatalf("%+v", v)
		}
		list, err := p.nodes[1].store.Requests(ctx, p.a)
		if err != nil || len(list) != 1 || list[0].Have != 2 || list[0].Wait < 59*time.Minute {
			t.Fatalf("what was seen is not listed: %+v %v", list, err)
		}
		time.Sleep(61 * time.Minute)
		for range 3 {
			if v = p.look(t, w.Request); !v.Ready || v.Wait != 0 || v.State != "open" || len(v.Missing) != 0 {
				t.Fatalf("%+v", v)
			}
		}
		if v := p.view(t, 0, p.owner, w.Request); v.State != "open" {
			t.Fatalf("the owner was told of a release: %+v", v)
		}
		if _, err := p.nodes[2].store.Look(ctx, p.a, w.Request); !errors.Is(err, ErrNoRequest) {
			t.Fatalf("at another node: %v", err)
		}
		if _, err := p.nodes[1].store.Look(ctx, newPerson(), w.Request); !errors.Is(err, ErrNoRequest) {
			t.Fatalf("as another person: %v", err)
		}
		if got, err := p.again(1, p.a, w.Request); err != nil || string(got.Value) != "hunter2" || len(got.Approvals) != 1 || got.Approvals[0].Person != p.b.Key.Public() {
			t.Fatalf("%q %v", got.Value, explain(err))
		}
	})
}

// TestLookOfAVetoedAndAnExpiredOne: the end is told.
func TestLookOfAVetoedAndAnExpiredOne(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		w := p.asks(t)
		p.view(t, 0, p.owner, w.Request)
		if err := p.nodes[0].store.Deny(context.Background(), p.owner, w.Request, "no"); err != nil {
			t.Fatal(err)
		}
		if v := p.look(t, w.Request); v.State != "vetoed" || v.Ready || len(v.Approvals) != 1 {
			t.Fatalf("%+v", v)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		time.Sleep(share.RequestLife*time.Second + time.Hour)
		for i, who := range []Person{p.a, p.b} {
			if _, err := p.nodes[1+i].store.Look(context.Background(), who, w.Request); !errors.Is(err, ErrEnded) && !errors.Is(err, ErrNoRequest) {
				t.Fatalf("%d: %v", i, err)
			}
		}
	})
}

// TestLookReleasesNothing: a holder gives no row, no box and no word to the one
// who looks, whatever the request may have.
func TestLookReleasesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return policy.Any(policy.Owner(), policy.Key(p.a.Key.Public())) })
		for _, who := range []Person{p.owner, p.a} {
			r := ephemeralRequest(t, p, who)
			for _, look := range []bool{true, false} {
				reply := new(custody.RecoverReply)
				b, err := p.nodes[3].store.Answer(context.Background(), p.nodes[1].id, custody.VerbRecover, key.Marshal(&custody.Recover{Request: r, Payload: true, Look: look}))
				if err != nil || key.Unmarshal(b, reply) != nil {
					t.Fatal(err)
				}
				given := len(reply.Box) + len(reply.Release) + len(reply.Payload)
				if reply.Outcome != custody.OK || look != (given == 0) {
					t.Errorf("look %v: outcome %d, %d bytes (%s)", look, reply.Outcome, given, reply.Why)
				}
			}
		}
	})
}

// ephemeralRequest is a request of the person with a key of its own.
func ephemeralRequest(t *testing.T, p *people, who Person) []byte {
	t.Helper()
	g := &reading{s: p.nodes[1].store, p: who, h: &secret{owner: who.Key.Public(), id: p.id}, use: p.manifest(t)}
	if err := g.newRequest(context.Background()); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(g.request.Object.Encode())
}

// manifest is the one that is committed.
func (p *people) manifest(t *testing.T) *share.SignedManifest {
	t.Helper()
	s, err := p.nodes[3].store.cust.visible(context.Background(), p.id, p.owner.Key.Public())
	if err != nil || s == nil || s.current() == nil {
		t.Fatalf("nothing is committed: %v", err)
	}
	return s.current().SignedManifest
}
