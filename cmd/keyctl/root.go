package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	groupSecrets = "secrets"
	groupMesh    = "mesh"
	groupTool    = "tool"
)

const rootLong = `keyctl stores a secret as rows on several machines, so that any k of n of them
bring it back and fewer learn nothing. It talks to the keymesh node of this
machine; start one with "keynode run", or five to play with: "keynode dev".

The node is found in this order: --socket or --addr; KEYMESH_SOCKET or
KEYMESH_ADDR; the context in $XDG_CONFIG_HOME/keymesh/cli.toml;
$XDG_RUNTIME_DIR/keymesh/api.sock; /run/keymesh/api.sock (help contexts).`

const rootExample = `  printf %s "$(pwgen 24 1)" | keyctl put demo/db
  keyctl get demo/db --reveal
  keyctl ls --long
  keyctl status`

// rootCommand builds the whole command tree for one run.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyctl",
		Short:         "Store and recover secrets that several machines hold together",
		Long:          rootLong,
		Example:       rootExample,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return usage("there is no verb", "keyctl help")
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	a.globalFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(flagError)
	root.PersistentPreRunE = a.checkOptions
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupSecrets, Title: "Secrets:"},
		&cobra.Group{ID: groupMesh, Title: "The mesh:"},
		&cobra.Group{ID: groupTool, Title: "This program:"},
	)
	root.AddCommand(
		a.putCommand(), a.getCommand(), a.lsCommand(), a.infoCommand(), a.rmCommand(), a.verifyCommand(), a.repairCommand(), a.refreshCommand(), a.reshareCommand(), a.rehearseCommand(), a.pendingCommand(), a.eventsCommand(), a.approveCommand(), a.denyCommand(), a.cancelCommand(), a.receiptCommand(),
		a.peerCommand(), a.statusCommand(), a.doctorCommand(), a.auditCommand(), a.benchCommand(),
		a.kitCommand(), a.personCommand(), a.contactCommand(), a.policyCommand(),
		a.whoamiCommand(), a.versionCommand(), a.completionCommand(),
		a.exitCodesTopic(), a.topic("contexts", "How the node is found", contextsText), a.topic("json", "The shapes of -o json", jsonText),
	)
	root.SetHelpCommand(a.helpCommand(root))
	return root
}

func (a *app) globalFlags(f *pflag.FlagSet) {
	o := &a.opts
	f.StringArrayVar(&o.sockets, "socket", nil, "unix socket `PATH` of the node's API")
	f.StringArrayVar(&o.addrs, "addr", nil, "`URL` of the node's API over TCP, http://127.0.0.1:PORT")
	f.StringVar(&o.tokenFile, "token-file", "", "`FILE` with the token for --addr")
	f.StringVarP(&o.output, "output", "o", "text", "`FORMAT` of the answer: text or json")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "longest time for one command")
	f.BoolVar(&o.quiet, "quiet", false, "no progress, notes or warnings; errors are still printed")
	f.BoolVar(&o.noInput, "no-input", false, "never ask anything; fail instead")
	f.BoolVar(&o.yes, "yes", false, "answer every confirmation with yes")
	f.BoolVar(&o.noColor, "no-color", false, "no colours (NO_COLOR does the same)")
	f.SortFlags = false
}

// checkOptions refuses global flags that make no sense, before anything runs.
func (a *app) checkOptions(cmd *cobra.Command, _ []string) error {
	o := a.opts
	if o.output != "text" && o.output != "json" {
		return usage(fmt.Sprintf("-o is text or json, not %q", o.output), "keyctl "+cmd.Name()+" --help")
	}
	if o.timeout <= 0 || o.timeout > time.Hour {
		return usage("--timeout is more than 0 and at most 1h", "keyctl "+cmd.Name()+" --timeout 30s")
	}
	return nil
}

// checkVerb refuses a verb that does not exist before flags are parsed: the
// flags of another program's verb say nothing, its name everything.
func checkVerb(root *cobra.Command, args []string) error {
	verb := firstVerb(root.PersistentFlags(), args)
	if verb == "" {
		return nil
	}
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	for _, n := range append(names, "help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd) {
		if verb == n {
			return nil
		}
	}
	if _, ok := keyutilsVerbs[verb]; ok {
		return keyutilsError(verb)
	}
	return unknownWord("verb", verb, append(names, "help"), "keyctl ")
}

// firstVerb returns the first argument that is neither a global flag nor the
// value of one.
func firstVerb(global *pflag.FlagSet, args []string) string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return ""
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			return arg
		}
		var f *pflag.Flag
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			f = global.Lookup(name)
		} else if len(arg) == 2 {
			f = global.ShorthandLookup(arg[1:])
		}
		if f != nil && f.NoOptDefVal == "" {
			i++
		}
	}
	return ""
}

// flagError puts the nearest flag's name to an unknown one. The value of a flag
// is repeated only where pflag does, for flags that never hold a secret.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usage(err.Error(), cmd.CommandPath()+" --help")
	}
	var names []string
	collect := func(f *pflag.Flag) { names = append(names, f.Name) }
	cmd.Flags().VisitAll(collect)
	cmd.InheritedFlags().VisitAll(collect)
	name := unknown.GetSpecifiedName()
	if len(name) == 1 {
		return usage(fmt.Sprintf("%s has no flag -%s", cmd.CommandPath(), name), cmd.CommandPath()+" --help")
	}
	hint := cmd.CommandPath() + " --help"
	if n := nearest(name, names); n != "" {
		hint = fmt.Sprintf("did you mean --%s? All flags: %s", n, hint)
	}
	return usage(fmt.Sprintf("%s has no flag --%s", cmd.CommandPath(), printable(name)), hint)
}

// unknownWord is the error for a verb or topic that does not exist.
func unknownWord(kind, word string, known []string, before string) error {
	hint := "keyctl help"
	if n := nearest(word, known); n != "" {
		hint = fmt.Sprintf("did you mean `%s%s`? All of them: keyctl help", before, n)
	}
	return usage(fmt.Sprintf("there is no %s %q", kind, bounded(word)), hint)
}

// exactArgs checks the number of arguments of a verb. Surplus ones are not
// repeated: someone may have put a secret there.
func exactArgs(n int, form string) cobra.PositionalArgs {
	return rangeArgs(n, n, form)
}

// rangeArgs is exactArgs for verbs with optional arguments.
func rangeArgs(least, most int, form string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(cmd.CommandPath()+" needs more arguments", form)
		case len(args) > most:
			return usage(cmd.CommandPath()+" has too many arguments", form)
		}
		return nil
	}
}
