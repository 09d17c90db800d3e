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
	if best, ok := root.best(e); ok && best.done() {
		return nil
	}
	return root.missing(e, keyWords(name))
}

func (c *clause) missing(e Evidence, who func(key.PersonPublic) string) []string {
	parts := []*clause{c}
	if c.kind == kindAll {
		parts = c.subs
	}
	var out []string
	for _, s := range parts {
		if w, _ := s.lacks(e, who); w != "" && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		out = []string{"another signature: one key counts once"}
	}
	return out
}

// lacks says what the clause by itself still wants; empty: nothing. The second
// result is whether the words need parentheses inside a sentence.
func (c *clause) lacks(e Evidence, who func(key.PersonPublic) string) (string, bool) {
	if !c.gate() {
		if e.has(c) {
			return "", false
		}
		return c.words(who), false
	}
	more := c.need()
	var open []string
	wrap := false
	for _, s := range c.subs {
		w, several := s.lacks(e, who)
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
