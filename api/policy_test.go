package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

// fakeContacts answers with what a test put there and keeps what it was asked.
type fakeContacts struct {
	err   error
	items []apitype.Contact
	who   key.PersonPublic
	added apitype.NewContact
	gone  string
}

func (f *fakeContacts) ListContacts(_ context.Context, p key.PersonPublic) ([]apitype.Contact, error) {
	f.who = p
	return f.items, f.err
}

func (f *fakeContacts) AddContact(_ context.Context, p key.PersonPublic, name string, who key.PersonPublic, also bool) (apitype.Contact, error) {
	f.who, f.added = p, apitype.NewContact{Name: name, Person: who.String(), Also: also}
	return apitype.Contact{Name: name, Person: who.String(), Words: []string{}, Source: apitype.ContactAdded}, f.err
}

func (f *fakeContacts) RemoveContact(_ context.Context, p key.PersonPublic, name string) (apitype.Contact, error) {
	f.who, f.gone = p, name
	return apitype.Contact{Name: name, Person: p.String(), Words: []string{}, Source: apitype.ContactAdded}, f.err
}

// policyEnv is a server whose person knows ann, bob and carl, and two keys by
// the name of twin.
func policyEnv(t *testing.T) (*env, *fakeContacts, map[string]key.PersonPublic) {
	t.Helper()
	f, who := &fakeContacts{}, map[string]key.PersonPublic{}
	for _, name := range []string{"ann", "bob", "carl", "twin", "twin"} {
		who[name] = key.GeneratePerson().Public()
		f.items = append(f.items, apitype.Contact{Name: name, Person: who[name].String(), Words: key.Words(key.Hash(who[name]), 8), Source: apitype.ContactAdded})
	}
	e := newEnv(t, func(e *env) {
		e.server.cfg.Contacts = f
		e.person.Recovery = key.GeneratePerson().Public()
	})
	return e, f, who
}

func jsonText(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// TestPutTakesThePolicyAsText: petnames are those of the person who puts, bare
// code is that person's recovery key.
func TestPutTakesThePolicyAsText(t *testing.T) {
	e, f, who := policyEnv(t)
	text := "ways = [\n \"owner\",\n \"2 of (ann, bob, carl) after 1h veto owner\",\n \"code after 24h veto owner\",\n]\n"
	e.secrets.put.Policy = policy.Owner().Encode()
	var out apitype.PutResult
	e.ok(req{method: "PUT", path: secretPath + "?as=other", body: putBody(nil, `,"policy":"ways = [\"owner\", \"ann\"]"`)}, 200, &out)
	if f.who != e.other.Key.Public() {
		t.Error("somebody else's contacts")
	}
	e.ok(req{method: "PUT", path: secretPath, body: putBody(nil, `,"dry_run":true,"policy":`+jsonText(text))}, 200, &out)
	want := policy.Any(policy.Owner(),
		policy.All(policy.KOf(2, policy.Key(who["ann"]), policy.Key(who["bob"]), policy.Key(who["carl"])), policy.Delay(3600, policy.OwnerKey())),
		policy.All(policy.Code(e.person.Recovery), policy.Delay(86400, policy.OwnerKey())))
	if string(e.secrets.putO.Policy) != string(want.Encode()) {
		t.Error("another policy reached the keystore")
	}
	if out.Policy != "owner" || len(out.Alone) != 1 || !out.Alone[0].OK || out.Alone[0].Name != "the owner" {
		t.Errorf("what the policy means: %q, %+v", out.Policy, out.Alone)
	}
	e.secrets.info.Encoded = want.Encode()
	var in apitype.Info
	e.ok(req{path: secretPath}, 200, &in)
	e.secrets.putO.Policy = nil
	e.ok(req{method: "PUT", path: secretPath, body: putBody(nil, `,"policy":`+jsonText(in.PolicyText))}, 200, nil)
	if string(e.secrets.putO.Policy) != string(want.Encode()) {
		t.Errorf("what info shows is another policy: %s", in.PolicyText)
	}
}

// TestPolicyRefusals: each is refused before anything reaches the keystore, and
// says which clause, line or name.
func TestPolicyRefusals(t *testing.T) {
	e, _, _ := policyEnv(t)
	owner := e.person.Key.Public().String()
	for text, want := range map[string]string{
		"":                             "exactly one of",
		"ways = []":                    "line 1: no way at all",
		"ways = [\"owner\",\n\"bbo\"]": `line 2: who is "bbo": no contact is called that`,
		`ways = ["Ann"]`:               `who is "Ann": no contact is called that; "ann" is`,
		`ways = ["owner", "twin"]`:     `who is "twin": 2 keys have that name`,
		`ways = ["3 of (ann, bob)"]`:   "line 1: refused policy: 3 of 2 clauses",
		"ways = [\"owner\",\n\"all (ann, ann)\"]":      "line 2: refused policy: any[1] (all of (ann, ann)): it can never be satisfied",
		`ways = ["all (owner, ` + owner + `)"]`:        "it can never be satisfied",
		`ways = ["operator"]`:                          "without any signature",
		`ways = ["delay 1h"]`:                          "a delay outside an all",
		`ways = ["any (any (any (any (any (ann)))))"]`: "nested deeper than 4 levels",
		`ways = ["ann after 400d"]`:                    "1 s to 365 days",
		`way = ["owner"]`:                              `unknown key "way"`,
		`ways = ["owner"]` + "\nmore = 1":              `line 2: "more" follows`,
		`ways = ["person-x"]`:                          "line 1",
		`ways = ["'code'"]`:                            `nobody can be called "code"`,
		strings.Repeat("#", 65<<10):                    "more than 65536 bytes",
	} {
		e.secrets.puts = 0
		for _, q := range []req{
			{method: "PUT", path: secretPath, body: putBody(nil, `,"policy":`+jsonText(text))},
			{method: "POST", path: apitype.PathPolicy, body: `{"policy":` + jsonText(text) + `}`},
		} {
			if p := e.want(q, apitype.Unprocessable); !strings.Contains(p.Detail, want) || p.Hint == "" {
				t.Errorf("%.60q: %q lacks %q", text, p.Detail, want)
			}
		}
		if e.secrets.puts != 0 {
			t.Errorf("%.60q reached the keystore", text)
		}
	}
	for _, body := range []string{`"policy":{"any":["ways = [\"owner\"]"]}`, `"policy":{"all":[{"owner":true},{"key":"` + owner + `"}]}`} {
		e.want(req{method: "PUT", path: secretPath, body: putBody(nil, ","+body)}, apitype.Unprocessable)
	}
	e.want(req{method: "PUT", path: secretPath, body: putBody(nil, `,"policy":7`)}, apitype.Invalid)
	e.server.cfg.Contacts = nil // then there are keys, and the recovery key
	e.want(req{method: "POST", path: apitype.PathPolicy, body: `{"policy":"ways = [\"ann\"]"}`}, apitype.Unprocessable)
	e.ok(req{method: "POST", path: apitype.PathPolicy, body: `{"policy":"ways = [\"` + owner + `\", \"code\"]"}`}, 200, nil)
	e.person.Recovery = key.PersonPublic{}
	e.want(req{method: "POST", path: apitype.PathPolicy, body: `{"policy":"ways = [\"code\"]"}`}, apitype.Unprocessable)
}

// TestPolicyTest: who could recover, and what is missing, in words.
func TestPolicyTest(t *testing.T) {
	e, _, who := policyEnv(t)
	text := `ways = ["owner", "2 of (ann, bob, carl) after 1h veto owner", "all (code, operator)"]`
	e.secrets.info.Encoded = policy.Any(policy.Owner(), policy.Key(who["ann"])).Encode()
	for _, c := range []struct {
		rest string
		ok   bool
		wait uint64
		miss string
		idle string
	}{
		{`,"as":["owner"]`, true, 0, "", ""},
		{`,"as":["ann"]`, false, 0, "the owner or (1 more of (bob, carl) and a delay of 1 h (veto: owner)) or (recovery code and the holder's operator)", ""},
		{`,"as":["ann","ann"]`, false, 0, "1 more of (bob, carl)", ""},
		{`,"as":["ann","` + who["bob"].String() + `"]`, false, 3600, "a delay of 1 h", ""},
		{`,"as":["ann","bob"],"after":3599`, false, 1, "a delay of 1 h", ""},
		{`,"as":["ann","bob"],"after":3600`, true, 0, "", ""},
		{`,"as":["code"]`, false, 0, "the holder's operator", ""},
		{`,"as":["code","operator"]`, true, 0, "", ""},
		{`,"as":["operator"]`, false, 0, "recovery code", ""},
		{`,"as":["owner","` + key.GeneratePerson().Public().String() + `"]`, true, 0, "", "person-"},
	} {
		var v apitype.PolicyVerdict
		e.ok(req{method: "POST", path: apitype.PathPolicy, body: `{"policy":` + jsonText(text) + c.rest + `}`}, 200, &v)
		if v.OK != c.ok || v.Wait != c.wait || !strings.Contains(strings.Join(v.Missing, "; "), strings.Replace(c.miss, "the owner", "owner", 1)) || (c.miss == "") != (len(v.Missing) == 0) {
			t.Errorf("%s: ok %v, wait %d, missing %q", c.rest, v.OK, v.Wait, v.Missing)
		}
		if len(v.Ways) != 3 || len(v.Alone) != 5 || !strings.HasPrefix(strings.Join(v.Idle, " "), c.idle) || (c.idle == "") != (len(v.Idle) == 0) {
			t.Errorf("%s: ways %+v, alone %+v, idle %q", c.rest, v.Ways, v.Alone, v.Idle)
		}
	}
	var v apitype.PolicyVerdict
	e.ok(req{method: "POST", path: apitype.PathPolicy, body: `{"name":"demo/db","as":["ann"]}`}, 200, &v)
	if !v.OK || v.Gen != 7 || v.Text != "ways = [\n  \"owner\",\n  \"ann\",\n]\n" || e.secrets.name != "demo/db" {
		t.Errorf("of a secret: %+v", v)
	}
	for body, want := range map[string]apitype.Type{
		`{}`: apitype.Unprocessable, `{"name":"a","policy":"ways = [\"owner\"]"}`: apitype.Unprocessable, `{"name":"../x"}`: apitype.Invalid,
		`{"name":"a","as":["nobody"]}`: apitype.Unprocessable, `{"name":"a","as":["veto"]}`: apitype.Unprocessable, `{"name":"a","as":["twin"]}`: apitype.Unprocessable,
		`{"name":"a","as":["ann"` + strings.Repeat(`,"ann"`, 64) + `]}`: apitype.Unprocessable, `{"name":"a","after":999999999}`: apitype.Unprocessable, `{"name":"a","after":-1}`: apitype.Invalid,
		`{"name":"a","x":1}`: apitype.Invalid,
	} {
		e.want(req{method: "POST", path: apitype.PathPolicy, body: body}, want)
	}
	for typ, err := range map[apitype.Type]error{
		apitype.NotFound: keystore.ErrNotFound, apitype.Quorum: &keystore.QuorumError{}, apitype.Timeout: keystore.ErrTimeout,
		apitype.Fork: &keystore.ConflictError{Fork: []key.Hash{hash(1), hash(2)}}, apitype.Unavailable: context.Canceled, apitype.Damaged: keystore.ErrStopped,
	} {
		e.secrets.err = err
		e.want(req{method: "POST", path: apitype.PathPolicy, body: `{"name":"demo/db"}`}, typ)
	}
	e.secrets.err, e.secrets.info.Encoded = nil, []byte{1}
	e.want(req{method: "POST", path: apitype.PathPolicy, body: `{"name":"demo/db"}`}, apitype.Unprocessable)
}

func TestContactsOverTheAPI(t *testing.T) {
	e, f, who := policyEnv(t)
	var list apitype.Contacts
	e.ok(req{path: apitype.PathContacts + "?as=other"}, 200, &list)
	if len(list.Items) != 5 || f.who != e.other.Key.Public() {
		t.Error("another list")
	}
	f.items = nil
	e.ok(req{path: apitype.PathContacts}, 200, &list)
	if list.Items == nil {
		t.Error("an empty list is null")
	}
	var got apitype.Contact
	e.ok(req{method: "POST", path: apitype.PathContacts, body: `{"name":"dan","person":"` + who["ann"].String() + `","also":true}`}, 201, &got)
	if want := (apitype.NewContact{Name: "dan", Person: who["ann"].String(), Also: true}); f.added != want || got.Name != "dan" {
		t.Errorf("added %+v", f.added)
	}
	e.ok(req{method: "DELETE", path: apitype.PathContacts + "?name=dan"}, 200, &got)
	if f.gone != "dan" {
		t.Errorf("removed %q", f.gone)
	}
	f.added = apitype.NewContact{}
	for _, name := range []string{"", "code", "owner", "Operator", "the owner", "a,b", "7", "person-x", strings.Repeat("a", 65)} {
		e.want(req{method: "POST", path: apitype.PathContacts, body: `{"name":` + jsonText(name) + `,"person":"` + who["ann"].String() + `"}`}, apitype.Unprocessable)
	}
	for _, p := range []string{"", "person-x", key.PersonPublic{0: 1}.String(), nodeID(1).String()} {
		e.want(req{method: "POST", path: apitype.PathContacts, body: `{"name":"dan","person":"` + p + `"}`}, apitype.Unprocessable)
	}
	if f.added.Name != "" {
		t.Errorf("%+v reached the node", f.added)
	}
	e.want(req{method: "DELETE", path: apitype.PathContacts}, apitype.Invalid)
	f.err = apitype.NewProblem(apitype.NotFound, "no contact is called that")
	e.want(req{method: "DELETE", path: apitype.PathContacts + "?name=dan"}, apitype.NotFound)
}

// TestContactRefusals gets every documented refusal of these paths.
func TestContactRefusals(t *testing.T) {
	e, f, who := policyEnv(t)
	for _, good := range []req{
		{path: apitype.PathContacts},
		{method: "POST", path: apitype.PathContacts, body: `{"name":"dan","person":"` + who["ann"].String() + `"}`},
		{method: "DELETE", path: apitype.PathContacts + "?name=dan"},
		{method: "POST", path: apitype.PathPolicy, body: `{"policy":"ways = [\"owner\"]"}`},
	} {
		change := func(f func(*req)) req {
			q := good
			f(&q)
			return q
		}
		more := "?as=nobody"
		if strings.Contains(good.path, "?") {
			more = "&as=nobody"
		}
		e.want(change(func(q *req) { q.path += more }), apitype.Unprocessable)
		e.want(change(func(q *req) { q.path += strings.Replace(more, "as", "x", 1) }), apitype.Invalid)
		e.want(change(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		e.want(change(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
		if good.body != "" {
			e.want(change(func(q *req) { q.body = `{"unknown":1}` }), apitype.Invalid)
			e.want(change(func(q *req) { q.body = strings.Repeat(" ", apitype.MaxBody+1) }), apitype.TooLarge)
			e.want(change(func(q *req) { q.noType = true }), apitype.MediaType)
		}
		f.err = errors.New("the disk is gone")
		e.want(good, apitype.Internal)
		f.err = nil
		if !strings.HasPrefix(good.path, apitype.PathPolicy) {
			e.server.cfg.Contacts = nil
			e.want(good, apitype.Unavailable)
			e.server.cfg.Contacts = f
		}
		fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
	}
	e.want(req{method: http.MethodPut, path: apitype.PathContacts}, apitype.Method)
}

// TestPutAnswersPending: the consent to another policy is missing. Nothing of it
// is kept under an Idempotency-Key: the same put goes on.
func TestPutAnswersPending(t *testing.T) {
	e, _, _ := policyEnv(t)
	e.secrets.err = &keystore.PendingError{Request: hash(5), Have: 1, Need: 2, Missing: []string{"bob"}, Expires: time.Now(), Words: key.Words(hash(5), 6)}
	q := req{method: "PUT", path: secretPath, body: putBody([]byte(marker), ``), header: http.Header{apitype.HeaderIdem: {"k"}}}
	for range 2 {
		var got apitype.Pending
		r := e.ok(q, 202, &got)
		if r.header.Get("Location") != apitype.PathRequests+"/"+hash(5).String() || got.Need != 2 || r.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%+v", got)
		}
	}
	e.secrets.err = nil
	e.ok(q, 200, nil)
}

// TestDeletionsAndExpiryInTheirWords: neither is told in the words of a put.
func TestDeletionsAndExpiryInTheirWords(t *testing.T) {
	e, _, _ := policyEnv(t)
	e.secrets.err = keystore.ErrExpired
	if p := e.want(req{path: secretPath}, apitype.NotFound); !strings.Contains(p.Detail, "has expired") {
		t.Errorf("%q", p.Detail)
	}
	q := req{method: "DELETE", path: secretPath}
	e.secrets.err = &keystore.QuorumError{Op: "delete", Need: 2, Have: 1}
	if p := e.want(q, apitype.Holders); !strings.Contains(p.Hint, "nothing was deleted") || strings.Contains(p.Hint, "stored") {
		t.Errorf("%q", p.Hint)
	}
	e.secrets.err = &keystore.InDoubtError{Op: "delete", Gen: 7, Need: 2, Have: 1}
	if p := e.want(q, apitype.InDoubt); strings.Contains(p.Hint, "write") || p.Gen != 7 {
		t.Errorf("%q", p.Hint)
	}
}

// TestRequestsShowWhatIsAsked: a change of policy is never shown as a recovery,
// and people are shown by name.
func TestRequestsShowWhatIsAsked(t *testing.T) {
	e, _, who := policyEnv(t)
	v := &e.asks.views[0]
	v.Verb, v.Requester, v.Owner = share.VerbPolicy, who["ann"], who["ann"]
	v.Change = policy.Any(policy.Owner(), policy.Key(who["bob"]), policy.Key(e.person.Key.Public())).Encode()
	v.Approvals[0].Person = who["carl"]
	var got apitype.Request
	e.ok(req{path: apitype.PathRequests + "/" + v.Hash.String()}, 200, &got)
	if got.Verb != "policy" || got.By != "ann" || got.OwnerName != "ann" || got.Said[0].Name != "carl" || got.Change != "any of (owner, bob, me)" {
		t.Errorf("%+v", got)
	}
	for verb, want := range map[uint8]string{share.VerbRecover: "recover", share.VerbDelete: "delete"} {
		v.Verb = verb
		if e.ok(req{path: apitype.PathRequests + "/" + v.Hash.String()}, 200, &got); got.Verb != want {
			t.Errorf("verb %d is %q", verb, got.Verb)
		}
	}
}

// TestPolicyJSON: text and clauses survive JSON, and neither is taken for the
// other.
func TestPolicyJSON(t *testing.T) {
	for _, p := range []apitype.Policy{{Text: "ways = [\"owner\"]\n"}, {Owner: true}, {Any: []apitype.Policy{{Owner: true}, {Key: "person-x"}}}} {
		b, err := json.Marshal(&p)
		var back apitype.Policy
		if err != nil || json.Unmarshal(b, &back) != nil || !reflect.DeepEqual(back, p) {
			t.Errorf("%s: %+v, %v", b, back, err)
		}
	}
}
