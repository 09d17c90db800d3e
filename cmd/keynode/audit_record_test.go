package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"keymesh/api"
	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
	"keymesh/mesh"
	"keymesh/storage"
)

// openedNode is a founded node with its store and its log open.
func openedNode(t *testing.T) *daemon {
	t.Helper()
	dir, id := foundedNode(t)
	d := &daemon{dir: dir, id: id, log: slog.New(slog.DiscardHandler), started: time.Now()}
	var err error
	if d.db, err = storage.Open(dir, (*[32]byte)(id.StorageKey), storage.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := d.openAudit(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- d.audit.Run(ctx) }()
	go func() { done <- d.db.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		d.close()
	})
	return d
}

func kindsOf(t *testing.T, d *daemon) (out []string) {
	t.Helper()
	all, err := d.audit.Tail(t.Context(), 0, storage.MaxAuditTail)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		out = append(out, e.Kind)
	}
	return out
}

// TestNobodyIsInvitedWithoutALog: the book takes no ticket when the log does not
// have it.
func TestNobodyIsInvitedWithoutALog(t *testing.T) {
	d := openedNode(t)
	b := auditedBook{book{d.db}, d.audit}
	issuer, err := mesh.NewIssuer(mesh.IssuerConfig{Key: d.id.Issuers[0], Cert: d.id.IssuerCert, Network: d.id.Network, Node: d.id.Node.ID(), Book: b})
	if err != nil {
		t.Fatal(err)
	}
	invite := func() error {
		_, err := issuer.Invite(t.Context(), mesh.Invitation{Operator: "guest", Addrs: []string{"ws://127.0.0.1:7946"}})
		return err
	}
	if err := invite(); err != nil {
		t.Fatal(err)
	}
	if got := kindsOf(t, d); len(got) != 1 || got[0] != "invite" {
		t.Errorf("the log has %v", got)
	}
	notes, err := b.Load()
	if err != nil || len(notes) == 0 {
		t.Fatal(notes, err)
	}
	if err := d.audit.Close(); err != nil {
		t.Fatal(err)
	}
	var p *apitype.Problem
	if err := invite(); !errors.As(err, &p) || p.Type != apitype.Damaged {
		t.Errorf("invited without a log: %v", err)
	}
	if after, err := b.Load(); err != nil || len(after) != len(notes) {
		t.Errorf("%d notes became %d, %v", len(notes), len(after), err)
	}
	if _, err := d.NewPerson(t.Context(), "bert"); !errors.As(err, &p) || len(d.id.Persons) != 1 {
		t.Errorf("a person without a log: %v", err)
	}
	if _, err := d.ExportPerson(t.Context(), apitype.PersonExport{Passphrase: apitype.Bytes("correct horse battery")}); !errors.As(err, &p) {
		t.Errorf("exported without a log: %v", err)
	}
	before := d.id.Recovery.Public()
	if _, err := d.Kit(t.Context(), "", apitype.KitRequest{Act: apitype.KitRotate}); !errors.As(err, &p) || d.id.Recovery.Public() != before {
		t.Errorf("a new recovery key without a log: %v", err)
	}
	if st := d.checkAudit(t.Context(), apitype.AuditState{Error: d.audit.Err().Error()}, true); st.Level != apitype.LevelBad {
		t.Errorf("doctor says %+v", st)
	}
}

// TestTalliesAreBounded: who is nobody makes one entry a kind and minute, and no
// more parties are counted apart than the bound.
func TestTalliesAreBounded(t *testing.T) {
	d := &daemon{}
	node := key.NodeID{7}
	for range 100 {
		d.linkRefused(node, "10.0.0.1", false)
		d.linkRefused(node, "10.0.0.2", true)
		d.linkRefused(key.NodeID{}, "10.0.0.3", false)
		d.AuditRefused(api.TCP, 401)
	}
	want := []string{"api-refused  100 refused from tcp, status 401", "link-refused  100 refused from 10.0.0.3",
		"link-refused " + node.String() + " 100 refused", "ticket-refused " + node.String() + " 100 refused"}
	var got []string
	for _, e := range d.tallies.flush() {
		got = append(got, e.Kind+" "+e.Node+" "+e.Detail)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	if left := d.tallies.flush(); len(left) != 0 {
		t.Errorf("counted twice: %v", left)
	}
	for i := range 10 * maxTallies {
		d.linkRefused(key.NodeID{}, fmt.Sprint("host-", i), false)
	}
	if n := len(d.tallies.flush()); n != maxTallies+1 {
		t.Errorf("%d entries", n)
	}
}

// TestTalliesAreWritten when the node stops, too.
func TestTalliesAreWritten(t *testing.T) {
	d := openedNode(t)
	d.AuditRefused(api.TCP, 401)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.recordTallies(ctx); err != nil {
		t.Fatal(err)
	}
	if got := kindsOf(t, d); len(got) != 1 || got[0] != "api-refused" {
		t.Errorf("the log has %v", got)
	}
}

// TestCheckAuditFindsLag: entries that no peer keeps for an hour are told, not
// before, and not while nobody is linked.
func TestCheckAuditFindsLag(t *testing.T) {
	d := openedNode(t)
	hours := func(n int) uint64 { return uint64(time.Now().Add(-time.Duration(n) * time.Hour).Unix()) }
	for _, at := range []uint64{hours(5), hours(3), hours(0)} {
		if _, err := d.audit.Append(t.Context(), storage.AuditEntry{Kind: "release", Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	d.started = time.Now().Add(-2 * time.Hour)
	state := apitype.AuditState{Last: 3, Witnessed: 1}
	if c := d.checkAudit(t.Context(), state, true); c.Level != apitype.LevelWarn || !strings.Contains(c.Text, "entries 2 to 3") {
		t.Errorf("%+v", c)
	}
	if c := d.checkAudit(t.Context(), state, false); c.Level != apitype.LevelOK {
		t.Errorf("alone: %+v", c)
	}
	if c := d.checkAudit(t.Context(), apitype.AuditState{Last: 3, Witnessed: 2}, true); c.Level != apitype.LevelOK {
		t.Errorf("a young entry: %+v", c)
	}
	d.started = time.Now()
	if c := d.checkAudit(t.Context(), state, true); c.Level != apitype.LevelOK {
		t.Errorf("just started: %+v", c)
	}
	if c := d.checkAudit(t.Context(), apitype.AuditState{Wrong: []string{"x"}}, true); c.Level != apitype.LevelBad {
		t.Errorf("%+v", c)
	}
}

// TestRecordKeepsTheRequestID of the API call that caused it.
func TestRecordKeepsTheRequestID(t *testing.T) {
	d := openedNode(t)
	ctx := keystore.WithRequestID(t.Context(), "r-1")
	if _, err := d.ExportPerson(ctx, apitype.PersonExport{Passphrase: apitype.Bytes("correct horse battery")}); err != nil {
		t.Fatal(err)
	}
	all, err := d.audit.Tail(t.Context(), 0, 10)
	if err != nil || len(all) != 1 || all[0].RequestID != "r-1" || all[0].Kind != "person" || all[0].Person != d.id.Persons[0].Key.Public().String() {
		t.Errorf("%+v %v", all, err)
	}
}
