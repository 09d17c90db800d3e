package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

// The identity file is one line of text and one body of deterministic CBOR:
//
//	line      "keymesh identity 1 sealed" or "keymesh identity 1 IN CLEAR ...", newline
//	envelope  {0: 1, 1: unlock mode as parseUnlock reads it, 2: content, 3: sum}
//	content   sealed: the identity in a passphrase box of crypto/seal, sum absent
//	          in clear: the identity; sum = T("keymesh/v1/identity", content)
//	identity  the body identityBody below
//
// The box does not cover the line and the envelope, so the identity repeats the
// unlock mode and both must agree.
const (
	sealedLine = "keymesh identity 1 sealed\n"
	clearLine  = "keymesh identity 1 IN CLEAR (unlock none, for development): who reads this file is this node and its persons\n"

	// maxIdentity is the largest identity file, in bytes.
	maxIdentity = 1 << 20
)

var (
	// errNoIdentity: there is no identity file in the directory.
	errNoIdentity = errors.New("there is no identity here")
	// errIdentityExists: an identity is never overwritten by a new one.
	errIdentityExists = errors.New("there is an identity here already")
	// errIdentityDamaged: the bytes are not an identity file.
	errIdentityDamaged = errors.New("the identity file is damaged")
	// errPassphrase: the passphrase is wrong or the sealed part is damaged; the
	// cipher cannot tell which.
	errPassphrase = errors.New("the passphrase is wrong, or the identity file is damaged")
)

// Identity is what makes a node and its persons themselves: everything that
// cannot be fetched again from the network. Not safe for concurrent use.
type Identity struct {
	Network key.NetworkID // zero before the node has joined one
	Node    key.NodePrivate
	Name    string // the node's, [a-z0-9-]{1,63}
	Zone    string // "" or [a-z0-9-]{1,63}
	Created time.Time

	// Persons has one to maxPersons entries; the first is who acts by default.
	Persons []Person
	// Recovery is zero once its seed was printed and erased; RecoveryPublic
	// stays.
	Recovery       key.PersonPrivate
	RecoveryPublic key.PersonPublic
	// Authority is set in the network's first node only, until its seed is
	// printed and erased.
	Authority key.AuthorityPrivate
	// Estate is what a kit is bringing back on this machine; nil: nothing.
	Estate *Estate
	// Rotations are recovery keys that secrets may still name.
	Rotations []Rotation
	// Issuers are the issuer keys that this node admits members with; mostly
	// none.
	Issuers []key.AuthorityPrivate

	// Member and IssuerCert are the node's own certificates, zero before it has
	// joined a network.
	Member, IssuerCert key.Object

	// StorageKey (32 bytes) seals the database, SealingKey (seal.PrivateSize
	// bytes) opens what is sealed to this node.
	StorageKey []byte
	SealingKey []byte

	dir    string
	unlock Unlock
	pass   []byte // kept so that a running daemon can save; nil in clear
}

// identityBody is the identity as it is stored; seeds are 32 bytes each.
type identityBody struct {
	key.Head
	Unlock         string           `cbor:"1,keyasint"`
	Network        key.NetworkID    `cbor:"2,keyasint"`
	Node           []byte           `cbor:"3,keyasint"`
	Name           string           `cbor:"4,keyasint"`
	Zone           string           `cbor:"5,keyasint"`
	Created        uint64           `cbor:"6,keyasint"`
	Persons        []personBody     `cbor:"7,keyasint"`
	Recovery       []byte           `cbor:"8,keyasint,omitempty"`
	RecoveryPublic key.PersonPublic `cbor:"9,keyasint"`
	Authority      []byte           `cbor:"10,keyasint,omitempty"`
	Issuers        [][]byte         `cbor:"11,keyasint,omitempty"`
	Member         []byte           `cbor:"12,keyasint,omitempty"`
	IssuerCert     []byte           `cbor:"13,keyasint,omitempty"`
	StorageKey     []byte           `cbor:"14,keyasint"`
	SealingKey     []byte           `cbor:"15,keyasint"`
	Recoveries     []recoveryBody   `cbor:"16,keyasint,omitempty"` // of all persons but the first
	Estate         *estateBody      `cbor:"17,keyasint,omitempty"`
	Rotations      []rotationBody   `cbor:"18,keyasint,omitempty"`
}

type envelopeBody struct {
	key.Head
	Unlock  string `cbor:"1,keyasint"`
	Content []byte `cbor:"2,keyasint"`
	Sum     []byte `cbor:"3,keyasint,omitempty"`
}

// wipe zeroes every secret that the body holds.
func (b *identityBody) wipe() {
	for _, p := range b.Persons {
		clear(p.Seed)
	}
	for _, s := range b.Issuers {
		clear(s)
	}
	for _, r := range b.Recoveries {
		clear(r.Seed)
	}
	if b.Estate != nil {
		b.Estate.wipe()
	}
	for _, s := range [][]byte{b.Node, b.Recovery, b.Authority, b.StorageKey, b.SealingKey} {
		clear(s)
	}
}

// newIdentity makes the keys of a new node and of its first person, with that
// person's recovery key, and stores nothing. name is the node's name, person
// the person's.
func newIdentity(name, person, zone string, now time.Time) (*Identity, error) {
	sealing, err := seal.GenerateKey()
	if err != nil {
		return nil, err
	}
	id := &Identity{
		Node: key.GenerateNode(), Name: name, Zone: zone, Created: now.UTC().Truncate(time.Second),
		Persons:  []Person{{Name: person, Key: key.GeneratePerson()}},
		Recovery: key.GeneratePerson(), StorageKey: make([]byte, 32), SealingKey: sealing.Bytes(),
	}
	id.RecoveryPublic = id.Recovery.Public()
	if _, err := rand.Read(id.StorageKey); err != nil {
		return nil, fmt.Errorf("making the storage key: %w", err)
	}
	return id, id.check()
}

// Format implements fmt.Formatter: no verb prints what an identity holds.
func (Identity) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[redacted]") }

// LogValue implements slog.LogValuer.
func (Identity) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Unlock returns the mode in which the identity was created or loaded.
func (id *Identity) Unlock() Unlock { return id.unlock }

// Erase zeroes every secret in memory; the identity is unusable afterwards.
func (id *Identity) Erase() {
	id.Node.Erase()
	id.Recovery.Erase()
	id.Authority.Erase()
	for i := range id.Persons {
		id.Persons[i].Key.Erase()
		id.Persons[i].Recovery.Erase()
	}
	if id.Estate != nil {
		id.Estate.Erase()
	}
	for i := range id.Issuers {
		id.Issuers[i].Erase()
	}
	clear(id.StorageKey)
	clear(id.SealingKey)
	clear(id.pass)
}

var labelPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// checkLabel is the rule for names of nodes, persons and zones (protocol.md
// section 2).
func checkLabel(what, s string) error {
	if !labelPattern.MatchString(s) {
		return hint(fmt.Errorf("%s %.100q is not allowed", what, s), "use 1 to 63 of a-z, 0-9 and -")
	}
	return nil
}

// check holds an identity, whether new or read, to its own rules.
func (id *Identity) check() error {
	if err := checkLabel("node name", id.Name); err != nil {
		return err
	}
	if id.Zone != "" {
		if err := checkLabel("zone", id.Zone); err != nil {
			return err
		}
	}
	if id.Node.IsZero() {
		return errors.New("an identity has a node key")
	}
	if err := checkPersons(id.Persons); err != nil {
		return err
	}
	if id.Estate != nil {
		if err := id.Estate.check(); err != nil {
			return err
		}
	}
	if !id.Recovery.IsZero() && id.Recovery.Public() != id.RecoveryPublic {
		return errors.New("the two halves of the recovery key do not belong together")
	}
	if !id.Authority.IsZero() && id.Authority.Public().Network() != id.Network {
		return errors.New("the network authority's key does not name the network")
	}
	if len(id.StorageKey) != 32 {
		return errors.New("the storage key has 32 bytes")
	}
	_, err := seal.ParsePrivateKey(id.SealingKey)
	return err
}

// encode returns the whole file.
func (id *Identity) encode() ([]byte, error) {
	if err := id.check(); err != nil {
		return nil, err
	}
	b := id.body()
	defer b.wipe()
	content := key.Marshal(b)
	defer clear(content)
	env := &envelopeBody{Unlock: b.Unlock}
	if id.unlock.Clear() {
		sum := key.T("keymesh/v1/identity", content)
		env.Content, env.Sum = content, sum[:]
		return append([]byte(clearLine), key.Marshal(env)...), nil
	}
	box, err := seal.UnderPassphrase(id.pass, content, id.unlock.kdf)
	if err != nil {
		return nil, fmt.Errorf("sealing the identity: %w", err)
	}
	env.Content = box
	return append([]byte(sealedLine), key.Marshal(env)...), nil
}

func (id *Identity) body() *identityBody {
	b := &identityBody{
		Unlock: id.unlock.String(), Network: id.Network, Node: id.Node.Seed(), Name: id.Name, Zone: id.Zone,
		Created: uint64(id.Created.Unix()), RecoveryPublic: id.RecoveryPublic,
		StorageKey: bytes.Clone(id.StorageKey), SealingKey: bytes.Clone(id.SealingKey),
	}
	for _, p := range id.Persons {
		b.Persons = append(b.Persons, personBody{Name: p.Name, Seed: p.Key.Seed()})
	}
	for _, p := range id.Persons[1:] {
		r := recoveryBody{Public: p.RecoveryPublic, Seed: []byte{}}
		if !p.Recovery.IsZero() {
			r.Seed = p.Recovery.Seed()
		}
		b.Recoveries = append(b.Recoveries, r)
	}
	if id.Estate != nil {
		b.Estate = id.Estate.body()
	}
	for _, r := range id.Rotations {
		b.Rotations = append(b.Rotations, rotationBody{Person: r.Person, Old: r.Old})
	}
	for _, k := range id.Issuers {
		b.Issuers = append(b.Issuers, k.Seed())
	}
	if !id.Recovery.IsZero() {
		b.Recovery = id.Recovery.Seed()
	}
	if !id.Authority.IsZero() {
		b.Authority = id.Authority.Seed()
	}
	if !id.Member.IsZero() {
		b.Member = id.Member.Encode()
	}
	if !id.IssuerCert.IsZero() {
		b.IssuerCert = id.IssuerCert.Encode()
	}
	return b
}

// readEnvelope checks the form of a file and returns what its line and its
// envelope say.
func readEnvelope(file []byte) (env envelopeBody, inClear bool, err error) {
	rest, sealed := bytes.CutPrefix(file, []byte(sealedLine))
	if !sealed {
		if rest, inClear = bytes.CutPrefix(file, []byte(clearLine)); !inClear {
			return env, false, fmt.Errorf("%w: it does not start as one", errIdentityDamaged)
		}
	}
	if err := key.Unmarshal(rest, &env); err != nil {
		return env, false, fmt.Errorf("%w: %w", errIdentityDamaged, err)
	}
	u, err := parseUnlock(env.Unlock)
	if err != nil || u.Clear() != inClear {
		return env, false, fmt.Errorf("%w: its unlock mode does not fit", errIdentityDamaged)
	}
	if inClear {
		sum := key.T("keymesh/v1/identity", env.Content)
		if subtle.ConstantTimeCompare(sum[:], env.Sum) != 1 {
			return env, false, fmt.Errorf("%w: its checksum is wrong", errIdentityDamaged)
		}
	} else if len(env.Sum) != 0 {
		return env, false, fmt.Errorf("%w: a sealed one has no checksum", errIdentityDamaged)
	}
	return env, inClear, nil
}

// decodeIdentity opens a whole file. u decides where the passphrase comes from;
// its zero value leaves that to the file. What the file says of its own mode is
// believed only after the box has opened and says the same.
func decodeIdentity(file []byte, u Unlock) (*Identity, error) {
	env, inClear, err := readEnvelope(file)
	if err != nil {
		return nil, err
	}
	stored, err := parseUnlock(env.Unlock)
	if err != nil {
		return nil, err
	}
	stored.prompt, stored.kdf = u.prompt, u.kdf
	if u.IsZero() {
		u = stored
	}
	if u.Clear() != inClear {
		return nil, hint(errors.New("the identity is sealed otherwise than the unlock mode says"), "leave the unlock mode out: the file was made with %s", stored.mode)
	}
	content, pass := env.Content, []byte(nil)
	if !inClear {
		if pass, err = u.passphrase(false); err != nil {
			return nil, err
		}
		if content, err = seal.OpenPassphrase(pass, env.Content); err != nil {
			clear(pass)
			if errors.Is(err, seal.ErrOpen) {
				err = errPassphrase
			}
			return nil, err
		}
	}
	defer clear(content)
	id, err := parseBody(content, env.Unlock)
	if err != nil {
		clear(pass)
		return nil, err
	}
	// The file keeps the mode it was made with, whatever opened it this time.
	id.unlock, id.pass = stored, pass
	return id, nil
}

// parseBody makes an Identity of opened content; unlock is the envelope's.
func parseBody(content []byte, unlock string) (*Identity, error) {
	var b identityBody
	defer b.wipe()
	if err := key.Unmarshal(content, &b); err != nil {
		// The decoder's own words could quote what it decoded.
		return nil, fmt.Errorf("%w: its content has another form", errIdentityDamaged)
	}
	if b.Unlock != unlock {
		return nil, fmt.Errorf("%w: its unlock mode was changed", errIdentityDamaged)
	}
	id, err := b.identity()
	if err == nil {
		err = id.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIdentityDamaged, err)
	}
	return id, nil
}

func (b *identityBody) identity() (id *Identity, err error) {
	id = &Identity{
		Network: b.Network, Name: b.Name, Zone: b.Zone, Created: time.Unix(int64(b.Created), 0).UTC(),
		RecoveryPublic: b.RecoveryPublic, StorageKey: bytes.Clone(b.StorageKey), SealingKey: bytes.Clone(b.SealingKey),
	}
	if id.Node, err = key.NodeFromSeed(b.Node); err != nil {
		return nil, err
	}
	for _, p := range b.Persons {
		k, err := key.PersonFromSeed(p.Seed)
		if err != nil {
			return nil, err
		}
		id.Persons = append(id.Persons, Person{Name: p.Name, Key: k})
	}
	if err := b.recoveries(id); err != nil {
		return nil, err
	}
	for _, r := range b.Rotations {
		id.Rotations = append(id.Rotations, Rotation{Person: r.Person, Old: r.Old})
	}
	if b.Estate != nil {
		if id.Estate, err = b.Estate.estate(); err != nil {
			return nil, err
		}
	}
	for _, s := range b.Issuers {
		k, err := key.AuthorityFromSeed(s)
		if err != nil {
			return nil, err
		}
		id.Issuers = append(id.Issuers, k)
	}
	if len(b.Recovery) > 0 {
		if id.Recovery, err = key.PersonFromSeed(b.Recovery); err != nil {
			return nil, err
		}
	}
	if len(b.Authority) > 0 {
		if id.Authority, err = key.AuthorityFromSeed(b.Authority); err != nil {
			return nil, err
		}
	}
	return id, b.certificates(id)
}

func (b *identityBody) certificates(id *Identity) (err error) {
	if len(b.Member) > 0 {
		if id.Member, err = key.DecodeObject(b.Member); err != nil {
			return err
		}
	}
	if len(b.IssuerCert) > 0 {
		if id.IssuerCert, err = key.DecodeObject(b.IssuerCert); err != nil {
			return err
		}
	}
	return nil
}
