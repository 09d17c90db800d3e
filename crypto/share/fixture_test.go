package share

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"keymesh/crypto/key"
)

// created is the time of most things in the vectors.
const created = 1760000000

var testNet = key.NetworkID(fill(0x77))

func fill(b byte) [32]byte { return [32]byte(bytes.Repeat([]byte{b}, 32)) }

func person(b byte) key.PersonPrivate {
	p, err := key.PersonFromSeed(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		panic(err)
	}
	return p
}

func owner() key.PersonPrivate    { return person(0x01) }
func approver() key.PersonPrivate { return person(0x02) }

// node returns the key of node i of the vectors.
func node(i int) key.NodePrivate {
	n, err := key.NodeFromSeed(bytes.Repeat([]byte{byte(0x10 + i)}, 32))
	if err != nil {
		panic(err)
	}
	return n
}

func ids() (salt, id key.Hash) {
	index := IndexKey(owner(), testNet)
	salt = Salt(Tag(&index, "mail/imap"), "mail/imap")
	return salt, ID(owner().Public(), salt)
}

// at is a seat by the number of its node.
type at struct {
	x uint8
	i int
}

func (m *fixed) seats(list ...at) []Seat {
	var out []Seat
	for _, s := range list {
		row := bytes.Repeat([]byte{s.x}, int(m.K)*DataKeySize)
		out = append(out, Seat{X: s.x, Node: node(s.i).ID(), C: RowCommitment(m.Context(), s.x, m.K, row)})
	}
	return out
}

// fixed is a manifest of the vectors that is not signed yet.
type fixed struct{ Manifest }

// plain is the 3-of-5 manifest from which the tests start.
func plain(gen uint64) fixed {
	salt, id := ids()
	m := fixed{Manifest{
		ID: id, Owner: owner().Public(), Salt: salt, Gen: gen, Suite: SuiteShamir, K: 3, W: 4,
		KC: fill(0xcc), Payload: fill(0xdd), Length: 272, Label: bytes.Repeat([]byte{0x5e}, 297),
		Policy: []byte("policy"), Created: created,
	}}
	m.Seats = m.seats(at{1, 0}, at{2, 1}, at{3, 2}, at{4, 3}, at{5, 4})
	return m
}

func (m fixed) sign(t testing.TB) *SignedManifest {
	t.Helper()
	s, err := SignManifest(owner(), testNet, m.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line is the three manifests of the vectors: second follows first and passes
// over a pending one.
type line struct{ first, passed, second *SignedManifest }

func newLine(t testing.TB) line {
	t.Helper()
	first := plain(1).sign(t)
	p := plain(299)
	p.Prev = first.Hash
	passed := p.sign(t)
	s := secondOf(first, passed)
	return line{first, passed, s.sign(t)}
}

func secondOf(first, passed *SignedManifest) fixed {
	s := plain(300)
	s.Prev, s.Force = first.Hash, []key.Hash{passed.Hash}
	s.Seats = s.seats(at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{10, 6})
	s.Standby = []key.NodeID{node(7).ID(), node(8).ID()}
	s.Length, s.Repair, s.Keep, s.Expires, s.Colocated = 65552, RepairQuorum, 3, 1790000000, true
	s.Ext = map[uint64][]byte{7: {1, 2}}
	return s
}

// receipt is node i's word of type t for m with x.
func receipt(t key.Type, m *SignedManifest, epoch uint32, s at) key.Object {
	return SignReceipt(node(s.i), testNet, t, Receipt{Manifest: m.Hash, Epoch: epoch, X: s.x, Time: created + 60})
}

// certOf holds a Prepared of each.
func certOf(m *SignedManifest, list ...at) *CommitCert {
	c := &CommitCert{Manifest: m.Hash}
	for _, s := range list {
		c.Prepared = append(c.Prepared, receipt(key.TypePrepared, m, 0, s))
	}
	return c
}

func firstCert(l line) *CommitCert {
	return certOf(l.first, at{1, 0}, at{2, 1}, at{3, 2}, at{4, 3})
}

// secondCert: nodes 0, 1, 2 are seats of both, 5 of the second alone, 3 of what
// was before alone.
func secondCert(l line) *CommitCert {
	return certOf(l.second, at{7, 0}, at{2, 1}, at{255, 2}, at{9, 5}, at{0, 3})
}

func fixedTombstone() Tombstone {
	salt, id := ids()
	return Tombstone{ID: id, Gen: 300, Scope: ScopeAll, Time: created + 120, Owner: owner().Public(), Salt: salt}
}

func fixedQuery() Query {
	return Query{Node: node(1).ID(), Nonce: [16]byte(bytes.Repeat([]byte{0x9a}, 16)), Expires: created + 300}
}

func fixedRequest() Request {
	_, id := ids()
	return Request{
		ID: id, Ephemeral: bytes.Repeat([]byte{0xe9}, 1216), Nonce: fill(0x9b), Verb: VerbRecover,
		Purpose: "lost laptop, grüße", Created: created, Expires: created + 86400,
	}
}

func fixedApproval() Approval {
	return Approval{Subject: SignRequest(approver(), testNet, fixedRequest()).Hash, Verdict: VerdictApprove, Expires: created + 86400}
}

func fixedRelease(l line) Release {
	return Release{
		Request: SignRequest(approver(), testNet, fixedRequest()).Hash, Manifest: l.first.Hash,
		Epoch: 1, X: 2, Audit: 1 << 32,
	}
}

func fixedAuditHead() AuditHead {
	return AuditHead{Seq: 70000, Hash: fill(0x4a), Time: created + 180}
}

func fixedLabel() *Label {
	return &Label{Name: "mail/imap", Labels: [][2]string{{"env", "prod"}, {"team", "grüße"}}, Description: "the mailbox", Size: 1<<20 - 1}
}

// wire is an object with the function that opens it and the body that it read,
// encoded again.
type wire struct {
	typ    key.Type
	signer key.Private
	object key.Object
	open   func(net key.NetworkID, b []byte) (body []byte, err error)
}

// again returns the body that was read, encoded again, or the error; it fails
// when a refused object is returned all the same.
func again[P interface {
	comparable
	key.Body
}](v P, err error) ([]byte, error) {
	var none P
	if err != nil {
		if v != none {
			return nil, errors.Join(errBoth, err)
		}
		return nil, err
	}
	return key.Marshal(v), nil
}

var errBoth = errors.New("the refused object was returned beside the error")

func openReceiptBytes(net key.NetworkID, t key.Type, b []byte) ([]byte, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	r, err := OpenReceipt(net, t, o)
	if err != nil {
		if r.Head.V != 0 || r.Manifest != (key.Hash{}) || r.Node != (key.NodeID{}) || r.X != 0 || r.Epoch != 0 || r.Time != 0 {
			return nil, errors.Join(errBoth, err)
		}
		return nil, err
	}
	return key.Marshal(&r), nil
}

// wires is one of each signed type.
func wires(t testing.TB) map[string]wire {
	l := newLine(t)
	out := map[string]wire{}
	for name, m := range map[string]*SignedManifest{"first": l.first, "passed": l.passed, "second": l.second} {
		out[name] = wire{key.TypeManifest, owner(), m.Object, openManifestBytes}
	}
	for name, c := range map[string]struct {
		typ   key.Type
		epoch uint32
	}{"prepared": {key.TypePrepared, 0}, "committed": {key.TypeCommitted, 70000}, "refused": {key.TypeRefused, 0}} {
		out[name] = wire{c.typ, node(1), receipt(c.typ, l.first, c.epoch, at{2, 1}), func(net key.NetworkID, b []byte) ([]byte, error) {
			return openReceiptBytes(net, c.typ, b)
		}}
	}
	change := Request{
		ID: l.first.ID, Gen: 300, Nonce: fill(0x9c), Verb: VerbPolicy, Payload: l.second.Hash[:],
		Created: created, Expires: created + 900, Manifest: l.first.Hash,
	}
	out["tombstone"] = wire{key.TypeTombstone, owner(), SignTombstone(owner(), testNet, fixedTombstone()), openTombstoneBytes}
	out["query"] = wire{key.TypeQuery, approver(), SignQuery(approver(), testNet, fixedQuery()), openQueryBytes}
	out["request"] = wire{key.TypeRequest, approver(), SignRequest(approver(), testNet, fixedRequest()).Object, openRequestBytes}
	out["policyChange"] = wire{key.TypeRequest, owner(), SignRequest(owner(), testNet, change).Object, openRequestBytes}
	out["approval"] = wire{key.TypeApproval, owner(), SignApproval(owner(), testNet, fixedApproval()), openApprovalBytes}
	out["release"] = wire{key.TypeRelease, node(1), SignRelease(node(1), testNet, fixedRelease(l)), openReleaseBytes}
	out["dealing"] = wire{key.TypeDealing, node(1), signedDealing(l.first, 1, 2), openDealingBytes(l.first)}
	out["epochAck"] = wire{key.TypeEpochAck, node(1), signedAck(l.first, key.Hash(fill(0xb1)), at{2, 1}), openEpochAckBytes(l.first)}
	out["auditHead"] = wire{key.TypeAuditHead, node(1), SignAuditHead(node(1), testNet, fixedAuditHead()), openAuditHeadBytes}
	return out
}

func openManifestBytes(net key.NetworkID, b []byte) ([]byte, error) {
	m, err := OpenManifest(net, b)
	if m == nil {
		return again[*Manifest](nil, err)
	}
	return again(&m.Manifest, err)
}

func openTombstoneBytes(net key.NetworkID, b []byte) ([]byte, error) {
	t, _, err := OpenTombstone(net, b)
	return again(t, err)
}

func openQueryBytes(net key.NetworkID, b []byte) ([]byte, error) {
	return again(OpenQuery(net, b, node(1).ID(), created))
}

func openRequestBytes(net key.NetworkID, b []byte) ([]byte, error) {
	r, err := OpenRequest(net, b, created)
	if r == nil {
		return again[*Request](nil, err)
	}
	return again(&r.Request, err)
}

func openApprovalBytes(net key.NetworkID, b []byte) ([]byte, error) {
	return again(OpenApproval(net, b, created))
}

func openReleaseBytes(net key.NetworkID, b []byte) ([]byte, error) {
	return again(OpenRelease(net, b))
}

func openAuditHeadBytes(net key.NetworkID, b []byte) ([]byte, error) {
	return again(OpenAuditHead(net, b))
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
