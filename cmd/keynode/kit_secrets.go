package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/policy"
)

// listKit is what the person may recover of the owner of a card or kit: the
// holders show a person whom a policy names that secret, and the index key in
// the card opens its name. Nothing is asked for.
func (d *daemon) listKit(ctx context.Context, person string, text []byte) (apitype.Kit, error) {
	k, err := ParseKit(text)
	if err != nil {
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "%.400s", err)
	}
	defer k.Erase()
	p, ok := d.person(person)
	switch {
	case !ok:
		return apitype.Kit{}, noPerson(person)
	case k.Network != d.id.Network:
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "the card is of another network, %s", k.Network)
	}
	found := map[key.Hash]apitype.KitSecret{}
	l := lister{d: d, owner: k.Owner, index: &k.Index, signer: p.Key}
	silent, err := l.all(ctx, func(m *share.SignedManifest, label *share.Label) {
		pol, err := policy.Parse(m.Policy)
		if err != nil || !pol.IsParty(m.Owner, p.Key.Public()) || found[m.ID].Gen >= m.Gen {
			return
		}
		tag := key.Hash(share.Tag(&k.Index, label.Name))
		found[m.ID] = apitype.KitSecret{Name: label.Name, ID: m.ID.String(), Tag: tag.String(), Gen: m.Gen, Policy: pol.Words(func(q key.PersonPublic) string {
			return cmp.Or(p.Names(q), q.String())
		})}
	})
	if err != nil {
		return apitype.Kit{}, apitype.NewProblem(apitype.Quorum, "no other holder answered")
	}
	d.persons.Lock()
	out := d.describe(k)
	d.persons.Unlock()
	out.Silent = silent
	for _, s := range found {
		out.Secrets = append(out.Secrets, s)
	}
	slices.SortFunc(out.Secrets, func(a, b apitype.KitSecret) int { return cmp.Compare(a.Name, b.Name) })
	if len(out.Secrets) > apitype.MaxPage {
		return apitype.Kit{}, errors.New("more secrets than an answer has room for")
	}
	return out, nil
}
