package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const reshareLong = `Reshare deals a secret anew, as its next generation: to another number of
holders, another threshold, or other holders. The node recovers the value under
its policy, deals it with a new key, and the rows of the generation before are
worth nothing for the new one. Policy, labels, time to live and kept generations
stay. What is not given stays as it is; with --to alone the holders change.

A value that is written meanwhile is not undone: reshare then ends with 9.`

type reshareFlags struct {
	n, k, w          int
	to               []string
	fresh, colocated bool
}

func (a *app) reshareCommand() *cobra.Command {
	var f reshareFlags
	cmd := &cobra.Command{
		Use:               "reshare NAME -n N -k K",
		GroupID:           groupSecrets,
		Short:             "Deal a secret to another shape or other holders",
		Long:              reshareLong,
		Example:           "  keyctl reshare demo/db -n 7 -k 4\n  keyctl reshare demo/db --to alpha,bravo,charlie -n 3 -k 2",
		Args:              exactArgs(1, "keyctl reshare NAME -n N -k K"),
		ValidArgsFunction: a.completeName,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.reshare(cmd.Context(), args[0], f) },
	}
	fl := cmd.Flags()
	fl.IntVarP(&f.n, "seats", "n", 0, "number of holders; needs -k (default: as it is)")
	fl.IntVarP(&f.k, "threshold", "k", 0, "how many of them bring the secret back")
	fl.IntVarP(&f.w, "write-quorum", "w", 0, "on how many disks it must be before reshare returns")
	fl.StringSliceVar(&f.to, "to", nil, "`NODE,...` to hold it, instead of placement")
	fl.BoolVar(&f.fresh, "new", false, "go on although silent holders might have a newer one")
	fl.BoolVar(&f.colocated, "allow-colocated", false, "allow several seats in one operator's or zone's hands")
	fl.SortFlags = false
	_ = cmd.RegisterFlagCompletionFunc("to", a.completePeer) // the flag exists
	return cmd
}

func (a *app) reshare(ctx context.Context, name string, f reshareFlags) error {
	verb := "keyctl reshare " + shellWord(name)
	switch {
	case f.n < 0 || f.k < 0 || f.w < 0:
		return usage("-n, -k and -w are not negative", verb+" -n 5 -k 3")
	case f.n != 0 && f.k == 0:
		return usage("-n without -k: say how many of the holders are to suffice", fmt.Sprintf("%s -n %d -k %d", verb, f.n, f.n/2+1))
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	j, err := a.runJob(ctx, node, name, apitype.JobReshare, apitype.ReshareRequest{N: f.n, K: f.k, W: f.w, Holders: f.to, New: f.fresh, AllowColocated: f.colocated})
	if err != nil {
		return writeError("cannot reshare "+quoted(name), verb, err)
	}
	var res apitype.PutResult
	if err := json.Unmarshal(j.Result, &res); err != nil {
		return &failure{exit: apitype.ExitNode, what: "the node's answer is no account of a put", hint: "keyctl doctor checks the node"}
	}
	a.putProgress(res)
	for _, n := range res.Notes {
		a.note("note: %s", printable(n))
	}
	if a.json() {
		return a.printJSON(res)
	}
	return a.print(fmt.Appendf(nil, "%s generation %d, %d-of-%d, on disk at %d of %d holders\n", printable(name), res.Gen, res.K, res.N, res.Acked, res.N))
}
