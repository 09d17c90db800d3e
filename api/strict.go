package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"keymesh/api/apitype"
)

// maxDepth bounds nesting: a policy of four levels in a put has 12.
const maxDepth = 16

// decodeStrict decodes one JSON object into the struct that out points to. It
// refuses what encoding/json lets through: unknown members, members whose case
// differs, duplicates, null, invalid UTF-8, lone surrogates, and depth. Errors
// quote names of members, never values.
func decodeStrict(in []byte, out any) *apitype.Problem {
	invalid := func(f string, a ...any) *apitype.Problem { return apitype.NewProblem(apitype.Invalid, f, a...) }
	switch {
	case !utf8.Valid(in):
		return invalid("the body is not UTF-8")
	case !json.Valid(in):
		return invalid("the body is not one JSON value")
	}
	w := walker{in: in}
	w.space()
	if w.in[w.pos] != '{' {
		return invalid("the body is not a JSON object")
	}
	if err := w.value(reflect.TypeOf(out).Elem(), 1); err != nil {
		return invalid("the body is refused: %v", err)
	}
	err := json.Unmarshal(in, out)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return invalid("the member %.100q has the wrong type", wrong.Field)
	}
	// What remains are errors of our own decoders, which hold no values.
	return invalid("the body is refused: %.200s", err)
}

// walker goes over JSON that is known to be valid.
type walker struct {
	in  []byte
	pos int
}

// next skips space, takes one byte and skips the space after it.
func (w *walker) next() {
	w.space()
	w.pos++
	w.space()
}

func (w *walker) space() {
	for w.pos < len(w.in) && strings.IndexByte(" \t\r\n", w.in[w.pos]) >= 0 {
		w.pos++
	}
}

// value checks one value against t, which is nil where anything goes.
func (w *walker) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	w.space()
	switch c := w.in[w.pos]; c {
	case '{':
		return w.object(t, depth)
	case '[':
		return w.array(t, depth)
	case '"':
		_, err := w.text()
		return err
	case 'n':
		return errors.New("null is not a value here: leave the member out")
	default:
		for w.pos < len(w.in) && strings.IndexByte(",]} \t\r\n", w.in[w.pos]) < 0 {
			w.pos++
		}
		return nil
	}
}

func (w *walker) object(t reflect.Type, depth int) error {
	w.next() // {
	seen := map[string]bool{}
	for w.in[w.pos] != '}' {
		raw, err := w.text()
		if err != nil {
			return err
		}
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return errors.New("a name of a member cannot be read")
		}
		if seen[name] {
			return fmt.Errorf("the member %s is there twice", quote(name))
		}
		seen[name] = true
		member, ok := memberType(t, name)
		if !ok {
			return fmt.Errorf("unknown member %s", quote(name))
		}
		w.next() // :
		if err := w.value(member, depth+1); err != nil {
			return err
		}
		w.space()
		if w.in[w.pos] == ',' {
			w.next()
		}
	}
	w.pos++
	return nil
}

func (w *walker) array(t reflect.Type, depth int) error {
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Slice {
		elem = t.Elem()
	}
	w.next() // [
	for w.in[w.pos] != ']' {
		if err := w.value(elem, depth+1); err != nil {
			return err
		}
		w.space()
		if w.in[w.pos] == ',' {
			w.next()
		}
	}
	w.pos++
	return nil
}

// text takes one string and returns it with its quotes.
func (w *walker) text() ([]byte, error) {
	w.space()
	start := w.pos
	for w.pos++; w.in[w.pos] != '"'; w.pos++ {
		if w.in[w.pos] != '\\' {
			continue
		}
		w.pos++
		if w.in[w.pos] != 'u' {
			continue
		}
		switch r := w.unit(w.pos - 1); {
		case r >= 0xdc00 && r <= 0xdfff:
			return nil, errors.New("a string has a lone surrogate")
		case r >= 0xd800 && r <= 0xdbff:
			if low := w.unit(w.pos + 5); low < 0xdc00 || low > 0xdfff {
				return nil, errors.New("a string has a lone surrogate")
			}
			w.pos += 6
		}
		w.pos += 4
	}
	w.pos++
	return w.in[start:w.pos], nil
}

// unit returns the code unit of the escape \uXXXX at i, or -1.
func (w *walker) unit(i int) int {
	if i+6 > len(w.in) || w.in[i] != '\\' || w.in[i+1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(w.in[i+2:i+6]), 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// memberType returns the type of an object's member and whether there is such a
// member. A nil type means that anything goes below.
func memberType(t reflect.Type, name string) (reflect.Type, bool) {
	switch {
	case t == nil:
		return nil, true
	case t.Kind() == reflect.Map:
		return t.Elem(), true
	case t.Kind() != reflect.Struct:
		return nil, true // the decoder refuses the type
	}
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name && tag != "" && tag != "-" {
			return f.Type, true
		}
	}
	return nil, false
}

// quote is for names of members, which a caller chose.
func quote(s string) string { return fmt.Sprintf("%.60q", s) }
