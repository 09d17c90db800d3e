package main

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

// maxKit is the longest kit or exported person that is read, in bytes.
const maxKit = 64 << 10

func (a *app) kitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kit",
		GroupID: groupMesh,
		Short:   "Make and check the paper that brings your secrets back",
		Example: "  keyctl kit make --text kit.txt --html kit.html\n  keyctl kit check kit.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl kit needs a verb: make, check, ls, rotate or restore", "keyctl kit make --help")
			}
			return unknownWord("kit verb", args[0], []string{"make", "check", "ls", "rotate", "restore"}, "keyctl kit ")
		},
	}
	cmd.AddCommand(a.kitMakeCommand(), a.kitCheckCommand(), a.kitLsCommand(), a.kitRotateCommand(), a.kitRestoreCommand())
	return cmd
}

type kitFlags struct{ text, html, card, cardText, as string }

const kitMakeLong = `Make writes the recovery kit of a person: what is needed to get at the secrets
when every machine of theirs is lost. On a new machine, keynode restore uses it.

The kit goes to new files of mode 0600, or to standard output. Print it, keep the
paper, and destroy the files. Then make asks whether the paper was checked; once
you confirm, it reads the text file back, and the node forgets the recovery code
and the network's seed. Until then make may be repeated, and nothing is lost when
it is cut short. Without anyone to ask, "kit check FILE --erase" is that step.

A card is for approvers: the same without the recovery code. With its text, one
whom policies name lists what may be recovered (kit ls) and takes it over when the
owner is lost (kit restore).`

func (a *app) kitMakeCommand() *cobra.Command {
	var f kitFlags
	cmd := &cobra.Command{
		Use:               "make",
		Short:             "Write the recovery kit, then have the node forget its code",
		Long:              kitMakeLong,
		Example:           "  keyctl kit make --text kit.txt --html kit.html --card card.html\n  keyctl kit make --html kit.html | lp",
		Args:              exactArgs(0, "keyctl kit make --text FILE --html FILE"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.kitMake(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.text, "text", "", "write the text to the new `FILE`; without it, to standard output")
	fl.StringVar(&f.html, "html", "", "write a printable page with QR codes to the new `FILE`")
	fl.StringVar(&f.card, "card", "", "write an approver's card, as a page, to the new `FILE`")
	fl.StringVar(&f.cardText, "card-text", "", "write the card's text, which kit ls and restore read, to the new `FILE`")
	fl.StringVar(&f.as, "as", "", "the kit of this `PERSON` of the node")
	fl.SortFlags = false
	return cmd
}

// kitJSON is the answer of kit make under -o json: what was made, without it.
type kitJSON struct {
	apitype.Kit
	Files []string `json:"files"`
}

func (a *app) kitMake(ctx context.Context, f kitFlags) error {
	if a.json() && f.text == "" {
		return usage("under -o json the kit goes to a file", "keyctl kit make -o json --text FILE")
	}
	for _, path := range []string{f.text, f.html, f.card, f.cardText} {
		if path == "" {
			continue
		}
		if err := refuseExisting(path); err != nil {
			return err
		}
	}
	kit, err := a.askKit(ctx, f.as, apitype.KitRequest{Act: apitype.KitMake}, "keyctl kit make")
	defer wipeKit(kit)
	if err != nil {
		return err
	}
	out := kitJSON{Kit: kit, Files: []string{}}
	out.Text, out.Page, out.CardText, out.CardPage = nil, nil, nil, nil
	for _, file := range []struct {
		path string
		data apitype.Bytes
	}{{f.text, kit.Text}, {f.html, kit.Page}, {f.card, kit.CardPage}, {f.cardText, kit.CardText}} {
		if file.path == "" {
			continue
		}
		if err := writeNew(file.path, file.data); err != nil {
			return err
		}
		out.Files = append(out.Files, file.path)
		a.note("written: %s", printable(file.path))
	}
	if f.text == "" {
		if err := a.print(kit.Text); err != nil {
			return err
		}
	}
	erased, err := a.kitConfirm(ctx, f, kit)
	if err != nil {
		return err
	}
	if a.json() {
		out.Erased, out.Kept = erased.Erased, erased.Kept
		return a.printJSON(out)
	}
	return nil
}

// kitConfirm asks whether the paper was checked, and then has the node forget
// what is on it. What it sends is the file as it is on disk now. With nobody to
// ask, everything stays.
func (a *app) kitConfirm(ctx context.Context, f kitFlags, kit apitype.Kit) (apitype.Kit, error) {
	later := "the node keeps the recovery code until you have checked the paper: keyctl kit check FILE --erase"
	if !a.mayAsk() || a.opts.yes {
		a.note("%s", later)
		return kit, nil
	}
	const question = "print the kit now, and compare the paper with what is here. Once you confirm, this\nnode forgets the recovery code: the paper is then the only one."
	if err := a.confirm(ctx, question, "checked"); err != nil {
		a.note("%s", later)
		return kit, err
	}
	text := []byte(kit.Text)
	if f.text != "" {
		var err error
		if text, err = readKit(a.stdin, f.text); err != nil {
			return kit, err
		}
		defer clear(text)
	}
	done, err := a.askKit(ctx, f.as, apitype.KitRequest{Act: apitype.KitErase, Text: text}, "keyctl kit check FILE --erase")
	if err != nil {
		return kit, err
	}
	a.note("the node has forgotten: %s", dash(printable(strings.Join(done.Erased, ", "))))
	return done, nil
}

// askKit sends one request about a kit.
func (a *app) askKit(ctx context.Context, as string, r apitype.KitRequest, verb string) (apitype.Kit, error) {
	node, err := a.node()
	if err != nil {
		return apitype.Kit{}, err
	}
	node.As = as
	ctx, cancel := a.within(ctx)
	defer cancel()
	kit, err := node.Kit(ctx, r)
	if err != nil {
		what := map[string]string{apitype.KitMake: "cannot make a kit", apitype.KitCheck: "this is no good kit", apitype.KitErase: "nothing was erased", apitype.KitList: "cannot list what the card leads to", apitype.KitRotate: "cannot make a new code"}[r.Act]
		return apitype.Kit{}, apiError(what, verb, err)
	}
	return kit, nil
}

func wipeKit(k apitype.Kit) {
	for _, b := range []apitype.Bytes{k.Text, k.Page, k.CardText, k.CardPage} {
		clear(b)
	}
}

// readKit reads a kit from a file, or from standard input for "-".
func readKit(stdin io.Reader, path string) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, local("cannot read "+printable(path), err, "name the kit's text file")
		}
		defer func() { _ = f.Close() }() // opened for reading
		stdin = f
	}
	buf := make([]byte, maxKit+1)
	n := 0
	for n < len(buf) {
		m, err := stdin.Read(buf[n:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			clear(buf)
			return nil, local("cannot read "+printable(path), err, "name the kit's text file")
		}
	}
	if n > maxKit || n == 0 {
		clear(buf)
		return nil, usage(printable(path)+" is empty or too long", "name the kit's text file")
	}
	return buf[:n], nil
}

const kitCheckLong = `Check reads the text of a kit or card, from a file or from standard input (-), as
it was typed or scanned from paper, and says what it is. A wrong character is
found, and its line named. Nothing is kept of it.

With --erase the node, having found the kit to be the current one of a person of
its own, forgets the recovery code and the network's seed; the paper is then the
only copy. It asks you to type "checked"; --yes answers for scripts.`

func (a *app) kitCheckCommand() *cobra.Command {
	var erase bool
	cmd := &cobra.Command{
		Use:     "check FILE",
		Short:   "Say whether a kit was copied without a mistake, and whose it is",
		Long:    kitCheckLong,
		Example: "  keyctl kit check kit.txt\n  keyctl kit check - --erase",
		Args:    exactArgs(1, "keyctl kit check FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.kitCheck(cmd.Context(), args[0], erase) },
	}
	cmd.Flags().BoolVar(&erase, "erase", false, "and have the node forget what is on the paper")
	return cmd
}

func (a *app) kitCheck(ctx context.Context, path string, erase bool) error {
	text, err := readKit(a.stdin, path)
	if err != nil {
		return err
	}
	defer clear(text)
	kit, err := a.askKit(ctx, "", apitype.KitRequest{Act: apitype.KitCheck, Text: text}, "keyctl kit check "+shellWord(path))
	if err != nil {
		return err
	}
	if erase {
		if err := a.confirm(ctx, "this node forgets the recovery code: the paper is then the only one.", "checked"); err != nil {
			return err
		}
		kit, err = a.askKit(ctx, "", apitype.KitRequest{Act: apitype.KitErase, Text: text}, "keyctl kit check "+shellWord(path)+" --erase")
		if err != nil {
			return err
		}
	}
	if a.json() {
		return a.printJSON(kit)
	}
	return a.print([]byte(kitWords(kit)))
}

// kitWords describes a kit.
func kitWords(k apitype.Kit) string {
	var b strings.Builder
	fact(&b, "kit", "%s", map[string]string{"kit": "a recovery kit, copied without a mistake", "card": "an approver's card, copied without a mistake"}[k.Kind])
	fact(&b, "for", "%s, called %s", k.Owner, quoted(k.Name))
	fact(&b, "made", "%s", k.Made.UTC().Format(time.DateOnly))
	fact(&b, "network", "%s", k.Network)
	seed := "not in it: a new machine first joins with a ticket"
	if k.Authority {
		seed = "in it: it admits a new machine by itself"
	}
	fact(&b, "seed", "%s", seed)
	for _, n := range k.Nodes {
		fact(&b, "node", "%.13s at %s", n.Node, strings.Join(n.Addrs, ", "))
	}
	if k.Kind == "kit" {
		fact(&b, "current", "%s", map[bool]string{true: "yes, of a person of this node", false: "not of a person of this node, or replaced since"}[k.Current])
	}
	if len(k.Kept) > 0 {
		fact(&b, "still here", "%s; keyctl kit check FILE --erase forgets it", strings.Join(k.Kept, ", "))
	}
	if len(k.Erased) > 0 {
		fact(&b, "forgotten", "%s", strings.Join(k.Erased, ", "))
	}
	return b.String()
}
