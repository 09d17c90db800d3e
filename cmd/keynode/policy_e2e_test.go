package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// goTool is the toolchain that builds binaries for a test, which is skipped only
// where there is none.
func goTool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no Go toolchain")
	}
	return path
}

// buildKeyctl builds the real keyctl.
func buildKeyctl(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "keyctl")
	cmd := exec.CommandContext(t.Context(), goTool(t), "build", "-o", out, "keymesh/cmd/keyctl")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building keyctl: %v\n%s", err, b)
	}
	return out
}

// cli runs keyctl against nodes of a cluster.
type cli struct {
	t    *testing.T
	c    *cluster
	path string
}

// command is keyctl at node i, with no configuration of whoever runs the tests.
func (k *cli) command(i int, stdin string, args ...string) (cmd *exec.Cmd, out, said *bytes.Buffer) {
	cmd = exec.CommandContext(k.t.Context(), k.path, args...)
	cmd.Env = []string{"KEYMESH_SOCKET=" + k.c.socket(i), "HOME=" + k.c.dir, "PATH=" + os.Getenv("PATH")}
	out, said = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), out, said
	return cmd, out, said
}

func exitOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// run runs keyctl and fails unless it ends with this code and says all of want.
func (k *cli) run(i, code int, args []string, want ...string) string {
	k.t.Helper()
	cmd, out, said := k.command(i, "", args...)
	if got := exitOf(cmd.Run()); got != code {
		k.t.Fatalf("node %d: keyctl %q: exit %d, want %d\n%s%s", i, args, got, code, out, said)
	}
	for _, w := range want {
		if !strings.Contains(out.String()+said.String(), w) {
			k.t.Errorf("node %d: keyctl %q does not say %q:\n%s%s", i, args, w, out, said)
		}
	}
	return out.String()
}

func args(a ...string) []string { return a }

// told waits until the person of a node has been told of an open request with
// this reason, and returns it.
func (k *cli) told(i int, reason string) apitype.Request {
	k.t.Helper()
	return k.toldOf(i, reason, "")
}

// toldOf is told, of the request with this reason or hash.
func (k *cli) toldOf(i int, reason, request string) (found apitype.Request) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	if err := poll(ctx, "the request "+reason+request, func() bool {
		all, err := k.c.client(i).Requests(ctx)
		for _, r := range all {
			if err == nil && (r.Reason == reason || r.Request == request) && r.State == "open" {
				found = r
			}
		}
		return found.Request != ""
	}); err != nil {
		k.t.Fatal(err)
	}
	return found
}

// TestPolicyOfATeam walks every path of "the owner, or 2 of 3 approvers after a
// delay, veto by the owner" with the real binaries: four persons on four nodes,
// each piece that is missing refused by name.
func TestPolicyOfATeam(t *testing.T) {
	long(t)
	k := &cli{t: t, path: buildKeyctl(t), c: testCluster(t, 5)}
	owner, p2, p3, p4 := personOf(t, k.c, 1), personOf(t, k.c, 2), personOf(t, k.c, 3), personOf(t, k.c, 4)
	file := filepath.Join(k.c.dir, "team.toml")
	text := fmt.Sprintf("ways = [\"owner\", \"2 of (%s, %s, %s) after 3s veto owner\"]\n", p2, p3, p4)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, out, said := k.command(1, "hunter2", "put", "team/db", "--policy", file)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out, said)
	}
	waitAcked(t, k.c.client(1), "team/db", 5)
	info, err := k.c.client(1).Info(t.Context(), "team/db")
	if err != nil {
		t.Fatal(err)
	}
	k.ownerAlone(owner)
	k.strangers(info.ID)
	k.twoOfThree(info.ID, p3)
	k.veto(info.ID)
	k.withdrawn(info.ID)
	k.cancelled(info.ID)
}

func (k *cli) ownerAlone(owner string) {
	receipt := filepath.Join(k.c.dir, "owner.receipt")
	if got := k.run(1, 0, args("get", "team/db", "--receipt", receipt)); got != "hunter2" {
		k.t.Errorf("the owner got %q", got)
	}
	k.run(4, 0, args("receipt", "verify", receipt), owner, "approved by nobody else", "3 of 5 holders")
	k.run(1, 1, args("get", "team/db", "--receipt", receipt), "exists")
	k.run(1, 0, args("rehearse", "team/db"), "it would succeed", "5 of 5 holders", "2 more may be lost")
}

// strangers: whom the policy does not name is denied. That there is such a
// secret, this node knows of its own seat.
func (k *cli) strangers(id string) {
	k.run(5, 4, args("get", "--id", id))
	k.run(5, 3, args("get", "--id", strings.Repeat("ab", 32)))
	var p *apitype.Problem
	if _, err := k.c.client(5).Ask(k.t.Context(), apitype.Ask{ID: id}); !errors.As(err, &p) || p.Type != apitype.Denied || p.Status != http.StatusForbidden {
		k.t.Errorf("over HTTP: %v", err)
	}
}

// twoOfThree: one approver asks and waits, sees the other's word as it comes,
// and gets the value after the delay, with a receipt that says so.
func (k *cli) twoOfThree(id, p3 string) {
	t := k.t
	k.run(2, 5, args("get", "--id", id, "--reason", "he is ill"), "1 of 2 approvals", "missing", "the person of node-3", "the person of node-4", "a delay of 3 s")
	var pend *client.Pending
	if _, err := k.c.client(2).Ask(t.Context(), apitype.Ask{ID: id, Reason: "he is ill"}); !errors.As(err, &pend) || pend.Have != 1 || pend.Need != 2 || len(pend.Missing) == 0 {
		t.Fatalf("over HTTP: %v", err)
	}
	k.run(2, 0, args("pending", "--mine"), "1 of 2")
	receipt := filepath.Join(k.c.dir, "team.receipt")
	cmd, out, said := k.command(2, "", "get", "--id", id, "--reason", "he is ill", "--wait", "1m", "--receipt", receipt)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := k.told(3, "he is ill")
	if r.Request != pend.Request || r.Name != "" || !r.Approver || r.Veto {
		t.Errorf("the approver was told %+v", r)
	}
	if v := k.told(1, "he is ill"); !v.Veto {
		t.Errorf("the owner was told %+v", v)
	}
	k.run(3, 1, args("approve", r.Request[:12]), "confirmation")
	began := time.Now()
	k.run(3, 0, args("approve", r.Request[:12], "--yes", "--note", "spoke to him"), strings.Join(r.Words, " "), "he is ill")
	if err := cmd.Wait(); err != nil || out.String() != "hunter2" {
		t.Fatalf("it ended with %v, %q:\n%s", err, out, said)
	}
	if d := time.Since(began); d < 2500*time.Millisecond {
		t.Errorf("it came after %v; the delay is 3 s", d)
	}
	for _, want := range []string{"1 of 2 approvals", "approved by", p3, "spoke to him", "2 of 2 approvals", "to go", "receipt written"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("get --wait did not say %q:\n%s", want, said)
		}
	}
	k.run(5, 0, args("receipt", "verify", receipt), "he is ill", p3, "after a delay of 3s", "of its audit log")
	var offline bytes.Buffer
	if code := Main(args("receipt", "verify", receipt), strings.NewReader(""), &offline, &offline); code != 0 || !strings.Contains(offline.String(), p3) {
		t.Errorf("keynode receipt verify: exit %d\n%s", code, offline.String())
	}
	k.flipped(receipt)
}

// flipped: any byte changed, and it proves nothing.
func (k *cli) flipped(receipt string) {
	b, err := os.ReadFile(receipt)
	if err != nil {
		k.t.Fatal(err)
	}
	bad := filepath.Join(k.c.dir, "flipped.receipt")
	b[len(b)/2] ^= 1
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.run(5, 7, args("receipt", "verify", bad), "proves nothing")
	var offline bytes.Buffer
	if code := Main(args("receipt", "verify", bad), strings.NewReader(""), &offline, &offline); code != 7 {
		k.t.Errorf("keynode receipt verify: exit %d\n%s", code, offline.String())
	}
}

// veto: the owner's no ends the request for good.
func (k *cli) veto(id string) {
	k.run(2, 5, args("get", "--id", id, "--reason", "just so"))
	r := k.told(1, "just so")
	k.run(1, 0, args("deny", r.Request, "--yes", "--note", "certainly not"))
	k.run(2, 4, args("get", "--id", id, "--reason", "just so"), "vetoed")
	if got, err := k.c.client(3).Requests(k.t.Context()); err != nil {
		k.t.Error(err)
	} else {
		for _, o := range got {
			if o.Request == r.Request {
				k.run(3, 1, args("approve", r.Request, "--yes"), "over")
			}
		}
	}
}

// withdrawn: another approver's denial takes back that approver's approval, and
// the delay with it.
func (k *cli) withdrawn(id string) {
	k.run(2, 5, args("get", "--id", id, "--reason", "third time"))
	r := k.told(3, "third time")
	k.run(3, 0, args("approve", r.Request, "--yes"))
	k.run(3, 0, args("deny", r.Request, "--yes"))
	k.run(2, 5, args("get", "--id", id, "--reason", "third time", "--wait", "5s"), "1 of 2 approvals")
	// It is the word that went, not the request: the third approver's will do.
	k.told(4, "third time")
	k.run(4, 0, args("approve", r.Request, "--yes"))
	if got := k.run(2, 0, args("get", "--id", id, "--reason", "third time", "--wait", "1m"), "2 of 2 approvals"); got != "hunter2" {
		k.t.Errorf("got %q", got)
	}
}

// cancelled: nobody's approval helps a request that its maker ended.
func (k *cli) cancelled(id string) {
	k.run(2, 5, args("get", "--id", id, "--reason", "never mind"))
	r := k.told(3, "never mind")
	k.run(3, 4, args("cancel", r.Request), "another person's")
	k.run(2, 0, args("cancel", r.Request), "cancelled")
	cmd, out, said := k.command(3, "", "approve", r.Request, "--yes")
	if err := cmd.Run(); err == nil {
		k.t.Errorf("approved: %s%s", out, said)
	}
	k.run(2, 3, args("cancel", r.Request))
}
