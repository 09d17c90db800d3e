package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"keymesh/api"
	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/storage"
)

// maxContacts bounds the names that one person of this node gave to others.
const maxContacts = 1000

// contacts are the names that the persons of this node gave to others: one
// sealed record for each person in the node's store. Safe for concurrent use.
type contacts struct {
	db *storage.DB
	mu sync.Mutex // held while a change goes to disk
	of map[key.PersonPublic][]contact
}

// contact is one name. A key may have several, the first is shown.
type contact struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Person key.PersonPublic
}

type contactsBody struct {
	key.Head
	Items []contact `cbor:"1,keyasint"`
}

func newContacts(db *storage.DB) *contacts {
	return &contacts{db: db, of: map[key.PersonPublic][]contact{}}
}

func contactsPlace(p key.PersonPublic) share.Place {
	return share.Place{Bucket: share.BucketNode, ID: key.T("keymesh/v1/node/contacts", p[:])}
}

// list returns a person's contacts; the slice is not changed afterwards.
func (c *contacts) list(p key.PersonPublic) ([]contact, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(p)
}

// load is list; the caller holds mu.
func (c *contacts) load(p key.PersonPublic) ([]contact, error) {
	if items, ok := c.of[p]; ok {
		return items, nil
	}
	b, err := c.db.Load(contactsPlace(p))
	if err != nil && !c.db.NotFound(err) {
		return nil, fmt.Errorf("loading contacts: %w", err)
	}
	var body contactsBody
	if err == nil {
		if err := key.Unmarshal(b, &body); err != nil {
			return nil, fmt.Errorf("loading contacts: %w", err)
		}
	}
	c.of[p] = body.Items
	return body.Items, nil
}

// change replaces a person's contacts by what f makes of them. They are on disk
// once it returns nil.
func (c *contacts) change(ctx context.Context, p key.PersonPublic, f func([]contact) ([]contact, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	items, err := c.load(p)
	if err == nil {
		items, err = f(slices.Clone(items))
	}
	if err != nil {
		return err
	}
	rec := share.Record{Place: contactsPlace(p), Value: key.Marshal(&contactsBody{Items: items})}
	if err := c.db.Commit(context.WithoutCancel(ctx), rec); err != nil {
		return fmt.Errorf("keeping contacts: %w", err)
	}
	c.of[p] = items
	return nil
}

var _ api.Contacts = (*daemon)(nil)

// ListContacts implements api.Contacts.
func (d *daemon) ListContacts(_ context.Context, p key.PersonPublic) ([]apitype.Contact, error) {
	items, err := d.contacts.list(p)
	if err != nil {
		return nil, err
	}
	bound := d.boundPersons()
	var out []apitype.Contact
	named := map[key.PersonPublic]bool{}
	for _, c := range items {
		named[c.Person] = true
		out = append(out, d.contact(c, apitype.ContactAdded, bound))
	}
	slices.SortStableFunc(out, func(a, b apitype.Contact) int { return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	for _, c := range d.personsHere() {
		if !named[c.Person] {
			named[c.Person] = true
			out = append(out, d.contact(c, apitype.ContactHere, bound))
		}
	}
	var seen []apitype.Contact
	for k := range bound {
		if !named[k] {
			seen = append(seen, d.contact(contact{Person: k}, apitype.ContactSeen, bound))
		}
	}
	slices.SortFunc(seen, func(a, b apitype.Contact) int {
		return cmp.Or(slices.Compare(a.Nodes, b.Nodes), cmp.Compare(a.Person, b.Person))
	})
	return append(out, seen...), nil
}

// personsHere are the persons of this node as contacts.
func (d *daemon) personsHere() []contact {
	d.persons.RLock()
	defer d.persons.RUnlock()
	var out []contact
	for _, p := range d.id.Persons {
		out = append(out, contact{Name: p.Name, Person: p.Key.Public()})
	}
	return out
}

// boundPersons are the names of the members that act for each person.
func (d *daemon) boundPersons() map[key.PersonPublic][]string {
	out := map[key.PersonPublic][]string{}
	for _, m := range append(d.node.Members(), d.node.Self()) {
		if m.Revoked {
			continue
		}
		for _, p := range m.Persons {
			out[p] = append(out[p], m.Name)
		}
	}
	for _, nodes := range out {
		slices.Sort(nodes)
	}
	return out
}

func (d *daemon) contact(c contact, source string, bound map[key.PersonPublic][]string) apitype.Contact {
	return apitype.Contact{Name: c.Name, Person: c.Person.String(), Words: key.Words(key.Hash(c.Person), 8), Source: source, Nodes: bound[c.Person]}
}

// AddContact implements api.Contacts. It refuses a name that somebody has, and a
// second name for a key unless also.
func (d *daemon) AddContact(ctx context.Context, p key.PersonPublic, name string, who key.PersonPublic, also bool) (apitype.Contact, error) {
	here := d.personsHere()
	err := d.contacts.change(ctx, p, func(items []contact) ([]contact, error) {
		for _, c := range append(slices.Clone(items), here...) {
			if err := clash(c, name, who, also); err != nil {
				return nil, err
			}
		}
		if len(items) >= maxContacts {
			return nil, apitype.NewProblem(apitype.Unprocessable, "a person has at most %d contacts", maxContacts)
		}
		return append(items, contact{Name: name, Person: who}), nil
	})
	if err != nil {
		return apitype.Contact{}, err
	}
	return d.contact(contact{Name: name, Person: who}, apitype.ContactAdded, d.boundPersons()), nil
}

// clash refuses a new name beside one that is there. Names that differ in case
// only are taken for the same: people do.
func clash(c contact, name string, who key.PersonPublic, also bool) error {
	var p *apitype.Problem
	switch {
	case strings.EqualFold(c.Name, name) && c.Person == who:
		p = apitype.NewProblem(apitype.Unprocessable, "this person is called %q already", c.Name)
	case strings.EqualFold(c.Name, name):
		p = apitype.NewProblem(apitype.Unprocessable, "somebody else is called %q: %s", c.Name, c.Person)
		p.Hint = "choose another name, or take that one away first"
	case c.Person == who && !also:
		p = apitype.NewProblem(apitype.Unprocessable, "this person is called %q; a second name has to be asked for", c.Name)
		p.Hint = "keyctl contact add --also gives a second name"
	default:
		return nil
	}
	return p
}

// RemoveContact implements api.Contacts.
func (d *daemon) RemoveContact(ctx context.Context, p key.PersonPublic, name string) (apitype.Contact, error) {
	var gone contact
	err := d.contacts.change(ctx, p, func(items []contact) ([]contact, error) {
		i := slices.IndexFunc(items, func(c contact) bool { return c.Name == name })
		if i < 0 {
			return nil, apitype.NewProblem(apitype.NotFound, "no contact is called %.80q", name)
		}
		gone = items[i]
		return slices.Delete(items, i, i+1), nil
	})
	if err != nil {
		return apitype.Contact{}, err
	}
	return d.contact(gone, apitype.ContactAdded, d.boundPersons()), nil
}

// personName is what a person of this node calls somebody, or "".
func (d *daemon) personName(me, who key.PersonPublic) string {
	items, err := d.contacts.list(me)
	if err != nil {
		return ""
	}
	for _, c := range append(slices.Clip(items), d.personsHere()...) {
		if c.Person == who {
			return c.Name
		}
	}
	return ""
}
