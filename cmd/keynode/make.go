package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh"
	"keymesh/mesh/roster"
	"keymesh/storage"
)

const (
	issuerLife = 5 * 365 * 24 * time.Hour
	// bindingLife is how long a person's binding to this node holds; it is made
	// anew at every start.
	bindingLife = 365 * 24 * time.Hour
	// defaultCapacity is what a node offers for other people's seats, in bytes.
	defaultCapacity = 10 << 30
)

type makeOptions struct {
	dir, name, person, operator, zone, unlock string
	capacity                                  uint64
	newNetwork                                bool
}

// label turns a host name into something checkLabel accepts.
func (o *makeOptions) defaults(hostname string) {
	if o.name == "" {
		o.name = strings.Trim(strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
				return r
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			}
			return '-'
		}, hostname), "-")
	}
	if o.name == "" || len(o.name) > 63 {
		o.name = "node"
	}
	if o.person == "" {
		o.person = "owner"
	}
	if o.operator == "" {
		o.operator = o.name
	}
	if o.capacity == 0 {
		o.capacity = defaultCapacity
	}
}

// runInit makes a node, its person and, when asked, a new network. It never
// overwrites anything.
func runInit(o makeOptions, out io.Writer, now time.Time) error {
	u, err := parseUnlock(o.unlock)
	if err != nil {
		return err
	}
	id, err := newIdentity(o.name, o.person, o.zone, now)
	if err != nil {
		return err
	}
	defer id.Erase()
	if o.newNetwork {
		if err := foundNetwork(id, o, now); err != nil {
			return err
		}
	}
	if err := createNode(o.dir, id, u); err != nil {
		return err
	}
	printIdentity(out, id)
	if o.newNetwork {
		seed := id.Authority.Seed()
		defer clear(seed)
		fmt.Fprintf(out, "network     %s\n", id.Network)
		fmt.Fprintf(out, "seed        %x\n", seed)
		fmt.Fprintln(out, "            The seed is shown this once: write it on paper and keep it away from this machine.\n            Whoever has it can admit any node to the network; it opens no secret.")
	}
	return nil
}

func printIdentity(out io.Writer, id *Identity) {
	fmt.Fprintf(out, "node        %s\nfingerprint %s\nperson      %s\n", id.Node.ID(), strings.Join(id.Node.ID().Fingerprint(), " "), id.Persons[0].Key.Public())
}

// createNode writes the identity and an empty store beside it, and the audit log
// of a node that is in a network already.
func createNode(dir string, id *Identity, u Unlock) error {
	if err := createIdentity(dir, id, u); err != nil {
		return err
	}
	if err := storage.Create(dir, (*[32]byte)(id.StorageKey)); err != nil {
		return fmt.Errorf("making the store: %w", err)
	}
	if id.Network.IsZero() {
		return nil // joining makes the audit log, which is of one network
	}
	return makeAudit(dir, id, id.Network)
}

// foundNetwork makes the network authority and the first issuer, and admits
// this node as the first member.
func foundNetwork(id *Identity, o makeOptions, now time.Time) error {
	na, issuer := key.GenerateAuthority(), key.GenerateAuthority()
	from := now.Add(-time.Minute)
	cert, err := roster.NewIssuerCert(na, roster.IssuerCert{
		Issuer: issuer.Public(), NotBefore: uint64(from.Unix()), Expires: uint64(now.Add(issuerLife).Unix()), Serial: 1,
	})
	if err != nil {
		return err
	}
	id.Authority, id.Issuers, id.Network, id.IssuerCert = na, []key.AuthorityPrivate{issuer}, na.Public().Network(), cert
	id.Member, err = roster.NewMemberCert(issuer, id.Network, roster.MemberCert{
		Node: id.Node.ID(), Name: id.Name, Roles: roster.Holder | roster.Client, Operator: o.operator, Zone: id.Zone,
		Capacity: o.capacity, NotBefore: uint64(from.Unix()), Expires: uint64(from.Add(roster.MaxMemberLife).Unix()), Serial: 1,
	})
	return err
}

// runJoin uses up a ticket: it makes the node's keys when there are none yet,
// asks the ticket's issuer to admit the node, and keeps what it answers.
func runJoin(ctx context.Context, o makeOptions, ticketText []byte, out io.Writer, now time.Time) error {
	ticket, err := roster.ParseTicket(ticketText)
	if err != nil {
		return hint(err, "copy the whole line that keyctl peer invite printed")
	}
	if ticket.Expired(now) {
		return hint(errors.New("the ticket has expired"), "ask for a new one: keyctl peer invite --operator %s", ticket.Operator)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	release, err := lockDir(o.dir)
	if err != nil {
		return err
	}
	defer release()
	id, err := identityForJoin(o, now)
	if err != nil {
		return err
	}
	defer id.Erase()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	adm, err := mesh.Join(ctx, mesh.JoinConfig{Key: id.Node, Ticket: ticket, Name: id.Name, Zone: id.Zone, Capacity: min(o.capacity, ticket.Capacity)})
	if err != nil {
		return hint(fmt.Errorf("joining: %w", err), "the inviting node must run and be reachable at %s", strings.Join(ticket.Addrs, ", "))
	}
	if err := keepAdmission(ctx, o.dir, id, adm); err != nil {
		return err
	}
	printIdentity(out, id)
	fmt.Fprintf(out, "network     %s\nissuer      %s\n            Compare these words on both sides: %s\n", id.Network, ticket.Issuer, strings.Join(ticket.Issuer.Fingerprint(), " "))
	return nil
}

func identityForJoin(o makeOptions, now time.Time) (*Identity, error) {
	u := Unlock{}
	if o.unlock != "" {
		var err error
		if u, err = parseUnlock(o.unlock); err != nil {
			return nil, err
		}
	}
	id, err := loadIdentity(o.dir, u)
	switch {
	case err == nil && !id.Network.IsZero():
		return nil, hint(fmt.Errorf("this node is a member of %s already", id.Network), "a node belongs to one network; use another --data directory")
	case err == nil || !errors.Is(err, errNoIdentity):
		return id, err
	}
	if u.IsZero() {
		return nil, hint(errors.New("a new node needs to know how its keys are unlocked"), "add --unlock prompt, file:PATH, credential:NAME or none")
	}
	if id, err = newIdentity(o.name, o.person, o.zone, now); err != nil {
		return nil, err
	}
	return id, createNode(o.dir, id, u)
}

// keepAdmission stores the records of the other members first and the
// certificates last: an interrupted join leaves a node that has not joined.
func keepAdmission(ctx context.Context, dir string, id *Identity, adm mesh.Admission) error {
	db, err := storage.Open(dir, (*[32]byte)(id.StorageKey), storage.Options{})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- db.Run(run) }()
	err = book{db}.Save(adm.Notes())
	stop()
	if err = errors.Join(err, ignoreCanceled(<-done), db.Close()); err != nil {
		return fmt.Errorf("keeping the roster: %w", err)
	}
	if err := makeAudit(dir, id, adm.Network); err != nil {
		return err
	}
	id.Network, id.Member, id.IssuerCert = adm.Network, adm.Member, adm.Issuer
	return id.save()
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// bindings signs, for each person of the node (at most 4), that this node acts
// for them.
func bindings(id *Identity, now time.Time) ([]key.Object, error) {
	var out []key.Object
	for _, p := range id.Persons[:min(len(id.Persons), 4)] {
		o, err := roster.NewPersonBinding(p.Key, id.Network, roster.PersonBinding{
			Node: id.Node.ID(), NotBefore: uint64(now.Add(-time.Minute).Unix()), Expires: uint64(now.Add(bindingLife).Unix()),
		})
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// readTicket takes the ticket from the argument or, for "-", from in.
func readTicket(arg string, in io.Reader) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	b, err := io.ReadAll(io.LimitReader(in, 8<<10))
	return bytes.TrimSpace(b), err
}

func absDir(dir string) (string, error) {
	if dir == "" {
		return "", hint(errors.New("no data directory was given"), "add --data DIR")
	}
	return filepath.Abs(dir)
}
