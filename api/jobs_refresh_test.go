package api

import (
	"errors"
	"net/http"
	"testing"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

func TestRefresh(t *testing.T) {
	e := newEnv(t)
	e.secrets.refreshed = &keystore.Refreshed{Name: "demo/db", Gen: 7, Epoch: 3,
		Seats:   []keystore.SeatState{{Node: key.NodeID{1}, X: 1, State: "committed"}, {Node: key.NodeID{2}, X: 2, State: "pending"}},
		Dropped: []keystore.BadRow{{Node: key.NodeID{2}, Why: "its dealing fails"}}}
	good := req{method: http.MethodPost, path: "/api/v1/secrets/demo%2Fdb/refresh"}
	var started apitype.Job
	e.ok(good, 202, &started)
	j := e.ended(started.ID, "")
	got := jobResult[apitype.Refreshed](t, j, "Refreshed")
	if j.State != apitype.JobDone || j.Verb != "refresh" || got.Gen != 7 || got.Epoch != 3 || got.N != 2 || got.InForce != 1 || len(got.Dropped) != 1 || len(j.Seats) != 2 {
		t.Errorf("%+v %+v", j, got)
	}
	e.want(good.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
	e.want(good.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
	e.want(good.with(func(q *req) { q.body = `{}` }), apitype.Invalid)
	e.want(good.with(func(q *req) { q.path += "?timeout=no" }), apitype.Invalid)
	e.want(good.with(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
	fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
	for _, c := range []struct {
		err  error
		want apitype.Type
	}{{&keystore.QuorumError{Op: "refresh", Need: 4}, apitype.Quorum}, {keystore.ErrNotFound, apitype.NotFound}, {errors.New("x"), apitype.Internal}} {
		e.secrets.err = c.err
		e.ok(good, 202, &started)
		if j := e.ended(started.ID, ""); j.Problem == nil || j.Problem.Type != c.want {
			t.Errorf("%v: %+v", c.err, j.Problem)
		}
	}
}
