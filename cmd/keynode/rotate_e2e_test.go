package main

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// TestKitRotate gives the owner a new recovery key, and waits until every secret
// that named the old one names the new one; others stay as they are.
func TestKitRotate(t *testing.T) {
	long(t)
	c := testCluster(t, 4)
	ctx := t.Context()
	before := identityOf(t, c, 1)
	old := before.RecoveryPublic.String()
	friend := identityOf(t, c, 2).Persons[0].Key.Public().String()
	put(t, c.client(1), "by/default", []byte("one"))
	for name, pol := range map[string]*apitype.Policy{"with/delay": afterDelay(old, 600), "owner/alone": {Any: []apitype.Policy{{Owner: true}, {Key: friend}}}} {
		if _, err := c.client(1).Put(ctx, name, apitype.PutRequest{Value: []byte(name), Policy: pol, Labels: map[string]string{"a": "b"}}, client.PutConditions{}); err != nil {
			t.Fatal(err)
		}
	}
	pass := apitype.Bytes("correct horse battery")
	takeAlong := func() error {
		file, err := c.client(1).ExportPerson(ctx, apitype.PersonExport{Passphrase: pass})
		if err != nil {
			return err
		}
		_, err = c.client(2).ImportPerson(ctx, apitype.PersonImport{File: file.File, Passphrase: pass, Name: "anna"})
		return err
	}
	if err := takeAlong(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, takeAlong(), apitype.Unprocessable) // nothing new
	oldKit, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitRotate}); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := poll(waiting, "the end of the rotation", func() bool { return len(identityOf(t, c, 1).Rotations) == 0 }); err != nil {
		t.Fatal(err)
	}
	after := identityOf(t, c, 1)
	if after.RecoveryPublic == before.RecoveryPublic || after.Recovery.IsZero() || bytes.Equal(after.Recovery.Seed(), before.Recovery.Seed()) {
		t.Fatal("there is no new recovery key")
	}
	if err := takeAlong(); err != nil {
		t.Fatal(err)
	}
	if there := identityOf(t, c, 2); len(there.Persons) != 2 || there.Persons[1].RecoveryPublic != after.RecoveryPublic || there.RecoveryPublic == after.RecoveryPublic {
		t.Error("the new recovery key did not come along")
	}
	for name, gen := range map[string]uint64{"by/default": 2, "with/delay": 2, "owner/alone": 1} {
		info, err := c.client(1).Info(ctx, name)
		if err != nil || info.Gen != gen || name == "with/delay" && info.Labels["a"] != "b" {
			t.Errorf("%s: generation %d, labels %v, %v", name, info.Gen, info.Labels, err)
		}
	}
	mustGet(t, c.client(1), "by/default", []byte("one"))
	mustGet(t, c.client(1), "with/delay", []byte("with/delay"))
	kit, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil || !slices.Contains(kit.Kept, "code") {
		t.Error("no kit of the new key can be made", err)
	}
	waitFound(t, c, restoreOnNext(t, c, oldKit.Text), 0, 0)
	waitFound(t, c, restoreOnNext(t, c, kit.Text), 2, 0)
}
