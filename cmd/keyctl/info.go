package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const infoLong = `Info shows everything about a secret but its value: its generations, who holds
which seat, who may recover it, and three margins: how many holders must be lost
until it is lost, collude until it leaks, or be silent until it is stuck.`

func (a *app) infoCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "info NAME",
		GroupID:           groupSecrets,
		Short:             "Show seats, generations, policy and margins of a secret",
		Long:              infoLong,
		Example:           "  keyctl info demo/db\n  keyctl info demo/db -o json | jq .acked",
		Args:              exactArgs(1, "keyctl info NAME"),
		ValidArgsFunction: a.completeName,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.info(cmd.Context(), args[0]) },
	}
}

func (a *app) info(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	in, err := node.Info(ctx, name)
	if err != nil {
		return apiError("cannot look up "+quoted(name), "keyctl info "+shellWord(name), err)
	}
	if a.json() {
		return a.printJSON(in)
	}
	return a.print([]byte(infoText(in)))
}

func infoText(in apitype.Info) string {
	var b strings.Builder
	fact(&b, "name", "%s", in.Name)
	if in.Description != "" {
		fact(&b, "description", "%s", in.Description)
	}
	for _, k := range slices.Sorted(maps.Keys(in.Labels)) {
		fact(&b, "label", "%s=%s", k, in.Labels[k])
	}
	fact(&b, "generation", "%d", in.Gen)
	fact(&b, "readable", "%s", numbers(in.Generations))
	if len(in.Pending) > 0 {
		fact(&b, "pending", "%s", numbers(in.Pending))
	}
	fact(&b, "shared", "%d-of-%d, acknowledged at %d", in.K, in.N, in.W)
	fact(&b, "acked", "%d", in.Acked)
	if in.Margin < 0 {
		fact(&b, "margin", "%s must return before it can be recovered", plural(-in.Margin, "holder"))
	} else {
		fact(&b, "margin", "%s may still be lost", plural(in.Margin, "more holder"))
	}
	fact(&b, "size", "%s", plural(int(in.Size), "byte"))
	fact(&b, "created", "%s", when(in.Created, "-"))
	fact(&b, "expires", "%s", when(in.Expires, "never"))
	fact(&b, "keeps", "%s", plural(in.Keep, "earlier generation"))
	fact(&b, "repair by", "%s", dash(in.Repair))
	fact(&b, "policy", "%s", dash(in.Policy))
	fact(&b, "loses-if", "%s", marginText(in.LosesIf))
	fact(&b, "leaks-if", "%s", marginText(in.LeaksIf))
	fact(&b, "stuck-if", "%s", marginText(in.StuckIf))
	fact(&b, "owner", "%s", in.Owner)
	fact(&b, "id", "%s", in.ID)
	fact(&b, "manifest", "%s", in.Manifest)
	if len(in.Standby) > 0 {
		fact(&b, "standby", "%s", strings.Join(in.Standby, ", "))
	}
	b.WriteByte('\n')
	return b.String() + seatTable(in.Seats).text()
}

func seatTable(seats []apitype.Seat) *table {
	t := newTable("SEAT", "NODE", "OPERATOR", "ZONE", "STATE", "WHY")
	for i, s := range seats {
		t.row(fmt.Sprint(i+1), nodeName(s.Name, s.Node), dash(s.Operator), dash(s.Zone), dash(s.State), boundedCell(s.Why))
	}
	return t
}

// boundedCell cuts a stranger's words; the table escapes them.
func boundedCell(s string) string {
	if len(s) > 200 {
		return s[:200]
	}
	return s
}

func marginText(m apitype.Margin) string {
	if m.Words != "" {
		return m.Words
	}
	return plural(m.Count, "holder")
}

func numbers(n []uint64) string {
	if len(n) == 0 {
		return "none"
	}
	var s []string
	for _, v := range n {
		s = append(s, fmt.Sprint(v))
	}
	return strings.Join(s, ", ")
}
