package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const kitLsLong = `Ls lists what you may recover of the owner of an approver's card or kit: the
secrets whose policies name you, with the id and tag that get --id takes. Nobody
is asked for anything. To take all of them over, see keyctl kit restore.`

func (a *app) kitLsCommand() *cobra.Command {
	as := ""
	cmd := &cobra.Command{
		Use:     "ls FILE",
		Short:   "List what you may recover of another person, by a card",
		Long:    kitLsLong,
		Example: "  keyctl kit ls card.txt\n  keyctl get web/db --id ID --tag TAG --reason \"she is ill\" --wait 10m",
		Args:    exactArgs(1, "keyctl kit ls FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.kitLs(cmd.Context(), args[0], as) },
	}
	cmd.Flags().StringVar(&as, "as", "", "what this `PERSON` of the node may recover")
	return cmd
}

func (a *app) kitLs(ctx context.Context, path, as string) error {
	text, err := readKit(a.stdin, path)
	if err != nil {
		return err
	}
	defer clear(text)
	kit, err := a.askKit(ctx, as, apitype.KitRequest{Act: apitype.KitList, Text: text}, "keyctl kit ls "+shellWord(path))
	if err != nil {
		return err
	}
	if kit.Silent > 0 {
		a.note("warning: %s did not answer; the list may be incomplete", plural(kit.Silent, "holder"))
	}
	if a.json() {
		return a.printJSON(kit)
	}
	t := newTable("NAME", "GEN", "ID", "TAG", "POLICY")
	for _, s := range kit.Secrets {
		t.row(s.Name, fmt.Sprint(s.Gen), s.ID, s.Tag, bounded(s.Policy))
	}
	return t.writeTo(a)
}
