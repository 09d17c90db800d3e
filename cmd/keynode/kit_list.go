package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
	"keymesh/mesh/roster"
)

// A lister finds the secrets of an owner as the holders have them, with a key
// that their policies name: manifests and opened labels.
type lister struct {
	d      *daemon
	owner  key.PersonPublic
	index  *[32]byte
	signer key.PersonPrivate
}

// all asks every other holder, and hands what the owner signed and the index key
// opens to take, once for each holder that has it. silent counts the holders
// that did not answer; it is an error when none did.
func (l *lister) all(ctx context.Context, take func(*share.SignedManifest, *share.Label)) (silent int, err error) {
	answered := 0
	for _, m := range l.d.node.Members() {
		if m.Revoked || !m.Roles.Has(roster.Holder) {
			continue
		}
		if !m.Online || l.node(ctx, m.ID, take) != nil {
			silent++
			continue
		}
		answered++
	}
	if answered == 0 {
		return silent, errors.New("nobody answered")
	}
	return silent, nil
}

func (l *lister) node(ctx context.Context, node key.NodeID, take func(*share.SignedManifest, *share.Label)) error {
	ctx, cancel := context.WithTimeout(ctx, restoreCall)
	defer cancel()
	msg := custody.List{Owner: l.owner, Limit: custody.MaxList}
	for {
		q := share.Query{Node: node, Expires: uint64(time.Now().Unix()) + share.QueryLife}
		rand.Read(q.Nonce[:])
		msg.Query = share.SignQuery(l.signer, l.d.id.Network, q).Encode()
		b, err := l.d.node.Call(ctx, node, custody.VerbList, key.Marshal(&msg))
		if err != nil {
			return err
		}
		var reply custody.ListReply
		if err := key.Unmarshal(b, &reply); err != nil {
			return err
		}
		if reply.Outcome == custody.Denied {
			return nil // nothing there names the key, or nothing any more
		}
		if reply.Outcome != custody.OK {
			return fmt.Errorf("outcome %d", reply.Outcome)
		}
		for i := range reply.Items {
			if m, label := l.open(&reply.Items[i]); m != nil {
				take(m, label)
			}
		}
		// The cursor must advance, or a liar keeps this going for ever.
		if !reply.More || bytes.Compare(reply.Next[:], msg.Cursor[:]) <= 0 {
			return nil
		}
		msg.Cursor = reply.Next
	}
}

// open verifies one item of a listing and opens its label; nil: it is deleted,
// or not the owner's.
func (l *lister) open(st *custody.State) (*share.SignedManifest, *share.Label) {
	if len(st.Manifest) == 0 || len(st.Tombstone) != 0 {
		return nil, nil
	}
	m, err := share.OpenManifest(l.d.id.Network, st.Manifest)
	if err != nil || m.Owner != l.owner {
		return nil, nil
	}
	plain, err := seal.OpenLabel(l.index, share.LabelAAD(m.ID, m.Gen), m.Label)
	if err != nil {
		return nil, nil
	}
	defer clear(plain)
	label := new(share.Label)
	if key.Unmarshal(plain, label) != nil || share.ID(m.Owner, share.Salt(share.Tag(l.index, label.Name), label.Name)) != m.ID {
		return nil, nil
	}
	return m, label
}

// asBefore are the options that store a secret again in the shape it had, under
// another policy.
func (d *daemon) asBefore(m *share.Manifest, label *share.Label, pol []byte) keystore.PutOptions {
	o := keystore.PutOptions{N: m.N(), K: int(m.K), W: int(m.W), Policy: pol, Keep: new(int(m.Keep)), Description: label.Description,
		Labels: map[string]string{}, TTL: new(time.Duration), Repair: new(m.Repair), AllowColocated: d.colocated(m)}
	for _, kv := range label.Labels {
		o.Labels[kv[0]] = kv[1]
	}
	if m.Expires != 0 {
		*o.TTL = max(time.Until(time.Unix(int64(m.Expires), 0)), time.Minute)
	}
	return o
}

// colocated reports whether the secret had two seats at one operator, which then
// was its owner's wish.
func (d *daemon) colocated(m *share.Manifest) bool {
	operator := map[key.NodeID]string{}
	for _, p := range append(d.node.Members(), d.node.Self()) {
		operator[p.ID] = p.Operator
	}
	seen := map[string]bool{}
	for _, seat := range m.Seats {
		o := operator[seat.Node]
		if o != "" && seen[o] {
			return true
		}
		seen[o] = true
	}
	return false
}

// checkedPolicy is an encoded policy that is sane.
func checkedPolicy(b []byte) ([]byte, error) {
	p, err := policy.Parse(b)
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("the policy cannot be carried over: %w", err)
	}
	return b, nil
}
