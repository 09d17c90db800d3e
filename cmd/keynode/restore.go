package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const restoreLong = `Makes this machine a member of the network with a recovery kit, and a new person
on it who takes over the secrets of the one whose machines are lost. Then

    keynode run --data DIR

does the rest by itself, across restarts: it lists the secrets, asks for each
with the recovery code, waits for the delay of its policy, puts it under the new
person, and has the old one deleted. Its log and keyctl status say how far it is.
Without the network's seed in the kit, first join with a ticket; restore then
works on that directory. The kit's file is read once and not kept.

An approver's card does the same without a kit, where policies let approvers
recover: on the stopped node of an approver, who asks for every secret of that
owner whose policy names them. The others approve twice, that it is recovered
and that the old one is deleted; keyctl pending shows them both. --person says
which person of the node asks and owns the secrets afterwards.`

func restoreCommand() *cobra.Command {
	var o makeOptions
	var file string
	cmd := &cobra.Command{
		Use: "restore --data DIR --kit FILE", Short: "bring an owner's secrets back with a recovery kit", Args: cobra.NoArgs, Long: restoreLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.resolve(); err != nil {
				return err
			}
			k, err := readKit(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			defer k.Erase()
			return runRestore(o, k, cmd.OutOrStdout(), time.Now())
		},
	}
	makeFlags(cmd, &o)
	cmd.Flags().StringVar(&file, "kit", "", "the text of the kit or card, or - for standard input")
	cmd.Flags().StringVar(&o.operator, "operator", "", "operator of the new node (default: the node's name)")
	cmd.Flags().StringVar(&o.unlock, "unlock", "", "for a new node: prompt, file:PATH, credential:NAME, or none (development)")
	return cmd
}

func kitCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kit", Short: "check a recovery kit on a machine without a node"}
	cmd.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "say whether a kit's text was copied without a mistake", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := readKit(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			defer k.Erase()
			kind := "a recovery kit"
			if k.IsCard() {
				kind = "an approver's card"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s of %s, called %s, made %s, with %d nodes\n", kind, k.Owner, k.Person, k.Made.Format(time.DateOnly), len(k.Nodes))
			return err
		},
	})
	return cmd
}

// readKit reads a kit from a file, or from in for "-".
func readKit(path string, in io.Reader) (*Kit, error) {
	if path == "" {
		return nil, hint(errors.New("no kit was given"), "add --kit FILE, or --kit - to type it")
	}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the kit: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxKitText+1))
	defer clear(text)
	if err != nil {
		return nil, fmt.Errorf("reading the kit: %w", err)
	}
	return ParseKit(text)
}

// runRestore makes or takes the node in o.dir, gives it the heir and the
// estate, and runs nothing. It can be repeated after a failure.
func runRestore(o makeOptions, k *Kit, out io.Writer, now time.Time) error {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	release, err := lockDir(o.dir)
	if err != nil {
		return err
	}
	defer release()
	id, fresh, err := identityForRestore(o, k, now)
	if err != nil {
		return err
	}
	defer id.Erase()
	if id.Estate, err = estateOf(k, id, o); err != nil {
		return err
	}
	if fresh {
		u, err := parseUnlock(o.unlock)
		if err != nil {
			return err
		}
		err = createNode(o.dir, id, u)
		if err != nil {
			return err
		}
	} else if err := id.save(); err != nil {
		return err
	}
	if err := writeBootstrap(o.dir, k); err != nil {
		return err
	}
	printIdentity(out, id)
	fmt.Fprintf(out, "network     %s\nrestores    %s\n            keynode run --data %s goes on from here. Make a kit of the new person soon, and\n            keep this one: it holds the network's seed, which no node keeps.\n", id.Network, k.Owner, o.dir)
	return nil
}

// estateOf is what the kit or card brings back for a person of the node: the
// one who is named, or the first.
func estateOf(k *Kit, id *Identity, o makeOptions) (*Estate, error) {
	e := &Estate{Owner: k.Owner, Index: k.Index, Heir: id.Persons[0].Name}
	if i, ok := id.find(o.person); ok {
		e.Heir = id.Persons[i].Name
	}
	if k.IsCard() {
		return e, nil
	}
	seed := k.Code.Seed() // a copy: the identity and the kit are erased each by itself
	defer clear(seed)
	var err error
	e.Code, err = key.PersonFromSeed(seed)
	return e, err
}

// identityForRestore takes the node that is there, if it is of the kit's
// network, or makes one that the kit's authority admits.
func identityForRestore(o makeOptions, k *Kit, now time.Time) (id *Identity, fresh bool, err error) {
	id, err = loadIdentity(o.dir, Unlock{})
	switch {
	case err == nil && id.Network != k.Network:
		return nil, false, errors.New("the node in this directory is not a member of the kit's network")
	case err == nil && id.Estate != nil && id.Estate.Owner != k.Owner:
		return nil, false, errors.New("this node is restoring another person's secrets already; let it finish first")
	case err == nil:
		if _, there := id.find(k.Owner.String()); there {
			return nil, false, hint(errors.New("the owner is a person of this node: nothing is lost"), "keyctl --socket PATH ls")
		}
		return id, false, nil
	case !errors.Is(err, errNoIdentity):
		return nil, false, err
	case k.IsCard():
		return nil, false, hint(errors.New("an approver's card works for an approver, and there is none in this directory"), "name the data directory of the approver's node, stopped, with --data")
	case k.Authority.IsZero():
		return nil, false, hint(errors.New("the kit does not hold the network's seed"), "join first: keynode join --data %s TICKET; then restore again", o.dir)
	case o.unlock == "":
		return nil, false, hint(errors.New("a new node needs to know how its keys are unlocked"), "add --unlock prompt, file:PATH, credential:NAME or none")
	}
	if id, err = newIdentity(o.name, o.person, o.zone, now); err != nil {
		return nil, false, err
	}
	return id, true, admitBy(k.Authority, id, o, now)
}

// admitBy makes the node a member by the network's own authority, with an
// issuer key of its own: the one that admitted others may be lost too. The
// authority stays in the kit.
func admitBy(na key.AuthorityPrivate, id *Identity, o makeOptions, now time.Time) error {
	issuer := key.GenerateAuthority()
	from := now.Add(-time.Minute)
	cert, err := roster.NewIssuerCert(na, roster.IssuerCert{
		Issuer: issuer.Public(), NotBefore: uint64(from.Unix()), Expires: uint64(now.Add(issuerLife).Unix()), Serial: uint64(now.Unix()),
	})
	if err != nil {
		return err
	}
	id.Issuers, id.Network, id.IssuerCert = []key.AuthorityPrivate{issuer}, na.Public().Network(), cert
	id.Member, err = roster.NewMemberCert(issuer, id.Network, roster.MemberCert{
		Node: id.Node.ID(), Name: id.Name, Roles: roster.Holder | roster.Client, Operator: o.operator, Zone: id.Zone,
		Capacity: o.capacity, NotBefore: uint64(from.Unix()), Expires: uint64(from.Add(roster.MaxMemberLife).Unix()), Serial: 1,
	})
	return err
}

// writeBootstrap leaves a configuration that starts from the kit's addresses.
// One that is there stays: whoever wrote it knows where to start.
func writeBootstrap(dir string, k *Kit) error {
	path := filepath.Join(dir, configName)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	var addrs []string
	for _, n := range k.Nodes {
		for _, a := range n.Addrs {
			addrs = append(addrs, fmt.Sprintf("%q", a))
		}
	}
	text := "# written by keynode restore\nbootstrap = [" + strings.Join(addrs, ", ") + "]\n"
	return os.WriteFile(path, []byte(text), 0o600)
}
