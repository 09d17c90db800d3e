package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

// strictCase is a body and a part of why it is refused; empty: it is not.
type strictCase struct{ in, why string }

func strictCases() map[string]strictCase {
	deep := func(n int) string {
		return `{"value":"","policy":` + strings.Repeat(`{"any":[`, n) + `{"owner":true}` + strings.Repeat(`]}`, n) + `}`
	}
	return map[string]strictCase{
		"plain":                   {`{"value":"","labels":{"a":"b","A":"c"}}`, ""},
		"space":                   {" \r\n\t{ \"value\" : \"\" , \"holders\" : [ \"a\" , \"b\" ] , \"labels\" : { } } \n", ""},
		"escapes":                 {`{"value":"","description":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}`, ""},
		"escaped known member":    {`{"\u0076alue":""}`, ""},
		"policy":                  {deep(3), ""},
		"empty":                   {``, "not one JSON value"},
		"space only":              {` `, "not one JSON value"},
		"list":                    {`[]`, "not a JSON object"},
		"null":                    {`null`, "not a JSON object"},
		"text":                    {`"value"`, "not a JSON object"},
		"open":                    {`{"value":""`, "not one JSON value"},
		"trailing object":         {`{"value":""}{}`, "not one JSON value"},
		"trailing text":           {`{"value":""} x`, "not one JSON value"},
		"trailing comma":          {`{"value":"",}`, "not one JSON value"},
		"comment":                 {`{"value":""/**/}`, "not one JSON value"},
		"single quotes":           {`{'value':''}`, "not one JSON value"},
		"NaN":                     {`{"value":"","n":NaN}`, "not one JSON value"},
		"leading zero":            {`{"value":"","n":05}`, "not one JSON value"},
		"byte order mark":         {"\ufeff" + `{"value":""}`, "not one JSON value"},
		"invalid UTF-8":           {"{\"value\":\"\",\"description\":\"\xff\"}", "not UTF-8"},
		"CESU surrogate":          {"{\"value\":\"\",\"description\":\"\xed\xa0\x80\"}", "not UTF-8"},
		"raw control":             {"{\"value\":\"\",\"description\":\"\x00\"}", "not one JSON value"},
		"lone high":               {`{"value":"","description":"\ud800"}`, "surrogate"},
		"lone high, more":         {`{"value":"","description":"\ud800x\udc00"}`, "surrogate"},
		"two high":                {`{"value":"","description":"\ud800\ud800"}`, "surrogate"},
		"lone low":                {`{"value":"","description":"\udc00"}`, "surrogate"},
		"lone high in a name":     {`{"value":"","labels":{"\ud800":""}}`, "surrogate"},
		"backslash before u":      {`{"value":"","description":"\\ud800"}`, ""},
		"unknown":                 {`{"value":"","x":1}`, `unknown member "x"`},
		"unknown, empty":          {`{"value":"","":1}`, `unknown member ""`},
		"Go's name":               {`{"value":"","DryRun":true}`, "unknown member"},
		"other case":              {`{"Value":""}`, "unknown member"},
		"Kelvin sign":             {"{\"value\":\"\",\"\u212a\":3}", "unknown member"},
		"unknown below":           {`{"value":"","policy":{"owner":true,"x":1}}`, "unknown member"},
		"unknown far below":       {`{"value":"","policy":{"any":[{"delay":{"seconds":1,"x":1}}]}}`, "unknown member"},
		"twice":                   {`{"value":"","value":""}`, "twice"},
		"twice, escaped":          {`{"value":"","v\u0061lue":""}`, "twice"},
		"twice below":             {`{"value":"","labels":{"a":"1","a":"2"}}`, "twice"},
		"twice in a list":         {`{"value":"","policy":{"any":[{"owner":true,"owner":true}]}}`, "twice"},
		"null member":             {`{"value":null}`, "null"},
		"null below":              {`{"value":"","labels":{"a":null}}`, "null"},
		"null in a list":          {`{"value":"","holders":[null]}`, "null"},
		"too deep":                {deep(8), "deeper"},
		"far too deep":            {deep(4000), "deeper"},
		"deep where none belongs": {`{"value":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`, "deeper"},
		"object for a text":       {`{"value":{"a":1}}`, "base64"},
		"object for a number":     {`{"value":"","n":{"a":1}}`, "wrong type"},
		"list for a map":          {`{"value":"","labels":[]}`, "wrong type"},
		"number for a label":      {`{"value":"","labels":{"a":1}}`, "wrong type"},
		"out of range":            {`{"value":"","n":1e30}`, "wrong type"},
	}
}

func TestStrictJSON(t *testing.T) {
	for name, c := range strictCases() {
		t.Run(name, func(t *testing.T) {
			var out apitype.PutRequest
			p := decodeStrict([]byte(c.in), &out)
			switch {
			case c.why == "" && p != nil:
				t.Errorf("refused: %s", p.Detail)
			case c.why != "" && p == nil:
				t.Errorf("accepted as %+v", out)
			case p != nil && (p.Type != apitype.Invalid || !strings.Contains(p.Detail, c.why) || len(p.Detail) > 500):
				t.Errorf("%s: %q, want %q", p.Type, p.Detail, c.why)
			}
		})
	}
}

// TestStrictErrorsHoldNoValues plants a value in every kind of bad body.
func TestStrictErrorsHoldNoValues(t *testing.T) {
	for _, in := range []string{`{"value":"` + marker + `"}`, `{"value":"` + marker, `{"value":{"a":"` + marker + `"}}`, `{"value":["` + marker + `"]}`, `{"n":"` + marker + `"}`, `{"value":"","labels":{"a":["` + marker + `"]}}`, `"` + marker + `"`, marker} {
		var out apitype.PutRequest
		p := decodeStrict([]byte(in), &out)
		if p == nil || strings.Contains(p.Detail, marker) {
			t.Errorf("%.40s: %+v", in, p)
		}
	}
}

// FuzzStrict: nothing panics; what is accepted says the same to encoding/json,
// has every member once, and survives a round trip.
func FuzzStrict(f *testing.F) {
	for _, s := range []string{`{"value":"YQ==","n":5,"k":3,"labels":{"a":"\ud83d\ude00"},"policy":{"any":[{"owner":true},{"k_of":{"k":1,"of":[{"operator":true}]}}]}}`, `{"value":"","value":""}`, `{"a":[{}]}`, `{"value":"\u0000"}`, ` {"holders" : [ ] , "value":""} `, `{"value":"","ttl":1e2}`, `{`, `{"\ud800":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out apitype.PutRequest
		if decodeStrict(in, &out) != nil {
			return
		}
		var loose map[string]json.RawMessage
		if err := json.Unmarshal(in, &loose); err != nil {
			t.Fatalf("accepted, but encoding/json says %v", err)
		}
		b, err := apitype.EncodePut(out)
		if err != nil {
			t.Fatal(err)
		}
		var again apitype.PutRequest
		if p := decodeStrict(b, &again); p != nil {
			t.Fatalf("its own encoding is refused: %s", p.Detail)
		}
		if out.Value == nil {
			out.Value = apitype.Bytes{}
		}
		if !reflect.DeepEqual(normal(out), normal(again)) {
			t.Fatalf("round trip: %+v\n%+v", out, again)
		}
	})
}

// normal drops the difference between an empty list and none.
func normal(r apitype.PutRequest) string {
	b, err := apitype.EncodePut(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// FuzzRoute: whatever the path, a name that gets through is one that the
// keystore accepts, and no other route is reached by it.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/api/v1/secrets/a%2Fb", "/api/v1/secrets/../status", "/api/v1/secrets/a/recover", "/api/v1/secrets/%2e%2e", "/api/v1/secrets/e%CC%81", "/healthz", "/api/v1/secrets//", "/api/v1/secrets/%"} {
		f.Add("GET", s)
		f.Add("POST", s)
	}
	f.Fuzz(func(t *testing.T, method, escaped string) {
		pattern, raw := route(method, escaped)
		if raw == "" || pattern == patternNone {
			return
		}
		if pattern != patternSecret && pattern != patternRecover {
			t.Fatalf("%q is a name of %q", raw, pattern)
		}
		name, bad := secretName(raw)
		if bad != nil {
			return
		}
		for _, part := range strings.Split(name, "/") {
			if part == "" || part == "." || part == ".." {
				t.Fatalf("%q gets through as %q", escaped, name)
			}
		}
	})
}
