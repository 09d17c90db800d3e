package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"keymesh/api/apitype"
)

// StartJob starts a job on a secret; in is the body of the verb, nil for one
// that has none. The job may take as long as ctx lasts, and goes on when the
// caller does not wait: see [Client.WaitJob].
func (c *Client) StartJob(ctx context.Context, name, verb string, in any) (apitype.Job, error) {
	path, err := secretPath(name)
	if err != nil {
		return apitype.Job{}, err
	}
	q := call{method: http.MethodPost, path: path + "/" + verb, job: true}
	if in != nil {
		if q.body, err = json.Marshal(in); err != nil {
			return apitype.Job{}, errors.New("the request cannot be encoded")
		}
	}
	return c.job(ctx, q)
}

// Job returns a job as it stands, after waiting for at most wait for its end.
func (c *Client) Job(ctx context.Context, id string, wait time.Duration) (apitype.Job, error) {
	q := call{method: http.MethodGet, path: apitype.PathJobs + "/" + escape(id), job: true}
	if wait > 0 {
		q.query = url.Values{"wait": {min(wait, apitype.MaxTimeout*time.Second).Round(time.Millisecond).String()}}
	}
	return c.job(ctx, q)
}

func (c *Client) job(ctx context.Context, q call) (apitype.Job, error) {
	var out apitype.Job
	if _, err := c.do(ctx, q, &out); err != nil {
		return apitype.Job{}, err
	}
	if out.ID == "" || out.State == "" {
		return apitype.Job{}, &BadAnswer{Target: c.Target(), Status: http.StatusOK, Why: "it is no job"}
	}
	return out, nil
}

// jobPoll is how long one question about a job lasts.
const jobPoll = 20 * time.Second

// WaitJob waits until a job has ended, or ctx ends. The problem of a job that
// failed is the error.
func (c *Client) WaitJob(ctx context.Context, id string) (apitype.Job, error) {
	for {
		j, err := c.Job(ctx, id, jobPoll)
		switch {
		case err != nil:
			return apitype.Job{}, err
		case j.State == apitype.JobRunning:
			// The node may have no room to wait for one more; it is not asked
			// in a tight loop then.
			if err := nap(ctx, 100*time.Millisecond); err != nil {
				return apitype.Job{}, err
			}
		case j.Problem != nil:
			bound(j.Problem)
			return apitype.Job{}, j.Problem
		default:
			return j, nil
		}
	}
}

func nap(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
