package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"keymesh/crypto/key"
)

// maxSteps bounds the work that a policy may cost, so that everyone who knows a
// policy knows that it can be judged: see [Policy.Check]. A policy that names
// no key twice needs a few steps a node.
const maxSteps = 200_000

// clause is a node of a policy with its place in the tree and the owner filled
// in. The same *Policy may stand at several places.
type clause struct {
	*Policy
	n      int // number in preorder, from 0
	up     *clause
	at     int // position among the clauses of up
	subs   []*clause
	person key.PersonPublic // whose signature satisfies it; zero: nobody's
	bit    uint64           // of a person who could be counted twice, else 0
}

// number returns the tree with its clauses in place.
func (p *Policy) number(owner key.PersonPublic) *clause {
	n := 0
	root := p.place(owner, nil, 0, &n)
	twice := map[key.PersonPublic]bool{}
	root.signers(twice)
	bits := map[key.PersonPublic]uint64{}
	root.walk(func(c *clause) {
		if !twice[c.person] {
			return
		}
		if bits[c.person] == 0 {
			bits[c.person] = 1 << (len(bits) % 64) // 64 nodes name 32 keys twice at most
		}
		c.bit = bits[c.person]
	})
	return root
}

func (p *Policy) place(owner key.PersonPublic, up *clause, at int, n *int) *clause {
	c := &clause{Policy: p, n: *n, up: up, at: at}
	*n++
	switch p.kind {
	case kindKey:
		c.person = p.keyOr(owner)
	case kindCode:
		c.person = p.keys[0]
	}
	for i, s := range p.subs {
		c.subs = append(c.subs, s.place(owner, c, i, n))
	}
	return c
}

// signers returns whose signatures the clause could use and adds to twice who
// stands in two clauses that may be needed together.
func (c *clause) signers(twice map[key.PersonPublic]bool) map[key.PersonPublic]bool {
	out := map[key.PersonPublic]bool{}
	if !c.person.IsZero() {
		out[c.person] = true
	}
	for _, s := range c.subs {
		for p := range s.signers(twice) {
			if out[p] && c.need() > 1 {
				twice[p] = true
			}
			out[p] = true
		}
	}
	return out
}

// walk calls f on the clause and everything below, in preorder.
func (c *clause) walk(f func(*clause)) {
	f(c)
	for _, s := range c.subs {
		s.walk(f)
	}
}

// need says how many clauses the gate wants.
func (p *Policy) need() int {
	switch p.kind {
	case kindAny:
		return 1
	case kindAll:
		return len(p.subs)
	}
	return p.k
}

// gate reports whether the node has clauses.
func (p *Policy) gate() bool { return p.kind == kindAny || p.kind == kindAll || p.kind == kindKOf }

// path names the clause by the way from the root, like any[1].all[0]; empty for
// the root.
func (c *clause) path() string {
	if c.up == nil {
		return ""
	}
	return step(c.up.path(), c.up.Policy, c.at)
}

// step is the path to a clause of the gate that path leads to.
func step(path string, gate *Policy, at int) string {
	if path != "" {
		path += "."
	}
	return fmt.Sprintf("%s%s[%d]", path, gate.gateName(), at)
}

// way is the position of the clause of the root in which c is; -1 for the root.
func (c *clause) way() int {
	at := -1
	for ; c.up != nil; c = c.up {
		at = c.at
	}
	return at
}

func (p *Policy) gateName() string {
	switch p.kind {
	case kindAny:
		return "any"
	case kindAll:
		return "all"
	}
	return fmt.Sprintf("%d-of", p.k)
}

// cost is what a way to satisfy a clause still lacks. Costs add up.
type cost struct {
	lacks  int // signatures and confirmations that are missing
	delays int // delays that have not passed
	has    int // signatures and confirmations that are here
}

func (a cost) plus(b cost) cost {
	return cost{a.lacks + b.lacks, a.delays + b.delays, a.has + b.has}
}

// order is a total order of costs that addition keeps; the least is the best.
type order func(a, b cost) int

// soonest prefers what is satisfied now, and then what time alone satisfies.
func soonest(a, b cost) int {
	return cmp.Or(a.lacks-b.lacks, a.delays-b.delays, b.has-a.has)
}

// nearest prefers, of those that lack the same number of signatures, the way
// that most people have signed: it is the one that is under way.
func nearest(a, b cost) int {
	return cmp.Or(a.lacks-b.lacks, b.has-a.has, a.delays-b.delays)
}

func (a cost) done() bool { return a.lacks == 0 && a.delays == 0 }

// table holds, for each set of persons that a clause may use up, the least cost
// of satisfying it so. Only persons count that another clause could want too:
// without them a table has one entry. Which sets there are does not depend on
// the evidence, so that more evidence never makes a policy harder to judge.
type table map[uint64]cost

// solver finds the cheapest way to satisfy a clause in which no signature
// counts for two leaves, however the tree nests.
type solver struct {
	leaf  func(*clause) cost
	order order
	steps int     // still allowed
	dead  *clause // the first clause, from the leaves up, that no evidence satisfies
}

// best returns the least cost; false when there is no way at all or the search
// ran out of steps.
func (s *solver) best(c *clause) (cost, bool) {
	t := s.table(c)
	if s.steps < 0 {
		return cost{}, false // as unsatisfied, at every holder alike
	}
	costs := slices.Collect(maps.Values(t))
	if len(costs) == 0 {
		return cost{}, false
	}
	return slices.MinFunc(costs, s.order), true
}

func (s *solver) table(c *clause) table {
	if !c.gate() {
		s.steps--
		return table{c.bit: s.leaf(c)}
	}
	need := c.need()
	if need < 1 || need > len(c.subs) {
		s.kill(c)
		return nil
	}
	// sums[j] satisfies j of the clauses so far.
	sums := make([]table, need+1)
	for j := range sums {
		sums[j] = table{}
	}
	sums[0][0] = cost{}
	for i, sub := range c.subs {
		t := s.table(sub)
		after := len(c.subs) - i - 1
		for j := min(i, need-1); j >= 0 && j+1+after >= need; j-- {
			s.add(sums[j+1], sums[j], t)
		}
	}
	if len(sums[need]) == 0 {
		s.kill(c)
	}
	return sums[need]
}

// add puts every sum of an entry of a and one of b that share no person.
func (s *solver) add(to, a, b table) {
	for x, cx := range a {
		for y, cy := range b {
			if s.steps--; s.steps < 0 {
				return
			}
			if x&y != 0 {
				continue
			}
			sum := cx.plus(cy)
			if old, ok := to[x|y]; !ok || s.order(sum, old) < 0 {
				to[x|y] = sum
			}
		}
	}
}

func (s *solver) kill(c *clause) {
	if s.dead == nil && s.steps >= 0 {
		s.dead = c
	}
}
