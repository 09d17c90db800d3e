package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

// fakeFeed are the answers to Events, in order; then nothing changes any more.
type fakeFeed struct {
	mu      sync.Mutex
	answers []keystore.Events
	after   []string // what was asked
	err     error
}

func (f *fakeRequests) Events(_ context.Context, p keystore.Person, after string) (keystore.Events, error) {
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	f.who = p
	f.feed.after = append(f.feed.after, after)
	if f.feed.err != nil {
		return keystore.Events{}, f.feed.err
	}
	if len(f.feed.answers) == 0 {
		return keystore.Events{Last: "end"}, nil
	}
	out := f.feed.answers[0]
	f.feed.answers = f.feed.answers[1:]
	return out, nil
}

// openEvents begins a stream, and returns a reader of its lines.
func openEvents(t *testing.T, e *env, path string, header http.Header) (*http.Response, *bufio.Scanner) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://keymesh"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	resp, err := e.unix.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != apitype.TypeEvents || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	covered.Lock()
	covered.hit["GET "+apitype.PathEvents+" 200"] = true
	covered.Unlock()
	return resp, bufio.NewScanner(resp.Body)
}

func TestEvents(t *testing.T) {
	e := newEnv(t)
	next := make(chan struct{})
	close(next)
	view := e.asks.views[0]
	e.asks.feed.answers = []keystore.Events{
		{Gap: true, Last: "run.2", Changed: next, List: []keystore.Event{{ID: "run.2", Time: time.Now(), Kind: keystore.EventRequest, Request: view}}},
		{Last: "run.3", List: []keystore.Event{{ID: "run.3", Time: time.Now(), Kind: keystore.EventVetoed, Request: view}}},
	}
	_, lines := openEvents(t, e, apitype.PathEvents+"?since=run.1&as=other", http.Header{"Last-Event-Id": {"run.0"}})
	var got []string
	for len(got) < 8 && lines.Scan() {
		l := lines.Text()
		if data, ok := strings.CutPrefix(l, "data: "); ok {
			var v apitype.Event
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				t.Fatal(err)
			}
			visit(t, loadDocument(t), "Event", []byte(data))
			if v.Kind != apitype.EventGap && (v.Request == nil || v.Request.Name != view.Name) {
				t.Errorf("%+v", v)
			}
			l = "data " + v.Kind + " " + v.ID
		}
		if l != "" && !strings.HasPrefix(l, ":") {
			got = append(got, l)
		}
	}
	want := []string{"event: gap", "data gap ", "id: run.2", "event: request", "data request run.2", "id: run.3", "event: vetoed", "data vetoed run.3"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	e.asks.feed.mu.Lock()
	defer e.asks.feed.mu.Unlock()
	if strings.Join(e.asks.feed.after, " ") != "run.0 run.2" || e.asks.who.Key.Public() != e.other.Key.Public() {
		t.Errorf("asked after %q", e.asks.feed.after)
	}
}

// TestEventsEndWithTheNode at once, and not after the time to drain.
func TestEventsEndWithTheNode(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	up := &serving{ctx: ctx, quit: ctx.Done()}
	done := make(chan error, 1)
	go func() {
		done <- e.server.follow(context.WithValue(t.Context(), servingKey{}, up), &strings.Builder{}, keystore.Events{}, &names{}, e.person)
	}()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, lines := openEvents(t, e, apitype.PathEvents, nil)
	lines.Scan()
	began := time.Now()
	e.stop()
	for lines.Scan() {
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stream held the node for %v", took)
	}
}

func TestEventRefusals(t *testing.T) {
	e := newEnv(t)
	path := apitype.PathEvents
	e.want(req{path: path + "?unknown=1"}, apitype.Invalid)
	e.want(req{path: path + "?since=" + strings.Repeat("x", maxEventID+1)}, apitype.Invalid)
	e.want(req{path: path + "?as=nobody"}, apitype.Unprocessable)
	e.want(req{path: path, tcp: true, noToken: true}, apitype.Unauthorized)
	e.want(req{path: path, host: "evil.example"}, apitype.Forbidden)
	e.asks.feed.err = errors.New("no")
	e.want(req{path: path}, apitype.Internal)
	e.asks.feed.err = nil
	for range maxListeners {
		e.server.listeners <- struct{}{}
	}
	e.want(req{path: path}, apitype.RateLimited)
}
