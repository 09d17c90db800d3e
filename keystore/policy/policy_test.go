package policy_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"keymesh/crypto/key"
	. "keymesh/keystore/policy"
)

// person returns the same person for the same number.
func person(t testing.TB, n byte) key.PersonPublic {
	t.Helper()
	seed := bytes.Repeat([]byte{n}, key.SeedSize)
	k, err := key.PersonFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

func TestEvaluate(t *testing.T) {
	owner, a, b, c, stranger := person(t, 1), person(t, 2), person(t, 3), person(t, 4), person(t, 9)
	for _, tt := range []struct {
		name    string
		p       *Policy
		signers []key.PersonPublic
		want    bool
	}{
		{"owner", Owner(), []key.PersonPublic{owner}, true},
		{"nobody", Owner(), nil, false},
		{"stranger", Owner(), []key.PersonPublic{stranger}, false},
		{"the zero key is no signer", Owner(), []key.PersonPublic{{}}, false},
		{"owner by key", Key(owner), []key.PersonPublic{owner}, true},
		{"any", Any(Key(a), Key(b)), []key.PersonPublic{b}, true},
		{"all", All(Key(a), Key(b)), []key.PersonPublic{b}, false},
		{"all both", All(Key(a), Key(b)), []key.PersonPublic{b, a}, true},
		{"2 of 3", KOf(2, Key(a), Key(b), Key(c)), []key.PersonPublic{c, a}, true},
		{"1 of 2 needed", KOf(2, Key(a), Key(b), Key(c)), []key.PersonPublic{c}, false},
		{"repeated signer", KOf(2, Key(a), Key(b), Key(c)), []key.PersonPublic{c, c, c}, false},
		{"one key in two leaves", KOf(2, Key(a), Key(a), Key(b)), []key.PersonPublic{a}, false},
		{"one key in two leaves and another", KOf(2, Key(a), Key(a), Key(b)), []key.PersonPublic{a, b}, true},
		{"one key, nested", KOf(2, Key(a), Any(Key(a), Key(b))), []key.PersonPublic{a}, false},
		{"nested, another key", KOf(2, Key(a), Any(Key(a), Key(b))), []key.PersonPublic{a, b}, true},
		{"nested, the first choice must be given back", All(Any(Key(a), Key(b)), Key(a)), []key.PersonPublic{a, b}, true},
		{"owner twice under two names", All(Owner(), Key(owner)), []key.PersonPublic{owner}, false},
		{"default, owner", Default(c), []key.PersonPublic{owner}, true},
		{"default, recovery key before the delay", Default(c), []key.PersonPublic{c}, false},
		{"code", All(Owner(), Code(c)), []key.PersonPublic{owner, c}, true},
		{"code of somebody else", All(Owner(), Code(c)), []key.PersonPublic{owner, b}, false},
		{"one key as person and as code", All(Key(c), Code(c)), []key.PersonPublic{c}, false},
		{"operator, unasked", All(Owner(), Operator()), []key.PersonPublic{owner}, false},
	} {
		v := tt.p.Evaluate(Evidence{Owner: owner, Signers: tt.signers})
		if v.OK != tt.want {
			t.Errorf("%s: OK = %v", tt.name, v.OK)
		}
		if v.OK != (len(v.Missing) == 0) {
			t.Errorf("%s: OK = %v with missing %q", tt.name, v.OK, v.Missing)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	a, b := person(t, 2), person(t, 3)
	low := key.PersonPublic{1} // the identity: every message has a signature by it
	deep := Any(Any(Any(Any(Key(a)))))
	var many []*Policy
	for range MaxNodes {
		many = append(many, Key(a))
	}
	for name, p := range map[string]*Policy{
		"empty any":           Any(),
		"empty all":           All(),
		"0 of 1":              KOf(0, Key(a)),
		"2 of 1":              KOf(2, Key(a)),
		"2 of one key":        KOf(2, Key(a), Key(a)),
		"all of one key":      All(Key(a), Any(Key(a))),
		"5 levels":            deep,
		"65 nodes":            Any(many...),
		"low order key":       Any(Key(a), Key(low)),
		"low order veto":      All(Key(a), Delay(60, low)),
		"delay alone":         Delay(60),
		"delay in any":        Any(Key(a), Delay(60)),
		"delay in k-of":       KOf(2, Key(a), Key(b), Delay(60)),
		"only delays":         All(Delay(60), Delay(61)),
		"delay 0":             All(Key(a), Delay(0)),
		"delay beyond a year": All(Key(a), Delay(MaxDelay+1)),
		"operator alone":      Operator(),
		"free alternative":    Any(Key(a), Operator()),
		"operator and delay":  All(Operator(), Delay(60)),
		"code of nobody":      Code(key.PersonPublic{}),
	} {
		if err := p.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, p := range map[string]*Policy{
		"default":         Default(b),
		"owner":           Owner(),
		"4 levels":        Any(Any(Any(Key(a)))),
		"code or 2 of 2":  Any(Code(b), KOf(2, Owner(), Key(a))),
		"operator with a": All(Operator(), Key(a)),
		"shared key":      KOf(2, Key(a), Any(Key(a), Key(b))),
	} {
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTangled: a policy made to cost exponential work is refused, quickly, and
// evaluates to "no" at every holder alike.
func TestTangled(t *testing.T) {
	var clauses []*Policy
	a := []key.PersonPublic{person(t, 2), person(t, 3), person(t, 4)}
	for i := range 15 {
		clauses = append(clauses, Any(Key(a[i%3]), Key(a[(i+1)%3]), Key(a[(i+2)%3])))
	}
	p := All(clauses...)
	if p.Check() == nil {
		t.Error("15 signatures of 3 keys: accepted")
	}
	if p.Evaluate(Evidence{Owner: a[0], Signers: a}).OK {
		t.Error("15 signatures of 3 keys: satisfied")
	}
}

func TestIsParty(t *testing.T) {
	owner, a, recovery, veto, stranger := person(t, 1), person(t, 2), person(t, 3), person(t, 4), person(t, 9)
	p := Any(Key(a), All(Code(recovery), Delay(60, veto)))
	for _, who := range []key.PersonPublic{owner, a, recovery, veto} {
		if !p.IsParty(owner, who) {
			t.Errorf("%v is no party", who)
		}
	}
	for _, who := range []key.PersonPublic{stranger, {}} {
		if p.IsParty(owner, who) || Owner().IsParty(owner, who) {
			t.Errorf("%v is a party", who)
		}
	}
}

func TestWords(t *testing.T) {
	got := Default(person(t, 3)).Words(nil)
	if want := "any of (owner, all of (recovery code, a delay of 24 h (veto: owner)))"; got != want {
		t.Errorf("%s", got)
	}
	name := func(key.PersonPublic) string { return "ann" }
	if got := KOf(1, Key(person(t, 2)), Operator()).Words(name); got != "1 of (ann, the holder's operator)" {
		t.Errorf("%s", got)
	}
}

// TestVector fixes the encoding.
func TestVector(t *testing.T) {
	const want = "a200010185840100028084040000815820000000000000000000000000000000000000000000000000000000000000000084020002808406000081" +
		"58204242424242424242424242424242424242424242424242424242424242424242" + "8405001a00015180815820" +
		"0000000000000000000000000000000000000000000000000000000000000000"
	p := Default(key.PersonPublic(bytes.Repeat([]byte{0x42}, 32)))
	if got := hex.EncodeToString(p.Encode()); got != want {
		t.Errorf("%s", got)
	}
}

// TestParseRefuses flips every byte and cuts every tail: what still parses
// encodes to itself, and says something else.
func TestParseRefuses(t *testing.T) {
	p := Any(Owner(), KOf(2, Key(person(t, 2)), Key(person(t, 3)), Code(person(t, 4))), All(Operator(), Key(person(t, 5)), Delay(60, person(t, 6), person(t, 7))))
	b := p.Encode()
	if q, err := Parse(b); err != nil || !bytes.Equal(q.Encode(), b) {
		t.Fatal(err)
	}
	for i := range b {
		if _, err := Parse(b[:i]); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if q, err := Parse(c); err == nil && !bytes.Equal(q.Encode(), c) {
				t.Errorf("bit %d of byte %d flipped: accepted and changed", bit, i)
			}
		}
	}
	if _, err := Parse(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a trailing byte: accepted")
	}
}

func FuzzPolicyParse(f *testing.F) {
	f.Add(Default(person(f, 3)).Encode())
	f.Add(KOf(2, Key(person(f, 2)), Any(Owner(), Operator()), All(Owner(), Delay(1, person(f, 4)))).Encode())
	f.Add([]byte{0xa1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Encode(), b) {
			t.Fatal("accepted bytes do not encode to themselves")
		}
		if p.Check() != nil {
			return
		}
		if p.Evaluate(Evidence{Owner: person(t, 1)}).OK {
			t.Fatal("satisfied without a signature")
		}
		p.Words(nil)
	})
}
