package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

// A person on the way from one node to another is a line of text, then the body
// personExport in a passphrase box of crypto/seal as one line of base64:
//
//	keymesh person 1
//	...
//
// The recovery key's seed stays behind: it is printed once, by one node.
const personLine = "keymesh person 1\n"

// maxPersonFile is the longest export that is looked at, in bytes.
const maxPersonFile = 4 << 10

// errPersonFile: the bytes are not an exported person.
var errPersonFile = errors.New("this is not an exported person")

type personExport struct {
	key.Head
	Name           string           `cbor:"1,keyasint"`
	Seed           []byte           `cbor:"2,keyasint"`
	RecoveryPublic key.PersonPublic `cbor:"3,keyasint"`
}

// checkPassphrase is the rule for new passphrases.
func checkPassphrase(pass []byte) error {
	if len(pass) < minPassphrase || len(pass) > maxPassphrase {
		return fmt.Errorf("a passphrase has %d to %d bytes", minPassphrase, maxPassphrase)
	}
	return nil
}

// sealPerson returns the export of p, whose RecoveryPublic must be set.
func sealPerson(p Person, pass []byte, kdf seal.KDFParams) ([]byte, error) {
	if err := checkPassphrase(pass); err != nil {
		return nil, err
	}
	b := &personExport{Name: p.Name, Seed: p.Key.Seed(), RecoveryPublic: p.RecoveryPublic}
	defer clear(b.Seed)
	plain := key.Marshal(b)
	defer clear(plain)
	box, err := seal.UnderPassphrase(pass, plain, kdf)
	if err != nil {
		return nil, err
	}
	return append(base64.StdEncoding.AppendEncode([]byte(personLine), box), '\n'), nil
}

// openPerson reads an export. Errors: errPersonFile, errPassphrase.
func openPerson(file, pass []byte) (Person, error) {
	rest, ok := bytes.CutPrefix(file, []byte(personLine))
	if !ok || len(file) > maxPersonFile {
		return Person{}, fmt.Errorf("%w: it does not start as one, or is too long", errPersonFile)
	}
	rest = bytes.TrimSuffix(rest, []byte("\n"))
	enc := base64.StdEncoding.Strict()
	box := make([]byte, enc.DecodedLen(len(rest)))
	n, err := enc.Decode(box, rest)
	if err != nil || bytes.ContainsAny(rest, "\r\n") {
		return Person{}, fmt.Errorf("%w: it was cut off or changed", errPersonFile)
	}
	plain, err := seal.OpenPassphrase(pass, box[:n])
	if errors.Is(err, seal.ErrOpen) {
		return Person{}, fmt.Errorf("%w, or it is not the person's file", errPassphrase)
	}
	if err != nil {
		return Person{}, fmt.Errorf("%w: its box has another form", errPersonFile)
	}
	defer clear(plain)
	var b personExport
	if key.Unmarshal(plain, &b) != nil {
		return Person{}, fmt.Errorf("%w: its content has another form", errPersonFile)
	}
	defer clear(b.Seed)
	k, err := key.PersonFromSeed(b.Seed)
	if err != nil || checkLabel("person name", b.Name) != nil || key.CheckPublic(b.RecoveryPublic) != nil {
		return Person{}, fmt.Errorf("%w: its content has another form", errPersonFile)
	}
	return Person{Name: b.Name, Key: k, RecoveryPublic: b.RecoveryPublic}, nil
}
