package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keymesh/api/apitype"
	"keymesh/storage"
)

func auditVerify(t *testing.T, c *cluster, i int) apitype.AuditCheck {
	t.Helper()
	got, err := c.client(i).AuditVerify(t.Context())
	if err != nil {
		t.Fatalf("verifying the log of node %d: %v", i, err)
	}
	return got
}

// auditAll returns every entry of a node's log.
func auditAll(t *testing.T, c *cluster, i int) []apitype.AuditEntry {
	t.Helper()
	var out []apitype.AuditEntry
	for since := uint64(0); ; {
		page, err := c.client(i).Audit(t.Context(), &since, apitype.MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Items) == 0 {
			return out
		}
		out, since = append(out, page.Items...), page.Next
	}
}

func ofKind(all []apitype.AuditEntry, kind string) []apitype.AuditEntry {
	return slices.DeleteFunc(slices.Clone(all), func(e apitype.AuditEntry) bool { return e.Kind != kind })
}

func copyFiles(t *testing.T, from []string, to string) {
	t.Helper()
	for _, f := range from {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) restart(t *testing.T, i int) {
	t.Helper()
	if err := c.start(i); err != nil {
		t.Fatal(err)
	}
	if err := c.waitMesh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) stop(t *testing.T, i int) {
	t.Helper()
	if err := c.signal(i, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// TestAuditLogOfAMesh: what a mesh did is in its logs, and a log that is cut,
// rewritten with the node's own keys, or exchanged for an older copy is found
// out by what the peers keep.
func TestAuditLogOfAMesh(t *testing.T) {
	c := testCluster(t, 3)
	put(t, c.client(1), "demo/db", []byte("hunter2"))
	waitAcked(t, c.client(1), "demo/db", 3)
	mustGet(t, c.client(1), "demo/db", []byte("hunter2"))
	t.Run("entries", func(t *testing.T) { testAuditEntries(t, c) })
	dir, old, full := c.nodeDir(2), t.TempDir(), t.TempDir()
	c.stop(t, 2)
	copyFiles(t, auditFiles(t, dir), old)
	c.restart(t, 2)
	for i := range 5 { // after it the older copy is well behind
		mustGet(t, c.client(1), "demo/db", []byte("hunter2"))
		if _, err := c.client(2).ExportPerson(t.Context(), apitype.PersonExport{Passphrase: apitype.Bytes(fmt.Sprintf("correct horse battery %d", i))}); err != nil {
			t.Fatal(err)
		}
	}
	before := auditVerify(t, c, 2)
	if !before.Intact || before.Asked != 2 || before.Answered != 2 || before.Witnessed == 0 || before.Witnessed > before.Last {
		t.Fatalf("%+v", before)
	}
	c.stop(t, 2)
	copyFiles(t, auditFiles(t, dir), full)
	// Of two heads of one second the lower one proves nothing: the log may have
	// grown between them.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	signed := time.Now().Unix()
	if err := poll(ctx, "the next second", func() bool { return time.Now().Unix() > signed }); err != nil {
		t.Fatal(err)
	}
	t.Run("cut without the key", func(t *testing.T) { testAuditCut(t, c, full) })
	t.Run("an older copy", func(t *testing.T) { testAuditOlder(t, c, old, before) })
	t.Run("rewritten with the key", func(t *testing.T) { testAuditRewritten(t, c, old, before) })
}

func testAuditEntries(t *testing.T, c *cluster) {
	own := auditAll(t, c, 1)
	asked, released := ofKind(own, "asked"), ofKind(own, "release")
	if len(asked) != 1 || asked[0].Name != "demo/db" || asked[0].RequestID == "" || asked[0].Person == "" {
		t.Errorf("asked: %+v", asked)
	}
	if len(released) != 1 || released[0].Request != asked[0].Request || released[0].RequestID != asked[0].RequestID || released[0].Node == "" {
		t.Errorf("released: %+v", released)
	}
	if n := len(ofKind(own, "invite")); n != 2 || len(ofKind(own, "join")) != 2 {
		t.Errorf("%d invitations, %d joins", n, len(ofKind(own, "join")))
	}
	var other []apitype.AuditEntry
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, "node 2 to note that it saw node 3", func() bool {
		other = auditAll(t, c, 2)
		return len(ofKind(other, "member")) > 0
	}); err != nil {
		t.Error(err)
	}
	for _, e := range append(ofKind(other, "release"), ofKind(other, "member")...) {
		if e.Name != "" {
			t.Errorf("node 2 tells its person the name %q", e.Name)
		}
	}
	for i, e := range own {
		if e.Position != uint64(i+1) {
			t.Fatalf("entry %d has position %d", i+1, e.Position)
		}
	}
}

// testAuditCut: such a log is not even opened, and the entry is named.
func testAuditCut(t *testing.T, c *cluster, full string) {
	dir := c.nodeDir(2)
	path := filepath.Join(dir, "audit.log")
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()-40); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = c.command(ctx, "run", "--data", dir, "--listen", c.addrs[1])
	if err == nil || !strings.Contains(err.Error(), "exit status 10") || !strings.Contains(err.Error(), "entry") {
		t.Errorf("a log that was cut: %v", err)
	}
	copyFiles(t, auditFiles(t, full), dir)
}

func replaceLog(t *testing.T, c *cluster, with string) {
	t.Helper()
	for _, f := range auditFiles(t, c.nodeDir(2)) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	copyFiles(t, auditFiles(t, with), c.nodeDir(2))
}

// convicted checks that the log of node 2 is known to be changed: to itself, and
// to its peers, and to whoever has its export.
func convicted(t *testing.T, c *cluster, says string) {
	t.Helper()
	got := auditVerify(t, c, 2)
	if got.Intact || !strings.Contains(got.Wrong, says) {
		t.Errorf("node 2 says of itself: intact %v, %q; it should say %q", got.Intact, got.Wrong, says)
	}
	if !slices.ContainsFunc(got.Peers, func(p apitype.AuditPeer) bool { return p.Contradiction == apitype.AuditOwn && len(p.Proof) == 1 }) {
		t.Errorf("no peer proves it: %+v", got.Peers)
	}
	for _, i := range []int{1, 2} {
		st, err := c.client(i).Status(t.Context())
		if err != nil || len(st.Audit.Wrong) == 0 || st.Health != apitype.Degraded ||
			!slices.ContainsFunc(st.Checks, func(k apitype.Check) bool { return k.Name == "audit" && k.Level == apitype.LevelBad }) {
			t.Errorf("the status of node %d: %v, %s, %+v", i, err, st.Health, st.Audit)
		}
	}
	peer := auditVerify(t, c, 1)
	if !peer.Intact || !slices.ContainsFunc(peer.Peers, func(p apitype.AuditPeer) bool {
		return p.Name == "node-2" && p.Contradiction == apitype.AuditTheirs && len(p.Proof) == 2
	}) {
		t.Errorf("node 1 says %+v", peer)
	}
	var export bytes.Buffer
	if _, err := c.client(2).AuditExport(t.Context(), &export); err != nil {
		t.Fatal(err)
	}
	at1, err := c.client(1).AuditVerifyExport(t.Context(), bytes.NewReader(export.Bytes()))
	if err != nil || at1.Intact {
		t.Errorf("node 1 takes the export: %+v, %v", at1, err)
	}
	if _, err := storage.VerifyExport(bytes.NewReader(export.Bytes())); err == nil {
		t.Error("the export passes without a node")
	}
	honest, out := filepath.Join(t.TempDir(), "x"), new(bytes.Buffer)
	f, err := os.Create(honest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client(3).AuditExport(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := verifyExport(honest, nil, out); err != nil || !strings.Contains(out.String(), "in order, signed") {
		t.Errorf("an honest export: %v, %s", err, out)
	}
}

func testAuditOlder(t *testing.T, c *cluster, old string, was apitype.AuditCheck) {
	replaceLog(t, c, old)
	c.restart(t, 2)
	convicted(t, c, "was signed")
	c.stop(t, 2)
}

// testAuditRewritten goes on from the older copy with other entries, by means of
// the node's own keys.
func testAuditRewritten(t *testing.T, c *cluster, old string, was apitype.AuditCheck) {
	replaceLog(t, c, old)
	id := identityOf(t, c, 2)
	a, err := storage.OpenAudit(c.nodeDir(2), (*[32]byte)(id.StorageKey), storage.AuditOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for a.End().Seq < was.Last+3 {
		if _, err := a.Append(ctx, storage.AuditEntry{Kind: "refuse", Detail: "nothing happened"}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	c.restart(t, 2)
	convicted(t, c, "is not the one that was signed")
}

// TestAuditBeforeRelease kills a holder in the middle of recoveries: every row
// that it gave away is in its log.
func TestAuditBeforeRelease(t *testing.T) {
	c := testCluster(t, 3)
	put(t, c.client(1), "a", []byte("x"))
	waitAcked(t, c.client(1), "a", 3)
	c.stop(t, 3) // now each recovery needs node 2
	given := make(chan int)
	reached := make(chan struct{})
	go func() {
		n := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			_, err := c.client(1).Recover(ctx, "a", apitype.RecoverRequest{})
			cancel()
			if err != nil {
				given <- n
				return
			}
			if n++; n == 25 {
				close(reached)
			}
		}
	}()
	<-reached
	if err := c.signal(2, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n := <-given
	c.restart(t, 2)
	if logged := len(ofKind(auditAll(t, c, 2), "release")); logged < n {
		t.Errorf("%d rows were given and %d are in the log", n, logged)
	}
	if got := auditVerify(t, c, 2); !got.Intact {
		t.Errorf("after the kill: %+v", got)
	}
}

// TestNoLogNoRelease takes from two of three holders the ability to write any
// file: they give nothing, and end.
func TestNoLogNoRelease(t *testing.T) {
	c := testCluster(t, 3)
	put(t, c.client(1), "a", []byte("x"))
	waitAcked(t, c.client(1), "a", 3)
	mustGet(t, c.client(1), "a", []byte("x"))
	before := len(ofKind(auditAll(t, c, 1), "release"))
	c.mu.Lock()
	ends := []*child{c.children[2], c.children[3]}
	c.mu.Unlock()
	for _, ch := range ends {
		if err := unix.Prlimit(ch.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.client(1).Recover(ctx, "a", apitype.RecoverRequest{}); apitype.ExitCode(err) != apitype.ExitQuorum && apitype.ExitCode(err) != apitype.ExitTimeout {
		t.Errorf("recovered although two holders cannot write their logs: %v", err)
	}
	if after := len(ofKind(auditAll(t, c, 1), "release")); after <= before {
		t.Error("the third was not asked: the test shows nothing")
	}
	for i, ch := range ends {
		select {
		case <-ch.done:
			if code := ch.cmd.ProcessState.ExitCode(); code != apitype.ExitStorage {
				t.Errorf("node %d ended with %d", i+2, code)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("node %d goes on without a log", i+2)
		}
	}
}
