package main

import (
	"bytes"
	"strings"
	"testing"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// TestGetWaits: without --wait a pending request is exit 5 and no byte; with it
// each approval shows on standard error and the value comes.
func TestGetWaits(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	if code, _, said := call("hunter2", env, "put", "demo/db"); code != 0 {
		t.Fatal(said)
	}
	f.bend(func() { f.missing = 1 })
	code, out, said := call("", env, "get", "demo/db")
	if code != apitype.ExitQuorum || out != "" || !strings.Contains(said, "1 more of ann, bob") || !strings.Contains(said, "one two three four five six") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	f.bend(func() { f.missing = 2 })
	code, out, said = call("", env, "get", "demo/db", "--wait", "1m")
	if code != 0 || out != "hunter2" || !strings.Contains(said, "1 of 3 approvals") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	if i, j := strings.Index(said, "approved by ann"), strings.Index(said, "approved by bob"); i < 0 || j < i || strings.Contains(said, "\x1b") || strings.Count(said, "approved by") != 2 {
		t.Errorf("the approvals did not show in turn: %q", said)
	}
}

// TestApprovalsComeBeforeTheValue: with both outputs in one pipe, every approval
// is there before the first byte of the value.
func TestApprovalsComeBeforeTheValue(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	if code, _, said := call("hunter2", env, "put", "demo/db"); code != 0 {
		t.Fatal(said)
	}
	f.bend(func() { f.missing = 2 })
	var pipe bytes.Buffer // written to by one goroutine at a time
	code := Main([]string{"get", "demo/db", "--wait", "1m"}, strings.NewReader(""), &pipe, &pipe, env)
	all := pipe.String()
	ann, bob, value := strings.Index(all, "approved by ann"), strings.Index(all, "approved by bob"), strings.Index(all, "hunter2")
	if code != 0 || ann < 0 || bob < ann || value < bob || strings.Count(all, "hunter2") != 1 || !strings.HasSuffix(all, "hunter2") {
		t.Errorf("exit %d, %q", code, all)
	}
}

// TestGetWaitsWithoutLooking: a node that cannot be looked at is asked again.
func TestGetWaitsWithoutLooking(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	if code, _, said := call("hunter2", env, "put", "demo/db"); code != 0 {
		t.Fatal(said)
	}
	f.bend(func() { f.missing, f.answers["look"] = 1, apitype.NewProblem(apitype.Internal, "") })
	if code, out, said := call("", env, "get", "demo/db", "--wait", "1m"); code != 0 || out != "hunter2" {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	if n := len(f.requests("look")); n > 2 {
		t.Errorf("%d looks in vain", n)
	}
}

// TestCancel: one's own request ends; another person's is not one's to end.
func TestCancel(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	mine, theirs := strings.Repeat("5a", 32), strings.Repeat("6b", 32)
	f.bend(func() {
		f.asks = []apitype.Request{{Request: mine, Name: "demo/db", State: "open", Mine: true, Have: 1, Need: 2, Missing: []string{"1 more of ann, bob\x1b"}, Wait: 90},
			{Request: theirs, State: "open"}}
	})
	if code, out, said := call("", env, "pending", "--mine"); code != 0 || !strings.Contains(out, "1 more of ann") || !strings.Contains(out, "1m30s") || strings.Contains(out, theirs[:8]) || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	f.bend(func() { f.asks[0].Ready = true })
	if _, out, _ := call("", env, "pending", "--mine"); !strings.Contains(out, "ready") {
		t.Errorf("%q", out)
	}
	if code, _, _ := call("", env, "cancel", theirs[:8]); code != apitype.ExitDenied || len(f.requests("cancel")) != 0 {
		t.Errorf("exit %d", code)
	}
	if code, _, _ := call("", env, "cancel", "7777"); code != apitype.ExitNotFound {
		t.Errorf("exit %d", code)
	}
	code, out, said := call("", env, "cancel", mine[:8])
	if got := f.requests("cancel"); code != 0 || len(got) != 1 || got[0].path != apitype.PathRequests+"/"+mine || !strings.Contains(out, "cancelled") {
		t.Errorf("exit %d, %q, %q, %+v", code, out, said, got)
	}
}

func TestApproveAndDeny(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	id := strings.Repeat("5a", 32)
	f.bend(func() {
		f.asks = []apitype.Request{{Request: id, Words: []string{"one", "two", "three", "four", "five", "six"}, Name: "demo/db", Requester: "person-x",
			Reason: "the disk\x1b[2J died", State: "open", Need: 2, Have: 1, Approver: true}, {Request: "6b" + id[2:], State: "open"}}
	})
	if code, out, said := call("", env, "pending"); code != 0 || !strings.Contains(out, "demo/db") || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	for _, verb := range []string{"approve", "deny"} {
		if code, _, _ := call(verb+"\n", env, verb, id[:8]); code != apitype.ExitLocal || len(f.requests(verb)) != 0 {
			t.Errorf("%s without a person to confirm: exit %d", verb, code)
		}
		if code, _, _ := call("", env, verb, "77777777", "--yes"); code != apitype.ExitNotFound || len(f.requests(verb)) != 0 {
			t.Errorf("%s of no request: exit %d", verb, code)
		}
		if code, _, _ := call("", env, verb, "5", "--yes"); code != apitype.ExitNotFound {
			t.Errorf("%s of one digit: exit %d", verb, code)
		}
		code, _, said := call("", env, verb, id[:8], "--yes", "--note", "by phone")
		if code != 0 || !strings.Contains(said, "one two three four five six") || !strings.Contains(said, "demo/db (proven)") || strings.Contains(said, "\x1b") {
			t.Errorf("%s: exit %d, %q", verb, code, said)
		}
		got := f.requests(verb)
		if len(got) != 1 || got[0].path != apitype.PathRequests+"/"+id+"/"+verb || got[0].body["note"] != "by phone" {
			t.Errorf("%s asked %+v", verb, got)
		}
	}
}

func TestPendingIsNoSuccess(t *testing.T) {
	if code := apitype.ExitCode(&client.Pending{}); code != apitype.ExitQuorum {
		t.Errorf("exit %d", code)
	}
}
