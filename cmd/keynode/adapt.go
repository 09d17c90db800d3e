package main

import (
	"context"
	"sync/atomic"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/custody"
	"keymesh/mesh"
	"keymesh/mesh/roster"
	"keymesh/storage"
)

// network shows a mesh.Node to the keystore.
type network struct{ node *mesh.Node }

func member(m mesh.Member) keystore.Member {
	return keystore.Member{
		ID: m.ID, Name: m.Name, Operator: m.Operator, Zone: m.Zone, Holder: m.Roles.Has(roster.Holder), Capacity: m.Capacity,
		Online: m.Online, Lapsed: m.Lapsed, Revoked: m.Revoked, Accepting: m.Accepting, Persons: m.Persons,
		SealingKey: m.SealingKey, LastSeen: m.LastSeen,
	}
}

func (n network) Members() []keystore.Member {
	all := n.node.Members()
	out := make([]keystore.Member, len(all))
	for i, m := range all {
		out[i] = member(m)
	}
	return out
}

func (n network) Self() keystore.Member {
	m := member(n.node.Self())
	m.Online = true
	return m
}

func (n network) Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error) {
	return n.node.Call(ctx, to, verb, body)
}

// verbTraits tells the mesh how to treat the keystore's verbs.
func verbTraits(verb uint64) mesh.Traits {
	return mesh.Traits{Unmetered: custody.Unmetered(verb), Lapsed: custody.Lapsed(verb)}
}

// book keeps the mesh's notes in the node's store.
type book struct{ db *storage.DB }

func notePlace(n mesh.Note) share.Place {
	return share.Place{Bucket: share.BucketMesh, ID: n.ID, X: n.Kind}
}

func (b book) Load() ([]mesh.Note, error) {
	var out []mesh.Note
	for _, id := range b.db.IDs(share.BucketMesh) {
		for _, p := range b.db.Places(share.BucketMesh, id) {
			v, err := b.db.Load(p)
			if err != nil {
				return nil, err
			}
			out = append(out, mesh.Note{Kind: p.X, ID: p.ID, Value: v})
		}
	}
	return out, nil
}

func (b book) Save(notes []mesh.Note) error {
	recs := make([]share.Record, len(notes))
	for i, n := range notes {
		recs[i] = share.Record{Place: notePlace(n), Value: n.Value}
	}
	return b.db.Commit(context.Background(), recs...)
}

// lateBool is a question that can be asked before there is somebody to answer.
type lateBool struct{ f atomic.Pointer[func() bool] }

func (l *lateBool) set(f func() bool) { l.f.Store(&f) }
func (l *lateBool) get() bool {
	f := l.f.Load()
	return f != nil && (*f)()
}
