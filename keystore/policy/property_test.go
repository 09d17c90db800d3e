package policy_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
	. "keymesh/keystore/policy"
)

// tree is a policy that the test can read: the model of what is tested.
type tree struct {
	gate    string // any, all, of; empty: a leaf
	k       int
	subs    []*tree
	leaf    string // a name, code, operator, delay
	seconds uint64
}

func (n *tree) policy(c people) *Policy {
	var subs []*Policy
	for _, s := range n.subs {
		subs = append(subs, s.policy(c))
	}
	switch {
	case n.gate == "any":
		return Any(subs...)
	case n.gate == "all":
		return All(subs...)
	case n.gate == "of":
		return KOf(n.k, subs...)
	case n.leaf == "operator":
		return Operator()
	case n.leaf == "delay":
		return Delay(n.seconds, OwnerKey(), c["carl"])
	case n.leaf == "kit":
		return Code(c["kit"])
	case n.leaf == "owner":
		return Owner()
	}
	return Key(c[n.leaf])
}

// leaves are the leaves with their numbers.
func (n *tree) leaves(at *int, f func(int, *tree)) {
	if n.gate == "" {
		f(*at, n)
	}
	*at++
	for _, s := range n.subs {
		s.leaves(at, f)
	}
}

// holds says whether the chosen leaves make the tree true.
func (n *tree) holds(chosen map[*tree]bool) bool {
	if n.gate == "" {
		return chosen[n]
	}
	have := 0
	for _, s := range n.subs {
		if s.holds(chosen) {
			have++
		}
	}
	return have >= map[string]int{"any": 1, "all": len(n.subs), "of": n.k}[n.gate]
}

// satisfied is the definition: some choice of leaves that are true, none of
// them by the same signature, makes the tree true.
func (n *tree) satisfied(c people, e Evidence) bool {
	var good []*tree
	at := 0
	n.leaves(&at, func(i int, l *tree) {
		switch l.leaf {
		case "operator":
			if !e.Operator {
				return
			}
		case "delay":
			if e.Waited[i] < l.seconds {
				return
			}
		default:
			if !slices.Contains(e.Signers, c[l.leaf]) {
				return
			}
		}
		good = append(good, l)
	})
	for set := range 1 << len(good) {
		chosen, used, once := map[*tree]bool{}, map[string]bool{}, true
		for i, l := range good {
			if set>>i&1 == 0 {
				continue
			}
			chosen[l] = true
			if l.leaf != "operator" && l.leaf != "delay" {
				once = once && !used[l.leaf]
				used[l.leaf] = true
			}
		}
		if once && n.holds(chosen) {
			return true
		}
	}
	return false
}

func drawTree(t *rapid.T, depth int, left *int, inAll bool) *tree {
	*left--
	kinds := []string{"owner", "ann", "bob", "carl", "kit", "operator"}
	if inAll {
		kinds = append(kinds, "delay")
	}
	if depth < MaxDepth && *left > 1 {
		kinds = append(kinds, "any", "all", "of", "any", "all", "of")
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	if kind != "any" && kind != "all" && kind != "of" {
		return &tree{leaf: kind, seconds: rapid.Uint64Range(1, 4).Draw(t, "seconds")}
	}
	n := &tree{gate: kind}
	for range rapid.IntRange(1, 3).Draw(t, "clauses") {
		if *left <= 0 {
			break
		}
		n.subs = append(n.subs, drawTree(t, depth+1, left, kind == "all"))
	}
	n.k = rapid.IntRange(1, max(1, len(n.subs))).Draw(t, "k")
	return n
}

// drawPolicy draws a policy that passes Check.
func drawPolicy(t *rapid.T, c people) (*tree, *Policy) {
	left := 14
	n := drawTree(t, 1, &left, false)
	p := n.policy(c)
	if p.Check() != nil {
		t.SkipNow()
	}
	return n, p
}

func drawEvidence(t *rapid.T, c people, label string) Evidence {
	e := Evidence{Owner: c["owner"], Waited: map[int]uint64{}, Operator: rapid.Bool().Draw(t, label+" operator")}
	for _, n := range rapid.SliceOfN(rapid.SampledFrom([]string{"owner", "ann", "bob", "carl", "kit", "eve"}), 0, 5).Draw(t, label+" signers") {
		e.Signers = append(e.Signers, c[n])
	}
	for range rapid.IntRange(0, 4).Draw(t, label+" delays") {
		e.Waited[rapid.IntRange(0, 16).Draw(t, label+" delay")] = rapid.Uint64Range(0, 5).Draw(t, label+" waited")
	}
	return e
}

// TestEvaluateIsItsDefinition compares with trying every choice of leaves.
func TestEvaluateIsItsDefinition(t *testing.T) {
	c := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		n, p := drawPolicy(t, c)
		e := drawEvidence(t, c, "e")
		v := p.Evaluate(e)
		if want := n.satisfied(c, e); v.OK != want {
			t.Fatalf("%s: OK = %v", p.Words(c.name), v.OK)
		}
		if v.OK != (len(v.Missing) == 0) || v.OK && v.Wait != 0 {
			t.Fatalf("%s: %+v", p.Words(c.name), v)
		}
		if v.Need < 1 || v.Have > v.Need || (v.Have == v.Need) != (v.OK || v.Wait > 0) {
			t.Fatalf("%s: %+v", p.Words(c.name), v)
		}
	})
}

// TestMoreEvidenceNeverHurts: signatures, a confirmation and time only help.
func TestMoreEvidenceNeverHurts(t *testing.T) {
	c := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		_, p := drawPolicy(t, c)
		less, more := drawEvidence(t, c, "less"), drawEvidence(t, c, "more")
		more.Signers = append(more.Signers, less.Signers...)
		more.Operator = more.Operator || less.Operator
		for i, s := range less.Waited {
			more.Waited[i] = max(more.Waited[i], s)
		}
		a, b := p.Evaluate(less), p.Evaluate(more)
		if a.OK && !b.OK {
			t.Fatalf("%s: satisfied by less only", p.Words(c.name))
		}
		for _, d := range a.Delays {
			if !slices.ContainsFunc(b.Delays, func(o Timer) bool { return o.Leaf == d.Leaf }) {
				t.Fatalf("%s: delay %d stops when more comes", p.Words(c.name), d.Leaf)
			}
		}
		if (a.OK || a.Wait > 0) && !b.OK && (b.Wait == 0 || b.Wait > max(a.Wait, 1)) {
			t.Fatalf("%s: from %d s to %d s", p.Words(c.name), a.Wait, b.Wait)
		}
	})
}

// TestWaitIsExact lets a holder count second by second.
func TestWaitIsExact(t *testing.T) {
	c := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		_, p := drawPolicy(t, c)
		e := drawEvidence(t, c, "e")
		v := p.Evaluate(e)
		now := uint64(0)
		for w := v; !w.OK && now < 60; now++ {
			e.Waited = maps.Clone(e.Waited)
			for _, d := range w.Delays {
				e.Waited[d.Leaf]++
			}
			w = p.Evaluate(e)
			if w.OK && now+1 != v.Wait {
				t.Fatalf("%s: satisfied after %d s, not %d", p.Words(c.name), now+1, v.Wait)
			}
		}
		if now == 60 && v.Wait != 0 {
			t.Fatalf("%s: not satisfied after %d s", p.Words(c.name), v.Wait)
		}
		if v.Wait > p.LongestWait() {
			t.Fatalf("%s: %d s is longer than the longest, %d", p.Words(c.name), v.Wait, p.LongestWait())
		}
	})
}

// TestCheckedPolicies: everybody together recovers, nobody does not.
func TestCheckedPolicies(t *testing.T) {
	c := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		_, p := drawPolicy(t, c)
		e := Evidence{Owner: c["owner"], Operator: true, Waited: map[int]uint64{}}
		for i := range MaxNodes {
			e.Waited[i] = MaxDelay
		}
		if p.Evaluate(e).OK {
			t.Fatalf("%s: satisfied without a signature", p.Words(c.name))
		}
		e.Signers = slices.Collect(maps.Values(c))
		if !p.Evaluate(e).OK {
			t.Fatalf("%s: not satisfied by everybody", p.Words(c.name))
		}
		q, err := Parse(p.Encode())
		if err != nil || !bytes.Equal(q.Encode(), p.Encode()) {
			t.Fatalf("%s: %v", p.Words(c.name), err)
		}
	})
}

// TestMissingIsEnough: whoever is named as missing, together with the delays
// and the operator, is enough.
func TestMissingIsEnough(t *testing.T) {
	c := cast(t)
	rapid.Check(t, func(t *rapid.T) {
		_, p := drawPolicy(t, c)
		e := drawEvidence(t, c, "e")
		text := []byte(join(p.Missing(e, c.name)))
		if len(text) == 0 {
			return
		}
		e.Operator, e.Waited = true, map[int]uint64{}
		for i := range MaxNodes {
			e.Waited[i] = MaxDelay
		}
		for n, k := range c {
			if n == "kit" {
				n = "recovery code"
			}
			if bytes.Contains(text, []byte(n)) {
				e.Signers = append(e.Signers, k)
			}
		}
		if !p.Evaluate(e).OK {
			t.Fatalf("%s: %s does not name enough", p.Words(c.name), text)
		}
	})
}

func join(s []string) string {
	var out []byte
	for _, w := range s {
		out = append(append(out, w...), "; "...)
	}
	return string(out)
}

func benchPolicy(b *testing.B) (*Policy, []key.PersonPublic) {
	var clauses []*Policy
	var all []key.PersonPublic
	for i := range 9 {
		k := person(b, byte(20+i))
		all = append(all, k)
		clauses = append(clauses, Key(k))
	}
	return Any(Owner(), All(KOf(4, clauses...), KOf(3, clauses...), Delay(60)), All(KOf(5, clauses...), Delay(9))), all
}

// BenchmarkTangled is about the dearest verdict that Check allows.
func BenchmarkTangled(b *testing.B) {
	p, all := benchPolicy(b)
	if err := p.Check(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if p.Evaluate(Evidence{Owner: person(b, 1), Signers: all}).Wait != 9 {
			b.Fatal("wait")
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	p, owner := Default(person(b, 2)), person(b, 1)
	for b.Loop() {
		if p.Evaluate(Evidence{Owner: owner, Signers: []key.PersonPublic{person(b, 2)}}).Wait != DefaultDelay {
			b.Fatal("wait")
		}
	}
}
