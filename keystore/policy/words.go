package policy

import (
	"fmt"
	"strings"
	"time"

	"keymesh/crypto/key"
)

// Words says the policy in English. name gives a person's name; nil, or an
// empty answer, means the text form of the key.
func (p *Policy) Words(name func(key.PersonPublic) string) string {
	who := func(k key.PersonPublic) string {
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
	return p.words(who)
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
	d := time.Duration(p.seconds) * time.Second
	s := d.String()
	if d%time.Hour == 0 {
		s = fmt.Sprintf("%d h", d/time.Hour)
	}
	if len(p.keys) == 0 {
		return "a delay of " + s
	}
	names := make([]string, len(p.keys))
	for i, k := range p.keys {
		names[i] = who(k)
	}
	return "a delay of " + s + " (veto: " + strings.Join(names, " or ") + ")"
}
