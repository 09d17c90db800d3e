package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

func (a *app) peerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "peer",
		GroupID: groupMesh,
		Short:   "Show the nodes of the mesh, and let new ones in",
		Example: "  keyctl peer ls\n  keyctl peer info alpha\n  keyctl peer invite --operator acme",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl peer needs a verb: ls, info, invite, drain, replace, remove or ping", "keyctl peer ls")
			}
			return unknownWord("peer verb", args[0], []string{"ls", "info", "invite", "drain", "replace", "remove", "ping"}, "keyctl peer ")
		},
	}
	cmd.AddCommand(a.peerLsCommand(), a.peerInfoCommand(), a.peerInviteCommand(), a.peerRemoveCommand(), a.peerDrainCommand(), a.peerReplaceCommand(), a.peerPingCommand())
	return cmd
}

func (a *app) peerLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ls",
		Short:             "List the nodes",
		Long:              "Ls lists every node of the mesh as this node sees it: who is online is its own\nobservation, not hearsay.",
		Example:           "  keyctl peer ls\n  keyctl peer ls -o json | jq -r '.items[] | select(.online | not).name'",
		Args:              exactArgs(0, "keyctl peer ls"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.peerLs(cmd.Context()) },
	}
}

// peers asks the node for the roster.
func (a *app) peers(ctx context.Context, verb string) ([]apitype.Peer, error) {
	node, err := a.node()
	if err != nil {
		return nil, err
	}
	peers, err := node.Peers(ctx)
	if err != nil {
		return nil, apiError("cannot list the nodes", verb, err)
	}
	return peers, nil
}

func (a *app) peerLs(ctx context.Context) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	peers, err := a.peers(ctx, "keyctl peer ls")
	if err != nil {
		return err
	}
	if a.json() {
		if peers == nil {
			peers = []apitype.Peer{}
		}
		return a.printJSON(apitype.Peers{Items: peers})
	}
	t := newTable("NAME", "STATE", "OPERATOR", "ZONE", "ROLES", "RTT", "CERTIFICATE UNTIL", "NODE")
	for _, p := range peers {
		t.row(dash(p.Name), peerState(p), dash(p.Operator), dash(p.Zone), peerRoles(p), roundTrip(p), when(p.Expires, "-"), p.Node)
	}
	return t.writeTo(a)
}

// peerState is how a node stands, the worst first.
func peerState(p apitype.Peer) string {
	switch {
	case p.Revoked:
		return "revoked"
	case p.Twin:
		return "runs twice"
	case p.Self:
		return "this node"
	case !p.Online:
		return "offline"
	case p.Lapsed:
		return "lapsed"
	case !p.Accepting:
		return "online, full"
	}
	return "online"
}

func peerRoles(p apitype.Peer) string {
	roles := strings.Join(p.Roles, ",")
	if p.Issuer {
		roles = strings.Trim(roles+",issuer", ",")
	}
	return dash(roles)
}

func roundTrip(p apitype.Peer) string {
	if p.RTT <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", p.RTT)
}

func (a *app) peerInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "info NODE",
		Short:             "Show one node, by its name or id",
		Example:           "  keyctl peer info alpha",
		Args:              exactArgs(1, "keyctl peer info NODE; keyctl peer ls shows their names"),
		ValidArgsFunction: a.completePeer,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.peerInfo(cmd.Context(), args[0]) },
	}
}

func (a *app) peerInfo(ctx context.Context, which string) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	peers, err := a.peers(ctx, "keyctl peer info "+shellWord(which))
	if err != nil {
		return err
	}
	p, err := findPeer(peers, which)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(p)
	}
	return a.print([]byte(peerText(p)))
}

// findPeer finds a node by id or by a name that is not ambiguous: names are
// chosen by the nodes themselves.
func findPeer(peers []apitype.Peer, which string) (apitype.Peer, error) {
	var found []apitype.Peer
	var names []string
	for _, p := range peers {
		if p.Node == which {
			return p, nil
		}
		if p.Name == which {
			found = append(found, p)
		}
		names = append(names, p.Name)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		hint := "keyctl peer ls shows them all"
		if n := nearest(which, names); n != "" {
			hint = fmt.Sprintf("did you mean %s? %s", printable(n), hint)
		}
		return apitype.Peer{}, &failure{exit: apitype.ExitNotFound, what: "there is no node " + quoted(which), hint: hint}
	}
	f := usage(fmt.Sprintf("%d nodes are called %s", len(found), quoted(which)), "name it by its id: keyctl peer info node-...")
	for _, p := range found {
		f.details = append(f.details, printable(p.Node))
	}
	return apitype.Peer{}, f
}

func peerText(p apitype.Peer) string {
	var b strings.Builder
	fact(&b, "name", "%s", dash(p.Name))
	fact(&b, "node", "%s", p.Node)
	fact(&b, "state", "%s", peerState(p))
	fact(&b, "operator", "%s", dash(p.Operator))
	fact(&b, "zone", "%s", dash(p.Zone))
	fact(&b, "roles", "%s", peerRoles(p))
	if p.Capacity > 0 {
		fact(&b, "capacity", "%d", p.Capacity)
	}
	for _, addr := range p.Addrs {
		fact(&b, "address", "%s", addr)
	}
	fact(&b, "round trip", "%s", roundTrip(p))
	fact(&b, "last seen", "%s", when(p.LastSeen, "-"))
	fact(&b, "certificate", "until %s", when(p.Expires, "an unknown day"))
	if len(p.Fingerprint) > 0 {
		fact(&b, "fingerprint", "%s", strings.Join(p.Fingerprint, " "))
	}
	return b.String()
}

type inviteFlags struct {
	operator string
	roles    []string
	capacity uint64
	ttl      string
}

const inviteLong = `Invite makes a ticket that lets one node into the mesh, and prints it alone on
standard output. Whoever has the ticket can join with it, once, before it
expires: hand it over as you would a password.

The operator is who runs the new node. Placement gives each operator at most one
seat of a secret, so this name decides what one person's failure can take along.`

func (a *app) peerInviteCommand() *cobra.Command {
	var f inviteFlags
	cmd := &cobra.Command{
		Use:               "invite --operator NAME",
		Short:             "Make a ticket that lets one node in",
		Long:              inviteLong,
		Example:           "  keyctl peer invite --operator acme\n  keyctl peer invite --operator acme --roles client --ttl 1h | ssh host 'keynode join --data /var/lib/keymesh \"$(cat)\"'",
		Args:              exactArgs(0, "keyctl peer invite --operator NAME"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.peerInvite(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.operator, "operator", "", "`NAME` of who runs the new node")
	fl.StringSliceVar(&f.roles, "roles", nil, "`ROLE,...` of holder, client, relay (default holder,client)")
	fl.Uint64Var(&f.capacity, "capacity", 0, "the largest `WEIGHT` the node may claim in placement")
	fl.StringVar(&f.ttl, "ttl", "", "`SPAN` the ticket is good for, at most 24h (default 24h)")
	fl.SortFlags = false
	return cmd
}

func (a *app) peerInvite(ctx context.Context, f inviteFlags) error {
	req, err := f.request()
	if err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	inv, err := node.Invite(ctx, req)
	if err != nil {
		return apiError("cannot make a ticket", "keyctl peer invite --operator "+shellWord(f.operator), err)
	}
	a.note("one node of operator %s may join until %s as %s", quoted(inv.Operator), when(inv.Expires, "it is used"), printable(strings.Join(inv.Roles, ", ")))
	if len(inv.Fingerprint) > 0 {
		a.note("both sides must show these words for the admitting node: %s", printable(strings.Join(inv.Fingerprint, " ")))
	}
	a.note("there: keynode join --data DIR TICKET")
	if a.json() {
		return a.printJSON(inv)
	}
	return a.print([]byte(printable(inv.Ticket) + "\n"))
}

func (f inviteFlags) request() (apitype.InviteRequest, error) {
	const form = "keyctl peer invite --operator NAME"
	req := apitype.InviteRequest{Operator: f.operator, Roles: f.roles, Capacity: f.capacity}
	if f.operator == "" {
		return req, usage("an invitation says who runs the new node", form)
	}
	for _, r := range f.roles {
		if r != "holder" && r != "client" && r != "relay" {
			return req, usage(fmt.Sprintf("there is no role %s", quoted(r)), "--roles takes holder, client and relay")
		}
	}
	if f.ttl != "" {
		d, err := parseSpan(f.ttl)
		if err != nil || d.Hours() > 24 {
			return req, usage("--ttl is between 1s and 24h", form+" --ttl 1h")
		}
		req.TTL = uint64(d.Seconds())
	}
	return req, nil
}

// livePeers is peers for a completion: no error, whatever happens.
func livePeers(ctx context.Context, node *client.Client) []string {
	peers, err := node.Peers(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range peers {
		if !p.Revoked && p.Name != "" {
			names = append(names, p.Name)
		}
	}
	return names
}
