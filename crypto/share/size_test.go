package share

import (
	"errors"
	"testing"

	"keymesh/crypto/key"
)

// TestSizesAreBounded: whoever takes an object in keeps it, some of them for
// ever, so padding is refused.
func TestSizesAreBounded(t *testing.T) {
	pad := func(n int) key.Head { return key.Head{Ext: map[uint64][]byte{1: make([]byte, n)}} }
	tombstone := func(n int) error {
		s := fixedTombstone()
		s.Head = pad(n)
		_, _, err := OpenTombstone(testNet, SignTombstone(owner(), testNet, s).Encode())
		return err
	}
	approval := func(n int) error {
		a := Approval{Head: pad(n), Verdict: VerdictApprove, Expires: created + 60, Note: string(make([]byte, MaxNote))}
		_, err := OpenApproval(testNet, SignApproval(approver(), testNet, a).Encode(), created)
		return err
	}
	manifest := func(n int) error {
		m := plain(1)
		m.Head = pad(n)
		_, err := OpenManifest(testNet, key.Sign(owner(), testNet, key.TypeManifest, key.Marshal(&m.Manifest)).Encode())
		return err
	}
	cert := func(n int) error {
		c := firstCert(newLine(t))
		c.Head = pad(n)
		_, err := DecodeCert(c.Encode())
		return err
	}
	for name, c := range map[string]struct {
		open      func(int) error
		good, bad int
		want      error
	}{
		"tombstone":   {tombstone, 500, MaxTombstone, ErrTombstone},
		"approval":    {approval, 200, MaxApproval, ErrRequest},
		"manifest":    {manifest, key.MaxExt - 8, MaxManifest, ErrManifest},
		"certificate": {cert, key.MaxExt - 8, MaxCert, ErrCertificate},
	} {
		if err := c.open(c.good); err != nil {
			t.Errorf("%s with an extension: %v", name, err)
		}
		if err := c.open(c.bad); !errors.Is(err, c.want) {
			t.Errorf("%s with %d bytes too many: %v", name, c.bad, err)
		}
	}
	m := plain(1)
	m.Head = pad(MaxManifest)
	if _, err := SignManifest(owner(), testNet, m.Manifest); !errors.Is(err, ErrManifest) {
		t.Errorf("a manifest that nobody takes was signed: %v", err)
	}
}

// TestCertificateThatForcesMany: a put that passes over as many pendings as it
// may, none of whose seats is a seat of another, can be certified.
func TestCertificateThatForcesMany(t *testing.T) {
	salt, id := ids()
	next := 0
	var keys []key.NodePrivate
	deal := func(gen uint64, prev key.Hash, force []key.Hash) *SignedManifest {
		m := fixed{Manifest{ID: id, Owner: owner().Public(), Salt: salt, Gen: gen, Prev: prev, Force: force, Suite: SuiteShamir, K: 2, W: MaxSeats,
			KC: fill(1), Payload: fill(2), Length: 9, Policy: []byte("policy"), Created: created}}
		for x := range MaxSeats {
			k, err := seeded(Context(id, uint64(next), 0))
			if err != nil {
				t.Fatal(err)
			}
			next++
			keys = append(keys, k)
			m.Seats = append(m.Seats, Seat{X: uint8(x + 1), Node: k.ID()})
		}
		return m.sign(t)
	}
	before := []*SignedManifest{deal(1, key.Hash{}, nil)}
	var force []key.Hash
	for i := range MaxForce {
		m := deal(uint64(i+2), before[0].Hash, nil)
		before, force = append(before, m), append(force, m.Hash)
	}
	m := deal(100, before[0].Hash, force)
	cert := &CommitCert{Manifest: m.Hash}
	for _, k := range keys {
		r := Receipt{Manifest: m.Hash, Time: created}
		if s := m.SeatOf(k.ID()); s != nil {
			r.X = s.X
		}
		cert.Prepared = append(cert.Prepared, SignReceipt(k, testNet, key.TypePrepared, r))
	}
	c, err := DecodeCert(cert.Encode())
	if err != nil || len(c.Prepared) != MaxReceipts {
		t.Fatal(err)
	}
	if err := VerifyCert(testNet, c, m, before, nil); err != nil {
		t.Fatal(err)
	}
	cert.Prepared = append(cert.Prepared, cert.Prepared[0])
	if _, err := DecodeCert(cert.Encode()); !errors.Is(err, ErrCertificate) {
		t.Errorf("%d receipts: %v", len(cert.Prepared), err)
	}
}

func seeded(h key.Hash) (key.NodePrivate, error) { return key.NodeFromSeed(h[:]) }
