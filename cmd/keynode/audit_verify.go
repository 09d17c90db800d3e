package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"keymesh/storage"
)

func auditVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "check an exported audit log, without a node", Args: cobra.ExactArgs(1),
		Long: "Checks what \"keyctl audit export\" wrote at any node, needing no key and no node: that every entry is there,\nin order and unchanged, up to the end that the node signed, and that it bears out the heads that peers hold.\nFILE is - for standard input. It exits 7 when something is wrong.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return verifyExport(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func verifyExport(path string, in io.Reader, out io.Writer) error {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("reading the export: %w", err)
		}
		defer f.Close()
		in = f
	}
	rep, err := storage.VerifyExport(in)
	if err != nil {
		return &integrityError{err}
	}
	signed := "without the node's signature: it shows its order and not whose it is"
	if rep.Signed > 0 {
		signed = "signed " + time.Unix(int64(min(rep.Signed, 1<<40)), 0).UTC().Format(time.DateTime)
	}
	_, err = fmt.Fprintf(out, "node     %s\nnetwork  %s\nentries  %d, in order, %s\nhead     %s\nheads    %d of this node agree\n", rep.Node, rep.Network, rep.Seq, signed, rep.Hash, rep.Heads)
	return err
}

// integrityError is what is wrong with an export: exit code 7.
type integrityError struct{ err error }

func (e *integrityError) Error() string { return "the export is not in order: " + e.err.Error() }

// Unwrap returns what is wrong.
func (e *integrityError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *integrityError) Hint() string {
	if errors.Is(e.err, storage.ErrRewritten) {
		return "the log was cut or rewritten; the heads in the export, which the node signed, prove it"
	}
	return "take a new export where the log is: keyctl audit export"
}
