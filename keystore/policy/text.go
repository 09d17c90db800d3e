package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"keymesh/crypto/key"
)

// ErrText: the text is not a policy file; the error says on which line and why.
var ErrText = errors.New("not a policy file")

// MaxText is the largest policy file, in bytes.
const MaxText = 64 << 10

// CodeName is the name that [ParseTOML] asks for when it meets a code clause
// without a name: the recovery key of the one who writes the policy. Nobody can
// be called that.
const CodeName = "code"

// ParseTOML reads the text form of a policy and refuses what [Policy.Check]
// refuses. The text is TOML with one key, whose strings are ways to the secret;
// any one of them is enough:
//
//	# Who may recover the secret.
//	ways = [
//	  "owner",
//	  "2 of (ann, bob, carl) after 1h veto owner",
//	  "code after 24h veto owner",
//	]
//
// A way is a clause:
//
//	owner                       a signature of the owner
//	ann, 'Ann Lee', person-...  of a person by petname, in quotes when it is not one word, or by key
//	code, code ann              of a recovery key: the writer's own, or by petname or key
//	operator                    the word of each holder's operator
//	any (A, B), all (A, B), 2 of (A, B, C)
//	A after 24h                 A, and then time: 2d, 24h, 90m, 30s, 1h30m
//	A after 24h veto owner      and then time in which the owner may veto
//	A after 24h veto (owner, bob)
//	delay 24h veto owner        the same time as a clause of an all
//
// person gives the key for a petname, or an error that says why not. Errors
// wrap [ErrText], or [ErrPolicy] for a policy that makes no sense, and say the
// line.
func ParseTOML(text []byte, person func(petname string) (key.PersonPublic, error)) (*Policy, error) {
	return ParseTOMLOf(text, nobody(), person)
}

// ParseTOMLOf is [ParseTOML] for the secrets of one owner: it refuses what
// [Policy.CheckOwner] refuses.
func ParseTOMLOf(text []byte, owner key.PersonPublic, person func(petname string) (key.PersonPublic, error)) (*Policy, error) {
	ways, err := readWays(text)
	if err != nil {
		return nil, err
	}
	names := map[key.PersonPublic]string{}
	resolve := func(name string) (key.PersonPublic, error) {
		k, err := person(name)
		if err == nil {
			names[k] = name
		}
		return k, err
	}
	clauses := make([]*Policy, len(ways))
	for i, w := range ways {
		if clauses[i], err = parseClause(w.text, resolve); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrText, w.line, err)
		}
	}
	p := Any(clauses...)
	if len(clauses) == 1 {
		p = clauses[0]
	}
	if r := p.judge(owner, func(k key.PersonPublic) string { return names[k] }); r != nil {
		line := ways[0].line
		if len(clauses) > 1 && r.way >= 0 {
			line = ways[r.way].line
		}
		return nil, fmt.Errorf("line %d: %w", line, r.err())
	}
	return p, nil
}

// way is one string of the file.
type way struct {
	text string
	line int // from 1
}

// wayReader reads the part of TOML that policy files consist of: comments, and
// a key with an array of one-line strings. It knows the line of each string,
// which no decoder tells. What it accepts means the same to every TOML decoder.
type wayReader struct {
	rest string
	line int
}

func readWays(text []byte) ([]way, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrText, MaxText)
	}
	r := wayReader{line: 1, rest: strings.ReplaceAll(string(text), "\r\n", "\n")}
	out, err := r.file()
	if err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", ErrText, r.line, err)
	}
	return out, nil
}

func (r *wayReader) file() ([]way, error) {
	var out []way
	for {
		if err := r.space(true); err != nil {
			return nil, err
		}
		if r.rest == "" {
			break
		}
		if out != nil {
			return nil, fmt.Errorf("%.60q follows: ways is the only key, and stands once", r.word())
		}
		if w := r.word(); w != "ways" {
			return nil, fmt.Errorf("unknown key %.60q: the only one is ways", w)
		}
		r.rest = r.rest[len("ways"):]
		if err := r.expect("="); err != nil {
			return nil, err
		}
		var err error
		if out, err = r.array(); err != nil {
			return nil, err
		}
		if err := r.endOfLine(); err != nil {
			return nil, err
		}
	}
	if out == nil {
		return nil, errors.New(`nothing is in it: for example ways = ["owner"]`)
	}
	return out, nil
}

// word is what stands here up to a space or an equals sign.
func (r *wayReader) word() string {
	if i := strings.IndexAny(r.rest, " \t\n=#"); i > 0 {
		return r.rest[:i]
	}
	return r.rest
}

// space skips spaces and, where lines may end, ends of lines and comments.
func (r *wayReader) space(lines bool) error {
	for r.rest != "" {
		switch c := r.rest[0]; {
		case c == ' ' || c == '\t':
			r.rest = r.rest[1:]
		case c == '\n' && lines:
			r.rest = r.rest[1:]
			r.line++
		case c == '#' && lines:
			text, _, _ := strings.Cut(r.rest, "\n")
			if err := printable(text); err != nil {
				return err
			}
			r.rest = r.rest[len(text):]
		default:
			return nil
		}
	}
	return nil
}

func (r *wayReader) expect(what string) error {
	if err := r.space(false); err != nil {
		return err
	}
	if !strings.HasPrefix(r.rest, what) {
		return fmt.Errorf("%s is missing", what)
	}
	r.rest = r.rest[len(what):]
	return nil
}

// endOfLine wants nothing but a comment.
func (r *wayReader) endOfLine() error {
	if err := r.space(false); err != nil {
		return err
	}
	if r.rest != "" && r.rest[0] != '\n' && r.rest[0] != '#' {
		return fmt.Errorf("%.60q follows on the same line", r.word())
	}
	return nil
}

func (r *wayReader) array() ([]way, error) {
	if err := r.expect("["); err != nil {
		return nil, fmt.Errorf(`%w: for example ways = ["owner"]`, err)
	}
	var out []way
	for {
		if err := r.space(true); err != nil {
			return nil, err
		}
		if strings.HasPrefix(r.rest, "]") {
			break
		}
		line := r.line
		text, err := r.str()
		if err != nil {
			return nil, err
		}
		if out = append(out, way{text, line}); len(out) > MaxNodes {
			return nil, fmt.Errorf("more than %d ways", MaxNodes)
		}
		if err := r.space(true); err != nil {
			return nil, err
		}
		if strings.HasPrefix(r.rest, "]") {
			break
		}
		if !strings.HasPrefix(r.rest, ",") {
			return nil, errors.New("a comma or ] is missing")
		}
		r.rest = r.rest[1:]
	}
	r.rest = r.rest[1:]
	if len(out) == 0 {
		return nil, errors.New("no way at all: nobody could recover the secret")
	}
	return out, nil
}

// str reads a string in double quotes, with \" and \\ in it, or in single
// quotes, with no escapes.
func (r *wayReader) str() (string, error) {
	if r.rest == "" {
		return "", errors.New("] is missing")
	}
	quote := r.rest[0]
	if quote != '"' && quote != '\'' {
		return "", fmt.Errorf("a way in quotes is missing before %.60q", r.word())
	}
	if strings.HasPrefix(r.rest[1:], string([]byte{quote, quote})) {
		return "", errors.New("strings of several lines are not possible here")
	}
	text, _, _ := strings.Cut(r.rest[1:], "\n")
	var out []byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == quote:
			r.rest = r.rest[1+i+1:]
			return string(out), printable(string(out))
		case c == '\\' && quote == '"':
			if i++; i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", errors.New(`after a backslash only " or \ is possible`)
			}
			c = text[i]
		}
		out = append(out, c)
	}
	return "", errors.New("the closing quote is missing")
}

// printable refuses what TOML refuses in strings and comments.
func printable(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("bytes that are no UTF-8")
	}
	for _, c := range s {
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("a control character, %U", c)
		}
	}
	return nil
}
