package keystore

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/policy"
)

// repack changes what is in a receipt.
func repack(t *testing.T, b []byte, change func(*share.BundleBody)) []byte {
	t.Helper()
	body := new(share.BundleBody)
	if err := key.Unmarshal(b, body); err != nil {
		t.Fatal(err)
	}
	change(body)
	return key.Marshal(body)
}

// TestReceiptNeedsThePolicy: signatures that verify are not enough.
func TestReceiptNeedsThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, func(p *people) *policy.Policy { return policy.Any(policy.Owner(), p.twoOfThree()) })
		ctx := context.Background()
		r := mustGet(t, p.nodes[0].store, p.owner, "mail/imap", []byte("hunter2"))
		v, err := VerifyReceipt(r.Receipt)
		if err != nil || v.Requester != p.owner.Key.Public() || v.Manifest != r.Manifest || v.ID != p.id || len(v.Releases) != 3 || v.Waits != 0 {
			t.Fatalf("%+v %v", v, err)
		}
		w := p.asks(t)
		p.view(t, 2, p.b, w.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, "yes"); err != nil {
			t.Fatal(err)
		}
		got, err := p.again(1, p.a, w.Request)
		if err != nil {
			t.Fatal(explain(err))
		}
		if v, err := VerifyReceipt(got.Receipt); err != nil || len(v.Approvals) != 1 || v.Approvals[0].Note != "yes" || v.Reason != "b is ill" {
			t.Fatalf("%+v %v", v, err)
		}
		request, err := share.ReadRequest(p.fakeNet.id, askedIn(t, got.Receipt))
		if err != nil {
			t.Fatal(err)
		}
		word := func(by Person) []byte {
			return share.SignApproval(by.Key, p.fakeNet.id, share.Approval{Subject: request.Hash, Verdict: share.VerdictApprove, Expires: request.Expires}).Encode()
		}
		for name, change := range map[string]func(*share.BundleBody){
			"no approval":                    func(b *share.BundleBody) { b.Approvals = nil },
			"the requester's own":            func(b *share.BundleBody) { b.Approvals = [][]byte{word(p.a)} },
			"a stranger's":                   func(b *share.BundleBody) { b.Approvals = [][]byte{word(newPerson())} },
			"one of another person's policy": func(b *share.BundleBody) { b.Approvals = [][]byte{word(Person{Key: p.owner.Key})}; b.Network[0]++ },
		} {
			if _, err := VerifyReceipt(repack(t, got.Receipt, change)); !errors.Is(err, share.ErrBundle) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for i := range got.Receipt {
			c := bytes.Clone(got.Receipt)
			c[i] ^= 1 << (i % 8)
			if i%5 != 0 {
				continue // every byte is changed in the tests of package share
			}
			if _, err := VerifyReceipt(c); !errors.Is(err, share.ErrBundle) {
				t.Fatalf("byte %d changed: %v", i, err)
			}
		}
	})
}

// askedIn is the request in a receipt.
func askedIn(t *testing.T, b []byte) (out []byte) {
	repack(t, b, func(b *share.BundleBody) { out = b.Request })
	return out
}

func FuzzVerifyReceipt(f *testing.F) {
	f.Add([]byte{})
	f.Add(key.Marshal(&share.BundleBody{}))
	f.Fuzz(func(t *testing.T, in []byte) {
		if v, err := VerifyReceipt(in); err == nil && v.Request.IsZero() {
			t.Fatal("a receipt of nothing")
		}
	})
}
