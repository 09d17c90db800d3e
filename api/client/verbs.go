package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"keymesh/api/apitype"
)

// PutConditions are the conditions of a put. The zero value has none.
type PutConditions struct {
	IfGen    *uint64 // the committed generation must be this one
	IfAbsent bool    // there must be none
	// Key is an Idempotency-Key: the node answers a second request with the
	// same key as the first. Empty: a fresh one, so that a request is repeated
	// safely when a kept-alive connection was closed under it.
	Key string
}

// Put stores r.Value under name. A problem of type apitype.InDoubt is an error
// too (exit code 12).
func (c *Client) Put(ctx context.Context, name string, r apitype.PutRequest, o PutConditions) (apitype.PutResult, error) {
	var out apitype.PutResult
	if len(r.Value) > apitype.MaxValue {
		return out, apitype.NewProblem(apitype.TooLarge, "the value has %d bytes; at most %d are possible", len(r.Value), apitype.MaxValue)
	}
	path, err := secretPath(name)
	if err != nil {
		return out, err
	}
	body, err := apitype.EncodePut(r)
	if err != nil {
		return out, errors.New("the request cannot be encoded")
	}
	defer clear(body)
	h := http.Header{}
	if o.IfGen != nil {
		h.Set("If-Match", strconv.Quote(strconv.FormatUint(*o.IfGen, 10)))
	}
	if o.IfAbsent {
		h.Set("If-None-Match", "*")
	}
	if o.Key == "" {
		o.Key = rand.Text()
	}
	h.Set(apitype.HeaderIdem, o.Key)
	_, err = c.do(ctx, call{method: http.MethodPut, path: path, header: h, body: body, write: !r.DryRun}, &out)
	if err != nil {
		return apitype.PutResult{}, err
	}
	return out, nil
}

// Recover returns the secret. The caller zeroes its Value after use.
func (c *Client) Recover(ctx context.Context, name string, r apitype.RecoverRequest) (apitype.Recovered, error) {
	path, err := secretPath(name)
	if err != nil {
		return apitype.Recovered{}, err
	}
	var out apitype.Recovered
	if err := c.post(ctx, path+"/recover", r, &out, false); err != nil {
		clear(out.Value)
		return apitype.Recovered{}, err
	}
	if out.Value == nil {
		return apitype.Recovered{}, &BadAnswer{Target: c.Target(), Status: http.StatusOK, Why: "it holds no value"}
	}
	return out, nil
}

// ListOptions select a page.
type ListOptions struct {
	Prefix string
	Cursor string // Next of the page before
	Limit  int    // 1 to 1000; 0: 100
}

// List returns one page of the person's secrets, in order of name.
func (c *Client) List(ctx context.Context, o ListOptions) (apitype.Page, error) {
	q := url.Values{}
	if o.Prefix != "" {
		q.Set("prefix", o.Prefix)
	}
	if o.Cursor != "" {
		q.Set("cursor", o.Cursor)
	}
	if o.Limit != 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	return get[apitype.Page](ctx, c, apitype.PathSecrets, q)
}

// Info returns everything known of a secret but its value.
func (c *Client) Info(ctx context.Context, name string) (apitype.Info, error) {
	path, err := secretPath(name)
	if err != nil {
		return apitype.Info{}, err
	}
	return get[apitype.Info](ctx, c, path, nil)
}

// DeleteOptions select what to delete.
type DeleteOptions struct {
	Gen uint64 // only this generation; 0: all
	Now bool   // asks for shredding at once; the holders of this version do not shred yet
}

// Delete deletes a secret. Until every seat has acknowledged the error is a
// problem of type apitype.InDoubt that names the missing ones.
func (c *Client) Delete(ctx context.Context, name string, o DeleteOptions) (apitype.DeleteResult, error) {
	path, err := secretPath(name)
	if err != nil {
		return apitype.DeleteResult{}, err
	}
	q := url.Values{}
	if o.Gen != 0 {
		q.Set("gen", strconv.FormatUint(o.Gen, 10))
	}
	if o.Now {
		q.Set("now", "true")
	}
	var out apitype.DeleteResult
	if _, err := c.do(ctx, call{method: http.MethodDelete, path: path, query: q, write: true}, &out); err != nil {
		return apitype.DeleteResult{}, err
	}
	return out, nil
}

// Status returns how node, mesh and the person's secrets stand.
func (c *Client) Status(ctx context.Context) (apitype.Status, error) {
	return get[apitype.Status](ctx, c, apitype.PathStatus, nil)
}

// Peers returns the roster, this node included.
func (c *Client) Peers(ctx context.Context) ([]apitype.Peer, error) {
	out, err := get[apitype.Peers](ctx, c, apitype.PathPeers, nil)
	return out.Items, err
}

// Invite makes a ticket that admits one node.
func (c *Client) Invite(ctx context.Context, r apitype.InviteRequest) (apitype.Invite, error) {
	var out apitype.Invite
	if err := c.post(ctx, apitype.PathInvites, r, &out, true); err != nil {
		return apitype.Invite{}, err
	}
	return out, nil
}

// Version returns the node's version.
func (c *Client) Version(ctx context.Context) (apitype.Version, error) {
	return get[apitype.Version](ctx, c, apitype.PathVersion, nil)
}

// Healthy returns nil when the node's process serves.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.do(ctx, call{method: http.MethodGet, path: apitype.PathHealthz}, nil)
	return err
}

// Ready returns nil when enough holders for the default policy are reachable.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.do(ctx, call{method: http.MethodGet, path: apitype.PathReadyz}, nil)
	return err
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var out, zero T
	if _, err := c.do(ctx, call{method: http.MethodGet, path: path, query: q, limit: apitype.MaxAnswer}, &out); err != nil {
		return zero, err
	}
	return out, nil
}

func (c *Client) post(ctx context.Context, path string, in, out any, write bool) error {
	body, err := json.Marshal(in)
	if err != nil {
		return errors.New("the request cannot be encoded")
	}
	_, err = c.do(ctx, call{method: http.MethodPost, path: path, body: body, write: write}, out)
	return err
}

// secretPath makes one path segment of a name. Whether the name is acceptable
// is the node's to say; only what cannot be sent is refused here.
func secretPath(name string) (string, error) {
	switch {
	case name == "":
		return "", apitype.NewProblem(apitype.Invalid, "the name is empty")
	case len(name) > apitype.MaxName:
		return "", apitype.NewProblem(apitype.Invalid, "the name has %d bytes; at most %d are possible", len(name), apitype.MaxName)
	}
	return apitype.PathSecrets + "/" + escape(name), nil
}

// escape is url.PathEscape, with the names "." and ".." escaped as well: they
// are refused, but not rewritten on the way.
func escape(name string) string {
	if name == "." || name == ".." {
		return "%2E" + map[bool]string{true: "%2E"}[name == ".."]
	}
	return url.PathEscape(name)
}
