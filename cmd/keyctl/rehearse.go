package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const rehearseLong = `Rehearse walks the whole path of a recovery: the holders find the secret, judge
you by its policy, and each proves to the others' measure that its row is good,
without giving it. Nothing is released and nobody is asked to approve. It says
whether a recovery would succeed, with what margin, what signatures it would
still need, and who has not answered for how long.

It ends with 0 when a recovery would succeed, 5 when it would not, and 7 when a
holder failed its proof, also where the others suffice.`

func (a *app) rehearseCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rehearse NAME",
		GroupID:           groupSecrets,
		Short:             "Walk the whole path of a recovery without one",
		Long:              rehearseLong,
		Example:           "  keyctl rehearse demo/db",
		Args:              exactArgs(1, "keyctl rehearse NAME"),
		ValidArgsFunction: a.completeName,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.rehearse(cmd.Context(), args[0]) },
	}
}

// rehearsalJSON is the answer of rehearse under -o json.
type rehearsalJSON struct {
	apitype.Rehearsal
	Seats []apitype.Seat `json:"seats"`
}

func (a *app) rehearse(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	verb := "keyctl rehearse " + shellWord(name)
	j, err := a.runJob(ctx, node, name, apitype.JobRehearse, nil)
	if err != nil {
		return apiError("cannot rehearse the recovery of "+quoted(name), verb, err)
	}
	out := rehearsalJSON{Seats: j.Seats}
	if err := json.Unmarshal(j.Result, &out.Rehearsal); err != nil {
		return &failure{exit: apitype.ExitNode, what: "the node's answer is no rehearsal", hint: "keyctl doctor checks the node"}
	}
	if a.json() {
		err = a.printJSON(out)
	} else {
		err = a.showRehearsal(out)
	}
	if err != nil {
		return err
	}
	return rehearsalEnd(name, verb, out.Rehearsal)
}

// rehearsalEnd is the failure that a rehearsal ends with, or nil.
func rehearsalEnd(name, verb string, r apitype.Rehearsal) error {
	f := &failure{exit: r.Exit, why: bounded(r.Why)}
	for _, b := range r.Failed {
		f.details = append(f.details, fmt.Sprintf("%s failed its proof: %s", nodeName(b.Name, b.Node), bounded(b.Why)))
	}
	switch {
	case r.Exit == apitype.ExitOK:
		return nil
	case !r.OK:
		f.what = "a recovery of " + quoted(name) + " would not succeed now"
	default:
		f.what = "a recovery of " + quoted(name) + " would succeed, but " + plural(len(r.Failed), "holder") + " failed the proof"
	}
	f.hint = hintFor(f, verb)
	return f
}

func (a *app) showRehearsal(r rehearsalJSON) error {
	var b strings.Builder
	verdict := a.paint(green, "it would succeed")
	switch {
	case !r.OK:
		verdict = a.paint(red, "it would not succeed")
	case r.Wait > 0:
		verdict = a.paint(yellow, fmt.Sprintf("it would succeed after %v", time.Duration(r.Wait)*time.Second))
	case len(r.Missing) > 0:
		verdict = a.paint(yellow, "it would succeed once others have signed")
	case len(r.Failed) > 0:
		verdict = a.paint(yellow, "it would succeed")
	}
	fmt.Fprintf(&b, "%-12s %s\n", "recovery", verdict)
	fact(&b, "secret", "%s, generation %d", r.Name, r.Gen)
	fact(&b, "proven", "%d of %d holders have good rows; %d are needed", r.Proven, r.N, r.K)
	if r.Margin >= 0 {
		fact(&b, "margin", "%d more may be lost", r.Margin)
	} else {
		fact(&b, "margin", "%d are missing", -r.Margin)
	}
	fact(&b, "policy", "%s", r.Policy)
	fact(&b, "signatures", "%d of %d", r.Have, r.Need)
	for _, m := range r.Missing {
		fact(&b, "missing", "%s", bounded(m))
	}
	b.WriteString("\n" + rehearsalSeats(r.Seats))
	if len(r.Approvers) > 0 {
		b.WriteString("\n" + rehearsalApprovers(r.Approvers))
	}
	return a.print([]byte(b.String()))
}

func rehearsalSeats(seats []apitype.Seat) string {
	t := newTable("HOLDER", "OPERATOR", "STATE", "SILENT", "WHY")
	for _, s := range seats {
		t.row(nodeName(s.Name, s.Node), dash(s.Operator), s.State, silence(s.Silent), dash(bounded(s.Why)))
	}
	return t.text()
}

func rehearsalApprovers(all []apitype.Approver) string {
	t := newTable("CAN SIGN", "NODES", "REACHABLE", "SILENT")
	for _, p := range all {
		t.row(p.Person, fmt.Sprint(p.Nodes), fmt.Sprint(p.Reachable), silence(p.Silent))
	}
	return t.text()
}

// silence is how long nobody was heard; 0 is no silence that is known of.
func silence(seconds uint64) string {
	if seconds == 0 {
		return "-"
	}
	return (time.Duration(min(seconds, 1<<32)) * time.Second).String()
}
