package keystore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// forged is a secret of an owner's making that names persons and seats as the
// owner likes, as every member can.
func forged(t *testing.T, net key.NetworkID, owner Person, name string, pol *policy.Policy, seats ...key.NodeID) *share.SignedManifest {
	t.Helper()
	index := share.IndexKey(owner.Key, net)
	m := share.Manifest{Owner: owner.Key.Public(), Salt: share.Salt(share.Tag(&index, name), name), Gen: 1, Suite: share.SuiteShamir, K: 2, W: 2, Length: 272, Policy: pol.Encode()}
	m.ID = share.ID(m.Owner, m.Salt)
	for i, id := range seats {
		m.Seats = append(m.Seats, share.Seat{X: uint8(i + 1), Node: id, C: key.Hash{1}})
	}
	m.KC, m.Payload = key.Hash{1}, key.Hash{1}
	out, err := share.SignManifest(owner.Key, net, m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func requestOn(net key.NetworkID, by Person, m *share.SignedManifest, change func(*share.Request)) *share.SignedRequest {
	now := unix()
	r := share.Request{ID: m.ID, Ephemeral: make([]byte, seal.PublicSize), Verb: share.VerbRecover, Created: now, Expires: now + 3600}
	if change != nil {
		change(&r)
	}
	return share.SignRequest(by.Key, net, r)
}

// TestInboxRefuses: nothing is shown to a person that is not proven.
func TestInboxRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 4)
		owner, me, stranger := newPerson(), newPerson(), newPerson()
		f.nodes[0].member.Persons = []key.PersonPublic{me.Key.Public()}
		pol := policy.All(policy.Owner(), policy.Key(me.Key.Public()))
		seats := []key.NodeID{f.nodes[1].id, f.nodes[2].id, f.nodes[3].id}
		m := forged(t, f.id, owner, "x", pol, seats...)
		other := forged(t, f.id, owner, "y", pol, seats...)
		without := forged(t, f.id, owner, "x", policy.All(policy.Owner(), policy.Key(stranger.Key.Public())), seats...)
		good := requestOn(f.id, owner, m, nil)
		tell := func(from int, n custody.Notify) uint8 {
			b, err := f.nodes[0].store.Answer(context.Background(), f.nodes[from].id, custody.VerbNotify, key.Marshal(&n))
			var reply custody.NotifyReply
			if err != nil || key.Unmarshal(b, &reply) != nil {
				t.Fatal(err)
			}
			return reply.Outcome
		}
		note := func(r *share.SignedRequest, m *share.SignedManifest) custody.Notify {
			return custody.Notify{Request: r.Object.Encode(), Manifest: m.Bytes(), Stage: custody.StageAsked}
		}
		badSig := good.Object
		badSig.Sig = append([]byte{1}, make([]byte, key.SigSize-1)...)
		for name, n := range map[string]custody.Notify{
			"nothing":               {},
			"no signature":          {Request: badSig.Encode(), Manifest: m.Bytes()},
			"by no party":           note(requestOn(f.id, stranger, m, nil), m),
			"on another secret":     note(good, other),
			"of no concern":         note(requestOn(f.id, owner, without, nil), without),
			"of another network":    note(requestOn(key.NetworkID{9}, owner, m, nil), m),
			"expired":               note(requestOn(f.id, owner, m, func(r *share.Request) { r.Created -= 9000; r.Expires -= 9000 }), m),
			"not yet":               note(requestOn(f.id, owner, m, func(r *share.Request) { r.Created += 9000; r.Expires += 9000 }), m),
			"a rehearsal":           note(requestOn(f.id, owner, m, func(r *share.Request) { r.Verb = share.VerbRehearse }), m),
			"a manifest not signed": {Request: good.Object.Encode(), Manifest: good.Object.Encode()},
		} {
			if got := tell(1, n); got != custody.Refused {
				t.Errorf("%s: %d", name, got)
			}
		}
		if got := tell(0, note(good, m)); got != custody.Refused {
			t.Errorf("from a node without a seat: %d", got)
		}
		list, err := f.nodes[0].store.Requests(context.Background(), me)
		if err != nil || len(list) != 0 || f.nodes[0].shelf.count(share.BucketRequest) != 0 {
			t.Fatalf("%+v %v", list, err)
		}
		// Words that are another's, or of strangers, and a name that is not the
		// secret's, are not shown with a request that is good.
		n := note(good, m)
		for _, w := range []struct {
			by      Person
			subject key.Hash
			net     key.NetworkID
		}{{me, key.Hash{3}, f.id}, {stranger, good.Hash, f.id}, {me, good.Hash, key.NetworkID{9}}} {
			n.Words = append(n.Words, share.SignApproval(w.by.Key, w.net, share.Approval{Subject: w.subject, Verdict: share.VerdictApprove, Expires: good.Expires}).Encode())
		}
		n.Name, _ = seal.To(f.nodes[0].member.SealingKey, nameInfo(f.nodes[0].id, good.Hash), key.Marshal(&custody.Name{Tag: key.Hash{1}, Name: "bank"}))
		if got := tell(1, n); got != custody.OK {
			t.Fatalf("%d", got)
		}
		list, err = f.nodes[0].store.Requests(context.Background(), me)
		if err != nil || len(list) != 1 || len(list[0].Approvals) != 0 || list[0].Name != "" || list[0].Have != 1 {
			t.Fatalf("%+v %v", list, err)
		}
		// The true name is proven; a box for another request is not opened.
		index := share.IndexKey(owner.Key, f.id)
		name := key.Marshal(&custody.Name{Tag: share.Tag(&index, "x"), Name: "x"})
		n.Name, _ = seal.To(f.nodes[0].member.SealingKey, nameInfo(f.nodes[0].id, key.Hash{5}), name)
		tell(2, n)
		if list, _ := f.nodes[0].store.Requests(context.Background(), me); list[0].Name != "" {
			t.Fatal("a box of another request was opened")
		}
		n.Name, _ = seal.To(f.nodes[0].member.SealingKey, nameInfo(f.nodes[0].id, good.Hash), name)
		tell(2, n)
		f.nodes[0].stop()
		f.nodes[0].start()
		time.Sleep(time.Second)
		if list, _ := f.nodes[0].store.Requests(context.Background(), me); len(list) != 1 || list[0].Name != "x" {
			t.Fatalf("%+v", list)
		}
		if list, _ := f.nodes[0].store.Requests(context.Background(), stranger); len(list) != 0 {
			t.Fatal("shown to somebody else")
		}
	})
}

// TestInboxFlood: one owner's requests do not fill the inbox of a person they
// name, and never crowd out those on the person's own secrets.
func TestInboxFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 4)
		me, friend := newPerson(), newPerson()
		f.nodes[0].member.Persons = []key.PersonPublic{me.Key.Public()}
		seats := []key.NodeID{f.nodes[1].id, f.nodes[2].id, f.nodes[3].id}
		tell := func(owner, by Person, m *share.SignedManifest, i byte) uint8 {
			r := requestOn(f.id, by, m, func(r *share.Request) { r.Nonce[0] = i })
			n := custody.Notify{Request: r.Object.Encode(), Manifest: m.Bytes(), Stage: custody.StageAsked}
			b, err := f.nodes[0].store.Answer(context.Background(), f.nodes[1].id, custody.VerbNotify, key.Marshal(&n))
			var reply custody.NotifyReply
			if err != nil || key.Unmarshal(b, &reply) != nil {
				t.Fatal(err)
			}
			return reply.Outcome
		}
		pol := policy.All(policy.Owner(), policy.Key(me.Key.Public()))
		for o := range 10 {
			owner := newPerson()
			m := forged(t, f.id, owner, "x", pol, seats...)
			kept := 0
			for i := range byte(maxToldOwner + 3) {
				kept += btoi(tell(owner, owner, m, i) == custody.OK)
			}
			if want := min(maxToldOwner, max(0, maxToldOperator-o*maxToldOwner)); kept != want {
				t.Fatalf("owner %d: %d are kept instead of %d", o, kept, want)
			}
		}
		mine := forged(t, f.id, me, "mine", policy.Any(policy.Owner(), policy.All(policy.Key(friend.Key.Public()), policy.Delay(60, policy.OwnerKey()))), seats...)
		if got := tell(me, friend, mine, 0); got != custody.OK {
			t.Fatalf("the owner is not told: %d", got)
		}
	})
}

// TestWordsOfOthers: who is not named says nothing, and nobody speaks twice.
func TestWordsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return p.twoOfThree() })
		ctx := context.Background()
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		for who, want := range map[*Person]error{{Key: key.GeneratePerson()}: ErrNoRequest, {}: ErrInput, &p.a: ErrInput} {
			if err := p.nodes[2].store.Approve(ctx, *who, w.Request, ""); !errors.Is(err, want) {
				t.Errorf("%v instead of %v", err, want)
			}
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, key.Hash{1}, ""); !errors.Is(err, ErrNoRequest) {
			t.Errorf("%v", err)
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, string(make([]byte, share.MaxNote+1))); !errors.Is(err, ErrInput) {
			t.Errorf("%v", err)
		}
		// The owner is told and has no word here: nothing names the owner.
		p.view(t, 0, p.owner, w.Request)
		if err := p.nodes[0].store.Approve(ctx, p.owner, w.Request, ""); !errors.Is(err, ErrInput) {
			t.Errorf("%v", err)
		}
		for range 2 {
			if _, err := p.nodes[2].store.Continue(ctx, p.b, w.Request, 0); !errors.Is(err, ErrNoRequest) {
				t.Fatalf("an approver went on with another's request: %v", err)
			}
		}
	})
}
