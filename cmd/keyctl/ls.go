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

const lsLong = `Ls lists the names of your secrets, one a line, in order; never a value.

The listing is put together from what the holders say. When holders that might
know more are silent, standard error says so and names them.`

func (a *app) lsCommand() *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:               "ls [PREFIX]",
		GroupID:           groupSecrets,
		Short:             "List names",
		Long:              lsLong,
		Example:           "  keyctl ls\n  keyctl ls demo/ --long\n  keyctl ls -o json | jq -r '.items[].name'",
		Args:              rangeArgs(0, 1, "keyctl ls [PREFIX]"),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ls(cmd.Context(), strings.Join(args, ""), long)
		},
	}
	cmd.Flags().BoolVar(&long, "long", false, "generation, k of n, holders, margin, when last verified and read here, size, expiry")
	return cmd
}

// listJSON is the answer of ls: every page in one.
type listJSON struct {
	Items []apitype.Listed `json:"items"`
	// Silent are the holders that did not answer: the listing may lack names.
	Silent []string `json:"silent,omitempty"`
}

func (a *app) ls(ctx context.Context, prefix string, long bool) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	list, err := listAll(ctx, node, prefix)
	if err != nil {
		return apiError("cannot list secrets", "keyctl ls", err)
	}
	if a.json() {
		err = a.printJSON(list)
	} else {
		err = a.print([]byte(listText(list.Items, long)))
	}
	if err != nil {
		return err
	}
	if len(list.Silent) > 0 {
		a.note("warning: the listing may be incomplete, since %s did not answer: %s",
			plural(len(list.Silent), "holder"), strings.Join(a.peerNames(ctx, node, list.Silent), ", "))
	}
	return nil
}

// listAll follows the cursors to the end. A cursor that does not move on is an
// error of the node, and not a reason to ask for ever.
func listAll(ctx context.Context, node *client.Client, prefix string) (listJSON, error) {
	out := listJSON{Items: []apitype.Listed{}}
	seen := map[string]bool{}
	for o := (client.ListOptions{Prefix: prefix, Limit: apitype.MaxPage}); ; {
		page, err := node.List(ctx, o)
		if err != nil {
			return listJSON{}, err
		}
		out.Items = append(out.Items, page.Items...)
		for _, s := range page.Silent {
			if !slices.Contains(out.Silent, s) {
				out.Silent = append(out.Silent, s)
			}
		}
		if page.Next == "" {
			return out, nil
		}
		if seen[page.Next] {
			return listJSON{}, apitype.NewProblem(apitype.Internal, "the node's listing goes round in circles")
		}
		seen[page.Next] = true
		o.Cursor = page.Next
	}
}

func listText(items []apitype.Listed, long bool) string {
	if !long {
		var b strings.Builder
		for _, it := range items {
			b.WriteString(printable(it.Name))
			b.WriteByte('\n')
		}
		return b.String()
	}
	t := newTable("NAME", "GEN", "K OF N", "HOLDERS", "MARGIN", "VERIFIED", "READ", "SIZE", "CREATED", "EXPIRES")
	for _, it := range items {
		t.row(it.Name, fmt.Sprint(it.Gen), fmt.Sprintf("%d of %d", it.K, it.N), fmt.Sprintf("%d/%d", it.Acked, it.N),
			fmt.Sprint(it.Margin), when(it.LastVerified, "never"), when(it.LastRead, "never"), fmt.Sprint(it.Size), when(it.Created, "-"), when(it.Expires, "never"))
	}
	return t.text()
}

// peerNames returns the names of nodes for a warning, or their ids when the
// roster cannot be had.
func (a *app) peerNames(ctx context.Context, node *client.Client, ids []string) []string {
	peers, err := node.Peers(ctx)
	if err != nil {
		peers = nil // the ids will do
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = printable(id)
		for _, p := range peers {
			if p.Node == id {
				out[i] = nodeName(p.Name, p.Node)
			}
		}
	}
	return out
}
