package main

import (
	"errors"
	"fmt"

	"keymesh/crypto/key"
)

// Person is a person whose key lives on this node.
type Person struct {
	Name string // [a-z0-9-]{1,63}
	Key  key.PersonPrivate
	// Recovery and RecoveryPublic are the recovery key of every person but the
	// first, whose own is the identity's. Recovery is zero once it was printed
	// and erased, and for a person who was brought from another node.
	Recovery       key.PersonPrivate
	RecoveryPublic key.PersonPublic
}

type personBody struct {
	_    struct{} `cbor:",toarray"`
	Name string
	Seed []byte
}

type recoveryBody struct {
	_      struct{} `cbor:",toarray"`
	Public key.PersonPublic
	Seed   []byte // empty: not here
}

// Person returns the person with this name, or the first for "".
func (id *Identity) Person(name string) (Person, bool) {
	for _, p := range id.Persons {
		if p.Name == name || name == "" {
			return p, true
		}
	}
	return Person{}, false
}

// recovery returns where the recovery key of person i lies.
func (id *Identity) recovery(i int) (private *key.PersonPrivate, public *key.PersonPublic) {
	if i == 0 {
		return &id.Recovery, &id.RecoveryPublic
	}
	return &id.Persons[i].Recovery, &id.Persons[i].RecoveryPublic
}

// maxPersons is how many persons a node's record can bind to it.
const maxPersons = 4

func checkPersons(persons []Person) error {
	if len(persons) == 0 || len(persons) > maxPersons {
		return fmt.Errorf("a node has 1 to %d persons", maxPersons)
	}
	names, keys := map[string]bool{}, map[key.PersonPublic]bool{}
	for _, p := range persons {
		if err := checkLabel("person name", p.Name); err != nil {
			return err
		}
		if p.Key.IsZero() || names[p.Name] || keys[p.Key.Public()] {
			return fmt.Errorf("person %s has no key or is there twice", p.Name)
		}
		if !p.Recovery.IsZero() && p.Recovery.Public() != p.RecoveryPublic {
			return fmt.Errorf("the two halves of the recovery key of %s do not belong together", p.Name)
		}
		names[p.Name], keys[p.Key.Public()] = true, true
	}
	return nil
}

// recoveries gives the persons after the first their recovery keys. A file from
// before they had any has none.
func (b *identityBody) recoveries(id *Identity) (err error) {
	if len(b.Recoveries) != 0 && len(b.Recoveries) != len(id.Persons)-1 {
		return errors.New("persons and recovery keys do not belong together")
	}
	for i, r := range b.Recoveries {
		p := &id.Persons[i+1]
		p.RecoveryPublic = r.Public
		if len(r.Seed) == 0 {
			continue
		}
		if p.Recovery, err = key.PersonFromSeed(r.Seed); err != nil {
			return err
		}
	}
	return nil
}
