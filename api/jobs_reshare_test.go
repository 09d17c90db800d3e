package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const resharePath = "/api/v1/secrets/demo%2Fdb/reshare"

func TestReshare(t *testing.T) {
	e := newEnv(t)
	good := req{method: http.MethodPost, path: resharePath, body: `{"n":5,"k":2,"allow_colocated":true}`}
	var started apitype.Job
	e.ok(good, 202, &started)
	j := e.ended(started.ID, "")
	got := jobResult[apitype.PutResult](t, j, "PutResult")
	if j.State != apitype.JobDone || j.Verb != "reshare" || got.Gen == 0 || len(j.Seats) != len(got.Seats) {
		t.Errorf("%+v", j)
	}
	if o := e.secrets.putO; o.N != 5 || o.K != 2 || !o.AllowColocated || o.Policy != nil || o.Labels != nil || o.Keep != nil || o.TTL != nil {
		t.Errorf("options %+v", o)
	}
	for body, want := range map[string]apitype.Type{
		`{"n":5}`: apitype.Unprocessable, `{"n":2,"k":3}`: apitype.Unprocessable, `{"k":1,"n":3}`: apitype.Unprocessable,
		`{"value":"eA=="}`: apitype.Invalid, `{"n":5,"n":5}`: apitype.Invalid, `{`: apitype.Invalid,
		strings.Repeat(" ", apitype.MaxBody+1): apitype.TooLarge,
	} {
		e.want(good.with(func(q *req) { q.body = body }), want)
	}
	e.want(good.with(func(q *req) { q.noType = true }), apitype.MediaType)
	e.want(good.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
	e.want(good.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
	fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
	for _, c := range []struct {
		err  error
		want apitype.Type
	}{{&keystore.InDoubtError{Gen: 8}, apitype.InDoubt}, {&keystore.ConflictError{}, apitype.Precondition}, {keystore.ErrNotFound, apitype.NotFound}, {errors.New("x"), apitype.Internal}} {
		e.secrets.err = c.err
		e.ok(good, 202, &started)
		if j := e.ended(started.ID, ""); j.Problem == nil || j.Problem.Type != c.want {
			t.Errorf("%v: %+v", c.err, j.Problem)
		}
	}
}
