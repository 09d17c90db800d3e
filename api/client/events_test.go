package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

func TestEvents(t *testing.T) {
	const one = ": events\n\nid: r.1\nevent: request\ndata: {\"id\":\"r.1\",\"kind\":\"request\"}\n\n:\n\nevent: gap\ndata: {\"kind\":\"gap\"}\n\n"
	var got *http.Request
	body, media := one, apitype.TypeEvents
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		answer(w, 200, media, body)
	})
	c.As = "bob"
	var kinds []string
	take := func(e apitype.Event) error {
		kinds = append(kinds, e.Kind+" "+e.ID)
		return nil
	}
	var gone *Unreachable
	if err := c.Events(t.Context(), "r.0", take); !errors.As(err, &gone) || strings.Join(kinds, ",") != "request r.1,gap " {
		t.Errorf("%v, %q", err, kinds)
	}
	if q := got.URL.Query(); q.Get("since") != "r.0" || q.Get("as") != "bob" || q.Has("timeout") {
		t.Errorf("asked %s", got.URL)
	}
	stop := errors.New("enough")
	if err := c.Events(t.Context(), "", func(apitype.Event) error { return stop }); !errors.Is(err, stop) || got.URL.Query().Has("since") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Events(ctx, "", func(apitype.Event) error { cancel(); return nil }); err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, &gone) {
		t.Errorf("%v", err)
	}
	var bad *BadAnswer
	for _, body = range []string{"data: nothing\n\n", "data: " + strings.Repeat("x", maxEventLine) + "\n\n"} {
		if err := c.Events(t.Context(), "", take); !errors.As(err, &bad) {
			t.Errorf("%.20q: %v", body, err)
		}
	}
	media, body = "text/html", "hello"
	if err := c.Events(t.Context(), "", take); !errors.As(err, &bad) {
		t.Errorf("a page: %v", err)
	}
}
