package main

import (
	"context"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// runJob starts a job on a secret and waits for its end. in is the body of the
// verb, nil for one that has none. An interruption leaves the job to the node,
// which ends it by --timeout.
func (a *app) runJob(ctx context.Context, node *client.Client, name, verb string, in any) (apitype.Job, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	j, err := node.StartJob(ctx, name, verb, in)
	if err != nil {
		return apitype.Job{}, err
	}
	return node.WaitJob(ctx, j.ID)
}
