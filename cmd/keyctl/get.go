package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

type getFlags struct {
	gen              uint64
	manifest, reason string
	out, receipt     string
	id, tag          string
	reveal           bool
	wait             time.Duration
}

const getLong = `Get recovers a secret and writes exactly its bytes to standard output, without a
line end of its own. On a terminal it does so only with --reveal.

--out writes a new file with mode 0600, whole or not at all, and never over one
that exists. Holders whose rows were bad are named on standard error; the
secret is right all the same, since a wrong one cannot pass.

--wait shows on standard error who approves, as it happens, and what is missing
still. --receipt writes a new file that proves to anybody who asked, who
approved and which holders released; keyctl receipt verify reads it.

--id recovers what another person owns and the policy lets you recover: by the
secret's id, which the owner's info, a request or a receipt tells. NAME
is then optional, and with --tag it is told to the other approvers, proven.`

const getExample = `  keyctl get demo/db | psql-login
  keyctl get demo/db --reveal
  keyctl get ca/root-key --out root.pem
  keyctl get demo/db --gen 3
  keyctl get demo/db --wait 10m --receipt demo-db.receipt | psql-login`

func (a *app) getCommand() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:               "get NAME",
		GroupID:           groupSecrets,
		Short:             "Recover a value",
		Long:              getLong,
		Example:           getExample,
		Args:              rangeArgs(0, 1, "keyctl get NAME"),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.get(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	fl := cmd.Flags()
	fl.Uint64Var(&f.gen, "gen", 0, "generation `G` instead of the latest")
	fl.StringVar(&f.manifest, "manifest", "", "the one of a fork with manifest `H`")
	fl.BoolVar(&f.reveal, "reveal", false, "show it on the terminal")
	fl.StringVar(&f.out, "out", "", "write it to a new `FILE`, mode 0600")
	fl.StringVar(&f.receipt, "receipt", "", "write the proof of the recovery to a new `FILE`, mode 0600")
	fl.StringVar(&f.id, "id", "", "`ID` of a secret that another person owns")
	fl.StringVar(&f.tag, "tag", "", "`TAG` that belongs to NAME, with --id")
	fl.StringVar(&f.reason, "reason", "", "`TEXT` for those who are asked and for the audit log")
	fl.DurationVar(&f.wait, "wait", 0, "wait for `SPAN`, such as 10m, for approvals and delays, and show them")
	fl.SortFlags = false
	return cmd
}

func (a *app) get(ctx context.Context, name string, f getFlags) error {
	if err := a.checkGet(name, f); err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	w := &waiter{a: a, watch: node}
	res, err := awaitPending(ctx, w, f.wait, func(ctx context.Context) (apitype.Recovered, error) {
		ctx, cancel := a.within(ctx)
		defer cancel()
		if f.id != "" {
			return node.Ask(ctx, apitype.Ask{ID: f.id, Name: name, Tag: f.tag, Gen: f.gen, Manifest: f.manifest, Reason: f.reason})
		}
		return node.Recover(ctx, name, apitype.RecoverRequest{Gen: f.gen, Manifest: f.manifest, Reason: f.reason})
	})
	what, again := quoted(name), "keyctl get "+shellWord(name)
	if f.id != "" {
		what, again = "the secret with id "+short(f.id), "keyctl get --id "+shellWord(f.id)
	}
	var pend *client.Pending
	if errors.As(err, &pend) {
		line, delay := pendingLine(pend.Have, pend.Need, pend.Missing, pend.Wait)
		return &failure{exit: apitype.ExitQuorum, what: "cannot recover " + what + " yet", why: printable(pend.Error()),
			details: []string{printable(line + delay)}, hint: "the request goes on until " + when(pend.Expires, "it ends") + ": " + again + " --wait 10m"}
	}
	if err != nil {
		return apiError("cannot recover "+what, again, err)
	}
	defer clear(res.Value)
	for _, b := range res.Bad {
		a.note("warning: %s gave a bad row, which was not used: %s", nodeName(b.Name, b.Node), bounded(b.Why))
	}
	if f.wait > 0 {
		w.words(res.Said) // what came after the last look
	}
	if f.receipt != "" {
		if err := a.saveReceipt(f.receipt, res); err != nil {
			return err
		}
	}
	return a.deliver(res, f)
}

// checkGet refuses what would be refused after the secret was recovered, before
// anything is asked: a recovery leaves entries in every holder's audit log.
func (a *app) checkGet(name string, f getFlags) error {
	if f.manifest != "" && !isHash(f.manifest) {
		return usage("--manifest takes 64 hexadecimal digits", "the answer that reported the fork names both")
	}
	switch {
	case f.id == "" && name == "":
		return usage("keyctl get needs more arguments", "keyctl get NAME")
	case f.id == "" && f.tag != "":
		return usage("--tag goes with --id", "keyctl get NAME --id ID --tag TAG")
	case f.id != "" && (name == "") != (f.tag == ""):
		return usage("NAME and --tag go together: neither proves anything alone", "keyctl get NAME --id ID --tag TAG")
	case f.id != "" && !isHash(f.id), f.tag != "" && !isHash(f.tag):
		return usage("--id and --tag take 64 hexadecimal digits", "keyctl get --id ID")
	case f.receipt != "" && f.receipt == f.out:
		return usage("--receipt and --out name the same file", "use two names")
	}
	if f.receipt != "" {
		if err := refuseExisting(f.receipt); err != nil {
			return err
		}
	}
	if f.out != "" && f.reveal {
		return usage("--reveal and --out exclude each other", "use one of the two")
	}
	if f.out != "" {
		return refuseExisting(f.out)
	}
	if isTerminal(a.stdout) && !f.reveal {
		word := shellWord(name)
		return usage("standard output is a terminal, and a secret is shown there only on demand",
			fmt.Sprintf("keyctl get %s --reveal, or --out FILE, or pipe it on", word))
	}
	return nil
}

// deliver hands the secret over where it was wanted.
func (a *app) deliver(res apitype.Recovered, f getFlags) error {
	if f.out != "" {
		if err := writeNew(f.out, res.Value); err != nil {
			return err
		}
		size := len(res.Value)
		if a.json() {
			return a.printJSON(savedJSON{Name: res.Name, ID: res.ID, Manifest: res.Manifest, Gen: res.Gen, Size: size, File: f.out, Used: res.Used, Bad: res.Bad})
		}
		a.note("%s written to %s", plural(size, "byte"), printable(f.out))
		return nil
	}
	if !a.json() {
		return a.reveal(res.Value)
	}
	line, err := apitype.EncodeRecovered(res)
	if err != nil {
		return err
	}
	defer clear(line)
	line = append(line, '\n')
	return a.print(line)
}

// savedJSON is the answer of get --out under -o json: everything but the value.
type savedJSON struct {
	Name     string        `json:"name"`
	ID       string        `json:"id"`
	Manifest string        `json:"manifest,omitempty"`
	Gen      uint64        `json:"gen"`
	Size     int           `json:"size"`
	File     string        `json:"file"`
	Used     []string      `json:"used"`
	Bad      []apitype.Bad `json:"bad"`
}

// reveal writes the value. On a terminal a line end follows on standard error,
// so that the prompt does not stand behind the secret.
func (a *app) reveal(value []byte) error {
	if err := a.print(value); err != nil {
		return err
	}
	if isTerminal(a.stdout) && isTerminal(a.stderr) && (len(value) == 0 || value[len(value)-1] != '\n') {
		fmt.Fprintln(a.stderr)
	}
	return nil
}

// isHash reports whether s is a SHA-256 hash in lower-case hexadecimal.
func isHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
