package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"keymesh/api"
	"keymesh/api/apitype"
)

// errReceipt: a receipt proves nothing, or nothing of what was asked. It ends
// with the exit code of a failed integrity check.
var errReceipt = errors.New("the receipt proves nothing")

func receiptCommand() *cobra.Command {
	network := ""
	verify := &cobra.Command{
		Use: "verify FILE", Short: "check the receipt of a recovery, offline and anywhere", Args: cobra.ExactArgs(1),
		Long: "Says in words what the receipt that keyctl get --receipt wrote proves: which secret, who asked, who\n" +
			"approved, and which holders released their rows at which positions of their audit logs. Needs no\n" +
			"node, no network and no key. Whoever can sign as a network of their own can make a receipt of it, so\n" +
			"give --network, or compare the network and the owner that it names. Exits 7 when it is not true.",
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readReceipt(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return verifyReceipt(cmd.OutOrStdout(), raw, network)
		},
	}
	verify.Flags().StringVar(&network, "network", "", "the network that it has to be of, network-...")
	cmd := &cobra.Command{Use: "receipt", Short: "check what the receipt of a recovery proves"}
	cmd.AddCommand(verify)
	return cmd
}

// readReceipt reads a file, or standard input for "-".
func readReceipt(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, apitype.MaxReceipt+1))
	if err != nil {
		return nil, fmt.Errorf("reading the receipt: %w", err)
	}
	if len(raw) > apitype.MaxReceipt {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errReceipt, apitype.MaxReceipt)
	}
	return raw, nil
}

func verifyReceipt(out io.Writer, raw []byte, network string) error {
	r := api.VerifyReceipt(raw)
	switch {
	case !r.Valid:
		return fmt.Errorf("%w: %s", errReceipt, r.Why)
	case network != "" && network != r.Network:
		return fmt.Errorf("%w of that network: it is of %s", errReceipt, r.Network)
	}
	text := strings.Map(func(c rune) rune {
		if c == '\n' || unicode.IsPrint(c) {
			return c
		}
		return unicode.ReplacementChar
	}, strings.Join(r.Lines(), "\n"))
	_, err := fmt.Fprintln(out, text)
	return err
}
