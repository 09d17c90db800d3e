package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
)

// TestRequestIsWaitedFor: the answer comes when something has changed, at once
// when the caller has not seen what there is, and after wait when nothing does.
func TestRequestIsWaitedFor(t *testing.T) {
	e := newEnv(t)
	one := apitype.PathRequests + "/" + hash(5).String()
	var first, next apitype.Request
	e.ok(req{path: one}, 200, &first)
	if first.Version == "" || first.Ready || e.asks.looks != 1 {
		t.Fatalf("%+v after %d looks", first, e.asks.looks)
	}
	e.asks.looking = func(n int, views []keystore.RequestView) {
		if n == 4 {
			views[0].Have, views[0].Ready = 2, true
		}
	}
	e.ok(req{path: one + "?wait=30s"}, 200, &next)
	if next.Have != 2 || !next.Ready || next.Version == first.Version || e.asks.looks != 4 {
		t.Errorf("%+v after %d looks", next, e.asks.looks)
	}
	e.ok(req{path: one + "?wait=30s&seen=" + first.Version}, 200, &next)
	if next.Have != 2 || e.asks.looks != 5 {
		t.Errorf("what was missed is not told at once: %d looks", e.asks.looks)
	}
	began := time.Now()
	e.ok(req{path: one + "?wait=0.4&seen=" + next.Version}, 200, nil)
	if d := time.Since(began); d < 300*time.Millisecond || d > 10*time.Second {
		t.Errorf("it was waited for %v", d)
	}
	// A delay that runs down is no news.
	e.asks.looking = func(n int, views []keystore.RequestView) { views[0].Wait -= time.Second }
	views := e.asks.views
	views[0].Wait = time.Hour
	looks := e.asks.looks
	e.ok(req{path: one}, 200, &first)
	e.ok(req{path: one}, 200, &next)
	if first.Version != next.Version || first.Wait == next.Wait || e.asks.looks != looks+2 {
		t.Errorf("versions %q and %q, waits %d and %d", first.Version, next.Version, first.Wait, next.Wait)
	}
	// What is over is not waited for.
	e.ok(req{path: apitype.PathRequests + "/" + hash(6).String() + "?wait=30s"}, 200, &next)
	if next.State != "released" {
		t.Errorf("%+v", next)
	}
	// Where all slots are taken, the answer comes at once.
	for range maxPolls {
		free, ok := e.server.jobs.slot()
		if !ok {
			t.Fatal("no slot")
		}
		defer free()
	}
	e.asks.looking = nil
	looks = e.asks.looks
	e.ok(req{path: one + "?wait=30s"}, 200, nil)
	if e.asks.looks != looks+1 {
		t.Errorf("%d looks", e.asks.looks-looks)
	}
}

func TestRequestThatExpiredIsGone(t *testing.T) {
	e := newEnv(t)
	e.asks.err = fmt.Errorf("%w: it has expired", keystore.ErrEnded)
	e.want(req{path: apitype.PathRequests + "/" + hash(5).String()}, apitype.Gone)
}

// TestAskByID: who may recover what another owns asks by its id.
func TestAskByID(t *testing.T) {
	e := newEnv(t)
	id, tag := hash(1).String(), hash(8).String()
	ask := req{method: "POST", path: apitype.PathRequests + "?as=other", body: `{"id":"` + id + `","name":"demo/db","tag":"` + tag + `","gen":3,"reason":"he is ill"}`}
	e.secrets.rec.Approvals = []keystore.ApprovalView{{Person: e.person.Key.Public(), Verdict: share.VerdictApprove, Note: "yes"}}
	e.secrets.rec.Receipt, e.secrets.rec.Request = []byte("receipt"), hash(5)
	var got apitype.Recovered
	e.ok(ask, 200, &got)
	o := e.secrets.recO
	if string(got.Value) != marker || got.Request != hash(5).String() || string(got.Receipt) != "receipt" || len(got.Said) != 1 || got.Said[0].Note != "yes" {
		t.Errorf("%+v", got)
	}
	if o.ID != hash(1) || o.Tag != hash(8) || e.secrets.name != "demo/db" || o.Gen != 3 || o.Reason != "he is ill" || e.secrets.who.Key.Public() != e.other.Key.Public() {
		t.Errorf("asked for %+v of %q", o, e.secrets.name)
	}
	e.secrets.err = &keystore.PendingError{Request: hash(5), Have: 1, Need: 2, Expires: time.Now().Add(time.Hour), Words: key.Words(hash(5), 6)}
	r := e.ok(ask, 202, nil)
	if r.header.Get("Location") != apitype.PathRequests+"/"+hash(5).String() || strings.Contains(string(r.body), b64(marker)) {
		t.Errorf("Location %q", r.header.Get("Location"))
	}
	for _, c := range []struct {
		err  error
		want apitype.Type
	}{
		{keystore.ErrDenied, apitype.Denied}, {keystore.ErrNotFound, apitype.NotFound}, {keystore.ErrEnded, apitype.Gone},
		{&keystore.ConflictError{Fork: []key.Hash{hash(3), hash(4)}, Why: "two"}, apitype.Fork}, {&keystore.QuorumError{Op: "get", Need: 3}, apitype.Quorum},
		{&keystore.IntegrityError{Need: 3}, apitype.Integrity}, {keystore.ErrTimeout, apitype.Timeout}, {keystore.ErrStopped, apitype.Damaged},
		{errors.New("x"), apitype.Internal}, {errDraining, apitype.Unavailable},
	} {
		e.secrets.err = c.err
		e.want(ask, c.want)
	}
	e.secrets.err, e.secrets.name = nil, ""
	for body, want := range map[string]apitype.Type{
		`{}`: apitype.Unprocessable, `{"id":"x"}`: apitype.Unprocessable, `{"id":"` + strings.Repeat("0", 64) + `"}`: apitype.Unprocessable,
		`{"id":"` + id + `","name":"a"}`: apitype.Unprocessable, `{"id":"` + id + `","tag":"` + tag + `"}`: apitype.Unprocessable,
		`{"id":"` + id + `","name":"a//b","tag":"` + tag + `"}`: apitype.Unprocessable, `{"id":"` + id + `","name":"a","tag":"x"}`: apitype.Unprocessable,
		`{"id":"` + id + `","manifest":"x"}`: apitype.Unprocessable, `{"id":"` + id + `","reason":"a\u0007b"}`: apitype.Unprocessable,
		`{"id":"` + id + `","x":1}`: apitype.Invalid, strings.Repeat(" ", apitype.MaxBody+1): apitype.TooLarge,
	} {
		q := ask
		q.body = body
		e.want(q, want)
	}
	refusals(e, ask)
	if e.secrets.name != "" {
		t.Error("what is refused reached the keystore")
	}
}

// refusals are those of every path with a person and a body.
func refusals(e *env, good req) {
	e.t.Helper()
	change := func(f func(*req)) req {
		q := good
		q.path, _, _ = strings.Cut(q.path, "?")
		f(&q)
		return q
	}
	e.want(change(func(q *req) { q.path += "?unknown=1" }), apitype.Invalid)
	e.want(change(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
	e.want(change(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
	e.want(change(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
	e.want(change(func(q *req) { q.noType = true }), apitype.MediaType)
	e.want(change(func(q *req) { q.body = strings.Repeat(" ", apitype.MaxBody+1) }), apitype.TooLarge)
	fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
}
