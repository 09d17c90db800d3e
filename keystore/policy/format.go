package policy

import (
	"fmt"
	"strings"

	"keymesh/crypto/key"
)

// FormatTOML writes a policy that passes [Policy.Check] in the form that
// [ParseTOML] reads, and reads as the same policy when the same names stand for
// the same keys. name gives a person's petname, and [CodeName] for a recovery
// key of the writer; nil, or an empty answer, means the text form of the key.
func (p *Policy) FormatTOML(name func(key.PersonPublic) string) []byte {
	ways := []*Policy{p}
	if p.kind == kindAny && len(p.subs) > 1 {
		ways = p.subs
	}
	var b strings.Builder
	b.WriteString("ways = [\n")
	for _, w := range ways {
		text := w.expr(func(k key.PersonPublic) string {
			if name == nil {
				return ""
			}
			return name(k)
		})
		fmt.Fprintf(&b, "  \"%s\",\n", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
	}
	b.WriteString("]\n")
	return []byte(b.String())
}

func (p *Policy) expr(name func(key.PersonPublic) string) string {
	switch p.kind {
	case kindKey:
		return whoExpr(p.keys[0], name)
	case kindCode:
		if name(p.keys[0]) == CodeName {
			return CodeName
		}
		return CodeName + " " + whoExpr(p.keys[0], name)
	case kindOperator:
		return "operator"
	case kindDelay:
		return "delay " + p.delayExpr(name)
	}
	list := func(subs []*Policy) string {
		out := make([]string, len(subs))
		for i, s := range subs {
			out[i] = s.expr(name)
		}
		return "(" + strings.Join(out, ", ") + ")"
	}
	if p.kind == kindAll && len(p.subs) > 1 {
		last := len(p.subs) - 1
		if d, first := p.subs[last], p.subs[0]; d.kind == kindDelay && last > 1 {
			return "all " + list(p.subs[:last]) + " after " + d.delayExpr(name)
		} else if d.kind == kindDelay && first.kind != kindAll && first.kind != kindDelay {
			return first.expr(name) + " after " + d.delayExpr(name)
		}
	}
	if p.kind == kindKOf {
		return fmt.Sprintf("%d of %s", p.k, list(p.subs))
	}
	return p.gateName() + " " + list(p.subs)
}

func (p *Policy) delayExpr(name func(key.PersonPublic) string) string {
	out := durationExpr(p.seconds)
	veto := make([]string, len(p.keys))
	for i, k := range p.keys {
		veto[i] = whoExpr(k, name)
	}
	switch len(veto) {
	case 0:
		return out
	case 1:
		return out + " veto " + veto[0]
	}
	return out + " veto (" + strings.Join(veto, ", ") + ")"
}

// whoExpr is a petname, quoted where it has to be, or a key.
func whoExpr(k key.PersonPublic, name func(key.PersonPublic) string) string {
	if k.IsZero() {
		return "owner"
	}
	s := name(k)
	if s == "" || s == CodeName || printable(s) != nil {
		return k.String()
	}
	word := strings.IndexFunc(s, func(r rune) bool { return !inWord(r) }) < 0
	if word && !isReserved(s) && !digits(s) && !strings.HasPrefix(s, keyPrefix) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

func durationExpr(seconds uint64) string {
	if seconds == 0 {
		return "0s"
	}
	var out string
	for _, u := range []string{"d", "h", "m", "s"} {
		if n := seconds / unit(u); n > 0 {
			out += fmt.Sprintf("%d%s", n, u)
			seconds %= unit(u)
		}
	}
	return out
}
