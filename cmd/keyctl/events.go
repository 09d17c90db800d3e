package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const eventsLong = `Events shows, as it happens, who asks for your secrets, and what becomes of it: that a
holder gave its row, that somebody stopped it. It shows the same of requests that wait
for your word. It goes on until interrupted, or until the node ends.

The node keeps the last 256 events, in memory: --since 0 shows those, --since ID those
after the one with this id. "gap" says that some may be lost; keyctl pending has the
requests themselves, also after a restart, and keyctl audit tail what this node did.`

func (a *app) eventsCommand() *cobra.Command {
	var since, as string
	cmd := &cobra.Command{
		Use:               "events",
		GroupID:           groupSecrets,
		Short:             "Show who asks for your secrets, as it happens",
		Long:              eventsLong,
		Example:           "  keyctl events --since 0\n  keyctl events -o json | jq .request.name",
		Args:              exactArgs(0, "keyctl events"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.events(cmd.Context(), since, as) },
	}
	cmd.Flags().StringVar(&since, "since", "", "those after the event with this `ID`; 0 for all that the node keeps")
	cmd.Flags().StringVar(&as, "as", "", "those of this `PERSON` of the node")
	return cmd
}

func (a *app) events(ctx context.Context, since, as string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	node.As = as
	err = node.Events(ctx, since, func(e apitype.Event) error {
		if a.json() {
			return a.printJSON(e)
		}
		return a.print([]byte(eventLine(e) + "\n"))
	})
	var said *failure
	switch {
	case errors.As(err, &said):
		return err
	case ctx.Err() != nil:
		return &failure{exit: apitype.ExitInterrupted, what: "interrupted", quiet: true}
	}
	return apiError("the events ended", "keyctl events", err)
}

func eventLine(e apitype.Event) string {
	if e.Request == nil {
		return fmt.Sprintf("-  %s  %s", when(e.Time, "-"), printable(e.Kind))
	}
	r := e.Request
	name := r.Name
	if name == "" {
		name = short(r.ID)
	}
	by := r.By
	if by == "" {
		by = short(r.Requester)
	}
	line := fmt.Sprintf("%s  %s  %s  %s  by %s  request %s  %d of %d approvals", printable(e.ID), when(e.Time, "-"), printable(e.Kind), printable(name), printable(by), short(printable(r.Request)), r.Have, r.Need)
	if r.Reason != "" {
		line += "  " + bounded(r.Reason)
	}
	return line
}
