package roster

import (
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
)

// Roles is what a member may do, as a set of bits.
type Roles uint64

// The roles of protocol.md section 2.
const (
	Holder Roles = 1 // keeps seats of other people's secrets
	Client Roles = 2 // stores and recovers
	Relay  Roles = 4 // splices bytes between nodes
)

// Has reports whether all roles of want are in r.
func (r Roles) Has(want Roles) bool { return r&want == want }

// Lifetimes.
const (
	// MaxMemberLife is the longest life of a MemberCert.
	MaxMemberLife = 90 * 24 * time.Hour
	// MaxIssuerLife is the longest life of an IssuerCert: ten years.
	MaxIssuerLife = 3653 * 24 * time.Hour
)

var (
	// ErrInvalid: a field is out of its range, or an object too large.
	ErrInvalid = errors.New("not a valid object of membership")
	// ErrChain: the object is not signed by whom it has to be signed by.
	ErrChain = errors.New("the certificate chain does not hold")
	// ErrNetwork: the IssuerCert is of another network.
	ErrNetwork = fmt.Errorf("%w: another network", ErrChain)
)

// IssuerCert is the authority's delegation to a key that admits members.
type IssuerCert struct {
	key.Head
	Issuer    key.AuthorityPublic `cbor:"1,keyasint"`
	NotBefore uint64              `cbor:"2,keyasint"` // unix seconds
	Expires   uint64              `cbor:"3,keyasint"` // unix seconds, exclusive
	Serial    uint64              `cbor:"4,keyasint"`
}

func (c *IssuerCert) check() error {
	if err := key.CheckPublic(c.Issuer); err != nil {
		return fmt.Errorf("%w: issuer key: %w", ErrInvalid, err)
	}
	return checkLife("IssuerCert", c.NotBefore, c.Expires, MaxIssuerLife)
}

// checkLife refuses an empty, negative or too long period.
func checkLife(what string, nbf, exp uint64, limit time.Duration) error {
	if exp <= nbf || exp-nbf > uint64(limit/time.Second) || exp > maxTime {
		return fmt.Errorf("%w: %s is not valid for 1 s to %v", ErrInvalid, what, limit)
	}
	return nil
}

// maxTime is the last second of the year 9999: later times overflow time.Time
// arithmetic and are refused everywhere.
const maxTime = 253402300799

// NewIssuerCert signs an IssuerCert as the authority of its network.
func NewIssuerCert(na key.AuthorityPrivate, c IssuerCert) (key.Object, error) {
	if err := c.check(); err != nil {
		return key.Object{}, err
	}
	return key.Sign(na, na.Public().Network(), key.TypeIssuerCert, key.Marshal(&c)), nil
}

// VerifyIssuerCert checks everything but the time. Errors wrap [ErrNetwork],
// [ErrChain], [ErrInvalid] or those of package key.
func VerifyIssuerCert(network key.NetworkID, o key.Object) (IssuerCert, error) {
	if key.AuthorityPublic(o.Key).Network() != network {
		return IssuerCert{}, ErrNetwork
	}
	if err := o.Verify(network, key.TypeIssuerCert); err != nil {
		return IssuerCert{}, fmt.Errorf("%w: %w", ErrChain, err)
	}
	var c IssuerCert
	if err := key.Unmarshal(o.Body, &c); err != nil {
		return IssuerCert{}, fmt.Errorf("IssuerCert: %w", err)
	}
	return c, c.check()
}

// MemberCert admits a node, under the operator that its inviter fixed.
type MemberCert struct {
	key.Head
	Node      key.NodeID `cbor:"1,keyasint"`
	Name      string     `cbor:"2,keyasint"` // [a-z0-9-]{1,63}
	Roles     Roles      `cbor:"3,keyasint"`
	Operator  string     `cbor:"4,keyasint"` // [a-z0-9._@-]{1,63}
	Zone      string     `cbor:"5,keyasint"` // as Operator, or empty
	Capacity  uint64     `cbor:"6,keyasint"` // bytes offered to seats; the weight of placement
	NotBefore uint64     `cbor:"7,keyasint"` // unix seconds
	Expires   uint64     `cbor:"8,keyasint"` // unix seconds, exclusive
	Serial    uint64     `cbor:"9,keyasint"`
}

func (c *MemberCert) check() error {
	switch {
	case c.Node.IsZero():
		return fmt.Errorf("%w: MemberCert without a node", ErrInvalid)
	case CheckName(c.Name) != nil:
		return CheckName(c.Name)
	case CheckLabel(c.Operator) != nil:
		return fmt.Errorf("operator: %w", CheckLabel(c.Operator))
	case c.Zone != "" && CheckLabel(c.Zone) != nil:
		return fmt.Errorf("zone: %w", CheckLabel(c.Zone))
	case c.Roles == 0 || c.Roles&^(Holder|Client|Relay) != 0:
		return fmt.Errorf("%w: roles %d", ErrInvalid, uint64(c.Roles))
	}
	return checkLife("MemberCert", c.NotBefore, c.Expires, MaxMemberLife)
}

// CheckName refuses what is not [a-z0-9-]{1,63}, the form of a node's name.
func CheckName(s string) error { return checkText("name", s, "-") }

// CheckLabel refuses what is not [a-z0-9._@-]{1,63}, the form of an operator
// or a zone.
func CheckLabel(s string) error { return checkText("label", s, "-._@") }

func checkText(what, s, more string) error {
	if len(s) < 1 || len(s) > 63 {
		return fmt.Errorf("%w: a %s has 1 to 63 characters", ErrInvalid, what)
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		for j := range len(more) {
			ok = ok || c == more[j]
		}
		if !ok {
			return fmt.Errorf("%w: a %s has only a-z, 0-9 and %q", ErrInvalid, what, more)
		}
	}
	return nil
}

// NewMemberCert signs a MemberCert as an issuer of the network.
func NewMemberCert(issuer key.AuthorityPrivate, network key.NetworkID, c MemberCert) (key.Object, error) {
	if err := c.check(); err != nil {
		return key.Object{}, err
	}
	return key.Sign(issuer, network, key.TypeMemberCert, key.Marshal(&c)), nil
}

// Chain is a verified MemberCert with the IssuerCert above it.
type Chain struct {
	Issuer IssuerCert
	Member MemberCert
}

// VerifyChain checks both certificates but not the time and no revocation: see
// [Chain.Expired] and [Roster]. Errors as those of [VerifyIssuerCert].
func VerifyChain(network key.NetworkID, member, issuer key.Object) (Chain, error) {
	ic, err := VerifyIssuerCert(network, issuer)
	if err != nil {
		return Chain{}, err
	}
	mc, err := verifyMember(network, member, ic)
	if err != nil {
		return Chain{}, err
	}
	return Chain{Issuer: ic, Member: mc}, nil
}

func verifyMember(network key.NetworkID, o key.Object, ic IssuerCert) (MemberCert, error) {
	if key.AuthorityPublic(o.Key) != ic.Issuer {
		return MemberCert{}, fmt.Errorf("%w: MemberCert by another key than the issuer's", ErrChain)
	}
	if err := o.Verify(network, key.TypeMemberCert); err != nil {
		return MemberCert{}, fmt.Errorf("%w: %w", ErrChain, err)
	}
	var c MemberCert
	if err := key.Unmarshal(o.Body, &c); err != nil {
		return MemberCert{}, fmt.Errorf("MemberCert: %w", err)
	}
	if err := c.check(); err != nil {
		return MemberCert{}, err
	}
	return c, nil
}

// Expires returns when the first of the two certificates ends.
func (c Chain) Expires() time.Time {
	return time.Unix(int64(min(c.Issuer.Expires, c.Member.Expires)), 0)
}

// Expired reports whether the member is lapsed at this time. The beginning of
// a certificate is not a reason to refuse it: it is what a slow clock is
// recognised by (protocol.md section 5, "Clocks").
func (c Chain) Expired(now time.Time) bool { return !now.Before(c.Expires()) }

// NotBefore returns the later beginning of the two: time signed by an issuer
// or the authority, below which no right clock can be.
func (c Chain) NotBefore() time.Time {
	return time.Unix(int64(max(c.Issuer.NotBefore, c.Member.NotBefore)), 0)
}

// PersonBinding is a person's word that a node acts for them.
type PersonBinding struct {
	key.Head
	Person    key.PersonPublic `cbor:"1,keyasint"`
	Node      key.NodeID       `cbor:"2,keyasint"`
	NotBefore uint64           `cbor:"3,keyasint"` // unix seconds
	Expires   uint64           `cbor:"4,keyasint"` // unix seconds, exclusive
}

// NewPersonBinding signs a binding of the person to the node.
func NewPersonBinding(p key.PersonPrivate, network key.NetworkID, b PersonBinding) (key.Object, error) {
	b.Person = p.Public()
	if err := b.check(); err != nil {
		return key.Object{}, err
	}
	return key.Sign(p, network, key.TypePersonBinding, key.Marshal(&b)), nil
}

func (b *PersonBinding) check() error {
	if b.Node.IsZero() {
		return fmt.Errorf("%w: PersonBinding without a node", ErrInvalid)
	}
	return checkLife("PersonBinding", b.NotBefore, b.Expires, MaxIssuerLife)
}

// VerifyBinding checks everything but the time. Errors wrap [ErrChain],
// [ErrInvalid] or those of package key.
func VerifyBinding(network key.NetworkID, o key.Object) (PersonBinding, error) {
	if err := o.Verify(network, key.TypePersonBinding); err != nil {
		return PersonBinding{}, fmt.Errorf("%w: %w", ErrChain, err)
	}
	var b PersonBinding
	if err := key.Unmarshal(o.Body, &b); err != nil {
		return PersonBinding{}, fmt.Errorf("PersonBinding: %w", err)
	}
	if b.Person != key.PersonPublic(o.Key) {
		return PersonBinding{}, fmt.Errorf("%w: PersonBinding by another key than the person's", ErrChain)
	}
	return b, b.check()
}
