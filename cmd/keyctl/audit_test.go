package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
)

// fakeLog is the audit log of the fake.
type fakeLog struct {
	entries             int
	wrong, stopped      string
	peer, contradiction string
}

const fakeExport = `{"keymesh":"audit log"}` + "\n" + `{"end":0}` + "\n"

func (l *fakeLog) entry(i int) apitype.AuditEntry {
	e := apitype.AuditEntry{Position: uint64(i), Time: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC).Add(time.Duration(i) * time.Second), Kind: "release",
		ID: strings.Repeat("1d", 32), Person: "person-" + strings.Repeat("p", 52), Node: nodeID("bravo"), Request: strings.Repeat("5a", 32),
		Detail: fmt.Sprintf("generation %d\x1b[2J", i), Hash: strings.Repeat("ab", 32)}
	if i%2 == 0 {
		e.Name = "demo/db"
	}
	return e
}

func (l *fakeLog) page(q url.Values) apitype.AuditPage {
	limit, _ := strconv.Atoi(q.Get("limit"))
	limit = min(cmp.Or(limit, 100), apitype.MaxPage)
	since := max(0, l.entries-limit)
	if q.Has("since") {
		since, _ = strconv.Atoi(q.Get("since"))
	}
	out := apitype.AuditPage{Items: []apitype.AuditEntry{}, Last: uint64(l.entries), Next: uint64(since)}
	for i := since + 1; i <= l.entries && len(out.Items) < limit; i++ {
		out.Items, out.Next = append(out.Items, l.entry(i)), uint64(i)
	}
	return out
}

func (l *fakeLog) check() apitype.AuditCheck {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	out := apitype.AuditCheck{Intact: l.wrong == "", Wrong: l.wrong, Stopped: l.stopped, Node: nodeID("alpha"), First: 1, Last: uint64(l.entries),
		Hash: strings.Repeat("ab", 32), Witnessed: uint64(l.entries), Asked: 4, Answered: 3}
	for _, n := range fakeNames[1:] {
		p := apitype.AuditPeer{Node: nodeID(n), Name: n, Online: true, Position: uint64(l.entries), Signed: now, Theirs: 3, TheirsSigned: now}
		if n == l.peer {
			p.Contradiction, p.Proof, p.Position = l.contradiction, [][]byte{{1}}, uint64(l.entries+5)
		}
		out.Peers = append(out.Peers, p)
	}
	return out
}

func (l *fakeLog) exported(export string) apitype.AuditExportCheck {
	if export != fakeExport || l.wrong != "" {
		return apitype.AuditExportCheck{Wrong: cmp.Or(l.wrong, "line 1 of the export: it does not parse")}
	}
	return apitype.AuditExportCheck{Intact: true, Node: nodeID("alpha"), Last: 9, Hash: strings.Repeat("ab", 32), Heads: 2}
}

// TestAuditTailPages asks for more than a page holds, and gets each entry once.
func TestAuditTailPages(t *testing.T) {
	f := startFake(t)
	f.bend(func() { f.audit.entries = 3500 })
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	for _, c := range []struct {
		args        []string
		first, last int
	}{
		{nil, 3481, 3500}, {[]string{"-n", "2500"}, 1001, 3500}, {[]string{"-n", "9999"}, 1, 3500},
		{[]string{"--since", "10", "-n", "2000"}, 11, 2010}, {[]string{"--since", "3499"}, 3500, 3500}, {[]string{"--since", "0", "-n", "1"}, 1, 1},
	} {
		code, out, said := call("", env, append([]string{"audit", "tail"}, c.args...)...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if code != 0 || len(lines) != c.last-c.first+1 {
			t.Fatalf("%v: exit %d, %d lines, %q", c.args, code, len(lines), said)
		}
		for i, l := range lines {
			if !strings.HasPrefix(l, strconv.Itoa(c.first+i)+"  2026-01-02 ") {
				t.Fatalf("%v: line %d is %q", c.args, i, l)
			}
		}
	}
	if code, out, _ := call("", env, "audit", "tail", "--since", "3500"); code != 0 || out != "" {
		t.Errorf("exit %d, %q", code, out)
	}
}

// TestAuditTailFollows shows what comes, once, until interrupted.
func TestAuditTailFollows(t *testing.T) {
	f := startFake(t)
	f.bend(func() { f.audit.entries = 2 })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer w.Close()
		a := &app{stdin: strings.NewReader(""), stdout: w, stderr: io.Discard, env: environ{"KEYMESH_SOCKET=" + f.socket}}
		a.opts.timeout, a.opts.output = 10*time.Second, "text"
		done <- a.auditTail(ctx, tailFlags{follow: true, count: 10})
	}()
	read := func(n int) (out string) {
		b := make([]byte, 1)
		for strings.Count(out, "\n") < n {
			if _, err := io.ReadFull(r, b); err != nil {
				t.Fatal(err)
			}
			out += string(b)
		}
		return out
	}
	first := read(2)
	f.bend(func() { f.audit.entries = 4 })
	second := read(2)
	if !strings.HasPrefix(first, "1  ") || !strings.HasPrefix(second, "3  ") || !strings.Contains(second, "\n4  ") {
		t.Errorf("%q then %q", first, second)
	}
	cancel()
	if err := <-done; apitype.ExitCode(err) != apitype.ExitInterrupted {
		t.Error(err)
	}
}
