package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

const refreshLong = `Refresh has the holders of a secret exchange their rows for others of the same
value. No node learns the value, and it does not change. What was stolen of too
few holders before is worth nothing together with what is stolen afterwards.
Kept generations go with it.

It happens by itself about every 30 days. It needs as many holders as a put
does. A holder that is off meanwhile gets its new row when it is back.

With --all every secret of the person is refreshed, one after the other; it ends
with the first exit code that is not 0, after all were tried.`

func (a *app) refreshCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "refresh NAME | --all",
		GroupID:           groupSecrets,
		Short:             "Have holders exchange their rows for others of the same secret",
		Long:              refreshLong,
		Example:           "  keyctl refresh demo/db\n  keyctl refresh --all",
		ValidArgsFunction: a.completeName,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) == 0) && len(args) <= 1 {
				return nil
			}
			return usage("keyctl refresh needs a name, or --all alone", "keyctl refresh NAME")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.refreshAll(cmd.Context())
			}
			return a.refresh(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every secret of the person")
	return cmd
}

// refreshedJSON is the answer of refresh under -o json.
type refreshedJSON struct {
	apitype.Refreshed
	Seats []apitype.Seat `json:"seats"`
}

func (a *app) refresh(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	out, err := a.refreshOne(ctx, node, name)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(out)
	}
	return a.print([]byte(a.refreshLine(out)))
}

func (a *app) refreshOne(ctx context.Context, node *client.Client, name string) (refreshedJSON, error) {
	j, err := a.runJob(ctx, node, name, apitype.JobRefresh, nil)
	if err != nil {
		return refreshedJSON{}, apiError("cannot refresh "+quoted(name), "keyctl refresh "+shellWord(name), err)
	}
	out := refreshedJSON{Seats: j.Seats}
	if err := json.Unmarshal(j.Result, &out.Refreshed); err != nil {
		return refreshedJSON{}, &failure{exit: apitype.ExitNode, what: "the node's answer is no account of a refresh", hint: "keyctl doctor checks the node"}
	}
	for _, b := range out.Dropped {
		a.note("note: the dealing of %s was dropped: %s", nodeName(b.Name, b.Node), bounded(b.Why))
	}
	return out, nil
}

func (a *app) refreshLine(r refreshedJSON) string {
	return fmt.Sprintf("%s generation %d, epoch %d, in force at %d of %d holders\n", printable(r.Name), r.Gen, r.Epoch, r.InForce, r.N)
}

// refreshAll goes through all names. What fails is said at once.
func (a *app) refreshAll(ctx context.Context) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	listing, cancel := a.within(ctx)
	all, err := listAll(listing, node, "")
	cancel()
	if err != nil {
		return apiError("cannot list secrets", "keyctl refresh --all", err)
	}
	var done []refreshedJSON
	var first error
	for _, it := range all.Items {
		out, err := a.refreshOne(ctx, node, it.Name)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			a.note("%s: %s", printable(it.Name), bounded(err.Error()))
			if first == nil {
				first = err
			}
			continue
		}
		done = append(done, out)
		if !a.json() {
			if err := a.print([]byte(a.refreshLine(out))); err != nil {
				return err
			}
		}
	}
	if a.json() {
		if err := a.printJSON(struct {
			Refreshed []refreshedJSON `json:"refreshed"`
		}{append([]refreshedJSON{}, done...)}); err != nil {
			return err
		}
	}
	return first
}
