package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

const policyLong = `A policy says who may recover a secret. Every holder keeps it and judges by it
alone. It is a TOML file with one key, whose strings are ways to the secret; any
one of them is enough:

  ways = [
    "owner",
    "2 of (ann, bob, carl) after 1h veto owner",
    "code after 24h veto owner",
  ]

  owner                     a signature of the owner
  ann, 'Ann Lee'            of a person, by the name that keyctl contact gave
  person-...                of a person, by the key
  code                      of your own recovery code (keyctl kit make)
  operator                  the word of each holder's operator
  any (A, B)  all (A, B)  2 of (A, B, C)
  A after 24h veto owner    A, and then time in which the owner may object

keyctl put --policy FILE stores a secret under it; without a policy the owner
alone is enough, or the recovery code after 24 hours without the owner's veto. A
put that names no policy keeps the one that is there.`

func (a *app) policyCommand() *cobra.Command {
	verbs := []string{"test", "show"}
	cmd := &cobra.Command{
		Use:     "policy",
		GroupID: groupSecrets,
		Short:   "Try and show who may recover a secret",
		Long:    policyLong,
		Example: "  keyctl policy test demo/db --as ann --as bob\n  keyctl policy test --policy team.toml --as code --after 24h\n  keyctl policy show demo/db > team.toml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("keyctl policy needs a verb: "+strings.Join(verbs, ", "), "keyctl policy test NAME --as PERSON")
			}
			return unknownWord("policy verb", args[0], verbs, "keyctl policy ")
		},
	}
	cmd.AddCommand(a.policyTestCommand(), a.policyShowCommand())
	return cmd
}

type policyFlags struct {
	file, after string
	as          []string
}

const policyTestLong = `Test says whether some persons together could recover a secret: at once, after
which delays, or what is missing. Nobody is asked for anything. PERSON is a
petname, a key, owner, code (your recovery code) or operator (each holder's
operator confirms); --as may be repeated. Without --as it says what each
person could do alone.

It exits 0 when they can, 5 when a delay has to pass first, 4 when they cannot.`

func (a *app) policyTestCommand() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:               "test [NAME]",
		Short:             "Say who could recover a secret, and what is missing",
		Long:              policyTestLong,
		Example:           "  keyctl policy test demo/db --as ann --as bob\n  keyctl policy test demo/db --as code --after 24h\n  keyctl policy test --policy team.toml",
		Args:              rangeArgs(0, 1, "keyctl policy test NAME --as PERSON, or keyctl policy test --policy FILE"),
		ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.policyTest(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	cmd.Flags().StringArrayVar(&f.as, "as", nil, "`PERSON` who signs; may be repeated")
	cmd.Flags().StringVar(&f.after, "after", "", "`SPAN` that has passed since, such as 24h")
	cmd.Flags().StringVar(&f.file, "policy", "", "`FILE` with a policy that is not stored, or - for standard input")
	cmd.Flags().SortFlags = false
	_ = cmd.RegisterFlagCompletionFunc("as", a.completePetname) // the flag exists
	return cmd
}

func (a *app) policyTest(ctx context.Context, name string, f policyFlags) error {
	req := apitype.PolicyTest{Name: name, As: f.as}
	if (name == "") == (f.file == "") {
		return usage("one of NAME and --policy FILE says which policy", "keyctl policy test NAME --as PERSON")
	}
	if f.after != "" {
		d, err := parseSpan(f.after)
		if err != nil {
			return usage("--after: "+err.Error(), "keyctl policy test NAME --after 24h")
		}
		req.After = uint64(d.Seconds())
	}
	if f.file != "" {
		p, err := a.readPolicy(ctx, f.file)
		if err != nil {
			return err
		}
		req.Policy = p
	}
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	v, err := node.TestPolicy(ctx, req)
	if err != nil {
		return apiError("cannot test the policy", "keyctl policy test", err)
	}
	if err := a.showVerdict(v, len(f.as) > 0); err != nil || len(f.as) == 0 || v.OK {
		return err
	}
	if v.Wait > 0 {
		return &failure{exit: apitype.ExitQuorum, quiet: true}
	}
	return &failure{exit: apitype.ExitDenied, quiet: true}
}

func (a *app) showVerdict(v apitype.PolicyVerdict, together bool) error {
	if a.json() {
		return a.printJSON(v)
	}
	var b strings.Builder
	if !together {
		fmt.Fprintf(&b, "%s\n%s", printable(v.Policy), aloneText(v.Alone))
		return a.print([]byte(b.String()))
	}
	switch {
	case v.OK:
		b.WriteString("yes, at once\n")
	case v.Wait > 0:
		fmt.Fprintf(&b, "yes, after %s\n", span(v.Wait))
	default:
		fmt.Fprintf(&b, "no, %d of %d signatures and confirmations; missing: %s\n", v.Have, v.Need, printable(strings.Join(v.Missing, "; ")))
	}
	for _, w := range v.Ways {
		fmt.Fprintf(&b, "  %s: %s\n", printable(w.Policy), printable(wayText(w)))
	}
	for _, who := range v.Idle {
		fmt.Fprintf(&b, "%s: counts nowhere in this policy\n", printable(who))
	}
	return a.print([]byte(b.String()))
}

func wayText(w apitype.Way) string {
	switch {
	case w.OK:
		return "enough"
	case w.Wait > 0 && len(w.Veto) > 0:
		return fmt.Sprintf("enough after %s without a veto by %s", span(w.Wait), strings.Join(w.Veto, " or "))
	case w.Wait > 0:
		return "enough after " + span(w.Wait)
	}
	return "missing " + strings.Join(w.Missing, "; ")
}

// aloneText says what each person could do without the others.
func aloneText(all []apitype.Alone) string {
	var b strings.Builder
	for _, p := range all {
		what := "not alone, missing " + strings.Join(p.Missing, "; ")
		if p.OK {
			what = "at once"
		} else if p.Wait > 0 {
			what = "after " + span(p.Wait)
		}
		fmt.Fprintf(&b, "  %s: %s\n", printable(p.Name), printable(what))
	}
	return b.String()
}

// span is a length of time in its two largest units.
func span(seconds uint64) string {
	d := time.Duration(min(seconds, 1<<33)) * time.Second
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	s := d.String()
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}

func (a *app) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Print the policy of a secret as put takes it",
		Long:              "Show prints the policy of a secret in the form that keyctl put --policy takes, and\nsays it in words on standard error.",
		Example:           "  keyctl policy show demo/db > team.toml",
		Args:              exactArgs(1, "keyctl policy show NAME"),
		ValidArgsFunction: a.completeName,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.policyShow(cmd.Context(), args[0]) },
	}
}

func (a *app) policyShow(ctx context.Context, name string) error {
	node, err := a.node()
	if err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	v, err := node.TestPolicy(ctx, apitype.PolicyTest{Name: name})
	if err != nil {
		return apiError("cannot show the policy of "+quoted(name), "keyctl policy show "+shellWord(name), err)
	}
	if a.json() {
		return a.printJSON(v)
	}
	a.note("%s", printable(v.Policy))
	return a.print([]byte(v.Text))
}

// maxPolicy bounds a policy file, in bytes.
const maxPolicy = 64 << 10

// readPolicy reads a policy file: the text form, or one clause in JSON, as the
// API takes both. "-" is standard input.
func (a *app) readPolicy(ctx context.Context, path string) (*apitype.Policy, error) {
	var data []byte
	var err error
	if path == "-" {
		data, err = readAtMost(ctx, a.stdin, "standard input")
	} else {
		data, err = readFile(ctx, path, "--policy")
	}
	if err != nil {
		return nil, err
	}
	name := printable(path)
	switch {
	case len(data) > maxPolicy:
		return nil, usage(fmt.Sprintf("%s has more than the %d bytes that a policy may have", name, maxPolicy), "keyctl policy --help")
	case len(bytes.TrimSpace(data)) == 0:
		return nil, usage(name+" is empty, and no policy", "keyctl policy --help shows one")
	case !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		return &apitype.Policy{Text: string(data)}, nil
	}
	var p apitype.Policy
	dec := json.NewDecoder(bytes.NewReader(data))
	err = dec.Decode(&p)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the policy")
		}
	}
	if err != nil {
		return nil, &failure{exit: apitype.ExitLocal, what: "cannot use the policy in " + name, why: bounded(err.Error()), hint: "keyctl policy --help shows one"}
	}
	return &p, nil
}
