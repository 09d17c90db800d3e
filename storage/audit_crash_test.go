package storage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keymesh/crypto/key"
	"keymesh/storage"
)

// auditChildEnv makes TestAuditChild the writer of a log: "JOB DIR".
const auditChildEnv = "KEYMESH_AUDIT_CHILD"

func auditChild(t *testing.T, job, dir string, wrap ...string) *exec.Cmd {
	args := append(wrap, os.Args[0], "-test.run=^TestAuditChild$")
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), auditChildEnv+"="+job+" "+dir)
	return c
}

// auditStraced is auditChild with a fault injected into its system calls.
func auditStraced(t *testing.T, job, dir, calls, inject string) *exec.Cmd {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.Command(strace, "-f", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not work here: %s", out)
	}
	return auditChild(t, job, dir, strace, "-f", "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":"+inject)
}

func auditOwner() (key.NetworkID, key.NodeID) { return key.NetworkID{7}, key.NodeID{8} }

// TestAuditChild runs in children only.
func TestAuditChild(t *testing.T) {
	job, dir, ok := strings.Cut(os.Getenv(auditChildEnv), " ")
	if !ok {
		t.Skip("for children")
	}
	jobs := map[string]func(string) error{"append": childAppend, "fail": childFail, "steps": childAuditSteps, "full": childFull}
	if err := jobs[job](dir); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func openAuditLog(dir string) (*storage.Audit, error) {
	a, err := storage.OpenAudit(dir, testKey(1), storage.AuditOptions{})
	if err == nil {
		go a.Run(context.Background())
	}
	return a, err
}

func line(n uint64) storage.AuditEntry {
	return storage.AuditEntry{Kind: "release", Detail: "entry " + strconv.FormatUint(n, 10)}
}

// childAppend appends until something fails, and says each number after it was
// acknowledged.
func childAppend(dir string) error {
	a, err := openAuditLog(dir)
	if err != nil {
		return err
	}
	h, err := a.Head()
	if err != nil {
		return err
	}
	for n := h.Seq + 1; ; n++ {
		if _, err := a.Append(context.Background(), line(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// childFail appends until a sync fails: everything must be refused from then on.
func childFail(dir string) error {
	a, err := openAuditLog(dir)
	if err != nil {
		return err
	}
	acked := uint64(0)
	for err == nil && acked < 100 {
		if _, err = a.Append(context.Background(), line(acked+1)); err == nil {
			acked++
		}
	}
	if !errors.Is(err, storage.ErrStopped) || !strings.Contains(err.Error(), "input/output error") {
		return fmt.Errorf("after %d: %v", acked, err)
	}
	for range 3 {
		if seq, err := a.Append(context.Background(), line(1)); seq != 0 || !errors.Is(err, storage.ErrStopped) {
			return fmt.Errorf("it went on: %d, %v", seq, err)
		}
	}
	if _, err := a.Head(); !errors.Is(err, storage.ErrStopped) {
		return fmt.Errorf("a head: %v", err)
	}
	fmt.Println(acked)
	return nil
}

// wantAudit opens a log that must hold the acknowledged entries and at most
// more of what was under way.
func wantAudit(t *testing.T, dir string, acked, more uint64) {
	t.Helper()
	a, err := openAuditLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	h, err := a.Head()
	if err != nil || h.Seq < acked || h.Seq > acked+more {
		t.Fatalf("%d entries of which %d were acknowledged, %v", h.Seq, acked, err)
	}
	if err := a.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	for since := uint64(0); since < h.Seq; {
		got, err := a.Tail(context.Background(), since, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range got {
			if since++; e.Seq != since || e.Detail != line(since).Detail {
				t.Fatalf("entry %d is %+v", since, e)
			}
		}
	}
	if seq, err := a.Append(context.Background(), line(h.Seq+1)); err != nil || seq != h.Seq+1 {
		t.Fatal(seq, err)
	}
}

func newAuditLog(t *testing.T, dir string) {
	t.Helper()
	net, node := auditOwner()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateAudit(dir, testKey(1), net, node); err != nil {
		t.Fatal(err)
	}
}

func said(t *testing.T, out []byte) uint64 {
	t.Helper()
	f := bytes.Fields(out)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(string(f[len(f)-1]), 10, 64)
	if err != nil {
		t.Fatalf("%s", out)
	}
	return n
}

// TestAuditSyncFailureStops fails one call and lets all later ones succeed.
func TestAuditSyncFailureStops(t *testing.T) {
	for call, when := range map[string]int{"fdatasync": 5, "pwrite64": 8} {
		dir := filepath.Join(t.TempDir(), "node")
		newAuditLog(t, dir)
		out, err := auditStraced(t, "fail", dir, call, "error=EIO:when="+strconv.Itoa(when)).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", call, err, out)
		}
		acked := said(t, out)
		if acked < 2 {
			t.Fatalf("%s: only %d acknowledged", call, acked)
		}
		wantAudit(t, dir, acked, 1)
	}
}

// childAuditSteps makes, fills and reopens a log, and says what was
// acknowledged. The second opening closes a segment before each entry.
func childAuditSteps(dir string) error {
	net, node := auditOwner()
	if err := storage.CreateAudit(dir, testKey(1), net, node); err != nil {
		return err
	}
	fmt.Println(0)
	for n := uint64(0); n < 6; {
		a, err := storage.OpenAudit(dir, testKey(1), storage.AuditRotating(200*int64(n)))
		if err != nil {
			return err
		}
		go a.Run(context.Background())
		for range 3 {
			n++
			if _, err := a.Append(context.Background(), line(n)); err != nil {
				return err
			}
			fmt.Println(n)
		}
		if _, err := a.Head(); err != nil {
			return err
		}
		if err := a.Close(); err != nil {
			return err
		}
	}
	return nil
}

// TestAuditKilledBetween kills a process at each call that changes a file, and
// opens what is left: every acknowledged entry is there.
func TestAuditKilledBetween(t *testing.T) {
	kills := 0
	for _, call := range []string{"pwrite64", "write", "fdatasync", "fsync", "renameat", "linkat", "unlinkat"} {
		for when := 1; ; when++ {
			dir := filepath.Join(t.TempDir(), "node")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c := auditStraced(t, "steps", dir, call, "signal=SIGKILL:when="+strconv.Itoa(when))
			c.Env = append(c.Env, "GOMAXPROCS=1")
			out, err := c.Output()
			if len(bytes.Fields(out)) > 0 {
				wantAudit(t, dir, said(t, out), 1)
			} else if a, err := openAuditLog(dir); err == nil {
				a.Close()
			} else if !errors.Is(err, fs.ErrNotExist) && err != nil && !errors.Is(err, storage.ErrDamaged) {
				t.Fatal(err) // it was being made
			}
			if err == nil {
				break // no thread makes that many calls
			}
			kills++
		}
	}
	t.Logf("%d kills", kills)
	if kills < 30 {
		t.Fatalf("only %d calls were hit", kills)
	}
}

// childFull appends to a file system without room.
func childFull(dir string) error {
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 20000, Max: 20000}); err != nil {
		return err
	}
	a, err := openAuditLog(dir)
	if err != nil {
		return err
	}
	for n := uint64(1); ; n++ {
		if _, err := a.Append(context.Background(), line(n)); err != nil {
			if !errors.Is(err, storage.ErrStopped) {
				return err
			}
			fmt.Println(n - 1)
			return nil
		}
	}
}

// A log without room refuses, and what it acknowledged is there later.
func TestAuditNoRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	newAuditLog(t, dir)
	out, err := auditChild(t, "full", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if acked := said(t, out); acked < 20 {
		t.Fatal(acked)
	} else {
		wantAudit(t, dir, acked, 1)
	}
}

// TestAuditPowerCut cuts the power of a disk under a writer, twice, and looks
// for all that it acknowledged.
func TestAuditPowerCut(t *testing.T) {
	d := newDisk(t)
	dir := filepath.Join(d.at, "node")
	newAuditLog(t, dir)
	for range 2 {
		c := auditChild(t, "append", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		last, count := uint64(0), 0
		for lines := bufio.NewScanner(out); lines.Scan(); count++ {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break // it reports that the log has stopped
			}
			if last = n; count == 200 {
				d.cut(t)
			}
		}
		c.Wait()
		if count < 200 {
			t.Fatalf("the writer ended after %d", last)
		}
		d.remount(t)
		wantAudit(t, dir, last, 1)
	}
}
