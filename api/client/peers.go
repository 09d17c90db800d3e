package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"keymesh/api/apitype"
)

// RemovePeer takes membership away from a node, by its id, for ever.
func (c *Client) RemovePeer(ctx context.Context, id string) (apitype.Removed, error) {
	var out apitype.Removed
	_, err := c.do(ctx, call{method: http.MethodDelete, path: apitype.PathPeers + "/" + url.PathEscape(id), write: true}, &out)
	return out, err
}

// StartDrain starts the job that moves the person's seats away from a node, by
// its id; [Client.Job] shows its progress.
func (c *Client) StartDrain(ctx context.Context, id string) (apitype.Job, error) {
	return c.job(ctx, call{method: http.MethodPost, path: apitype.PathPeers + "/" + url.PathEscape(id) + "/" + apitype.JobDrain, job: true})
}

// StartReplace starts the job that moves the person's seats from one node to
// another, by their ids.
func (c *Client) StartReplace(ctx context.Context, id, by string) (apitype.Job, error) {
	body, err := json.Marshal(apitype.ReplaceRequest{New: by})
	if err != nil {
		return apitype.Job{}, err
	}
	return c.job(ctx, call{method: http.MethodPost, path: apitype.PathPeers + "/" + url.PathEscape(id) + "/" + apitype.JobReplace, body: body, job: true})
}

// Undrain lets a node, by its id, have seats again.
func (c *Client) Undrain(ctx context.Context, id string) (apitype.Undrained, error) {
	var out apitype.Undrained
	_, err := c.do(ctx, call{method: http.MethodDelete, path: apitype.PathPeers + "/" + url.PathEscape(id) + "/" + apitype.JobDrain}, &out)
	return out, err
}

// PingPeer measures a round trip from the node to another one, by its id.
func (c *Client) PingPeer(ctx context.Context, id string) (apitype.Ping, error) {
	var out apitype.Ping
	_, err := c.do(ctx, call{method: http.MethodPost, path: apitype.PathPeers + "/" + url.PathEscape(id) + "/ping"}, &out)
	return out, err
}
