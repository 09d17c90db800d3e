package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
)

// fakeRequests answers with what a test put there and keeps what it was asked.
type fakeRequests struct {
	feed  fakeFeed
	err   error
	views []keystore.RequestView
	who   keystore.Person
	said  string
	hash  key.Hash
	note  string

	mu      sync.Mutex
	looks   int
	looking func(n int, views []keystore.RequestView) // not nil: called by the n-th Look

	rehearsal  keystore.Rehearsal
	rehearsing func(context.Context) // not nil: called by Rehearse
}

func (f *fakeRequests) Requests(_ context.Context, p keystore.Person) ([]keystore.RequestView, error) {
	f.who = p
	return f.views, f.err
}

func (f *fakeRequests) Look(_ context.Context, p keystore.Person, h key.Hash) (keystore.RequestView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.who = p
	f.looks++
	if f.looking != nil {
		f.looking(f.looks, f.views)
	}
	for _, v := range f.views {
		if v.Hash == h && f.err == nil {
			return v, nil
		}
	}
	return keystore.RequestView{}, cmp.Or(f.err, keystore.ErrNoRequest)
}

func (f *fakeRequests) word(what string, p keystore.Person, h key.Hash, note string) error {
	f.said, f.who, f.hash, f.note = what, p, h, note
	return f.err
}

func (f *fakeRequests) Approve(_ context.Context, p keystore.Person, h key.Hash, note string) error {
	return f.word("approve", p, h, note)
}

func (f *fakeRequests) Deny(_ context.Context, p keystore.Person, h key.Hash, note string) error {
	return f.word("deny", p, h, note)
}

func (f *fakeRequests) Cancel(_ context.Context, p keystore.Person, h key.Hash) error {
	return f.word("cancel", p, h, "")
}

func (f *fakeRequests) Rehearse(ctx context.Context, p keystore.Person, name string) (keystore.Rehearsal, error) {
	f.mu.Lock()
	f.who = p
	f.mu.Unlock()
	if f.rehearsing != nil {
		f.rehearsing(ctx)
	}
	return f.rehearsal, f.err
}

func sampleRequests() *fakeRequests {
	owner, other := key.GeneratePerson().Public(), key.GeneratePerson().Public()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &fakeRequests{views: []keystore.RequestView{{
		Hash: hash(5), Words: key.Words(hash(5), 6), ID: hash(1), Name: "demo/db", Gen: 7, Verb: share.VerbRecover,
		Owner: owner, Requester: other, Reason: "the disk died", Created: now, Expires: now.Add(time.Hour), Approver: true, Veto: true,
		Have: 1, Need: 2, Missing: []string{"1 more of ann, bob"}, Wait: 1500 * time.Millisecond, State: "open",
		Approvals: []keystore.ApprovalView{{Person: owner, Verdict: share.VerdictVeto, Note: "who is this?"}},
	}, {Hash: hash(6), Words: key.Words(hash(6), 6), Owner: owner, Requester: owner, Mine: true, State: "released", Created: now, Expires: now}}}
}

// TestRecoverAnswersPending: what is missing is told, and never a value with it.
func TestRecoverAnswersPending(t *testing.T) {
	e := newEnv(t)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	e.secrets.err = &keystore.PendingError{Request: hash(5), Have: 1, Need: 2, Missing: []string{"bob"}, Wait: 1500 * time.Millisecond,
		Expires: expires, Words: key.Words(hash(5), 6)}
	var got apitype.Pending
	r := e.ok(req{method: "POST", path: "/api/v1/secrets/demo%2Fdb/recover", body: `{"reason":"drill"}`}, 202, &got)
	if r.header.Get("Location") != apitype.PathRequests+"/"+hash(5).String() || got.Request != hash(5).String() {
		t.Errorf("Location %q, request %q", r.header.Get("Location"), got.Request)
	}
	if got.Have != 1 || got.Need != 2 || len(got.Missing) != 1 || got.Wait != 2 || !got.Expires.Equal(expires) || len(got.Words) != 6 {
		t.Errorf("%+v", got)
	}
	if strings.Contains(string(r.body), marker) || strings.Contains(string(r.body), b64(marker)) {
		t.Error("a value came with it")
	}
	e.secrets.err = keystore.ErrVetoed
	if p := e.want(req{method: "POST", path: "/api/v1/secrets/a/recover", body: `{}`}, apitype.Denied); !strings.Contains(p.Detail, "vetoed") {
		t.Errorf("detail %q", p.Detail)
	}
}

func TestRequestsOverTheAPI(t *testing.T) {
	e := newEnv(t)
	var list apitype.Requests
	e.ok(req{path: apitype.PathRequests + "?as=other"}, 200, &list)
	if len(list.Items) != 2 || e.asks.who.Key.Public() != e.other.Key.Public() {
		t.Fatalf("%d items", len(list.Items))
	}
	v := e.asks.views[0]
	got := list.Items[0]
	if got.Name != "demo/db" || got.Requester != v.Requester.String() || got.Reason != v.Reason || got.Wait != 2 || !got.Approver || !got.Veto || got.Mine ||
		len(got.Said) != 1 || !got.Said[0].Denied || got.Said[0].Note != "who is this?" || len(got.Words) != 6 {
		t.Errorf("%+v", got)
	}
	one := apitype.PathRequests + "/" + hash(6).String()
	var r apitype.Request
	if e.ok(req{path: one}, 200, &r); r.Request != hash(6).String() || !r.Mine {
		t.Errorf("%+v", r)
	}
	for _, verb := range []string{"approve", "deny"} {
		var h apitype.Heard
		e.ok(req{method: "POST", path: one + "/" + verb, body: `{"note":"by phone"}`}, 200, &h)
		if e.asks.said != verb || e.asks.hash != hash(6) || e.asks.note != "by phone" || h.Request != hash(6).String() {
			t.Errorf("%s: said %q of %s", verb, e.asks.said, e.asks.hash)
		}
	}
	e.ok(req{method: "DELETE", path: one}, 200, nil)
	if e.asks.said != "cancel" || e.asks.hash != hash(6) {
		t.Errorf("said %q", e.asks.said)
	}
}

// TestRequestRefusals gets every documented refusal of these paths.
func TestRequestRefusals(t *testing.T) {
	e := newEnv(t)
	one := apitype.PathRequests + "/" + hash(6).String()
	words := []req{{method: "POST", path: one + "/approve", body: `{}`}, {method: "POST", path: one + "/deny", body: `{}`}}
	for _, good := range append(words, req{path: apitype.PathRequests}, req{path: one}, req{method: "DELETE", path: one}) {
		change := func(f func(*req)) req {
			q := good
			f(&q)
			return q
		}
		e.want(change(func(q *req) { q.path += "?unknown=1" }), apitype.Invalid)
		e.want(change(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
		e.want(change(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		e.want(change(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
		fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
		e.asks.err = errors.New("the disk is gone")
		e.want(good, apitype.Internal)
		e.asks.err = nil
		if good.path != apitype.PathRequests {
			e.asks.err = keystore.ErrNoRequest
			e.want(good, apitype.NotFound)
			e.asks.err = nil
			e.asks.said = ""
			e.want(change(func(q *req) { q.path = strings.Replace(q.path, hash(6).String(), "xyz", 1) }), apitype.Invalid)
			if e.asks.said != "" {
				t.Errorf("%s reached the keystore", e.asks.said)
			}
		}
	}
	e.want(req{path: apitype.PathRequests + "/" + hash(9).String()}, apitype.NotFound)
	for _, good := range words {
		for err, want := range map[error]apitype.Type{
			keystore.ErrEnded: apitype.Gone, keystore.ErrTimeout: apitype.InDoubt, keystore.ErrInput: apitype.Unprocessable,
			&keystore.QuorumError{Op: "approve", Need: 1, Have: 0}: apitype.Holders,
		} {
			e.asks.err = err
			e.want(good, want)
		}
		e.asks.err, e.asks.said = nil, ""
		for body, want := range map[string]apitype.Type{
			`{"unknown":1}`: apitype.Invalid, `{"note":"` + strings.Repeat("x", share.MaxNote+1) + `"}`: apitype.Unprocessable,
			strings.Repeat(" ", apitype.MaxBody+1): apitype.TooLarge,
		} {
			q := good
			q.body = body
			e.want(q, want)
		}
		q := good
		q.noType = true
		e.want(q, apitype.MediaType)
		q = good
		q.method, q.body = http.MethodPut, ""
		e.want(q, apitype.Method)
		if e.asks.said != "" {
			t.Errorf("%s reached the keystore", e.asks.said)
		}
	}
}
