package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

const peerDrainLong = `Drain moves every seat that your secrets have at a node to other holders, one
secret after the other, and puts made here give that node none any more. Each row
comes into being at its new holder, from what the other holders have in common
with it: no secret and no row is read on the way, and gets and puts go on. The
node deletes its rows once the new holders have theirs.

A node that is drained through itself (keyctl talking to that node) also refuses
new seats of everybody, until --undo. Other owners move their own secrets.

The node does it without keyctl once it has begun; the same command again shows
the rest of it. It ends with 5 when some seats could not be moved, and says why.
Remove the node afterwards if it does not come back: keyctl peer remove NODE.`

const peerReplaceLong = `Replace gives every seat that your secrets have at OLD to NEW, which takes
them where it holds no seat of the same secret yet and limits of operator and zone
allow it; the others go where placement says. OLD may be lost for good: the rows
come into being at NEW from what the other holders have in common with them, and
no secret is read on the way. If OLD returns, it learns of it and deletes its rows.

Until it is over the secrets left have one holder less than they should; the
progress says how many of them would not outlive one more loss.

The node does it without keyctl once it has begun; the same command again shows
the rest of it. It ends with 5 when some seats could not be moved, and says why.
Remove OLD afterwards, since puts count on it until each secret has been put or
reshared once more: keyctl peer remove OLD.`

func (a *app) peerDrainCommand() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:               "drain NODE",
		Short:             "Move all seats away from a node",
		Long:              peerDrainLong,
		Example:           "  keyctl peer drain node-3\n  keyctl peer drain node-3 --undo",
		Args:              exactArgs(1, "keyctl peer drain NODE; keyctl peer ls shows their names"),
		ValidArgsFunction: a.completePeer,
		RunE: func(cmd *cobra.Command, args []string) error {
			if undo {
				return a.peerUndrain(cmd.Context(), args[0])
			}
			return a.peerMove(cmd.Context(), args[0], "")
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node have seats again, and stop moving them; what was moved stays where it is")
	return cmd
}

func (a *app) peerReplaceCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "replace OLD NEW",
		Short:             "Give all seats of a node to another one",
		Long:              peerReplaceLong,
		Example:           "  keyctl peer replace node-3 node-6",
		Args:              exactArgs(2, "keyctl peer replace OLD NEW; keyctl peer ls shows their names"),
		ValidArgsFunction: a.completePeer,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.peerMove(cmd.Context(), args[0], args[1]) },
	}
}

func (a *app) peerUndrain(ctx context.Context, which string) error {
	again := "keyctl peer drain " + shellWord(which) + " --undo"
	p, err := a.peerCalled(ctx, which, again)
	if err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	out, err := node.Undrain(ctx, p.Node)
	if err != nil {
		return apiError("cannot end the draining of "+quoted(which), again, err)
	}
	if a.json() {
		return a.printJSON(out)
	}
	return a.print(fmt.Appendf(nil, "%s may have seats again; what was moved stays where it is\n", nodeName(p.Name, p.Node)))
}

// peerMove drains old, or replaces it when by is not empty.
func (a *app) peerMove(ctx context.Context, old, by string) error {
	again := "keyctl peer drain " + shellWord(old)
	question := "this moves all your seats at %s to other holders, and gives it none any more."
	if by != "" {
		again = fmt.Sprintf("keyctl peer replace %s %s", shellWord(old), shellWord(by))
		question = "this gives all your seats at %s to " + printable(by) + "; if it returns it deletes its rows."
	}
	from, err := a.peerCalled(ctx, old, again)
	if err != nil {
		return err
	}
	var to apitype.Peer
	if by != "" {
		if to, err = a.peerCalled(ctx, by, again); err != nil {
			return err
		}
		if to.Node == from.Node {
			return usage("a node does not replace itself", "keyctl peer drain "+shellWord(old)+" moves its seats to others")
		}
	}
	if err := a.confirm(ctx, fmt.Sprintf(question, nodeName(from.Name, from.Node)), old); err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	out, err := a.runMove(ctx, node, from.Node, to.Node)
	if err != nil {
		return apiError("cannot move the seats of "+quoted(old), again, err)
	}
	return a.moved(out, from, again)
}

// runMove starts the job, or finds the one that runs, and waits for its end
// however long it takes.
func (a *app) runMove(ctx context.Context, node *client.Client, from, to string) (apitype.MoveResult, error) {
	var out apitype.MoveResult
	var j apitype.Job
	err := func() (err error) {
		ctx, cancel := a.within(ctx)
		defer cancel()
		if to == "" {
			j, err = node.StartDrain(ctx, from)
		} else {
			j, err = node.StartReplace(ctx, from, to)
		}
		return err
	}()
	if err != nil {
		return out, err
	}
	for j.State == apitype.JobRunning {
		if j, err = a.lookMove(ctx, node, j.ID); err != nil {
			return out, err
		}
	}
	if a.chatty() {
		fmt.Fprint(a.stderr, "\r\x1b[K")
	}
	if j.Problem != nil {
		return out, j.Problem
	}
	if err := json.Unmarshal(j.Result, &out); err != nil {
		return out, &failure{exit: apitype.ExitNode, what: "the node's answer is no account of a move", hint: "keyctl doctor checks the node"}
	}
	return out, nil
}

// moveLook is how often the progress is shown.
const moveLook = 500 * time.Millisecond

// lookMove waits a moment for the end and shows how far it is on a terminal.
func (a *app) lookMove(ctx context.Context, node *client.Client, id string) (apitype.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, moveLook+a.opts.timeout)
	defer cancel()
	begun := time.Now()
	j, err := node.Job(ctx, id, moveLook)
	if err != nil {
		return j, err
	}
	if p := j.Progress; p != nil && a.chatty() {
		fmt.Fprintf(a.stderr, "\r\x1b[K%s", moveLine(*p))
	}
	// The node may have no room to wait for one more.
	if rest := moveLook - time.Since(begun); j.State == apitype.JobRunning && rest > 0 {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return j, ctx.Err()
		}
	}
	return j, nil
}

func moveLine(p apitype.MoveProgress) string {
	line := fmt.Sprintf("%d of %s done", p.Done, plural(p.Found, "secret"))
	if p.Failed > 0 {
		line += fmt.Sprintf(", %d cannot be moved", p.Failed)
	}
	if p.AtRisk > 0 {
		line += fmt.Sprintf(", %d of those left would not outlive one more loss", p.AtRisk)
	}
	return line
}

// moved says what was done. What could not be moved is an error with a hint.
func (a *app) moved(out apitype.MoveResult, from apitype.Peer, again string) error {
	if a.json() {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		line := fmt.Sprintf("%s moved from %s, %d bytes, in %.1f s\n", plural(out.Moved, "seat"), nodeName(from.Name, from.Node), out.Bytes, out.Seconds)
		if err := a.print([]byte(line)); err != nil {
			return err
		}
	}
	for _, n := range out.Notes {
		a.note("note: %s", printable(n))
	}
	if out.Still > 0 {
		a.note("note: it still has %s of those, and deletes them by itself", plural(out.Still, "row"))
	}
	if out.NotMoved > 0 {
		return staysError(out, from, again)
	}
	if !from.Revoked {
		a.note("next: keyctl peer remove %s, if it does not come back", shellWord(nodeName(from.Name, from.Node)))
	}
	return nil
}

// maxStays is how many secrets that could not be moved are named.
const maxStays = 20

func staysError(out apitype.MoveResult, from apitype.Peer, again string) error {
	var lines []string
	for _, f := range out.Failed[:min(maxStays, len(out.Failed))] {
		lines = append(lines, printable(f.Name)+": "+bounded(f.Why))
	}
	if more := out.NotMoved - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more; -o json names up to 1,000", more))
	}
	return &failure{exit: cmp.Or(out.Exit, apitype.ExitQuorum), what: fmt.Sprintf("%s could not be moved from %s", plural(out.NotMoved, "seat"), nodeName(from.Name, from.Node)),
		details: lines, hint: strings.TrimSpace("when there is a remedy, go on: " + again)}
}
