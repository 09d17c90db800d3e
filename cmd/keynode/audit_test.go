package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/storage"
)

// auditFiles are what the log of a data directory consists of.
func auditFiles(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "audit*"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func foundedNode(t *testing.T) (string, *Identity) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	o := makeOptions{dir: dir, unlock: "none", newNetwork: true}
	o.defaults("one")
	if err := runInit(o, &strings.Builder{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, err := loadIdentity(dir, Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(id.Erase)
	return dir, id
}

// TestStartingNeverMakesAnAuditLog: a log that is gone keeps the node from
// starting, until its operator makes a new one by hand.
func TestStartingNeverMakesAnAuditLog(t *testing.T) {
	dir, id := foundedNode(t)
	d := &daemon{dir: dir, id: id, log: slog.New(slog.DiscardHandler)}
	if err := d.openAudit(); err != nil {
		t.Fatalf("after init: %v", err)
	}
	if err := d.audit.Close(); err != nil {
		t.Fatal(err)
	}
	if err := createAudit(dir, ""); !errors.Is(err, storage.ErrExists) {
		t.Errorf("a second log: %v", err)
	}
	for _, f := range auditFiles(t, dir) {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	var h interface{ Hint() string }
	if err := d.openAudit(); !errors.As(err, &h) || len(auditFiles(t, dir)) != 0 {
		t.Fatalf("without a log: %v, files %v", err, auditFiles(t, dir))
	}
	if err := createAudit(dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.openAudit(); err != nil {
		t.Fatal(err)
	}
	if err := d.audit.Close(); err != nil {
		t.Fatal(err)
	}
	id.Network[0] ^= 1
	if err := d.openAudit(); err == nil {
		t.Error("the log of another network was taken")
	}
}

// TestAuditorWritesWhatTheKeystoreSays and nothing else.
func TestAuditorWritesWhatTheKeystoreSays(t *testing.T) {
	dir, id := foundedNode(t)
	d := &daemon{dir: dir, id: id, log: slog.New(slog.DiscardHandler)}
	if err := d.openAudit(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.audit.Run(ctx) }()
	r := keystore.AuditRecord{Kind: "release", ID: key.Hash{1}, Request: key.Hash{2}, Person: id.Persons[0].Key.Public(), Node: id.Node.ID(), Detail: "to the owner"}
	seq, err := auditor{d.audit, d.id.Node, d.id.Network}.Append(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (auditor{d.audit, d.id.Node, d.id.Network}).Append(ctx, keystore.AuditRecord{Kind: "strangers", Detail: "3 refused"}); err != nil {
		t.Fatal(err)
	}
	got, err := d.audit.Tail(ctx, seq-1, 10)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	e := got[0]
	if e.Kind != r.Kind || e.ID != r.ID || e.Request != r.Request || e.Person != r.Person.String() || e.Node != r.Node.String() || e.Detail != r.Detail {
		t.Errorf("%+v", e)
	}
	if got[1].Person != "" || got[1].Node != "" {
		t.Errorf("nobody became %+v", got[1])
	}
	testWitness(t, auditor{d.audit, d.id.Node, d.id.Network}, seq+1)
	cancel()
	if err := errors.Join(<-done, d.audit.Close()); err != nil {
		t.Error(err)
	}
}

// testWitness: the head that peers keep is the log's own, signed, and a peer's
// head is kept and shown back.
func testWitness(t *testing.T, a auditor, last uint64) {
	t.Helper()
	b, err := a.SignedHead()
	if err != nil {
		t.Fatal(err)
	}
	head, err := share.OpenAuditHead(a.net, b)
	if err != nil || head.Node != a.node.ID() || head.Seq != last {
		t.Errorf("head %+v: %v", head, err)
	}
	peer := key.GenerateNode()
	theirs := share.SignAuditHead(peer, a.net, share.AuditHead{Node: peer.ID(), Seq: 7, Hash: key.Hash{1}, Time: 1}).Encode()
	if err := a.SaveWitness(peer.ID(), theirs); err != nil {
		t.Fatal(err)
	}
	if got := a.Witnessed(peer.ID()); len(got) != 1 || !bytes.Equal(got[0], theirs) {
		t.Error("the peer's head is not shown back")
	}
}
