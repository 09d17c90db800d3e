package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// buildHostile builds keynode with a keystore that attacks: the functions that
// ask and tell get other names, and a file more has hostile ones in their place.
func buildHostile(t *testing.T) string {
	t.Helper()
	tool := goTool(t)
	dir := t.TempDir()
	store, err := filepath.Abs("../../keystore")
	if err != nil {
		t.Fatal(err)
	}
	round := filepath.Join(store, "ask_round.go")
	src, err := os.ReadFile(round)
	if err != nil {
		t.Fatal(err)
	}
	text := string(src)
	for _, name := range []string{"prepare", "pending"} {
		before := text
		if text = strings.Replace(text, "func (g *reading) "+name+"(", "func (g *reading) honest"+strings.ToUpper(name[:1])+name[1:]+"(", 1); text == before {
			t.Fatalf("there is no %s to replace", name)
		}
	}
	changed := filepath.Join(dir, "ask_round.go")
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	hostile, err := filepath.Abs("testdata/hostile/hostile.go.txt")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {round: changed, filepath.Join(store, "hostile.go"): hostile}})
	if err != nil {
		t.Fatal(err)
	}
	file, out := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "keynode")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.CommandContext(t.Context(), tool, "build", "-overlay", file, "-o", out, "keymesh/cmd/keynode").CombinedOutput(); err != nil {
		t.Fatalf("building the hostile node: %v\n%s", err, b)
	}
	return out
}

var hostileLine = regexp.MustCompile(`hostile.*what="?([a-z, ]+?)"? words=(\d+) reason="?([a-z ]+?)"? answered=(true|false) given=(\d+)`)

// attacks counts what the hostile node logged of its attacks for a reason: how
// many holders answered each, and to how many it was given anything.
func attacks(t *testing.T, c *cluster, i int, reason string) (answered, given map[string]int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.nodeDir(i), "log"))
	if err != nil {
		t.Fatal(err)
	}
	answered, given = map[string]int{}, map[string]int{}
	for _, m := range hostileLine.FindAllStringSubmatch(string(b), -1) {
		if m[3] != reason || m[4] != "true" {
			continue
		}
		answered[m[1]]++
		if m[5] != "0" {
			given[m[1]]++
		}
	}
	return answered, given
}

// TestHostileNode: the node of an approver is hostile altogether. It has that
// approver's key and another one's genuine words on an earlier request, tells
// its user that everything is here, and gets nothing of any honest holder for a
// request that the policy does not let through.
func TestHostileNode(t *testing.T) {
	long(t)
	evil := buildHostile(t)
	k := &cli{t: t, c: testCluster(t, 5)}
	c := k.c
	ctx := t.Context()
	of := &apitype.KOf{K: 3}
	for _, i := range []int{2, 3, 4} {
		of.Of = append(of.Of, apitype.Policy{Key: personOf(t, c, i)})
	}
	pol := &apitype.Policy{Any: []apitype.Policy{{Owner: true}, {KOf: of}}}
	res, err := c.client(1).Put(ctx, "vault", apitype.PutRequest{Value: []byte("hunter2"), Policy: pol}, client.PutConditions{})
	if err != nil {
		t.Fatal(err)
	}
	waitAcked(t, c.client(1), "vault", 5)
	if err := c.signal(2, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	honest := c.exe
	c.exe = evil
	err = c.start(2)
	c.exe = honest
	if err != nil {
		t.Fatal(err)
	}
	if err := c.waitMesh(ctx); err != nil {
		t.Fatal(err)
	}
	ask := func(reason string) (apitype.Recovered, error) {
		return c.client(2).Ask(ctx, apitype.Ask{ID: res.ID, Reason: reason})
	}
	refused := func(reason string) (request string) {
		t.Helper()
		got, err := ask(reason)
		var pend *client.Pending
		if !errors.As(err, &pend) || len(got.Value) != 0 {
			t.Fatalf("%s: %q, %v", reason, got.Value, err)
		}
		if pend.Have != pend.Need {
			t.Errorf("%s: this node does not lie: %+v", reason, pend)
		}
		answered, given := attacks(t, c, 2, reason)
		for _, what := range []string{"bare", "forged words", "words on others", "more than it may carry", "swapped key, signed anew", "swapped key, old signature", "as the owner", "as nobody", "for ever",
			"forged approval", "forged veto", "forged news", "news without a policy"} {
			if answered[what] < 4 || given[what] != 0 {
				t.Errorf("%s: %s: %d holders answered and %d gave something", reason, what, answered[what], given[what])
			}
		}
		return pend.Request
	}
	// approve has the person of node i approve this very request, and not one of
	// those that the node made beside it: people tell them apart by their words.
	approve := func(i int, request string) {
		t.Helper()
		k.toldOf(i, "", request)
		if err := c.client(i).Approve(ctx, request, "genuine"); err != nil {
			t.Fatal(err)
		}
	}
	first := refused("first")
	approve(3, first)
	refused("second") // with the genuine words on the first
	refused("first")  // and with one word too few
	// That the attacks can be seen to succeed: what the policy lets through is given.
	approve(4, first)
	if r, err := c.client(2).Request(ctx, first, 0, ""); err != nil || len(r.Said) < 2 {
		t.Fatalf("%+v, %v", r, err) // the node has both words from now on
	}
	if got, err := ask("first"); err != nil || string(got.Value) != "hunter2" {
		t.Fatalf("%q, %v", got.Value, err)
	}
	if _, given := attacks(t, c, 2, "first"); given["bare"] == 0 || given["swapped key, signed anew"] != 0 || given["swapped key, old signature"] != 0 || given["as the owner"] != 0 {
		t.Error(fmt.Sprint("given: ", given))
	}
	refused("second") // with all the words that the first had
}
