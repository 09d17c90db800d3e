package share

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"keymesh/crypto/key"
)

// recovery is what a receipt is made of in the tests: the approver asks, the
// owner and a third person approve, three of five seats release.
type recovery struct {
	m                   *SignedManifest
	r                   *SignedRequest
	approvals, releases [][]byte
}

func newRecovery(t testing.TB) recovery {
	t.Helper()
	out := recovery{m: plain(1).sign(t), r: SignRequest(approver(), testNet, fixedRequest())}
	for _, p := range []key.PersonPrivate{owner(), person(0x03)} {
		out.approvals = append(out.approvals, out.approval(p, out.r.Hash, VerdictApprove))
	}
	for _, s := range []at{{2, 1}, {3, 2}, {5, 4}} {
		out.releases = append(out.releases, out.release(s, nil))
	}
	return out
}

func (v recovery) approval(p key.PersonPrivate, subject key.Hash, verdict uint8) []byte {
	return SignApproval(p, testNet, Approval{Subject: subject, Verdict: verdict, Expires: v.r.Expires, Note: "grüße"}).Encode()
}

func (v recovery) release(s at, change func(*Release)) []byte {
	r := Release{Request: v.r.Hash, Manifest: v.m.Hash, X: s.x, Audit: 1<<32 + uint64(s.x)}
	if change != nil {
		change(&r)
	}
	return SignRelease(node(s.i), testNet, r).Encode()
}

func (v recovery) seal(t testing.TB) []byte {
	t.Helper()
	b := PackBundle(testNet, v.m, v.r, v.approvals, v.releases)
	if _, err := OpenBundle(testNet, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// raw is the receipt with other parts.
func (v recovery) raw(change func(*BundleBody)) []byte {
	b := PackBundle(testNet, v.m, v.r, v.approvals, v.releases)
	body := new(BundleBody)
	if err := key.Unmarshal(b, body); err != nil {
		panic(err)
	}
	change(body)
	return key.Marshal(body)
}

func TestBundle(t *testing.T) {
	v := newRecovery(t)
	b := v.seal(t)
	slices.Reverse(v.approvals)
	slices.Reverse(v.releases)
	if !bytes.Equal(v.seal(t), b) {
		t.Error("the order in which things came is in the receipt")
	}
	got, err := OpenBundle(testNet, b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Request.Hash != v.r.Hash || got.Manifest.Hash != v.m.Hash || len(got.Approvals) != 2 || len(got.Releases) != 3 || got.Releases[1].Audit != 1<<32+3 {
		t.Fatalf("%+v", got)
	}
	if net, err := BundleNetwork(b); err != nil || net != testNet {
		t.Error(net, err)
	}
}

// TestBundleEveryByteCounts: with any bit of any byte changed, cut short, or
// with more behind it, it is refused.
func TestBundleEveryByteCounts(t *testing.T) {
	b := newRecovery(t).seal(t)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1 << (i % 8)
		if net, err := BundleNetwork(c); err == nil { // also as of the network that it now names
			if _, err := OpenBundle(net, c); !errors.Is(err, ErrBundle) {
				t.Fatalf("byte %d of %d changed: %v", i, len(b), err)
			}
		}
		if _, err := OpenBundle(testNet, c); !errors.Is(err, ErrBundle) {
			t.Fatalf("byte %d of %d changed: %v", i, len(b), err)
		}
		if i%7 == 0 {
			if _, err := OpenBundle(testNet, b[:i]); err == nil {
				t.Fatalf("the first %d bytes are a receipt", i)
			}
		}
	}
	if _, err := OpenBundle(testNet, append(bytes.Clone(b), 0)); err == nil {
		t.Fatal("a byte behind it is passed over")
	}
}

func TestBundleRefuses(t *testing.T) {
	v := newRecovery(t)
	other := fixedRequest()
	other.Nonce[0]++
	otherRequest := SignRequest(approver(), testNet, other)
	ofGen := fixedRequest()
	ofGen.Gen = 2
	ofHash := fixedRequest()
	ofHash.Manifest = fill(0x11)
	ofVerb := fixedRequest()
	ofVerb.Verb = VerbRehearse
	ofID := fixedRequest()
	ofID.ID = fill(0x12)
	later := plain(2)
	foreign := key.NetworkID(fill(0x78))
	for name, change := range map[string]func(*BundleBody){
		"another request":           func(b *BundleBody) { b.Request = otherRequest.Object.Encode() },
		"a request of a generation": func(b *BundleBody) { b.Request = SignRequest(approver(), testNet, ofGen).Object.Encode() },
		"a request of a manifest":   func(b *BundleBody) { b.Request = SignRequest(approver(), testNet, ofHash).Object.Encode() },
		"a rehearsal":               func(b *BundleBody) { b.Request = SignRequest(approver(), testNet, ofVerb).Object.Encode() },
		"another secret":            func(b *BundleBody) { b.Request = SignRequest(approver(), testNet, ofID).Object.Encode() },
		"another generation":        func(b *BundleBody) { b.Manifest = later.sign(t).Bytes() },
		"another network":           func(b *BundleBody) { b.Network = foreign },
		"no network":                func(b *BundleBody) { b.Network = key.NetworkID{} },
		"a release too few":         func(b *BundleBody) { b.Releases = b.Releases[:2] },
		"a release too many":        func(b *BundleBody) { b.Releases = append(b.Releases, v.release(at{9, 5}, nil)) },
		"a fourth seat":             func(b *BundleBody) { b.Releases = slices.Insert(b.Releases, 0, v.release(at{1, 0}, nil)) },
		"a release twice":           func(b *BundleBody) { b.Releases[2] = b.Releases[1] },
		"releases out of order":     func(b *BundleBody) { slices.Reverse(b.Releases) },
		"a node without a seat":     func(b *BundleBody) { b.Releases[2] = v.release(at{9, 5}, nil) },
		"another's seat":            func(b *BundleBody) { b.Releases[2] = v.release(at{4, 4}, nil) },
		"two epochs":                func(b *BundleBody) { b.Releases[2] = v.release(at{5, 4}, func(r *Release) { r.Epoch = 1 }) },
		"a release to another": func(b *BundleBody) {
			b.Releases[2] = v.release(at{5, 4}, func(r *Release) { r.Request = otherRequest.Hash })
		},
		"a release of another": func(b *BundleBody) {
			b.Releases[2] = v.release(at{5, 4}, func(r *Release) { r.Manifest = fill(0x13) })
		},
		"an approval twice":      func(b *BundleBody) { b.Approvals[1] = b.Approvals[0] },
		"approvals out of order": func(b *BundleBody) { slices.Reverse(b.Approvals) },
		"an approval of another": func(b *BundleBody) { b.Approvals[0] = v.approval(owner(), otherRequest.Hash, VerdictApprove) },
		"a veto":                 func(b *BundleBody) { b.Approvals[0] = v.approval(owner(), v.r.Hash, VerdictVeto) },
		"a release for a word":   func(b *BundleBody) { b.Approvals[0] = b.Releases[0] },
		"a word for a release":   func(b *BundleBody) { b.Releases[0] = b.Approvals[0] },
		"something on top":       func(b *BundleBody) { b.Ext = map[uint64][]byte{7: {1}} },
		"too much":               func(b *BundleBody) { b.Approvals = append(b.Approvals, make([]byte, MaxBundle)) },
		"nothing":                func(b *BundleBody) { *b = BundleBody{} },
	} {
		got, err := OpenBundle(testNet, v.raw(change))
		if !errors.Is(err, ErrBundle) {
			t.Errorf("%s: %v", name, err)
		}
		if got != nil {
			t.Errorf("%s: what is refused is returned", name)
		}
	}
	if _, err := OpenBundle(testNet, PackBundle(testNet, v.m, otherRequest, v.approvals, v.releases)); !errors.Is(err, ErrBundle) {
		t.Errorf("a request that nobody approved or released to: %v", err)
	}
}

// FuzzOpenBundle: what is accepted is what was made, byte for byte.
func FuzzOpenBundle(f *testing.F) {
	v := newRecovery(f)
	b := v.seal(f)
	f.Add(b)
	f.Add(v.raw(func(b *BundleBody) { b.Approvals = nil }))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := OpenBundle(testNet, in)
		if err != nil {
			return
		}
		var approvals, releases [][]byte
		body := new(BundleBody)
		if err := key.Unmarshal(in, body); err != nil {
			t.Fatal(err)
		}
		approvals, releases = body.Approvals, body.Releases
		if again := PackBundle(testNet, got.Manifest, got.Request, approvals, releases); !bytes.Equal(again, in) {
			t.Fatal("accepted bytes are not what is made of them")
		}
	})
}
