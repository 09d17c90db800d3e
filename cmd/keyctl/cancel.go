package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cancel ID",
		GroupID: groupSecrets,
		Short:   "End a request of your own",
		Long: "Cancel ends a request that you made. Its key is destroyed at once, so that nothing opens\n" +
			"what a holder may still release, and the holders are told. ID may be the beginning of one.",
		Example:           "  keyctl pending --mine\n  keyctl cancel 3f9a01c2",
		Args:              exactArgs(1, "keyctl cancel ID; keyctl pending --mine shows the ids"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.cancel(cmd.Context(), args[0]) },
	}
}

func (a *app) cancel(ctx context.Context, id string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	r, err := a.findRequest(ctx, node, "cancel", id)
	if err != nil {
		return err
	}
	if !r.Mine {
		return &failure{exit: apitype.ExitDenied, what: "the request is another person's", hint: "keyctl deny " + short(r.Request) + " says no to it"}
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	if err := node.Cancel(ctx, r.Request); err != nil {
		return writeError("cannot cancel the request", "keyctl cancel "+short(r.Request), err)
	}
	if a.json() {
		return a.printJSON(apitype.Heard{Request: r.Request})
	}
	return a.print(fmt.Appendf(nil, "cancelled: nothing opens what is still released to %s\n", short(r.Request)))
}
