package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
)

// TestContactsOfARunningNode: names are each person's own, say one thing only,
// and survive a crash.
func TestContactsOfARunningNode(t *testing.T) {
	c := testCluster(t, 3)
	ctx := t.Context()
	n := c.client(1)
	ann, bob := key.GeneratePerson().Public().String(), key.GeneratePerson().Public().String()
	if _, err := n.NewPerson(ctx, "dora"); err != nil {
		t.Fatal(err)
	}
	got, err := n.AddContact(ctx, apitype.NewContact{Name: "ann", Person: ann})
	if err != nil || len(got.Words) != 8 || got.Source != apitype.ContactAdded {
		t.Fatalf("%+v %v", got, err)
	}
	for _, bad := range []apitype.NewContact{
		{Name: "ann", Person: ann}, {Name: "ann", Person: bob}, {Name: "ANN", Person: bob}, {Name: "annie", Person: ann},
		{Name: "dora", Person: bob}, {Name: "Dora", Person: bob}, {Name: "code", Person: bob},
	} {
		_, err := n.AddContact(ctx, bad)
		wantProblem(t, err, apitype.Unprocessable)
	}
	if _, err := n.AddContact(ctx, apitype.NewContact{Name: "annie", Person: ann, Also: true}); err != nil {
		t.Fatal(err)
	}
	dora := c.client(1)
	dora.As = "dora"
	if _, err := dora.AddContact(ctx, apitype.NewContact{Name: "ann", Person: bob}); err != nil {
		t.Fatalf("another person's names stand in the way: %v", err)
	}
	if _, err := n.RemoveContact(ctx, "nobody"); err == nil {
		t.Error("nobody is forgotten")
	} else {
		wantProblem(t, err, apitype.NotFound)
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
	words := func(as string) string {
		n.As = as
		v, err := n.TestPolicy(ctx, apitype.PolicyTest{Policy: &apitype.Policy{Text: `ways = ["owner", "ann"]`}, As: []string{"ann"}})
		if err != nil || !v.OK {
			t.Fatalf("%s: %+v %v", as, v, err)
		}
		w, err := n.TestPolicy(ctx, apitype.PolicyTest{Policy: &apitype.Policy{Text: `ways = ["owner", "` + ann + `"]`}})
		if err != nil {
			t.Fatal(err)
		}
		return w.Policy
	}
	if s := words(""); s != "any of (owner, ann)" {
		t.Errorf("the owner says %s", s)
	}
	if s := words("dora"); strings.Contains(s, "ann)") || !strings.Contains(s, ann) {
		t.Errorf("dora says %s", s)
	}
	count := map[string]int{}
	for range 100 { // the node has just started: it has yet to hear whose the others are
		list, err := c.client(1).Contacts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		clear(count)
		for _, x := range list {
			count[x.Source]++
			if x.Source == apitype.ContactSeen && (x.Name != "" || len(x.Nodes) == 0) {
				t.Errorf("%+v", x)
			}
		}
		if count[apitype.ContactSeen] == 2 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if count[apitype.ContactAdded] != 2 || count[apitype.ContactHere] != 2 || count[apitype.ContactSeen] != 2 {
		t.Errorf("%v", count)
	}
}
