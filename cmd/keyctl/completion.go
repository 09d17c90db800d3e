package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/client"
)

// completionTime bounds a completion, the answer of the node included: a shell
// waits for it at every press of the key.
const completionTime = 250 * time.Millisecond

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion SHELL",
		GroupID:   groupTool,
		Short:     "Print the completion script for bash, zsh, fish or powershell",
		Long:      "Completion prints a script that completes verbs, flags, names of secrets and of\nnodes, for keyctl and for keymesh, its second name.",
		Example:   "  source <(keyctl completion bash)\n  keyctl completion fish > ~/.config/fish/completions/keyctl.fish",
		Args:      exactArgs(1, "keyctl completion bash|zsh|fish|powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := completionScript(cmd.Root(), args[0])
			if err != nil {
				return err
			}
			if script == nil {
				return unknownWord("completion for", args[0], shells, "keyctl completion ")
			}
			return a.print(script)
		},
	}
}

// completionScript returns the script of a shell, or nil for one that is not
// known.
func completionScript(root *cobra.Command, shell string) ([]byte, error) {
	var b bytes.Buffer
	var err error
	switch shell {
	case "bash":
		err = root.GenBashCompletionV2(&b, true)
		b.WriteString("\ncomplete -o default -F __start_keyctl keymesh\n")
	case "zsh":
		err = root.GenZshCompletion(&b)
		b.WriteString("\ncompdef _keyctl keymesh\n")
	case "fish":
		err = root.GenFishCompletion(&b, true)
		b.WriteString("\ncomplete -c keymesh -w keyctl\n")
	case "powershell":
		err = root.GenPowerShellCompletionWithDesc(&b)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the script: %w", err)
	}
	return b.Bytes(), nil
}

// noCompletion keeps a shell from offering files where none belong.
func noCompletion(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completePetname offers the names of contacts.
func (a *app) completePetname(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, node *client.Client) []string {
		items, err := node.Contacts(ctx)
		if err != nil {
			return nil
		}
		var out []string
		for _, c := range items {
			if c.Name != "" && strings.HasPrefix(c.Name, typed) {
				out = append(out, c.Name)
			}
		}
		return out
	})
}

// completeName offers the names of secrets.
func (a *app) completeName(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return noCompletion(cmd, args, typed)
	}
	return a.complete(cmd, func(ctx context.Context, node *client.Client) []string {
		page, err := node.List(ctx, client.ListOptions{Prefix: typed, Limit: 200})
		if err != nil {
			return nil
		}
		var names []string
		for _, it := range page.Items {
			names = append(names, it.Name)
		}
		return names
	})
}

// completePeer offers the names of nodes; in a list, after its last comma.
func (a *app) completePeer(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if cmd.Name() == "info" && len(args) > 0 {
		return noCompletion(cmd, args, typed)
	}
	before := typed[:strings.LastIndex(typed, ",")+1]
	return a.complete(cmd, func(ctx context.Context, node *client.Client) []string {
		var out []string
		for _, n := range livePeers(ctx, node) {
			if strings.HasPrefix(before+n, typed) {
				out = append(out, before+n)
			}
		}
		return out
	})
}

// complete asks the node in the time that a shell may wait. Nothing is said
// when it fails, and nothing is offered that would break the protocol with the
// shell, where a line is an offer and a tab begins its description.
func (a *app) complete(cmd *cobra.Command, ask func(context.Context, *client.Client) []string) ([]string, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	node, err := a.node()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, n := range ask(ctx, node) {
		if printable(n) == n {
			out = append(out, n)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
