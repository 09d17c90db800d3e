package client

import (
	"context"
	"fmt"
	"net/http"

	"keymesh/api/apitype"
)

// Pending is the error of [Client.Recover] while approvals or delays are missing.
// The same Recover again goes on with the request.
type Pending struct{ apitype.Pending }

func (p *Pending) Error() string {
	if p.Wait > 0 {
		return fmt.Sprintf("a delay has %d s to go", p.Wait)
	}
	return fmt.Sprintf("%d of %d approvals are here", p.Have, p.Need)
}

// ExitCode is 5: approval pending.
func (p *Pending) ExitCode() int { return apitype.ExitQuorum }

// Requests returns the person's own requests and those that wait for the
// person's word, youngest first.
func (c *Client) Requests(ctx context.Context) ([]apitype.Request, error) {
	out, err := get[apitype.Requests](ctx, c, apitype.PathRequests, nil)
	return out.Items, err
}

// Approve signs an approval of exactly this request.
func (c *Client) Approve(ctx context.Context, request, note string) error {
	return c.post(ctx, requestPath(request)+"/approve", apitype.Word{Note: note}, nil, true)
}

// Deny signs a denial of the request.
func (c *Client) Deny(ctx context.Context, request, note string) error {
	return c.post(ctx, requestPath(request)+"/deny", apitype.Word{Note: note}, nil, true)
}

// Cancel ends a request of the person.
func (c *Client) Cancel(ctx context.Context, request string) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: requestPath(request), write: true}, nil)
	return err
}

func requestPath(request string) string { return apitype.PathRequests + "/" + escape(request) }
