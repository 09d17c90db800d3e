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
