package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

// helpCommand replaces cobra's, which exits 0 on topics that do not exist.
func (a *app) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		GroupID: groupTool,
		Short:   "Explain a verb; help exit-codes explains the exit codes",
		Example: "  keyctl help put\n  keyctl help exit-codes",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return verbNames(root), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				word := strings.Join(args, " ")
				if len(rest) > 0 {
					word = rest[0]
				}
				return unknownWord("help on", word, verbNames(root), "keyctl help ")
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

func verbNames(root *cobra.Command) []string {
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	return names
}

// exitCodesTopic is "help exit-codes". It is no verb, so it does not run.
func (a *app) exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("Every command ends with one of these codes:\n\n")
	for _, e := range apitype.ExitText() {
		fmt.Fprintf(&b, "  %3d  %s\n", e.Code, e.Text)
	}
	b.WriteString("\nWith -o json an error is one line of JSON on standard error, with exit_code.")
	topic := &cobra.Command{Use: "exit-codes", Short: "The exit codes of every command", Long: b.String()}
	topic.SetHelpFunc(func(*cobra.Command, []string) { fmt.Fprintln(a.stdout, topic.Long) })
	return topic
}
