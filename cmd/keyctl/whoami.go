package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "whoami",
		GroupID:           groupMesh,
		Short:             "Say as whom, and through which node, you act",
		Example:           "  keyctl whoami",
		Args:              exactArgs(0, "keyctl whoami"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.whoami(cmd.Context()) },
	}
}

// identityJSON is the answer of whoami.
type identityJSON struct {
	Person      apitype.Person `json:"person"`
	Node        string         `json:"node"`
	Name        string         `json:"name"`
	Operator    string         `json:"operator"`
	Network     string         `json:"network"`
	Fingerprint []string       `json:"fingerprint,omitempty"`
	Target      string         `json:"target"` // where this command reaches the node
}

func (a *app) whoami(ctx context.Context) error {
	p, err := a.place()
	if err != nil {
		return err
	}
	st, err := a.askStatus(ctx)
	if err != nil {
		return err
	}
	id := identityJSON{Person: st.Person, Node: st.Node.Node, Name: st.Node.Name, Operator: st.Node.Operator,
		Network: st.Network, Fingerprint: st.Node.Fingerprint, Target: p.String()}
	if a.json() {
		return a.printJSON(id)
	}
	var b strings.Builder
	fact(&b, "person", "%s", id.Person.Person)
	fact(&b, "called", "%s", dash(id.Person.Name))
	fact(&b, "node", "%s", id.Node)
	fact(&b, "named", "%s", dash(id.Name))
	fact(&b, "operator", "%s", dash(id.Operator))
	if len(id.Fingerprint) > 0 {
		fact(&b, "fingerprint", "%s", strings.Join(id.Fingerprint, " "))
	}
	fact(&b, "network", "%s", id.Network)
	fact(&b, "reached at", "%s", id.Target)
	return a.print([]byte(b.String()))
}
