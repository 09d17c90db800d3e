package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

// watchEvery is how often status --watch asks.
const watchEvery = 2 * time.Second

const statusLong = `Status says how this node, its mesh and your secrets stand. It exits 0 when all is
well, 11 when something is degraded but every secret can be recovered, and 5 when
some secret has too few holders now.`

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:               "status",
		GroupID:           groupMesh,
		Short:             "Say how node, mesh and secrets stand",
		Long:              statusLong,
		Example:           "  keyctl status\n  keyctl status --watch\n  keyctl status -o json | jq .secrets",
		Args:              exactArgs(0, "keyctl status"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watchStatus(cmd.Context())
			}
			return a.status(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until interrupted, showing every change")
	return cmd
}

// status prints the status once; its health is the exit code.
func (a *app) status(ctx context.Context) error {
	st, err := a.askStatus(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		err = a.printJSON(st)
	} else {
		err = a.print([]byte(a.statusText(st)))
	}
	if err != nil {
		return err
	}
	if code := healthExit(st); code != apitype.ExitOK {
		// The answer itself says what is wrong.
		return &failure{exit: code, what: "status is " + printable(st.Health), quiet: true}
	}
	return nil
}

func (a *app) askStatus(ctx context.Context) (apitype.Status, error) {
	node, err := a.node()
	if err != nil {
		return apitype.Status{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	st, err := node.Status(ctx)
	return st, apiError("cannot ask for the status", "keyctl status", err)
}

// healthExit is the exit code of a status. A health that is not known here is
// left to the node.
func healthExit(st apitype.Status) int {
	switch st.Health {
	case apitype.Healthy:
		return apitype.ExitOK
	case apitype.Degraded:
		return apitype.ExitDegraded
	case apitype.Critical:
		return apitype.ExitQuorum
	}
	if st.Exit > 0 && st.Exit < 64 {
		return st.Exit
	}
	return apitype.ExitNode
}

// watchStatus prints the status each time it differs, until ctx ends or the
// answer can no longer be written. A node that does not answer is one state of
// many here.
func (a *app) watchStatus(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := ""
	for {
		st, err := a.askStatus(ctx)
		if ctx.Err() != nil {
			return &failure{exit: apitype.ExitInterrupted, what: "interrupted", quiet: true}
		}
		now := ""
		if err != nil {
			now = "no answer: " + err.Error()
		} else {
			now = a.statusText(st)
		}
		if now != last {
			if err := a.showChange(st, now, err); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return &failure{exit: apitype.ExitInterrupted, what: "interrupted", quiet: true}
		case <-tick.C:
		}
	}
}

// showChange prints one state: the status on standard output, a silent node on
// standard error.
func (a *app) showChange(st apitype.Status, text string, failed error) error {
	stamp := time.Now().Format(time.TimeOnly)
	switch {
	case failed != nil:
		fmt.Fprintf(a.stderr, "%s %s\n", stamp, text)
		return nil
	case a.json():
		return a.printJSON(st)
	}
	return a.print([]byte(stamp + "\n" + text + "\n"))
}

func (a *app) statusText(st apitype.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %s\n", "health", a.paint(healthColour(st), printable(st.Health)))
	for _, r := range st.Reasons {
		fact(&b, "", "%s", r)
	}
	fact(&b, "secrets", "%d, of which %d miss a row, %d are at risk, %d below their threshold", st.Secrets.Total, st.Secrets.Short, st.Secrets.AtRisk, st.Secrets.Below)
	fact(&b, "mesh", "%d of %d nodes online, %d of %d holders", st.Online, st.Members, st.Reachable, st.Holders)
	if st.Lapsed > 0 || st.Revoked > 0 {
		fact(&b, "", "%d with an expired certificate, %d revoked", st.Lapsed, st.Revoked)
	}
	fact(&b, "node", "%s (%s)", dash(st.Node.Name), st.Node.Node)
	fact(&b, "operator", "%s, zone %s", dash(st.Node.Operator), dash(st.Node.Zone))
	fact(&b, "person", "%s (%s)", dash(st.Person.Name), st.Person.Person)
	fact(&b, "network", "%s", st.Network)
	fact(&b, "store", "%s", storeText(st.Storage))
	fact(&b, "audit log", "%s", auditStateText(st.Audit))
	fact(&b, "version", "%s", st.Version)
	for _, w := range st.Warnings {
		fact(&b, "warning", "%s", w)
	}
	return b.String()
}

func healthColour(st apitype.Status) colour {
	switch st.Health {
	case apitype.Healthy:
		return green
	case apitype.Critical:
		return red
	}
	return yellow
}

func auditStateText(s apitype.AuditState) string {
	switch {
	case s.Error != "":
		return "stopped: " + s.Error
	case len(s.Wrong) > 0:
		return strings.Join(s.Wrong, "; ")
	}
	return fmt.Sprintf("%d entries, witnessed up to %d", s.Last, s.Witnessed)
}

func storeText(s apitype.Storage) string {
	if s.Error != "" {
		return "stopped: " + s.Error
	}
	text := fmt.Sprintf("%s in %s", plural(s.Records, "record"), byteCount(s.Bytes))
	if s.MaxBytes > 0 {
		text += " of " + byteCount(s.MaxBytes)
	}
	return text
}
