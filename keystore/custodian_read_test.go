package keystore

import (
	"bytes"
	"context"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// stored1 is a mesh of three custodians with one committed secret.
func stored1(t *testing.T, pol *policy.Policy) (*hMesh, *hDeal) {
	t.Helper()
	m := newHMesh(t, 3, Limits{})
	d := m.deal(t, hSpec{gen: 1, pol: pol})
	m.commitAll(m.put(m.hWorld, d, nil, 0, 1, 2), 0, 1, 2)
	return m, d
}

// TestCustodianStranger: who is no party gets, byte for byte, what an unknown
// id gives, from every verb that reads, and leaves nothing behind.
func TestCustodianStranger(t *testing.T) {
	m, _ := stored1(t, nil)
	stranger := hPerson(t, 66)
	unknown := m.secret("never stored")
	before := m.nodes[1].shelf.commits
	var answers [2][][]byte
	for i, w := range []*hWorld{m.hWorld, unknown} {
		var l custody.LocateReply
		answers[i] = append(answers[i], m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: w.id, Query: m.query(stranger, 1)}, &l))
		if l.Outcome != custody.Denied {
			t.Errorf("LOCATE %d: outcome %d", i, l.Outcome)
		}
		r, _ := m.requestNow(w, stranger, nil)
		out, b := m.recoverAt(1, r)
		if out.Outcome != custody.Denied {
			t.Errorf("RECOVER %d: outcome %d", i, out.Outcome)
		}
		answers[i] = append(answers[i], b)
	}
	for i, owner := range []key.PersonPublic{m.owner.Public(), hPerson(t, 67).Public()} {
		var l custody.ListReply
		answers[i] = append(answers[i], m.ask(0, 1, custody.VerbList, &custody.List{Owner: owner, Limit: 10, Query: m.query(stranger, 1)}, &l))
		if l.Outcome != custody.Denied {
			t.Errorf("LIST %d: outcome %d", i, l.Outcome)
		}
	}
	for i := range answers[0] {
		if !bytes.Equal(answers[0][i], answers[1][i]) {
			t.Errorf("answer %d tells a secret from none:\n%x\n%x", i, answers[0][i], answers[1][i])
		}
	}
	if m.nodes[1].shelf.commits != before {
		t.Error("a stranger left something on the disk")
	}
	var p custody.PassReply
	m.ask(0, 1, custody.VerbPass, &custody.Pass{Items: []custody.PassItem{{ID: m.id, Hash: key.Hash{1}}, {ID: unknown.id, Hash: key.Hash{1}}, {ID: unknown.id}}}, &p)
	if len(p.Missing) != 3 {
		t.Errorf("PASS tells a stranger %v", p.Missing)
	}
}

// TestCustodianQuery: a query that is not this person's, for this node, now.
func TestCustodianQuery(t *testing.T) {
	m, d := stored1(t, nil)
	now := uint64(time.Now().Unix())
	self := m.hWorld.nodes[1].ID()
	good := share.Query{Node: self, Expires: now + 60}
	lied := good
	lied.Person = m.owner.Public()
	for name, q := range map[string][]byte{
		"for another node":    m.query(m.owner, 2),
		"of another network":  share.SignQuery(m.owner, key.NetworkID{9}, good).Encode(),
		"expired":             share.SignQuery(m.owner, m.net, share.Query{Node: self, Expires: now - 3600}).Encode(),
		"for a whole day":     share.SignQuery(m.owner, m.net, share.Query{Node: self, Expires: now + 86400}).Encode(),
		"in the owner's name": key.Sign(hPerson(t, 66), m.net, key.TypeQuery, key.Marshal(&lied)).Encode(),
		"another object":      d.Bytes(),
		"empty":               nil,
	} {
		var l custody.LocateReply
		if m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: m.id, Query: q}, &l); l.Outcome != custody.Refused || len(l.State.Manifest) != 0 {
			t.Errorf("LOCATE with a query %s: outcome %d", name, l.Outcome)
		}
		var p custody.ListReply
		if m.ask(0, 1, custody.VerbList, &custody.List{Owner: m.owner.Public(), Limit: 10, Query: q}, &p); p.Outcome != custody.Refused || len(p.Items) != 0 {
			t.Errorf("LIST with a query %s: outcome %d", name, p.Outcome)
		}
	}
	var l custody.LocateReply
	m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: m.id, Query: share.SignQuery(m.owner, m.net, good).Encode()}, &l)
	if l.Outcome != custody.OK || !bytes.Equal(l.State.Manifest, d.Bytes()) || l.State.Row != custody.RowGood {
		t.Fatalf("the owner: %d", l.Outcome)
	}
}

// TestCustodianRecover: the row comes out of each holder to the key inside the
// signed request, and to no other.
func TestCustodianRecover(t *testing.T) {
	m, d := stored1(t, nil)
	r, k := m.requestNow(m.hWorld, m.owner, nil)
	_, thief := m.requestNow(m.hWorld, m.owner, nil)
	for node := range 3 {
		for range 2 { // the same request again is simply answered
			out, _ := m.recoverAt(node, r)
			if out.Outcome != custody.OK {
				t.Fatalf("outcome %d %s", out.Outcome, out.Why)
			}
			row := m.opened(node, d, r, k, out)
			if !bytes.Equal(row, d.rows[m.hWorld.nodes[node].ID()]) || !bytes.Equal(out.Payload, d.payload) {
				t.Fatal("another row or payload")
			}
			if m.opened(node, d, r, thief, out) != nil {
				t.Fatal("another key opens the box")
			}
		}
	}
	// Without asking there is no payload, and no state when it is known.
	var out custody.RecoverReply
	m.ask(0, 1, custody.VerbRecover, &custody.Recover{Request: r.Object.Encode(), Known: d.Hash}, &out)
	if out.Outcome != custody.OK || len(out.Payload) != 0 || len(out.State.Manifest) != 0 {
		t.Fatalf("outcome %d, payload %d, state %d", out.Outcome, len(out.Payload), len(out.State.Manifest))
	}
}

// TestCustodianRecoverRefuses: requests that are not the owner's for this, now,
// here. Nothing that is released may be opened by anyone else.
func TestCustodianRecoverRefuses(t *testing.T) {
	m, _ := stored1(t, nil)
	now := uint64(time.Now().Unix())
	_, thief := m.requestNow(m.hWorld, m.owner, nil)
	good, _ := m.requestNow(m.hWorld, m.owner, nil)
	swapped := good.Request
	swapped.Ephemeral = thief.Public()
	foreign := share.SignRequest(m.owner, key.NetworkID{9}, good.Request)
	signed := func(edit func(*share.Request)) *share.SignedRequest {
		r, _ := m.requestNow(m.hWorld, m.owner, edit)
		return r
	}
	resigned := &share.SignedRequest{Object: key.Object{Type: key.TypeRequest, Body: key.Marshal(&swapped), Key: good.Object.Key, Sig: good.Object.Sig}}
	renamed := &share.SignedRequest{Object: key.Sign(hPerson(t, 66), m.net, key.TypeRequest, key.Marshal(&swapped))}
	for name, r := range map[string]*share.SignedRequest{
		"a swapped key":      resigned,
		"a thief's name":     renamed,
		"another network":    foreign,
		"expired":            signed(func(r *share.Request) { r.Created, r.Expires = now-7200, now-3600 }),
		"from the future":    signed(func(r *share.Request) { r.Created, r.Expires = now+3600, now+3700 }),
		"for a week":         signed(func(r *share.Request) { r.Expires = now + 7*86400 }),
		"another verb":       signed(func(r *share.Request) { r.Verb = share.VerbPolicy }),
		"an unknown verb":    signed(func(r *share.Request) { r.Verb = 9 }),
		"no key":             signed(func(r *share.Request) { r.Ephemeral = nil }),
		"a key of zeroes":    signed(func(r *share.Request) { r.Ephemeral = make([]byte, len(r.Ephemeral)) }),
		"a short key":        signed(func(r *share.Request) { r.Ephemeral = r.Ephemeral[1:] }),
		"another generation": signed(func(r *share.Request) { r.Gen = 2 }),
		"another manifest":   signed(func(r *share.Request) { r.Manifest = key.Hash{1} }),
		"a longer life":      signed(func(r *share.Request) { r.Expires = now + 3600 }),
	} {
		out, _ := m.recoverAt(1, r)
		if name == "a key of zeroes" && out.Outcome == custody.OK {
			continue // some libraries take it; then nobody can open the box
		}
		if out.Outcome == custody.OK || len(out.Box) != 0 || len(out.Payload) != 0 || len(out.Release) != 0 {
			t.Errorf("%s: outcome %d", name, out.Outcome)
		}
	}
	// Every byte of the request counts.
	b := good.Object.Encode()
	for i := 0; i < len(b); i += 7 {
		c := bytes.Clone(b)
		c[i] ^= 1
		var out custody.RecoverReply
		m.ask(0, 1, custody.VerbRecover, &custody.Recover{Request: c}, &out)
		if out.Outcome == custody.OK || len(out.Box) != 0 {
			t.Fatalf("byte %d flipped: released", i)
		}
	}
}

// TestCustodianApprovals: what counts as an approval of this request. Each case
// is another holder's: a denial stays.
func TestCustodianApprovals(t *testing.T) {
	a, b := hPerson(t, 11), hPerson(t, 12)
	sign := func(p key.PersonPrivate, a share.Approval) []byte { return share.SignApproval(p, hTestNet, a).Encode() }
	for name, list := range map[string]func(r, other *share.SignedRequest, ok share.Approval) [][]byte{
		"none":         func(_, _ *share.SignedRequest, _ share.Approval) [][]byte { return nil },
		"its own":      func(_, _ *share.SignedRequest, ok share.Approval) [][]byte { return [][]byte{sign(a, ok), sign(a, ok)} },
		"a stranger's": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte { return [][]byte{sign(hPerson(t, 66), ok)} },
		"of another request": func(_, other *share.SignedRequest, ok share.Approval) [][]byte {
			ok.Subject = other.Hash
			return [][]byte{sign(b, ok)}
		},
		"expired": func(r, _ *share.SignedRequest, ok share.Approval) [][]byte {
			ok.Expires = r.Created - 3600
			return [][]byte{sign(b, ok)}
		},
		"a veto": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte { return [][]byte{sign(b, vetoed(ok))} },
		"approved and vetoed": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte {
			return [][]byte{sign(b, ok), sign(b, vetoed(ok))}
		},
		"vetoed and approved": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte {
			return [][]byte{sign(b, vetoed(ok)), sign(b, ok)}
		},
		"of another network": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte {
			return [][]byte{share.SignApproval(b, key.NetworkID{9}, ok).Encode()}
		},
		"in another's name": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte {
			ok.Person = b.Public()
			return [][]byte{key.Sign(a, hTestNet, key.TypeApproval, key.Marshal(&ok)).Encode()}
		},
		"another kind":        func(r, _ *share.SignedRequest, _ share.Approval) [][]byte { return [][]byte{r.Object.Encode()} },
		"with a flipped byte": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte { return [][]byte{flip(sign(b, ok))} },
		"junk":                func(_, _ *share.SignedRequest, _ share.Approval) [][]byte { return [][]byte{nil, {1}} },
		"more than one can be": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte {
			return append(make([][]byte, custody.MaxApprovals), sign(b, ok))
		},
		"good": func(_, _ *share.SignedRequest, ok share.Approval) [][]byte { return [][]byte{{1}, sign(b, ok)} },
	} {
		m, _ := stored1(t, policy.Any(policy.Owner(), policy.KOf(2, policy.Key(a.Public()), policy.Key(b.Public()))))
		r, _ := m.requestNow(m.hWorld, a, func(r *share.Request) { r.Expires = r.Created + 3600 })
		other, _ := m.requestNow(m.hWorld, a, nil)
		ok := share.Approval{Subject: r.Hash, Verdict: share.VerdictApprove, Expires: r.Expires}
		out, _ := m.recoverAt(1, r, list(r, other, ok)...)
		if want := name == "good"; (out.Outcome == custody.OK) != want || (len(out.Box) != 0) != want {
			t.Errorf("%s: %d %s", name, out.Outcome, out.Why)
		}
	}
}

// hTestNet is the network of every hWorld.
var hTestNet = key.NetworkID{7}

func vetoed(a share.Approval) share.Approval {
	a.Verdict = share.VerdictVeto
	return a
}

// TestCustodianList: pages in order, only what the person may see, and the
// tombstones of what is deleted.
func TestCustodianList(t *testing.T) {
	m := newHMesh(t, 3, Limits{})
	friend := hPerson(t, 11)
	var ids []key.Hash
	shared := map[key.Hash]bool{}
	for i := range 7 {
		w := m.secret(string(rune('a' + i)))
		pol := policy.Owner()
		if i%3 == 0 {
			pol, shared[w.id] = policy.Any(policy.Owner(), policy.Key(friend.Public())), true
		}
		d := w.deal(t, hSpec{gen: 1, pol: pol, tag: w.id.String()})
		m.commitAll(m.put(w, d, nil, 0, 1, 2), 0, 1, 2)
		ids = append(ids, w.id)
	}
	m.prepareAt(m.hWorld, 0, 1, m.deal(t, hSpec{gen: 1, tag: "only pending"}))
	grave := m.secret("a").tomb(t, 1, share.ScopeAll)
	var dr custody.DeleteReply
	m.ask(0, 1, custody.VerbDelete, &custody.Delete{Tombstone: grave.object}, &dr)

	pages := func(p key.PersonPrivate) (got []custody.State) {
		var cursor key.Hash
		for range 20 {
			var l custody.ListReply
			m.ask(0, 1, custody.VerbList, &custody.List{Owner: m.owner.Public(), Cursor: cursor, Limit: 2, Query: m.query(p, 1)}, &l)
			if l.Outcome != custody.OK || len(l.Items) > 2 {
				t.Fatalf("outcome %d, %d items", l.Outcome, len(l.Items))
			}
			got = append(got, l.Items...)
			if !l.More {
				return got
			}
			if compareIDs(l.Next, cursor) <= 0 {
				t.Fatal("the cursor does not move")
			}
			cursor = l.Next
		}
		t.Fatal("no end")
		return nil
	}
	got, graves := map[key.Hash]bool{}, 0
	for _, s := range pages(m.owner) {
		if len(s.Manifest) == 0 {
			graves++
			continue
		}
		sm, err := share.OpenManifest(m.net, s.Manifest)
		if err != nil || got[sm.ID] {
			t.Fatal("twice, or no manifest", err)
		}
		got[sm.ID] = true
	}
	if len(got) != len(ids)-1 || graves != 1 || got[ids[0]] {
		t.Fatalf("%d secrets and %d tombstones", len(got), graves)
	}
	for _, s := range pages(friend) {
		sm, err := share.OpenManifest(m.net, s.Manifest)
		if err != nil || !shared[sm.ID] || sm.ID == ids[0] {
			t.Fatal("the friend sees what is not shared")
		}
	}
	for _, limit := range []uint16{0, custody.MaxList + 1} {
		var l custody.ListReply
		m.ask(0, 1, custody.VerbList, &custody.List{Owner: m.owner.Public(), Limit: limit, Query: m.query(m.owner, 1)}, &l)
		if l.Outcome != custody.Refused {
			t.Errorf("limit %d: outcome %d", limit, l.Outcome)
		}
	}
}

// TestCustodianUnlist: who is taken out of the policy sees nothing any more.
func TestCustodianUnlist(t *testing.T) {
	friend := hPerson(t, 11)
	m, one := stored1(t, policy.Any(policy.Owner(), policy.Key(friend.Public())))
	outcome := func() uint8 {
		var l custody.ListReply
		m.ask(0, 1, custody.VerbList, &custody.List{Owner: m.owner.Public(), Limit: 9, Query: m.query(friend, 1)}, &l)
		return l.Outcome
	}
	if got := outcome(); got != custody.OK {
		t.Fatalf("a party: %d", got)
	}
	two := m.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	r, _ := m.requestNow(m.hWorld, m.owner, func(r *share.Request) { r.Verb, r.Payload, r.Ephemeral = share.VerbPolicy, two.Hash[:], nil })
	q := &custody.Prepare{Manifest: two.Bytes(), Row: two.rows[m.nodes[1].self], Payload: two.payload, Request: r.Object.Encode()}
	var pr custody.PrepareReply
	if m.ask(0, 1, custody.VerbPrepare, q, &pr); pr.Outcome != custody.OK {
		t.Fatal(pr.Why)
	}
	m.commitAll(m.cert(two, []*hDeal{one}, 0, 1, 2), 1)
	if got := outcome(); got != custody.Denied {
		t.Fatalf("no party any more: %d", got)
	}
}

// TestCustodianDamage: what the store reports as damaged is said to be damaged,
// never served and never taken for empty.
func TestCustodianDamage(t *testing.T) {
	m, d := stored1(t, nil)
	n := m.nodes[1]
	e := &stored{version: d.version, x: 2}
	r, _ := m.requestNow(m.hWorld, m.owner, nil)

	n.shelf.recs[rowPlace(e)] = flip(n.shelf.recs[rowPlace(e)])
	var l custody.LocateReply
	m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: m.id, Query: m.query(m.owner, 1)}, &l)
	if out, _ := m.recoverAt(1, r); out.Outcome != custody.Failed || len(out.Box) != 0 || l.State.Row != custody.RowBad {
		t.Errorf("a bad row: outcome %d, state %d", out.Outcome, l.State.Row)
	}
	n.shelf.corrupt[payloadPlace(e)] = true
	if out, _ := m.recoverAt(1, r); out.Outcome != custody.Failed {
		t.Errorf("a corrupt payload: outcome %d", out.Outcome)
	}
	n.shelf.corrupt[statePlace(m.id)] = true
	m.nodes[1] = m.start(1, n.shelf, Limits{})
	if out, _ := m.recoverAt(1, r); out.Outcome != custody.Failed {
		t.Errorf("RECOVER of a corrupt state: outcome %d", out.Outcome)
	}
	if m.ask(0, 1, custody.VerbLocate, &custody.Locate{ID: m.id, Query: m.query(m.owner, 1)}, &l); l.Outcome != custody.Failed {
		t.Errorf("LOCATE of a corrupt state: outcome %d", l.Outcome)
	}
	two := m.deal(t, hSpec{gen: 2, prev: d, tag: "two"})
	if out := m.prepareAt(m.hWorld, 0, 1, two); out.Outcome != custody.Failed || len(out.Receipt) != 0 {
		t.Errorf("PREPARE on a corrupt state: outcome %d", out.Outcome)
	}
}

// TestCustodianBodies: what is no body of the verb is an error, not an answer.
func TestCustodianBodies(t *testing.T) {
	m, d := stored1(t, nil)
	for verb := range uint64(64) {
		for _, body := range [][]byte{nil, {0}, {0xa0}, d.Bytes(), bytes.Repeat([]byte{0x81}, 1000)} {
			if b, err := m.nodes[1].answer(context.Background(), m.hWorld.nodes[0].ID(), verb, body); err == nil {
				t.Errorf("verb %d answers %x with %x", verb, body[:min(len(body), 9)], b)
			}
		}
	}
}
