package policy

import (
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// Evidence is what a holder knows about one request.
type Evidence struct {
	Owner key.PersonPublic
	// Signers are those whose valid signatures over this very request are here,
	// the requester among them. Order and repetition do not matter.
	Signers []key.PersonPublic
}

// Verdict is what a policy says of the evidence.
type Verdict struct {
	OK bool
	// Missing are the clauses that are not satisfied, in words, each once.
	// Empty when OK.
	Missing []string
}

// maxSteps bounds the search of [solver]. Policies that name no key twice need
// one step a node.
const maxSteps = 10_000

// solver looks for a set of leaves that satisfies the tree and uses no key
// twice: one signature is one leaf, however the tree nests.
type solver struct {
	owner key.PersonPublic
	leaf  func(*Policy) bool // whether the leaf is satisfied, keys aside
	count map[key.PersonPublic]int
	used  map[key.PersonPublic]bool
	steps int
}

func newSolver(p *Policy, owner key.PersonPublic, leaf func(*Policy) bool) *solver {
	s := &solver{owner: owner, leaf: leaf, count: map[key.PersonPublic]int{}, used: map[key.PersonPublic]bool{}}
	p.walk(func(l *Policy) {
		if l.signed() {
			s.count[s.resolve(l.keys[0])]++
		}
	})
	return s
}

func (s *solver) resolve(k key.PersonPublic) key.PersonPublic {
	if k.IsZero() {
		return s.owner
	}
	return k
}

// solve reports whether p and then everything that next stands for can be
// satisfied together.
func (s *solver) solve(p *Policy, next func() bool) bool {
	s.steps++
	if s.steps > maxSteps {
		return false // as unsatisfied, at every holder alike
	}
	switch p.kind {
	case kindAny:
		return s.choose(p.subs, 1, next)
	case kindAll:
		return s.choose(p.subs, len(p.subs), next)
	case kindKOf:
		return s.choose(p.subs, p.k, next)
	}
	if !s.leaf(p) {
		return false
	}
	if !p.signed() {
		return next()
	}
	k := s.resolve(p.keys[0])
	if s.used[k] {
		return false
	}
	s.used[k] = true
	defer delete(s.used, k)
	return next()
}

// choose satisfies need of the clauses and then next.
func (s *solver) choose(clauses []*Policy, need int, next func() bool) bool {
	if need <= 0 {
		return next()
	}
	if len(clauses) < need {
		return false
	}
	c, rest := clauses[0], clauses[1:]
	if s.solve(c, func() bool { return s.choose(rest, need-1, next) }) {
		return true
	}
	if c.signed() && s.count[s.resolve(c.keys[0])] == 1 && s.leaf(c) {
		return false // a key that stands nowhere else is never worth saving
	}
	return s.choose(rest, need, next)
}

func yes() bool { return true }

// signed reports whether the leaf is satisfied by one key's signature.
func (p *Policy) signed() bool { return p.kind == kindKey || p.kind == kindCode }

// walk calls f on every leaf, in order.
func (p *Policy) walk(f func(*Policy)) {
	if len(p.subs) == 0 {
		f(p)
	}
	for _, s := range p.subs {
		s.walk(f)
	}
}

// Evaluate says whether the evidence satisfies the policy. Each signature
// counts for one leaf at most. Delay, code and operator clauses count as not
// satisfied in this version.
func (p *Policy) Evaluate(e Evidence) Verdict {
	have := func(l *Policy) bool {
		k := l.keyOr(e.Owner)
		return l.kind == kindKey && !k.IsZero() && slices.Contains(e.Signers, k)
	}
	if newSolver(p, e.Owner, have).solve(p, yes) {
		return Verdict{OK: true}
	}
	var v Verdict
	p.walk(func(l *Policy) {
		if w := l.Words(nil); !have(l) && !slices.Contains(v.Missing, w) {
			v.Missing = append(v.Missing, w)
		}
	})
	if len(v.Missing) == 0 {
		v.Missing = []string{"another signature: one key counts once"}
	}
	return v
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

// IsParty reports whether the person is the owner or named anywhere in the
// policy, as an approver, by a recovery key or as one who may veto. Only
// parties learn that a secret exists.
func (p *Policy) IsParty(owner, person key.PersonPublic) bool {
	if person.IsZero() {
		return false
	}
	if person == owner {
		return true // who may always replace and delete it
	}
	found := false
	p.walk(func(l *Policy) { found = found || slices.Contains(l.keys, person) })
	return found
}

// Check refuses policies with which no one could ever recover anything, or
// anyone could: more than [MaxDepth] levels or [MaxNodes] nodes, gates without
// clauses or with a threshold out of range, keys that are none, a delay outside
// an all with another clause, and trees that cannot be satisfied although
// everyone named signs, since one signature counts for one leaf only. Errors
// wrap [ErrPolicy].
func (p *Policy) Check() error {
	nodes := 0
	if err := p.check(1, &nodes, nil); err != nil {
		return err
	}
	// A made-up owner that is nobody's key: the owner leaf has a key of its own.
	owner := key.PersonPublic(key.T("keymesh/v1/policy-owner"))
	all := func(*Policy) bool { return true }
	if !newSolver(p, owner, all).solve(p, yes) {
		return fmt.Errorf("%w: it can never be satisfied, or is too tangled to tell", ErrPolicy)
	}
	none := func(l *Policy) bool { return !l.signed() }
	if newSolver(p, owner, none).solve(p, yes) {
		return fmt.Errorf("%w: it would be satisfied without any signature", ErrPolicy)
	}
	return nil
}

func (p *Policy) check(depth int, nodes *int, parent *Policy) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrPolicy, fmt.Sprintf(format, a...))
	}
	*nodes++
	if depth > MaxDepth || *nodes > MaxNodes {
		return bad("more than %d levels or %d nodes", MaxDepth, MaxNodes)
	}
	switch p.kind {
	case kindKOf:
		if p.k < 1 || p.k > len(p.subs) {
			return bad("%d of %d clauses", p.k, len(p.subs))
		}
		fallthrough
	case kindAny, kindAll:
		if len(p.subs) == 0 {
			return bad("a gate without clauses")
		}
	case kindDelay:
		if err := p.checkDelay(parent); err != nil {
			return err
		}
	}
	for _, k := range p.keys {
		if k.IsZero() && p.kind != kindCode {
			continue
		}
		if err := key.CheckPublic(k); err != nil {
			return bad("%v", err)
		}
	}
	for _, s := range p.subs {
		if err := s.check(depth+1, nodes, p); err != nil {
			return err
		}
	}
	return nil
}

// checkDelay: a delay runs from when the other clauses of its gate were
// satisfied, so it needs some, and a gate in which all count.
func (p *Policy) checkDelay(parent *Policy) error {
	if p.seconds == 0 || p.seconds > MaxDelay || len(p.keys) > MaxVeto {
		return fmt.Errorf("%w: a delay of %d s", ErrPolicy, p.seconds)
	}
	if parent == nil || parent.kind != kindAll {
		return fmt.Errorf("%w: a delay outside an all", ErrPolicy)
	}
	if !slices.ContainsFunc(parent.subs, func(s *Policy) bool { return s.kind != kindDelay }) {
		return fmt.Errorf("%w: a delay without another clause", ErrPolicy)
	}
	return nil
}

// Persons are the keys that the policy names, in order of mention and not each
// once; the zero key for the owner.
func (p *Policy) Persons() []key.PersonPublic {
	var out []key.PersonPublic
	p.walk(func(l *Policy) { out = append(out, l.keys...) })
	return out
}
