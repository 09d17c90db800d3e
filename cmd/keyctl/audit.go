package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		GroupID: groupMesh,
		Short:   "Read, check and export the log of what this node did and refused",
		Example: "  keyctl audit tail -f\n  keyctl audit verify\n  keyctl audit export --out audit.jsonl",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl audit needs a verb: tail, verify or export", "keyctl audit tail")
			}
			return unknownWord("audit verb", args[0], []string{"tail", "verify", "export"}, "keyctl audit ")
		},
	}
	cmd.AddCommand(a.auditTailCommand(), a.auditVerifyCommand(), a.auditExportCommand())
	return cmd
}

type tailFlags struct {
	follow bool
	count  int
	since  uint64
	from   bool // since was given
}

const auditTailLong = `Tail shows entries of the audit log of this node, the oldest first: what it gave out
and refused, words of persons on requests, and who became or ceased to be a member.
Each has its position in the log, which a receipt names too. Names are shown of your
own secrets only.

Without --since it shows the newest. With -f it goes on until interrupted.`

func (a *app) auditTailCommand() *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:               "tail",
		Short:             "Show entries of the audit log",
		Long:              auditTailLong,
		Example:           "  keyctl audit tail -n 50\n  keyctl audit tail --since 1200 -o json",
		Args:              exactArgs(0, "keyctl audit tail"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.count < 1 {
				return usage("-n is a number of entries, 1 or more", "keyctl audit tail -n 20")
			}
			f.from = cmd.Flags().Changed("since")
			return a.auditTail(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&f.follow, "follow", "f", false, "go on until interrupted, showing new entries")
	fl.IntVarP(&f.count, "count", "n", 20, "at most so many `ENTRIES` to begin with")
	fl.Uint64Var(&f.since, "since", 0, "those after the entry at this `POSITION`")
	fl.SortFlags = false
	return cmd
}

func (a *app) auditTail(ctx context.Context, f tailFlags) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	page, err := a.auditPages(ctx, node, f)
	if err != nil {
		return err
	}
	if a.json() && !f.follow {
		return a.printJSON(page)
	}
	if err := a.printEntries(page.Items); err != nil || !f.follow {
		return err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	next := tailFlags{count: apitype.MaxPage, since: page.Next, from: true}
	for {
		select {
		case <-ctx.Done():
			return &failure{exit: apitype.ExitInterrupted, what: "interrupted", quiet: true}
		case <-tick.C:
		}
		page, err := a.auditPages(ctx, node, next)
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			return err
		}
		if err := a.printEntries(page.Items); err != nil {
			return err
		}
		next.since = page.Next
	}
}

// auditPages asks for as many pages as f wants.
func (a *app) auditPages(ctx context.Context, node *client.Client, f tailFlags) (apitype.AuditPage, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	out := apitype.AuditPage{Items: []apitype.AuditEntry{}}
	ask := func(since *uint64, limit int) (apitype.AuditPage, error) {
		page, err := node.Audit(ctx, since, min(limit, apitype.MaxPage))
		return page, apiError("cannot read the audit log", "keyctl audit tail", err)
	}
	since := f.since
	if !f.from {
		newest, err := ask(nil, f.count)
		if err != nil || f.count <= apitype.MaxPage {
			return newest, err
		}
		since = newest.Last - min(newest.Last, uint64(f.count))
	}
	for out.Next = since; len(out.Items) < f.count; {
		page, err := ask(&out.Next, f.count-len(out.Items))
		if err != nil {
			return apitype.AuditPage{}, err
		}
		out.Items, out.Last = append(out.Items, page.Items...), page.Last
		if len(page.Items) == 0 || page.Next <= out.Next {
			break
		}
		out.Next = page.Next
	}
	return out, nil
}

// printEntries prints entries as lines, or each as one JSON value.
func (a *app) printEntries(items []apitype.AuditEntry) error {
	for _, e := range items {
		var err error
		if a.json() {
			err = a.printJSON(e)
		} else {
			err = a.print([]byte(entryLine(e) + "\n"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func entryLine(e apitype.AuditEntry) string {
	line := fmt.Sprintf("%d  %s  %s", e.Position, when(e.Time, "-"), printable(e.Kind))
	secret := e.Name
	if secret == "" {
		secret = short(e.ID)
	}
	for _, x := range []struct{ label, text string }{
		{"", secret}, {"by ", short(e.Person)}, {"node ", short(e.Node)}, {"request ", short(e.Request)}, {"", e.Detail}, {"api ", e.RequestID},
	} {
		if x.text != "" {
			line += "  " + x.label + printable(x.text)
		}
	}
	return line
}

const auditVerifyLong = `Verify has the node read its whole audit log from the disk again and ask its peers for
what they keep of it under this node's own signature. So it finds an entry that was
edited, moved or removed, and a log that was cut off, rewritten or exchanged for an
older copy, also by somebody who has the node's keys, as far as a peer has seen it.

With --file it checks an export of any node's log, also against what this node keeps
of that node. "keynode audit verify FILE" does it without any node.

It exits 7 when something is cut or changed, and says what.`

func (a *app) auditVerifyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:               "verify",
		Short:             "Check the audit log against itself and against what peers keep",
		Long:              auditVerifyLong,
		Example:           "  keyctl audit verify --timeout 2m\n  keyctl audit verify --file audit.jsonl",
		Args:              exactArgs(0, "keyctl audit verify"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				return a.auditVerifyFile(cmd.Context(), file)
			}
			return a.auditVerify(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "check this export, `FILE` or - for standard input")
	return cmd
}

func (a *app) auditVerify(ctx context.Context) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	got, err := node.AuditVerify(ctx)
	if err != nil {
		return apiError("cannot verify the audit log", "keyctl audit verify", err)
	}
	if a.json() {
		err = a.printJSON(got)
	} else {
		err = a.print([]byte(auditText(got)))
	}
	if err != nil {
		return err
	}
	return auditVerdict(got)
}

func auditText(c apitype.AuditCheck) string {
	var b strings.Builder
	fact(&b, "node", "%s", c.Node)
	state := "in order"
	if !c.Intact {
		state = "NOT IN ORDER: " + c.Wrong
	}
	fact(&b, "log", "entries %d to %d, %s", c.First, c.Last, state)
	fact(&b, "head", "%s", c.Hash)
	if c.Stopped != "" {
		fact(&b, "stopped", "%s", c.Stopped)
	}
	fact(&b, "witnessed", "up to entry %d; %d of %d peers answered now", c.Witnessed, c.Answered, c.Asked)
	for _, p := range c.Peers {
		text := "has no head of this log"
		if p.Position > 0 {
			text = fmt.Sprintf("has this log up to entry %d, signed %s", p.Position, when(p.Signed, "-"))
		}
		if p.Theirs > 0 {
			text += fmt.Sprintf("; theirs is here up to entry %d", p.Theirs)
		}
		if !p.Online {
			text += "; offline"
		}
		fact(&b, "peer", "%s: %s", peerOf(p), text)
	}
	return b.String()
}

// peerOf is how the peer is called; fact escapes it.
func peerOf(p apitype.AuditPeer) string {
	if p.Name != "" {
		return p.Name
	}
	return p.Node
}

// auditVerdict is the exit code of what was found.
func auditVerdict(c apitype.AuditCheck) error {
	f := &failure{exit: apitype.ExitIntegrity, what: "the audit log is not in order", why: printable(c.Wrong),
		hint: "keep the data directory as it is; keyctl audit verify -o json has the signed proof, and keyctl audit export at the peers theirs"}
	for _, p := range c.Peers {
		switch p.Contradiction {
		case apitype.AuditOwn:
			f.details = append(f.details, fmt.Sprintf("%s holds this node's signature for entry %d, which the log does not bear out", printable(peerOf(p)), p.Position))
		case apitype.AuditTheirs:
			f.details = append(f.details, fmt.Sprintf("%s has signed two histories: its log was cut or rewritten", printable(peerOf(p))))
		}
	}
	switch {
	case !c.Intact:
		return f
	case len(f.details) > 0:
		f.what, f.why = "an audit log of the mesh was cut or rewritten", ""
		return f
	case c.Stopped != "":
		return &failure{exit: apitype.ExitStorage, what: "the audit log cannot be written", why: printable(c.Stopped), hint: "look at the disk, then restart the node"}
	}
	return nil
}

func (a *app) auditVerifyFile(ctx context.Context, path string) error {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return local("cannot read "+printable(path), err, "keyctl audit verify --file FILE")
		}
		defer f.Close()
		in = f
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	got, err := node.AuditVerifyExport(ctx, in)
	if err != nil {
		return apiError("cannot verify the export", "keyctl audit verify --file FILE", err)
	}
	if a.json() {
		err = a.printJSON(got)
	} else if got.Intact {
		err = a.print([]byte(exportText(got)))
	}
	if err == nil && !got.Intact {
		err = &failure{exit: apitype.ExitIntegrity, what: "the export is not in order", why: printable(got.Wrong),
			hint: "take a new one where the log is: keyctl audit export; if that fails too, keyctl audit verify there"}
	}
	return err
}

func exportText(c apitype.AuditExportCheck) string {
	var b strings.Builder
	fact(&b, "node", "%s", c.Node)
	fact(&b, "log", "entries up to %d, in order", c.Last)
	fact(&b, "head", "%s", c.Hash)
	fact(&b, "signed", "%s, and %s by that node agree", when(c.Signed, "not under the end"), plural(c.Heads, "head"))
	return b.String()
}

func (a *app) auditExportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:               "export",
		Short:             "Write the whole audit log, to be checked anywhere",
		Long:              "Export writes the whole audit log of this node as lines of JSON, signed at the end and with\nthe heads that peers hold. It needs no key to check: keyctl audit verify --file, or\nkeynode audit verify. It names persons and nodes, but no secrets.",
		Example:           "  keyctl audit export --out audit.jsonl",
		Args:              exactArgs(0, "keyctl audit export --out FILE"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.auditExport(cmd.Context(), out) },
	}
	cmd.Flags().StringVar(&out, "out", "", "write to the new `FILE`, mode 0600; without it, to standard output")
	return cmd
}

// keptError keeps the error of a writer apart from those of what writes to it.
type keptError struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (k *keptError) Write(p []byte) (n int, err error) {
	n, k.err = k.w.Write(p)
	return n, k.err
}

func (a *app) auditExport(ctx context.Context, path string) error {
	if path != "" {
		if err := refuseExisting(path); err != nil {
			return err
		}
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	write := func(w io.Writer) error {
		k := &keptError{w: w}
		if _, err := node.AuditExport(ctx, k); k.err == nil {
			return apiError("cannot export the audit log", "keyctl audit export", err)
		}
		return k.err
	}
	if path == "" {
		err := write(a.stdout)
		var said *failure
		if err != nil && !errors.As(err, &said) && !errors.Is(err, errInterrupted) {
			err = local("cannot write the export", err, "look where standard output goes")
		}
		return err
	}
	if err := fillNew(path, write); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]string{"file": path})
	}
	a.note("written: %s", printable(path))
	return nil
}
