package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

func sampleMoved() *keystore.Moved {
	return &keystore.Moved{From: nodeID(3), To: nodeID(4), Moved: 998, Bytes: 1 << 20, Took: 1500 * time.Millisecond, NotMoved: 2, Still: 1,
		Failed: []keystore.NotMoved{{Name: "a", ID: hash(1), Why: "no node"}, {Name: "b", ID: hash(2), Why: "no node"}}, Notes: []string{"a note"}}
}

// Both verbs move, and what they need of the caller is checked.
func TestDrainReplace(t *testing.T) {
	for verb, body := range map[string]string{"drain": "", "replace": `{"new":"` + nodeID(4).String() + `"}`} {
		t.Run(verb, func(t *testing.T) {
			e := newEnv(t)
			e.secrets.moved = sampleMoved()
			good := req{method: http.MethodPost, path: apitype.PathPeers + "/" + nodeID(3).String() + "/" + verb, body: body}
			var started apitype.Job
			e.ok(good, 202, &started)
			j := e.ended(started.ID, "")
			got := jobResult[apitype.MoveResult](t, j, "MoveResult")
			to := key.NodeID{}
			if verb == "replace" {
				to = nodeID(4)
			}
			if j.Verb != verb || j.Name != nodeID(3).String() || e.secrets.moveFrom != nodeID(3) || e.secrets.moveTo != to {
				t.Errorf("%+v %v %v", j, e.secrets.moveFrom, e.secrets.moveTo)
			}
			if got.Moved != 998 || got.Exit != 5 || got.Bytes != 1<<20 || got.Seconds != 1.5 || got.NotMoved != 2 || len(got.Failed) != 2 || got.Still != 1 || len(got.Notes) != 1 || got.New == "" {
				t.Errorf("%+v", got)
			}
			for _, bad := range []string{"alpha", "x" + nodeID(3).String(), "a/b"} {
				e.want(good.with(func(q *req) { q.path = apitype.PathPeers + "/" + bad + "/" + verb }), apitype.Invalid)
			}
			e.want(good.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
			e.want(good.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
			e.want(good.with(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
			fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
			for _, c := range []struct {
				err  error
				want apitype.Type
			}{{keystore.ErrInput, apitype.Unprocessable}, {&keystore.QuorumError{Op: "a listing", Need: 1}, apitype.Quorum}, {errors.New("x"), apitype.Internal}} {
				e.secrets.err = c.err
				e.ok(good, 202, &started)
				if j := e.ended(started.ID, ""); j.Problem == nil || j.Problem.Type != c.want {
					t.Errorf("%v: %+v", c.err, j.Problem)
				}
			}
		})
	}
}

func TestReplaceBody(t *testing.T) {
	e := newEnv(t)
	good := req{method: http.MethodPost, path: apitype.PathPeers + "/" + nodeID(3).String() + "/replace"}
	for body, want := range map[string]apitype.Type{
		`{}`: apitype.Unprocessable, `{"new":"alpha"}`: apitype.Unprocessable, `{"new":"` + nodeID(0).String() + `x"}`: apitype.Unprocessable,
		`{"new":"x","new":"y"}`: apitype.Invalid, `{"old":"x"}`: apitype.Invalid, `{`: apitype.Invalid,
		strings.Repeat(" ", apitype.MaxBody+1): apitype.TooLarge,
	} {
		e.want(good.with(func(q *req) { q.body = body }), want)
	}
	e.want(good.with(func(q *req) { q.body, q.noType = `{}`, true }), apitype.MediaType)
	e.want(req{method: http.MethodPost, path: apitype.PathPeers + "/" + nodeID(3).String() + "/drain", body: `{}`}, apitype.Invalid)
}

// What a job has done is seen while it runs, and the same asked again is the
// same job.
func TestMoveProgress(t *testing.T) {
	e := newEnv(t)
	e.secrets.moved = sampleMoved()
	e.secrets.moves = []keystore.MoveProgress{{Found: 10}, {Found: 10, Done: 6, Failed: 1, AtRisk: 2, Bytes: 99, Name: "a/b"}}
	e.secrets.block, e.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
	q := req{method: http.MethodPost, path: apitype.PathPeers + "/" + nodeID(3).String() + "/drain"}
	var j, again apitype.Job
	e.ok(q, 202, &j)
	<-e.secrets.entered
	e.ok(q, 202, &again)
	if again.ID != j.ID {
		t.Errorf("%s and %s", j.ID, again.ID)
	}
	e.ok(req{path: apitype.PathJobs + "/" + j.ID}, 200, &j)
	want := apitype.MoveProgress{Found: 10, Done: 6, Left: 3, Failed: 1, AtRisk: 2, Bytes: 99, Last: "a/b"}
	if j.State != apitype.JobRunning || j.Progress == nil || *j.Progress != want {
		t.Errorf("%+v %+v", j, j.Progress)
	}
	close(e.secrets.block)
	if j := e.ended(j.ID, ""); j.State != apitype.JobDone || j.Progress == nil {
		t.Errorf("%+v", j)
	}
}

func TestUndrain(t *testing.T) {
	e := newEnv(t)
	q := req{method: http.MethodDelete, path: apitype.PathPeers + "/" + nodeID(3).String() + "/drain"}
	var out apitype.Undrained
	e.ok(q, 200, &out)
	if on, ok := e.secrets.drained[nodeID(3)]; on || !ok || out.Node != nodeID(3).String() {
		t.Errorf("%v %+v", e.secrets.drained, out)
	}
	e.want(q.with(func(q *req) { q.path = apitype.PathPeers + "/alpha/drain" }), apitype.Invalid)
	e.want(q.with(func(q *req) { q.path += "?as=nobody" }), apitype.Unprocessable)
	e.want(q.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
	e.want(q.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
	fillSlots(e.server, func() { e.want(q, apitype.RateLimited) })
	e.secrets.err = errors.New("x")
	e.want(q, apitype.Internal)
}
