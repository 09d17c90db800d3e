package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/storage"
)

// makeAudit makes the audit log of a node that is joining the network. One that
// is there already, after a join that was cut off, is left alone; openAudit says
// whether it is this node's. Nothing else makes a log: a node whose log is gone
// must not go on as if nothing had been in it.
func makeAudit(dir string, id *Identity, network key.NetworkID) error {
	err := storage.CreateAudit(dir, (*[32]byte)(id.StorageKey), network, id.Node.ID())
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("making the audit log: %w", err)
	}
	return nil
}

// openAudit opens the log and refuses one of another node or network.
func (d *daemon) openAudit() error {
	a, err := storage.OpenAudit(d.dir, (*[32]byte)(d.id.StorageKey), storage.AuditOptions{Log: d.log})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hint(errors.New("this node's audit log is missing, and nothing is released without one"),
			"bring DIR/audit.log back from where it went, or, if it is lost or was never there, make an empty one: keynode audit create --data %s", d.dir)
	case err != nil:
		return fmt.Errorf("opening the audit log: %w", err)
	case a.Network() != d.id.Network || a.Node() != d.id.Node.ID():
		return errors.Join(errors.New("the audit log is another node's"), a.Close())
	}
	d.audit = a
	return nil
}

// auditor shows the log to the keystore, which also has peers keep its signed
// heads and keeps theirs.
type auditor struct {
	log  *storage.Audit
	node key.NodePrivate
	net  key.NetworkID
}

var _ keystore.Witness = auditor{}

// SignedHead implements keystore.Witness.
func (a auditor) SignedHead() ([]byte, error) {
	h, err := a.log.Head()
	if err != nil {
		return nil, err
	}
	return share.SignAuditHead(a.node, a.net, h).Encode(), nil
}

// Witnessed implements keystore.Witness.
func (a auditor) Witnessed(peer key.NodeID) [][]byte { return a.log.Witnessed(peer) }

// SaveWitness implements keystore.Witness.
func (a auditor) SaveWitness(peer key.NodeID, head []byte) error {
	return a.log.SaveWitness(peer, head)
}

// Append implements keystore.Auditor.
func (a auditor) Append(ctx context.Context, r keystore.AuditRecord) (uint64, error) {
	e := storage.AuditEntry{Kind: r.Kind, ID: r.ID, Request: r.Request, Detail: r.Detail, RequestID: r.RequestID}
	if !r.Person.IsZero() {
		e.Person = r.Person.String()
	}
	if !r.Node.IsZero() {
		e.Node = r.Node.String()
	}
	return a.log.Append(ctx, e)
}
