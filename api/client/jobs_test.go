package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/api/apitype"
)

func TestJobsOnTheWire(t *testing.T) {
	var got []string
	running := 2
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.EscapedPath()+" "+r.URL.Query().Get("as")+" "+r.URL.Query().Get("wait")+string(b))
		switch {
		case r.Method == http.MethodPost:
			answer(w, 202, "application/json", `{"id":"J/1","verb":"repair","state":"running"}`)
		case running > 0:
			running--
			answer(w, 200, "application/json", `{"id":"J/1","state":"running"}`)
		default:
			answer(w, 200, "application/json", `{"id":"J/1","state":"done","result":{"ok":true}}`)
		}
	})
	c.As = "bob"
	j, err := c.StartJob(t.Context(), "a/b", apitype.JobRepair, map[string]int{"to": 1})
	if err != nil || j.ID != "J/1" || j.State != apitype.JobRunning {
		t.Fatalf("%+v %v", j, err)
	}
	if j, err = c.WaitJob(t.Context(), j.ID); err != nil || j.State != apitype.JobDone || string(j.Result) != `{"ok":true}` {
		t.Errorf("%+v %v", j, err)
	}
	if j, err = c.Job(t.Context(), j.ID, 0); err != nil || j.State != apitype.JobDone {
		t.Errorf("%+v %v", j, err)
	}
	want := []string{`POST /api/v1/secrets/a%2Fb/repair bob {"to":1}`, "GET /api/v1/jobs/J%2F1 bob 20s", "GET /api/v1/jobs/J%2F1 bob 20s", "GET /api/v1/jobs/J%2F1 bob 20s", "GET /api/v1/jobs/J%2F1 bob "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked %q\nwant %q", got, want)
	}
}

// TestJobFails: the problem of a job is an error with its exit code, and what is
// no job is no success.
func TestJobFails(t *testing.T) {
	for name, x := range map[string]struct {
		status      int
		media, body string
		exit        int
	}{
		"failed":      {200, "application/json", `{"id":"J","state":"failed","problem":{"type":"urn:keymesh:problem:quorum","title":"x","status":424}}`, apitype.ExitQuorum},
		"none":        {404, "application/problem+json", `{"type":"urn:keymesh:problem:not-found","status":404}`, apitype.ExitNotFound},
		"another":     {200, "application/json", `{"value":""}`, apitype.ExitNode},
		"no JSON":     {200, "application/json", `{`, apitype.ExitNode},
		"not a state": {200, "application/json", `{"id":"J"}`, apitype.ExitNode},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, x.status, x.media, x.body) })
		if _, err := c.WaitJob(t.Context(), "J"); err == nil || apitype.ExitCode(err) != x.exit {
			t.Errorf("%s: %v, exit code %d", name, err, apitype.ExitCode(err))
		}
	}
}

// TestWaitJobEnds: a node that never waits is not asked in a tight loop, and
// the context ends it.
func TestWaitJobEnds(t *testing.T) {
	asked := 0
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		answer(w, 200, "application/json", `{"id":"J","state":"running"}`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 350*time.Millisecond)
	defer cancel()
	if _, err := c.WaitJob(ctx, "J"); !errors.Is(err, context.DeadlineExceeded) || asked > 5 {
		t.Errorf("%v after %d questions", err, asked)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		cancel()
		if err := nap(ctx, time.Hour); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
