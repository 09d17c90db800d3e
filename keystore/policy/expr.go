package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"keymesh/crypto/key"
)

// isReserved reports whether a word of the text form is no petname without
// quotes, however it is capitalised.
func isReserved(word string) bool {
	switch strings.ToLower(word) {
	case "owner", CodeName, "operator", "any", "all", "of", "after", "delay", "veto", "or", "and":
		return true
	}
	return false
}

type token struct {
	mark rune   // ( ) , or w for a word, q for a quoted one, 0 for the end
	text string // of a word, without quotes
}

// expr parses one clause of the text form.
type expr struct {
	toks   []token // what is left; the end is the last
	person func(string) (key.PersonPublic, error)
}

func parseClause(text string, person func(string) (key.PersonPublic, error)) (*Policy, error) {
	toks, err := tokens(text)
	if err != nil {
		return nil, err
	}
	x := expr{toks, person}
	p, err := x.clause(1)
	if err != nil {
		return nil, err
	}
	if t := x.next(); t.mark != 0 {
		return nil, fmt.Errorf("%s follows a whole clause; several go into any (...), all (...) or 2 of (...)", t)
	}
	return p, nil
}

func tokens(text string) ([]token, error) {
	var out []token
	for rest := text; rest != ""; {
		switch c := rest[0]; c {
		case ' ', '\t':
			rest = rest[1:]
		case '(', ')', ',':
			out = append(out, token{mark: rune(c), text: string(c)})
			rest = rest[1:]
		case '\'':
			t, after, err := quoted(rest)
			if err != nil {
				return nil, err
			}
			out, rest = append(out, t), after
		default:
			n := strings.IndexFunc(rest, func(r rune) bool { return !inWord(r) })
			if n < 0 {
				n = len(rest)
			}
			if n == 0 {
				return nil, fmt.Errorf("%.20q is not possible here; names with more than letters, digits and . _ - @ + go into single quotes", rest)
			}
			out, rest = append(out, token{'w', rest[:n]}), rest[n:]
		}
	}
	return append(out, token{}), nil
}

func inWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || strings.ContainsRune("._-@+", r)
}

// quoted reads a name in single quotes, in which two stand for one.
func quoted(s string) (token, string, error) {
	var name strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '\'' {
			name.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '\'' {
			name.WriteByte('\'')
			i++
			continue
		}
		if name.Len() == 0 {
			return token{}, "", errors.New("an empty name")
		}
		return token{'q', name.String()}, s[i+1:], nil
	}
	return token{}, "", errors.New("the closing single quote is missing")
}

func (t token) String() string {
	if t.mark == 0 {
		return "the end"
	}
	return fmt.Sprintf("%.80q", t.text)
}

func (t token) is(word string) bool { return t.mark == 'w' && t.text == word }

func (x *expr) peek() token { return x.toks[0] }

func (x *expr) next() token {
	t := x.toks[0]
	if t.mark != 0 {
		x.toks = x.toks[1:]
	}
	return t
}

func (x *expr) clause(depth int) (*Policy, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", MaxDepth)
	}
	p, err := x.atom(depth)
	if err != nil || !x.peek().is("after") {
		return p, err
	}
	x.next()
	d, err := x.delay()
	if err != nil {
		return nil, err
	}
	switch p.kind {
	case kindDelay:
		return nil, errors.New("a delay after a delay")
	case kindAll:
		return All(append(p.subs, d)...), nil
	}
	return All(p, d), nil
}

func (x *expr) atom(depth int) (*Policy, error) {
	t := x.next()
	switch {
	case t.is("owner"):
		return Owner(), nil
	case t.is("operator"):
		return Operator(), nil
	case t.is("delay"):
		return x.delay()
	case t.is(CodeName):
		return x.code()
	case t.is("any"):
		subs, err := x.list(depth)
		return Any(subs...), err
	case t.is("all"):
		subs, err := x.list(depth)
		return All(subs...), err
	case x.peek().is("of"):
		return x.kOf(t, depth)
	}
	k, err := x.name(t)
	return Key(k), err
}

func (x *expr) kOf(t token, depth int) (*Policy, error) {
	k, err := strconv.Atoi(t.text)
	if t.mark != 'w' || err != nil || k < 1 || k > MaxNodes {
		return nil, fmt.Errorf("%s before of is no number from 1 to %d", t, MaxNodes)
	}
	x.next()
	subs, err := x.list(depth)
	return KOf(k, subs...), err
}

func (x *expr) code() (*Policy, error) {
	t := x.peek()
	if t.mark != 'q' && (t.mark != 'w' || t.is("after")) {
		k, err := x.person(CodeName)
		if err != nil {
			return nil, fmt.Errorf("code without a name: %w", err)
		}
		return Code(k), nil
	}
	k, err := x.name(x.next())
	return Code(k), err
}

// list reads clauses in parentheses; one comma may follow the last.
func (x *expr) list(depth int) ([]*Policy, error) {
	if t := x.next(); t.mark != '(' {
		return nil, fmt.Errorf("( is missing before %s", t)
	}
	var out []*Policy
	for x.peek().mark != ')' {
		p, err := x.clause(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
		if x.peek().mark == ',' {
			x.next()
		} else if t := x.peek(); t.mark != ')' {
			return nil, fmt.Errorf("a comma or ) is missing before %s", t)
		}
	}
	x.next()
	if len(out) == 0 {
		return nil, errors.New("nothing between ( and )")
	}
	return out, nil
}

// name resolves a petname or a key in its text form.
func (x *expr) name(t token) (key.PersonPublic, error) {
	if t.mark != 'w' && t.mark != 'q' {
		return key.PersonPublic{}, fmt.Errorf("a name is missing before %s", t)
	}
	if t.mark == 'w' {
		if isReserved(t.text) {
			return key.PersonPublic{}, fmt.Errorf("%s is not possible here; a person of that name goes into single quotes", t)
		}
		if digits(t.text) {
			return key.PersonPublic{}, fmt.Errorf("%s is no clause; did you mean %s of (...)?", t, t.text)
		}
		// Never a petname: nobody else may be called by somebody's key.
		if strings.HasPrefix(t.text, keyPrefix) {
			return key.ParsePerson(t.text)
		}
	}
	if t.text == CodeName {
		return key.PersonPublic{}, fmt.Errorf("nobody can be called %s", t)
	}
	k, err := x.person(t.text)
	if err == nil && k.IsZero() {
		err = errors.New("nobody's key")
	}
	if err != nil {
		return key.PersonPublic{}, fmt.Errorf("who is %s: %w", t, err)
	}
	return k, nil
}

const keyPrefix = "person-"

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// delay reads a time and who may veto.
func (x *expr) delay() (*Policy, error) {
	t := x.next()
	text := t.text
	if t.mark == 'w' && digits(text) && x.peek().mark == 'w' {
		text += x.next().text // "1 h"
	}
	seconds, ok := parseDuration(text)
	if !ok || t.mark != 'w' {
		return nil, fmt.Errorf("%.80q is no time: write 2d, 24h, 90m, 30s or 1h30m, at most 365d", text)
	}
	if !x.peek().is("veto") {
		return Delay(seconds), nil
	}
	x.next()
	veto, err := x.vetoKeys()
	return Delay(seconds, veto...), err
}

func (x *expr) vetoKeys() ([]key.PersonPublic, error) {
	one := func() (key.PersonPublic, error) {
		t := x.next()
		if t.is("owner") {
			return OwnerKey(), nil
		}
		return x.name(t)
	}
	if x.peek().mark != '(' {
		k, err := one()
		return []key.PersonPublic{k}, err
	}
	var out []key.PersonPublic
	for sep := x.next(); sep.mark != ')'; {
		k, err := one()
		if err != nil {
			return nil, err
		}
		out = append(out, k)
		if sep = x.next(); sep.mark != ',' && sep.mark != ')' {
			return nil, fmt.Errorf("a comma or ) is missing before %s", sep)
		}
	}
	return out, nil
}

// unit is the length of a unit of time in seconds; 0: there is none.
func unit(name string) uint64 {
	switch name {
	case "d":
		return 24 * 60 * 60
	case "h":
		return 60 * 60
	case "m", "min":
		return 60
	case "s":
		return 1
	}
	return 0
}

// parseDuration reads a time like 1h30m, from the largest unit, in seconds.
func parseDuration(s string) (uint64, bool) {
	total, below := uint64(0), uint64(math.MaxUint64)
	for s != "" {
		n := len(s) - len(strings.TrimLeft(s, "0123456789"))
		v, err := strconv.ParseUint(s[:n], 10, 32)
		if err != nil {
			return 0, false
		}
		s = s[n:]
		n = strings.IndexAny(s, "0123456789")
		if n < 0 {
			n = len(s)
		}
		u := unit(s[:n])
		if u == 0 || u >= below {
			return 0, false
		}
		total, below, s = total+v*u, u, s[n:]
	}
	return total, below != math.MaxUint64
}
