package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const (
	maxListeners = 32               // streams of events; one more is answered 429
	beatEvery    = 15 * time.Second // a comment, so that both ends see that the other is there
	maxEventID   = 64               // bytes
)

func (s *Server) eventEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathEvents: {http.MethodGet: {person: true, query: []string{"since"}, serve: s.events}},
	}
}

// events answers with a stream that ends with the connection or the node.
func (s *Server) events(r *request) (answer, error) {
	after := r.query.Get("since")
	if id := r.header.Get("Last-Event-ID"); id != "" {
		after = id
	}
	if len(after) > maxEventID {
		return answer{}, apitype.NewProblem(apitype.Invalid, "an event's id has at most %d bytes", maxEventID)
	}
	first, err := s.cfg.Requests.Events(r.ctx, r.person, after)
	if err != nil {
		return answer{}, err
	}
	n, err := s.namesFor(r)
	if err != nil {
		return answer{}, err
	}
	select {
	case s.listeners <- struct{}{}:
	default:
		return answer{}, hinted(apitype.NewProblem(apitype.RateLimited, "the node serves %d streams of events already", cap(s.listeners)))
	}
	person := r.person
	return answer{status: http.StatusOK, media: apitype.TypeEvents, stream: func(ctx context.Context, w io.Writer) error {
		defer func() { <-s.listeners }()
		return s.follow(ctx, w, first, n, person)
	}}, nil
}

// follow writes events until ctx ends or the node stops.
func (s *Server) follow(ctx context.Context, w io.Writer, now keystore.Events, n *names, p keystore.Person) error {
	var quit <-chan struct{}
	if up, ok := ctx.Value(servingKey{}).(*serving); ok {
		quit = up.quit
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	if err := send(w, []byte(": events\n\n")); err != nil {
		return nil
	}
	for {
		var out bytes.Buffer
		if now.Gap {
			put(&out, apitype.Event{Time: time.Now().UTC(), Kind: apitype.EventGap})
		}
		for _, e := range now.List {
			v := n.requestView(e.Request)
			put(&out, apitype.Event{ID: e.ID, Time: e.Time.UTC(), Kind: e.Kind, Request: &v})
		}
		if send(w, out.Bytes()) != nil {
			return nil // nobody is there any more
		}
		for waits := true; waits; {
			select {
			case <-ctx.Done():
				return nil
			case <-quit:
				return nil
			case <-now.Changed:
				waits = false
			case <-beat.C:
				if send(w, []byte(":\n\n")) != nil {
					return nil
				}
			}
		}
		var err error
		if now, err = s.cfg.Requests.Events(ctx, p, now.Last); err != nil {
			return err
		}
	}
}

// put appends an event as the stream has it. JSON has no line ends.
func put(out *bytes.Buffer, e apitype.Event) {
	b, err := json.Marshal(e)
	if err != nil { // no field can cause it
		return
	}
	if e.ID != "" {
		fmt.Fprintf(out, "id: %s\n", e.ID)
	}
	fmt.Fprintf(out, "event: %s\ndata: %s\n\n", e.Kind, b)
}

// send writes and sees to it that it leaves now.
func send(w io.Writer, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if f, ok := w.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}
