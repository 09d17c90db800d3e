package share

import (
	"bytes"
	"testing"

	"keymesh/crypto/key"
)

// fuzzOpen: what is accepted re-encodes to the same bytes. The signature stops
// nearly every input; the body is therefore also given to a hostile signer, who
// is the right one and signs whatever it is.
func fuzzOpen(f *testing.F, typ key.Type) {
	var of wire
	for _, name := range sortedNames(wires(f)) {
		if w := wires(f)[name]; w.typ == typ {
			of = w
			f.Add(w.object.Encode())
			f.Add(w.object.Body)
			f.Add(longer(w.object.Body, 0x18, 0x1f, 0xa1, 0x07, 0x41, 0xff))
		}
	}
	if typ == key.TypeManifest {
		for _, c := range brokenManifests() {
			f.Add(key.Marshal(&c.m.Manifest))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if body, err := of.open(testNet, b); err == nil {
			o, err := key.DecodeObject(b)
			if err != nil || !bytes.Equal(o.Body, body) || !bytes.Equal(o.Encode(), b) {
				t.Fatal("accepted bytes do not re-encode to themselves")
			}
		}
		body, err := of.open(testNet, key.Sign(of.signer, testNet, typ, b).Encode())
		if err == nil && !bytes.Equal(body, b) {
			t.Fatal("an accepted body does not re-encode to itself")
		}
	})
}

func FuzzOpenManifest(f *testing.F)  { fuzzOpen(f, key.TypeManifest) }
func FuzzOpenReceipt(f *testing.F)   { fuzzOpen(f, key.TypePrepared) }
func FuzzOpenTombstone(f *testing.F) { fuzzOpen(f, key.TypeTombstone) }
func FuzzOpenQuery(f *testing.F)     { fuzzOpen(f, key.TypeQuery) }
func FuzzOpenRequest(f *testing.F)   { fuzzOpen(f, key.TypeRequest) }
func FuzzOpenApproval(f *testing.F)  { fuzzOpen(f, key.TypeApproval) }
func FuzzOpenRelease(f *testing.F)   { fuzzOpen(f, key.TypeRelease) }
func FuzzOpenDealing(f *testing.F)   { fuzzOpen(f, key.TypeDealing) }
func FuzzOpenEpochAck(f *testing.F)  { fuzzOpen(f, key.TypeEpochAck) }
func FuzzOpenAuditHead(f *testing.F) { fuzzOpen(f, key.TypeAuditHead) }

// FuzzDecodeCert: what is decoded re-encodes to the same bytes, and verifies
// only with w different seats in it.
func FuzzDecodeCert(f *testing.F) {
	l := newLine(f)
	before := []*SignedManifest{l.first, l.passed}
	f.Add(firstCert(l).Encode())
	f.Add(secondCert(l).Encode())
	f.Add((&CommitCert{}).Encode())
	f.Add(certOf(l.second, at{7, 0}, at{7, 0}, at{7, 0}, at{7, 0}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCert(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), b) {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
		nodes := map[[32]byte]bool{}
		for _, o := range c.Prepared {
			nodes[o.Key] = true
		}
		ok := VerifyCert(testNet, c, l.first, nil, nil) == nil || VerifyCert(testNet, c, l.second, before, nil) == nil
		if ok && (len(nodes) < 4 || len(nodes) != len(c.Prepared)) {
			t.Fatal("a certificate of too few")
		}
	})
}
