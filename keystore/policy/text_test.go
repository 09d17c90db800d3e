package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"pgregory.net/rapid"

	"keymesh/crypto/key"
	. "keymesh/keystore/policy"
)

// lookup resolves the petnames of the cast; kit is the writer's recovery key.
func (p people) lookup(name string) (key.PersonPublic, error) {
	if name == CodeName {
		return p["kit"], nil
	}
	if k, ok := p[name]; ok && name != "owner" {
		return k, nil
	}
	return key.PersonPublic{}, errors.New("no contact of that name")
}

// names is the inverse of lookup.
func (p people) names(k key.PersonPublic) string {
	if k == p["kit"] {
		return CodeName
	}
	return p.name(k)
}

func TestParseTOML(t *testing.T) {
	c := cast(t)
	c["Ann Lee"], c["o'neil"], c["7"], c["any"] = person(t, 11), person(t, 12), person(t, 13), person(t, 14)
	ann, bob, carl := Key(c["ann"]), Key(c["bob"]), Key(c["carl"])
	for text, want := range map[string]*Policy{
		`ways = ["owner"]`:        Owner(),
		`ways = ["owner", "ann"]`: Any(Owner(), ann),
		`ways = [ 'owner' , ]`:    Owner(),
		"\r\n# who\r\nways = [\r\n \"owner\", # me\r\n\r\n# them\r\n  \"2 of (ann, bob, carl) after 1h veto owner\"\r\n]\r\n# end": team(c),
		`ways = ["owner", "code after 24h veto owner"]`:                                             Default(c["kit"]),
		`ways = ["owner", "all (code, delay 24 h veto (owner))"]`:                                   Default(c["kit"]),
		`ways = ["code ann after 1d"]`:                                                              All(Code(c["ann"]), Delay(86400)),
		`ways = ["any (code, owner)"]`:                                                              Any(Code(c["kit"]), Owner()),
		`ways = ["all (ann, operator) after 1h30m veto (bob, owner,carl)"]`:                         All(ann, Operator(), Delay(5400, OwnerKey(), c["bob"], c["carl"])),
		`ways = ["all (all (ann, bob), delay 90min)"]`:                                              All(All(ann, bob), Delay(5400)),
		`ways = ["1 of (ann, bob after 2d3h4m5s, all(carl,operator))"]`:                             KOf(1, ann, All(bob, Delay(183845)), All(carl, Operator())),
		`ways = ["any ('Ann Lee', 'o''neil', '7', 'any')"]`:                                         Any(Key(c["Ann Lee"]), Key(c["o'neil"]), Key(c["7"]), Key(c["any"])),
		`ways = ["any (ann, ` + c["eve"].String() + `) after 365d veto ` + c["bob"].String() + `"]`: All(Any(ann, Key(c["eve"])), Delay(MaxDelay, c["bob"])),
	} {
		p, err := ParseTOML([]byte(text), c.lookup)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !bytes.Equal(p.Encode(), want.Encode()) {
			t.Errorf("%s: %s", text, p.Words(c.name))
		}
	}
}

// refuses parses each text and expects an error that contains the words.
func refuses(t *testing.T, texts map[string]string) {
	t.Helper()
	c := cast(t)
	c["any"], c["low"] = person(t, 14), key.PersonPublic{1}
	for text, want := range texts {
		text = strings.ReplaceAll(text, "ANN", c["ann"].String())
		p, err := ParseTOML([]byte(text), c.lookup)
		if err == nil {
			t.Errorf("%.80s: accepted as %s", text, p.Words(c.name))
			continue
		}
		if p != nil || !errors.Is(err, ErrText) && !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v", text, err)
		}
		if len(err.Error()) > 400 {
			t.Errorf("%.80s: an error of %d bytes", text, len(err.Error()))
		}
	}
}

func TestRefusedFile(t *testing.T) {
	refuses(t, map[string]string{
		"":                               "line 1: nothing is in it",
		"# only words\n":                 "line 2: nothing is in it",
		"way = [\"owner\"]":              `line 1: unknown key "way"`,
		"\n\npolicy = [\"owner\"]":       `line 3: unknown key "policy"`,
		"ways = [\"owner\"]\n[ways]":     `line 2: "[ways]" follows`,
		"ways = [\"owner\"]\nways = []":  `line 2: "ways" follows`,
		"ways = [\"owner\"] veto = 1":    `line 1: "veto" follows on the same line`,
		"ways = []":                      "line 1: no way at all",
		"ways = \"owner\"":               "line 1: [ is missing",
		"ways [\"owner\"]":               "line 1: = is missing",
		"ways = [\"owner\"":              "line 1: a comma or ] is missing",
		"ways = [\n\"owner\",\n":         "line 3: ] is missing",
		"ways = [\"owner\" \"ann\"]":     "line 1: a comma or ] is missing",
		"ways = [,]":                     "line 1: a way in quotes is missing",
		"ways = [owner]":                 "line 1: a way in quotes is missing",
		"ways = [\"owner]":               "line 1: the closing quote is missing",
		"ways = [\"owner\n\"]":           "line 1: the closing quote is missing",
		"ways = [\"\"\"owner\"\"\"]":     "line 1: strings of several lines",
		"ways = [\"own\\u0065r\"]":       "line 1: after a backslash",
		"ways = [\"owner\\":              "line 1: after a backslash",
		"ways = [\"ow\x00ner\"]":         "line 1: a control character, U+0000",
		"ways = [\"ow\xffner\"]":         "line 1: bytes that are no UTF-8",
		"ways = [\"a\x7f\"]":             "line 1: a control character, U+007F",
		"# \x07\nways = [\"owner\"]":     "line 1: a control character",
		"# a\rways = [\"owner\"]":        "line 1: a control character",
		"ways = [\n\"owner\",\n\"bbo\"]": `line 3: who is "bbo": no contact`,
	})
}

func TestRefusedWay(t *testing.T) {
	refuses(t, map[string]string{
		`ways = [""]`:                            "a name is missing before the end",
		`ways = ["Owner"]`:                       `"Owner" is not possible here`,
		`ways = ["any"]`:                         "( is missing before the end",
		`ways = ["ann or bob"]`:                  `"or" follows a whole clause`,
		`ways = ["ann bob"]`:                     `"bob" follows a whole clause`,
		`ways = ["any (ann or bob)"]`:            `a comma or ) is missing before "or"`,
		`ways = ["any (ann, bob"]`:               "a comma or ) is missing before the end",
		`ways = ["any (,)"]`:                     `a name is missing before ","`,
		`ways = ["any ()"]`:                      "nothing between ( and )",
		`ways = ["2 of 3 approvers"]`:            `( is missing before "3"`,
		`ways = ["0 of (ann)"]`:                  `"0" before of`,
		`ways = ["-1 of (ann)"]`:                 `"-1" before of`,
		`ways = ["x of (ann)"]`:                  `"x" before of`,
		`ways = ["2 (ann, bob)"]`:                `"2" is no clause; did you mean 2 of`,
		`ways = ["ann after"]`:                   `"" is no time`,
		`ways = ["ann after 1"]`:                 `"1" is no time`,
		`ways = ["ann after 1x"]`:                `"1x" is no time`,
		`ways = ["ann after 1m1h"]`:              `"1m1h" is no time`,
		`ways = ["ann after 1h1h"]`:              `"1h1h" is no time`,
		`ways = ["ann after 99999999999s"]`:      "is no time",
		`ways = ["ann after '1h'"]`:              `"1h" is no time`,
		`ways = ["ann after 1h after 2h"]`:       `"after" follows a whole clause`,
		`ways = ["delay 1h after 2h"]`:           "a delay after a delay",
		`ways = ["ann after 1h veto"]`:           "a name is missing before the end",
		`ways = ["ann after 1h veto (owner"]`:    "a comma or ) is missing before the end",
		`ways = ["ann after 1h veto ()"]`:        `a name is missing before ")"`,
		`ways = ["ann after 1h veto operator"]`:  `"operator" is not possible here`,
		`ways = ["'ann"]`:                        "the closing single quote is missing",
		`ways = ["''"]`:                          "an empty name",
		`ways = ["'code'"]`:                      `nobody can be called "code"`,
		`ways = ["code code"]`:                   `"code" is not possible here`,
		`ways = ["ann; bob"]`:                    `"; bob" is not possible here`,
		`ways = ["person-aaaa"]`:                 "line 1: ",
		`ways = ["ANNx"]`:                        "line 1: ",
		`ways = ["any (any (any (any (ann))))"]`: "nested deeper than 4 levels",
	})
}

// TestRefusedSense: what makes no sense is refused with its line, and its clause
// in petnames.
func TestRefusedSense(t *testing.T) {
	refuses(t, map[string]string{
		"ways = [\n\"owner\",\n\"operator\"]":                   "line 3: refused policy: any[1] (the holder's operator): it would be satisfied without any signature",
		"ways = [\n\"owner\",\n\"2 of (ann, ann)\"]":            "line 3: refused policy: any[1] (2 of (ann, ann)): it can never be satisfied",
		"ways = [\n\"owner\",\n\"ann after 366d\"]":             "line 3: refused policy: any[1].all[1] (a delay of 8784 h): a delay of 31622400 s",
		"ways = [\n\n\"any (owner, delay 1h)\"]":                "line 3: refused policy: any[1] (a delay of 1 h): a delay outside an all",
		"ways = [\"owner\",\n\"ann\",\n\"3 of (ann, bob)\"]":    "line 3: refused policy: any[2] (3 of (ann, bob)): 3 of 2 clauses",
		"ways = [\"owner\",\n\"low\"]":                          "line 2: refused policy: any[1] (low)",
		"ways = [\"owner\",\n\"any (any (any (ann)))\"]":        "line 2: refused policy: any[1].any[0].any[0].any[0]: more than 4 levels",
		"ways = [\"any (" + strings.Repeat("ann,", 64) + ")\"]": "line 1: refused policy: any[63]: more than 64 nodes",
		"ways = [" + strings.Repeat("'owner',", 65) + "]":       "more than 64 ways",
		"#" + strings.Repeat("x", MaxText):                      "more than 65536 bytes",
	})
}

// TestNoNameStandsForAKey: nobody can call himself by somebody else's key, and
// nothing that a contact is called changes what a reserved word means.
func TestNoNameStandsForAKey(t *testing.T) {
	c := cast(t)
	fake := func(string) (key.PersonPublic, error) { return c["eve"], nil }
	text := fmt.Sprintf("ways = [\"owner\", \"all (%s, operator)\"]", c["ann"])
	p, err := ParseTOML([]byte(text), fake)
	if err != nil || p.IsParty(c["owner"], c["eve"]) || !p.IsParty(c["owner"], c["ann"]) {
		t.Errorf("%v", err)
	}
	zero := func(string) (key.PersonPublic, error) { return OwnerKey(), nil }
	for _, text := range []string{`ways = ["ann"]`, `ways = ["code"]`, `ways = ["ann after 1h veto bob"]`} {
		if _, err := ParseTOML([]byte(text), zero); err == nil {
			t.Errorf("%s: a contact without a key became the owner", text)
		}
	}
}

// TestGolden keeps the examples of the documentation true: each file of
// testdata says in its first line what it reads as.
func TestGolden(t *testing.T) {
	c := cast(t)
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseTOML(text, c.lookup)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if got := "# " + p.Words(c.name); got != first {
			t.Errorf("%s reads as\n%s", f, got)
		}
		again, err := ParseTOML(p.FormatTOML(c.names), c.lookup)
		if err != nil || !bytes.Equal(again.Encode(), p.Encode()) {
			t.Errorf("%s: written again it is another policy: %v", f, err)
		}
	}
}

// TestFormatTOML: every policy has a text that reads as itself, with petnames
// of any kind and without.
func TestFormatTOML(t *testing.T) {
	c := cast(t)
	c["Ann \"the\" O'Hara \\"], c["owner's dog"] = c["ann"], c["bob"]
	delete(c, "ann")
	odd := people{"bell\a": c["carl"], "owner": c["owner"]}
	anns := cast(t)
	if got := string(team(anns).FormatTOML(anns.names)); got != "ways = [\n  \"owner\",\n  \"2 of (ann, bob, carl) after 1h veto owner\",\n]\n" {
		t.Errorf("%s", got)
	}
	if got := string(Any(Owner(), Code(c["carl"])).FormatTOML(odd.names)); strings.Contains(got, "\a") {
		t.Errorf("%q", got)
	}
	plain := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		_, p := drawPolicy(t, plain)
		for _, who := range []people{plain, c, {}} {
			text := p.FormatTOML(who.names)
			q, err := ParseTOML(text, who.lookup)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if !bytes.Equal(q.Encode(), p.Encode()) {
				t.Fatalf("%s reads as %s", text, q.Words(plain.name))
			}
		}
	})
}

// TestExactText: trees that differ by a level only are written differently, and
// so are persons who are called like a word of the text.
func TestExactText(t *testing.T) {
	c := cast(t)
	c["any"], c["7"], c["person-x"] = c["carl"], person(t, 21), person(t, 22)
	delete(c, "carl")
	a, b := Key(c["any"]), Key(c["7"])
	for want, p := range map[string]*Policy{
		"any (any ('any', '7', 'person-x'))":        Any(Any(a, b, Key(c["person-x"]))),
		"all (all ('any', '7'), delay 1h)":          All(All(a, b), Delay(3600)),
		"all ('any', '7') after 1h30m":              All(a, b, Delay(5400)),
		"all (all ('any'), '7') after 1d1s":         All(All(a), b, Delay(86401)),
		"all ('any' after 1m, '7')":                 All(All(a, Delay(60)), b),
		"all ('any', delay 9s) after 1s":            All(a, Delay(9), Delay(1)),
		"all (delay 9s, 'any')":                     All(Delay(9), a),
		"any ('any', '7') after 1h veto 'any'":      All(Any(a, b), Delay(3600, c["any"])),
		"code '7' after 1h veto (owner, 'any')":     All(Code(c["7"]), Delay(3600, c["any"], OwnerKey())),
		"2 of (code, operator after 1h) after 365d": All(KOf(2, Code(c["kit"]), All(Operator(), Delay(3600))), Delay(MaxDelay)),
	} {
		if got := string(p.FormatTOML(c.names)); got != "ways = [\n  \""+want+"\",\n]\n" {
			t.Errorf("%s\n%s", want, got)
		}
		if q, err := ParseTOML(p.FormatTOML(c.names), c.lookup); err != nil || !bytes.Equal(q.Encode(), p.Encode()) {
			t.Errorf("%s reads as another policy: %v", want, err)
		}
	}
}

// FuzzParseTOML: what is accepted is a policy that makes sense, is TOML with
// the same strings for everybody else's decoder too, and survives being written.
func FuzzParseTOML(f *testing.F) {
	c := cast(f)
	files, _ := filepath.Glob("testdata/*.toml")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`ways = ["any ('ann', \"bob\") after 1h30m veto (owner, bob)"]`))
	f.Add([]byte("ways=['''owner''']\n\"ways\" = []\r\n#\t\x7f"))
	f.Add([]byte("\ufeffways = [\"owner\\\\\"]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseTOML(text, c.lookup)
		if err != nil {
			if p != nil || !errors.Is(err, ErrText) && !errors.Is(err, ErrPolicy) {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		var theirs struct{ Ways []string }
		md, err := toml.Decode(string(text), &theirs)
		if err != nil || len(md.Undecoded()) > 0 {
			t.Fatalf("accepted, but no TOML: %v %v", err, md.Undecoded())
		}
		quoted := []string{}
		for _, w := range theirs.Ways {
			quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w)+`"`)
		}
		same, err := ParseTOML([]byte("ways = ["+strings.Join(quoted, ", ")+"]"), c.lookup)
		if err != nil || !bytes.Equal(same.Encode(), p.Encode()) {
			t.Fatalf("another decoder reads another policy: %q: %v", theirs.Ways, err)
		}
		again, err := ParseTOML(p.FormatTOML(c.names), c.lookup)
		if err != nil || !bytes.Equal(again.Encode(), p.Encode()) {
			t.Fatalf("%s: written again it is another policy: %v", p.Words(c.name), err)
		}
		if p.Evaluate(Evidence{Owner: c["owner"]}).OK {
			t.Fatal("satisfied without a signature")
		}
		all := Evidence{Owner: c["owner"], Signers: slices.Concat(p.Persons(), c.keys("owner")), Operator: true, Waited: map[int]uint64{}}
		for i := range MaxNodes {
			all.Waited[i] = MaxDelay
		}
		if p.CheckOwner(c["owner"]) == nil && !p.Evaluate(all).OK {
			t.Fatal("not satisfied by everybody")
		}
	})
}

// The policy file of a family: the owner, or two of three others if the owner
// does not object within an hour.
func ExampleParseTOML() {
	contacts := map[string]byte{"ann": 2, "bob": 3, "carl": 4}
	person := func(petname string) (key.PersonPublic, error) {
		seed, ok := contacts[petname]
		if !ok {
			return key.PersonPublic{}, errors.New("no contact of that name")
		}
		k, err := key.PersonFromSeed(bytes.Repeat([]byte{seed}, key.SeedSize))
		if err != nil {
			return key.PersonPublic{}, err
		}
		return k.Public(), nil
	}
	for _, second := range []string{"2 of (ann, bob, carl) after 1h veto owner", "2 of (ann, bbo, carl)", "operator"} {
		_, err := ParseTOML([]byte("ways = [\n  \"owner\",\n  \""+second+"\",\n]"), person)
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// not a policy file: line 3: who is "bbo": no contact of that name
	// line 3: refused policy: any[1] (the holder's operator): it would be satisfied without any signature
}
