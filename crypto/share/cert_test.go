package share

import (
	"bytes"
	"errors"
	"testing"

	"keymesh/crypto/key"
)

// judged is a certificate with all that it is judged by.
type judged struct {
	net     key.NetworkID
	c       *CommitCert
	m       *SignedManifest
	before  []*SignedManifest
	revoked func(key.NodeID) bool
}

func (j judged) verify() error { return VerifyCert(j.net, j.c, j.m, j.before, j.revoked) }

func ofFirst(l line) judged { return judged{net: testNet, c: firstCert(l), m: l.first} }

func ofSecond(l line) judged {
	return judged{net: testNet, c: secondCert(l), m: l.second, before: []*SignedManifest{l.first, l.passed}}
}

func TestCertificates(t *testing.T) {
	l := newLine(t)
	for name, j := range map[string]judged{
		"w of n":                 ofFirst(l),
		"n of n":                 {net: testNet, c: certOf(l.first, at{1, 0}, at{2, 1}, at{3, 2}, at{4, 3}, at{5, 4}), m: l.first},
		"in another order":       {net: testNet, c: certOf(l.first, at{4, 3}, at{1, 0}, at{5, 4}, at{3, 2}), m: l.first},
		"a successor":            ofSecond(l),
		"before in other order":  {net: testNet, c: secondCert(l), m: l.second, before: []*SignedManifest{l.passed, l.first}},
		"a successor, all seats": {net: testNet, c: certOf(l.second, at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{10, 6}, at{0, 3}, at{0, 4}), m: l.second, before: []*SignedManifest{l.first, l.passed}},
	} {
		if err := j.verify(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c, err := DecodeCert(j.c.Encode())
		if err != nil || !bytes.Equal(c.Encode(), j.c.Encode()) {
			t.Errorf("%s does not come back: %v", name, err)
		}
	}
}

func TestEveryFlippedByteOfACertificateIsRefused(t *testing.T) {
	j := ofFirst(newLine(t))
	b := j.c.Encode()
	for i := range b {
		for _, mask := range []byte{0x01, 0x20, 0x80} {
			flipped := bytes.Clone(b)
			flipped[i] ^= mask
			c, err := DecodeCert(flipped)
			if err != nil {
				if c != nil {
					t.Fatal("a certificate beside the error")
				}
				continue
			}
			if err := VerifyCert(testNet, c, j.m, nil, nil); !errors.Is(err, ErrCertificate) {
				t.Fatalf("byte %d ^ %#x: %v", i, mask, err)
			}
		}
		if _, err := DecodeCert(b[:i]); !errors.Is(err, key.ErrEncoding) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
	if _, err := DecodeCert(append(b, 0)); !errors.Is(err, key.ErrEncoding) {
		t.Error(err)
	}
}

// swapped returns the first certificate with o in place of the receipt of seat
// 4, so that every other receipt is good.
func swapped(l line, o key.Object) judged {
	j := ofFirst(l)
	j.c.Prepared[3] = o
	return j
}

// Each certificate has w receipts, one of which is not what it should be.
func TestReceiptsThatDoNotCount(t *testing.T) {
	l := newLine(t)
	twin := plain(1) // of the same generation, by the same owner
	twin.Created++
	signTwin := twin.sign(t)
	seat := at{4, 3}
	good := receipt(key.TypePrepared, l.first, 0, seat)
	relabelled := receipt(key.TypeCommitted, l.first, 0, seat)
	relabelled.Type = key.TypePrepared
	stolen := good
	stolen.Key = node(9).Public()
	body := Receipt{Manifest: l.first.Hash, X: 4, Node: node(3).ID(), Time: created + 60}
	v2 := bytes.Clone(good.Body)
	v2[2] = 2
	for name, c := range map[string]struct {
		o    key.Object
		want error // beside ErrCertificate
	}{
		"Committed":                       {receipt(key.TypeCommitted, l.first, 0, seat), key.ErrType},
		"Refused":                         {receipt(key.TypeRefused, l.first, 0, seat), key.ErrType},
		"Committed, relabelled":           {relabelled, key.ErrSignature},
		"another network":                 {SignReceipt(node(3), key.NetworkID{1}, key.TypePrepared, body), key.ErrSignature},
		"another manifest, its successor": {receipt(key.TypePrepared, l.second, 0, seat), nil},
		"another manifest, its twin":      {receipt(key.TypePrepared, signTwin, 0, seat), nil},
		"epoch 1":                         {receipt(key.TypePrepared, l.first, 1, seat), nil},
		"the last epoch":                  {receipt(key.TypePrepared, l.first, 1<<32-1, seat), nil},
		"x of another seat":               {receipt(key.TypePrepared, l.first, 0, at{5, 3}), nil},
		"x of no seat":                    {receipt(key.TypePrepared, l.first, 0, at{9, 3}), nil},
		"x 0 of a seat":                   {receipt(key.TypePrepared, l.first, 0, at{0, 3}), nil},
		"x of a seat by a stranger":       {receipt(key.TypePrepared, l.first, 0, at{4, 9}), nil},
		"two receipts of one node":        {receipt(key.TypePrepared, l.first, 0, at{1, 0}), nil},
		"one receipt twice":               {ofFirst(l).c.Prepared[0], nil},
		"a stranger":                      {receipt(key.TypePrepared, l.first, 0, at{0, 9}), nil},
		"signed by another node":          {key.Sign(node(9), testNet, key.TypePrepared, good.Body), ErrReceipt},
		"another node's key":              {stolen, key.ErrSignature},
		"no signature":                    {key.Object{Type: key.TypePrepared, Body: good.Body, Key: good.Key}, key.ErrSignature},
		"nothing":                         {key.Object{}, key.ErrType},
		"version 2":                       {key.Sign(node(3), testNet, key.TypePrepared, v2), key.ErrVersion},
		"a body that is no receipt":       {key.Sign(node(3), testNet, key.TypePrepared, l.first.Object.Body), key.ErrEncoding},
	} {
		err := swapped(l, c.o).verify()
		if !errors.Is(err, ErrCertificate) || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := swapped(l, good).verify(); err != nil {
		t.Error("the cases differ from a good certificate in more than their receipt:", err)
	}
	// One receipt that does not count beside w good ones.
	j := ofFirst(l)
	j.c.Prepared = append(j.c.Prepared, j.c.Prepared[0])
	if err := j.verify(); !errors.Is(err, ErrCertificate) {
		t.Error("a receipt twice beside w good ones:", err)
	}
}

func TestCertificatesThatFallShort(t *testing.T) {
	l := newLine(t)
	all := []*SignedManifest{l.first, l.passed}
	two := func(list ...at) judged {
		return judged{net: testNet, c: certOf(l.second, list...), m: l.second, before: all}
	}
	wrong := ofFirst(l)
	wrong.c.Manifest = l.second.Hash
	none := ofFirst(l)
	none.c = &CommitCert{}
	foreign := ofFirst(l)
	foreign.net = key.NetworkID{1}
	for name, j := range map[string]judged{
		"no receipts":                           {net: testNet, c: certOf(l.first), m: l.first},
		"w-1":                                   {net: testNet, c: certOf(l.first, at{1, 0}, at{2, 1}, at{3, 2}), m: l.first},
		"w-1 and a stranger":                    {net: testNet, c: certOf(l.first, at{1, 0}, at{2, 1}, at{3, 2}, at{0, 9}), m: l.first},
		"w-1 and many strangers":                {net: testNet, c: certOf(l.first, at{1, 0}, at{2, 1}, at{3, 2}, at{0, 6}, at{0, 7}, at{0, 8}, at{0, 9}), m: l.first},
		"w of M, w-1 of prev's":                 two(at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{10, 6}),
		"w of prev's, w-1 of M":                 two(at{7, 0}, at{2, 1}, at{255, 2}, at{0, 3}, at{0, 4}),
		"w-1 of M, seats of prev with M's x":    two(at{7, 0}, at{2, 1}, at{255, 2}, at{9, 3}),
		"seats of prev with the x they had":     two(at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{4, 3}),
		"a seat of both with the x that it had": two(at{1, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{0, 3}),
		"a seat of both with x 0":               two(at{0, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{10, 6}, at{0, 3}),
		"of another manifest":                   wrong,
		"of no manifest":                        none,
		"in another network":                    foreign,
		"offered for its successor":             {net: testNet, c: firstCert(l), m: l.second, before: all},
		"of its successor":                      {net: testNet, c: secondCert(l), m: l.first},
	} {
		if err := j.verify(); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, before := range map[string][]*SignedManifest{
		"nothing before":        nil,
		"prev left out":         {l.passed},
		"the passed left out":   {l.first},
		"prev twice":            {l.first, l.first},
		"prev twice and passed": {l.first, l.passed, l.first},
		"itself":                {l.first, l.passed, l.second},
		"itself as prev":        {l.second, l.passed},
	} {
		if err := VerifyCert(testNet, secondCert(l), l.second, before, nil); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := VerifyCert(testNet, firstCert(l), l.first, []*SignedManifest{l.passed}, nil); !errors.Is(err, ErrCertificate) {
		t.Error("something before the first:", err)
	}
}

// What was passed has other seats than prev: they are asked too.
func TestSeatsOfWhatWasForced(t *testing.T) {
	first := plain(1).sign(t)
	p := plain(299)
	p.Prev = first.Hash
	p.Seats = p.seats(at{1, 0}, at{2, 1}, at{3, 6}, at{4, 7}, at{5, 8})
	passed := p.sign(t)
	m := plain(300)
	m.Prev, m.Force = first.Hash, []key.Hash{passed.Hash}
	next := m.sign(t)
	before := []*SignedManifest{first, passed}
	seats := []at{{1, 0}, {2, 1}, {3, 2}, {4, 3}}
	for extra, want := range map[int]error{0: ErrCertificate, 1: ErrCertificate, 2: nil, 3: nil} {
		c := certOf(next, append(seats[:4:4], []at{{0, 6}, {0, 7}, {0, 8}}[:extra]...)...)
		if err := VerifyCert(testNet, c, next, before, nil); !errors.Is(err, want) {
			t.Errorf("%d seats of what was passed beside the two in both: %v", extra, err)
		}
	}
	// The owner says less of what it passed than it did.
	m.Force = nil
	silent := m.sign(t)
	if err := VerifyCert(testNet, certOf(silent, seats...), silent, before, nil); !errors.Is(err, ErrCertificate) {
		t.Error("a passed manifest that force does not name:", err)
	}
	if err := VerifyCert(testNet, certOf(silent, seats...), silent, before[:1], nil); err != nil {
		t.Error(err)
	}
	// It names one that does not exist.
	m.Force = []key.Hash{fill(0x66)}
	wrong := m.sign(t)
	for _, b := range [][]*SignedManifest{before, before[:1]} {
		if err := VerifyCert(testNet, certOf(wrong, seats...), wrong, b, nil); !errors.Is(err, ErrCertificate) {
			t.Error("force names what is not there:", err)
		}
	}
}

// The one before is of another secret, or not before.
func TestOnlyTheSameSecretAndLowerGenerationsAreBefore(t *testing.T) {
	other := plain(1)
	other.Salt = fill(0x31)
	other.ID = ID(other.Owner, other.Salt)
	for name, p := range map[string]*SignedManifest{
		"of another secret":     other.sign(t),
		"of the same gen":       plain(300).sign(t),
		"of a higher gen":       plain(301).sign(t),
		"of the one before (1)": plain(299).sign(t),
	} {
		for _, forced := range []bool{false, true} {
			m := plain(300)
			m.Created++
			if forced {
				m.Force = []key.Hash{p.Hash}
			} else {
				m.Prev = p.Hash
			}
			s := m.sign(t)
			err := VerifyCert(testNet, certOf(s, at{1, 0}, at{2, 1}, at{3, 2}, at{4, 3}, at{5, 4}), s, []*SignedManifest{p}, nil)
			if p.Gen == 299 && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if p.Gen != 299 && !errors.Is(err, ErrCertificate) {
				t.Errorf("%s (forced: %v): %v", name, forced, err)
			}
		}
	}
}

func revokedNodes(list ...int) func(key.NodeID) bool {
	out := map[key.NodeID]bool{}
	for _, i := range list {
		out[node(i).ID()] = true
	}
	return func(id key.NodeID) bool { return out[id] }
}

func TestRevokedHolders(t *testing.T) {
	l := newLine(t)
	all := []*SignedManifest{l.first, l.passed}
	// 3 of prev's seats (0, 1, 2) and w = 4 of its own: too few unless one of
	// prev's holders is revoked, when max(5-3+1, 5/2+1) = 3 suffice.
	three := certOf(l.second, at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5})
	// 2 of prev's seats are never enough.
	two := certOf(l.second, at{7, 0}, at{2, 1}, at{9, 5}, at{10, 6})
	for _, c := range []struct {
		name    string
		cert    *CommitCert
		revoked func(key.NodeID) bool
		want    error
	}{
		{"three, nobody asked", three, nil, ErrCertificate},
		{"three, nobody revoked", three, revokedNodes(), ErrCertificate},
		{"three, a stranger revoked", three, revokedNodes(9), ErrCertificate},
		{"three, a seat of the new one alone revoked", three, revokedNodes(5), ErrCertificate},
		{"three, a seat of prev revoked", three, revokedNodes(4), nil},
		{"three, all but them revoked", three, revokedNodes(3, 4), nil},
		{"two, all but them revoked", two, revokedNodes(2, 3, 4), ErrCertificate},
		// Its own w is never less.
		{"w-1 of its own, holders of prev revoked", certOf(l.second, at{7, 0}, at{2, 1}, at{255, 2}, at{0, 3}, at{0, 4}), revokedNodes(3, 4), ErrCertificate},
	} {
		if err := VerifyCert(testNet, c.cert, l.second, all, c.revoked); !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestPrevNeed(t *testing.T) {
	one := func(id key.NodeID) bool { return id == key.NodeID{0x99, 0} }
	for n := 2; n <= MaxSeats; n++ {
		for k := MinK; k <= n; k++ {
			for w := MinW(n, k); w <= n; w++ {
				m := shaped(n, uint8(k), uint8(w)).Manifest
				if got := PrevNeed(&m, nil); got != w {
					t.Fatalf("%d of %d, w %d: %d", k, n, w, got)
				}
				if got := PrevNeed(&m, func(key.NodeID) bool { return false }); got != w {
					t.Fatalf("%d of %d, w %d, nobody revoked: %d", k, n, w, got)
				}
				got := PrevNeed(&m, one)
				// Any two such sets of prev's seats overlap, and the seats
				// outside one are too few to give prev's value.
				if got > w || (got < w && (2*got <= n || n-got >= k)) || (got > n-k+1 && got > n/2+1 && got != w) {
					t.Fatalf("%d of %d, w %d, one revoked: %d", k, n, w, got)
				}
			}
		}
	}
}

func TestVerifyCertKnownSkipsOnlySignatures(t *testing.T) {
	l := newLine(t)
	unsigned := receipt(key.TypePrepared, l.first, 0, at{4, 3})
	unsigned.Sig = make([]byte, key.SigSize)
	asked := 0
	knows := func(o key.Object) bool { asked++; return bytes.Equal(o.Sig, unsigned.Sig) }
	j := swapped(l, unsigned)
	if err := VerifyCertKnown(testNet, j.c, j.m, nil, nil, knows); err != nil || asked != 4 {
		t.Error(err, asked)
	}
	if err := VerifyCertKnown(testNet, j.c, j.m, nil, nil, func(key.Object) bool { return false }); !errors.Is(err, key.ErrSignature) {
		t.Error("a receipt that is not known:", err)
	}
	if err := VerifyCertKnown(testNet, j.c, j.m, nil, nil, nil); !errors.Is(err, key.ErrSignature) {
		t.Error("nothing is known:", err)
	}
	// All else is judged of a known receipt as of any other.
	every := func(key.Object) bool { return true }
	for name, o := range map[string]key.Object{
		"Committed":        receipt(key.TypeCommitted, l.first, 0, at{4, 3}),
		"another manifest": receipt(key.TypePrepared, l.second, 0, at{4, 3}),
		"epoch 1":          receipt(key.TypePrepared, l.first, 1, at{4, 3}),
		"another x":        receipt(key.TypePrepared, l.first, 0, at{5, 3}),
		"twice":            receipt(key.TypePrepared, l.first, 0, at{1, 0}),
		"another's words":  key.Sign(node(9), testNet, key.TypePrepared, unsigned.Body),
		"no receipt":       key.Sign(node(3), testNet, key.TypePrepared, l.first.Object.Body),
	} {
		j := swapped(l, o)
		if err := VerifyCertKnown(testNet, j.c, j.m, nil, nil, every); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificatesHaveAreBounded(t *testing.T) {
	c := &CommitCert{Manifest: fill(1)}
	o := receipt(key.TypePrepared, plain(1).sign(t), 0, at{1, 0})
	for range MaxReceipts {
		c.Prepared = append(c.Prepared, o)
	}
	if _, err := DecodeCert(c.Encode()); err != nil {
		t.Error(err)
	}
	c.Prepared = append(c.Prepared, o)
	if got, err := DecodeCert(c.Encode()); got != nil || !errors.Is(err, ErrCertificate) {
		t.Error(err)
	}
}
