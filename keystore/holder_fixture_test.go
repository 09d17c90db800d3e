package keystore

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// hWorld is a network of nodes with known keys and one owner, for tests of the
// holder. Everything in it is the same in every run.
type hWorld struct {
	net   key.NetworkID
	nodes []key.NodePrivate
	owner key.PersonPrivate
	other key.PersonPrivate // an approver
	salt  key.Hash
	id    key.Hash
}

const hNow = 1_800_000_000

func hSeed(label string, i int) []byte {
	h := key.T("keymesh/v1/test", []byte(label), key.U64(uint64(i)))
	return h[:]
}

func newHWorld(t rapid.TB, n int) *hWorld {
	t.Helper()
	w := &hWorld{net: key.NetworkID{7}}
	for i := range n {
		k, err := key.NodeFromSeed(hSeed("node", i))
		if err != nil {
			t.Fatal(err)
		}
		w.nodes = append(w.nodes, k)
	}
	w.owner, w.other = hPerson(t, 1), hPerson(t, 2)
	w.salt = key.T("keymesh/v1/salt", []byte("test"))
	w.id = share.ID(w.owner.Public(), w.salt)
	return w
}

func hPerson(t rapid.TB, i int) key.PersonPrivate {
	t.Helper()
	p, err := key.PersonFromSeed(hSeed("person", i))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// hDeal is a manifest with its rows.
type hDeal struct {
	*version
	rows    map[key.NodeID][]byte
	payload []byte
}

// hSpec is what a test wants of a manifest. Zero fields: 2 of 3 with w = 3 on
// the first nodes, policy owner.
type hSpec struct {
	gen   uint64
	prev  *hDeal
	force []*hDeal
	k, w  uint8
	seats []int // nodes
	tag   string
	pol   *policy.Policy
	edit  func(*share.Manifest)
}

func (w *hWorld) deal(t rapid.TB, s hSpec) *hDeal {
	t.Helper()
	if s.seats == nil {
		s.seats = []int{0, 1, 2}
	}
	if s.k == 0 {
		s.k = 2
	}
	if s.w == 0 {
		s.w = uint8(share.DefaultW(len(s.seats), int(s.k)))
	}
	if s.pol == nil {
		s.pol = policy.Owner()
	}
	d := &hDeal{rows: map[key.NodeID][]byte{}, payload: bytes.Repeat([]byte(fmt.Sprintf("%s/%d.", s.tag, s.gen)), 9)}
	m := share.Manifest{
		ID: w.id, Owner: w.owner.Public(), Salt: w.salt, Gen: s.gen, Suite: share.SuiteShamir, K: s.k, W: s.w,
		Payload: sha256.Sum256(d.payload), Length: uint64(len(d.payload)), Policy: s.pol.Encode(), Created: hNow,
	}
	if s.prev != nil {
		m.Prev = s.prev.Hash
	}
	for _, f := range s.force {
		m.Force = append(m.Force, f.Hash)
	}
	for i, n := range s.seats {
		id, x := w.nodes[n].ID(), uint8(i+1)
		row := bytes.Repeat(hSeed(s.tag, n), int(s.k))
		d.rows[id] = row
		m.Seats = append(m.Seats, share.Seat{X: x, Node: id, C: share.RowCommitment(m.Context(), x, s.k, row)})
	}
	if s.edit != nil {
		s.edit(&m)
	}
	signed, err := share.SignManifest(w.owner, w.net, m)
	if err != nil {
		t.Fatal(err)
	}
	d.version = newVersion(signed)
	return d
}

func (w *hWorld) facts(node int) holderFacts {
	return holderFacts{
		net: w.net, self: w.nodes[node].ID(), now: hNow, operator: "op",
		full: func(demand) string { return "" },
	}
}

func (w *hWorld) fresh() *secretState { return &secretState{id: w.id} }

// msg is the PREPARE of d to a node.
func (w *hWorld) msg(d *hDeal, node int) prepareMsg {
	p := prepareMsg{m: d.version}
	if row, ok := d.rows[w.nodes[node].ID()]; ok {
		p.row, p.payload = row, d.payload
	}
	return p
}

// receipt is what a node that follows the rules signs for d.
func (w *hWorld) receipt(d *hDeal, node int) key.Object {
	r := share.Receipt{Manifest: d.Hash, Time: hNow}
	if s := d.SeatOf(w.nodes[node].ID()); s != nil {
		r.X = s.X
	}
	return share.SignReceipt(w.nodes[node], w.net, key.TypePrepared, r)
}

// cert is the certificate of d with receipts of these nodes.
func (w *hWorld) cert(d *hDeal, before []*hDeal, nodes ...int) commitMsg {
	c := &share.CommitCert{Manifest: d.Hash}
	for _, n := range nodes {
		c.Prepared = append(c.Prepared, w.receipt(d, n))
	}
	out := certificate{of: d.version, cert: c, bytes: c.Encode()}
	for _, b := range before {
		out.before = append(out.before, b.version)
	}
	return commitMsg{out}
}

// must runs a step that has to succeed and returns the state as it would be
// read back from disk.
func (w *hWorld) must(t rapid.TB, s *secretState, r stepResult) *secretState {
	t.Helper()
	if r.outcome != custody.OK {
		t.Fatalf("outcome %d: %s", r.outcome, r.why)
	}
	return w.reload(t, s, r)
}

// reload is a crash after the step: all that is known afterwards is what was
// written.
func (w *hWorld) reload(t rapid.TB, s *secretState, r stepResult) *secretState {
	t.Helper()
	if r.next == nil {
		return s
	}
	recs := r.records()
	var rec stateRecord
	last := recs[len(recs)-1]
	if last.Place != statePlace(w.id) {
		t.Fatalf("the state is not the last record: %+v", last.Place)
	}
	if err := key.Unmarshal(last.Value, &rec); err != nil {
		t.Fatal(err)
	}
	out, err := stateOf(w.net, w.id, &rec, func(b []byte) (*version, error) { return readVersion(w.net, b) })
	if err != nil {
		t.Fatal(err)
	}
	if again := key.Marshal(out.record()); !bytes.Equal(again, last.Value) {
		t.Fatalf("a state does not survive its record:\n%x\n%x", last.Value, again)
	}
	return out
}

// refused runs a step that must not succeed nor change anything.
func refused(t rapid.TB, r stepResult, outcome uint8) {
	t.Helper()
	if r.outcome != outcome {
		t.Fatalf("outcome %d instead of %d: %s", r.outcome, outcome, r.why)
	}
	if r.sign != nil || r.next != nil || len(r.records()) != 0 {
		t.Fatalf("refused (%s), but signed or wrote something", r.why)
	}
}

// committed1 is a node at which generation 1 of the default shape is committed.
func (w *hWorld) committed1(t rapid.TB, node int) (*secretState, *hDeal) {
	t.Helper()
	d := w.deal(t, hSpec{gen: 1, tag: "one"})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(node), w.msg(d, node)))
	return w.must(t, s, s.commit(w.facts(node), w.cert(d, nil, 0, 1, 2))), d
}

func (w *hWorld) tomb(t rapid.TB, gen uint64, scope uint8) *tomb {
	t.Helper()
	o := share.SignTombstone(w.owner, w.net, share.Tombstone{ID: w.id, Gen: gen, Scope: scope, Time: hNow, Owner: w.owner.Public(), Salt: w.salt})
	out, err := newTomb(w.net, o.Body)
	if err != nil {
		t.Fatal(err)
	}
	out.object = o.Encode()
	return out
}

func (w *hWorld) request(t rapid.TB, by key.PersonPrivate, r share.Request, approvers ...key.PersonPublic) *consent {
	t.Helper()
	r.ID, r.Created = w.id, hNow
	if r.Expires == 0 {
		r.Expires = hNow + share.RequestLifeOwner
	}
	return &consent{SignedRequest: share.SignRequest(by, w.net, r), approvers: approvedBy(approvers...)}
}

// approvedBy are the approvals of those of them that are parties.
func approvedBy(all ...key.PersonPublic) func(func(key.PersonPublic) bool) []key.PersonPublic {
	return func(party func(key.PersonPublic) bool) []key.PersonPublic {
		return slices.DeleteFunc(slices.Clone(all), func(p key.PersonPublic) bool { return !party(p) })
	}
}

// deleted reports whether the step deletes the row of d.
func deleted(r stepResult, d *hDeal) bool {
	return slices.ContainsFunc(r.records(), func(rec share.Record) bool {
		return rec.Place.Bucket == share.BucketRow && rec.Place.Sub == d.Hash && rec.Value == nil
	})
}
