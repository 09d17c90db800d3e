package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

const receiptVerifyLong = `Verify checks the receipt that get --receipt wrote, and says in words what it
proves: which secret, who asked and who approved, and which holders released
their rows at which positions of their audit logs. It ends with 0 when the
receipt is true and of this node's network, and with 7 when it is not.

Nobody is asked: the node that runs here checks it by itself. Where none runs,
"keynode receipt verify FILE" checks the same offline, anywhere.`

func (a *app) receiptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "receipt",
		GroupID: groupSecrets,
		Short:   "Check what the receipt of a recovery proves",
		Example: "  keyctl receipt verify demo-db.receipt",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl receipt needs a verb: verify", "keyctl receipt verify FILE")
			}
			return unknownWord("receipt verb", args[0], []string{"verify"}, "keyctl receipt ")
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "verify FILE",
		Short:   "Check a receipt and say in words what it proves",
		Long:    receiptVerifyLong,
		Example: "  keyctl receipt verify demo-db.receipt",
		Args:    exactArgs(1, "keyctl receipt verify FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.receiptVerify(cmd.Context(), args[0]) },
	})
	return cmd
}

func (a *app) receiptVerify(ctx context.Context, path string) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	raw, err := readLimited(path, apitype.MaxReceipt)
	if err != nil {
		return local("cannot read "+printable(path), err, "name the file that get --receipt wrote")
	}
	if len(raw) == 0 {
		return &failure{exit: apitype.ExitIntegrity, what: printable(path) + " is empty", hint: "name the file that get --receipt wrote"}
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	r, err := node.VerifyReceipt(ctx, raw)
	offline := "keynode receipt verify " + shellWord(path)
	var away *client.Unreachable
	if errors.As(err, &away) {
		return &failure{exit: apitype.ExitUnreachable, what: "cannot check the receipt here", why: printable(err.Error()), hint: "without a node: " + offline}
	}
	if err != nil {
		return apiError("cannot check the receipt", "keyctl receipt verify", err)
	}
	if a.json() {
		if err := a.printJSON(r); err != nil {
			return err
		}
	}
	switch {
	case !r.Valid:
		return &failure{exit: apitype.ExitIntegrity, what: "the receipt proves nothing", why: bounded(r.Why), hint: "ask for the receipt again where it was written"}
	case !r.Here:
		return &failure{exit: apitype.ExitIntegrity, what: "the receipt is of another network, " + printable(r.Network), hint: "ask a node of that network, or see what it says: " + offline}
	case a.json():
		return nil
	}
	var b strings.Builder
	for _, line := range r.Lines() {
		b.WriteString(printable(line) + "\n")
	}
	return a.print([]byte(b.String()))
}

// saveReceipt writes the receipt of a recovery to a new file.
func (a *app) saveReceipt(path string, res apitype.Recovered) error {
	if len(res.Receipt) == 0 {
		return &failure{exit: apitype.ExitIntegrity, what: "no receipt can be made of what the holders sent",
			why: "they kept back words that the recovery rests on", hint: "the secret can be had without --receipt; keynode's log says more"}
	}
	if err := writeNew(path, res.Receipt); err != nil {
		return err
	}
	a.note("receipt written to %s; check it with keyctl receipt verify %s", printable(path), shellWord(path))
	return nil
}
