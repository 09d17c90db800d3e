package policy_test

import (
	"errors"
	"strings"
	"testing"

	. "keymesh/keystore/policy"
)

// TestCheckPetname: whoever may be called something can be written in a policy,
// in one way only, and is never taken for a word of it.
func TestCheckPetname(t *testing.T) {
	c := cast(t)
	for _, name := range []string{"ann", "Ann Lee", "j.doe@example.org", "o'", "żółw", "5ann", strings.Repeat("a", MaxPetname)} {
		err := CheckPetname(name)
		if strings.Contains(name, "'") {
			if !errors.Is(err, ErrPetname) {
				t.Errorf("%q is accepted", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		c[name] = c["ann"]
		p, err := ParseTOML([]byte(`ways = ["'`+name+`'"]`), c.lookup)
		if err != nil || len(p.Persons()) != 1 || p.Persons()[0] != c["ann"] {
			t.Errorf("%q cannot be written in a policy: %v", name, err)
		}
	}
	for _, name := range []string{
		"", " ", "ann ", " ann", "ann  lee", "code", "CODE", "owner", "the owner", "Operator", "any", "ann or bob", "veto", "after", "of",
		"7", "1234", "person-x", "PERSON-x", "a,b", "a(b", "a\"b", "a\nb", "a\tb", "a\u202eb", "a\u00adb", "e\u0301", "\xff", strings.Repeat("a", MaxPetname+1),
	} {
		if err := CheckPetname(name); !errors.Is(err, ErrPetname) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestAfter: time that passes runs the delays whose gates have everything else,
// one inside a clause before those beside it, and no others.
func TestAfter(t *testing.T) {
	c := cast(t)
	p := Any(Owner(), All(All(Key(c["ann"]), Delay(100)), Key(c["bob"]), Delay(50)), All(Key(c["carl"]), Delay(10)))
	of := func(who string, seconds uint64) Explanation {
		e := p.After(Evidence{Owner: c["owner"], Signers: c.keys(who)}, seconds)
		return p.Explain(e, c.name)
	}
	for _, x := range []struct {
		who     string
		seconds uint64
		ok      bool
		wait    uint64
	}{
		{"owner", 0, true, 0},
		{"carl", 9, false, 1}, {"carl", 10, true, 0},
		{"ann", 1000, false, 0},
		{"ann bob", 0, false, 150}, {"ann bob", 100, false, 50}, {"ann bob", 149, false, 1}, {"ann bob", 150, true, 0}, {"ann bob", MaxDelay, true, 0},
		{"bob", MaxDelay, false, 0},
	} {
		got := of(x.who, x.seconds)
		if got.OK != x.ok || got.Wait != x.wait {
			t.Errorf("%s after %d s: ok %v, wait %d", x.who, x.seconds, got.OK, got.Wait)
		}
		any := false
		for _, w := range got.Ways {
			any = any || w.OK
		}
		if any != x.ok {
			t.Errorf("%s after %d s: the ways say %v", x.who, x.seconds, got.Ways)
		}
	}
	if of("carl", 9).Ways[2].Wait != 1 {
		t.Error("a delay is counted for another clause")
	}
}
