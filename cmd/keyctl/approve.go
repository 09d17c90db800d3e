package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

func (a *app) pendingCommand() *cobra.Command {
	mine := false
	cmd := &cobra.Command{
		Use:               "pending",
		GroupID:           groupSecrets,
		Short:             "Show the requests that wait for you, and your own",
		Long:              "Pending shows the requests that this node was told of and that wait for your word, or\nthat you may stop, and those that you made.",
		Example:           "  keyctl pending\n  keyctl pending --mine",
		Args:              exactArgs(0, "keyctl pending"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.pending(cmd.Context(), mine) },
	}
	cmd.Flags().BoolVar(&mine, "mine", false, "only what you asked for, with what the holders say of it now")
	return cmd
}

func (a *app) pending(ctx context.Context, mine bool) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	node, err := a.node()
	if err != nil {
		return err
	}
	items, err := node.Requests(ctx)
	if err != nil {
		return apiError("cannot list the requests", "keyctl pending", err)
	}
	if mine {
		return a.pendingMine(ctx, node, items)
	}
	if a.json() {
		return a.printJSON(apitype.Requests{Items: items})
	}
	t := newTable("ID", "STATE", "ASKS TO", "SECRET", "BY", "APPROVALS", "YOURS", "EXPIRES", "REASON")
	for _, r := range items {
		yours := "may approve"
		switch {
		case r.Mine:
			yours = "asked"
		case r.Veto && r.Approver:
			yours = "may approve or veto"
		case r.Veto:
			yours = "may veto"
		case !r.Approver:
			yours = "told"
		}
		t.row(short(r.Request), r.State, r.Verb, dash(r.Name), whose(r.By, short(r.Requester)), fmt.Sprintf("%d of %d", r.Have, r.Need), yours, when(r.Expires, "-"), dash(bounded(r.Reason)))
	}
	return t.writeTo(a)
}

// whose is a person's name, or the key where there is none.
func whose(name, key string) string {
	if name != "" {
		return name
	}
	return key
}

// named is a person's name with the key.
func named(name, key string) string {
	if name == "" {
		return key
	}
	return name + " (" + key + ")"
}

// asksTo says a request's verb.
func asksTo(verb string) string {
	switch verb {
	case "policy":
		return "change who may recover it"
	case "delete":
		return "delete it"
	}
	return "recover it"
}

// short is enough of an id to tell it from others.
func short(s string) string { return s[:min(len(s), 16)] }

func (a *app) wordCommand(verb, about, long string) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:               verb + " ID",
		GroupID:           groupSecrets,
		Short:             about,
		Long:              long,
		Example:           "  keyctl " + verb + " 3f9a01c2 --note \"spoke to Ann by phone\"",
		Args:              exactArgs(1, "keyctl "+verb+" ID; keyctl pending shows the ids"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.word(cmd.Context(), verb, args[0], note) },
	}
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` that is signed with it and that all who are concerned can read")
	return cmd
}

func (a *app) approveCommand() *cobra.Command {
	return a.wordCommand("approve", "Approve a request",
		"Approve shows who asks for what and why, and six words; compare them with the requester\nby phone before you confirm. The approval is for exactly this request. ID may be the\nbeginning of one.")
}

func (a *app) denyCommand() *cobra.Command {
	return a.wordCommand("deny", "Deny a request",
		"Deny takes back your approval; where the policy lets you veto, it ends the request for\ngood. ID may be the beginning of one.")
}

func (a *app) word(ctx context.Context, verb, id, note string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	r, err := a.findRequest(ctx, node, verb, id)
	if err != nil {
		return err
	}
	a.showRequest(r)
	if err := a.confirm(ctx, "you "+verb+" exactly this request.", verb); err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	say := node.Approve
	if verb == "deny" {
		say = node.Deny
	}
	if err := say(ctx, r.Request, note); err != nil {
		return writeError("cannot "+verb+" the request", "keyctl "+verb+" "+short(r.Request), err)
	}
	if a.json() {
		return a.printJSON(apitype.Heard{Request: r.Request})
	}
	return a.print(fmt.Appendf(nil, "%s: signed, and on disk at the holders\n", verb))
}

// findRequest finds the one request that id is the beginning of.
func (a *app) findRequest(ctx context.Context, node *client.Client, verb, id string) (apitype.Request, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	items, err := node.Requests(ctx)
	if err != nil {
		return apitype.Request{}, apiError("cannot find the request", "keyctl "+verb, err)
	}
	var found []apitype.Request
	for _, r := range items {
		if len(id) >= 4 && strings.HasPrefix(r.Request, id) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return apitype.Request{}, &failure{exit: apitype.ExitNotFound, what: fmt.Sprintf("%s begin with %s, and one is meant", plural(len(found), "request"), quoted(id)),
			hint: "keyctl pending shows the ids; at least four digits are needed"}
	}
	return found[0], nil
}

// showRequest shows all that a person needs to decide, on standard error.
func (a *app) showRequest(r apitype.Request) {
	name := "not proven to this node; the secret's id is " + r.ID
	if r.Name != "" {
		name = r.Name + " (proven)"
	}
	var b strings.Builder
	fact(&b, "request", "%s", r.Request)
	fact(&b, "secret", "%s", name)
	fact(&b, "asks to", "%s", asksTo(r.Verb))
	if r.Verb == "policy" {
		fact(&b, "new policy", "%s", whose(r.Change, "not shown: it did not come with the request; ask the requester"))
	}
	fact(&b, "owner", "%s", named(r.OwnerName, r.Owner))
	fact(&b, "asked by", "%s", named(r.By, r.Requester))
	fact(&b, "reason", "%s", dash(r.Reason))
	fact(&b, "state", "%s, %d of %d approvals", r.State, r.Have, r.Need)
	fact(&b, "expires", "%s", when(r.Expires, "never"))
	fact(&b, "words", "%s", strings.Join(r.Words, " "))
	for _, s := range r.Said {
		fact(&b, "said", "%s: %s %s", named(s.Name, s.Person), map[bool]string{true: "denied", false: "approved"}[s.Denied], s.Note)
	}
	fmt.Fprint(a.stderr, b.String())
}
