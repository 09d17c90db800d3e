package keystore

import (
	"keymesh/crypto/share"
)

// extChange is the extension of a Request (verb policy) with the Manifest that
// its payload names, so that those who are asked can see the policy that they
// would consent to (SPEC.md).
const extChange = 1

// changeOf is the manifest that a request for a change of policy brings along,
// once it is proven to be the one that the payload names; nil: none.
func (s *Store) changeOf(r *share.SignedRequest) *share.SignedManifest {
	b := r.Ext[extChange]
	if r.Verb != share.VerbPolicy || len(b) == 0 {
		return nil
	}
	m, err := share.OpenManifest(s.cfg.ID, b)
	if err != nil || m.ID != r.ID || string(m.Hash[:]) != string(r.Payload) {
		return nil
	}
	return m
}
