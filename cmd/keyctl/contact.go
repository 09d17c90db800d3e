package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const contactLong = `A contact is a name of your own for a person's key: policies, requests and
secrets are shown with it, and policies are written with it. Names are kept by
the node, for the person that acts, and go to nobody else.

Compare the eight words with the person, by phone or face to face, before you
rely on a name.`

func (a *app) contactCommand() *cobra.Command {
	verbs := []string{"add", "ls", "rm"}
	cmd := &cobra.Command{
		Use:     "contact",
		GroupID: groupSecrets,
		Short:   "Name the persons whom policies speak of",
		Long:    contactLong,
		Example: "  keyctl contact add ann person-...\n  keyctl contact ls\n  keyctl contact rm ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl contact needs a verb: "+strings.Join(verbs, ", "), "keyctl contact ls")
			}
			return unknownWord("contact verb", args[0], verbs, "keyctl contact ")
		},
	}
	cmd.AddCommand(a.contactAddCommand(), a.contactLsCommand(), a.contactRmCommand())
	return cmd
}

func (a *app) contactAddCommand() *cobra.Command {
	var also bool
	cmd := &cobra.Command{
		Use:               "add NAME PERSON",
		Short:             "Give a person's key a name",
		Example:           "  keyctl contact add ann person-...",
		Args:              exactArgs(2, "keyctl contact add NAME PERSON; keyctl whoami shows a person's key at their node"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.contactAdd(cmd.Context(), apitype.NewContact{Name: args[0], Person: args[1], Also: also})
		},
	}
	cmd.Flags().BoolVar(&also, "also", false, "a second name for somebody who has one")
	return cmd
}

func (a *app) contactAdd(ctx context.Context, n apitype.NewContact) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	c, err := node.AddContact(ctx, n)
	if err != nil {
		return apiError("cannot call somebody "+quoted(n.Name), "keyctl contact add NAME PERSON", err)
	}
	if a.json() {
		return a.printJSON(c)
	}
	a.note("compare these words with %s before you rely on the name", printable(c.Name))
	var b strings.Builder
	fact(&b, "name", "%s", c.Name)
	fact(&b, "person", "%s", c.Person)
	fact(&b, "words", "%s", strings.Join(c.Words, " "))
	return a.print([]byte(b.String()))
}

func (a *app) contactLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ls",
		Short:             "List names, the persons of this node, and those seen in the mesh",
		Example:           "  keyctl contact ls",
		Args:              exactArgs(0, "keyctl contact ls"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.contactLs(cmd.Context()) },
	}
}

func (a *app) contactLs(ctx context.Context) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	items, err := node.Contacts(ctx)
	if err != nil {
		return apiError("cannot list the contacts", "keyctl contact ls", err)
	}
	if a.json() {
		return a.printJSON(apitype.Contacts{Items: append([]apitype.Contact{}, items...)})
	}
	t := newTable("NAME", "KNOWN", "NODES", "PERSON", "WORDS")
	for _, c := range items {
		t.row(dash(c.Name), c.Source, dash(strings.Join(c.Nodes, ",")), c.Person, strings.Join(c.Words, " "))
	}
	return t.writeTo(a)
}

func (a *app) contactRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Short:             "Forget a name",
		Long:              "Rm forgets a name. Policies that were written with it go on to name the person's key.",
		Example:           "  keyctl contact rm ann",
		Args:              exactArgs(1, "keyctl contact rm NAME"),
		ValidArgsFunction: a.completePetname,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.contactRm(cmd.Context(), args[0]) },
	}
}

func (a *app) contactRm(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	c, err := node.RemoveContact(ctx, name)
	if err != nil {
		f := apiError("cannot forget "+quoted(name), "keyctl contact rm NAME", err)
		if fail, ok := f.(*failure); ok && fail.exit == apitype.ExitNotFound {
			fail.hint = "keyctl contact ls shows the names"
		}
		return f
	}
	if a.json() {
		return a.printJSON(c)
	}
	return a.print([]byte(printable(c.Name) + " " + printable(c.Person) + " is forgotten\n"))
}
