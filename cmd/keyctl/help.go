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
	return a.topic("exit-codes", "The exit codes of every command", b.String())
}

// topic is a page of help that is no verb.
func (a *app) topic(name, short, text string) *cobra.Command {
	topic := &cobra.Command{Use: name, Short: short, Long: text}
	topic.SetHelpFunc(func(*cobra.Command, []string) { fmt.Fprintln(a.stdout, topic.Long) })
	return topic
}

const contextsText = `keyctl finds its node in this order:

  1. --socket PATH, or --addr URL with --token-file FILE
  2. KEYMESH_SOCKET, or KEYMESH_ADDR with KEYMESH_TOKEN_FILE
  3. the context of $XDG_CONFIG_HOME/keymesh/cli.toml (~/.config without it)
  4. $XDG_RUNTIME_DIR/keymesh/api.sock, if it is there
  5. /run/keymesh/api.sock

cli.toml names nodes and says which is meant; unknown keys are refused:

  context = "home"

  [contexts.home]
  socket = "/run/user/1000/keymesh/api.sock"

  [contexts.lab]
  addr = "http://127.0.0.1:7950"
  token-file = "/home/me/.keymesh/token"

A token file must be readable by its owner alone. Nothing secret is ever taken
from the command line or the environment.`

const jsonText = `With -o json the answer is one JSON value on standard output. Fields are added in
later versions and never change their meaning; empty ones may be left out. Times
are RFC 3339, ids and hashes text.

  put          name id manifest gen n k w acked created dry_run notes[]
               seats[node name operator zone x state why] policy
               alone[name ok wait missing[]]
  get          value (base64) name id manifest gen used[] bad[node name why] policy
               request said[person name denied note] receipt (base64)
  get --out    name id manifest gen size file used[] bad[]
  ls           items[name id gen n k w acked size labels created expires margin last_read last_verified]
               silent[]
  info         as an item of ls, and manifest owner description policy
               policy_text keep repair
               seats[] standby[] generations[] pending[]
               loses_if leaks_if stuck_if {count words}
  pending      items[request words[] id name gen verb change owner owner_name
               requester by reason state created expires mine approver veto have
               need missing[] wait said[person name denied note]]
  approve, deny, cancel  request
  pending --mine  as pending, with ready and version where the holders said
  receipt verify  valid why network here request words[] id owner owner_name
               manifest gen requester by reason created k n policy waited
               approvals[person name note] releases[node name x audit]
  policy test, policy show
               policy policy_text gen ok wait have need missing[]
               ways[policy ok wait missing[] veto[]] idle[]
               alone[name ok wait missing[]]
  contact ls   items[name person words[] source nodes[]]
  contact add, rm  one of these
  rehearse     name id manifest gen ok exit_code n k proven margin payloads
               failed[node name why] have need missing[] wait policy why
               approvers[person nodes reachable silent] seats[... silent]
  verify       name id manifest gen epoch n k w good margin exit_code seats[];
               with --all items[] of these
  repair       as verify, and moved[x from to] liars[node name why] notes[]
  reshare      as put
  rm           name id gen done seats[]
  status       health exit_code reasons[] secrets{total short at_risk below}
               members
               online holders holders_online node{} person{} network storage{}
               version warnings[] checks[] audit{last witnessed error
               wrong[]}
  whoami       person{name person} node name operator network fingerprint[] target
  peer ls      items[node name operator zone roles[] capacity addrs[] self online
               lapsed revoked accepting issuer rtt_ms last_seen expires
               fingerprint[]]
  peer info    one of these
  peer drain, peer replace
               node new exit_code moved bytes seconds not_moved
               failed[name id why] still notes[]
  peer drain --undo  node
  peer invite  ticket operator roles[] expires issuer fingerprint[]
  kit make     as kit check, and files[]; needs --text FILE
  kit check, kit rotate, kit ls
               kind network owner name authority made nodes[node addrs[]] current
               kept[] erased[] secrets[name id tag gen policy] silent
  person ls    items[name person default recovery code]
  person new, export, import   one of these
  events       one value an event: id time kind request{} as of pending
  audit tail   items[position time kind id name person node request detail
               request_id hash] last next; with -f one value an entry
  audit verify intact wrong node first last hash stopped witnessed asked answered
               peers[node name online position signed theirs theirs_signed
               contradiction proof[]]; with --file intact wrong node last hash
               signed heads
  audit export as keynode audit verify reads it; with --out: file
  doctor       checks[name state text fix] exit_code
  bench        size nodes[] left pending runs[op concurrency count errors seconds
               per_second p50_ms p99_ms max_ms]
  version      version commit go platform

An error is one line on standard error: error, exit_code, details[], hint, and the
node's own problem (RFC 9457) where there is one.`
