package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"

	"keymesh/api/apitype"
)

// maxEventLine bounds a line of the stream of events, in bytes.
const maxEventLine = 1 << 20

var errEnded = errors.New("the node ended the stream")

// Events calls fn with every event after the one with the id since: "" stands
// for what comes from now on, "0" for all that the node keeps. It ends with the
// error of fn, of ctx, or an [*Unreachable] when the node is gone; then it may be
// called again with the last id. A deadline of ctx bounds the whole stream.
func (c *Client) Events(ctx context.Context, since string, fn func(apitype.Event) error) error {
	if err := c.setup(); err != nil {
		return err
	}
	q := call{method: http.MethodGet, path: apitype.PathEvents, query: url.Values{}}
	if since != "" {
		q.query.Set("since", since)
	}
	req, err := c.request(ctx, q)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", apitype.TypeEvents+", "+apitype.TypeProblemJSON)
	resp, err := c.http.Do(req)
	if err != nil {
		return c.broken(ctx, q, false, err)
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || media != apitype.TypeEvents {
		body, err := readAll(resp, defaultLimit)
		if err != nil {
			return c.bad(resp, err.Error())
		}
		if err := c.decode(resp, body, nil, false); err != nil {
			return err
		}
		return c.bad(resp, "no events")
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue // the id and the kind are in the data too
		}
		var e apitype.Event
		if json.Unmarshal(data, &e) != nil {
			return c.bad(resp, "an event cannot be read")
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return c.bad(resp, "an event is too long")
	}
	return &Unreachable{Target: c.Target(), Err: errEnded}
}
