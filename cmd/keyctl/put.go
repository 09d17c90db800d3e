package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// putFlags are the wishes of a put as they stand on the command line.
type putFlags struct {
	from, policy, ttl, repair      string
	to, labels                     []string
	n, k, w, keep                  int
	cas                            uint64
	ifAbsent, force, fresh         bool
	colocated, dryRun, casIsWanted bool
	keepIsWanted                   bool
	wait                           time.Duration
}

const putLong = `Put stores the bytes of standard input, of --from FILE, or of what is typed twice
at a hidden prompt, exactly as they are: no line end is added or removed.
At most 1,048,575 bytes; the value never stands on the command line.

It returns once w seats have it on disk, and exits 12 when a write is in doubt:
that write completes or dies by itself, and running the same put again goes on
with it. A put of a name that exists is its next generation; policy, labels,
--ttl, --keep and --repair stay as they were unless they are given (--ttl 0 and
--keep 0 end them).

--policy FILE says who may recover it (help policy). Another policy than before
needs the consent of those whom the old one names. Where the owner's word is not
enough, put exits 5 with a request for them to approve; --wait, or the same put
again, goes on with it.`

const putExample = `  printf %s "$PASSWORD" | keyctl put demo/db
  keyctl put ca/root-key --from root.pem -n 7 -k 4
  keyctl put demo/db --policy team.toml --from new.txt --wait 10m
  keyctl put demo/db --dry-run
  keyctl put demo/db --cas 3 --from new.txt`

func (a *app) putCommand() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:               "put NAME",
		GroupID:           groupSecrets,
		Short:             "Store a value under a name",
		Long:              putLong,
		Example:           putExample,
		Args:              exactArgs(1, "keyctl put NAME; the value comes from standard input, --from FILE or a prompt"),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.casIsWanted, f.keepIsWanted = cmd.Flags().Changed("cas"), cmd.Flags().Changed("keep")
			return a.put(cmd.Context(), args[0], f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "read the value from `FILE`")
	fl.IntVarP(&f.n, "seats", "n", 0, "number of holders; needs -k (default 5, or 3 in a small mesh)")
	fl.IntVarP(&f.k, "threshold", "k", 0, "how many of them bring the secret back")
	fl.IntVarP(&f.w, "write-quorum", "w", 0, "on how many disks it must be before put returns (default n - (n-k)/2)")
	fl.StringSliceVar(&f.to, "to", nil, "`NODE,...` to hold it, instead of placement")
	fl.StringVar(&f.policy, "policy", "", "`FILE` with the policy: who may recover it (help policy); - is standard input, with --from")
	fl.StringArrayVar(&f.labels, "label", nil, "label `KEY=VALUE`; may be repeated")
	fl.StringVar(&f.ttl, "ttl", "", "`SPAN` after which it expires, such as 12h or 30d; 0: never")
	fl.Uint64Var(&f.cas, "cas", 0, "only if the current generation is `V`")
	fl.BoolVar(&f.ifAbsent, "if-absent", false, "only if there is none")
	fl.IntVar(&f.keep, "keep", 0, "how many earlier generations stay readable")
	fl.StringVar(&f.repair, "repair", "", "who may repair seats: `owner|quorum`")
	fl.BoolVar(&f.force, "force", false, "pass writes of others that are pending")
	fl.BoolVar(&f.fresh, "new", false, "put although silent holders might have an older one")
	fl.BoolVar(&f.colocated, "allow-colocated", false, "allow several seats in one operator's or zone's hands")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show where it would be placed and what the policy means, store nothing")
	fl.DurationVar(&f.wait, "wait", 0, "wait for `SPAN`, such as 10m, for the consent to another policy")
	fl.SortFlags = false
	_ = cmd.RegisterFlagCompletionFunc("to", a.completePeer) // the flag exists
	return cmd
}

func (a *app) put(ctx context.Context, name string, f putFlags) error {
	req, cond, err := a.putRequest(ctx, f)
	if err != nil {
		return err
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	if req.Value, err = a.putValue(ctx, node, name, f); err != nil {
		return err
	}
	defer clear(req.Value)
	res, err := awaitPending(ctx, &waiter{a: a}, f.wait, func(ctx context.Context) (apitype.PutResult, error) {
		ctx, cancel := a.within(ctx)
		defer cancel()
		return node.Put(ctx, name, req, cond)
	})
	var pend *client.Pending
	if errors.As(err, &pend) {
		return putPending(name, pend)
	}
	if err != nil {
		return writeError("cannot store "+quoted(name), "keyctl put "+shellWord(name), err)
	}
	a.putProgress(res)
	for _, n := range res.Notes {
		a.note("note: %s", printable(n))
	}
	if a.json() {
		return a.printJSON(res)
	}
	if f.dryRun {
		return a.print([]byte(planText(res)))
	}
	return a.print(fmt.Appendf(nil, "%s generation %d, %d-of-%d, on disk at %d of %d holders\n", printable(name), res.Gen, res.K, res.N, res.Acked, res.N))
}

// putValue is the value of a put. Before a person is asked for one, the node
// must answer: nobody likes to type a secret twice for nothing.
func (a *app) putValue(ctx context.Context, node *client.Client, name string, f putFlags) ([]byte, error) {
	if f.from == "" && isTerminal(a.stdin) {
		if f.dryRun {
			return nil, nil // a placement needs no value
		}
		ctx, cancel := a.within(ctx)
		defer cancel()
		if err := node.Healthy(ctx); err != nil {
			return nil, apiError("cannot store "+quoted(name), "keyctl put "+shellWord(name), err)
		}
	}
	return a.readValue(ctx, name, f.from)
}

// putPending is a change of policy that waits for consent.
func putPending(name string, p *client.Pending) error {
	line, delay := pendingLine(p.Have, p.Need, p.Missing, p.Wait)
	return &failure{exit: apitype.ExitQuorum, what: "cannot store " + quoted(name) + " under another policy yet", why: printable(p.Error()),
		details: []string{"request " + short(p.Request), "words " + printable(strings.Join(p.Words, " ")), printable(line + delay)},
		hint:    "those who are asked see it with keyctl pending; the same put again goes on with it until " + when(p.Expires, "it ends") + ", or put --wait 10m"}
}

// putRequest checks what can be checked here and makes the body without its
// value.
func (a *app) putRequest(ctx context.Context, f putFlags) (apitype.PutRequest, client.PutConditions, error) {
	var cond client.PutConditions
	req := apitype.PutRequest{
		N: f.n, K: f.k, W: f.w, Holders: f.to, Repair: f.repair,
		AllowColocated: f.colocated, New: f.fresh, Force: f.force, DryRun: f.dryRun,
	}
	if f.keepIsWanted {
		req.Keep = &f.keep
	}
	if err := f.check(); err != nil {
		return req, cond, err
	}
	for _, l := range f.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return req, cond, usage(fmt.Sprintf("the label %s is not of the form KEY=VALUE", quoted(l)), "keyctl put NAME --label env=prod")
		}
		if req.Labels == nil {
			req.Labels = map[string]string{}
		}
		req.Labels[k] = v
	}
	if f.ttl == "0" {
		req.TTL = new(uint64)
	} else if f.ttl != "" {
		d, err := parseSpan(f.ttl)
		if err != nil {
			return req, cond, usage("--ttl: "+err.Error(), "keyctl put NAME --ttl 30d")
		}
		req.TTL = new(uint64(d.Seconds()))
	}
	if f.policy != "" {
		p, err := a.readPolicy(ctx, f.policy)
		if err != nil {
			return req, cond, err
		}
		req.Policy = p
	}
	if f.casIsWanted {
		cond.IfGen = &f.cas
	}
	cond.IfAbsent = f.ifAbsent
	return req, cond, nil
}

// check refuses combinations that can mean nothing.
func (f putFlags) check() error {
	const help = "keyctl put --help"
	switch {
	case f.n < 0 || f.k < 0 || f.w < 0 || f.keep < 0:
		return usage("-n, -k, -w and --keep are not negative", help)
	case f.n != 0 && f.k == 0:
		return usage("-n without -k says nothing about safety", fmt.Sprintf("say how many of the %d must come together, as in -n %d -k %d", f.n, f.n, f.n/2+1))
	case f.k == 1:
		return usage("k = 1 would give the whole secret to every holder", "-k 2 is the least")
	case f.n != 0 && f.k > f.n:
		return usage(fmt.Sprintf("%d of %d holders is more than there are", f.k, f.n), "k is at most n; 3-of-5 is -n 5 -k 3")
	case f.n > 32:
		return usage("a secret has at most 32 seats", "-n 32 is the most")
	case f.repair != "" && f.repair != "owner" && f.repair != "quorum":
		return usage("--repair is owner or quorum", help)
	case f.casIsWanted && f.cas == 0:
		return usage("generations count from 1, so --cas 0 can never hold", "--if-absent puts only when there is none")
	case f.policy == "-" && f.from == "":
		return usage("the value and the policy cannot both come from standard input", "--from FILE for the value, or --policy FILE")
	case f.ifAbsent && f.casIsWanted:
		return usage("--cas and --if-absent exclude each other", "use one of the two")
	}
	return nil
}

// putProgress shows how each holder took its seat, to a person who watches.
func (a *app) putProgress(res apitype.PutResult) {
	if !a.chatty() || res.DryRun {
		return
	}
	for _, s := range res.Seats {
		line := fmt.Sprintf("%s: %s", nodeName(s.Name, s.Node), printable(s.State))
		if s.Why != "" {
			line += ": " + bounded(s.Why)
		}
		a.note("%s", line)
	}
}

// planText says a placement in words.
func planText(res apitype.PutResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s would be generation %d: any %d of %d holders bring it back, fewer learn nothing.\n", printable(res.Name), res.Gen, res.K, res.N)
	fmt.Fprintf(&b, "It would be acknowledged once %s it on disk. Nothing was stored.\n", haveIt(res.W))
	t := newTable()
	for i, s := range res.Seats {
		t.row(fmt.Sprintf("  seat %d", i+1), dash(s.Name), "operator "+dash(s.Operator), "zone "+dash(s.Zone), s.Why)
	}
	out := b.String() + t.text()
	if res.Policy != "" {
		out += "Who may recover it: " + printable(res.Policy) + "\n" + aloneText(res.Alone)
	}
	return out
}

func haveIt(n int) string {
	if n == 1 {
		return "1 of them has"
	}
	return fmt.Sprintf("%d of them have", n)
}
