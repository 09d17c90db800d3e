package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

const verifyLong = `Verify has every holder of a secret prove that its row and the ciphertext are
there and right. A holder's own word is never enough: holders prove their rows to
one another's measure. Nothing is released.

It ends with 0 when enough holders for a recovery have proven theirs, 5 when not,
and 7 when a row is damaged or a holder proves nothing.`

const repairLong = `Repair brings the holders of a secret back. Holders that lack their row, or whose
row is damaged, get it from what the others' rows have in common with it; the
secret and every other row exist nowhere while that happens. Seats of holders
that are gone for good, removed from the network or silent for a day, are given
to standbys or, after those, to the holders that placement prefers. With --to the
seats of all holders that cannot be reached go to the nodes named, in that order.

It ends with 0 when every seat is good, 5 when some are not yet (what was begun
goes on without keyctl), and 7 when a row is damaged.`

func (a *app) verifyCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "verify NAME", GroupID: groupSecrets, Short: "Have the holders of a secret prove their rows", Long: verifyLong,
		Example:           "  keyctl verify demo/db\n  keyctl verify --all",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSeats(cmd.Context(), apitype.JobVerify, args, all, nil)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every secret of this person")
	return cmd
}

func (a *app) repairCommand() *cobra.Command {
	var all bool
	var to []string
	cmd := &cobra.Command{
		Use: "repair NAME", GroupID: groupSecrets, Short: "Bring the holders of a secret back", Long: repairLong,
		Example:           "  keyctl repair demo/db\n  keyctl repair demo/db --to golf\n  keyctl repair --all",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSeats(cmd.Context(), apitype.JobRepair, args, all, apitype.RepairRequest{To: to})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every secret of this person")
	cmd.Flags().StringSliceVar(&to, "to", nil, "`NODE,...` that take the seats of holders that cannot be reached")
	cmd.Flags().SortFlags = false
	_ = cmd.RegisterFlagCompletionFunc("to", a.completePeer) // the flag exists
	return cmd
}

// seatsJSON is the answer of verify and repair for one secret under -o json.
// What only repair says is absent from verify's.
type seatsJSON struct {
	apitype.Verified
	Moved []apitype.Moved `json:"moved,omitempty"`
	Liars []apitype.Bad   `json:"liars,omitempty"`
	Notes []string        `json:"notes,omitempty"`
	Seats []apitype.Seat  `json:"seats"`
}

// eachSeats runs verify or repair on one secret or on all, and ends with the
// worst of their codes.
func (a *app) eachSeats(ctx context.Context, verb string, args []string, all bool, in any) error {
	if all == (len(args) == 1) {
		return usage("give the name of a secret, or --all", "keyctl "+verb+" NAME")
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	if all {
		if args, err = a.allNames(ctx, node); err != nil {
			return err
		}
	}
	var worst error
	var results []seatsJSON
	for _, name := range args {
		r, err := a.oneSeats(ctx, node, verb, name, in)
		if err == nil {
			results = append(results, r)
			err = seatsEnd(verb, r)
		}
		if err != nil && (worst == nil || exitOf(err) > exitOf(worst)) {
			worst = err
		}
		if err != nil && all && ctx.Err() == nil {
			a.note("%s: %v", printable(name), err)
		}
	}
	if a.json() {
		if err := a.printSeats(results, all); err != nil {
			return err
		}
	}
	return worst
}

func exitOf(err error) int {
	if f, ok := err.(*failure); ok {
		return f.exit
	}
	return apitype.ExitLocal
}

func (a *app) printSeats(results []seatsJSON, all bool) error {
	switch {
	case all:
		return a.printJSON(struct {
			Items []seatsJSON `json:"items"`
		}{append([]seatsJSON{}, results...)})
	case len(results) == 1:
		return a.printJSON(results[0])
	}
	return nil
}

func (a *app) allNames(ctx context.Context, node *client.Client) ([]string, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	list, err := listAll(ctx, node, "")
	if err != nil {
		return nil, apiError("cannot list secrets", "keyctl ls", err)
	}
	var out []string
	for _, it := range list.Items {
		out = append(out, it.Name)
	}
	return out, nil
}

func (a *app) oneSeats(ctx context.Context, node *client.Client, verb, name string, in any) (seatsJSON, error) {
	j, err := a.runJob(ctx, node, name, verb, in)
	if err != nil {
		return seatsJSON{}, apiError("cannot "+verb+" "+quoted(name), "keyctl "+verb+" "+shellWord(name), err)
	}
	out := seatsJSON{Seats: j.Seats}
	if err := json.Unmarshal(j.Result, &out); err != nil {
		return out, &failure{exit: apitype.ExitNode, what: "the node's answer is no account of seats", hint: "keyctl doctor checks the node"}
	}
	out.Seats = j.Seats
	if a.json() {
		return out, nil
	}
	return out, a.print([]byte(a.seatsText(out)))
}

func (a *app) seatsText(r seatsJSON) string {
	var b strings.Builder
	color := green
	if r.Good < r.N {
		color = yellow
	}
	if r.Good < r.K {
		color = red
	}
	fmt.Fprintf(&b, "%s generation %d, epoch %d: %s, %d are needed\n", printable(r.Name), r.Gen, r.Epoch,
		a.paint(color, fmt.Sprintf("%d of %d holders have proven their rows", r.Good, r.N)), r.K)
	b.WriteString(rehearsalSeats(r.Seats))
	for _, m := range r.Moved {
		fmt.Fprintf(&b, "seat %d went from %s to %s\n", m.X, nodeName("", m.From), seatName(r.Seats, m.To))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", printable(n))
	}
	return b.String()
}

func seatName(seats []apitype.Seat, node string) string {
	for _, s := range seats {
		if s.Node == node {
			return nodeName(s.Name, node)
		}
	}
	return nodeName("", node)
}

// seatsEnd is the failure that verify or repair ends with, or nil.
func seatsEnd(verb string, r seatsJSON) error {
	if r.Exit == apitype.ExitOK {
		return nil
	}
	f := &failure{exit: r.Exit, what: fmt.Sprintf("%d of %d holders of %s have proven their rows", r.Good, r.N, quoted(r.Name))}
	for _, s := range r.Seats {
		if s.State != "good" {
			f.details = append(f.details, fmt.Sprintf("%s is %s: %s", nodeName(s.Name, s.Node), s.State, bounded(s.Why)))
		}
	}
	if verb == apitype.JobVerify {
		f.hint = "keyctl repair " + shellWord(r.Name) + " brings them back"
	} else {
		f.hint = "keyctl repair " + shellWord(r.Name) + " --to NODE gives the seats of holders that are gone to others"
	}
	return f
}
