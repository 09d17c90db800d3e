package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

func somePerson(name string) Person {
	return Person{Name: name, Key: key.GeneratePerson(), RecoveryPublic: key.GeneratePerson().Public()}
}

func TestPersonBox(t *testing.T) {
	p, pass := somePerson("anna"), []byte("correct horse")
	box, err := sealPerson(p, pass, seal.LeastKDF())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(box, p.Key.Seed()) {
		t.Fatal("the seed lies in clear")
	}
	got, err := openPerson(box, pass)
	if err != nil || got.Name != p.Name || got.Key.Public() != p.Key.Public() || got.RecoveryPublic != p.RecoveryPublic || !got.Recovery.IsZero() {
		t.Fatal("another person came back", err)
	}
	if _, err := openPerson(box, []byte("wrong horse 1")); !errors.Is(err, errPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := sealPerson(p, []byte("short"), seal.LeastKDF()); err == nil {
		t.Error("a short passphrase was taken")
	}
	for i := range box[:len(box)-1] {
		b := bytes.Clone(box)
		b[i] ^= 1
		if _, err := openPerson(b, pass); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	for n := range len(box) - 1 {
		if _, err := openPerson(box[:n], pass); err == nil {
			t.Errorf("cut to %d bytes it is taken", n)
		}
	}
}

func TestIdentityKeepsPersonsAndEstate(t *testing.T) {
	dir, id, u := dataDir(t), fullIdentity(t), cheap(t, "correct horse")
	second := somePerson("second")
	second.Recovery = key.GeneratePerson()
	second.RecoveryPublic = second.Recovery.Public()
	guest := somePerson("guest")
	id.Persons = append(id.Persons[:1], second, guest)
	id.Estate = &Estate{Owner: key.GeneratePerson().Public(), Index: [32]byte{7}, Code: key.GeneratePerson(), Heir: "second"}
	if err := createIdentity(dir, id, u); err != nil {
		t.Fatal(err)
	}
	got, err := loadIdentity(dir, u)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Persons) != 3 || !bytes.Equal(got.Persons[1].Recovery.Seed(), second.Recovery.Seed()) || got.Persons[1].RecoveryPublic != second.RecoveryPublic ||
		!got.Persons[2].Recovery.IsZero() || got.Persons[2].RecoveryPublic != guest.RecoveryPublic {
		t.Error("the persons' recovery keys did not come back")
	}
	if got.Estate == nil || got.Estate.Owner != id.Estate.Owner || got.Estate.Index != id.Estate.Index || got.Estate.Heir != "second" ||
		got.Estate.Code.Public() != id.Estate.Code.Public() {
		t.Error("what is being restored did not come back")
	}
	got.Estate = nil
	if err := got.save(); err != nil {
		t.Fatal(err)
	}
	if got, err = loadIdentity(dir, u); err != nil || got.Estate != nil {
		t.Error("what was restored is still there", err)
	}
}

func TestIdentityRefusesPersons(t *testing.T) {
	for what, change := range map[string]func(*Identity){
		"five persons": func(id *Identity) {
			id.Persons = append(id.Persons[:1], somePerson("b"), somePerson("c"), somePerson("d"), somePerson("e"))
		},
		"one name twice": func(id *Identity) { id.Persons = append(id.Persons[:1], somePerson(id.Persons[0].Name)) },
		"one key twice":  func(id *Identity) { id.Persons = append(id.Persons[:1], Person{Name: "b", Key: id.Persons[0].Key}) },
		"halves that do not": func(id *Identity) {
			p := somePerson("b")
			p.Recovery = key.GeneratePerson()
			id.Persons = append(id.Persons[:1], p)
		},
		"an empty estate": func(id *Identity) { id.Estate = &Estate{Heir: "b"} },
		"an estate for nobody": func(id *Identity) {
			id.Estate = &Estate{Owner: key.GeneratePerson().Public(), Index: [32]byte{1}, Code: key.GeneratePerson()}
		},
	} {
		id, err := newIdentity("node", "owner", "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		change(id)
		if id.check() == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
