package client

import (
	"context"
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

// PingPeer measures a round trip from the node to another one, by its id.
func (c *Client) PingPeer(ctx context.Context, id string) (apitype.Ping, error) {
	var out apitype.Ping
	_, err := c.do(ctx, call{method: http.MethodPost, path: apitype.PathPeers + "/" + url.PathEscape(id) + "/ping"}, &out)
	return out, err
}
