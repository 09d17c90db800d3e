package roster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keymesh/crypto/key"
)

// now is the time of all tests: nothing here looks at a clock.
var now = time.Unix(1_800_000_000, 0)

func unix(d time.Duration) uint64 { return uint64(now.Add(d).Unix()) }

const day = 24 * time.Hour

// seeded keys make the golden vectors.
func authority(t testing.TB, b byte) key.AuthorityPrivate {
	t.Helper()
	k, err := key.AuthorityFromSeed(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func node(t testing.TB, b byte) key.NodePrivate {
	t.Helper()
	k, err := key.NodeFromSeed(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func person(t testing.TB, b byte) key.PersonPrivate {
	t.Helper()
	k, err := key.PersonFromSeed(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must(t testing.TB) func(key.Object, error) key.Object {
	return func(o key.Object, err error) key.Object {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
}

// world is a network with one issuer and one node.
type world struct {
	t      testing.TB
	na     key.AuthorityPrivate
	issuer key.AuthorityPrivate
	net    key.NetworkID
	cert   key.Object
	node   key.NodePrivate
	member key.Object
	person key.PersonPrivate
}

func newWorld(t testing.TB, seed byte) *world {
	w := &world{t: t, na: authority(t, seed), issuer: authority(t, seed+1), node: node(t, seed+2), person: person(t, seed+3)}
	w.net = w.na.Public().Network()
	w.cert = w.delegate(w.issuer, 365*day)
	w.member = w.certify(w.node.ID(), 30*day)
	return w
}

func (w *world) delegate(i key.AuthorityPrivate, life time.Duration) key.Object {
	w.t.Helper()
	return must(w.t)(NewIssuerCert(w.na, IssuerCert{Issuer: i.Public(), NotBefore: unix(-day), Expires: unix(life), Serial: 7}))
}

func (w *world) certify(id key.NodeID, life time.Duration) key.Object {
	w.t.Helper()
	return must(w.t)(NewMemberCert(w.issuer, w.net, MemberCert{
		Node: id, Name: "alpha-1", Roles: Holder | Client, Operator: "alice", Zone: "fra", Capacity: 1 << 30,
		NotBefore: unix(min(-day, life-2*day)), Expires: unix(life), Serial: 9,
	}))
}

func (w *world) body(seq uint64) NodeRecord {
	b := must(w.t)(NewPersonBinding(w.person, w.net, PersonBinding{Node: w.node.ID(), NotBefore: unix(-day), Expires: unix(30 * day)}))
	return NodeRecord{
		Seq: seq, Addrs: []string{"ws://10.0.0.1:7946", "node.example.org:443"}, Sealing: SealingHash([]byte("sealing key")),
		Bindings: []key.Object{b}, Member: w.member, Issuer: w.cert, Features: FeatureIssuer, Expires: unix(day),
	}
}

func (w *world) record(seq uint64) *Record {
	w.t.Helper()
	r, err := NewNodeRecord(w.node, w.net, w.body(seq))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// sign makes a record without the checks of NewNodeRecord.
func (w *world) sign(r NodeRecord) key.Object {
	return key.Sign(w.node, w.net, key.TypeNodeRecord, key.Marshal(&r))
}

func TestChain(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 101)
	c, err := VerifyChain(w.net, w.member, w.cert)
	if err != nil {
		t.Fatal(err)
	}
	if c.Member.Operator != "alice" || c.Expired(now) || !c.Expired(now.Add(30*day)) || c.Expired(now.Add(30*day-time.Second)) {
		t.Errorf("%+v", c)
	}
	short := w.delegate(w.issuer, 5*day)
	if c, err := VerifyChain(w.net, w.member, short); err != nil || !c.Expires().Equal(now.Add(5*day)) {
		t.Errorf("the issuer ends first: %v %v", c.Expires(), err)
	}
	forged := w.cert
	forged.Key = [32]byte(w.issuer.Public())
	for name, v := range map[string]struct {
		net            key.NetworkID
		member, issuer key.Object
		want           error
	}{
		"another network":           {other.net, w.member, w.cert, ErrNetwork},
		"another network's issuer":  {w.net, w.member, other.cert, ErrNetwork},
		"another issuer's member":   {w.net, other.member, w.cert, ErrChain},
		"swapped":                   {w.net, w.cert, w.member, ErrNetwork},
		"issuer signs itself":       {w.net, w.member, key.Sign(w.issuer, w.net, key.TypeIssuerCert, w.cert.Body), ErrNetwork},
		"the key of another":        {w.net, w.member, forged, ErrNetwork},
		"member as issuer":          {w.net, w.member, key.Sign(w.na, w.net, key.TypeIssuerCert, w.member.Body), key.ErrEncoding},
		"issuer certificate twice":  {w.net, w.cert, w.cert, ErrChain},
		"signed for another net":    {w.net, key.Sign(w.issuer, other.net, key.TypeMemberCert, w.member.Body), w.cert, ErrChain},
		"signed as another type":    {w.net, key.Sign(w.issuer, w.net, key.TypeNodeRecord, w.member.Body), w.cert, ErrChain},
		"signed by the node itself": {w.net, key.Sign(w.node, w.net, key.TypeMemberCert, w.member.Body), w.cert, ErrChain},
		"nothing":                   {w.net, key.Object{}, key.Object{}, ErrNetwork},
	} {
		if _, err := VerifyChain(v.net, v.member, v.issuer); !errors.Is(err, v.want) {
			t.Errorf("%s: %v, want %v", name, err, v.want)
		}
	}
}

func TestCertificateFields(t *testing.T) {
	w := newWorld(t, 1)
	good := MemberCert{Node: w.node.ID(), Name: "a", Roles: Relay, Operator: "o", NotBefore: 100, Expires: 200}
	if _, err := NewMemberCert(w.issuer, w.net, good); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 64)
	for name, change := range map[string]func(*MemberCert){
		"no node":        func(c *MemberCert) { c.Node = key.NodeID{} },
		"no name":        func(c *MemberCert) { c.Name = "" },
		"long name":      func(c *MemberCert) { c.Name = long },
		"capital":        func(c *MemberCert) { c.Name = "A" },
		"dot in a name":  func(c *MemberCert) { c.Name = "a.b" },
		"control":        func(c *MemberCert) { c.Name = "a\x00" },
		"no operator":    func(c *MemberCert) { c.Operator = "" },
		"long operator":  func(c *MemberCert) { c.Operator = long },
		"blank operator": func(c *MemberCert) { c.Operator = "a b" },
		"umlaut zone":    func(c *MemberCert) { c.Zone = "zürich" },
		"no role":        func(c *MemberCert) { c.Roles = 0 },
		"unknown role":   func(c *MemberCert) { c.Roles = 8 },
		"ends at start":  func(c *MemberCert) { c.Expires = c.NotBefore },
		"ends before":    func(c *MemberCert) { c.NotBefore = 300 },
		"over 90 days":   func(c *MemberCert) { c.Expires = c.NotBefore + 90*86400 + 1 },
		"year 10000":     func(c *MemberCert) { c.NotBefore, c.Expires = maxTime, maxTime+1 },
	} {
		c := good
		change(&c)
		if _, err := NewMemberCert(w.issuer, w.net, c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s is signed: %v", name, err)
		}
		o := key.Sign(w.issuer, w.net, key.TypeMemberCert, key.Marshal(&c))
		if _, err := VerifyChain(w.net, o, w.cert); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s is accepted: %v", name, err)
		}
	}
	for name, c := range map[string]IssuerCert{
		"low-order key": {Issuer: key.AuthorityPublic{1}, NotBefore: 1, Expires: 2},
		"eleven years":  {Issuer: w.issuer.Public(), NotBefore: 0, Expires: 11 * 366 * 86400},
	} {
		if _, err := NewIssuerCert(w.na, c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBindings(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 101)
	bind := func(p key.PersonPrivate, net key.NetworkID, b PersonBinding) key.Object {
		return must(t)(NewPersonBinding(p, net, b))
	}
	good := PersonBinding{Node: w.node.ID(), NotBefore: unix(-day), Expires: unix(day)}
	r := w.record(1)
	if p := r.Persons(now); len(p) != 1 || p[0] != w.person.Public() {
		t.Errorf("persons %v", p)
	}
	if p := r.Persons(now.Add(31 * day)); len(p) != 0 {
		t.Errorf("an expired binding counts: %v", p)
	}
	elsewhere := good
	elsewhere.Node = other.node.ID()
	stolen := good
	stolen.Person = other.person.Public()
	for name, o := range map[string]key.Object{
		"of another node":     bind(w.person, w.net, elsewhere),
		"of another network":  bind(w.person, other.net, good),
		"by another person":   key.Sign(w.person, w.net, key.TypePersonBinding, key.Marshal(&stolen)),
		"by the node":         key.Sign(w.node, w.net, key.TypePersonBinding, key.Marshal(&good)),
		"another type":        key.Sign(w.person, w.net, key.TypeMemberCert, key.Marshal(&good)),
		"nothing":             {},
		"a member's own cert": w.member,
	} {
		b := w.body(1)
		b.Bindings = []key.Object{o}
		if _, err := NewNodeRecord(w.node, w.net, b); err == nil {
			t.Errorf("a binding %s was accepted", name)
		}
	}
}

// TestEveryByte flips each byte of a record and wants it refused.
func TestEveryByte(t *testing.T) {
	w := newWorld(t, 1)
	whole := w.record(1).Object.Encode()
	if len(whole) > MaxRecordSize {
		t.Fatalf("%d bytes", len(whole))
	}
	for i := range whole {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(whole)
			b[i] ^= bit
			o, err := key.DecodeObject(b)
			if err != nil {
				continue
			}
			if _, err := VerifyRecord(w.net, o); err == nil {
				t.Errorf("byte %d flipped by %#x: accepted", i, bit)
			}
		}
	}
}

func TestRecordFields(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 101)
	if r := w.record(1); r.ID() != w.node.ID() || r.Public != w.node.Public() || !r.IsIssuer() || r.Expired(now) || !r.Expired(now.Add(day)) {
		t.Errorf("%+v", r)
	}
	for name, change := range map[string]func(*NodeRecord){
		"seq 0":               func(r *NodeRecord) { r.Seq = 0 },
		"nine addresses":      func(r *NodeRecord) { r.Addrs = slices.Repeat([]string{"a:1"}, 9) },
		"five bindings":       func(r *NodeRecord) { r.Bindings = slices.Repeat(r.Bindings, 5) },
		"another's member":    func(r *NodeRecord) { r.Member = w.certify(other.node.ID(), day) },
		"another's issuer":    func(r *NodeRecord) { r.Issuer = other.cert },
		"no certificates":     func(r *NodeRecord) { r.Member, r.Issuer = key.Object{}, key.Object{} },
		"another node's id":   func(r *NodeRecord) { r.Node = other.node.ID() },
		"a critical ext":      func(r *NodeRecord) { r.Ext = map[uint64][]byte{2: nil} },
		"over 1.5 KiB":        func(r *NodeRecord) { r.Ext = map[uint64][]byte{3: make([]byte, 900)} },
		"never ends":          func(r *NodeRecord) { r.Expires = maxTime + 1 },
		"an address too long": func(r *NodeRecord) { r.Addrs = []string{strings.Repeat("a", 254) + ":1"} },
	} {
		b := w.body(1)
		b.Node = w.node.ID()
		change(&b)
		if _, err := VerifyRecord(w.net, w.sign(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b := w.body(1)
	b.Node, b.Ext = w.node.ID(), map[uint64][]byte{3: []byte("kept"), 31: nil}
	r, err := VerifyRecord(w.net, w.sign(b))
	if err != nil || string(r.Body.Ext[3]) != "kept" {
		t.Errorf("an odd extension: %v", err)
	}
	if _, err := VerifyAfter(w.net, r.Object, w.record(1)); err != nil {
		t.Errorf("after another record: %v", err)
	}
	forged := r.Object
	forged.Sig = bytes.Clone(forged.Sig)
	forged.Sig[20] ^= 1
	if _, err := VerifyAfter(w.net, forged, r); err == nil {
		t.Error("a forged signature is accepted after a good record")
	}
	swapped := w.body(2)
	swapped.Member.Sig = bytes.Clone(swapped.Member.Sig)
	swapped.Member.Sig[20] ^= 1
	swapped.Node = w.node.ID()
	if _, err := VerifyAfter(w.net, w.sign(swapped), r); err == nil {
		t.Error("a forged certificate is accepted after a good one")
	}
}

func TestAddresses(t *testing.T) {
	for _, a := range []string{"a:1", "ws://a:1", "wss://a.example.org:443", "10.0.0.1:65535", "[2001:db8::1]:7946", "ws://[::1]:1", "node_1:5"} {
		if err := CheckAddr(a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{
		"", ":1", "a", "a:", "a:0", "a:65536", "a:01", "a:-1", "a:1/", "a:1/x", "http://a:1", "ws://", "ws://ws://a:1", "wss://wss://a:1", "WS://a:1",
		"a b:1", "a\n:1", "user@a:1", "a:1?x", "a:1#x", "ü:1", "[fe80::1%eth0]:1", "[::1:1", "::1:1", "[1.2.3.4]:1", "[]:1", "a:1 ", "%61:1",
	} {
		if CheckAddr(a) == nil {
			t.Errorf("%q is accepted", a)
		}
	}
}

func TestAcceptedIff(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 101)
	r := New(w.net)
	accept := func(b NodeRecord, at time.Time) error {
		b.Node = w.node.ID()
		_, err := r.Accept(w.sign(b), at)
		return err
	}
	ends := func(b NodeRecord, at time.Duration) NodeRecord { b.Expires = unix(at); return b }
	for i, c := range []struct {
		body NodeRecord
		want error
	}{
		{ends(w.body(5), 26*time.Hour+time.Second), ErrFuture},
		{ends(w.body(5), -HintLife-time.Second), ErrStale},
		{ends(w.body(5), 26*time.Hour), nil},
		{w.body(5), ErrOld},
		{w.body(4), ErrOld},
		{ends(w.body(6), -day), nil}, // over, but newer: a better dial hint
		{w.body(7), nil},
	} {
		if err := accept(c.body, now); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%d: %v, want %v", i, err, c.want)
		}
	}
	if got := r.Get(w.node.ID()).Body.Seq; got != 7 || r.Len() != 1 {
		t.Errorf("seq %d of %d", got, r.Len())
	}
	if _, err := r.Accept(other.record(1).Object, now); !errors.Is(err, ErrNetwork) {
		t.Errorf("another network: %v", err)
	}
	lapsed := w.body(8)
	lapsed.Member = w.certify(w.node.ID(), -time.Hour)
	if err := accept(lapsed, now); err != nil || !r.Get(w.node.ID()).Chain.Expired(now) {
		t.Errorf("a lapsed member: %v", err)
	}
	if got := r.Live(now); got != 1 {
		t.Errorf("%d live", got)
	}
	if got := r.Live(now.Add(2 * day)); got != 0 {
		t.Errorf("%d live after the record ended", got)
	}
	if ids := r.Prune(now.Add(HintLife)); len(ids) != 0 {
		t.Errorf("pruned %v within the year", ids)
	}
	if ids := r.Prune(now.Add(HintLife + 2*day)); len(ids) != 1 || r.Len() != 0 {
		t.Errorf("pruned %v", ids)
	}
}

func TestHighestBeginning(t *testing.T) {
	w := newWorld(t, 1)
	r := New(w.net)
	if !r.NotBefore().IsZero() {
		t.Error("a beginning out of nothing")
	}
	if _, err := r.Accept(w.record(1).Object, now); err != nil {
		t.Fatal(err)
	}
	if got := r.NotBefore(); !got.Equal(now.Add(-day)) {
		t.Errorf("%v", got)
	}
	r.SawTime(now.Add(-2 * day))
	if got := r.NotBefore(); !got.Equal(now.Add(-day)) {
		t.Errorf("went back to %v", got)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t, 1)
	second := authority(t, 50)
	secondCert := w.delegate(second, 365*day)
	victim := w.node.ID()
	list := func(k key.AuthorityPrivate, seq uint64, issuers []key.AuthorityPublic, nodes ...key.NodeID) key.Object {
		slices.SortFunc(nodes, func(a, b key.NodeID) int { return bytes.Compare(a[:], b[:]) })
		return must(t)(NewRevocation(k, w.net, Revocation{Seq: seq, Nodes: nodes, Issuers: issuers}))
	}
	a, b := node(t, 60).ID(), node(t, 61).ID()

	r := New(w.net)
	if _, err := r.Accept(w.record(1).Object, now); err != nil {
		t.Fatal(err)
	}
	before := r.Digest()
	if err := r.Revoke(Item{Object: list(w.issuer, 2, nil, victim, a), Issuer: w.cert}); err != nil {
		t.Fatal(err)
	}
	if !r.RevokedNode(victim) || !r.RevokedNode(a) || r.RevokedNode(b) || r.Live(now) != 0 {
		t.Error("who is revoked is not as the list says")
	}
	if r.Digest() == before {
		t.Error("the digest did not change")
	}
	if _, err := r.Accept(w.record(9).Object, now); !errors.Is(err, ErrRevoked) {
		t.Errorf("a record of a revoked node: %v", err)
	}
	if r.Wants(Have{ID: key.Hash(victim), Seq: 99}) {
		t.Error("it asks for a revoked node's record")
	}
	for name, c := range map[string]struct {
		it   Item
		want error
	}{
		"the same seq":          {Item{Object: list(w.issuer, 2, nil, victim, a, b), Issuer: w.cert}, ErrOld},
		"takes something back":  {Item{Object: list(w.issuer, 3, nil, a), Issuer: w.cert}, ErrInvalid},
		"without a certificate": {Item{Object: list(w.issuer, 3, nil, victim, a)}, ErrNetwork},
		"another's certificate": {Item{Object: list(w.issuer, 3, nil, victim, a), Issuer: secondCert}, ErrChain},
		"issuers by an issuer":  {Item{Object: key.Sign(w.issuer, w.net, key.TypeRevocation, key.Marshal(&Revocation{Seq: 9, Nodes: []key.NodeID{victim, a}, Issuers: []key.AuthorityPublic{second.Public()}})), Issuer: w.cert}, ErrChain},
		"out of order":          {Item{Object: key.Sign(w.na, w.net, key.TypeRevocation, key.Marshal(&Revocation{Seq: 9, Nodes: []key.NodeID{{2}, {1}}}))}, ErrInvalid},
		"by a stranger":         {Item{Object: list(authority(t, 99), 3, nil, b)}, ErrNetwork},
	} {
		if err := r.Revoke(c.it); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := r.Revoke(Item{Object: list(second, 1, nil, b), Issuer: secondCert}); err != nil || !r.RevokedNode(b) {
		t.Errorf("another issuer's list: %v", err)
	}
	// The authority voids an issuer: its list does not count any more.
	if err := r.Revoke(Item{Object: list(w.na, 1, []key.AuthorityPublic{second.Public()}, a)}); err != nil {
		t.Fatal(err)
	}
	if r.RevokedNode(b) || !r.RevokedNode(a) {
		t.Error("a revoked issuer's list counts")
	}
	if err := r.Revoke(Item{Object: list(second, 2, nil, a, b), Issuer: secondCert}); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked issuer goes on: %v", err)
	}
	if got := r.Revocations(w.issuer.Public()); got.Seq != 2 || len(got.Nodes) != 2 {
		t.Errorf("%+v", got)
	}
	if _, err := NewRevocation(w.issuer, w.net, Revocation{Seq: 1, Issuers: []key.AuthorityPublic{second.Public()}}); !errors.Is(err, ErrChain) {
		t.Errorf("an issuer signs a list of issuers: %v", err)
	}
	if it, ok := r.Item(Revoker(w.issuer.Public())); !ok || VerifyOnly(w.net, it) != nil {
		t.Error("the list cannot be passed on")
	}
}

// VerifyOnly drops the body.
func VerifyOnly(net key.NetworkID, it Item) error {
	_, err := VerifyRevocation(net, it.Object, it.Issuer)
	return err
}

func TestIssuerRevokedTakesItsMembers(t *testing.T) {
	w := newWorld(t, 1)
	r := New(w.net)
	if _, err := r.Accept(w.record(1).Object, now); err != nil {
		t.Fatal(err)
	}
	o := must(t)(NewRevocation(w.na, w.net, Revocation{Seq: 1, Issuers: []key.AuthorityPublic{w.issuer.Public()}}))
	if err := r.Revoke(Item{Object: o}); err != nil {
		t.Fatal(err)
	}
	if !r.RevokedNode(w.node.ID()) {
		t.Error("a member of a revoked issuer stays")
	}
	if _, err := r.Accept(w.record(2).Object, now); !errors.Is(err, ErrRevoked) {
		t.Errorf("%v", err)
	}
}

func TestDigest(t *testing.T) {
	w := newWorld(t, 1)
	a, b := New(w.net), New(w.net)
	if a.Digest() != (Digest{}) {
		t.Error("an empty roster has a digest")
	}
	var recs []key.Object
	for i := range byte(20) {
		k := node(t, 100+i)
		m := w.certify(k.ID(), day)
		r, err := NewNodeRecord(k, w.net, NodeRecord{Seq: 1, Member: m, Issuer: w.cert, Expires: unix(day)})
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, r.Object)
	}
	for i := range recs {
		if _, err := a.Accept(recs[i], now); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Accept(recs[len(recs)-1-i], now); err != nil {
			t.Fatal(err)
		}
	}
	da, db := a.Digest(), b.Digest()
	if da != db || len(da.Differ(&db)) != 0 {
		t.Error("the order of arrival shows")
	}
	if _, err := a.Accept(w.record(3).Object, now); err != nil {
		t.Fatal(err)
	}
	da = a.Digest()
	diff := da.Differ(&db)
	id := w.node.ID()
	if len(diff) != 1 || diff[0] != id[0] {
		t.Fatalf("differ in %v, want %d", diff, id[0])
	}
	var want []Have
	for _, h := range a.Haves(diff) {
		if b.Wants(h) {
			want = append(want, h)
		}
		if a.Wants(h) {
			t.Errorf("it wants what it has: %v", h)
		}
	}
	if len(want) != 1 || want[0].ID != key.Hash(id) || want[0].Seq != 3 {
		t.Errorf("b wants %v", want)
	}
	if len(a.Haves(nil)) != 0 {
		t.Error("no bucket has items")
	}
	if got := a.All(); len(got) != 21 || !slices.IsSortedFunc(got, func(x, y *Record) int { return bytes.Compare(x.Body.Node[:], y.Body.Node[:]) }) {
		t.Error("not all, or not in order")
	}
}

func ticket(t testing.TB) Ticket {
	return Ticket{
		ID: bytes.Repeat([]byte{1}, 16), Issuer: node(t, 3).ID(), Addrs: []string{"ws://10.0.0.1:7946"}, Secret: bytes.Repeat([]byte{2}, 16),
		Network: authority(t, 1).Public().Network(), Operator: "bob", Roles: Holder | Client, Capacity: 1 << 30, Expires: unix(day),
	}
}

func TestTicketText(t *testing.T) {
	tk := ticket(t)
	text, err := tk.Text()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(text, " \n") || !bytes.HasPrefix(text, []byte(TicketPrefix)) {
		t.Errorf("%q", text)
	}
	got, err := ParseTicket(append([]byte("  "), append(text, "\r\n"...)...))
	if err != nil || !bytes.Equal(key.Marshal(&got), key.Marshal(&tk)) {
		t.Fatalf("%v", err)
	}
	for i := range text {
		b := bytes.Clone(text)
		b[i] ^= 1
		if _, err := ParseTicket(b); !errors.Is(err, ErrTicket) || strings.Contains(err.Error(), string(text[20:30])) {
			t.Errorf("digit %d changed: %v", i, err)
		}
		if _, err := ParseTicket(text[:i]); !errors.Is(err, ErrTicket) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	for name, change := range map[string]func(*Ticket){
		"short id":      func(x *Ticket) { x.ID = x.ID[1:] },
		"short secret":  func(x *Ticket) { x.Secret = x.Secret[1:] },
		"no address":    func(x *Ticket) { x.Addrs = nil },
		"nine":          func(x *Ticket) { x.Addrs = slices.Repeat(x.Addrs, 9) },
		"bad address":   func(x *Ticket) { x.Addrs = []string{"x"} },
		"no operator":   func(x *Ticket) { x.Operator = "" },
		"no roles":      func(x *Ticket) { x.Roles = 0 },
		"never expires": func(x *Ticket) { x.Expires = maxTime + 1 },
	} {
		x := tk
		change(&x)
		if _, err := x.Text(); !errors.Is(err, ErrTicket) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		if s := fmt.Sprintf(f, tk); s != "[redacted]" {
			t.Errorf("%s prints %q", f, s)
		}
	}
	if _, err := tk.MarshalText(); err == nil {
		t.Error("it marshals itself")
	}
	if tk.Expired(now) || !tk.Expired(now.Add(day)) {
		t.Error("expiry")
	}
}

func TestTicketMAC(t *testing.T) {
	tk := ticket(t)
	id, e := node(t, 9).ID(), make([]byte, 32)
	mac := tk.MAC(e, id)
	other := tk
	other.Secret = bytes.Repeat([]byte{3}, 16)
	for name, m := range map[string][]byte{
		"another exporter": tk.MAC(bytes.Repeat([]byte{1}, 32), id), "another node": tk.MAC(e, node(t, 8).ID()), "another secret": other.MAC(e, id),
	} {
		if bytes.Equal(m, mac) {
			t.Errorf("%s: the same MAC", name)
		}
	}
}
