package share

import (
	"bytes"
	"errors"
	"testing"

	"keymesh/crypto/key"
)

// refusedBy fails the test unless b is refused, with want if it is not nil,
// and nothing is returned beside the error.
func refusedBy(t *testing.T, w wire, net key.NetworkID, b []byte, want error, what string, args ...any) {
	t.Helper()
	_, err := w.open(net, b)
	switch {
	case err == nil:
		t.Errorf(what+": accepted", args...)
	case errors.Is(err, errBoth):
		t.Errorf(what+": %v", append(args, err)...)
	case want != nil && !errors.Is(err, want):
		t.Errorf(what+": %v instead of %v", append(args, err, want)...)
	}
}

func TestEveryFlippedByteOfAnObjectIsRefused(t *testing.T) {
	for name, w := range wires(t) {
		b := w.object.Encode()
		for i := range b {
			for _, mask := range []byte{0x01, 0x20, 0x80} {
				c := bytes.Clone(b)
				c[i] ^= mask
				refusedBy(t, w, testNet, c, nil, "%s: byte %d ^ %#x", name, i, mask)
			}
		}
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	for name, w := range wires(t) {
		b := w.object.Encode()
		for i := range b {
			refusedBy(t, w, testNet, b[:i], key.ErrEncoding, "%s: %d bytes", name, i)
		}
		refusedBy(t, w, testNet, append(bytes.Clone(b), 0), key.ErrEncoding, "%s: a byte more", name)
	}
}

func TestAnotherNetworkIsRefused(t *testing.T) {
	for name, w := range wires(t) {
		refusedBy(t, w, key.NetworkID{1}, w.object.Encode(), key.ErrSignature, "%s", name)
	}
}

func TestNoTypeIsTakenForAnother(t *testing.T) {
	all := wires(t)
	for name, w := range all {
		for other, as := range all {
			if as.typ == w.typ {
				continue
			}
			refusedBy(t, as, testNet, w.object.Encode(), key.ErrType, "%s as %s", name, other)
			moved := w.object
			moved.Type = as.typ
			refusedBy(t, as, testNet, moved.Encode(), key.ErrSignature, "%s relabelled as %s", name, other)
		}
	}
}

// Every signer signs what another says of itself.
func TestAnotherSignerIsRefused(t *testing.T) {
	for name, w := range wires(t) {
		for i, k := range []key.Private{person(0x03), node(9), approver(), owner(), node(1)} {
			o := key.Sign(k, testNet, w.typ, w.object.Body)
			if o.Key == w.object.Key {
				continue
			}
			refusedBy(t, w, testNet, o.Encode(), nil, "%s by signer %d", name, i)
			moved := w.object
			moved.Key = o.Key
			refusedBy(t, w, testNet, moved.Encode(), key.ErrSignature, "%s with the key of signer %d", name, i)
		}
	}
}

// The signer is the right one here and the signature good: what is wrong is in
// the body.
func TestBodiesOfAHostileSigner(t *testing.T) {
	for name, w := range wires(t) {
		sign := func(body []byte) []byte { return key.Sign(w.signer, testNet, w.typ, body).Encode() }
		body := w.object.Body
		refusedBy(t, w, testNet, sign(nil), key.ErrEncoding, "%s: no body", name)
		refusedBy(t, w, testNet, sign(body[:len(body)-1]), key.ErrEncoding, "%s: a short body", name)
		refusedBy(t, w, testNet, sign(append(bytes.Clone(body), 0)), key.ErrEncoding, "%s: a long body", name)
		v2 := bytes.Clone(body)
		v2[2] = 2 // after the head of the map and key 0
		refusedBy(t, w, testNet, sign(v2), key.ErrVersion, "%s: version 2", name)
		if name == "second" {
			continue // it has extensions already
		}
		refusedBy(t, w, testNet, sign(longer(body, 0x18, 0x1e, 0x00)), key.ErrEncoding, "%s: an unknown key", name)
		refusedBy(t, w, testNet, sign(longer(body, 0x18, 0x1f, 0xa1, 0x08, 0x40)), key.ErrCritical, "%s: an even extension", name)
		odd := longer(body, 0x18, 0x1f, 0xa1, 0x07, 0x41, 0xff)
		if got, err := w.open(testNet, sign(odd)); err != nil || !bytes.Equal(got, odd) {
			t.Errorf("%s: an odd extension is not kept: %v", name, err)
		}
	}
}

// longer is a map of fewer than 23 pairs with one pair more at its end.
func longer(body []byte, pair ...byte) []byte {
	c := append(bytes.Clone(body), pair...)
	c[0]++
	return c
}

// A key of low order would make one signature good for many bodies.
func TestKeysOfLowOrderAreRefused(t *testing.T) {
	for name, w := range wires(t) {
		o := w.object
		o.Key = [32]byte{1}
		o.Sig = append([]byte{key.SuiteEd25519, 1}, make([]byte, 63)...) // R = identity, S = 0
		refusedBy(t, w, testNet, o.Encode(), key.ErrSignature, "%s", name)
	}
}

func TestOpenReceiptKnowsThreeTypes(t *testing.T) {
	w := wires(t)["prepared"]
	for typ := key.Type(0); typ < 30; typ++ {
		o := w.object
		o.Type = typ
		_, err := OpenReceipt(testNet, typ, o)
		switch typ {
		case key.TypePrepared:
			if err != nil {
				t.Error(err)
			}
		case key.TypeCommitted, key.TypeRefused:
			if !errors.Is(err, key.ErrSignature) {
				t.Errorf("%v: %v", typ, err)
			}
		default:
			if !errors.Is(err, ErrReceipt) {
				t.Errorf("%v: %v", typ, err)
			}
		}
	}
	// A good signature of another type does not make a receipt either.
	o := key.Sign(node(1), testNet, key.TypeRelease, w.object.Body)
	if _, err := OpenReceipt(testNet, key.TypeRelease, o); !errors.Is(err, ErrReceipt) {
		t.Error(err)
	}
}

func TestSignersNameThemselves(t *testing.T) {
	r, err := OpenReceipt(testNet, key.TypePrepared, SignReceipt(node(1), testNet, key.TypePrepared, Receipt{Node: node(2).ID()}))
	if err != nil || r.Node != node(1).ID() {
		t.Error("receipt", err)
	}
	l, err := OpenRelease(testNet, SignRelease(node(1), testNet, Release{Node: node(2).ID()}).Encode())
	if err != nil || l.Node != node(1).ID() {
		t.Error("release", err)
	}
	h := fixedAuditHead()
	h.Node = node(2).ID()
	if got, err := OpenAuditHead(testNet, SignAuditHead(node(1), testNet, h).Encode()); err != nil || got.Node != node(1).ID() {
		t.Error("head of the audit log", err)
	}
	q := fixedQuery()
	q.Person = owner().Public()
	if got, err := OpenQuery(testNet, SignQuery(approver(), testNet, q).Encode(), q.Node, created); err != nil || got.Person != approver().Public() {
		t.Error("query", err)
	}
	rq := fixedRequest()
	rq.Person = owner().Public()
	if got, err := OpenRequest(testNet, SignRequest(approver(), testNet, rq).Object.Encode(), created); err != nil || got.Person != approver().Public() {
		t.Error("request", err)
	}
	a := fixedApproval()
	a.Person = owner().Public()
	if got, err := OpenApproval(testNet, SignApproval(approver(), testNet, a).Encode(), created); err != nil || got.Person != approver().Public() {
		t.Error("approval", err)
	}
}

// A label has no signature: what protects it is its seal. Its encoding is
// unique all the same.
func TestEveryFlippedByteOfALabelIsAnotherLabel(t *testing.T) {
	b := key.Marshal(fixedLabel())
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			var l Label
			if key.Unmarshal(c, &l) == nil && !bytes.Equal(key.Marshal(&l), c) {
				t.Fatalf("byte %d bit %d: accepted and not the same", i, bit)
			}
		}
		var l Label
		if key.Unmarshal(b[:i], &l) == nil {
			t.Fatalf("%d bytes are a label", i)
		}
	}
}
