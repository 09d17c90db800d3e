package policy_test

import (
	"slices"
	"strings"
	"testing"

	"keymesh/crypto/key"
	. "keymesh/keystore/policy"
)

// people are persons with petnames.
type people map[string]key.PersonPublic

func cast(t testing.TB) people {
	out := people{}
	for i, n := range []string{"owner", "ann", "bob", "carl", "kit", "eve"} {
		out[n] = person(t, byte(i+1))
	}
	return out
}

func (p people) keys(names string) []key.PersonPublic {
	var out []key.PersonPublic
	for _, n := range strings.Fields(names) {
		out = append(out, p[n])
	}
	return out
}

func (p people) name(k key.PersonPublic) string {
	for n, q := range p {
		if q == k {
			return n
		}
	}
	return ""
}

// team is: owner, or 2 of 3 approvers after 1 h, veto by owner.
func team(p people) *Policy {
	return Any(Owner(), All(KOf(2, Key(p["ann"]), Key(p["bob"]), Key(p["carl"])), Delay(3600, OwnerKey())))
}

func TestVerdict(t *testing.T) {
	c := cast(t)
	nested := All(Any(Owner(), All(Key(c["ann"]), Delay(100))), Key(c["bob"]), Delay(50), Delay(70))
	for _, tt := range []struct {
		name       string
		p          *Policy
		signers    string
		operator   bool
		waited     map[int]uint64
		ok         bool
		have, need int
		wait       uint64
		timers     []int
		missing    string
	}{
		{name: "nobody", p: team(c), need: 1, missing: "owner or (2 more of (ann, bob, carl) and a delay of 1 h (veto: owner))"},
		{name: "a stranger", p: team(c), signers: "eve", need: 1, missing: "owner or (2 more of (ann, bob, carl) and a delay of 1 h (veto: owner))"},
		{name: "the owner", p: team(c), signers: "owner", ok: true, have: 1, need: 1},
		{name: "one approver", p: team(c), signers: "bob", have: 1, need: 2, missing: "owner or (1 more of (ann, carl) and a delay of 1 h (veto: owner))"},
		{name: "one approver twice", p: team(c), signers: "bob bob", have: 1, need: 2, missing: "owner or (1 more of (ann, carl) and a delay of 1 h (veto: owner))"},
		{name: "time without approvals is none", p: team(c), signers: "bob", waited: map[int]uint64{7: 3600}, have: 1, need: 2, missing: "owner or 1 more of (ann, carl)"},
		{name: "two approvers", p: team(c), signers: "bob carl", have: 2, need: 2, wait: 3600, timers: []int{7}, missing: "owner or a delay of 1 h (veto: owner)"},
		{name: "two and half of the time", p: team(c), signers: "bob carl", waited: map[int]uint64{7: 1800}, have: 2, need: 2, wait: 1800, timers: []int{7}, missing: "owner or a delay of 1 h (veto: owner)"},
		{name: "a second too early", p: team(c), signers: "bob carl", waited: map[int]uint64{7: 3599}, have: 2, need: 2, wait: 1, timers: []int{7}, missing: "owner or a delay of 1 h (veto: owner)"},
		{name: "another clause's time", p: team(c), signers: "bob carl", waited: map[int]uint64{6: 9999, 0: 9999, 8: 9999}, have: 2, need: 2, wait: 3600, timers: []int{7}, missing: "owner or a delay of 1 h (veto: owner)"},
		{name: "two and the time", p: team(c), signers: "bob carl", waited: map[int]uint64{7: 3600}, ok: true, have: 2, need: 2, timers: []int{7}},
		{name: "the owner need not wait with them", p: team(c), signers: "owner bob carl", ok: true, have: 1, need: 1, timers: []int{7}},
		{name: "default, recovery key", p: Default(c["kit"]), signers: "kit", have: 1, need: 1, wait: 86400, timers: []int{4}, missing: "owner or a delay of 24 h (veto: owner)"},
		{name: "default, recovery key and time", p: Default(c["kit"]), signers: "kit", waited: map[int]uint64{4: 86400}, ok: true, have: 1, need: 1, timers: []int{4}},
		{name: "operator", p: All(Owner(), Operator()), signers: "owner", have: 1, need: 2, missing: "the holder's operator"},
		{name: "operator alone", p: All(Owner(), Operator()), operator: true, have: 1, need: 2, missing: "owner"},
		{name: "operator confirmed", p: All(Owner(), Operator()), signers: "owner", operator: true, ok: true, have: 2, need: 2},
		{name: "a delay waits for the operator", p: All(Owner(), Operator(), Delay(9)), signers: "owner", have: 1, need: 2, missing: "the holder's operator; a delay of 9 s"},
		{name: "and runs then", p: All(Owner(), Operator(), Delay(9)), signers: "owner", operator: true, have: 2, need: 2, wait: 9, timers: []int{3}, missing: "a delay of 9 s"},
		{name: "a delay inside goes first, those beside run together", p: nested, signers: "ann bob", have: 2, need: 2, wait: 170, timers: []int{5}, missing: "owner or a delay of 100 s; a delay of 50 s; a delay of 70 s"},
		{name: "then those beside", p: nested, signers: "ann bob", waited: map[int]uint64{5: 100, 7: 20, 8: 20}, have: 2, need: 2, wait: 50, timers: []int{5, 7, 8}, missing: "a delay of 50 s; a delay of 70 s"},
		{name: "the owner needs no delay inside", p: nested, signers: "owner bob", have: 2, need: 2, wait: 70, timers: []int{7, 8}, missing: "a delay of 50 s; a delay of 70 s"},
		{name: "an unsigned gate's delay does not run", p: nested, signers: "ann", have: 1, need: 2, timers: []int{5}, missing: "owner or a delay of 100 s; bob; a delay of 50 s; a delay of 70 s"},
		{name: "counted once", p: All(Any(Key(c["ann"]), Key(c["bob"])), Key(c["ann"])), signers: "ann", have: 1, need: 2, missing: "a signature of bob: one counts once"},
		{name: "the shorter way", p: Any(All(Key(c["ann"]), Delay(20)), All(Key(c["ann"]), Delay(10))), signers: "ann", have: 1, need: 1, wait: 10, timers: []int{3, 6}, missing: "a delay of 20 s or a delay of 10 s"},
	} {
		e := Evidence{Owner: c["owner"], Signers: c.keys(tt.signers), Operator: tt.operator, Waited: tt.waited}
		v := tt.p.Evaluate(e)
		if v.OK != tt.ok || v.Wait != tt.wait || v.Have != tt.have || v.Need != tt.need {
			t.Errorf("%s: %+v", tt.name, v)
		}
		var timers []int
		for _, d := range v.Delays {
			timers = append(timers, d.Leaf)
			if d.Waited != tt.waited[d.Leaf] || d.Seconds == 0 {
				t.Errorf("%s: timer %+v", tt.name, d)
			}
		}
		if !slices.Equal(timers, tt.timers) {
			t.Errorf("%s: timers %v", tt.name, timers)
		}
		if got := strings.Join(tt.p.Missing(e, c.name), "; "); got != tt.missing {
			t.Errorf("%s: missing %s", tt.name, got)
		}
	}
}

// TestNeverSatisfied: trees that Check refuses are satisfied by nothing.
func TestNeverSatisfied(t *testing.T) {
	var board []*Policy
	zero := key.PersonPublic{}
	signers := []key.PersonPublic{zero, person(t, 1)}
	for i := range 15 {
		signers = append(signers, person(t, byte(20+i)))
		board = append(board, Key(person(t, byte(20+i))))
	}
	for name, p := range map[string]*Policy{
		"a code of nobody": Code(zero),
		"an empty any":     Any(),
		"an empty all":     All(),
		"0 of 1":           KOf(0, Owner()),
		"2 of 1":           KOf(2, Owner()),
		"too tangled":      All(KOf(7, board...), KOf(3, board...)),
		"tangled for good": All(KOf(8, board...), KOf(8, board...)),
	} {
		v := p.Evaluate(Evidence{Owner: person(t, 1), Signers: signers, Operator: true})
		if v.OK || len(v.Missing) == 0 || v.Wait != 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if Owner().Evaluate(Evidence{Signers: signers[:1]}).OK {
		t.Error("nobody's signature for nobody's secret: satisfied")
	}
}

// TestDearDelays: each delay is one more question to the tree, so fewer persons
// may stand in several of its clauses.
func TestDearDelays(t *testing.T) {
	var nine, delays []*Policy
	for i := range 9 {
		nine = append(nine, Key(person(t, byte(20+i))))
		delays = append(delays, Delay(uint64(i+1)))
	}
	twice := All(KOf(4, nine...), KOf(3, nine...))
	one := All(Owner(), delays[0])
	many := All(append(delays, Owner())...)
	for _, p := range []*Policy{twice, one, many, Any(twice, one)} {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
	if err := Any(twice, many).Check(); err == nil || !strings.Contains(err.Error(), "too tangled") {
		t.Errorf("%v", err)
	}
}

func TestParties(t *testing.T) {
	c := cast(t)
	p := Any(Owner(), All(Code(c["kit"]), Delay(60, OwnerKey(), c["bob"])), All(Key(c["ann"]), Operator(), Delay(5, c["bob"], c["carl"])), Key(c["owner"]))
	if got := p.Approvers(c["owner"]); !slices.Equal(got, c.keys("owner kit ann")) {
		t.Errorf("approvers %v", got)
	}
	veto := p.VetoKeys(c["owner"])
	for _, n := range []string{"owner", "bob", "carl"} {
		if !slices.Contains(veto, c[n]) {
			t.Errorf("%s may not veto", n)
		}
	}
	if len(veto) != 3 {
		t.Errorf("veto keys %v", veto)
	}
	if got := Owner().VetoKeys(c["owner"]); len(got) != 0 {
		t.Errorf("veto keys without a delay: %v", got)
	}
	for want, p := range map[uint64]*Policy{
		0:     Owner(),
		60:    p,
		3600:  team(c),
		86400: Default(c["kit"]),
		170:   All(Any(Owner(), All(Key(c["ann"]), Delay(100))), Key(c["bob"]), Delay(50), Delay(70)),
	} {
		if got := p.LongestWait(); got != want {
			t.Errorf("longest wait %d, not %d", got, want)
		}
	}
}

// TestVetoOrder: the timer says who may veto as the encoding does.
func TestVetoOrder(t *testing.T) {
	c := cast(t)
	p := All(Owner(), Delay(60, c["carl"], OwnerKey(), c["ann"]))
	v := p.Evaluate(Evidence{Owner: c["owner"], Signers: c.keys("owner")})
	if len(v.Delays) != 1 || len(v.Delays[0].Veto) != 3 || !v.Delays[0].Veto[0].IsZero() {
		t.Errorf("%+v", v.Delays)
	}
	if v.Delays[0].Left() != 60 || (Timer{Seconds: 5, Waited: 9}).Left() != 0 {
		t.Error("what is left of a delay")
	}
}

func TestRefusedClause(t *testing.T) {
	c := cast(t)
	ann, bob := Key(c["ann"]), Key(c["bob"])
	board := func() (out []*Policy) {
		for i := range 15 {
			out = append(out, Key(person(t, byte(20+i))))
		}
		return out
	}
	for want, p := range map[string]*Policy{
		"refused policy: a gate without clauses":                                                Any(),
		"any[1] (all of (":                                                                      Any(Owner(), All(ann, ann)),
		"any[1].all[0] (2 of (":                                                                 Any(Owner(), All(KOf(2, ann, ann), bob)),
		"2-of[1] (all of ()): a gate without clauses":                                           KOf(2, ann, All()),
		"any[1].all[1] (a delay of 0 s): a delay of 0 s; 1 s":                                   Any(Owner(), All(ann, Delay(0))),
		"any[1] (a delay of 9 s): a delay outside an all":                                       Any(Owner(), Delay(9)),
		"any[1].all[0] (a delay of 9 s): a delay without another":                               Any(Owner(), All(Delay(9))),
		"any[1] (the holder's operator): it would be satisfied without":                         Any(Owner(), Operator()),
		"any[1].any[0] (all of (the holder's operator, a delay of 9 s)): it would be satisfied": Any(Owner(), Any(All(Operator(), Delay(9)), ann)),
		"any[0].any[0].any[0].any[0]: more than 4 levels":                                       Any(Any(Any(Any(ann)))),
		"any[63]: more than 64 nodes":                                                           Any(slices.Repeat([]*Policy{ann}, 64)...),
		"any[1] (3 of (recovery code, owner)): 3 of 2 clauses":                                  Any(Owner(), KOf(3, Code(c["kit"]), Owner())),
		"refused policy: it is too tangled":                                                     All(KOf(7, board()...), KOf(3, board()...)),
		"all[1] (a delay of 9 s (veto: ":                                                        All(ann, Delay(9, signersOf(board()[:9])...)),
		"all[1] (recovery code): ":                                                              All(ann, Code(key.PersonPublic{})),
		"refused policy: it can never be satisfied":                                             All(ann, Any(ann)),
	} {
		err := p.Check()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	both := All(Owner(), Key(c["owner"]))
	if err := both.Check(); err != nil {
		t.Error(err)
	}
	if err := both.CheckOwner(c["owner"]); err == nil {
		t.Error("two signatures of the owner: accepted")
	}
}

func TestExplain(t *testing.T) {
	c := cast(t)
	p := Any(Owner(), All(KOf(2, Key(c["ann"]), Key(c["bob"]), Key(c["carl"])), Delay(3600, OwnerKey())), All(Key(c["carl"]), Operator()))
	for as, want := range map[string]string{
		"owner": `yes, at once
  owner: enough
  all of (2 of (ann, bob, carl), a delay of 1 h (veto: owner)): missing 2 more of (ann, bob, carl) and a delay of 1 h (veto: owner)
  all of (carl, the holder's operator): missing carl and the holder's operator`,
		"ann bob eve": `yes, after 1 h
  owner: missing owner
  all of (2 of (ann, bob, carl), a delay of 1 h (veto: owner)): enough after 1 h without a veto by owner
  all of (carl, the holder's operator): missing carl and the holder's operator`,
		"carl": `no, 1 of 2 signatures and confirmations
  owner: missing owner
  all of (2 of (ann, bob, carl), a delay of 1 h (veto: owner)): missing 1 more of (ann, bob) and a delay of 1 h (veto: owner)
  all of (carl, the holder's operator): missing the holder's operator`,
	} {
		x := p.Explain(Evidence{Owner: c["owner"], Signers: c.keys(as)}, c.name)
		if got := x.String(); got != want {
			t.Errorf("%s:\n%s", as, got)
		}
		if idle := slices.Contains(x.Idle, c["eve"]); idle != strings.Contains(as, "eve") || len(x.Idle) > 1 {
			t.Errorf("%s: idle %v", as, x.Idle)
		}
	}
	if x := Key(c["ann"]).Explain(Evidence{Owner: c["owner"], Signers: c.keys("owner")}, c.name); x.OK || len(x.Ways) != 1 || x.Ways[0].Words != "ann" || len(x.Idle) != 1 {
		t.Errorf("%+v", x)
	}
}

func signersOf(clauses []*Policy) (out []key.PersonPublic) {
	for _, c := range clauses {
		out = append(out, c.Persons()...)
	}
	return out
}
