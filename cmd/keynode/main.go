// Command keynode is the keymesh daemon: it makes a node, joins it to a
// network and runs it, and can show the whole job on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"keymesh/api/apitype"
	"keymesh/storage"
)

func main() {
	if err := harden(); err != nil {
		fmt.Fprintln(os.Stderr, "keynode:", err)
		os.Exit(1)
	}
	// A write beyond RLIMIT_FSIZE is to fail with EFBIG, which stops the store in
	// order, and not to kill the process.
	signal.Ignore(syscall.SIGXFSZ)
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Main runs one command and returns its exit code: 0, 1 for a local error, 7
// for an export that is not in order, 10 for a damaged or failed store, or 130 after an interrupt that cut a command
// short.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := rootCommand(stdin, stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "keynode:", err)
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		fmt.Fprintln(stderr, "hint:", h.Hint())
	}
	return exitCode(ctx, err)
}

// exitCode is 130 after an interrupt, 7 for an export that is not in order, 10 for a store that is refused or has
// failed, 7 for a receipt that is not true, otherwise 1.
func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return apitype.ExitInterrupted
	}
	var integrity *integrityError
	if errors.As(err, &integrity) {
		return apitype.ExitIntegrity
	}
	if errors.Is(err, errReceipt) {
		return apitype.ExitIntegrity
	}
	for _, e := range []error{storage.ErrDamaged, storage.ErrEmpty, storage.ErrForeign, storage.ErrOlder, storage.ErrCorrupt, storage.ErrStopped, storage.ErrFull} {
		if errors.Is(err, e) {
			return apitype.ExitStorage
		}
	}
	return apitype.ExitLocal
}
