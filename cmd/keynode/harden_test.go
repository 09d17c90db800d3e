package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const hardenChild = "KEYMESH_TEST_HARDEN_CHILD"

// TestHarden works in a child process, since nothing of it can be undone.
func TestHarden(t *testing.T) {
	if os.Getenv(hardenChild) != "" {
		t.Skip("this is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHardenInChild$", "-test.v")
	cmd.Env = append(os.Environ(), hardenChild+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestHardenInChild(t *testing.T) {
	dir := os.Getenv(hardenChild)
	if dir == "" {
		t.Skip("run by TestHarden")
	}
	unix.Umask(0)
	// What harden must change is there before: otherwise this shows nothing.
	if dumpable(t) != 1 {
		t.Fatal("this process is not dumpable to begin with")
	}
	if err := harden(); err != nil {
		t.Fatal(err)
	}
	if dumpable(t) != 0 {
		t.Error("other processes can still read this one")
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		t.Errorf("core limit %+v, %v", core, err)
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("a new file has mode %v, %v", st.Mode(), err)
	}
	if err := harden(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func dumpable(t *testing.T) int {
	t.Helper()
	n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
