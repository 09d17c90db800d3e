package policy

import (
	"fmt"
	"slices"
	"strings"

	"keymesh/crypto/key"
)

// Explanation says whether some persons together could recover a secret, and
// by which way.
type Explanation struct {
	Verdict
	// Ways are the clauses of the policy of which any one is enough; the policy
	// itself when it is no any.
	Ways []Way
	// Idle are those of the persons whose signature counts in no clause, each once.
	Idle []key.PersonPublic
}

// Way is one way to the secret.
type Way struct {
	Words   string   // the clause
	OK      bool     // satisfied at once
	Wait    uint64   // seconds until it is, if nothing but delays is missing; else 0
	Missing []string // as in [Policy.Missing]
	Veto    []string // who may stop it meanwhile, in words
}

// Explain says what the evidence would do: the persons that would sign, the
// operator that would confirm, the time that would pass (see [Policy.After]).
// name is that of [Policy.Words].
func (p *Policy) Explain(e Evidence, name func(key.PersonPublic) string) Explanation {
	out := Explanation{Verdict: p.Evaluate(e)}
	out.Missing = p.Missing(e, name)
	ways := []*Policy{p}
	if p.kind == kindAny {
		ways = p.subs
	}
	for i, w := range ways {
		out.Ways = append(out.Ways, w.explain(e.below(p, i), name))
	}
	counts := p.Approvers(e.Owner)
	for _, k := range e.Signers {
		if !slices.Contains(counts, k) && !slices.Contains(out.Idle, k) {
			out.Idle = append(out.Idle, k)
		}
	}
	return out
}

// below is the evidence for one clause of a gate alone: delays are numbered from
// the clause that is judged.
func (e Evidence) below(gate *Policy, at int) Evidence {
	if gate.kind != kindAny || len(e.Waited) == 0 {
		return e
	}
	first := 1
	for _, s := range gate.subs[:at] {
		first += s.size()
	}
	waited := map[int]uint64{}
	for n, w := range e.Waited {
		if n >= first {
			waited[n-first] = w
		}
	}
	e.Waited = waited
	return e
}

// size is the number of nodes.
func (p *Policy) size() int {
	n := 1
	for _, s := range p.subs {
		n += s.size()
	}
	return n
}

func (p *Policy) explain(e Evidence, name func(key.PersonPublic) string) Way {
	v := p.Evaluate(e)
	w := Way{Words: p.Words(name), OK: v.OK, Wait: v.Wait, Missing: p.Missing(e, name)}
	who := keyWords(name)
	p.leaves(func(l *Policy) {
		if l.kind != kindDelay {
			return
		}
		for _, k := range l.keys {
			if s := who(k); !slices.Contains(w.Veto, s) {
				w.Veto = append(w.Veto, s)
			}
		}
	})
	return w
}

// String is the explanation in a few lines, one for each way, the last without
// an end of line.
func (e Explanation) String() string {
	var b strings.Builder
	switch {
	case e.OK:
		b.WriteString("yes, at once")
	case e.Wait > 0:
		fmt.Fprintf(&b, "yes, after %s", duration(e.Wait))
	default:
		fmt.Fprintf(&b, "no, %d of %d signatures and confirmations", e.Have, e.Need)
	}
	for _, w := range e.Ways {
		fmt.Fprintf(&b, "\n  %s: %s", w.Words, w)
	}
	return b.String()
}

func (w Way) String() string {
	switch {
	case w.OK:
		return "enough"
	case w.Wait > 0 && len(w.Veto) > 0:
		return fmt.Sprintf("enough after %s without a veto by %s", duration(w.Wait), strings.Join(w.Veto, " or "))
	case w.Wait > 0:
		return "enough after " + duration(w.Wait)
	}
	return "missing " + strings.Join(w.Missing, " and ")
}
