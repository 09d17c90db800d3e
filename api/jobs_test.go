package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

func sampleRehearsal() keystore.Rehearsal {
	out := keystore.Rehearsal{Name: "demo/db", ID: hash(1), Manifest: hash(2), Gen: 7, OK: true, N: 5, K: 3, Proven: 4, Margin: 1, Payload: 4,
		Have: 1, Need: 1, Policy: "the owner",
		Approvers: []keystore.RehearsalApprover{{Nodes: 1, Silent: 90 * time.Second}}}
	for i, st := range sampleSeats("proven", "proven", "proven", "proven", "unreachable") {
		out.Seats = append(out.Seats, keystore.RehearsalSeat{SeatState: st})
		if i == 4 {
			out.Seats[i].Silent = 2 * time.Minute
		}
	}
	return out
}

const rehearsePath = "/api/v1/secrets/demo%2Fdb/rehearse"

// start starts a job and returns it.
func (e *env) startJob(path string) (j apitype.Job) {
	e.t.Helper()
	r := e.ok(req{method: "POST", path: path}, 202, &j)
	if r.header.Get("Location") != apitype.PathJobs+"/"+j.ID || j.ID == "" {
		e.t.Fatalf("Location %q of job %q", r.header.Get("Location"), j.ID)
	}
	return j
}

// ended waits for a job's end.
func (e *env) ended(id, query string) (j apitype.Job) {
	e.t.Helper()
	e.ok(req{path: apitype.PathJobs + "/" + id + "?wait=30s" + query}, 200, &j)
	if j.State == apitype.JobRunning || j.Ended.IsZero() {
		e.t.Fatalf("the job is %s after waiting", j.State)
	}
	return j
}

// jobResult decodes a job's result and holds it to its schema.
func jobResult[T any](t *testing.T, j apitype.Job, schema string) (out T) {
	t.Helper()
	visit(t, loadDocument(t), schema, j.Result)
	if err := json.Unmarshal(j.Result, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRehearse(t *testing.T) {
	e := newEnv(t)
	e.asks.rehearsal = sampleRehearsal()
	j := e.ended(e.startJob(rehearsePath).ID, "")
	got := jobResult[apitype.Rehearsal](t, j, "Rehearsal")
	if j.State != apitype.JobDone || j.Problem != nil || j.Verb != "rehearse" || j.Name != "demo/db" || len(j.Seats) != 5 || j.Seats[4].Silent != 120 {
		t.Errorf("%+v", j)
	}
	if !got.OK || got.Exit != 0 || got.Margin != 1 || got.Proven != 4 || got.Gen != 7 || len(got.Approvers) != 1 || got.Approvers[0].Silent != 90 {
		t.Errorf("%+v", got)
	}
	for name, c := range map[string]struct {
		change func(*keystore.Rehearsal)
		exit   int
		failed int
	}{
		"it would not":       {func(r *keystore.Rehearsal) { r.OK, r.Why = false, "2 seats prove their rows" }, 5, 0},
		"a bad proof":        {func(r *keystore.Rehearsal) { r.Seats[0].State, r.Seats[0].Why = "bad", "its proof does not open" }, 7, 1},
		"one against three":  {func(r *keystore.Rehearsal) { r.Seats[0].State, r.Seats[0].Why = "unproven", "nobody agrees" }, 7, 1},
		"both":               {func(r *keystore.Rehearsal) { r.OK, r.Seats[0].State, r.Seats[0].Why = false, "bad", "x" }, 7, 1},
		"a seat has no row":  {func(r *keystore.Rehearsal) { r.Seats[0].State = "missing" }, 0, 0},
		"too few to compare": {func(r *keystore.Rehearsal) { few(r) }, 5, 0},
	} {
		e.asks.rehearsal = sampleRehearsal()
		c.change(&e.asks.rehearsal)
		j := e.ended(e.startJob(rehearsePath).ID, "")
		if got := jobResult[apitype.Rehearsal](t, j, "Rehearsal"); got.Exit != c.exit || len(got.Failed) != c.failed {
			t.Errorf("%s: exit code %d, %d failed", name, got.Exit, len(got.Failed))
		}
	}
}

// few leaves two seats that answer: fewer than can prove anything to one another.
func few(r *keystore.Rehearsal) {
	for i := range r.Seats {
		r.Seats[i].State = []string{"unproven", "unproven", "unreachable", "unreachable", "unreachable"}[i]
	}
	r.OK, r.Proven, r.Why = false, 0, "0 seats prove their rows"
}

func TestJobFails(t *testing.T) {
	e := newEnv(t)
	e.asks.err = fmt.Errorf("%w: %w", keystore.ErrTimeout, errors.New("all silent"))
	j := e.ended(e.startJob(rehearsePath).ID, "")
	if j.State != apitype.JobFailed || j.Problem == nil || j.Problem.Type != apitype.Timeout || j.Problem.Exit != 6 || j.Problem.RequestID == "" || j.Result != nil {
		t.Errorf("%+v %+v", j, j.Problem)
	}
	e.asks.err = errors.New("the disk of demo/db is gone: " + marker)
	j = e.ended(e.startJob(rehearsePath).ID, "")
	if j.Problem == nil || j.Problem.Type != apitype.Internal || j.Problem.Detail != "" {
		t.Errorf("%+v", j.Problem)
	}
	e.asks.err = nil
	e.asks.rehearsing = func(context.Context) { panic(marker) }
	j = e.ended(e.startJob(rehearsePath).ID, "")
	if j.Problem == nil || j.Problem.Type != apitype.Internal {
		t.Errorf("%+v", j.Problem)
	}
	if log := e.log.String(); strings.Contains(log, "demo/db") || strings.Contains(strings.ReplaceAll(log, "disk of NAME is gone: "+marker, ""), marker) {
		t.Errorf("the log has a name or a panic's value:\n%s", log)
	}
	e.asks.rehearsing = nil
	e.ok(req{path: apitype.PathHealthz}, 200, nil)
}

// TestJobsRun: one that runs is answered instead of a second one, nobody else
// sees it, and waiting for it ends.
func TestJobsRun(t *testing.T) {
	e := newEnv(t)
	e.asks.rehearsal = sampleRehearsal()
	running, end := make(chan struct{}, 99), make(chan struct{})
	e.asks.rehearsing = func(ctx context.Context) {
		running <- struct{}{}
		select {
		case <-end:
		case <-ctx.Done():
			t.Error("it was given up")
		}
	}
	first := e.startJob(rehearsePath)
	<-running
	if first.State != apitype.JobRunning || first.Started.IsZero() || !first.Ended.IsZero() || first.Result != nil {
		t.Errorf("%+v", first)
	}
	if again := e.startJob(rehearsePath); again.ID != first.ID {
		t.Error("a second one was started")
	}
	var j apitype.Job
	e.ok(req{path: apitype.PathJobs + "/" + first.ID + "?wait=0.05"}, 200, &j)
	if j.State != apitype.JobRunning || len(j.Seats) != 0 {
		t.Errorf("%+v", j)
	}
	e.want(req{path: apitype.PathJobs + "/" + first.ID + "?as=other"}, apitype.NotFound)
	e.want(req{path: apitype.PathJobs + "/" + strings.Repeat("A", 26)}, apitype.NotFound)
	others := e.startJob(rehearsePath + "?as=other")
	another := e.startJob("/api/v1/secrets/demo/other/rehearse")
	if others.ID == first.ID || another.ID == first.ID || another.Name != "demo/other" {
		t.Error("jobs of others, or on others, are the same")
	}
	for i := range maxRunning - 3 {
		e.startJob(fmt.Sprintf("/api/v1/secrets/s%d/rehearse", i))
	}
	e.want(req{method: "POST", path: "/api/v1/secrets/over/rehearse"}, apitype.RateLimited)
	close(end)
	for _, id := range []string{first.ID, another.ID} {
		e.ended(id, "")
	}
	e.ended(others.ID, "&as=other")
}

// TestJobTimeout: the timeout of the request is the job's.
func TestJobTimeout(t *testing.T) {
	e := newEnv(t)
	e.asks.rehearsing = func(ctx context.Context) { <-ctx.Done(); e.asks.err = ctx.Err() }
	j := e.ended(e.startJob(rehearsePath+"?timeout=0.05").ID, "")
	if j.Problem == nil || j.Problem.Type != apitype.Timeout {
		t.Errorf("%+v", j)
	}
}

func TestJobRefusals(t *testing.T) {
	e := newEnv(t)
	e.asks.rehearsal = sampleRehearsal()
	one := req{path: apitype.PathJobs + "/" + e.startJob(rehearsePath).ID}
	for _, good := range []req{{method: "POST", path: rehearsePath}, one} {
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
	}
	put := one
	put.method = http.MethodPut
	e.want(put, apitype.Method)
	for _, wait := range []string{"", "x", "-1s", "121s", "1h", "9999999h", "1s1s1s1s1s1s1s1s1s", "1ns"} {
		q := one
		q.path += "?wait=" + wait
		e.want(q, apitype.Invalid)
	}
	e.want(req{method: "POST", path: rehearsePath, body: `{}`}, apitype.Invalid)
	e.want(req{method: "POST", path: "/api/v1/secrets/a%2F%2Fb/rehearse"}, apitype.Invalid)
	e.want(req{method: "POST", path: "/api/v1/secrets//rehearse"}, apitype.Invalid)
}

// TestJobsEndWithTheServer: a job that is under way is told to stop, and Serve
// waits for it.
func TestJobsEndWithTheServer(t *testing.T) {
	ended := make(chan struct{})
	var e *env
	t.Run("serve", func(t *testing.T) {
		e = newEnv(t)
		running := make(chan struct{})
		e.asks.rehearsing = func(ctx context.Context) {
			close(running)
			<-ctx.Done()
			close(ended)
		}
		e.startJob(rehearsePath)
		<-running
	})
	select {
	case <-ended: // Serve has returned
	default:
		t.Error("a job outlives Serve")
	}
	r, err := http.NewRequest("POST", "http://keymesh"+rehearsePath, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.server.startJob(&request{ctx: r.Context(), person: e.person, name: "a"}, "rehearse", nil)
	if p := asProblem(err); p == nil || p.Type != apitype.Unavailable {
		t.Errorf("without a listener: %v", err)
	}
}

// TestJobTableIsBounded: the oldest that ended goes, what runs stays, and an
// hour ends what is kept.
func TestJobTableIsBounded(t *testing.T) {
	table := newJobs()
	now := time.Now()
	add := func(i int, started time.Time) *job {
		j := &job{id: fmt.Sprint(i), same: [32]byte{byte(i), byte(i >> 8)}, started: started, done: make(chan struct{})}
		if before, err := table.add(j); before != nil || err != nil {
			t.Fatalf("job %d: %v %v", i, before, err)
		}
		return j
	}
	end := func(j *job) { j.ended = j.started; close(j.done) }
	runs := add(0, now)
	for i := range 2 * maxJobs {
		end(add(i+1, now))
	}
	if len(table.order) != maxJobs || table.order[0] != runs {
		t.Errorf("%d jobs are kept, of which the one that runs is first: %v", len(table.order), table.order[0] == runs)
	}
	add(9999, now.Add(jobKept+time.Second))
	if len(table.order) != 2 {
		t.Errorf("%d are kept after an hour", len(table.order))
	}
	if table.find("0", runs.person) == nil {
		t.Error("the one that runs was dropped")
	}
}
