package keystore

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// fullRequest is a request with everything that a record can hold.
func fullRequest(t rapid.TB) (*hWorld, *requestState) {
	w := newHWorld(t, 3)
	a, b, veto := hPerson(t, 11), hPerson(t, 12), hPerson(t, 13)
	judges := []*version{w.deal(t, hSpec{gen: 1, pol: rPolicy(a, b, veto)}).version}
	signed := share.SignRequest(a, w.net, share.Request{ID: w.id, Verb: share.VerbRecover, Created: hNow, Expires: hNow + 86400, Purpose: "test"})
	f := w.facts(0)
	f.ran = 77
	r := newRequestState(f, signed, signed.Object.Encode())
	for _, said := range []struct {
		by      key.PersonPrivate
		verdict uint8
	}{{b, share.VerdictApprove}, {veto, share.VerdictVeto}} {
		o := share.SignApproval(said.by, w.net, share.Approval{Subject: signed.Hash, Verdict: said.verdict, Expires: signed.Expires, Note: "why"})
		approval, err := share.OpenApproval(w.net, o.Encode(), hNow)
		if err != nil {
			t.Fatal(err)
		}
		r, _, _ = r.settle(f, judges)
		r, _ = r.hear(newWord(f, approval, o.Encode(), o.Hash(w.net)), judges)
	}
	r, _ = r.name([]custody.NameBox{{Node: w.nodes[1].ID(), Box: []byte("box")}}, true)
	r.starts = append(r.starts, delayStart{policy: key.Hash{1}, leaf: 5, at: 70})
	r.confirmed, r.released = true, true
	return w, r
}

// TestRequestRecord: a record is read as it was written, and only at its place
// and in its network.
func TestRequestRecord(t *testing.T) {
	w, r := fullRequest(t)
	b := r.record()
	at := requestPlace(r.ID, r.Hash)
	back, err := requestOf(w.net, at, b)
	if err != nil || !bytes.Equal(back.record(), b) || back.closed != custody.Vetoed || len(back.words) != 2 || back.words[1].hash != r.words[1].hash {
		t.Fatalf("%v\n%+v\n%+v", err, back, r)
	}
	other := at
	other.Sub = key.Hash{1}
	elsewhere := at
	elsewhere.ID = key.Hash{1}
	for name, err := range map[string]error{
		"another request's": second(requestOf(w.net, other, b)),
		"another secret's":  second(requestOf(w.net, elsewhere, b)),
		"another network's": second(requestOf(key.NetworkID{9}, at, b)),
		"cut":               second(requestOf(w.net, at, b[:len(b)-1])),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	mixed := r.clone()
	_, stranger := fullRequest(t)
	mixed.SignedRequest = share.SignRequest(hPerson(t, 12), w.net, stranger.Request)
	mixed.bytes = mixed.Object.Encode()
	if _, err := requestOf(w.net, requestPlace(mixed.ID, mixed.Hash), mixed.record()); err == nil {
		t.Error("words on another request are taken")
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzRequestRecord: whatever is in the store, it is refused or it is what it
// says.
func FuzzRequestRecord(f *testing.F) {
	w, r := fullRequest(f)
	f.Add(r.record())
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if back, err := requestOf(w.net, requestPlace(r.ID, r.Hash), b); err == nil && back.Hash != r.Hash {
			t.Fatal("it is another request")
		}
	})
}
