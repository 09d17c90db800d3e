package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

func TestVerifyAndRepair(t *testing.T) {
	e := newEnv(t)
	states := []keystore.SeatState{{Node: key.NodeID{1}, Name: "a", X: 1, State: "good"}, {Node: key.NodeID{2}, Name: "b", X: 2, State: "corrupt", Why: "x"}}
	e.secrets.ver = keystore.Verified{Name: "demo/db", Manifest: key.Hash{1}, Gen: 3, Epoch: 2, N: 5, K: 3, W: 4, Good: 4, Seats: states}
	e.secrets.rep = keystore.Repaired{Name: "demo/db", Manifest: key.Hash{1}, Gen: 3, N: 5, K: 3, W: 4, Good: 4, Seats: states[:1], Moved: []keystore.Move{{X: 7, From: key.NodeID{1}, To: key.NodeID{2}}}}
	var started apitype.Job
	e.ok(req{method: http.MethodPost, path: "/api/v1/secrets/demo%2Fdb/verify"}, 202, &started)
	j := e.ended(started.ID, "")
	v := jobResult[apitype.Verified](t, j, "Verified")
	if j.Verb != "verify" || v.Exit != apitype.ExitIntegrity || v.Good != 4 || v.Margin != 1 || v.Epoch != 2 || len(j.Seats) != 2 || j.Seats[1].State != "corrupt" {
		t.Fatalf("%+v %+v", j, v)
	}
	good := req{method: http.MethodPost, path: "/api/v1/secrets/demo%2Fdb/repair", body: `{}`}
	e.ok(good, 202, &started)
	j = e.ended(started.ID, "")
	r := jobResult[apitype.Repaired](t, j, "Repaired")
	if r.Exit != apitype.ExitQuorum || len(r.Moved) != 1 || r.Moved[0].X != 7 || r.Moved[0].To != (key.NodeID{2}).String() || e.secrets.repO.Timeout <= 0 || len(e.secrets.repO.To) != 0 {
		t.Fatalf("%+v %+v", r, e.secrets.repO)
	}
	for body, want := range map[string]apitype.Type{`{"to":["nobody"]}`: apitype.Unprocessable, `{"n":1}`: apitype.Invalid, `{`: apitype.Invalid} {
		e.want(good.with(func(q *req) { q.body = body }), want)
	}
	verify := req{method: http.MethodPost, path: "/api/v1/secrets/demo%2Fdb/verify"}
	for _, q := range []req{verify, good} {
		e.want(q.with(func(q *req) { q.path += "?x=1" }), apitype.Invalid)
		e.want(q.with(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
		e.want(q.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		e.want(q.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
		fillSlots(e.server, func() { e.want(q, apitype.RateLimited) })
	}
	e.want(good.with(func(q *req) { q.body = strings.Repeat(" ", apitype.MaxBody+1) }), apitype.TooLarge)
	e.want(good.with(func(q *req) { q.noType = true }), apitype.MediaType)
	for _, c := range []struct {
		err  error
		want apitype.Type
	}{{keystore.ErrNotFound, apitype.NotFound}, {keystore.ErrDenied, apitype.Denied}, {keystore.ErrInput, apitype.Unprocessable}, {errors.New("x"), apitype.Internal}} {
		e.secrets.err = c.err
		e.ok(good, 202, &started)
		if j := e.ended(started.ID, ""); j.Problem == nil || j.Problem.Type != c.want {
			t.Errorf("%v: %+v", c.err, j.Problem)
		}
	}
}
