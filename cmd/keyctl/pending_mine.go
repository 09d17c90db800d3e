package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// pendingMine lists the person's own requests with what the holders say of
// them now.
func (a *app) pendingMine(ctx context.Context, node *client.Client, all []apitype.Request) error {
	items := []apitype.Request{}
	for _, r := range all {
		if !r.Mine {
			continue
		}
		if fresh, err := node.Request(ctx, r.Request, 0, ""); err == nil && r.State == "open" {
			r = fresh
		}
		items = append(items, r)
	}
	if a.json() {
		return a.printJSON(apitype.Requests{Items: items})
	}
	t := newTable("ID", "STATE", "SECRET", "APPROVALS", "MISSING", "DELAY", "EXPIRES")
	for _, r := range items {
		missing, state := dash(bounded(strings.Join(r.Missing, "; "))), r.State
		if r.Ready {
			missing, state = "nothing: get it", "ready"
		}
		delay := "-"
		if r.Wait > 0 {
			delay = (time.Duration(r.Wait) * time.Second).String()
		}
		t.row(short(r.Request), state, dash(r.Name), fmt.Sprintf("%d of %d", r.Have, r.Need), missing, delay, when(r.Expires, "-"))
	}
	return t.writeTo(a)
}
