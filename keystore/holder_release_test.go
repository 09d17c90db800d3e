package keystore

import (
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// TestRelease: who gets which row.
func TestRelease(t *testing.T) {
	w := newHWorld(t, 3)
	a, b, stranger := hPerson(t, 11), hPerson(t, 12), hPerson(t, 13)
	pol := policy.Any(policy.Owner(), policy.KOf(2, policy.Key(a.Public()), policy.Key(b.Public())))
	one := w.deal(t, hSpec{gen: 1, pol: pol})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
	owner := share.Request{Verb: share.VerbRecover}
	if _, outcome, _ := s.release(w.facts(0), w.request(t, w.owner, owner)); outcome == custody.OK {
		t.Error("a pending row is released")
	}
	s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))

	long := share.Request{Verb: share.VerbRecover, Expires: hNow + share.RequestLife}
	other := w.request(t, w.owner, owner)
	other.ID = key.Hash{1}
	for name, tt := range map[string]struct {
		c       *consent
		outcome uint8
		why     bool
	}{
		"owner":                      {w.request(t, w.owner, owner), custody.OK, false},
		"owner by generation":        {w.request(t, w.owner, share.Request{Verb: 1, Gen: 1}), custody.OK, false},
		"owner by manifest":          {w.request(t, w.owner, share.Request{Verb: 1, Manifest: one.Hash}), custody.OK, false},
		"another generation":         {w.request(t, w.owner, share.Request{Verb: 1, Gen: 2}), custody.Refused, true},
		"another manifest":           {w.request(t, w.owner, share.Request{Verb: 1, Manifest: key.Hash{1}}), custody.Refused, true},
		"the generation of another":  {w.request(t, w.owner, share.Request{Verb: 1, Gen: 2, Manifest: one.Hash}), custody.Refused, true},
		"another secret":             {other, custody.Denied, false},
		"owner, 72 h":                {w.request(t, w.owner, long), custody.Denied, true},
		"one of two":                 {w.request(t, a, owner), custody.Denied, true},
		"one of two, approving both": {w.request(t, a, owner, a.Public(), a.Public()), custody.Denied, true},
		"two of two":                 {w.request(t, a, long, b.Public()), custody.OK, false},
		"stranger":                   {w.request(t, stranger, owner), custody.Denied, false},
		"stranger with approvals":    {w.request(t, stranger, owner, a.Public(), b.Public()), custody.Denied, false},
	} {
		e, outcome, why := s.release(w.facts(0), tt.c)
		if outcome != tt.outcome || (why != "") != tt.why || (e != nil) != (outcome == custody.OK) {
			t.Errorf("%s: outcome %d %q", name, outcome, why)
		}
	}
}

// TestReleaseHistory: an old generation goes by its own policy and the current
// one, whichever is stricter.
func TestReleaseHistory(t *testing.T) {
	w := newHWorld(t, 3)
	a := hPerson(t, 11)
	wide := policy.Any(policy.Owner(), policy.Key(a.Public()))
	strict := policy.Any(policy.Owner(), policy.All(policy.Key(a.Public()), policy.Key(w.other.Public())))
	for name, tt := range map[string]struct {
		old, now *policy.Policy
		want     uint8
	}{
		"both":            {wide, wide, custody.OK},
		"only the old":    {wide, strict, custody.Denied},
		"only the newest": {strict, wide, custody.Denied},
		"no party now":    {wide, policy.Owner(), custody.Denied},
	} {
		one := w.deal(t, hSpec{gen: 1, pol: tt.old, tag: "one"})
		s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(0), w.msg(one, 0)))
		s = w.must(t, s, s.commit(w.facts(0), w.cert(one, nil, 0, 1, 2)))
		two := w.deal(t, hSpec{gen: 2, prev: one, pol: tt.now, tag: "two", edit: func(m *share.Manifest) { m.Keep = 1 }})
		p := w.msg(two, 0)
		p.consent = w.request(t, w.owner, share.Request{Verb: share.VerbPolicy, Payload: two.Hash[:]})
		s = w.must(t, s, s.prepare(w.facts(0), p))
		s = w.must(t, s, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)))
		if e, got, why := s.release(w.facts(0), w.request(t, a, share.Request{Verb: 1, Gen: 1})); got != tt.want || (e != nil && e.Hash != one.Hash) {
			t.Errorf("%s: outcome %d %s", name, got, why)
		}
		if e, got, _ := s.release(w.facts(0), w.request(t, w.owner, share.Request{Verb: 1})); got != custody.OK || e.Hash != two.Hash {
			t.Errorf("%s: the latest: outcome %d", name, got)
		}
	}
}

// TestReleaseStale: with a certificate above it, the committed row is not the
// latest any more.
func TestReleaseStale(t *testing.T) {
	w := newHWorld(t, 3)
	s, one := w.committed1(t, 0)
	two := w.deal(t, hSpec{gen: 2, prev: one, tag: "two"})
	s = w.reload(t, s, s.commit(w.facts(0), w.cert(two, []*hDeal{one}, 0, 1, 2)))
	for _, r := range []share.Request{{Verb: 1}, {Verb: 1, Gen: 1}, {Verb: 1, Manifest: one.Hash}, {Verb: 1, Gen: 2}} {
		if e, outcome, _ := s.release(w.facts(0), w.request(t, w.owner, r)); e != nil || outcome != custody.Refused {
			t.Errorf("%+v: outcome %d", r, outcome)
		}
	}
}
