package main

import (
	"context"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const kitRotateLong = `Rotate gives a person a new recovery code: for a kit that was lost, or seen by
somebody. The node then stores every secret whose policy names the old code again,
under one that names the new code; keyctl status says how far it is. Until that is
done the old kit still opens what has not been stored again.

Keep the old paper, if there is one, for the network's seed: a node that has
forgotten it makes kits without.

Make a kit right away: the new code lies on this node until then. Where the person
lives on other nodes too, bring them there again (person export, person import):
until then these name the old code in what they store.`

func (a *app) kitRotateCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:               "rotate",
		Short:             "Replace a recovery code by a new one",
		Long:              kitRotateLong,
		Example:           "  keyctl kit rotate",
		Args:              exactArgs(0, "keyctl kit rotate"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.kitRotate(cmd.Context(), as) },
	}
	cmd.Flags().StringVar(&as, "as", "", "the code of this `PERSON` of the node")
	return cmd
}

func (a *app) kitRotate(ctx context.Context, as string) error {
	if err := a.confirm(ctx, "the kit that was printed will open nothing any more.", "rotate"); err != nil {
		return err
	}
	kit, err := a.askKit(ctx, as, apitype.KitRequest{Act: apitype.KitRotate}, "keyctl kit rotate")
	if err != nil {
		return err
	}
	a.note("a new kit: keyctl kit make; how far the secrets are: keyctl status")
	if a.json() {
		return a.printJSON(kit)
	}
	return a.print([]byte("the new recovery code of " + printable(kit.Name) + " is on this node; its secrets are being stored again\n"))
}
