package keystore

import (
	"fmt"
	"math"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// claim is a tombstone that a Request by the policy authorises, not the owner's
// signature. The words on it are verified.
type claim struct {
	*tombstone
	request *share.SignedRequest
	signers []key.PersonPublic // who asked, and who approved
	by      []key.NodeID       // who shows it
}

// maxClaims bounds what is kept of them while one secret is looked at.
const maxClaims = 64

// mergeClaim takes in a tombstone with the words that authorise it. They are
// kept for ever with the tombstone, so their time is not judged.
func (v *view) mergeClaim(from key.NodeID, st *custody.State) error {
	for _, c := range v.claims {
		if string(c.bytes) == string(st.Tombstone) && slices.EqualFunc(c.consent, st.Consent, slices.Equal) {
			if !slices.Contains(c.by, from) {
				c.by = append(c.by, from)
			}
			return nil
		}
	}
	if len(st.Consent) > 1+custody.MaxApprovals || len(v.claims) >= maxClaims {
		return fmt.Errorf("%w: %d approvals, %d others", share.ErrTombstone, len(st.Consent)-1, len(v.claims))
	}
	t, err := newTomb(v.s.cfg.ID, st.Tombstone)
	if err != nil {
		return err
	}
	r, err := share.ReadRequest(v.s.cfg.ID, st.Consent[0])
	if err != nil {
		return err
	}
	if t.ID != v.id || r.ID != v.id || r.Verb != share.VerbDelete || string(r.Payload) != string(st.Tombstone) {
		return fmt.Errorf("%w: with a request for something else", share.ErrTombstone)
	}
	c := &claim{tombstone: &tombstone{Tombstone: t.Tombstone, hash: t.hash, bytes: st.Tombstone, consent: st.Consent},
		request: r, signers: []key.PersonPublic{r.Person}, by: []key.NodeID{from}}
	for _, b := range st.Consent[1:] {
		if a, err := share.ReadApproval(v.s.cfg.ID, b); err == nil && a.Subject == r.Hash && a.Verdict == share.VerdictApprove {
			c.signers = append(c.signers, a.Person)
		}
	}
	v.claims = append(v.claims, c)
	return nil
}

// judge counts the claims that are proven by now.
func (v *view) judge() {
	v.claims = slices.DeleteFunc(v.claims, func(c *claim) bool {
		if !v.proves(c) {
			return false
		}
		v.tombs = append(v.tombs, c.tombstone)
		return true
	})
}

// proves: the owner asked, whose signature alone deletes; or the policy of the
// version that was in force is satisfied. Of delays and confirmations only the
// holders can tell: where these are missing, more seats must show the
// tombstone than may lie.
func (v *view) proves(c *claim) bool {
	if c.request.Person == c.Owner {
		return true
	}
	var last *certified
	for _, o := range v.certs {
		if (o.m.Gen <= c.Gen || c.Scope == share.ScopeOne) && (last == nil || compareCertified(o, last) > 0) {
			last = o
		}
	}
	if last == nil || last.m.Owner != c.Owner {
		return false
	}
	pol, err := policy.Parse(last.m.Policy)
	if err != nil {
		return false
	}
	signers := slices.DeleteFunc(slices.Clone(c.signers), func(p key.PersonPublic) bool { return !pol.IsParty(c.Owner, p) })
	e := policy.Evidence{Owner: c.Owner, Signers: signers}
	if pol.Evaluate(e).OK {
		return true
	}
	seats := 0
	for _, id := range c.by {
		seats += btoi(last.m.SeatOf(id) != nil)
	}
	e.Operator, e.Waited = true, make(map[int]uint64)
	for leaf := range policy.MaxNodes {
		e.Waited[leaf] = math.MaxUint64
	}
	return pol.Evaluate(e).OK && seats > last.m.F()
}
