package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// Bounds of jobs.
const (
	maxJobs    = 256 // kept; the oldest that ended makes room
	maxRunning = 32  // at once; one more is answered 429
	jobKept    = time.Hour
	maxPolls   = 32 // answers that are waited for at once; one more is not waited for
)

const patternJob = apitype.PathJobs + "/{id}"

// jobOutcome is what a job brought. result is encoded as JSON when it ends.
type jobOutcome struct {
	seats  []apitype.Seat
	result any
}

// job is one job. What follows done is written before done is closed, and not
// changed any more.
type job struct {
	id, verb, name string
	person         key.PersonPublic
	same           [32]byte // over what was asked for
	started        time.Time
	progress       atomic.Pointer[apitype.MoveProgress]

	done    chan struct{}
	ended   time.Time
	seats   []apitype.Seat
	result  json.RawMessage
	problem *apitype.Problem
}

func (j *job) running() bool {
	select {
	case <-j.done:
		return false
	default:
		return true
	}
}

// jobs is the table of jobs. Safe for concurrent use.
type jobs struct {
	polls chan struct{}

	mu    sync.Mutex
	order []*job // by age, oldest first
}

func newJobs() *jobs { return &jobs{polls: make(chan struct{}, maxPolls)} }

// serving is what outlives a request: it ends when the listener's Serve does,
// which waits for what is counted.
type serving struct {
	ctx  context.Context
	work *sync.WaitGroup
	quit <-chan struct{} // closed when what goes on for ever has to end
}

type servingKey struct{}

func (s *Server) jobEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		patternJob:      {http.MethodGet: {person: true, query: []string{"wait"}, serve: s.oneJob}},
		patternRehearse: {http.MethodPost: {person: true, serve: s.rehearse}},
	}
}

// startJob starts run as a job of the request's person on the secret of the
// request, and answers 202 with it. The job has the request's timeout; run
// returns when its context ends, and does not look at the request's body, which
// is zeroed. While the same is running, that one is answered instead of a second
// one. An error that is a [failure] with op{write: true} is answered as a
// write's.
func (s *Server) startJob(r *request, verb string, run func(ctx context.Context) (jobOutcome, error)) (answer, error) {
	return s.startJobFor(r, verb, patternSecret+"/"+verb, r.timeout, func(ctx context.Context, _ *job) (jobOutcome, error) { return run(ctx) })
}

// startJobFor is startJob for a job with a time and a pattern of its own.
func (s *Server) startJobFor(r *request, verb, pattern string, limit time.Duration, run func(ctx context.Context, j *job) (jobOutcome, error)) (answer, error) {
	up, ok := r.ctx.Value(servingKey{}).(*serving)
	if !ok || up.ctx.Err() != nil {
		return answer{}, hinted(apitype.NewProblem(apitype.Unavailable, "the node is stopping"))
	}
	pub := r.person.Key.Public()
	j := &job{
		id: rand.Text(), verb: verb, name: r.name, person: pub, started: time.Now(), done: make(chan struct{}),
		same: s.replays.digest([]byte(verb), pub[:], []byte(r.name), r.body),
	}
	before, err := s.jobs.add(j)
	if err != nil {
		return answer{}, err
	}
	if before != nil {
		return jobAnswer(http.StatusAccepted, before)
	}
	id := r.id
	up.work.Go(func() {
		ctx, cancel := context.WithTimeout(keystore.WithRequestID(up.ctx, id), limit)
		defer cancel()
		s.runJob(ctx, j, pattern, id, run)
	})
	return jobAnswer(http.StatusAccepted, j)
}

// runJob runs a job and notes its end. A panic is a fault of the job alone.
func (s *Server) runJob(ctx context.Context, j *job, pattern, id string, run func(context.Context, *job) (jobOutcome, error)) {
	var out jobOutcome
	err := errPanic
	func() {
		defer func() {
			if v := recover(); v != nil {
				s.log.Error("api: panic in a job", "verb", j.verb, "what", fmt.Sprintf("%T", v), "request", id, "stack", string(debug.Stack()))
			}
		}()
		out, err = run(ctx, j)
	}()
	if err == nil && out.result != nil {
		j.result, err = json.Marshal(out.result)
	}
	if err != nil {
		j.problem = s.explain(err, pattern, id, j.name)
		j.problem.RequestID = id
	}
	j.seats, j.ended = out.seats, time.Now()
	close(j.done)
	s.log.Info("api: job", "verb", j.verb, "failed", err != nil, "took", j.ended.Sub(j.started), "request", id)
}

var errPanic = fmt.Errorf("a job panicked")

// add takes in a job, or returns the one that does the same.
func (t *jobs) add(j *job) (before *job, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	running, ended := 0, -1
	t.expire(j.started)
	for i, o := range t.order {
		switch {
		case !o.running():
			if ended < 0 {
				ended = i
			}
		case o.same == j.same:
			return o, nil
		default:
			running++
		}
	}
	if running >= maxRunning {
		return nil, hinted(apitype.NewProblem(apitype.RateLimited, "%d jobs are running already", running))
	}
	if len(t.order) >= maxJobs { // one of them has ended: fewer are running
		t.order = append(t.order[:ended], t.order[ended+1:]...)
	}
	t.order = append(t.order, j)
	return nil, nil
}

// expire drops what ended long ago; mu is held.
func (t *jobs) expire(now time.Time) {
	kept := t.order[:0]
	for _, o := range t.order {
		if o.running() || now.Sub(o.ended) < jobKept {
			kept = append(kept, o)
		}
	}
	clear(t.order[len(kept):])
	t.order = kept
}

// find returns a job of the person, or nil.
func (t *jobs) find(id string, p key.PersonPublic) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(time.Now())
	for _, j := range t.order {
		if j.id == id && j.person == p {
			return j
		}
	}
	return nil
}

// slot is the room for one answer that is waited for, if there is any; free it
// in either case.
func (t *jobs) slot() (free func(), ok bool) {
	select {
	case t.polls <- struct{}{}:
		return func() { <-t.polls }, true
	default:
		return func() {}, false
	}
}

// poll waits for done for at most d, where there is room to wait.
func (t *jobs) poll(ctx context.Context, d time.Duration, done <-chan struct{}) {
	free, ok := t.slot()
	defer free()
	if d <= 0 || !ok {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (s *Server) oneJob(r *request) (answer, error) {
	j := s.jobs.find(r.name, r.person.Key.Public())
	if j == nil {
		p := apitype.NewProblem(apitype.NotFound, "this node knows of no such job of this person")
		p.Hint = "jobs are forgotten an hour after their end and when the node restarts"
		return answer{}, p
	}
	s.jobs.poll(r.ctx, r.wait, j.done)
	return jobAnswer(http.StatusOK, j)
}

func jobAnswer(status int, j *job) (answer, error) {
	out := apitype.Job{ID: j.id, Verb: j.verb, Name: j.name, State: apitype.JobRunning, Started: j.started.UTC(), Seats: []apitype.Seat{}, Progress: j.progress.Load()}
	if !j.running() {
		out.State, out.Ended, out.Result, out.Problem = apitype.JobDone, j.ended.UTC(), j.result, j.problem
		out.Seats = append(out.Seats, j.seats...)
		if j.problem != nil {
			out.State = apitype.JobFailed
		}
	}
	a, err := reply(status, out)
	if status == http.StatusAccepted {
		a.location = apitype.PathJobs + "/" + j.id
	}
	return a, err
}

// parseWait reads how long an answer may be waited for: "30s", or seconds. It
// is never longer than the request's own timeout.
func parseWait(v string) (time.Duration, *apitype.Problem) {
	if d, err := time.ParseDuration(v); err == nil && strings.Trim(v, "0123456789.smh") == "" && len(v) <= 16 && d <= apitype.MaxTimeout*time.Second {
		return d, nil
	}
	d, bad := parseTimeout(v)
	if bad != nil {
		return 0, apitype.NewProblem(apitype.Invalid, "wait is a span such as 30s, at most %d seconds", apitype.MaxTimeout)
	}
	return d, nil
}
