package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

type rmFlags struct {
	gen      uint64
	all, now bool
}

const rmLong = `Rm deletes a secret, all of its generations or one, at all of its holders. It asks
you to type the name; --yes answers for scripts.

Without its latest generation a secret is shown nowhere, though earlier ones that
were kept are still there: get --gen reads them.

It is done when every holder has acknowledged. Until then rm exits 12 and names
those that have not; they are told as soon as they return. Backups that were
made earlier are out of its reach.`

func (a *app) rmCommand() *cobra.Command {
	var f rmFlags
	cmd := &cobra.Command{
		Use:               "rm NAME",
		GroupID:           groupSecrets,
		Short:             "Delete a secret at all holders",
		Long:              rmLong,
		Example:           "  keyctl rm demo/db\n  keyctl rm demo/db --gen 3 --yes\n  keyctl rm demo/db --now",
		Args:              exactArgs(1, "keyctl rm NAME"),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("gen") && f.gen == 0 {
				return usage("generations count from 1", "keyctl info "+shellWord(args[0])+" shows them")
			}
			if f.gen != 0 && f.all {
				return usage("--gen and --all exclude each other", "use one of the two")
			}
			return a.rm(cmd.Context(), args[0], f)
		},
	}
	cmd.Flags().Uint64Var(&f.gen, "gen", 0, "only generation `G`")
	cmd.Flags().BoolVar(&f.all, "all", false, "every generation (default)")
	cmd.Flags().BoolVar(&f.now, "now", false, "also ask for shredding at once; the holders of this version stop serving it and do not shred yet")
	return cmd
}

func (a *app) rm(ctx context.Context, name string, f rmFlags) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	what := "every generation of " + quoted(name)
	retry := "keyctl rm " + shellWord(name)
	if f.gen != 0 {
		what = fmt.Sprintf("generation %d of %s", f.gen, quoted(name))
		retry += fmt.Sprintf(" --gen %d", f.gen)
		a.warnOlder(ctx, node, name, f.gen)
	}
	if err := a.confirm(ctx, "this deletes "+what+" at all holders, for good.", name); err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	res, err := node.Delete(ctx, name, client.DeleteOptions{Gen: f.gen, Now: f.now})
	if err != nil {
		return writeError("cannot delete "+quoted(name), retry, err)
	}
	if a.chatty() {
		for _, s := range res.Seats {
			a.note("%s: %s", nodeName(s.Name, s.Node), printable(s.State))
		}
	}
	if !res.Done {
		return undone(name, retry, res)
	}
	if a.json() {
		return a.printJSON(res)
	}
	gone := fmt.Sprintf("every generation up to %d", res.Gen)
	if f.gen != 0 {
		gone = fmt.Sprintf("generation %d", res.Gen)
	}
	return a.print(fmt.Appendf(nil, "%s: %s deleted at all %s\n", printable(name), gone, plural(len(res.Seats), "holder")))
}

// warnOlder says that without the latest generation the older ones are hidden.
// What is not known now is not worth an error.
func (a *app) warnOlder(ctx context.Context, node *client.Client, name string, gen uint64) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	in, err := node.Info(ctx, name)
	if err != nil || in.Gen != gen || len(in.Generations) < 2 {
		return
	}
	older := slices.DeleteFunc(slices.Clone(in.Generations), func(g uint64) bool { return g == gen })
	a.note("warning: generation %d is the latest; without it ls and info show nothing of the secret, and only get --gen reads what is kept (%s)", gen, numbers(older))
}

// undone is a deletion that some holders have yet to hear of.
func undone(name, retry string, res apitype.DeleteResult) error {
	var missing []string
	for _, s := range res.Seats {
		if s.State != "deleted" && s.State != "committed" {
			missing = append(missing, fmt.Sprintf("%s: %s", nodeName(s.Name, s.Node), printable(s.State)))
		}
	}
	return &failure{exit: apitype.ExitInDoubt, what: "the deletion of " + quoted(name) + " is not complete",
		why: strings.TrimSpace(plural(len(missing), "holder") + " have not acknowledged it"), details: missing,
		hint: "they are told when they return; a retry asks again: " + retry}
}
