package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/api"
	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/keystore"
)

var _ api.Identities = (*daemon)(nil)

// person resolves whom an API caller acts as: the name of a person of this
// node, or that person's key in text form.
func (d *daemon) person(name string) (keystore.Person, bool) {
	d.persons.RLock()
	defer d.persons.RUnlock()
	i, ok := d.id.find(name)
	if !ok {
		return keystore.Person{}, false
	}
	_, recovery := d.id.recovery(i)
	me := d.id.Persons[i].Key.Public()
	names := func(k key.PersonPublic) string { return d.personName(me, k) }
	return keystore.Person{Name: d.id.Persons[i].Name, Key: d.id.Persons[i].Key, Recovery: *recovery, Names: names}, true
}

// find returns the index of a person by name or key in text form; "" is the
// first.
func (id *Identity) find(name string) (int, bool) {
	if name == "" {
		return 0, true
	}
	k, err := key.ParsePerson(name)
	i := slices.IndexFunc(id.Persons, func(p Person) bool { return p.Name == name || err == nil && p.Key.Public() == k })
	return i, i >= 0
}

func noPerson(name string) error {
	return apitype.NewProblem(apitype.Unprocessable, "this node has no person called %.60q", name)
}

func (id *Identity) info(i int) apitype.PersonInfo {
	private, public := id.recovery(i)
	return apitype.PersonInfo{Name: id.Persons[i].Name, Person: id.Persons[i].Key.Public().String(), Default: i == 0,
		Recovery: public.String(), Code: !private.IsZero()}
}

// ListPersons implements api.Identities.
func (d *daemon) ListPersons(context.Context) []apitype.PersonInfo {
	d.persons.RLock()
	defer d.persons.RUnlock()
	var out []apitype.PersonInfo
	for i := range d.id.Persons {
		out = append(out, d.id.info(i))
	}
	return out
}

// NewPerson implements api.Identities: a person with a recovery key.
func (d *daemon) NewPerson(ctx context.Context, name string) (apitype.PersonInfo, error) {
	p := Person{Name: name, Key: key.GeneratePerson(), Recovery: key.GeneratePerson()}
	p.RecoveryPublic = p.Recovery.Public()
	return d.addPerson(ctx, p, "made")
}

// addPerson stores the person before anybody hears of it, and then has the
// node's record say that it acts for that person.
func (d *daemon) addPerson(ctx context.Context, p Person, how string) (apitype.PersonInfo, error) {
	d.persons.Lock()
	defer d.persons.Unlock()
	before := d.id.Persons
	d.id.Persons = append(slices.Clone(before), p)
	err := d.checkNewPerson(before, p)
	if err == nil {
		err = d.recordPerson(ctx, "person", p.Key.Public(), how)
	}
	if err != nil {
		d.id.Persons = before
		return apitype.PersonInfo{}, err
	}
	if err := d.id.save(); err != nil {
		d.id.Persons = before
		return apitype.PersonInfo{}, fmt.Errorf("keeping the new person: %w", err)
	}
	d.log.Info("a person was added", "person", p.Key.Public().String())
	return d.id.info(len(before)), d.bindPersons()
}

func (d *daemon) checkNewPerson(before []Person, p Person) error {
	if len(before) >= maxPersons {
		return apitype.NewProblem(apitype.Unprocessable, "a node acts for at most %d persons; put others on another node", maxPersons)
	}
	for _, o := range before {
		switch {
		case o.Key.Public() == p.Key.Public():
			return apitype.NewProblem(apitype.Unprocessable, "this person is on this node already, called %s", o.Name)
		case o.Name == p.Name:
			return apitype.NewProblem(apitype.Unprocessable, "this node has another person called %s", o.Name)
		}
	}
	if err := checkPersons(d.id.Persons); err != nil {
		return apitype.NewProblem(apitype.Unprocessable, "%.200s", err)
	}
	return nil
}

// bindPersons has the node's record name its persons as they are now. The
// caller holds d.persons.
func (d *daemon) bindPersons() error {
	binds, err := bindings(d.id, time.Now())
	if err != nil {
		return fmt.Errorf("binding the persons to the node: %w", err)
	}
	return d.node.SetBindings(binds)
}

// ExportPerson implements api.Identities.
func (d *daemon) ExportPerson(ctx context.Context, r apitype.PersonExport) (apitype.PersonFile, error) {
	d.persons.RLock()
	defer d.persons.RUnlock()
	i, ok := d.id.find(r.Name)
	if !ok {
		return apitype.PersonFile{}, noPerson(r.Name)
	}
	if err := checkPassphrase(r.Passphrase); err != nil {
		return apitype.PersonFile{}, apitype.NewProblem(apitype.Unprocessable, "%v", err)
	}
	p := d.id.Persons[i]
	if err := d.recordPerson(ctx, "person", p.Key.Public(), "exported"); err != nil {
		return apitype.PersonFile{}, err
	}
	_, public := d.id.recovery(i)
	p.RecoveryPublic = *public
	file, err := sealPerson(p, r.Passphrase, seal.DefaultKDF())
	if err != nil {
		return apitype.PersonFile{}, fmt.Errorf("sealing a person: %w", err)
	}
	d.log.Info("a person was exported", "person", p.Key.Public().String())
	return apitype.PersonFile{File: file, Name: p.Name, Person: p.Key.Public().String()}, nil
}

// ImportPerson implements api.Identities.
func (d *daemon) ImportPerson(ctx context.Context, r apitype.PersonImport) (apitype.PersonInfo, error) {
	p, err := openPerson(r.File, r.Passphrase)
	switch {
	case errors.Is(err, errPassphrase):
		return apitype.PersonInfo{}, apitype.NewProblem(apitype.Unprocessable, "the passphrase is wrong, or the file was changed")
	case err != nil:
		return apitype.PersonInfo{}, apitype.NewProblem(apitype.Unprocessable, "%.200s", err)
	}
	if info, known, err := d.refreshPerson(ctx, p); known {
		return info, err
	}
	if r.Name != "" {
		p.Name = r.Name
	}
	return d.addPerson(ctx, p, "imported")
}

// refreshPerson takes over the recovery key of a person who is here already and
// got a new one on another node. The old one's seed, if it was here, is of no
// use any more. known says that it was a matter of that.
func (d *daemon) refreshPerson(ctx context.Context, p Person) (info apitype.PersonInfo, known bool, err error) {
	d.persons.Lock()
	defer d.persons.Unlock()
	i, ok := d.id.find(p.Key.Public().String())
	if !ok {
		return apitype.PersonInfo{}, false, nil
	}
	private, public := d.id.recovery(i)
	if *public == p.RecoveryPublic {
		return apitype.PersonInfo{}, false, nil
	}
	if err := d.recordPerson(ctx, "person", p.Key.Public(), "imported with a newer recovery key"); err != nil {
		return apitype.PersonInfo{}, true, err
	}
	wasPrivate, wasPublic := *private, *public
	*private, *public = key.PersonPrivate{}, p.RecoveryPublic
	if err := d.id.save(); err != nil {
		*private, *public = wasPrivate, wasPublic
		return apitype.PersonInfo{}, true, fmt.Errorf("keeping the person's new recovery key: %w", err)
	}
	wasPrivate.Erase()
	return d.id.info(i), true, nil
}
