package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const peerRemoveLong = `Remove takes a node's membership away for ever: no other node talks to it any
more, and its certificate is never renewed. It cannot be undone; the same
machine comes back only with new keys and a ticket.

What the node held stays counted as lost until its seats are elsewhere: replace
or drain the node first if you can, and see keyctl status afterwards.

Only a node with an issuer's key can do it.`

func (a *app) peerRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NODE",
		Short:             "Take a node's membership away for ever",
		Long:              peerRemoveLong,
		Example:           "  keyctl peer remove node-3",
		Args:              exactArgs(1, "keyctl peer remove NODE; keyctl peer ls shows their names"),
		ValidArgsFunction: a.completePeer,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.peerRemove(cmd.Context(), args[0]) },
	}
}

func (a *app) peerRemove(ctx context.Context, which string) error {
	p, err := a.peerCalled(ctx, which, "keyctl peer remove "+shellWord(which))
	if err != nil {
		return err
	}
	if p.Self {
		return usage("a node does not remove itself", "run it against another node that admits and renews: keyctl peer ls")
	}
	if p.Revoked {
		a.note("%s was removed before", nodeName(p.Name, p.Node))
		return nil
	}
	if err := a.confirm(ctx, "this removes "+nodeName(p.Name, p.Node)+" from the mesh for ever.", which); err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	out, err := node.RemovePeer(ctx, p.Node)
	if err != nil {
		return apiError("cannot remove "+quoted(which), "keyctl peer remove "+shellWord(which), err)
	}
	if a.json() {
		return a.printJSON(out)
	}
	return a.print(fmt.Appendf(nil, "%s is no member any more\n", nodeName(p.Name, p.Node)))
}

func (a *app) peerPingCommand() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:               "ping NODE",
		Short:             "Measure the round trip to a node over its link",
		Example:           "  keyctl peer ping node-3 --count 4",
		Args:              exactArgs(1, "keyctl peer ping NODE; keyctl peer ls shows their names"),
		ValidArgsFunction: a.completePeer,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > 1000 {
				return usage("--count is 1 to 1000", "keyctl peer ping NODE --count 4")
			}
			return a.peerPing(cmd.Context(), args[0], count)
		},
	}
	cmd.Flags().IntVar(&count, "count", 1, "how `MANY` times, a second apart")
	return cmd
}

func (a *app) peerPing(ctx context.Context, which string, count int) error {
	p, err := a.peerCalled(ctx, which, "keyctl peer ping "+shellWord(which))
	if err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	for i := range count {
		if i > 0 {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return errInterrupted
			}
		}
		out, err := a.pingOnce(ctx, node.PingPeer, p, which)
		if err != nil {
			return err
		}
		if a.json() {
			err = a.printJSON(out)
		} else {
			err = a.print(fmt.Appendf(nil, "%s answers after %.1f ms\n", nodeName(p.Name, p.Node), out.RTT))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) pingOnce(ctx context.Context, ping func(context.Context, string) (apitype.Ping, error), p apitype.Peer, which string) (apitype.Ping, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	out, err := ping(ctx, p.Node)
	if err != nil {
		return out, apiError(nodeName(p.Name, p.Node)+" does not answer", "keyctl peer ping "+shellWord(which), err)
	}
	return out, nil
}

// peerCalled finds a node by its name or id.
func (a *app) peerCalled(ctx context.Context, which, again string) (apitype.Peer, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	peers, err := a.peers(ctx, again)
	if err != nil {
		return apitype.Peer{}, err
	}
	return findPeer(peers, which)
}
