package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

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

// Request returns one of these requests. Of the person's own, the node asks the
// holders how it stands. It waits for at most wait until the request is another
// than the version that the caller has seen; "": than it is now.
func (c *Client) Request(ctx context.Context, request string, wait time.Duration, seen string) (apitype.Request, error) {
	q := url.Values{}
	if wait > 0 {
		q.Set("wait", min(wait, apitype.MaxTimeout*time.Second).Round(time.Millisecond).String())
	}
	if seen != "" {
		q.Set("seen", seen)
	}
	return get[apitype.Request](ctx, c, requestPath(request), q)
}

// Ask recovers a secret by its id, as [Client.Recover] does by its name. The
// caller zeroes the Value after use.
func (c *Client) Ask(ctx context.Context, r apitype.Ask) (apitype.Recovered, error) {
	var out apitype.Recovered
	if err := c.post(ctx, apitype.PathRequests, r, &out, false); err != nil {
		clear(out.Value)
		return apitype.Recovered{}, err
	}
	if out.Value == nil {
		return apitype.Recovered{}, &BadAnswer{Target: c.Target(), Status: http.StatusOK, Why: "it holds no value"}
	}
	return out, nil
}

// VerifyReceipt has the node say what a receipt proves; nobody is asked.
func (c *Client) VerifyReceipt(ctx context.Context, receipt []byte) (apitype.Receipt, error) {
	var out apitype.Receipt
	if err := c.post(ctx, apitype.PathReceiptVerify, apitype.ReceiptRequest{Receipt: receipt}, &out, false); err != nil {
		return apitype.Receipt{}, err
	}
	return out, nil
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
