package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
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

func putBody(value []byte, rest string) string {
	return `{"value":"` + base64.StdEncoding.EncodeToString(value) + `"` + rest + `}`
}

func TestPutPassesEverythingOn(t *testing.T) {
	e := newEnv(t)
	e.secrets.put.Created = true
	var out apitype.PutResult
	r := e.ok(req{method: "PUT", path: secretPath + "?timeout=12.5&as=other", body: putBody([]byte(marker), `,"n":5,"k":3,"w":4,"holders":["n2","`+nodeID(9).String()+`"],
		"labels":{"env":"prod"},"description":"d","ttl":60,"keep":2,"repair":"quorum","allow_colocated":true,"new":true,"force":true`),
		header: http.Header{"If-Match": {`"6"`}}}, 201, &out)
	if r.header.Get("ETag") != `"7"` {
		t.Errorf("ETag %q", r.header.Get("ETag"))
	}
	o := e.secrets.putO
	if o.IfGen == nil || *o.IfGen != 6 {
		t.Errorf("IfGen %v", o.IfGen)
	}
	o.IfGen = nil
	want := keystore.PutOptions{N: 5, K: 3, W: 4, Holders: []key.NodeID{nodeID(1), nodeID(9)}, Labels: map[string]string{"env": "prod"}, Description: "d", TTL: new(time.Minute), Keep: new(2), Repair: new(uint8(share.RepairQuorum)), AllowColocated: true, New: true, Force: true, Timeout: 12500 * time.Millisecond}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("options %+v\nwant    %+v", o, want)
	}
	if string(e.secrets.value) != marker || e.secrets.name != "demo/db" || e.secrets.who.Key.Public() != e.other.Key.Public() {
		t.Errorf("value %q, name %q", e.secrets.value, e.secrets.name)
	}
	if out.Gen != 7 || out.Acked != 4 || len(out.Seats) != 5 || out.Seats[4].State != "pending" || !out.Created || out.DryRun {
		t.Errorf("answer %+v", out)
	}
	e.secrets.put.Created = false
	e.ok(req{method: "PUT", path: secretPath, body: putBody(nil, ``)}, 200, nil)
	if e.secrets.who.Key.Public() != e.person.Key.Public() || e.secrets.putO.Timeout != keystore.DefaultTimeout || e.secrets.putO.Labels != nil {
		t.Errorf("defaults: %+v", e.secrets.putO)
	}
	e.ok(req{method: "PUT", path: secretPath, body: putBody(nil, `,"labels":{}`), header: http.Header{"If-None-Match": {"*"}}}, 200, nil)
	if e.secrets.putO.Labels == nil || !e.secrets.putO.IfAbsent {
		t.Errorf("empty labels or the condition were lost: %+v", e.secrets.putO)
	}
}

// TestValueSizes: from nothing to the last byte, and one more.
func TestValueSizes(t *testing.T) {
	e := newEnv(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, v := range [][]byte{{}, {0}, all, bytes.Repeat(all, 256), bytes.Repeat([]byte{0xff}, apitype.MaxValue)} {
		e.secrets.rec.Value = bytes.Clone(v)
		e.ok(req{method: "PUT", path: secretPath, body: putBody(v, "")}, 200, nil)
		if !bytes.Equal(e.secrets.value, v) || e.secrets.value == nil {
			t.Errorf("%d bytes: the keystore got %d", len(v), len(e.secrets.value))
		}
		var out apitype.Recovered
		e.ok(req{method: "POST", path: secretPath + "/recover", body: `{}`}, 200, &out)
		if !bytes.Equal(out.Value, v) || out.Value == nil {
			t.Errorf("%d bytes: %d came back", len(v), len(out.Value))
		}
	}
	puts := e.secrets.puts
	e.want(req{method: "PUT", path: secretPath, body: putBody(make([]byte, apitype.MaxValue+1), "")}, apitype.TooLarge)
	e.want(req{method: "PUT", path: secretPath, body: putBody(make([]byte, 2*apitype.MaxValue), "")}, apitype.TooLarge)
	if e.secrets.puts != puts {
		t.Error("something was stored")
	}
}

// keeper is a body and a response writer that keeps the buffers it was given.
type keeper struct {
	http.ResponseWriter
	*strings.Reader
	in, out [][]byte
}

func (k *keeper) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	k.in = append(k.in, p[:n])
	return n, err
}

func (k *keeper) Write(p []byte) (int, error) {
	k.out = append(k.out, p)
	return k.ResponseWriter.Write(p)
}

func (k *keeper) Close() error { return nil }

func TestValuesAreZeroed(t *testing.T) {
	e := newEnv(t)
	own := func(r *http.Request) *http.Request {
		return r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{e.server.uid}))
	}
	serve := func(method, path, body string) *keeper {
		w := httptest.NewRecorder()
		k := &keeper{ResponseWriter: w, Reader: strings.NewReader(body)}
		r := httptest.NewRequest(method, "http://keymesh"+path, k)
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Type", "application/json")
		e.server.Handler(Unix).ServeHTTP(k, own(r))
		if w.Code != 200 {
			t.Fatalf("%s: status %d: %s", method, w.Code, w.Body)
		}
		return k
	}
	e.secrets.rec.Value = []byte(marker)
	put := serve("PUT", secretPath, putBody([]byte(marker), ""))
	rec := serve("POST", secretPath+"/recover", "{}")
	for what, bufs := range map[string][][]byte{"put": {e.secrets.alias}, "recovered": {e.secrets.rec.Value}, "body of the request": put.in, "body of the answer": rec.out} {
		if len(bufs) == 0 {
			t.Fatalf("%s: nothing seen", what)
		}
		for _, b := range bufs {
			if len(bytes.Trim(b, "\x00")) != 0 {
				t.Errorf("%s: still there: %q", what, b)
			}
		}
	}
	if string(e.secrets.value) != marker {
		t.Error("the keystore got another value")
	}
}

func TestPutRefusals(t *testing.T) {
	e := newEnv(t)
	person := key.GeneratePerson().Public().String()
	e.mesh.peers = append(e.mesh.peers, apitype.Peer{Node: nodeID(5).String(), Name: "twin"}, apitype.Peer{Node: nodeID(6).String(), Name: "twin"}, apitype.Peer{Node: nodeID(7).String(), Name: "gone", Revoked: true})
	for name, c := range map[string]struct {
		body string
		want apitype.Type
	}{
		"no value":         {`{"n":5,"k":3}`, apitype.Invalid},
		"url base64":       {`{"value":"_-8="}`, apitype.Invalid},
		"no padding":       {`{"value":"YQ"}`, apitype.Invalid},
		"loose bits":       {`{"value":"YR=="}`, apitype.Invalid},
		"line end":         {`{"value":"YQ==\n"}`, apitype.Invalid},
		"escaped":          {`{"value":"YQ\u003d\u003d"}`, apitype.Invalid},
		"number":           {`{"value":7}`, apitype.Invalid},
		"list":             {`{"value":["YQ=="]}`, apitype.Invalid},
		"float":            {`{"value":"","n":5.0,"k":3}`, apitype.Invalid},
		"huge":             {`{"value":"","n":99999999999999999999,"k":3}`, apitype.Invalid},
		"negative ttl":     {`{"value":"","ttl":-1}`, apitype.Invalid},
		"text for number":  {`{"value":"","n":"5","k":3}`, apitype.Invalid},
		"standby":          {`{"value":"","standby":[]}`, apitype.Invalid},
		"n without k":      {`{"value":"","n":5}`, apitype.Unprocessable},
		"k over n":         {`{"value":"","n":3,"k":5}`, apitype.Unprocessable},
		"k is 1":           {`{"value":"","n":3,"k":1}`, apitype.Unprocessable},
		"n is 33":          {`{"value":"","n":33,"k":3}`, apitype.Unprocessable},
		"negative n":       {`{"value":"","n":-1,"k":3}`, apitype.Unprocessable},
		"negative w":       {`{"value":"","w":-1}`, apitype.Unprocessable},
		"negative keep":    {`{"value":"","keep":-1}`, apitype.Unprocessable},
		"ttl overflow":     {`{"value":"","ttl":18446744073709551615}`, apitype.Unprocessable},
		"repair":           {`{"value":"","repair":"anyone"}`, apitype.Unprocessable},
		"unknown holder":   {`{"value":"","holders":["nobody"]}`, apitype.Unprocessable},
		"empty holder":     {`{"value":"","holders":[""]}`, apitype.Unprocessable},
		"ambiguous holder": {`{"value":"","holders":["twin"]}`, apitype.Unprocessable},
		"revoked holder":   {`{"value":"","holders":["gone"]}`, apitype.Unprocessable},
		"holder twice":     {`{"value":"","holders":["n2","` + nodeID(1).String() + `"]}`, apitype.Unprocessable},
		"33 holders":       {`{"value":"","holders":["a"` + strings.Repeat(`,"a"`, 32) + `]}`, apitype.Unprocessable},
		"empty policy":     {`{"value":"","policy":{}}`, apitype.Unprocessable},
		"two clauses":      {`{"value":"","policy":{"owner":true,"key":"` + person + `"}}`, apitype.Unprocessable},
		"no person":        {`{"value":"","policy":{"key":"person-x"}}`, apitype.Unprocessable},
		"low order person": {`{"value":"","policy":{"key":"` + key.PersonPublic{0: 1}.String() + `"}}`, apitype.Unprocessable},
		"k_of 0":           {`{"value":"","policy":{"k_of":{"k":0,"of":[{"owner":true}]}}}`, apitype.Unprocessable},
		"k_of 257":         {`{"value":"","policy":{"k_of":{"k":257,"of":[{"owner":true}]}}}`, apitype.Unprocessable},
		"unsatisfiable":    {`{"value":"","policy":{"k_of":{"k":2,"of":[{"owner":true}]}}}`, apitype.Unprocessable},
		"empty any":        {`{"value":"","policy":{"any":[]}}`, apitype.Unprocessable},
		"deep policy":      {`{"value":"","policy":` + strings.Repeat(`{"any":[`, 5) + `{"owner":true}` + strings.Repeat(`]}`, 5) + `}`, apitype.Unprocessable},
		"wide policy":      {`{"value":"","policy":{"any":[{"owner":true}` + strings.Repeat(`,{"owner":true}`, 70) + `]}}`, apitype.Unprocessable},
		"deeper policy":    {`{"value":"","policy":` + strings.Repeat(`{"any":[`, 50) + `{"owner":true}` + strings.Repeat(`]}`, 50) + `}`, apitype.Invalid},
	} {
		t.Run(name, func(t *testing.T) { e.sub(t).want(req{method: "PUT", path: secretPath, body: c.body}, c.want) })
	}
	for _, h := range []http.Header{
		{"If-Match": {"7"}}, {"If-Match": {`W/"7"`}}, {"If-Match": {`"x"`}}, {"If-Match": {`"0"`}}, {"If-Match": {`"07"`}}, {"If-Match": {`"7", "8"`}}, {"If-Match": {`"`}}, {"If-Match": {"*"}}, {"If-Match": {""}}, {"If-Match": {`"7"`, `"7"`}},
		{"If-None-Match": {`"7"`}}, {"If-None-Match": {""}}, {"If-None-Match": {"*"}, "If-Match": {`"7"`}},
		{"Idempotency-Key": {""}}, {"Idempotency-Key": {"a", "b"}}, {"Idempotency-Key": {"a b"}}, {"Idempotency-Key": {strings.Repeat("a", 129)}}, {"Idempotency-Key": {"ä"}},
	} {
		e.want(req{method: "PUT", path: secretPath, body: putBody(nil, ""), header: h}, apitype.Invalid)
	}
	if e.secrets.puts != 0 {
		t.Error("a refused request reached the keystore")
	}
}

// sub is e with the t of a subtest.
func (e *env) sub(t *testing.T) *env {
	out := *e
	out.t = t
	return &out
}

func TestPolicies(t *testing.T) {
	e := newEnv(t)
	a, b := key.GeneratePerson().Public(), key.GeneratePerson().Public()
	for body, want := range map[string]*policy.Policy{
		`{"owner":true}`: policy.Owner(),
		`{"any":[{"owner":true},{"k_of":{"k":2,"of":[{"key":"` + a.String() + `"},{"key":"` + b.String() + `"},{"owner":true}]}}]}`:                policy.Any(policy.Owner(), policy.KOf(2, policy.Key(a), policy.Key(b), policy.Owner())),
		`{"any":[{"owner":true},{"all":[{"code":"` + a.String() + `"},{"delay":{"seconds":86400,"veto":["owner"]}}]}]}`:                            policy.Default(a),
		`{"any":[{"owner":true},{"all":[{"key":"` + a.String() + `"},{"operator":true},{"delay":{"seconds":60,"veto":["` + b.String() + `"]}}]}]}`: policy.Any(policy.Owner(), policy.All(policy.Key(a), policy.Operator(), policy.Delay(60, b))),
	} {
		e.ok(req{method: "PUT", path: secretPath, body: putBody(nil, `,"policy":`+body)}, 200, nil)
		if !bytes.Equal(e.secrets.putO.Policy, want.Encode()) {
			t.Errorf("%s: another policy", body)
		}
	}
}

func TestDryRun(t *testing.T) {
	e := newEnv(t)
	var out apitype.PutResult
	r := e.ok(req{method: "PUT", path: secretPath, body: putBody([]byte(marker), `,"dry_run":true`), header: http.Header{"Idempotency-Key": {"k"}}}, 200, &out)
	if e.secrets.puts != 0 || !out.DryRun || r.header.Get("ETag") != "" {
		t.Errorf("puts %d, answer %+v", e.secrets.puts, out)
	}
	e.secrets.err = keystore.ErrTimeout // nothing was written, so nothing is in doubt
	e.want(req{method: "PUT", path: secretPath, body: putBody(nil, `,"dry_run":true`)}, apitype.Timeout)
	e.secrets.err = &keystore.PlacementError{Want: 3, Have: 2, Why: "two operators"}
	e.want(req{method: "PUT", path: secretPath, body: putBody(nil, `,"dry_run":true`)}, apitype.Holders)
	e.secrets.err = errors.New("surprise")
	e.want(req{method: "PUT", path: secretPath, body: putBody(nil, `,"dry_run":true`)}, apitype.Internal)
}

func TestIdempotency(t *testing.T) {
	e := newEnv(t)
	send := func(path, k, body string, h http.Header) result {
		h = h.Clone()
		if h == nil {
			h = http.Header{}
		}
		h.Set("Idempotency-Key", k)
		return e.do(req{method: "PUT", path: path, body: body, header: h})
	}
	one, two := putBody([]byte("one"), ""), putBody([]byte("two"), "")
	first := send(secretPath, "k1", one, nil)
	e.secrets.put.Gen = 8
	again := send(secretPath+"?timeout=7", "k1", one, nil)
	if e.secrets.puts != 1 || again.header.Get("Idempotency-Replayed") != "true" || again.header.Get("ETag") != `"7"` || !bytes.Equal(first.body, again.body) {
		t.Errorf("puts %d, second answer %s", e.secrets.puts, again.body)
	}
	for what, r := range map[string]result{
		"other body":      send(secretPath, "k1", two, nil),
		"other condition": send(secretPath, "k1", one, http.Header{"If-Match": {`"7"`}}),
	} {
		if r.status != 422 {
			t.Errorf("%s: status %d", what, r.status)
		}
	}
	if e.secrets.puts != 1 {
		t.Error("a reused key stored something")
	}
	for _, r := range []result{send(secretPath, "k2", one, nil), send("/api/v1/secrets/demo%2Fdb2", "k1", one, nil), send(secretPath+"?as=other", "k1", one, nil)} {
		if r.status != 200 || r.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("another scope: status %d", r.status)
		}
	}
	// Neither problems nor what is in doubt are kept: repeating goes on.
	for _, err := range []error{&keystore.InDoubtError{Op: "put", Gen: 9, Need: 4, Have: 2}, &keystore.QuorumError{Op: "put", Need: 4}, errors.New("x")} {
		puts := e.secrets.puts
		e.secrets.err = err
		send(secretPath, "k3", one, nil)
		send(secretPath, "k3", one, nil)
		if e.secrets.puts != puts+2 {
			t.Errorf("%v was kept", err)
		}
	}
}

func TestIdempotencyTogether(t *testing.T) {
	e := newEnv(t)
	e.secrets.block, e.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
	answers := make(chan result, 8)
	for range cap(answers) {
		go func() {
			answers <- e.do(req{method: "PUT", path: secretPath, body: putBody([]byte("one"), ""), header: http.Header{"Idempotency-Key": {"k"}}})
		}()
	}
	<-e.secrets.entered
	close(e.secrets.block)
	replayed := 0
	for range cap(answers) {
		if r := <-answers; r.header.Get("Idempotency-Replayed") == "true" {
			replayed++
		}
	}
	if e.secrets.puts != 1 || replayed != cap(answers)-1 {
		t.Errorf("%d puts, %d replayed", e.secrets.puts, replayed)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	r := newReplays("key")
	stored := func() (answer, error) { return answer{status: 200}, nil }
	for i := range 3 * maxReplays {
		if _, err := r.do(context.Background(), hash32(i), hash32(i), stored); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.entries) > maxReplays || len(r.order) > maxReplays {
		t.Errorf("%d entries, %d in order", len(r.entries), len(r.order))
	}
	a, _ := r.do(context.Background(), hash32(3*maxReplays-1), hash32(3*maxReplays-1), stored)
	b, _ := r.do(context.Background(), hash32(0), hash32(0), stored)
	if !a.replayed || b.replayed {
		t.Errorf("the newest replayed: %v, the oldest: %v", a.replayed, b.replayed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	go func() {
		defer func() { _ = recover() }()
		r.do(context.Background(), hash32(-1), hash32(-1), func() (answer, error) { panic("x") })
	}()
	if _, err := r.do(ctx, hash32(-2), hash32(-2), func() (answer, error) {
		_, err := r.do(ctx, hash32(-2), hash32(-2), stored) // waits for itself
		return answer{}, err
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
}

func TestPublicText(t *testing.T) {
	for text, want := range map[string]string{
		`a "b" c`: `a "" c`, `"a\"b" c`: `"" c`, `open "`: `open "`, `x name y`: `x NAME y`, `end "a\`: `end "`, `two "a" and "b"`: `two "" and ""`,
	} {
		if got := publicText(text, "", "name"); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func hash32(i int) (out [32]byte) {
	copy(out[:], fmt.Sprint(i))
	return out
}

func TestRecover(t *testing.T) {
	e := newEnv(t)
	var out apitype.Recovered
	m := hash(2)
	r := e.ok(req{method: "POST", path: secretPath + "/recover?timeout=3", body: `{"gen":7,"manifest":"` + m.String() + `","reason":"ünïcode \ud83d\ude00"}`}, 200, &out)
	if o := e.secrets.recO; o.Gen != 7 || o.Manifest != m || o.Reason != "ünïcode 😀" || o.Timeout != 3*time.Second {
		t.Errorf("options %+v", o)
	}
	if string(out.Value) != marker || out.Gen != 7 || len(out.Used) != 3 || len(out.Bad) != 1 || out.Bad[0].Why != "x is 0" || r.header.Get("ETag") != `"7"` {
		t.Errorf("answer %+v", out)
	}
	for _, body := range []string{`{"reason":"a\u0000"}`, `{"reason":"a\nb"}`, `{"reason":"` + strings.Repeat("a", 513) + `"}`, `{"manifest":"xyz"}`, `{"manifest":"` + strings.ToUpper(m.String()) + `x"}`} {
		e.want(req{method: "POST", path: secretPath + "/recover", body: body}, apitype.Unprocessable)
	}
	e.want(req{method: "POST", path: secretPath + "/recover", body: `{"gen":-1}`}, apitype.Invalid)
}

func TestDelete(t *testing.T) {
	e := newEnv(t)
	var out apitype.DeleteResult
	e.ok(req{method: "DELETE", path: secretPath + "?gen=7&now=true"}, 200, &out)
	if o := e.secrets.delO; o.Gen != 7 || !o.Now || !out.Done || len(out.Seats) != 2 {
		t.Errorf("options %+v, answer %+v", o, out)
	}
	e.secrets.del.Done = false
	e.secrets.del.Seats = sampleSeats("deleted", "unreachable", "deleted")
	e.secrets.del.Missing = []key.NodeID{nodeID(1)}
	p := e.want(req{method: "DELETE", path: secretPath + "?now=false"}, apitype.InDoubt)
	if p.Need != 3 || p.Have != 2 || p.Peers[1].State != "unreachable" || p.Exit != apitype.ExitInDoubt || p.Gen != 7 {
		t.Errorf("problem %+v", p)
	}
}

func TestListAndInfo(t *testing.T) {
	e := newEnv(t)
	var page apitype.Page
	e.ok(req{path: "/api/v1/secrets?prefix=demo/&cursor=c&limit=1000&as="}, 200, &page)
	if o := e.secrets.listO; o.Prefix != "demo/" || o.Cursor != "c" || o.Limit != 1000 {
		t.Errorf("options %+v", o)
	}
	if len(page.Items) != 1 || page.Next != "cursor-2" || page.Silent[0] != nodeID(4).String() || page.Items[0].Margin != 2 {
		t.Errorf("page %+v", page)
	}
	e.secrets.page = keystore.Page{}
	if r := e.ok(req{path: "/api/v1/secrets"}, 200, nil); string(r.body) != `{"items":[]}` {
		t.Errorf("an empty page is %s", r.body)
	}
	var info apitype.Info
	r := e.ok(req{path: secretPath}, 200, &info)
	if info.Gen != 7 || info.LosesIf.Count != 3 || info.Acked != 5 || info.Pending[0] != 8 || info.Standby[0] != nodeID(8).String() || r.header.Get("ETag") != `"7"` {
		t.Errorf("info %+v", info)
	}
	e.secrets.info = keystore.Info{Listed: keystore.Listed{Gen: 1}}
	e.ok(req{path: secretPath}, 200, nil) // empty lists are lists
}

// TestNames: one segment or several, and nothing is cleaned up on the way.
func TestNames(t *testing.T) {
	e := newEnv(t)
	for path, want := range map[string]string{
		"a": "a", "a%2Fb": "a/b", "a/b": "a/b", "a%2fb": "a/b", "a%252Fb": "a%2Fb", "recover": "recover", "a/recover": "a/recover", "%C3%A9": "é", "a+b": "a+b", "a%20b": "a b", "a;b": "a;b",
		"...": "...", ".a": ".a", strings.Repeat("a", 512): strings.Repeat("a", 512), url.PathEscape("ключ/🔑"): "ключ/🔑",
	} {
		e.ok(req{path: "/api/v1/secrets/" + path}, 200, nil)
		if e.secrets.name != want {
			t.Errorf("GET %q is of %q, want %q", path, e.secrets.name, want)
		}
		e.secrets.rec.Value = []byte{}
		e.ok(req{method: "POST", path: "/api/v1/secrets/" + path + "/recover", body: `{}`}, 200, nil)
		if e.secrets.name != want {
			t.Errorf("recover of %q is of %q, want %q", path, e.secrets.name, want)
		}
	}
	e.secrets.name = ""
	for _, path := range []string{
		"", "..", "../status", "a/../b", "a/..", "a/./b", "./a", "%2e%2e", "%2E%2E%2Fstatus", "a%2F..%2Fb", "a%2f%2e%2e%2fb", "a//b", "a%2F%2Fb", "/a", "%2Fa", "a/", "a%2F",
		"a%00", "a%0Ab", "a%7F", "%C2%85", "e%CC%81", "%FF", "%C3", "%ED%A0%80", strings.Repeat("a", 513), strings.Repeat("%C3%A9", 257),
	} {
		for _, q := range []req{{}, {method: "PUT", body: putBody(nil, "")}, {method: "DELETE"}, {method: "POST", body: `{}`}} {
			q.path = "/api/v1/secrets/" + path
			if q.method == "POST" {
				q.path += "/recover"
			}
			r := e.do(q)
			if p := r.problem(t); p.Type != apitype.Invalid {
				t.Errorf("%s %q: %+v", q.method, q.path, p)
			}
		}
	}
	if e.secrets.name != "" {
		t.Errorf("%q reached the keystore", e.secrets.name)
	}
}

func TestUnknownPerson(t *testing.T) {
	e := newEnv(t)
	for _, q := range everything() {
		if q.open() || strings.Contains(q.path, "peers") || strings.Contains(q.path, "version") || strings.Contains(q.path, "openapi") {
			continue
		}
		e.want(q.with(func(q *req) { q.path += "?as=mallory" }), apitype.Unprocessable)
	}
}

// TestLogsAreSilent: neither value nor name, nor a form of them, is in the log,
// whatever goes wrong.
func TestLogsAreSilent(t *testing.T) {
	e := newEnv(t)
	const name = "Secret-Nämé/with \"quotes\""
	path := "/api/v1/secrets/" + url.PathEscape(name)
	run := func() {
		for _, q := range []req{{path: path}, {method: "PUT", path: path, body: putBody([]byte(marker), `,"description":"D3SCRIPTION"`)}, {method: "PUT", path: path, body: putBody([]byte(marker), `,"x":1`)}, {method: "DELETE", path: path}, {method: "POST", path: path + "/recover", body: `{}`}, {path: "/api/v1/secrets?prefix=" + url.QueryEscape(name)}, {method: "POST", path: path + "/verify"}, {path: "/nothing/" + url.PathEscape(name)}} {
			e.do(q)
		}
	}
	run()
	e.secrets.err = fmt.Errorf("cannot place %q (%s): %w", name, name, errors.New("surprise"))
	run()
	e.secrets.err, e.secrets.panic = nil, name+marker
	run()
	log := e.log.String()
	if !strings.Contains(log, patternSecret) || !strings.Contains(log, "surprise") {
		t.Fatalf("the log lacks what it should have: %s", log)
	}
	quoted, _ := json.Marshal(name)
	for _, s := range []string{marker, base64.StdEncoding.EncodeToString([]byte(marker)), name, "Secret-N", "D3SCRIPTION", url.PathEscape(name), url.QueryEscape(name), string(quoted)} {
		if strings.Contains(log, s) {
			t.Errorf("the log has %q:\n%s", s, log)
		}
	}
}
