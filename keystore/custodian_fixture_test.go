package keystore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// hShelf is a mapShelf whose records can be damaged and whose commits can be
// held up.
type hShelf struct {
	*mapShelf
	corrupt map[share.Place]bool
	gate    chan struct{} // nil: open
}

var errFakeCorrupt = errors.New("fake: corrupt")

func (s *hShelf) Load(p share.Place) ([]byte, error) {
	if s.corrupt[p] {
		return nil, errFakeCorrupt
	}
	return s.mapShelf.Load(p)
}

func (s *hShelf) Corrupt(err error) bool { return errors.Is(err, errFakeCorrupt) }

func (s *hShelf) Commit(ctx context.Context, recs ...share.Record) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.mapShelf.Commit(ctx, recs...)
}

// hMesh connects custodians directly. Node i is operator "op<i>".
type hMesh struct {
	*hWorld
	t     testing.TB
	nodes []*hNode

	mu    sync.Mutex
	down  map[int]bool
	vain  int // calls to nodes that are down
	calls map[uint64]int
}

type hNode struct {
	*custodian
	mesh  *hMesh
	i     int
	shelf *hShelf
}

func newHMesh(t testing.TB, n int, limits Limits) *hMesh {
	t.Helper()
	m := &hMesh{hWorld: newHWorld(t, n), t: t, down: map[int]bool{}, calls: map[uint64]int{}}
	for i := range n {
		m.nodes = append(m.nodes, m.start(i, &hShelf{mapShelf: newMapShelf(), corrupt: map[share.Place]bool{}}, limits))
	}
	return m
}

// start is a node that comes up with this shelf.
func (m *hMesh) start(i int, shelf *hShelf, limits Limits) *hNode {
	m.t.Helper()
	n := &hNode{mesh: m, i: i, shelf: shelf}
	n.custodian = newCustodian(Config{Network: n, Shelf: shelf, ID: m.net, Node: m.hWorld.nodes[i], Limits: limits})
	if err := n.load(context.Background()); err != nil {
		m.t.Fatal(err)
	}
	return n
}

func (m *hMesh) member(i int) Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Member{ID: m.hWorld.nodes[i].ID(), Operator: "op" + string(rune('0'+i)), Holder: true, Online: !m.down[i]}
}

func (n *hNode) Members() []Member {
	var out []Member
	for i := range n.mesh.hWorld.nodes {
		if i != n.i {
			out = append(out, n.mesh.member(i))
		}
	}
	return out
}

func (n *hNode) Self() Member { return n.mesh.member(n.i) }

func (n *hNode) Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error) {
	for i, k := range n.mesh.hWorld.nodes {
		if k.ID() != to {
			continue
		}
		n.mesh.mu.Lock()
		n.mesh.calls[verb]++
		down := n.mesh.down[i]
		n.mesh.mu.Unlock()
		if down {
			n.mesh.mu.Lock()
			n.mesh.vain++
			n.mesh.mu.Unlock()
			return nil, errors.New("fake: down")
		}
		return n.mesh.nodes[i].answer(ctx, n.self, verb, body)
	}
	return nil, errors.New("fake: no such node")
}

func (m *hMesh) called(verb uint64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[verb]
}

func (m *hMesh) setDown(i int, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down[i] = down
}

// ask sends one call from a node to another and decodes the reply.
func (m *hMesh) ask(from, to int, verb uint64, q, reply key.Body) []byte {
	m.t.Helper()
	b, err := m.nodes[to].answer(context.Background(), m.hWorld.nodes[from].ID(), verb, key.Marshal(q))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := key.Unmarshal(b, reply); err != nil {
		m.t.Fatal(err)
	}
	return b
}

// secret is the world of another secret of the same owner.
func (w *hWorld) secret(name string) *hWorld {
	c := *w
	c.salt = key.T("keymesh/v1/salt", []byte(name))
	c.id = share.ID(c.owner.Public(), c.salt)
	return &c
}

// ownedBy is the world of another owner's secret.
func (w *hWorld) ownedBy(p key.PersonPrivate) *hWorld {
	c := *w
	c.owner = p
	c.id = share.ID(p.Public(), c.salt)
	return &c
}

// prepareAt sends the PREPARE of d from one node to another.
func (m *hMesh) prepareAt(w *hWorld, from, to int, d *hDeal) *custody.PrepareReply {
	m.t.Helper()
	q := &custody.Prepare{Manifest: d.Bytes()}
	if row, ok := d.rows[m.hWorld.nodes[to].ID()]; ok {
		q.Row, q.Payload = row, d.payload
	}
	var r custody.PrepareReply
	m.ask(from, to, custody.VerbPrepare, q, &r)
	return &r
}

func (m *hMesh) commitAt(from, to int, c commitMsg) *custody.CommitReply {
	m.t.Helper()
	var r custody.CommitReply
	m.ask(from, to, custody.VerbCommit, &custody.Commit{Manifest: c.of.Bytes(), Cert: c.bytes, Before: bytesOf(c.before)}, &r)
	return &r
}

// put stores d at its seats, as a writer at node 0 would, and returns the
// certificate.
func (m *hMesh) put(w *hWorld, d *hDeal, before []*hDeal, nodes ...int) commitMsg {
	m.t.Helper()
	cert := &share.CommitCert{Manifest: d.Hash}
	for _, n := range nodes {
		r := m.prepareAt(w, 0, n, d)
		if r.Outcome != custody.OK {
			m.t.Fatalf("PREPARE at %d: %d %s", n, r.Outcome, r.Why)
		}
		o, err := key.DecodeObject(r.Receipt)
		if err != nil {
			m.t.Fatal(err)
		}
		cert.Prepared = append(cert.Prepared, o)
	}
	c := commitMsg{certificate{of: d.version, cert: cert, bytes: cert.Encode()}}
	for _, b := range before {
		c.before = append(c.before, b.version)
	}
	return c
}

func (m *hMesh) commitAll(c commitMsg, nodes ...int) {
	m.t.Helper()
	for _, n := range nodes {
		if r := m.commitAt(0, n, c); r.Outcome != custody.OK {
			m.t.Fatalf("COMMIT at %d: %d %s", n, r.Outcome, r.Why)
		}
	}
}

// query is a good one of this person at this node.
func (m *hMesh) query(p key.PersonPrivate, node int) []byte {
	q := share.Query{Node: m.hWorld.nodes[node].ID(), Expires: uint64(time.Now().Unix()) + 60}
	return share.SignQuery(p, m.net, q).Encode()
}

// requestNow is a good request of this person, and the key that opens what it
// brings.
func (m *hMesh) requestNow(w *hWorld, p key.PersonPrivate, edit func(*share.Request)) (*share.SignedRequest, *seal.PrivateKey) {
	m.t.Helper()
	k, err := seal.GenerateKey()
	if err != nil {
		m.t.Fatal(err)
	}
	now := uint64(time.Now().Unix())
	r := share.Request{ID: w.id, Ephemeral: k.Public(), Verb: share.VerbRecover, Created: now, Expires: now + 600}
	if edit != nil {
		edit(&r)
	}
	return share.SignRequest(p, m.net, r), k
}

func (m *hMesh) recoverAt(node int, r *share.SignedRequest, approvals ...[]byte) (*custody.RecoverReply, []byte) {
	m.t.Helper()
	var out custody.RecoverReply
	b := m.ask(0, node, custody.VerbRecover, &custody.Recover{Request: r.Object.Encode(), Approvals: approvals, Payload: true}, &out)
	return &out, b
}

// opened is the row that a release brought, or nil.
func (m *hMesh) opened(node int, d *hDeal, r *share.SignedRequest, k *seal.PrivateKey, out *custody.RecoverReply) []byte {
	m.t.Helper()
	rel, err := share.OpenRelease(m.net, out.Release)
	if err != nil {
		m.t.Fatal(err)
	}
	id := m.hWorld.nodes[node].ID()
	if rel.Node != id || rel.Request != r.Hash || rel.Manifest != d.Hash || rel.X == 0 || rel.X != d.SeatOf(id).X {
		m.t.Fatalf("release %+v", rel)
	}
	row, err := k.Open(seal.Info(seal.PurposeRelease, rel.Manifest, rel.X, rel.Epoch, id, r.Hash), out.Box)
	if err != nil {
		return nil
	}
	return slices.Clone(row)
}
