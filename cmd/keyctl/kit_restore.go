package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const kitRestoreLong = `Restore makes this machine a member of the network and starts to bring back the
secrets of an owner whose machines are lost. It runs "keynode restore", which it
finds beside itself or in PATH, since there is no node yet to talk to; after it,
"keynode run --data DIR" does the rest, and keyctl status shows how far it is.

Everything behind FILE is given on to keynode: keynode restore --help.`

func (a *app) kitRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "restore FILE --data DIR [--unlock MODE] ...",
		Short:   "Bring an owner's secrets back on this machine with a kit",
		Long:    kitRestoreLong,
		Example: "  keyctl kit restore kit.txt --data /var/lib/keymesh --unlock prompt",
		Args:    exactArgs(1, "keyctl kit restore FILE --data DIR"),
	}
	names := []string{"data", "unlock", "name", "person", "operator", "zone"}
	values := make([]string, len(names))
	for i, n := range names {
		cmd.Flags().StringVar(&values[i], n, "", "as for keynode restore")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := []string{"restore", "--kit", args[0]}
		for i, n := range names {
			if cmd.Flags().Changed(n) {
				given = append(given, "--"+n, values[i])
			}
		}
		return a.runKeynode(cmd.Context(), given)
	}
	return cmd
}

// runKeynode runs the daemon's program on this terminal. What went wrong it has
// said itself.
func (a *app) runKeynode(ctx context.Context, args []string) error {
	path, err := findKeynode()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = a.stdin, a.stdout, a.stderr, a.env
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errInterrupted
	case errors.As(err, &exit):
		return &failure{exit: apitype.ExitLocal, what: "keynode restore failed", quiet: true}
	}
	return local("cannot run "+printable(path), err, "run keynode restore by hand")
}

// findKeynode looks beside this program first: both come from one package.
func findKeynode() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "keynode")
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath("keynode")
	if err != nil {
		return "", usage("there is no keynode beside keyctl or in PATH", "install it, and run keynode restore --data DIR --kit FILE")
	}
	return path, nil
}
