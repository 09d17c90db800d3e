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

// Explain says what the persons could do if all of them signed a request and
// no operator had confirmed it yet. name is that of [Policy.Words].
func (p *Policy) Explain(owner key.PersonPublic, as []key.PersonPublic, name func(key.PersonPublic) string) Explanation {
	e := Evidence{Owner: owner, Signers: as}
	out := Explanation{Verdict: p.Evaluate(e)}
	out.Missing = p.Missing(e, name)
	ways := []*Policy{p}
	if p.kind == kindAny {
		ways = p.subs
	}
	for _, w := range ways {
		out.Ways = append(out.Ways, w.explain(e, name))
	}
	counts := p.Approvers(owner)
	for _, k := range as {
		if !slices.Contains(counts, k) && !slices.Contains(out.Idle, k) {
			out.Idle = append(out.Idle, k)
		}
	}
	return out
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
