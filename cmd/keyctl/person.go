package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const personLong = `A person is a key that owns secrets or approves their release; it is no machine.
A node can act for up to four persons, and a person can live on several nodes:
then losing one machine loses nothing.`

func (a *app) personCommand() *cobra.Command {
	verbs := []string{"ls", "new", "export", "import"}
	cmd := &cobra.Command{
		Use:     "person",
		GroupID: groupMesh,
		Short:   "Show, make and move the persons that this node acts for",
		Long:    personLong,
		Example: "  keyctl person ls\n  keyctl person new anna\n  keyctl person export --out anna.key --as anna",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl person needs a verb: "+strings.Join(verbs, ", "), "keyctl person ls")
			}
			return unknownWord("person verb", args[0], verbs, "keyctl person ")
		},
	}
	cmd.AddCommand(a.personLsCommand(), a.personNewCommand(), a.personExportCommand(), a.personImportCommand())
	return cmd
}

func (a *app) personLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ls",
		Short:             "List the persons of this node",
		Example:           "  keyctl person ls",
		Args:              exactArgs(0, "keyctl person ls"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.personLs(cmd.Context()) },
	}
}

func (a *app) personLs(ctx context.Context) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	persons, err := node.Persons(ctx)
	if err != nil {
		return apiError("cannot list the persons", "keyctl person ls", err)
	}
	if a.json() {
		return a.printJSON(apitype.Persons{Items: append([]apitype.PersonInfo{}, persons...)})
	}
	t := newTable("NAME", "RECOVERY CODE", "PERSON")
	for _, p := range persons {
		t.row(personName(p), personCode(p), p.Person)
	}
	return t.writeTo(a)
}

func personName(p apitype.PersonInfo) string {
	if p.Default {
		return p.Name + " (default)"
	}
	return p.Name
}

// personCode says where the person's recovery code is.
func personCode(p apitype.PersonInfo) string {
	if p.Code {
		return "here: make a kit"
	}
	return "not here"
}

func (a *app) personNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "new NAME",
		Short:             "Make a person, with a recovery code of its own",
		Example:           "  keyctl person new anna",
		Args:              exactArgs(1, "keyctl person new NAME"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.personNew(cmd.Context(), args[0]) },
	}
}

func (a *app) personNew(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	p, err := node.NewPerson(ctx, name)
	if err != nil {
		return apiError("cannot make the person "+quoted(name), "keyctl person new NAME", err)
	}
	return a.showPerson(p)
}

func (a *app) showPerson(p apitype.PersonInfo) error {
	if a.json() {
		return a.printJSON(p)
	}
	if p.Code {
		a.note("their recovery code is on this node: keyctl kit make --as %s", printable(p.Name))
	}
	return a.print(fmt.Appendf(nil, "%s %s\n", printable(p.Name), printable(p.Person)))
}

type exportFlags struct{ out, passphrase, as string }

func (a *app) personExportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export --out FILE",
		Short: "Write a person to a file, sealed under a passphrase",
		Long: "Export writes the key of a person to a new file of mode 0600, sealed under a\npassphrase, for another node to import. Whoever has both is that person. The\nrecovery code is not in it: it stays on this node until kit make prints it.\n\n" +
			"The passphrase is asked for twice, or is the first line of --passphrase-file.",
		Example:           "  keyctl person export --out anna.key --as anna",
		Args:              exactArgs(0, "keyctl person export --out FILE"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.personExport(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.out, "out", "", "the new `FILE`")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "`FILE` with the passphrase")
	cmd.Flags().StringVar(&f.as, "as", "", "which `PERSON` (default: who acts when nobody is named)")
	return cmd
}

func (a *app) personExport(ctx context.Context, f exportFlags) error {
	if f.out == "" {
		return usage("an exported person goes to a file", "keyctl person export --out FILE")
	}
	if err := refuseExisting(f.out); err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	pass, err := a.passphrase(ctx, f.passphrase)
	if err != nil {
		return err
	}
	defer clear(pass)
	ctx, cancel := a.within(ctx)
	defer cancel()
	file, err := node.ExportPerson(ctx, apitype.PersonExport{Name: f.as, Passphrase: pass})
	if err != nil {
		return apiError("cannot export the person", "keyctl person export --out FILE", err)
	}
	defer clear(file.File)
	if err := writeNew(f.out, file.File); err != nil {
		return err
	}
	a.note("on the other node: keyctl person import %s", shellWord(f.out))
	return a.showPerson(apitype.PersonInfo{Name: file.Name, Person: file.Person})
}

func (a *app) personImportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Take in a person that another node exported",
		Example: "  keyctl person import anna.key --as anna",
		Args:    exactArgs(1, "keyctl person import FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.personImport(cmd.Context(), args[0], f) },
	}
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "`FILE` with the passphrase")
	cmd.Flags().StringVar(&f.as, "as", "", "the `NAME` on this node (default: the name in the file)")
	return cmd
}

func (a *app) personImport(ctx context.Context, path string, f exportFlags) error {
	file, err := readKit(a.stdin, path)
	if err != nil {
		return err
	}
	defer clear(file)
	node, err := a.node()
	if err != nil {
		return err
	}
	pass, err := a.passphrase(ctx, f.passphrase)
	if err != nil {
		return err
	}
	defer clear(pass)
	ctx, cancel := a.within(ctx)
	defer cancel()
	p, err := node.ImportPerson(ctx, apitype.PersonImport{File: file, Passphrase: pass, Name: f.as})
	if err != nil {
		return apiError("cannot import the person", "keyctl person import FILE", err)
	}
	return a.showPerson(p)
}

// passphrase is the first line of a file, or is asked for.
func (a *app) passphrase(ctx context.Context, path string) ([]byte, error) {
	if path == "" {
		if !a.mayAsk() {
			return nil, usage("a passphrase is needed, and there is nobody to ask", "put it into a private file and add --passphrase-file FILE")
		}
		return a.askSecret(ctx, "passphrase")
	}
	b, err := readKit(a.stdin, path)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return bytes.TrimRight(line, "\r"), nil
}
