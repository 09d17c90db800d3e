package policy

import (
	"maps"
	"math"
	"slices"

	"keymesh/crypto/key"
)

// Evidence is what a holder knows about one request.
type Evidence struct {
	Owner key.PersonPublic
	// Signers are those whose valid signatures over this very request are here,
	// the requester and a recovery key among them. Order and repetition do not
	// matter.
	Signers []key.PersonPublic
	// Operator: the operator of this holder confirmed the request.
	Operator bool
	// Waited is the running time in seconds that this holder counted for each
	// delay clause, by its number: see [Timer].
	Waited map[int]uint64
}

// Verdict is what a policy says of the evidence.
type Verdict struct {
	OK bool
	// Missing is everything that has to come, in words, each once and with the
	// choices in it: see [Policy.Missing]. Empty when OK.
	Missing []string
	// Have of Need signatures and confirmations are here, on the way that lacks
	// the fewest and, of these, has the most. Delays do not count.
	Have, Need int
	// Delays are the delay clauses whose time runs or has passed.
	Delays []Timer
	// Wait is the least time in seconds until the policy is satisfied, if
	// nothing but delays is missing; else 0.
	Wait uint64
}

// Timer is a delay clause whose gate has everything else that it wants: the
// other clauses are satisfied by the signatures and the confirmation in the
// evidence, and delays inside them have passed. Other delays of the same gate
// run beside it. A holder counts its running time for the clause while the
// clause is among [Verdict.Delays], from zero when it appears there.
type Timer struct {
	Leaf    int                // number of the clause among all nodes in preorder, from 0
	Seconds uint64             // what the clause wants
	Waited  uint64             // what the evidence says
	Veto    []key.PersonPublic // ascending; zero: the owner
}

// Left is the time in seconds that is still to pass.
func (t Timer) Left() uint64 { return t.Seconds - min(t.Seconds, t.Waited) }

// Evaluate says whether the evidence satisfies the policy. Each signature
// counts for one leaf at most, in the whole tree. More evidence never turns OK
// into not OK. Vetoes are the caller's: a vetoed request is not evaluated.
func (p *Policy) Evaluate(e Evidence) Verdict {
	root := p.number(e.Owner)
	v := Verdict{Delays: root.timers(e)}
	best, ok := root.best(e, soonest)
	v.OK = ok && best.done()
	if v.OK {
		v.Have, v.Need = best.has, best.has
		return v
	}
	if best, ok = root.best(e, nearest); ok {
		v.Have, v.Need = best.has, best.has+best.lacks
	}
	v.Wait = root.wait(e)
	v.Missing = root.missing(e, keyWords(nil))
	return v
}

// best returns the least cost of the clause.
func (c *clause) best(e Evidence, o order) (cost, bool) {
	s := solver{leaf: e.cost, order: o, steps: 4 * maxSteps} // see Check
	return s.best(c)
}

// cost of a leaf.
func (e Evidence) cost(c *clause) cost {
	switch {
	case c.kind == kindDelay && !e.has(c):
		return cost{delays: 1}
	case c.kind == kindDelay:
		return cost{}
	case e.has(c):
		return cost{has: 1}
	}
	return cost{lacks: 1}
}

// has reports whether the evidence satisfies the leaf.
func (e Evidence) has(c *clause) bool {
	switch c.kind {
	case kindKey, kindCode:
		return !c.person.IsZero() && slices.Contains(e.Signers, c.person)
	case kindDelay:
		return e.Waited[c.n] >= c.seconds
	case kindOperator:
		return e.Operator
	}
	return false
}

// timers returns the delay clauses whose gates have everything else, in order.
func (c *clause) timers(e Evidence) []Timer {
	var out []Timer
	c.walk(func(g *clause) {
		if g.kind != kindAll || !slices.ContainsFunc(g.subs, isDelay) || !g.runs(e) {
			return
		}
		for _, d := range g.subs {
			if isDelay(d) {
				out = append(out, Timer{Leaf: d.n, Seconds: d.seconds, Waited: e.Waited[d.n], Veto: slices.Clone(d.keys)})
			}
		}
	})
	slices.SortFunc(out, func(a, b Timer) int { return a.Leaf - b.Leaf })
	return out
}

func isDelay(c *clause) bool { return c.kind == kindDelay }

// runs reports whether the gate lacks nothing but its own delays.
func (c *clause) runs(e Evidence) bool {
	s := solver{order: soonest, steps: 4 * maxSteps, leaf: func(l *clause) cost {
		if l.up == c && isDelay(l) {
			return cost{}
		}
		return e.cost(l)
	}}
	best, ok := s.best(c)
	return ok && best.done()
}

// wait lets time pass until nothing is missing. Each round ends one delay at
// least, and a delay inside a clause goes before those beside the clause.
func (c *clause) wait(e Evidence) (total uint64) {
	e.Waited = e.waited()
	for {
		if best, ok := c.best(e, soonest); !ok || best.lacks > 0 {
			return 0
		} else if best.done() {
			return total
		}
		step := c.pass(e, math.MaxUint64)
		if step == 0 {
			return 0
		}
		total += step
	}
}

// After is the evidence once so many seconds have passed at a holder and nobody
// signed, confirmed or objected meanwhile.
func (p *Policy) After(e Evidence, seconds uint64) Evidence {
	e.Waited = e.waited()
	c := p.number(e.Owner)
	for seconds > 0 {
		step := c.pass(e, seconds)
		if step == 0 {
			break
		}
		seconds -= step
	}
	return e
}

// waited is a copy that may be changed.
func (e Evidence) waited() map[int]uint64 {
	out := maps.Clone(e.Waited)
	if out == nil {
		out = map[int]uint64{}
	}
	return out
}

// pass lets time pass until the next delay is over, but at most so many
// seconds, and returns how many those were: 0 when no delay runs.
func (c *clause) pass(e Evidence, most uint64) uint64 {
	running := slices.DeleteFunc(c.timers(e), func(t Timer) bool { return t.Left() == 0 })
	if len(running) == 0 {
		return 0
	}
	step := most
	for _, t := range running {
		step = min(step, t.Left())
	}
	for _, t := range running {
		e.Waited[t.Leaf] = t.Waited + step
	}
	return step
}

func (p *Policy) keyOr(owner key.PersonPublic) key.PersonPublic {
	if len(p.keys) == 0 {
		return key.PersonPublic{}
	}
	if p.keys[0].IsZero() {
		return owner
	}
	return p.keys[0]
}
