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
	"keymesh/api/client"
)

// personOf is the key of the first person of a node.
func personOf(t *testing.T, c *cluster, i int) string {
	t.Helper()
	st, err := c.client(i).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Person.Person
}

// twoOf is "the owner, or two of these after a delay, veto by the owner".
func twoOf(seconds uint64, persons ...string) *apitype.Policy {
	of := &apitype.KOf{K: 2}
	for _, p := range persons {
		of.Of = append(of.Of, apitype.Policy{Key: p})
	}
	return &apitype.Policy{Any: []apitype.Policy{{Owner: true}, {All: []apitype.Policy{{KOf: of}, {Delay: &apitype.Delay{Seconds: seconds, Veto: []string{"owner"}}}}}}}
}

// TestTakeOverWithACard: the owner's machine is destroyed and there is no kit.
// An approver takes the secrets over with a card, another approves, and the
// lost key opens nothing afterwards: by real processes.
func TestTakeOverWithACard(t *testing.T) {
	long(t)
	c := testCluster(t, 5)
	ctx := t.Context()
	lost := identityOf(t, c, 1)
	p2, p3, p4 := personOf(t, c, 2), personOf(t, c, 3), personOf(t, c, 4)
	values := map[string][]byte{"web/db": []byte("hunter2"), "web/tls": bytes.Repeat([]byte{7}, 3000)}
	for name, v := range values {
		if _, err := c.client(1).Put(ctx, name, apitype.PutRequest{Value: v, Policy: twoOf(1, p2, p3, p4), Labels: map[string]string{"of": name}}, client.PutConditions{}); err != nil {
			t.Fatal(err)
		}
		waitAcked(t, c.client(1), name, 5)
	}
	// One that names no approver stays where it is.
	put(t, c.client(1), "private", []byte("x"))
	kit, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil {
		t.Fatal(err)
	}
	cardLists(t, c, kit.CardText)
	for _, i := range []int{1, 2} {
		if err := c.signal(i, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(c.nodeDir(1)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "card.txt")
	if err := os.WriteFile(file, kit.CardText, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.command(ctx, "restore", "--data", c.nodeDir(2), "--kit", file); err != nil {
		t.Fatal(err)
	}
	if err := c.start(2); err != nil {
		t.Fatal(err)
	}
	waitFound(t, c, 2, 2, 1)
	if page, err := c.client(2).List(ctx, client.ListOptions{}); err != nil || len(page.Items) != 0 {
		t.Fatalf("before anybody approved %d are there: %v", len(page.Items), err)
	}
	approved := approveAll(t, c, 3, func() bool {
		for name, v := range values {
			got, err := c.client(2).Recover(ctx, name, apitype.RecoverRequest{})
			if err != nil || !bytes.Equal(got.Value, v) {
				return false
			}
		}
		id, err := loadIdentity(c.nodeDir(2), inClear())
		return err == nil && id.Estate == nil
	})
	if approved != 2*len(values) {
		t.Errorf("%d words were needed, for a recovery and a deletion of each", approved)
	}
	oldOpensNothing(t, c, lost, values)
}

// approveAll has the person of a node approve whatever is asked until done.
func approveAll(t *testing.T, c *cluster, i int, done func() bool) (approved int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	said := map[string]bool{}
	if err := poll(ctx, "the end of what is approved", func() bool {
		all, err := c.client(i).Requests(ctx)
		for _, r := range all {
			if err == nil && r.State == "open" && r.Approver && !said[r.Request] && c.client(i).Approve(ctx, r.Request, "") == nil {
				said[r.Request] = true
				t.Logf("approved: %s %s (%s)", r.Verb, r.Name, r.Reason)
			}
		}
		return done()
	}); err != nil {
		t.Fatal(err)
	}
	return len(said)
}

// cardLists: with a card, who is named sees what policies name them in, and
// nobody sees more.
func cardLists(t *testing.T, c *cluster, card []byte) {
	t.Helper()
	for i, want := range map[int][]string{2: {"web/db", "web/tls"}, 4: {"web/db", "web/tls"}, 5: nil} {
		got, err := c.client(i).Kit(t.Context(), apitype.KitRequest{Act: apitype.KitList, Text: card})
		var names []string
		for _, s := range got.Secrets {
			names = append(names, s.Name)
		}
		if err != nil || got.Silent != 0 || got.Kind != "card" || !slices.Equal(names, want) {
			t.Errorf("node %d: %q, %d silent, %v", i, names, got.Silent, err)
		}
		if i != 2 || len(names) == 0 {
			continue
		}
		// The tag proves the name to the other approvers.
		var pend *client.Pending
		s := got.Secrets[0]
		if _, err := c.client(2).Ask(t.Context(), apitype.Ask{ID: s.ID, Name: s.Name, Tag: s.Tag, Reason: "by its card"}); !errors.As(err, &pend) {
			t.Fatal(err)
		}
		k := &cli{t: t, c: c}
		if r := k.toldOf(3, "", pend.Request); r.Name != s.Name {
			t.Errorf("the name is not proven to the approver: %+v", r)
		}
		if err := c.client(2).Cancel(t.Context(), pend.Request); err != nil {
			t.Error(err)
		}
	}
}
