package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
)

// version is the version of this program.
const version = "0.1.0"

func rootCommand(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "keynode", Short: "keymesh daemon: keeps seats of other people's secrets and serves your own",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(demoCommand(), devCommand(), initCommand(), joinCommand(), runCommand(), restoreCommand(), kitCommand(), auditCommand(), storeCommand(), receiptCommand(), configCommand(), versionCommand())
	return root
}

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "show the whole job on five real nodes, in under 10 s", Args: cobra.NoArgs,
		Long: "Starts five nodes on loopback, over real sockets and real files in a temporary directory, stores a\nsecret 3-of-5, kills two nodes, recovers it, kills a third, shows the refusal, starts them again\nand recovers it once more. Exits 0 when every step held and 1 otherwise.",
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), cmd.OutOrStdout()) },
	}
}

func devCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use: "dev", Short: "run a mesh on this machine to play with; Ctrl-C stops it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.nodes < 1 || o.nodes > 64 {
				return fmt.Errorf("--nodes is 1 to 64, not %d", o.nodes)
			}
			if o.basePort < 1 || o.basePort+o.nodes > 65536 {
				return fmt.Errorf("--base-port %d leaves no room for %d ports", o.basePort, o.nodes)
			}
			return runDev(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().IntVar(&o.nodes, "nodes", 5, "how many nodes, 1 to 64")
	cmd.Flags().StringVar(&o.dir, "dir", "", "where their data goes (default: the user's state directory)")
	cmd.Flags().IntVar(&o.basePort, "base-port", 7946, "port of node 1; node i listens on this plus i-1")
	return cmd
}

func makeFlags(cmd *cobra.Command, o *makeOptions) {
	f := cmd.Flags()
	f.StringVar(&o.dir, "data", "", "data directory, made with mode 0700")
	f.StringVar(&o.name, "name", "", "name of the node, [a-z0-9-]{1,63} (default: the host's name)")
	f.StringVar(&o.person, "person", "", "name of the first person on it (default: owner)")
	f.StringVar(&o.zone, "zone", "", "zone label: nodes that fail together share one")
	f.Uint64Var(&o.capacity, "capacity", 0, "bytes offered for seats (default: 10 GiB)")
}

func (o *makeOptions) resolve() (err error) {
	hostname, _ := os.Hostname()
	o.defaults(hostname)
	o.dir, err = absDir(o.dir)
	return err
}

func initCommand() *cobra.Command {
	var o makeOptions
	cmd := &cobra.Command{
		Use: "init --data DIR", Short: "make a node's keys and its person; never overwrites", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.resolve(); err != nil {
				return err
			}
			return runInit(o, cmd.OutOrStdout(), time.Now())
		},
	}
	makeFlags(cmd, &o)
	cmd.Flags().StringVar(&o.operator, "operator", "", "operator of the first node of a new network (default: the node's name)")
	cmd.Flags().BoolVar(&o.newNetwork, "new-network", false, "found a network; prints its seed once")
	cmd.Flags().StringVar(&o.unlock, "unlock", "prompt", "prompt, file:PATH, credential:NAME, or none (development)")
	return cmd
}

func joinCommand() *cobra.Command {
	var o makeOptions
	cmd := &cobra.Command{
		Use: "join --data DIR TICKET", Short: "join a network with a ticket from keyctl peer invite", Args: cobra.ExactArgs(1),
		Long: "Makes the node's keys when the directory has none, and joins the ticket's network. Operator and roles\ncome with the ticket. TICKET may be - to read it from standard input.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.resolve(); err != nil {
				return err
			}
			ticket, err := readTicket(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return runJoin(cmd.Context(), o, ticket, cmd.OutOrStdout(), time.Now())
		},
	}
	makeFlags(cmd, &o)
	cmd.Flags().StringVar(&o.unlock, "unlock", "", "for a new node: prompt, file:PATH, credential:NAME, or none (development)")
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "keynode %s%s\n", version, revision())
			return nil
		},
	}
}

// versionInfo is what the API says about this program.
func versionInfo() apitype.Version {
	return apitype.Version{Version: version, Go: runtime.Version(), Protocol: key.Version, Commit: strings.Trim(revision(), " ()")}
}

// revision is the commit this program was built from, when the build knew it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return " (" + s.Value[:12] + ")"
		}
	}
	return ""
}
