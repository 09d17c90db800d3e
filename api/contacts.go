package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

// Contacts is what the API needs of the names that a person of this node gave
// to others. An *apitype.Problem among its errors is answered as it is; other
// errors are internal ones.
type Contacts interface {
	// ListContacts returns those added, then the persons of this node, then
	// those of other members.
	ListContacts(ctx context.Context, p key.PersonPublic) ([]apitype.Contact, error)
	// AddContact keeps a name that [policy.CheckPetname] accepts for a key that
	// is one; what contradicts other names is its to refuse.
	AddContact(ctx context.Context, p key.PersonPublic, name string, who key.PersonPublic, also bool) (apitype.Contact, error)
	// RemoveContact forgets a name.
	RemoveContact(ctx context.Context, p key.PersonPublic, name string) (apitype.Contact, error)
}

func (s *Server) contactEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathContacts: {
			http.MethodGet:    {person: true, serve: s.listContacts},
			http.MethodPost:   {person: true, body: true, serve: s.addContact},
			http.MethodDelete: {person: true, query: []string{"name"}, serve: s.removeContact},
		},
		apitype.PathPolicy: {http.MethodPost: {person: true, body: true, serve: s.testPolicy}},
	}
}

// contacts is the node's, or the problem that there is none.
func (s *Server) contacts() (Contacts, error) {
	if s.cfg.Contacts == nil {
		return nil, apitype.NewProblem(apitype.Unavailable, "this node keeps no contacts")
	}
	return s.cfg.Contacts, nil
}

func (s *Server) listContacts(r *request) (answer, error) {
	book, err := s.contacts()
	if err != nil {
		return answer{}, err
	}
	all, err := book.ListContacts(r.ctx, r.person.Key.Public())
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Contacts{Items: append([]apitype.Contact{}, all...)})
}

func (s *Server) addContact(r *request) (answer, error) {
	book, err := s.contacts()
	if err != nil {
		return answer{}, err
	}
	var in apitype.NewContact
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	if err := policy.CheckPetname(in.Name); err != nil {
		return answer{}, unprocessable("%.200s", err)
	}
	who, err := person(in.Person)
	if err != nil {
		return answer{}, unprocessable("%.300s", err)
	}
	out, err := book.AddContact(r.ctx, r.person.Key.Public(), in.Name, who, in.Also)
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusCreated, out)
}

func (s *Server) removeContact(r *request) (answer, error) {
	book, err := s.contacts()
	if err != nil {
		return answer{}, err
	}
	name := r.query.Get("name")
	if name == "" || len(name) > policy.MaxPetname {
		return answer{}, apitype.NewProblem(apitype.Invalid, "name says whose name is to be forgotten")
	}
	out, err := book.RemoveContact(r.ctx, r.person.Key.Public(), name)
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, out)
}

// names are those that one person can use, and is shown.
type names struct {
	me       keystore.Person
	contacts []apitype.Contact
}

// namesFor are those of the person who asks.
func (s *Server) namesFor(r *request) (*names, error) {
	n := &names{me: r.person}
	if s.cfg.Contacts == nil {
		return n, nil
	}
	var err error
	n.contacts, err = s.cfg.Contacts.ListContacts(r.ctx, r.person.Key.Public())
	return n, err
}

// find resolves a petname, or [policy.CodeName]. A name that two persons have is
// nobody's.
func (n *names) find(name string) (key.PersonPublic, error) {
	if name == policy.CodeName {
		if n.me.Recovery.IsZero() {
			return key.PersonPublic{}, fmt.Errorf("%.80q has no recovery key at this node", n.me.Name)
		}
		return n.me.Recovery, nil
	}
	var found []string
	for _, c := range n.contacts {
		if c.Name == name && !slices.Contains(found, c.Person) {
			found = append(found, c.Person)
		}
	}
	switch len(found) {
	case 0:
		return key.PersonPublic{}, fmt.Errorf("no contact is called that%s", n.nearest(name))
	case 1:
		return key.ParsePerson(found[0])
	}
	return key.PersonPublic{}, fmt.Errorf("%d keys have that name: %s", len(found), strings.Join(found, " and "))
}

// nearest is a known name that differs in its case only.
func (n *names) nearest(name string) string {
	for _, c := range n.contacts {
		if c.Name != "" && strings.EqualFold(c.Name, name) {
			return fmt.Sprintf("; %q is", c.Name)
		}
	}
	return ""
}

// petname is the name that find takes for this person, or "". Text that is
// written with it reads as the same policy.
func (n *names) petname(k key.PersonPublic) string {
	if k == n.me.Recovery {
		return policy.CodeName
	}
	text := k.String()
	for _, c := range n.contacts {
		if c.Person != text || c.Name == "" {
			continue
		}
		if found, err := n.find(c.Name); err == nil && found == k {
			return c.Name
		}
	}
	return ""
}

// called is how a person is called in sentences, or "" for by the key.
func (n *names) called(k key.PersonPublic) string {
	switch k {
	case n.me.Key.Public():
		return "the owner"
	case n.me.Recovery:
		return "the recovery code"
	}
	return n.petname(k)
}
