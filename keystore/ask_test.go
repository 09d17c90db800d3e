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
	"keymesh/keystore/policy"
)

// people are four persons on nodes of their own; the secret's policy is "the
// owner, or 2 of 3 approvers after 1 h, veto by the owner".
type people struct {
	*fakeNet
	owner, a, b, c Person
	id             key.Hash
}

func newPeople(t *testing.T, pol func(p *people) *policy.Policy) *people {
	t.Helper()
	p := &people{fakeNet: newFakeNet(t, 5), owner: newPerson(), a: newPerson(), b: newPerson(), c: newPerson()}
	for i, who := range []Person{p.owner, p.a, p.b, p.c} {
		p.nodes[i].member.Persons = []key.PersonPublic{who.Key.Public()}
	}
	r := mustPut(t, p.nodes[0].store, p.owner, "mail/imap", []byte("hunter2"), PutOptions{Policy: pol(p).Encode()})
	p.id = r.ID
	settle(t, p.fakeNet, p.owner, "mail/imap", r.Gen)
	return p
}

func (p *people) twoOfThree() *policy.Policy {
	return policy.KOf(2, policy.Key(p.a.Key.Public()), policy.Key(p.b.Key.Public()), policy.Key(p.c.Key.Public()))
}

func twoAfterAnHour(p *people) *policy.Policy {
	return policy.Any(policy.Owner(), policy.All(p.twoOfThree(), policy.Delay(3600, policy.OwnerKey())))
}

// asks is approver a asking from n2 by the secret's id.
func (p *people) asks(t *testing.T) *PendingError {
	t.Helper()
	_, err := p.nodes[1].store.Recover(context.Background(), p.a, "", RecoverOptions{ID: p.id, Reason: "b is ill"})
	return mustWait(t, err)
}

func mustWait(t *testing.T, err error) *PendingError {
	t.Helper()
	var pend *PendingError
	if !errors.As(err, &pend) {
		t.Fatalf("it does not wait: %v", explain(err))
	}
	return pend
}

func (p *people) again(i int, who Person, request key.Hash) (Recovered, error) {
	return p.nodes[i].store.Continue(context.Background(), who, request, 0)
}

// view waits until the person sees the request at the node.
func (p *people) view(t *testing.T, i int, who Person, request key.Hash) RequestView {
	t.Helper()
	for range 60 {
		list, err := p.nodes[i].store.Requests(context.Background(), who)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			if v.Hash == request {
				return v
			}
		}
		time.Sleep(time.Second)
	}
	t.Fatal("nobody was told")
	return RequestView{}
}

func TestTwoOfThreeAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		w := p.asks(t)
		if w.Have != 1 || w.Need != 2 || w.Wait != 0 || len(w.Missing) == 0 || len(w.Words) != 6 || !slices.Equal(w.Words, key.Words(w.Request, 6)) {
			t.Fatalf("%+v", w)
		}
		if again := p.asks(t); again.Request != w.Request {
			t.Fatal("asking again is another request")
		}
		v := p.view(t, 2, p.b, w.Request)
		if !v.Approver || v.Veto || v.Mine || v.Reason != "b is ill" || v.Requester != p.a.Key.Public() || v.ID != p.id || v.State != "open" || v.Name != "" {
			t.Fatalf("%+v", v)
		}
		if v := p.view(t, 0, p.owner, w.Request); !v.Veto || v.Approver != true {
			t.Fatalf("%+v", v)
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, "called him"); err != nil {
			t.Fatal(err)
		}
		w2 := mustWait(t, errOf(p.again(1, p.a, w.Request)))
		if w2.Have != 2 || w2.Need != 2 || w2.Wait < 59*time.Minute || w2.Wait > time.Hour {
			t.Fatalf("%+v", w2)
		}
		p.nodes[1].stop() // the requester's node is restarted in the middle
		time.Sleep(30 * time.Minute)
		p.nodes[1].start()
		time.Sleep(time.Second)
		if w3 := mustWait(t, errOf(p.again(1, p.a, w.Request))); w3.Wait > 31*time.Minute {
			t.Fatalf("%+v", w3)
		}
		r, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, time.Hour)
		if err != nil || !bytes.Equal(r.Value, []byte("hunter2")) || r.Request != w.Request {
			t.Fatalf("%q %v", r.Value, explain(err))
		}
		rv, err := VerifyReceipt(r.Receipt)
		if err != nil || rv.Request != w.Request || len(rv.Approvals) != 1 || rv.Approvals[0].Person != p.b.Key.Public() || len(rv.Releases) != 3 || rv.Waits != 3600 || rv.Network != p.fakeNet.id {
			t.Fatalf("%+v %v", rv, err)
		}
		if _, err := p.again(1, p.a, w.Request); !errors.Is(err, ErrNoRequest) {
			t.Fatalf("its key outlives it: %v", err)
		}
		if n := askedRecords(p.nodes[1]); n != 0 {
			t.Fatalf("%d records of asking are left", n)
		}
	})
}

func errOf(_ Recovered, err error) error { return err }

func askedRecords(n *fakeNode) (count int) {
	for pl := range n.shelf.dump(share.BucketRequest) {
		count += btoi(pl.X == placeAsked)
	}
	return count
}

func TestVetoEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		p.view(t, 0, p.owner, w.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(err)
		}
		if err := p.nodes[2].store.Veto(ctx, p.b, w.Request, ""); !errors.Is(err, ErrInput) {
			t.Fatalf("an approver vetoed: %v", err)
		}
		if err := p.nodes[0].store.Deny(ctx, p.owner, w.Request, "it is a thief"); err != nil {
			t.Fatal(explain(err))
		}
		if v := p.view(t, 0, p.owner, w.Request); !v.Vetoed || v.State != "vetoed" {
			t.Fatalf("%+v", v)
		}
		_, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, 3*time.Hour)
		if !errors.Is(err, ErrVetoed) || !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "it is a thief") {
			t.Fatalf("%v", explain(err))
		}
		if err := p.nodes[3].store.Approve(ctx, p.c, w.Request, ""); err == nil {
			p.view(t, 3, p.c, w.Request)
		}
		time.Sleep(2 * time.Hour)
		if _, err := p.again(1, p.a, w.Request); !errors.Is(err, ErrNoRequest) {
			t.Fatalf("%v", err)
		}
	})
}

func TestDenialTakesBackAnApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return policy.Any(policy.Owner(), p.twoOfThree()) })
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		p.view(t, 3, p.c, w.Request)
		for _, word := range []func(context.Context, Person, key.Hash, string) error{p.nodes[2].store.Deny, p.nodes[2].store.Approve} {
			if err := word(ctx, p.b, w.Request, ""); err != nil {
				t.Fatal(explain(err))
			}
		}
		if got := mustWait(t, errOf(p.again(1, p.a, w.Request))); got.Have != 1 {
			t.Fatalf("a denied approval counts: %+v", got)
		}
		if err := p.nodes[3].store.Approve(ctx, p.c, w.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		r, err := p.again(1, p.a, w.Request)
		if err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("%v", explain(err))
		}
		if _, err := VerifyReceipt(r.Receipt); err != nil {
			t.Fatal(err)
		}
	})
}

// TestWaitSeesApprovals: a recovery that waits returns when the last word comes.
func TestWaitSeesApprovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return policy.All(policy.Owner(), p.twoOfThree()) })
		ctx := context.Background()
		type got struct {
			r   Recovered
			err error
		}
		done := make(chan got, 1)
		go func() {
			r, err := p.nodes[0].store.Recover(ctx, p.owner, "mail/imap", RecoverOptions{Wait: time.Hour})
			done <- got{r, err}
		}()
		time.Sleep(30 * time.Second)
		list, err := p.nodes[0].store.Requests(ctx, p.owner)
		if err != nil || len(list) != 1 || !list[0].Mine || list[0].Name != "mail/imap" {
			t.Fatalf("%+v %v", list, err)
		}
		h := list[0].Hash
		if v := p.view(t, 1, p.a, h); v.Name != "mail/imap" || v.Mine {
			t.Fatalf("the name was not proven to an approver: %+v", v)
		}
		for i, who := range []Person{p.a, p.b} {
			if len(done) != 0 {
				t.Fatal("released too early")
			}
			p.view(t, i+1, who, h)
			if err := p.nodes[i+1].store.Approve(ctx, who, h, ""); err != nil {
				t.Fatal(explain(err))
			}
		}
		r := <-done
		if r.err != nil || string(r.r.Value) != "hunter2" || r.r.Name != "mail/imap" {
			t.Fatalf("%v", explain(r.err))
		}
		if v, err := VerifyReceipt(r.r.Receipt); err != nil || len(v.Approvals) != 2 {
			t.Fatalf("%+v %v", v, err)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		w := p.asks(t)
		if err := p.nodes[1].store.Cancel(ctx, p.b, w.Request); !errors.Is(err, ErrNoRequest) {
			t.Fatalf("somebody else cancelled it: %v", err)
		}
		p.view(t, 2, p.b, w.Request)
		if err := p.nodes[1].store.Cancel(ctx, p.a, w.Request); err != nil {
			t.Fatal(err)
		}
		if askedRecords(p.nodes[1]) != 0 {
			t.Fatal("its key is still on the disk")
		}
		time.Sleep(time.Minute)
		if v := p.view(t, 2, p.b, w.Request); v.State != "withdrawn" {
			t.Fatalf("%+v", v)
		}
		if w2 := p.asks(t); w2.Request == w.Request {
			t.Fatal("what was cancelled goes on")
		}
	})
}

// off is a long time without any node.
func (p *people) off(d time.Duration) {
	for _, n := range p.nodes {
		n.stop()
	}
	time.Sleep(d)
	for _, n := range p.nodes {
		n.start()
	}
	time.Sleep(time.Second)
}

func TestRequestsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		p.off(73 * time.Hour)
		if _, err := p.again(1, p.a, w.Request); !errors.Is(err, ErrEnded) && !errors.Is(err, ErrNoRequest) {
			t.Fatalf("%v", err)
		}
		if err := p.nodes[2].store.Approve(context.Background(), p.b, w.Request, ""); !errors.Is(err, ErrEnded) {
			t.Fatalf("%v", err)
		}
		p.off(25 * time.Hour)
		for pl := range p.nodes[2].shelf.dump(share.BucketRequest) {
			if pl.X == placeInbox {
				t.Fatal("what has expired is kept")
			}
		}
	})
}

// TestApproverIsAway: a word that some seats did not hear comes to them later,
// across a restart of the approver's node.
func TestApproverIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		for i, n := range p.nodes {
			if i != 2 {
				p.separate(p.nodes[2], n)
			}
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil && !errors.As(err, new(*QuorumError)) {
			t.Fatal(err)
		}
		p.nodes[2].stop()
		p.heal()
		if got := mustWait(t, errOf(p.again(1, p.a, w.Request))); got.Have != 1 {
			t.Fatalf("%+v", got)
		}
		p.nodes[2].start()
		time.Sleep(2 * time.Minute)
		if r, err := p.again(1, p.a, w.Request); err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("%v", explain(err))
		}
	})
}

// TestWordsAreCarried: what one seat was told and cannot pass on goes along with
// the next asking.
func TestWordsAreCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		alone := p.nodes[4] // hears from the approver and the one who asks only
		for i, n := range p.nodes[:4] {
			if i != 2 {
				p.separate(p.nodes[2], n)
			}
			if i != 1 && i != 2 {
				p.separate(alone, n)
			}
		}
		p.nodes[2].lies(func(context.Context, key.NodeID, uint64, []byte, func() ([]byte, error)) ([]byte, error) {
			return nil, errFakeLink // its own seat passes nothing on
		})
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		p.nodes[2].stop()
		var pend *PendingError
		r, err := p.again(1, p.a, w.Request)
		if errors.As(err, &pend) {
			r, err = p.again(1, p.a, w.Request)
		}
		if err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("%v", explain(err))
		}
	})
}

// TestTooManyRequests: the seventh request of one person for one secret is
// denied with the reason, and the six go on.
func TestTooManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		ctx := context.Background()
		first := p.asks(t)
		for i := range maxUnderWay {
			_, err := p.nodes[1].store.Recover(ctx, p.a, "", RecoverOptions{ID: p.id, Reason: strings.Repeat("x", i+1)})
			if i < maxUnderWay-1 {
				mustWait(t, err)
			} else if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "under way") {
				t.Fatalf("%v", explain(err))
			}
		}
		p.view(t, 2, p.b, first.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, first.Request, ""); err != nil {
			t.Fatal(explain(err))
		}
		if r, err := p.again(1, p.a, first.Request); err != nil || string(r.Value) != "hunter2" {
			t.Fatalf("%v", explain(err))
		}
	})
}

// TestVetoThatReachesFew: a veto that too few seats have heard says so, and
// still comes to all.
func TestVetoThatReachesFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		p.view(t, 0, p.owner, w.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(err)
		}
		for _, n := range p.nodes[1:] {
			p.separate(p.nodes[0], n)
		}
		var q *QuorumError
		err := p.nodes[0].store.Veto(ctx, p.owner, w.Request, "")
		if !errors.As(err, &q) || q.Op != "veto" || q.Have != 1 || q.Need != 3 || names(q.Seats, "unreachable") != "n2 n3 n4 n5" {
			t.Fatalf("%v", explain(err))
		}
		p.heal()
		time.Sleep(30 * time.Minute)
		if _, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, 2*time.Hour); !errors.Is(err, ErrVetoed) {
			t.Fatalf("%v", explain(err))
		}
	})
}
