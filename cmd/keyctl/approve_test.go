package main

import (
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
	if i, j := strings.Index(said, "1 of 3"), strings.Index(said, "2 of 3"); i < 0 || j < i {
		t.Errorf("the approvals did not show in turn: %q", said)
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
