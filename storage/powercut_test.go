package storage_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"keymesh/storage"
)

// disk is an ext4 file system in a file, whose power can be cut.
type disk struct{ image, at string }

func newDisk(t *testing.T) *disk {
	if os.Geteuid() != 0 {
		t.Skip("only the superuser may mount a file system")
	}
	d := &disk{filepath.Join(t.TempDir(), "image"), t.TempDir()}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-F", d.image}, {"mount", "-o", "loop", d.image, d.at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s does not work here: %v, %s", c[0], err, out)
		}
	}
	t.Cleanup(func() { exec.Command("umount", d.at).Run() })
	return d
}

// cut drops all that is not on the disk, as ext4's EXT4_IOC_SHUTDOWN with
// NOLOGFLUSH does.
func (d *disk) cut(t *testing.T) {
	f, err := os.Open(d.at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(2)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		t.Skipf("this ext4 cannot be shut down: %v", errno)
	}
}

func (d *disk) remount(t *testing.T) {
	for _, c := range [][]string{{"umount", d.at}, {"mount", "-o", "loop", d.image, d.at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v, %s", c[0], err, out)
		}
	}
}

// TestPowerCut cuts the power of a disk under a writer, twice, and looks for all
// that it acknowledged.
func TestPowerCut(t *testing.T) {
	d := newDisk(t)
	dir := filepath.Join(d.at, "node")
	if err := storage.Create(dir, testKey(1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c := child(t, "write", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		last, until := -1, 100+rand.IntN(300)
		said := bufio.NewScanner(out)
		for said.Scan() {
			n, err := strconv.Atoi(said.Text())
			if err != nil {
				break // it reports that the store has stopped
			}
			if last = n; n == until {
				d.cut(t)
			}
		}
		c.Wait()
		if last < until {
			t.Fatalf("the writer ended after %d: %s", last, said.Text())
		}
		t.Logf("the power was cut after %d, the last acknowledged is %d", until, last)
		d.remount(t)
		checkKilled(t, dir, last)
	}
}
