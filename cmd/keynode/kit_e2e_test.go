package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"keymesh/api/apitype"
)

func wantProblem(t *testing.T, err error, want apitype.Type) {
	t.Helper()
	var p *apitype.Problem
	if !errors.As(err, &p) || p.Type != want {
		t.Errorf("%v is not a problem of type %s", err, want)
	}
}

// identityOf reads the identity of a stopped or running node of a test cluster.
func identityOf(t *testing.T, c *cluster, i int) *Identity {
	t.Helper()
	id, err := loadIdentity(c.nodeDir(i), inClear())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestKitOfARunningNode makes a kit, restarts the node in between as a crash
// would, reads the kit back, and finds the seeds erased: in memory, on disk and
// after another restart.
func TestKitOfARunningNode(t *testing.T) {
	c := testCluster(t, 4)
	ctx := t.Context()
	before := identityOf(t, c, 1)
	first, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKit(first.Text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.Code.Seed(), before.Recovery.Seed()) || !bytes.Equal(k.Authority.Seed(), before.Authority.Seed()) || k.Network != before.Network ||
		k.Owner != before.Persons[0].Key.Public() || len(k.Nodes) != 3 {
		t.Error("the kit does not hold what it should")
	}
	if slices.ContainsFunc(k.Nodes, func(n KitNode) bool { return n.ID == before.Node.ID() }) {
		t.Error("the kit names the machine that is lost first")
	}
	if !slices.Equal(first.Kept, []string{"code", "authority"}) || !first.Current || len(first.Page) == 0 || len(first.CardPage) == 0 {
		t.Errorf("what the node says of the kit: %+v", first.Kept)
	}
	if err := c.signal(1, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.start(1); err != nil {
		t.Fatal(err)
	}
	if err := c.waitAPI(ctx, 1); err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Clone(first.Text)
	at := bytes.Index(wrong, []byte(" code ")) + 14
	wrong[at] = kitAlphabet[(bytes.IndexByte([]byte(kitAlphabet), wrong[at])+1)%32]
	for _, text := range [][]byte{wrong, first.CardText, kitText(t, fixedKit(t))} {
		_, err = c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitErase, Text: text})
		wantProblem(t, err, apitype.Unprocessable)
	}
	if id := identityOf(t, c, 1); id.Recovery.IsZero() || id.Authority.IsZero() {
		t.Fatal("a wrong kit erased the seeds")
	}
	testErase(t, c, first.Text, before)
}

func testErase(t *testing.T, c *cluster, text []byte, before *Identity) {
	ctx := t.Context()
	done, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitErase, Text: text})
	if err != nil || !slices.Equal(done.Erased, []string{"code", "authority"}) || len(done.Kept) != 0 {
		t.Fatalf("erasing: %v, %v", done.Erased, err)
	}
	_, err = c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	wantProblem(t, err, apitype.Unprocessable)
	after := identityOf(t, c, 1)
	if !after.Recovery.IsZero() || !after.Authority.IsZero() || after.RecoveryPublic != before.RecoveryPublic {
		t.Error("the seeds are still on disk, or the public key is gone")
	}
	for _, seed := range [][]byte{before.Recovery.Seed(), before.Authority.Seed()} {
		entries, err := os.ReadDir(c.nodeDir(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if b, err := os.ReadFile(filepath.Join(c.nodeDir(1), e.Name())); err == nil && bytes.Contains(b, seed) {
				t.Errorf("%s holds a seed that was erased", e.Name())
			}
		}
	}
	again, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitCheck, Text: text})
	if err != nil || !again.Current || len(again.Kept) != 0 {
		t.Errorf("the printed kit is not known any more: %v %v", again, err)
	}
	if err := c.waitMesh(ctx); err != nil {
		t.Fatal(err)
	}
	put(t, c.client(1), "after/kit", []byte("still works"))
	mustGet(t, c.client(1), "after/kit", []byte("still works"))
}

// TestPersonsOnNodes takes a person to a second node, where the same secrets
// are, while another person there sees none of them; the mesh is told of both.
func TestPersonsOnNodes(t *testing.T) {
	c := testCluster(t, 3)
	ctx := t.Context()
	put(t, c.client(1), "mine", []byte("of node 1"))
	pass := apitype.Bytes("correct horse battery")
	file, err := c.client(1).ExportPerson(ctx, apitype.PersonExport{Passphrase: pass})
	if err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]apitype.PersonImport{
		"a wrong passphrase": {File: file.File, Passphrase: apitype.Bytes("correct horse batterie"), Name: "anna"},
		"a taken name":       {File: file.File, Passphrase: pass},
		"a bad name":         {File: file.File, Passphrase: pass, Name: "../x"},
		"no file":            {File: apitype.Bytes("hello"), Passphrase: pass},
	} {
		_, err := c.client(2).ImportPerson(ctx, r)
		wantProblem(t, err, apitype.Unprocessable)
		if got, err := c.client(2).Persons(ctx); err != nil || len(got) != 1 {
			t.Fatalf("%s: %v %v", what, got, err)
		}
	}
	if _, err := c.client(2).ImportPerson(ctx, apitype.PersonImport{File: file.File, Passphrase: pass, Name: "anna"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client(2).NewPerson(ctx, "bert"); err != nil {
		t.Fatal(err)
	}
	_, err = c.client(2).NewPerson(ctx, "bert")
	wantProblem(t, err, apitype.Unprocessable)
	anna, bert := c.client(2), c.client(2)
	anna.As, bert.As = "anna", "bert"
	mustGet(t, anna, "mine", []byte("of node 1"))
	_, err = bert.Recover(ctx, "mine", apitype.RecoverRequest{})
	wantProblem(t, err, apitype.NotFound)
	testPersonKits(t, c)
	testBindings(t, c)
}

// testPersonKits: each person has a kit of its own; what was imported has none.
func testPersonKits(t *testing.T, c *cluster) {
	ctx := t.Context()
	bert, anna := c.client(2), c.client(2)
	bert.As, anna.As = "bert", "anna"
	_, err := anna.Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	wantProblem(t, err, apitype.Unprocessable)
	kit, err := bert.Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil {
		t.Fatal(err)
	}
	id := identityOf(t, c, 2)
	k, err := ParseKit(kit.Text)
	if err != nil || k.Owner != id.Persons[2].Key.Public() || k.Code.Public() != id.Persons[2].RecoveryPublic || !k.Authority.IsZero() {
		t.Error("this is not bert's kit", err)
	}
	if _, err := bert.Kit(ctx, apitype.KitRequest{Act: apitype.KitErase, Text: kit.Text}); err != nil {
		t.Fatal(err)
	}
	if id = identityOf(t, c, 2); !id.Persons[2].Recovery.IsZero() || id.Recovery.IsZero() {
		t.Error("another seed was erased than that of the kit")
	}
}

// testBindings waits until node 3 knows for whom node 2 acts, before and after a
// restart of node 2.
func testBindings(t *testing.T, c *cluster) {
	var want []string
	for _, p := range identityOf(t, c, 2).Persons {
		want = append(want, p.Key.Public().String())
	}
	slices.Sort(want)
	bound := func() bool {
		peers, err := c.client(3).Peers(t.Context())
		return err == nil && slices.ContainsFunc(peers, func(p apitype.Peer) bool {
			got := slices.Clone(p.Persons)
			slices.Sort(got)
			return p.Name == "node-2" && slices.Equal(got, want)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if err := poll(ctx, "the bindings of node 2", bound); err != nil {
		t.Fatal(err)
	}
}
