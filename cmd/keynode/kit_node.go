package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/mesh"
	"keymesh/mesh/roster"
)

// kitNodes is how many members a kit names when there are that many.
const kitNodes = 5

// Kit implements api.Identities. A kit is given as often as it is asked for,
// until its text was read back and erase has taken its seeds from the node.
func (d *daemon) Kit(ctx context.Context, person string, r apitype.KitRequest) (apitype.Kit, error) {
	if r.Act == apitype.KitList {
		return d.listKit(ctx, person, r.Text)
	}
	d.persons.Lock()
	defer d.persons.Unlock()
	switch r.Act {
	case apitype.KitMake:
		return d.makeKit(ctx, person)
	case apitype.KitRotate:
		return d.startRotation(ctx, person)
	}
	k, err := ParseKit(r.Text)
	if err != nil {
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "%.400s", err)
	}
	defer k.Erase()
	if r.Act == apitype.KitErase {
		return d.eraseKit(ctx, k)
	}
	return d.describe(k), nil
}

func (d *daemon) makeKit(ctx context.Context, person string) (apitype.Kit, error) {
	i, ok := d.id.find(person)
	if !ok {
		return apitype.Kit{}, noPerson(person)
	}
	code, _ := d.id.recovery(i)
	if code.IsZero() {
		p := apitype.NewProblem(apitype.Unprocessable, "the recovery code of %s is not on this node: it was printed and erased, or the person was made on another node", d.id.Persons[i].Name)
		p.Hint = "use the kit that was printed, or make a new code with keyctl kit rotate"
		return apitype.Kit{}, p
	}
	nodes := kitMembers(d.node.Members(), d.node.Self())
	if len(nodes) < minKitNodes {
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "a kit names at least %d nodes to start from, and this one knows %d with an address", minKitNodes, len(nodes))
	}
	p := d.id.Persons[i]
	if err := d.recordPerson(ctx, "kit", p.Key.Public(), "made"); err != nil {
		return apitype.Kit{}, err
	}
	k := &Kit{Network: d.id.Network, Authority: d.id.Authority, Owner: p.Key.Public(), Person: p.Name, Index: share.IndexKey(p.Key, d.id.Network),
		Code: *code, Made: time.Now(), Nodes: nodes}
	// The keys in k are the identity's own: only the index key is a copy.
	defer clear(k.Index[:])
	out := d.describe(k)
	for _, f := range []struct {
		to   *apitype.Bytes
		make func() ([]byte, error)
	}{{&out.Text, k.Text}, {&out.Page, k.Page}, {&out.CardText, k.Card().Text}, {&out.CardPage, k.Card().Page}} {
		b, err := f.make()
		if err != nil {
			return apitype.Kit{}, fmt.Errorf("making the kit: %w", err)
		}
		*f.to = b
	}
	return out, nil
}

// kitMembers chooses whom to start from: holders before others, linked before
// silent ones, this node last, since its machine may be what is lost.
func kitMembers(members []mesh.Member, self mesh.Member) []KitNode {
	rank := func(m mesh.Member) int {
		r := 0
		if !m.Roles.Has(roster.Holder) {
			r += 2
		}
		if !m.Online {
			r++
		}
		return r
	}
	slices.SortFunc(members, func(a, b mesh.Member) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	var out []KitNode
	for _, m := range append(slices.Clip(members), self) {
		addrs := slices.DeleteFunc(slices.Clone(m.Addrs), func(a string) bool { return len(a) > maxKitAddr || roster.CheckAddr(a) != nil })
		if m.Revoked || len(addrs) == 0 || len(out) == kitNodes || m.ID == self.ID && len(out) >= minKitNodes {
			continue
		}
		out = append(out, KitNode{ID: m.ID, Addrs: addrs[:min(len(addrs), 2)]})
	}
	return out
}

// describe says what a kit is and what of it this node still keeps, without a
// secret.
func (d *daemon) describe(k *Kit) apitype.Kit {
	out := apitype.Kit{Kind: "kit", Network: k.Network.String(), Owner: k.Owner.String(), Name: k.Person, Authority: !k.Authority.IsZero(), Made: k.Made.UTC().Truncate(time.Second)}
	if k.IsCard() {
		out.Kind = "card"
	}
	for _, n := range k.Nodes {
		out.Nodes = append(out.Nodes, apitype.KitNode{Node: n.ID.String(), Addrs: n.Addrs})
	}
	i := d.ownerOf(k)
	if i < 0 || k.IsCard() {
		return out
	}
	code, public := d.id.recovery(i)
	out.Current = k.Network == d.id.Network && k.Code.Public() == *public
	if out.Current && !code.IsZero() {
		out.Kept = append(out.Kept, "code")
	}
	if out.Current && !d.id.Authority.IsZero() {
		out.Kept = append(out.Kept, "authority")
	}
	return out
}

// ownerOf is the index of the person whose kit it is, or -1.
func (d *daemon) ownerOf(k *Kit) int {
	return slices.IndexFunc(d.id.Persons, func(p Person) bool { return p.Key.Public() == k.Owner })
}

// eraseKit forgets the recovery seed and the network's seed, once the kit that
// was read back proved to hold them. The file changes first and as a whole; if
// that fails, everything is still there.
func (d *daemon) eraseKit(ctx context.Context, k *Kit) (apitype.Kit, error) {
	out := d.describe(k)
	if k.IsCard() || !out.Current {
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "this is not the current kit of a person of this node; nothing was erased")
	}
	if err := d.recordPerson(ctx, "kit", k.Owner, "read back; its seeds are erased here"); err != nil {
		return apitype.Kit{}, err
	}
	i := d.ownerOf(k)
	code, _ := d.id.recovery(i)
	wasCode, wasAuthority := *code, d.id.Authority
	*code = key.PersonPrivate{}
	if !k.Authority.IsZero() {
		d.id.Authority = key.AuthorityPrivate{}
	}
	if err := d.id.save(); err != nil {
		*code, d.id.Authority = wasCode, wasAuthority
		return apitype.Kit{}, errors.Join(errors.New("the seeds could not be erased and are still here"), err)
	}
	out.Erased, out.Kept = out.Kept, nil
	wasCode.Erase()
	if !d.id.Authority.IsZero() {
		out.Erased = slices.DeleteFunc(out.Erased, func(s string) bool { return s == "authority" })
		out.Kept = []string{"authority"}
	} else {
		wasAuthority.Erase()
	}
	d.log.Info("a kit was checked, and its seeds erased here", "person", out.Owner)
	return out, nil
}
