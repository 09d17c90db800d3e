package policy

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// Check refuses policies with which no one could ever recover anything, or
// anyone could: more than [MaxDepth] levels or [MaxNodes] nodes, gates without
// clauses or with a threshold out of range, keys that are none, a delay outside
// an all with another clause, trees and clauses that cannot be satisfied
// although everyone named signs, since one signature counts for one leaf only,
// and trees too tangled to be judged at every evidence. Errors wrap [ErrPolicy]
// and name the clause by its path, like any[1].all[0].
func (p *Policy) Check() error { return p.CheckOwner(nobody()) }

// CheckOwner is [Policy.Check] for the secrets of one owner: it also refuses
// what asks for two signatures of the owner, once as owner and once by key.
func (p *Policy) CheckOwner(owner key.PersonPublic) error {
	if r := p.judge(owner, nil); r != nil {
		return r.err()
	}
	return nil
}

// nobody is a made-up owner, so that the owner leaf has a key of its own.
func nobody() key.PersonPublic { return key.PersonPublic(key.T("keymesh/v1/policy-owner")) }

// refusal says which clause of a policy is refused.
type refusal struct {
	path  string // empty: the whole policy
	words string // the clause
	way   int    // the clause of the root that it is or is in; -1: the root itself
	why   string
}

func (r *refusal) err() error {
	if r.path == "" {
		return fmt.Errorf("%w: %s", ErrPolicy, r.why)
	}
	if r.words == "" {
		return fmt.Errorf("%w: %s: %s", ErrPolicy, r.path, r.why)
	}
	return fmt.Errorf("%w: %s (%.160s): %s", ErrPolicy, r.path, r.words, r.why)
}

// judge returns what Check refuses, or nil.
func (p *Policy) judge(owner key.PersonPublic, name func(key.PersonPublic) string) *refusal {
	if r := p.checkSize(); r != nil {
		return r
	}
	root := p.number(owner)
	refuse := func(c *clause, why string) *refusal {
		return &refusal{path: c.path(), words: c.Words(name), way: c.way(), why: why}
	}
	delays := 0
	var bad *refusal
	root.walk(func(c *clause) {
		if why := c.check(); why != "" && bad == nil {
			bad = refuse(c, why)
		}
		if isDelay(c) {
			delays++
		}
	})
	if bad != nil {
		return bad
	}
	s := solver{leaf: func(*clause) cost { return cost{} }, order: soonest, steps: maxSteps}
	s.best(root)
	// A verdict solves the tree once for each delay and each delay that runs
	// out. An owner who is also named by key at most doubles each table, and so
	// at most quadruples the steps: Evaluate has four times as many.
	used := maxSteps - s.steps
	if s.steps < 0 || used*(1+delays)*(1+delays) > maxSteps {
		return refuse(root, "it is too tangled to be judged: too many persons stand in several clauses that may be needed together")
	}
	if s.dead != nil {
		return refuse(s.dead, "it can never be satisfied: one signature counts once, and it wants one person's twice")
	}
	if free := root.free(); free != nil {
		return refuse(free, "it would be satisfied without any signature")
	}
	return nil
}

// checkSize goes before everything that recurses or allocates by the tree.
func (p *Policy) checkSize() *refusal {
	nodes := 0
	var walk func(p *Policy, path string, depth, way int) *refusal
	walk = func(p *Policy, path string, depth, way int) *refusal {
		if nodes++; nodes > MaxNodes {
			return &refusal{path: path, way: way, why: fmt.Sprintf("more than %d nodes", MaxNodes)}
		}
		if depth > MaxDepth {
			return &refusal{path: path, way: way, why: fmt.Sprintf("more than %d levels", MaxDepth)}
		}
		for i, s := range p.subs {
			if depth == 1 {
				way = i
			}
			if r := walk(s, step(path, p, i), depth+1, way); r != nil {
				return r
			}
		}
		return nil
	}
	return walk(p, "", 1, -1)
}

// check says what is wrong with the node itself; empty: nothing.
func (c *clause) check() string {
	switch c.kind {
	case kindKOf:
		if c.k < 1 || c.k > len(c.subs) {
			return fmt.Sprintf("%d of %d clauses", c.k, len(c.subs))
		}
	case kindAny, kindAll:
		if len(c.subs) == 0 {
			return "a gate without clauses"
		}
	case kindDelay:
		if why := c.checkDelay(); why != "" {
			return why
		}
	}
	for _, k := range c.keys {
		if k.IsZero() && c.kind != kindCode {
			continue
		}
		if err := key.CheckPublic(k); err != nil {
			return err.Error()
		}
	}
	return ""
}

// checkDelay: a delay runs from when the other clauses of its gate were
// satisfied, so it needs some, and a gate in which all count.
func (c *clause) checkDelay() string {
	switch {
	case c.seconds == 0 || c.seconds > MaxDelay:
		return fmt.Sprintf("a delay of %d s; 1 s to 365 days are possible", c.seconds)
	case len(c.keys) > MaxVeto:
		return fmt.Sprintf("%d veto keys; at most %d are possible", len(c.keys), MaxVeto)
	case c.up == nil || c.up.kind != kindAll:
		return "a delay outside an all: from when would it run?"
	case !slices.ContainsFunc(c.up.subs, func(s *clause) bool { return !isDelay(s) }):
		return "a delay without another clause: from when would it run?"
	}
	return ""
}

// free returns the clause that makes the tree free: the tree itself or, of a
// gate that wants one clause, the one that is.
func (c *clause) free() *clause {
	s := solver{leaf: func(l *clause) cost {
		if l.kind == kindKey || l.kind == kindCode {
			return cost{lacks: 1}
		}
		return cost{}
	}, order: soonest, steps: maxSteps}
	if best, ok := s.best(c); !ok || !best.done() {
		return nil
	}
	if c.gate() && c.need() == 1 {
		for _, s := range c.subs {
			if f := s.free(); f != nil {
				return f
			}
		}
	}
	return c
}
