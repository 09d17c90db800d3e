package policy

import (
	"fmt"
	"slices"
	"strings"

	"keymesh/crypto/key"
)

// Words says the policy in English. name gives a person's name; nil, or an
// empty answer, means the text form of the key.
func (p *Policy) Words(name func(key.PersonPublic) string) string {
	return p.words(keyWords(name))
}

// keyWords gives the word for each key, and one for the owner.
func keyWords(name func(key.PersonPublic) string) func(key.PersonPublic) string {
	return func(k key.PersonPublic) string {
		if k.IsZero() {
			return "owner"
		}
		if name != nil {
			if s := name(k); s != "" {
				return s
			}
		}
		return k.String()
	}
}

func (p *Policy) words(who func(key.PersonPublic) string) string {
	list := func() string {
		out := make([]string, len(p.subs))
		for i, s := range p.subs {
			out[i] = s.words(who)
		}
		return "(" + strings.Join(out, ", ") + ")"
	}
	switch p.kind {
	case kindAny:
		return "any of " + list()
	case kindAll:
		return "all of " + list()
	case kindKOf:
		return fmt.Sprintf("%d of %s", p.k, list())
	case kindKey:
		return who(p.keys[0])
	case kindCode:
		return "recovery code"
	case kindOperator:
		return "the holder's operator"
	}
	return p.delayWords(who)
}

func (p *Policy) delayWords(who func(key.PersonPublic) string) string {
	s := "a delay of " + duration(p.seconds)
	if len(p.keys) == 0 {
		return s
	}
	names := make([]string, len(p.keys))
	for i, k := range p.keys {
		names[i] = who(k)
	}
	return s + " (veto: " + strings.Join(names, " or ") + ")"
}

// duration is a time in the largest unit that it is a whole number of, up to
// hours.
func duration(seconds uint64) string {
	switch {
	case seconds > 0 && seconds%3600 == 0:
		return fmt.Sprintf("%d h", seconds/3600)
	case seconds > 0 && seconds%60 == 0:
		return fmt.Sprintf("%d min", seconds/60)
	}
	return fmt.Sprintf("%d s", seconds)
}

// Missing says what the evidence lacks, in words, each once: everything in the
// list has to come, and where there is a choice an entry says so with "or" and
// "more of". Empty when nothing is missing. name is that of [Policy.Words].
func (p *Policy) Missing(e Evidence, name func(key.PersonPublic) string) []string {
	root := p.number(e.Owner)
	if best, ok := root.best(e, soonest); ok && best.done() {
		return nil
	}
	return root.missing(e, keyWords(name))
}

func (c *clause) missing(e Evidence, who func(key.PersonPublic) string) []string {
	t := teller{Evidence: e, who: who, named: slices.Clone(e.Signers)}
	parts := []*clause{c}
	if c.kind == kindAll {
		parts = c.subs
	}
	var out []string
	for _, s := range parts {
		if w, _ := t.lacks(s); w != "" && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	// Clause by clause a signature may have been counted twice.
	s := solver{order: soonest, steps: 4 * maxSteps, leaf: func(l *clause) cost {
		if !l.person.IsZero() && !slices.Contains(t.named, l.person) {
			return cost{lacks: 1}
		}
		return cost{}
	}}
	if best, ok := s.best(c); !ok || !best.done() {
		out = append(out, t.another(c))
	}
	return out
}

// teller says what is missing, and notes whom it named or who signed.
type teller struct {
	Evidence
	who   func(key.PersonPublic) string
	named []key.PersonPublic
}

// another says whose signatures are missing besides.
func (t *teller) another(c *clause) string {
	var open []string
	c.walk(func(l *clause) {
		if l.person.IsZero() || slices.Contains(t.named, l.person) {
			return
		}
		if w := l.words(t.who); !slices.Contains(open, w) {
			open = append(open, w)
		}
	})
	if len(open) == 0 {
		return "another signature: one counts once"
	}
	return "a signature of " + strings.Join(open, " or ") + ": one counts once"
}

// lacks says what the clause by itself still wants; empty: nothing. The second
// result is whether the words need parentheses inside a sentence.
func (t *teller) lacks(c *clause) (string, bool) {
	if !c.gate() {
		if t.has(c) {
			return "", false
		}
		t.named = append(t.named, c.person)
		return c.words(t.who), false
	}
	more, before := c.need(), len(t.named)
	var open []string
	wrap := false
	for _, s := range c.subs {
		w, several := t.lacks(s)
		if w == "" {
			more--
			continue
		}
		wrap = several
		if several && len(c.subs) > 1 {
			w = "(" + w + ")"
		}
		if !slices.Contains(open, w) {
			open = append(open, w)
		}
	}
	switch {
	case more <= 0:
		t.named = t.named[:before] // what the others lack is not said
		return "", false
	case len(open) == 1:
		return open[0], wrap && len(c.subs) == 1
	case c.kind == kindAny:
		return strings.Join(open, " or "), true
	case c.kind == kindAll:
		return strings.Join(open, " and "), true
	}
	return fmt.Sprintf("%d more of (%s)", more, strings.Join(open, ", ")), false
}
