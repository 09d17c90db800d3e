package roster

import (
	"bytes"
	"errors"
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
