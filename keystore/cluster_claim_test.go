package keystore

import (
	"context"
	"errors"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// consentedTomb is the body of a tombstone for generation 1 of the secret and a
// request of by for it.
func consentedTomb(t *testing.T, f *fakeNet, owner, by Person, name string) (body, request []byte) {
	t.Helper()
	h, err := f.up().secret(owner, name)
	if err != nil {
		t.Fatal(err)
	}
	body = key.Marshal(&share.Tombstone{ID: h.id, Gen: 1, Scope: share.ScopeAll, Time: unix(), Owner: h.owner, Salt: h.salt})
	r := share.SignRequest(by.Key, f.id, share.Request{ID: h.id, Verb: share.VerbDelete, Payload: body, Created: unix(), Expires: unix() + 600})
	return body, r.Object.Encode()
}

// A deletion by the policy is a deletion: holders that show it are not liars,
// and the name can be used again.
func TestDeletedByPolicy(t *testing.T) {
	for _, owner := range []bool{true, false} {
		bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
			by, other := p, newPerson()
			if !owner {
				by = other
			}
			pol := policy.Any(policy.Owner(), policy.Key(other.Key.Public())).Encode()
			mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{Policy: pol})
			settle(t, f, p, "a", 1)
			body, request := consentedTomb(t, f, p, by, "a")
			for _, n := range f.nodes {
				b, err := n.store.Answer(context.Background(), f.nodes[1].id, custody.VerbDelete, key.Marshal(&custody.Delete{Tombstone: body, Request: request}))
				var r custody.DeleteReply
				if err != nil || key.Unmarshal(b, &r) != nil || r.Outcome != custody.OK {
					t.Fatal(err, r.Outcome, r.Why)
				}
			}
			if _, err := f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
				t.Fatalf("by the owner %v: %v", owner, explain(err))
			}
			if r := mustPut(t, f.nodes[0].store, p, "a", []byte("again"), PutOptions{}); r.Gen < 2 {
				t.Fatalf("%+v", r)
			}
			mustGet(t, f.nodes[1].store, p, "a", []byte("again"))
		})
	}
}

// A tombstone that the policy does not authorise, or for which only holders
// could tell that a delay is over, hides nothing when f holders show it.
func TestTombstoneWithoutConsent(t *testing.T) {
	other := newPerson()
	for name, pol := range map[string]*policy.Policy{
		"no party": policy.Owner(),
		"a delay":  policy.Any(policy.Owner(), policy.All(policy.Key(other.Key.Public()), policy.Delay(3600))),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Policy: pol.Encode()})
				settle(t, f, p, "a", 1)
				body, request := consentedTomb(t, f, p, other, "a")
				f.nodes[4].lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
					st := custody.State{Tombstone: body, Consent: [][]byte{request}}
					switch verb {
					case custody.VerbLocate:
						return key.Marshal(&custody.LocateReply{Outcome: custody.OK, State: st}), nil
					case custody.VerbRecover:
						return key.Marshal(&custody.RecoverReply{Outcome: custody.Refused, State: st}), nil
					}
					return call()
				})
				for _, n := range f.nodes[:4] {
					mustGet(t, n.store, p, "a", []byte("v"))
					if i, err := n.store.Info(context.Background(), p, "a"); err != nil || i.Gen != 1 {
						t.Fatalf("%+v %v", i, explain(err))
					}
				}
			})
		})
	}
}
