package roster

import (
	"fmt"

	"keymesh/crypto/key"
)

// Limits of a Revocation.
const (
	MaxRevokedNodes   = 1024
	MaxRevokedIssuers = 64
)

// Revocation takes membership away for ever. Each signer has one list that only
// grows: a higher seq holds everything that the lower one did.
type Revocation struct {
	key.Head
	Seq     uint64                `cbor:"1,keyasint"` // from 1
	Nodes   []key.NodeID          `cbor:"2,keyasint"` // ascending
	Issuers []key.AuthorityPublic `cbor:"3,keyasint"` // ascending; only by the authority
}

func (r *Revocation) check() error {
	if r.Seq == 0 || len(r.Nodes) > MaxRevokedNodes || len(r.Issuers) > MaxRevokedIssuers {
		return fmt.Errorf("%w: Revocation with seq 0 or too many entries", ErrInvalid)
	}
	for i := 1; i < len(r.Nodes); i++ {
		if string(r.Nodes[i-1][:]) >= string(r.Nodes[i][:]) {
			return fmt.Errorf("%w: Revocation out of order", ErrInvalid)
		}
	}
	for i := 1; i < len(r.Issuers); i++ {
		if string(r.Issuers[i-1][:]) >= string(r.Issuers[i][:]) {
			return fmt.Errorf("%w: Revocation out of order", ErrInvalid)
		}
	}
	return nil
}

// NewRevocation signs a list as an issuer or the authority. A list by an
// issuer holds no issuers.
func NewRevocation(signer key.AuthorityPrivate, network key.NetworkID, r Revocation) (key.Object, error) {
	if err := r.check(); err != nil {
		return key.Object{}, err
	}
	if len(r.Issuers) > 0 && signer.Public().Network() != network {
		return key.Object{}, fmt.Errorf("%w: only the authority revokes issuers", ErrChain)
	}
	return key.Sign(signer, network, key.TypeRevocation, key.Marshal(&r)), nil
}

// Revoker names the list of one signer among the ids of a roster's digests.
func Revoker(signer key.AuthorityPublic) key.Hash { return key.T("keymesh/v1/revoker", signer[:]) }

// VerifyRevocation checks a list and that its signer may sign it: the
// authority itself, or the issuer that the second object certifies (the zero
// object for a list of the authority). An expired IssuerCert still counts: a
// revocation never ends. Errors as those of [VerifyChain].
func VerifyRevocation(network key.NetworkID, o, issuer key.Object) (Revocation, error) {
	byNA := key.AuthorityPublic(o.Key).Network() == network
	if !byNA {
		ic, err := VerifyIssuerCert(network, issuer)
		if err != nil {
			return Revocation{}, err
		}
		if ic.Issuer != key.AuthorityPublic(o.Key) {
			return Revocation{}, fmt.Errorf("%w: Revocation by another key than the issuer's", ErrChain)
		}
	}
	if err := o.Verify(network, key.TypeRevocation); err != nil {
		return Revocation{}, fmt.Errorf("%w: %w", ErrChain, err)
	}
	var r Revocation
	if err := key.Unmarshal(o.Body, &r); err != nil {
		return Revocation{}, fmt.Errorf("Revocation: %w", err)
	}
	if !byNA && len(r.Issuers) > 0 {
		return Revocation{}, fmt.Errorf("%w: only the authority revokes issuers", ErrChain)
	}
	return r, r.check()
}
